//! Reads a certificate that somebody shows, or a request for one.
//!
//! Start at [`presented`] and [`requested`].
//!
//! Not here: whether a certificate may be believed; TLS has checked its signature and dates.

use base64::Engine;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

use crate::PkiError;

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
    let (name, groups) = named(certificate.subject());
    let validity = certificate.validity();
    Some(Presented {
        name,
        groups,
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}

fn named(subject: &X509Name<'_>) -> (String, Vec<String>) {
    let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    (name, groups)
}

/// What a signing request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requested {
    /// The common name.
    pub name: String,
    /// The organisations.
    pub groups: Vec<String>,
    /// DNS names to serve under.
    pub dns: Vec<String>,
    /// Addresses to serve under.
    pub addresses: Vec<IpAddr>,
    /// There are names of other sorts, such as mail addresses.
    pub others: bool,
    /// The public key it is for, as X.509 writes keys.
    pub key: Vec<u8>,
}

/// What a signing request in PEM asks for.
pub fn requested(pem: &str) -> Result<Requested, PkiError> {
    let wrong = |detail: &str| PkiError::Request { detail: detail.to_owned() };
    if !pem.trim_start().starts_with("-----BEGIN CERTIFICATE REQUEST-----") {
        return Err(wrong("PEM block type must be CERTIFICATE REQUEST"));
    }
    let der = der_of_pem(pem).ok_or_else(|| wrong("the PEM block is not whole"))?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|error| wrong(&error.to_string()))?;
    let (name, groups) = named(&request.certification_request_info.subject);
    let key = request.certification_request_info.subject_pki.raw.to_vec();
    let mut asked = Requested { name, groups, key, ..Requested::default() };
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            names.general_names.iter().for_each(|name| asked.add(name));
        }
    }
    Ok(asked)
}

impl Requested {
    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                (Ok(four), _) => self.addresses.push(Ipv4Addr::from(four).into()),
                (_, Ok(six)) => self.addresses.push(Ipv6Addr::from(six).into()),
                _ => self.others = true,
            },
            _ => self.others = true,
        }
    }
}

/// The bytes inside the first PEM block of a text.
pub fn der_of_pem(pem: &str) -> Option<Vec<u8>> {
    let begin = pem.find("-----BEGIN ")?;
    let body = pem[begin..].split_once("-----\n")?.1;
    let body: String = body.split_once("-----END ")?.0.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SigningRequest, Subject};

    #[test]
    fn a_request_says_what_it_asks_for() {
        let subject = Subject {
            name: "system:node:one".into(),
            group: Some("system:nodes".into()),
            dns: vec!["one".into()],
            addresses: vec!["10.0.0.1".parse().expect("an address"), "fd00::1".parse().expect("an address")],
        };
        let pem = SigningRequest::make(&subject).expect("a request").request_pem;
        let asked = requested(&pem).expect("it reads");
        assert_eq!(
            (asked.name.as_str(), asked.groups.as_slice()),
            ("system:node:one", &["system:nodes".to_owned()][..])
        );
        assert_eq!((asked.dns, asked.addresses, asked.others), (subject.dns, subject.addresses, false));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for wrong in [
            "",
            "nonsense",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        ] {
            assert!(requested(wrong).is_err(), "{wrong}");
        }
    }
}
