//! A certificate authority: its key, and the certificates it issues.
//!
//! Start at [`Authority::issue`].
//!
//! Not here: where keys lie (`files.rs`).

use std::net::IpAddr;
use std::time::Duration;

use base::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::OffsetDateTime;

use crate::PkiError;

/// How long before its making a certificate begins.
pub const BACKDATE: Duration = Duration::from_secs(3600);
/// How long a certificate lasts where nobody says otherwise; renewed when a third is left.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// How long an authority lasts.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A certificate and its key, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key, PKCS#8.
    pub key_pem: String,
}

/// What somebody sends an authority to get a certificate, and the key it will be for. Both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningRequest {
    /// The request.
    pub request_pem: String,
    /// The private key, PKCS#8; it stays where it was made.
    pub key_pem: String,
}

impl SigningRequest {
    /// Makes a key, and asks for a certificate for it.
    pub fn make(subject: &Subject) -> Result<SigningRequest, PkiError> {
        SigningRequest::with_key(&new_key(&subject.name)?, subject)
    }

    /// Asks for a certificate for a key there is, PKCS#8 in PEM.
    pub fn of_key(key_pem: &str, subject: &Subject) -> Result<SigningRequest, PkiError> {
        SigningRequest::with_key(&key_of(key_pem, &subject.name)?, subject)
    }

    fn with_key(key: &KeyPair, subject: &Subject) -> Result<SigningRequest, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(&subject.name, subject.group.as_deref());
        params.subject_alt_names = names_of(subject)?;
        let request = params.serialize_request(key).and_then(|request| request.pem());
        let request_pem = request.map_err(|source| failed(&subject.name, source))?;
        Ok(SigningRequest { request_pem, key_pem: key.serialize_pem() })
    }
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To serve TLS.
    Server,
    /// To be recognised as a client.
    Client,
}

/// Whom a certificate names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The common name: a client's user name.
    pub name: String,
    /// The organisation: a client's group.
    pub group: Option<String>,
    /// DNS names it serves under.
    pub dns: Vec<String>,
    /// Addresses it serves under.
    pub addresses: Vec<IpAddr>,
}

