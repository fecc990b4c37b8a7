//! The time of a server, asked by a machine whose clock is wrong.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base::{ManualClock, Timestamp, chain};
use bytes::Bytes;
use client::{DoorError, Kubeconfig, told};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::{Authority, Pair, Purpose, Subject};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

const DAY: i64 = 86_400;
/// What the asker's clock says.
const NOW: i64 = 1_790_000_000;

/// A server of an authority made at `NOW`, with a certificate made so many days later, whose clock says so many days.
struct Server {
    certified: i64,
    clock: i64,
}

impl Server {
    /// What it says, in days, to somebody who trusts `trusted` or else its own authority.
    async fn ask(&self, trusted: Option<&Authority>) -> Result<i64, DoorError> {
        let authority = authority();
        let subject = Subject { name: "server".into(), dns: vec!["localhost".into()], ..Subject::default() };
        let made = Timestamp::from_seconds(NOW + self.certified * DAY);
        let pair = authority.issue(&subject, &[Purpose::Server], pki::CERTIFICATE_LIFE, made).expect("a certificate");
        let address = serve(&pair, NOW + self.clock * DAY).await;
        let ca_pem = trusted.unwrap_or(&authority).certificate_pem().to_owned();
        let config = Kubeconfig { server: format!("https://localhost:{address}"), ca_pem, ..Kubeconfig::default() };
        let clock = ManualClock::at(Timestamp::from_seconds(NOW));
        let behind = told::time(&config, &clock).await?;
        Ok((behind / 1_000_000_000) as i64 / DAY)
    }
}

fn authority() -> Authority {
    let pair = Authority::make("test", Timestamp::from_seconds(NOW)).expect("an authority");
    Authority::load(&pair).expect("it loads")
}

/// Answers one connection; the port.
async fn serve(pair: &Pair, now: i64) -> u16 {
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .expect("a configuration");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let date = httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(now as u64));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("somebody asks");
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let service = hyper::service::service_fn(move |_: Request<Incoming>| {
            let response = Response::builder().header("date", &date).body(Full::<Bytes>::default());
            async move { Ok::<_, Infallible>(response.expect("a response")) }
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    });
    port
}

#[track_caller]
fn refused(answer: Result<i64, DoorError>, why: &str) {
    let error = answer.expect_err("it is not believed");
    assert!(chain(&error).to_string().contains(why), "{}", chain(&error));
}

#[tokio::test]
async fn a_server_of_the_future_tells_the_time() {
    assert_eq!(Server { certified: 90, clock: 120 }.ask(None).await.expect("believed"), 120);
    assert_eq!(Server { certified: 0, clock: 0 }.ask(None).await.expect("believed"), 0);
}

#[tokio::test]
async fn a_time_at_which_its_certificate_is_not_good_is_refused() {
    refused(Server { certified: 90, clock: 88 }.ask(None).await, "when its own certificate is not good");
    refused(Server { certified: 90, clock: 90 + 366 }.ask(None).await, "when its own certificate is not good");
}

#[tokio::test]
async fn who_is_not_of_the_cluster_or_is_long_over_is_not_asked() {
    refused(Server { certified: 90, clock: 120 }.ask(Some(&authority())).await, "invalid peer certificate");
    refused(Server { certified: -400, clock: -300 }.ask(None).await, "expired");
}
