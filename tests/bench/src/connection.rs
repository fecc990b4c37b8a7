//! One client: one connection to one server.
//!
//! Start at [`Connection::open`].
//!
//! Not here: recovery (`client::reflector`): a connection that breaks breaks the measurement.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use client::Kubeconfig;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::BenchError;

/// JSON.
pub const JSON: &str = "application/json";
/// So much of a refusal is shown.
const SHOWN_MAX: usize = 300;

/// A client's connection.
#[derive(Clone)]
pub struct Connection {
    send: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Connection {
    /// Connects.
    pub async fn open(config: &Kubeconfig) -> Result<Connection, BenchError> {
        let failed = |detail: String| BenchError::Connect { server: config.server.clone(), detail };
        let authority = config.server.strip_prefix("https://").ok_or_else(|| failed("it is not https".to_owned()))?;
        let tls = tls(config).map_err(&failed)?;
        let tcp = TcpStream::connect(authority).await.map_err(|error| failed(error.to_string()))?;
        tcp.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(error.to_string()))?;
        let connector = TlsConnector::from(Arc::new(tls));
        let stream = connector.connect(name, tcp).await.map_err(|error| failed(error.to_string()))?;
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (send, connection) = shaken.map_err(|error| failed(error.to_string()))?;
        tokio::spawn(connection); // Ends when the last sender is dropped; its error reaches whoever asks next.
        Ok(Connection { send, authority: authority.to_owned() })
    }

    /// Does one request and reads the whole answer; anything but a success is an error.
    pub async fn call(&mut self, method: Method, path: &str, content: &str, body: Bytes) -> Result<Bytes, BenchError> {
        let what = format!("{method} {path}");
        let answer = self.send(method, path, content, body).await?;
        let status = answer.status();
        let collected = answer.into_body().collect().await;
        let body = collected.map_err(|error| BenchError::Broken { what: what.clone(), detail: error.to_string() })?;
        accepted(what, status, body.to_bytes())
    }

    /// Asks for something.
    pub async fn get(&mut self, path: &str) -> Result<Bytes, BenchError> {
        self.call(Method::GET, path, JSON, Bytes::new()).await
    }

    /// Creates something.
    pub async fn post(&mut self, path: &str, object: &serde_json::Value) -> Result<Bytes, BenchError> {
        self.call(Method::POST, path, JSON, object.to_string().into()).await
    }

    /// Begins to watch.
    pub async fn watch(&mut self, path: &str) -> Result<Lines, BenchError> {
        let answer = self.send(Method::GET, path, JSON, Bytes::new()).await?;
        let what = format!("the watch of {path}");
        if answer.status().is_success() {
            return Ok(Lines { what, body: answer.into_body(), rest: BytesMut::new() });
        }
        accepted(what, answer.status(), Bytes::new())?;
        unreachable!("a status that is no success is an error")
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        content: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, BenchError> {
        let what = format!("{method} {path}");
        let broken = |detail: String| BenchError::Broken { what: what.clone(), detail };
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header("accept", JSON)
            .header("content-type", content)
            .body(Full::new(body))
            .map_err(|error| broken(error.to_string()))?;
        self.send.ready().await.map_err(|error| broken(error.to_string()))?;
        self.send.send_request(request).await.map_err(|error| broken(error.to_string()))
    }
}

/// The lines of a watch.
pub struct Lines {
    what: String,
    body: Incoming,
    rest: BytesMut,
}

impl Lines {
    /// The next line; the end of the watch is an error.
    pub async fn next(&mut self) -> Result<Bytes, BenchError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                return Ok(self.rest.split_to(end + 1).freeze());
            }
            let broken = |detail: String| BenchError::Broken { what: self.what.clone(), detail };
            let frame = self.body.frame().await.ok_or_else(|| broken("it ended".to_owned()))?;
            let data = frame.map_err(|error| broken(error.to_string()))?.into_data().unwrap_or_default();
            self.rest.extend_from_slice(&data);
        }
    }

    /// Waits for an event whose object is as wanted, and gives the object.
    pub async fn until(
        &mut self,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<serde_json::Value, BenchError> {
        loop {
            let line = self.next().await?;
            let broken =
                |error: serde_json::Error| BenchError::Broken { what: self.what.clone(), detail: error.to_string() };
            let mut event: serde_json::Value = serde_json::from_slice(&line).map_err(broken)?;
            if wanted(&event["object"]) {
                return Ok(event["object"].take());
            }
        }
    }
}

fn accepted(what: String, status: StatusCode, body: Bytes) -> Result<Bytes, BenchError> {
    if status.is_success() {
        return Ok(body);
    }
    let body = String::from_utf8_lossy(&body).chars().take(SHOWN_MAX).collect();
    Err(BenchError::Answer { what, status, body })
}

fn tls(config: &Kubeconfig) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(config.ca_pem.as_bytes()) {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    let (chain, key) = config.client.as_ref().ok_or("its user has no client certificate")?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.map_err(|error| error.to_string())?, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
