//! The little of HTTP that pulling needs: GET and POST, over TLS or not, with redirects.
//!
//! Start at [`Http::get`]. One connection a request: a pull makes a dozen, and a kept connection can die at any of them.
//!
//! Invariants:
//! * credentials are not sent on to another host by a redirect, nor from https to http;
//! * nothing waits longer than [`IDLE_LIMIT`] for the next byte.

use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::OciError;

/// A connection is made within this.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// The next byte comes within this.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Registries send one on to a store, stores to a mirror.
const REDIRECTS_MAX: usize = 6;

/// Where distributions keep the certificates they trust.
const TRUSTED: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Makes requests.
#[derive(Clone, Default)]
pub(crate) struct Http {
    tls: Arc<OnceLock<Arc<ClientConfig>>>,
}

pub(crate) type Cause = Box<dyn Error + Send + Sync>;

pub(crate) fn network(action: impl Into<String>, source: impl Into<Cause>) -> OciError {
    OciError::Network { action: action.into(), source: source.into() }
}

impl Http {
    /// Asks for `url` and follows redirects.
    pub(crate) async fn get(&self, url: &str, headers: &HeaderMap) -> Result<Response<Incoming>, OciError> {
        self.request(Method::GET, url, headers, Bytes::new()).await
    }

    /// Sends a request and follows redirects.
    pub(crate) async fn request(
        &self,
        method: Method,
        url: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, OciError> {
        let mut uri: Uri =
            url.parse().map_err(|error| network(format!("read the address {url}"), Cause::from(error)))?;
        let mut headers = headers.clone();
        for _ in 0..REDIRECTS_MAX {
            let response = self
                .once(&method, &uri, &headers, body.clone())
                .await
                .map_err(|source| network(format!("reach {}", place(&uri)), source))?;
            let target = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
            let Some(target) = target.and_then(|target| target.to_str().ok()) else { return Ok(response) };
            let next = follow(&uri, target)?;
            if next.authority() != uri.authority() || next.scheme() != uri.scheme() {
                headers.remove(AUTHORIZATION);
            }
            uri = next;
        }
        Err(network(format!("fetch {url}"), format!("it was redirected {REDIRECTS_MAX} times")))
    }

    async fn once(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Cause> {
        let host = uri.host().ok_or("the address names no host")?;
        let is_tls = uri.scheme_str() != Some("http");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let connecting = timeout(CONNECT_LIMIT, TcpStream::connect((bare, port)));
        let stream = connecting.await.map_err(|_| format!("no connection within {CONNECT_LIMIT:?}"))??;
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or(host);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder().method(method).uri(path).body(Full::new(body))?;
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(HOST, authority.parse()?);
        request.headers_mut().insert(USER_AGENT, http::HeaderValue::from_static("skerry"));
        let answering = async {
            if is_tls {
                let connector = tokio_rustls::TlsConnector::from(self.tls()?);
                let name = ServerName::try_from(bare.to_owned())?;
                send(connector.connect(name, stream).await?, request).await
            } else {
                send(stream, request).await
            }
        };
        timeout(IDLE_LIMIT, answering).await.map_err(|_| format!("no answer within {IDLE_LIMIT:?}"))?
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, Cause> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        for path in TRUSTED {
            let Ok(certificates) = CertificateDer::pem_file_iter(path) else { continue };
            roots.add_parsable_certificates(certificates.flatten());
            break;
        }
        if roots.is_empty() {
            return Err(format!("no trusted certificates found, looked at {}", TRUSTED.join(", ")).into());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }
}

/// Sends a request on a connection of its own.
pub(crate) async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Cause>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the response's body.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// An address without what may be secret in it.
fn place(uri: &Uri) -> String {
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", uri.scheme_str().unwrap_or("https"), uri.host().unwrap_or("?"), uri.path())
}

/// The address a redirect leads to.
fn follow(from: &Uri, target: &str) -> Result<Uri, OciError> {
    let whole = if target.starts_with("http://") || target.starts_with("https://") {
        target.to_owned()
    } else {
        let authority = from.authority().map(|authority| authority.as_str()).unwrap_or_default();
        format!("{}://{authority}/{}", from.scheme_str().unwrap_or("https"), target.trim_start_matches('/'))
    };
    whole.parse().map_err(|error| network(format!("follow the redirect to {target}"), Cause::from(error)))
}

/// A whole body, if it is no longer than `bytes_max`.
pub(crate) async fn read_body(body: Incoming, bytes_max: usize) -> Result<Bytes, Cause> {
    let limited = http_body_util::Limited::new(body, bytes_max);
    let collected = timeout(IDLE_LIMIT, limited.collect()).await;
    Ok(collected.map_err(|_| format!("not all of it came within {IDLE_LIMIT:?}"))??.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_its_port_and_no_secret() {
        let place_of = |text: &str| place(&text.parse().expect("an address"));
        assert_eq!(place_of("http://user:word@127.0.0.1:5000/v2/x?token=y"), "http://127.0.0.1:5000/v2/x");
        assert_eq!(place_of("https://ghcr.io/v2/"), "https://ghcr.io/v2/");
    }

    #[test]
    fn redirects_may_be_relative() {
        let from: Uri = "http://a:5000/v2/x".parse().expect("an address");
        for (target, expected) in [("/y?z", "http://a:5000/y?z"), ("https://b/c", "https://b/c")] {
            assert_eq!(follow(&from, target).expect("an address").to_string(), expected);
        }
    }
}
