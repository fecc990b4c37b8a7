//! The door of other machines: HTTPS with the cluster's own trust, one connection for everything.
//!
//! Start at [`open`]; [`renewable`] is the same for who gets a new certificate now and then.
//!
//! Invariants:
//! * only the certificates of the kubeconfig are trusted, never the machine's ([`open_unverified`] says what it does);
//! * calls, lists and watches share one HTTP/2 connection; when it breaks, the next of them makes a new one;
//! * a body is never larger than [`BODY_MAX`], a line of a watch neither.
//!
//! Not here: what to do when it breaks (`reflector.rs`).

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::WantsClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Kubeconfig;
use crate::{Call, Collection, Door, DoorError, Event, EventKind, Item, Listing, Reply};

/// The largest answer that is read: a list of everything on a large cluster.
pub const BODY_MAX: usize = 256 << 20;
/// How often a quiet connection is probed, and how long an answer may take, so that a server whose power went is noticed
/// before it takes the node for dead.
const PING: Duration = Duration::from_secs(8);
/// A server that takes longer to be connected to is not there.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// A door to the server that a kubeconfig names. It connects when it is first used, inside a tokio runtime.
pub fn open(config: &Kubeconfig) -> Result<Arc<dyn Door>, DoorError> {
    Ok(renewable(config)?)
}

/// Reads what lies at a path of the server that a kubeconfig names, as it comes: for what is too large for a [`Reply`]. It has a
/// connection of its own.
pub async fn download(
    config: &Kubeconfig,
    path: &str,
) -> Result<BoxStream<'static, Result<Bytes, DoorError>>, DoorError> {
    let server = Arc::new(Server::new(config)?);
    let response = server.send(get(path.to_owned())).await?;
    let status = response.status().as_u16();
    if status >= 400 {
        let body = Limited::new(response.into_body(), 1 << 20).collect().await;
        return Err(refused(path, status, &body.map(|body| body.to_bytes()).unwrap_or_default()));
    }
    let frames = stream::try_unfold((server, response.into_body()), |(server, mut body)| async move {
        match body.frame().await {
            None => Ok(None),
            Some(Ok(frame)) => Ok(Some((frame.into_data().unwrap_or_default(), (server, body)))),
            Some(Err(error)) => Err(server.unreachable(error)),
        }
    });
    Ok(frames.boxed())
}

/// A door whose kubeconfig can be replaced.
pub fn renewable(config: &Kubeconfig) -> Result<Arc<Https>, DoorError> {
    Ok(Arc::new(Https(RwLock::new(Arc::new(Server::new(config)?)))))
}

