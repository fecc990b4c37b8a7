//! The time as the API server says it, for a machine that does not know better.
//!
//! Start at [`time`]. A board without a clock that was off for months takes the server's certificate for one of the future, so
//! that it could not ask by the usual door.
//!
//! Invariants:
//! * who answers has a certificate of the cluster's authority for the server's name, which has not run out by our own clock; that
//!   it has not begun yet is the one thing that is forgiven;
//! * a time at which that certificate is not good is refused: whoever has got hold of a server's key moves clocks to no other.
//!
//! Not here: what becomes of the clock (the caller's).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Clock, Timestamp};
use http::header::DATE;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::timeout;

use crate::https::date;
use crate::{DoorError, Kubeconfig};

/// An answer that takes longer tells too little of the time.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The header is cut to whole seconds.
const HALF_A_SECOND: i128 = 500_000_000;

/// By how many nanoseconds the clock is behind the server's; to within a second or so.
pub async fn time(config: &Kubeconfig, clock: &dyn Clock) -> Result<i128, DoorError> {
    let lenient = Arc::new(Lenient::new(config, clock.now())?);
    let asked = clock.now();
    let answer = timeout(ANSWER_TIME, date(config, lenient.clone())).await;
    let slow = || DoorError::Unreachable {
        server: config.server.clone(),
        source: format!("no answer within {ANSWER_TIME:?}").into(),
    };
    let text = answer.map_err(|_| slow())??;
    let came = clock.now();
    let told = httpdate::parse_http_date(&text).ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let told = told.ok_or_else(|| malformed(format!("{DATE} is {text:?}")))?.as_secs() as i64;
    let (begin, end) = lenient.seen().ok_or_else(|| malformed("it showed no certificate".to_owned()))?;
    if told < begin || told > end {
        let detail = format!("it says that it is {text}, when its own certificate is not good");
        return Err(malformed(detail));
    }
    Ok(Timestamp::from_seconds(told).0 + HALF_A_SECOND - (asked.0 + came.0) / 2)
}

fn malformed(detail: String) -> DoorError {
    DoorError::Malformed { what: "the question for the time".to_owned(), detail }
}

/// Believes what the authority signed, from the future too.
#[derive(Debug)]
struct Lenient {
    strict: Arc<WebPkiServerVerifier>,
    now: Timestamp,
    /// From when to when the certificate is good that was shown.
    seen: Mutex<Option<(i64, i64)>>,
}

impl Lenient {
    fn new(config: &Kubeconfig, now: Timestamp) -> Result<Lenient, DoorError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(config.ca_pem.as_bytes()) {
            let certificate = certificate.map_err(|error| malformed(error.to_string()))?;
            roots.add(certificate).map_err(|error| malformed(error.to_string()))?;
        }
        let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
        let strict = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let strict = strict.map_err(|error| malformed(error.to_string()))?;
        Ok(Lenient { strict, now, seen: Mutex::new(None) })
    }

    fn seen(&self) -> Option<(i64, i64)> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = std::iter::once(end_entity).chain(intermediates);
        let shown: Vec<_> = all.filter_map(|each| pki::presented(each)).collect();
        let begin = shown.iter().map(|each| each.not_before).max().unwrap_or_default();
        let end = shown.iter().map(|each| each.not_after).min().unwrap_or_default();
        let judged_at = begin.max(self.now.seconds());
        let judged_at = UnixTime::since_unix_epoch(Duration::from_secs(judged_at.max(0) as u64));
        let verified =
            self.strict.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, judged_at)?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some((begin, end));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}
