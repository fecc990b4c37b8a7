//! One client: one connection to one server.
//!
//! Start at [`Connection::open`].

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kubeconfig::{Access, KubeconfigError};

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The kubeconfig cannot be used.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// The server cannot be reached.
    #[error("failed to connect to {server}: {detail}")]
    Connect {
        /// The server.
        server: String,
        /// Why not.
        detail: String,
    },
    /// The server went away in the middle.
    #[error("failed to do {what}: {detail}")]
    Broken {
        /// The request.
        what: String,
        /// Why not.
        detail: String,
    },
    /// The answer is not what it should be.
    #[error("{what} answered {status}: {body}")]
    Answer {
        /// The request.
        what: String,
        /// The status.
        status: StatusCode,
        /// The beginning of the body.
        body: String,
    },
}

/// A client's connection.
#[derive(Clone)]
pub struct Connection {
    send: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Connection {
    /// Connects.
    pub async fn open(access: &Access) -> Result<Connection, BenchError> {
        let failed = |detail: String| BenchError::Connect { server: access.authority.clone(), detail };
        let config = tls(access).map_err(&failed)?;
        let tcp = TcpStream::connect(&access.authority).await.map_err(|error| failed(error.to_string()))?;
        tcp.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        let host = access.authority.rsplit_once(':').map_or(access.authority.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(error.to_string()))?;
        let stream =
            TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| failed(error.to_string()))?;
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (send, connection) = shaken.map_err(|error| failed(error.to_string()))?;
        tokio::spawn(connection); // Ends when the last sender is dropped; its error reaches whoever asks next.
        Ok(Connection { send, authority: access.authority.clone() })
    }

    /// Does one request and reads the whole answer; anything but a success is an error.
    pub async fn call(&mut self, method: Method, path: &str, content: &str, body: Bytes) -> Result<Bytes, BenchError> {
        let what = format!("{method} {path}");
        let broken = |detail: String| BenchError::Broken { what: what.clone(), detail };
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header("accept", "application/json")
            .header("content-type", content)
            .body(Full::new(body))
            .map_err(|error| broken(error.to_string()))?;
        self.send.ready().await.map_err(|error| broken(error.to_string()))?;
        let answer = self.send.send_request(request).await.map_err(|error| broken(error.to_string()))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| broken(error.to_string()))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let body = String::from_utf8_lossy(&body).chars().take(300).collect();
        Err(BenchError::Answer { what, status, body })
    }
}

fn tls(access: &Access) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&access.ca) {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&access.certificate).collect();
    let key = PrivateKeyDer::from_pem_slice(&access.key).map_err(|error| error.to_string())?;
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