/// A door that believes whoever answers, shows nothing and must not be told secrets: to read what is signed otherwise.
pub fn open_unverified(server: &str) -> Result<Arc<dyn Door>, DoorError> {
    let config = Kubeconfig { server: server.to_owned(), ..Kubeconfig::default() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let anybody = Arc::new(crate::Anybody(provider.clone()));
    let builder = versions(provider, &config)?.dangerous().with_custom_certificate_verifier(anybody);
    Ok(Arc::new(Https(RwLock::new(Arc::new(Server::with(&config, builder)?)))))
}

/// What the server's `Date` header says, where `judge` decides whether who answers is believed; nothing is shown to it.
pub(crate) async fn date(config: &Kubeconfig, judge: Arc<dyn ServerCertVerifier>) -> Result<String, DoorError> {
    let config = Kubeconfig { client: None, token: None, ..config.clone() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = versions(provider, &config)?.dangerous().with_custom_certificate_verifier(judge);
    let response = Server::with(&config, builder)?.send(get("/version".to_owned())).await?;
    let date = response.headers().get(DATE).and_then(|value| value.to_str().ok());
    date.map(str::to_owned).ok_or_else(|| wrong(&config, "its server does not say what time it is".to_owned()))
}

/// The door; see [`renewable`].
pub struct Https(RwLock<Arc<Server>>);

impl Https {
    /// From now on speaks as this kubeconfig says, over a new connection; what runs on the old one runs to its end.
    pub fn renew(&self, config: &Kubeconfig) -> Result<(), DoorError> {
        let server = Arc::new(Server::new(config)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = server;
        Ok(())
    }

    /// Ends what runs on the connection there is, at once; for who knows that it leads nowhere any more, such as a machine
    /// that got another address.
    pub async fn reconnect(&self) {
        let server = self.server();
        if let Some(held) = server.connection.lock().await.take() {
            held.task.abort();
        }
    }

    fn server(&self) -> Arc<Server> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Server {
    address: String,
    host: String,
    tls: TlsConnector,
    token: Option<HeaderValue>,
    connection: Mutex<Option<Connection>>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    task: AbortHandle,
}

fn wrong(config: &Kubeconfig, detail: String) -> DoorError {
    DoorError::Malformed { what: format!("the kubeconfig of {}", config.server), detail }
}

fn versions(
    provider: Arc<CryptoProvider>,
    config: &Kubeconfig,
) -> Result<ConfigBuilder<ClientConfig, rustls::WantsVerifier>, DoorError> {
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.map_err(|error| wrong(config, error.to_string()))
}

impl Server {
    fn new(config: &Kubeconfig) -> Result<Server, DoorError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(config.ca_pem.as_bytes()) {
            let certificate = certificate.map_err(|error| wrong(config, error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(config, error.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Server::with(config, versions(provider, config)?.with_root_certificates(roots))
    }

    fn with(config: &Kubeconfig, builder: ConfigBuilder<ClientConfig, WantsClientCert>) -> Result<Server, DoorError> {
        let wrong = |detail: String| wrong(config, detail);
        let rest = config.server.strip_prefix("https://");
        let rest = rest.ok_or_else(|| wrong("the server must begin with https://".to_owned()))?;
        let rest = rest.split('/').next().unwrap_or_default();
        let has_port = rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { rest.to_owned() } else { format!("{rest}:443") };
        let host = address.rsplit_once(':').map_or(rest, |(host, _)| host).trim_matches(['[', ']']).to_owned();
        let mut tls = match &config.client {
            Some((certificate, key)) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
                let chain = chain.map_err(|error| wrong(error.to_string()))?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| wrong(error.to_string()))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| wrong(error.to_string()))?
            }
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let token = config.token.as_ref().map(|token| HeaderValue::from_str(&format!("Bearer {token}")));
        let token = token.transpose().map_err(|error| wrong(error.to_string()))?;
        Ok(Server { address, host, tls: TlsConnector::from(Arc::new(tls)), token, connection: Mutex::new(None) })
    }

    fn unreachable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DoorError {
        DoorError::Unreachable { server: self.address.clone(), source: source.into() }
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, DoorError> {
        let mut held = self.connection.lock().await;
        if let Some(open) = held.as_ref().filter(|open| !open.sender.is_closed()) {
            return Ok(open.sender.clone());
        }
        let connected = timeout(CONNECT_TIME, self.connect()).await;
        let tls = connected.map_err(|_| self.unreachable(format!("no answer within {CONNECT_TIME:?}")))??;
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_while_idle(true);
        builder.keep_alive_interval(PING).keep_alive_timeout(PING);
        let (sender, connection) =
            builder.handshake(TokioIo::new(tls)).await.map_err(|error| self.unreachable(error))?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the API server ended");
            }
        });
        *held = Some(Connection { sender: sender.clone(), task: task.abort_handle() });
        Ok(sender)
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, DoorError> {
        let tcp = TcpStream::connect(&self.address).await.map_err(|error| self.unreachable(error))?;
        // Small requests must not wait for each other's acknowledgements.
        tcp.set_nodelay(true).map_err(|error| self.unreachable(error))?;
        let name = ServerName::try_from(self.host.clone()).map_err(|error| self.unreachable(error))?;
        self.tls.connect(name, tcp).await.map_err(|error| self.unreachable(error))
    }

    async fn send(&self, call: Call) -> Result<Response<Incoming>, DoorError> {
        let mut connection = self.connection().await?;
        let mut request = Request::builder()
            .method(call.method)
            .uri(format!("https://{}{}", self.address, call.path))
            .header(HOST, &self.address)
            .header(ACCEPT, "application/json");
        if !call.content_type.is_empty() {
            request = request.header(CONTENT_TYPE, call.content_type);
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::new(call.body)).map_err(|error| self.unreachable(error))?;
        connection.send_request(request).await.map_err(|error| self.unreachable(error))
    }

    async fn call(&self, call: Call) -> Result<Reply, DoorError> {
        let (parts, body) = self.send(call).await?.into_parts();
        let body = Limited::new(body, BODY_MAX).collect().await.map_err(|error| self.unreachable(error))?;
        Ok(Reply { status: parts.status, body: body.to_bytes() })
    }
}

impl Door for Https {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, DoorError>> {
        let server = self.server();
        Box::pin(async move { server.call(call).await })
    }

    fn list(&self, collection: &Collection) -> BoxFuture<'static, Result<Listing, DoorError>> {
        let (server, what, path) = (self.server(), collection.to_string(), with_query(collection, ""));
        Box::pin(async move {
            let reply = server.call(get(path)).await?;
            if reply.status.as_u16() >= 400 {
                return Err(refused(&what, reply.status.as_u16(), &reply.body));
            }
            read_list(&reply.body).map_err(|error| DoorError::Malformed { what, detail: error.to_string() })
        })
    }

    fn watch(
        &self,
        collection: &Collection,
        resource_version: &str,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Event, DoorError>>, DoorError>> {
        let query = format!("watch=true&allowWatchBookmarks=true&resourceVersion={resource_version}");
        let (server, what, path) = (self.server(), collection.to_string(), with_query(collection, &query));
        Box::pin(async move {
            let response = server.send(get(path)).await?;
            let status = response.status().as_u16();
            if status >= 400 {
                let body = Limited::new(response.into_body(), 1 << 20).collect().await;
                let body = body.map(|body| body.to_bytes()).unwrap_or_default();
                return Err(refused(&what, status, &body));
            }
            Ok(events(server, what, response.into_body()))
        })
    }
}

fn get(path: String) -> Call {
    Call { method: Method::GET, path, content_type: "", body: Bytes::new() }
}

fn with_query(collection: &Collection, more: &str) -> String {
    let mut query: Vec<String> = Vec::new();
    for (key, value) in [("labelSelector", &collection.label_selector), ("fieldSelector", &collection.field_selector)] {
        if !value.is_empty() {
            query.push(format!("{key}={}", escape(value)));
        }
    }
    query.extend(Some(more.to_owned()).filter(|more| !more.is_empty()));
    let path = collection.path();
    if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
}

/// Percent-encodes what may not stand in a query.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    metadata: ListMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
}

fn read_list(body: &Bytes) -> Result<Listing, serde_json::Error> {
    let list: List<'_> = serde_json::from_slice(body)?;
    let kind = list.kind.strip_suffix("List").unwrap_or(&list.kind);
    let items = list.items.unwrap_or_default().into_iter().map(|raw| {
        let text = raw.get();
        // Upstream leaves kind and version out of a list's items; a cache wants whole objects.
        let object = match text.strip_prefix('{') {
            Some(rest) if !serde_json::from_str::<Whole>(text).is_ok_and(|whole| whole.api_version.is_some()) => {
                Bytes::from(format!("{{\"apiVersion\":\"{}\",\"kind\":\"{kind}\",{rest}", list.api_version))
            }
            _ => body.slice_ref(text.as_bytes()),
        };
        Item { object }
    });
    Ok(Listing { items: items.collect(), resource_version: list.metadata.resource_version })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Whole {
    api_version: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

fn read_event(line: &Bytes, what: &str) -> Result<Event, DoorError> {
    let malformed = |detail: String| DoorError::Malformed { what: what.to_owned(), detail };
    let read: Line<'_> = serde_json::from_slice(line).map_err(|error| malformed(error.to_string()))?;
    let kind = match read.kind.as_str() {
        "ADDED" => EventKind::Added,
        "MODIFIED" => EventKind::Modified,
        "DELETED" => EventKind::Deleted,
        "BOOKMARK" => EventKind::Bookmark,
        "ERROR" => return Err(refused(what, 500, read.object.get().as_bytes())),
        other => return Err(malformed(format!("an event of type {other:?}"))),
    };
    Ok(Event { kind, object: line.slice_ref(read.object.get().as_bytes()) })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: Option<u16>,
    reason: String,
    message: String,
}

fn refused(what: &str, code: u16, body: &[u8]) -> DoorError {
    let status: Status = serde_json::from_slice(body).unwrap_or_default();
    let code = status.code.unwrap_or(code);
    DoorError::Refused { what: what.to_owned(), code, reason: status.reason, message: status.message }
}

/// Cuts the body of a watch into lines and reads each.
fn events(server: Arc<Server>, what: String, body: Incoming) -> BoxStream<'static, Result<Event, DoorError>> {
    struct Reading {
        server: Arc<Server>,
        what: String,
        body: Option<Incoming>,
        rest: BytesMut,
        lines: VecDeque<Bytes>,
    }
    let reading = Reading { server, what, body: Some(body), rest: BytesMut::new(), lines: VecDeque::new() };
    stream::unfold(reading, |mut reading| async move {
        loop {
            if let Some(line) = reading.lines.pop_front() {
                let event = read_event(&line, &reading.what);
                if event.is_err() {
                    reading.body = None;
                    reading.lines.clear();
                }
                return Some((event, reading));
            }
            let frame = reading.body.as_mut()?.frame().await;
            let data = match frame? {
                Ok(frame) => frame.into_data().unwrap_or_default(),
                Err(error) => {
                    reading.body = None;
                    let error = reading.server.unreachable(error);
                    return Some((Err(error), reading));
                }
            };
            reading.rest.extend_from_slice(&data);
            while let Some(end) = reading.rest.iter().position(|byte| *byte == b'\n') {
                let line = reading.rest.split_to(end + 1).freeze();
                reading.lines.push_back(line.slice(..end));
            }
            if reading.rest.len() > BODY_MAX {
                reading.body = None;
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_a_list_become_whole_objects() {
        let body = Bytes::from_static(
            br#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}}]}"#,
        );
        let list = read_list(&body).expect("a list");
        assert_eq!(list.resource_version, "7");
        assert_eq!(list.items[0].object, r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#);
    }

    #[test]
    fn an_error_in_a_watch_is_a_refusal() {
        let line = Bytes::from_static(
            br#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#,
        );
        assert!(matches!(read_event(&line, "pods"), Err(DoorError::Refused { code: 410, .. })));
        let line = Bytes::from_static(br#"{"type":"ADDED","object":{"metadata":{}}}"#);
        assert_eq!(read_event(&line, "pods").expect("an event").object, r#"{"metadata":{}}"#);
    }

    #[test]
    fn selectors_are_escaped() {
        let mut pods = Collection::all("", "v1", "pods");
        pods.field_selector = "spec.nodeName=a b".into();
        assert_eq!(with_query(&pods, "watch=true"), "/api/v1/pods?fieldSelector=spec.nodeName%3Da%20b&watch=true");
    }

    #[test]
    fn a_server_without_https_is_refused() {
        let config = Kubeconfig { server: "http://a".into(), ..Kubeconfig::default() };
        assert!(open(&config).is_err());
    }
}
