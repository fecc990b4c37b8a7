//! Reads a certificate that somebody shows.
//!
//! Start at [`presented`].
//!
//! Not here: whether it may be believed; TLS has checked its signature and dates.

use base64::Engine;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// The common name.
    pub name: String,
    /// The organisations.
    pub groups: Vec<String>,
    /// When it begins, in seconds since 1970.
    pub not_before: i64,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
}

/// What a certificate says; `None` for bytes that are no certificate.
pub fn presented(der: &[u8]) -> Option<Presented> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    let validity = certificate.validity();
    Some(Presented {
        name,
        groups,
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}

/// The bytes inside the first PEM block of a text.
pub fn der_of_pem(pem: &str) -> Option<Vec<u8>> {
    let begin = pem.find("-----BEGIN ")?;
    let body = pem[begin..].split_once("-----\n")?.1;
    let body: String = body.split_once("-----END ")?.0.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(body).ok()
}