/// A certificate authority.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority of that name.
    pub fn make(name: &str, now: Timestamp) -> Result<Pair, PkiError> {
        let key = new_key(name)?;
        let mut params = dated(now, AUTHORITY_LIFE);
        params.distinguished_name = distinguished(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(|source| failed(name, source))?;
        Ok(Pair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Takes up an authority that was made before.
    pub fn load(pair: &Pair) -> Result<Authority, PkiError> {
        let key = key_of(&pair.key_pem, "the certificate authority")?;
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate_pem, key)
            .map_err(|source| failed("the certificate authority", source))?;
        Ok(Authority { certificate_pem: pair.certificate_pem.clone(), issuer })
    }

    /// Its own certificate, in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues a certificate with a new key.
    pub fn issue(
        &self,
        subject: &Subject,
        purposes: &[Purpose],
        life: Duration,
        now: Timestamp,
    ) -> Result<Pair, PkiError> {
        let key = new_key(&subject.name)?;
        let params = params_of(subject, purposes, life, now)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|source| failed(&subject.name, source))?;
        Ok(Pair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Signs somebody's request. Subject and names are the request's own; what it is for and how long it lasts are ours.
    pub fn sign_request(
        &self,
        request_pem: &str,
        purposes: &[Purpose],
        life: Duration,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(|error| PkiError::Request { detail: error.to_string() })?;
        let dates = dated(now, life);
        request.params.not_before = dates.not_before;
        request.params.not_after = dates.not_after;
        request.params.is_ca = IsCa::ExplicitNoCa;
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        request.params.extended_key_usages = purposes.iter().map(|purpose| usage_of(*purpose)).collect();
        request.params.use_authority_key_identifier_extension = true;
        let certificate = request.signed_by(&self.issuer).map_err(|source| failed("a signing request", source))?;
        Ok(certificate.pem())
    }
}

fn params_of(
    subject: &Subject,
    purposes: &[Purpose],
    life: Duration,
    now: Timestamp,
) -> Result<CertificateParams, PkiError> {
    let mut params = dated(now, life);
    params.distinguished_name = distinguished(&subject.name, subject.group.as_deref());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = purposes.iter().map(|purpose| usage_of(*purpose)).collect();
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = names_of(subject)?;
    Ok(params)
}

fn names_of(subject: &Subject) -> Result<Vec<SanType>, PkiError> {
    let mut names = Vec::new();
    for name in &subject.dns {
        names.push(SanType::DnsName(name.as_str().try_into().map_err(|source| failed(name, source))?));
    }
    names.extend(subject.addresses.iter().map(|address| SanType::IpAddress(*address)));
    Ok(names)
}

fn usage_of(purpose: Purpose) -> ExtendedKeyUsagePurpose {
    match purpose {
        Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }
}

fn distinguished(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    if let Some(group) = group {
        distinguished.push(DnType::OrganizationName, group);
    }
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn dated(now: Timestamp, life: Duration) -> CertificateParams {
    let at = |seconds: i64| {
        // Out of range only for clocks outside the years 0 to 9999, which X.509 cannot write either.
        OffsetDateTime::from_unix_timestamp(seconds.max(0)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    };
    let begin = now.seconds() - BACKDATE.as_secs() as i64;
    let mut params = CertificateParams::default();
    params.not_before = at(begin);
    params.not_after = at(now.seconds() + life.as_secs() as i64);
    params
}

/// Makes a private key: PKCS#8 in PEM.
pub fn make_key(whose: &str) -> Result<String, PkiError> {
    new_key(whose).map(|key| key.serialize_pem())
}

pub(crate) fn new_key(whose: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|error| PkiError::Key { whose: whose.to_owned(), detail: error.to_string() })
}

pub(crate) fn key_of(pem: &str, whose: &str) -> Result<KeyPair, PkiError> {
    KeyPair::from_pem(pem).map_err(|error| PkiError::Key { whose: whose.to_owned(), detail: error.to_string() })
}

fn failed(subject: &str, source: rcgen::Error) -> PkiError {
    PkiError::Certificate { subject: subject.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{der_of_pem, presented};

    const NOW: Timestamp = Timestamp::from_seconds(1_790_000_000);

    fn authority() -> Authority {
        Authority::load(&Authority::make("test", NOW).expect("an authority")).expect("it loads")
    }

    #[test]
    fn a_client_is_recognised_by_name_and_group() {
        let subject = Subject { name: "alice".into(), group: Some("system:masters".into()), ..Subject::default() };
        let pair = authority().issue(&subject, &[Purpose::Client], CERTIFICATE_LIFE, NOW).expect("a certificate");
        let seen = presented(&der_of_pem(&pair.certificate_pem).expect("PEM")).expect("a certificate");
        assert_eq!((seen.name.as_str(), seen.groups.as_slice()), ("alice", &["system:masters".to_owned()][..]));
        assert_eq!(seen.not_before, NOW.seconds() - 3600);
        assert_eq!(seen.not_after, NOW.seconds() + 365 * 86_400);
    }

    #[test]
    fn a_request_keeps_its_subject_and_gets_our_dates() {
        let key = new_key("node").expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished("system:node:one", Some("system:nodes"));
        let request = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        let life = Duration::from_secs(600);
        let pem = authority().sign_request(&request, &[Purpose::Client], life, NOW).expect("a certificate");
        let seen = presented(&der_of_pem(&pem).expect("PEM")).expect("a certificate");
        assert_eq!((seen.name.as_str(), seen.not_after), ("system:node:one", NOW.seconds() + 600));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let error = authority().sign_request("nonsense", &[], BACKDATE, NOW).expect_err("no request");
        assert!(error.to_string().starts_with("failed to read the certificate signing request"), "{error}");
    }
}
