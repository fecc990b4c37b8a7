//! The way to other servers: a request passed on, and after an upgrade every byte in both directions.
//!
//! Start at [`Tunnels::pass`]. SPDY and WebSocket are alike here: whoever is behind us speaks them with the client.
//!
//! Invariants:
//! * a kubelet is believed only with a certificate of the cluster's CA for the address we dialled;
//! * the client's own credentials are never passed on.

use std::sync::Arc;
use std::time::Duration;

use base::chain;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::run::{Tls, identity, roots};
use crate::serve::Served;
use crate::{Failure, Proxied, Security};

/// The other server has so long to take the connection.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// The other server has so long to begin its answer.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Headers of one connection, which are not passed on.
const OF_CONNECTION: [header::HeaderName; 6] = [
    header::AUTHORIZATION,
    header::HOST,
    header::TE,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::PROXY_AUTHORIZATION,
];

/// What is needed to reach others.
pub(crate) struct Tunnels {
    kubelet: TlsConnector,
    unverified: TlsConnector,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Tunnels {
    /// Shows kubelets the certificate made for that.
    pub(crate) fn new(tls: &Tls) -> Result<Tunnels, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = || {
            ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())
        };
        let (chain, key) = identity(&tls.kubelet_client)?;
        let kubelet = builder()?
            .with_root_certificates(roots(&tls.client_ca_pem)?)
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("the kubelet client certificate is not usable: {error}"))?;
        // Pods show what they like, and upstream's proxy does not ask either.
        let unverified = builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(client::Anybody(provider.clone())))
            .with_no_client_auth();
        Ok(Tunnels {
            kubelet: TlsConnector::from(Arc::new(kubelet)),
            unverified: TlsConnector::from(Arc::new(unverified)),
        })
    }

    /// Lets the other server answer.
    pub(crate) async fn pass(
        &self,
        target: &Proxied,
        request: http::Request<Bytes>,
        upgrade: Option<OnUpgrade>,
    ) -> Result<http::Response<Served>, Failure> {
        let failed = |error: String| {
            Failure::internal(format!("error dialing backend: failed to reach {}: {error}", target.address))
        };
        let stream = match timeout(CONNECT_TIME, self.connect(target)).await {
            Ok(stream) => stream.map_err(failed)?,
            Err(_) => return Err(failed("it took too long".to_owned())),
        };
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(chain(&error).to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!("a proxied connection ended: {error}");
            }
        });
        let sent = sender.send_request(forward(target, request).map_err(failed)?);
        let mut response = match timeout(ANSWER_TIME, sent).await {
            Ok(response) => response.map_err(|error| failed(chain(&error).to_string()))?,
            Err(_) => return Err(failed("it did not answer in time".to_owned())),
        };
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (response.status(), upgrade) {
            tokio::spawn(carry(client, hyper::upgrade::on(&mut response)));
            let (mut parts, _) = response.into_parts();
            parts.extensions = http::Extensions::default();
            return Ok(http::Response::from_parts(parts, Served::Whole(None)));
        }
        let (mut parts, body) = response.into_parts();
        for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
            parts.headers.remove(name);
        }
        parts.version = http::Version::default();
        parts.extensions = http::Extensions::default();
        Ok(http::Response::from_parts(parts, Served::Incoming(body)))
    }

    async fn connect(&self, target: &Proxied) -> Result<Box<dyn Stream>, String> {
        let socket = TcpStream::connect(&target.address).await.map_err(|error| error.to_string())?;
        // Keystrokes of an `exec` must not wait for each other; a socket that refuses is only slower.
        let _ = socket.set_nodelay(true);
        let connector = match target.security {
            Security::Plain => return Ok(Box::new(socket)),
            Security::Kubelet => &self.kubelet,
            Security::Unverified => &self.unverified,
        };
        let host = target.address.rsplit_once(':').map_or(target.address.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| error.to_string())?;
        let stream = connector.connect(name, socket).await.map_err(|error| error.to_string())?;
        Ok(Box::new(stream))
    }
}

fn forward(target: &Proxied, request: http::Request<Bytes>) -> Result<http::Request<Full<Bytes>>, String> {
    let (parts, body) = request.into_parts();
    let mut headers: HeaderMap = parts.headers;
    for name in OF_CONNECTION {
        headers.remove(name);
    }
    if !headers.contains_key(header::UPGRADE) {
        headers.remove(header::CONNECTION);
    }
    let host = HeaderValue::from_str(&target.address).map_err(|error| error.to_string())?;
    headers.insert(header::HOST, host);
    let mut forwarded = http::Request::builder()
        .method(parts.method)
        .uri(&target.path)
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    *forwarded.headers_mut() = headers;
    Ok(forwarded)
}

/// Carries bytes in both directions until both sides are done.
async fn carry(client: OnUpgrade, server: OnUpgrade) {
    let (client, server) = match futures::future::try_join(client, server).await {
        Ok(both) => both,
        Err(error) => return tracing::debug!("an upgrade failed: {error}"),
    };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
        tracing::debug!("a tunnel ended: {error}");
    }
}
