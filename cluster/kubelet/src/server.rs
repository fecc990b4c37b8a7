//! The kubelet's HTTPS API on port 10250: logs, exec, attach, port-forward, pods, health, metrics.
//!
//! Start at [`serve`]; [`route`] reads paths, [`answer`] does what they ask.
//!
//! Invariants:
//! * a client is the API server or a member of `system:masters` by its certificate, or somebody whom the API server knows and
//!   lets do this (`access.rs`); other nodes get images and nothing else (`sharing.rs`);
//! * an error is a Status that says what is wrong in one line. Upstream's kubelet sends the bare line and its API server makes
//!   a Status of it; ours passes bytes through, so that the words must come whole from here.
//!
//! Not here: what streams carry (`stream`), the format of logs (`logs`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use base::exposition::{CONTENT_TYPE, Exposition};
use base::{Timestamp, chain};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::{ContainerId, ContainerState, ContainerStatus, ExecConfig, RuntimeError, SandboxState};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

use crate::access::{self, Shown};
use crate::logs::{self, Renderer, Shape};
use crate::machine;
use crate::metrics::{self, Measured};
use crate::pod::PodInfo;
use crate::run::{KubeletError, Pods};
use crate::step::Observed;
use crate::stream::forward::{self, Ports};
use crate::stream::link::{self, Channel};
use crate::stream::{remote, websocket};
use crate::worker::Node;
use crate::{Live, Options, Tls};

/// Connections at a time; what comes beyond waits.
const CONNECTIONS_MAX: usize = 1000;
/// How long a client has for the TLS handshake: longer than the API server waits for us, which would otherwise have a connection
/// that it takes for good closed under its request.
const HANDSHAKE_MAX: Duration = Duration::from_secs(30);
/// How often a followed log is looked at. Only while somebody follows it.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);
/// SPDY subprotocols of exec and attach, the best first.
const SPDY_COMMAND: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// SPDY subprotocol of port-forward.
const SPDY_FORWARD: [&str; 1] = ["portforward.k8s.io"];

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A listener, and the keys that it shows.
pub struct Listener {
    tcp: TcpListener,
    tls: Live<Option<Tls>>,
    acceptor: Option<TlsAcceptor>,
}

/// Listens, if the options want it.
pub async fn bind(options: &Options) -> Result<Option<Listener>, KubeletError> {
    let Some(address) = options.listen else { return Ok(None) };
    let mut tls = options.tls.clone();
    let acceptor = tls.borrow_and_update().as_ref().map(acceptor).transpose();
    let acceptor = acceptor.map_err(|detail| KubeletError::Tls { detail })?;
    let tcp = TcpListener::bind(address).await.map_err(|source| KubeletError::Listen { address, source })?;
    Ok(Some(Listener { tcp, tls, acceptor }))
}

impl Listener {
    /// With the newest keys; those that cannot be used are passed over. Nobody renews them any more where that fails.
    fn acceptor(&mut self) -> Option<TlsAcceptor> {
        if self.tls.has_changed().unwrap_or(false) {
            match self.tls.borrow_and_update().as_ref().map(acceptor) {
                Some(Ok(renewed)) => self.acceptor = Some(renewed),
                Some(Err(detail)) => tracing::warn!(detail, "the kubelet's new certificate cannot be used"),
                None => {}
            }
        }
        self.acceptor.clone()
    }
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, String> {
    tls_config(tls).map(TlsAcceptor::from)
}

fn tls_config(tls: &Tls) -> Result<Arc<rustls::ServerConfig>, String> {
    let text = |error: &dyn std::error::Error| chain(error).to_string();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(tls.client_ca.clone())).map_err(|error| text(&error))?;
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.allow_unauthenticated().build().map_err(|error| text(&error))?;
    let certificates = tls.certificates.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(tls.key.clone()));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| text(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates, key)
        .map_err(|error| text(&error))?;
    Ok(Arc::new(config))
}

/// Serves until the kubelet ends.
pub async fn serve(mut listener: Listener, node: Arc<Node>, pods: Pods) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Never closed, so a place always comes.
        let place = places.clone().acquire_owned().await;
        let tcp = match listener.tcp.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "a connection to the kubelet was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(acceptor) = listener.acceptor() else {
            tracing::debug!("a connection to the kubelet was dropped: there is no certificate yet");
            continue;
        };
        let (node, pods) = (node.clone(), pods.clone());
        node.tasks.clone().spawn(async move {
            let _place = place;
            let _ = tcp.set_nodelay(true);
            let tls = match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(tcp)).await {
                Ok(Ok(tls)) => tls,
                Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake with the kubelet failed"),
                Err(_) => {
                    return tracing::debug!("a TLS handshake with the kubelet took longer than {HANDSHAKE_MAX:?}");
                }
            };
            let peer = tls.get_ref().1.peer_certificates().and_then(|chain| pki::presented(chain.first()?));
            let context = Arc::new(Context { node, pods, peer });
            let service = hyper::service::service_fn(move |request| {
                let context = context.clone();
                async move { Ok::<_, Infallible>(context.handle(request).await) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
            if let Err(error) = builder.serve_connection(TokioIo::new(tls), service).with_upgrades().await {
                tracing::debug!(%error, "a connection to the kubelet ended early");
            }
        });
    }
}

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/healthz`.
    Healthz,
    /// `/pods`.
    Pods,
    /// `/metrics`.
    Metrics,
    /// `/metrics/resource`.
    ResourceMetrics,
    /// `/metrics/cadvisor`.
    ContainerMetrics,
    /// `/stats/summary`.
    Summary,
    /// `/containerLogs/NAMESPACE/POD/CONTAINER`.
    Logs(Place),
    /// `/exec/NAMESPACE/POD/CONTAINER`.
    Exec(Place),
    /// `/attach/NAMESPACE/POD/CONTAINER`.
    Attach(Place),
    /// `/run/NAMESPACE/POD/CONTAINER`.
    Run(Place),
    /// `/portForward/NAMESPACE/POD`.
    Forward(Place),
}

/// A container, or for port-forward a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container; empty for a pod.
    pub container: String,
}

/// Reads a path.
pub fn route(path: &str) -> Option<Route> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let place = |namespace: &&str, pod: &&str, container: &&str| Place {
        namespace: (*namespace).to_owned(),
        pod: (*pod).to_owned(),
        container: (*container).to_owned(),
    };
    Some(match parts.as_slice() {
        ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] => Route::Healthz,
        ["pods"] | ["runningpods"] => Route::Pods,
        ["metrics"] => Route::Metrics,
        ["metrics", "resource"] => Route::ResourceMetrics,
        ["metrics", "cadvisor"] => Route::ContainerMetrics,
        ["stats"] | ["stats", "summary"] => Route::Summary,
        ["containerLogs", namespace, pod, container] => Route::Logs(place(namespace, pod, container)),
        // Upstream takes the pod's uid between pod and container, too.
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            Route::Exec(place(namespace, pod, container))
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            Route::Attach(place(namespace, pod, container))
        }
        ["run", namespace, pod, container] | ["run", namespace, pod, _, container] => {
            Route::Run(place(namespace, pod, container))
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            Route::Forward(place(namespace, pod, &""))
        }
        _ => return None,
    })
}

/// The pairs of a query string, decoded, in order.
pub fn query(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (_, Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', None) => out.push(b' '),
            (byte, None) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether a flag of a query is set, under any of its names.
fn flag(query: &[(String, String)], names: &[&str]) -> bool {
    query
        .iter()
        .any(|(name, value)| names.contains(&name.as_str()) && matches!(value.as_str(), "1" | "true" | "True" | "t"))
}

/// What is said instead of an answer.
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

impl Refusal {
    fn bad(text: impl Into<String>) -> Refusal {
        Refusal(StatusCode::BAD_REQUEST, text.into())
    }
    pub(crate) fn missing(text: impl Into<String>) -> Refusal {
        Refusal(StatusCode::NOT_FOUND, text.into())
    }
    fn internal(error: &RuntimeError) -> Refusal {
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, chain(error).to_string())
    }

    fn response(self) -> Response<Body> {
        let Refusal(code, message) = self;
        let reason = match code {
            StatusCode::BAD_REQUEST => "BadRequest",
            StatusCode::UNAUTHORIZED => "Unauthorized",
            StatusCode::FORBIDDEN => "Forbidden",
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
            StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
            _ => "InternalError",
        };
        let status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code.as_u16(),
        });
        text(code, JSON, status.to_string())
    }
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

fn exposition(told: &Exposition) -> Response<Body> {
    text(StatusCode::OK, CONTENT_TYPE, told.to_string())
}

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

struct Context {
    node: Arc<Node>,
    pods: Pods,
    peer: Option<pki::Presented>,
}

impl Context {
    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        if let Some(path) = request.uri().path().strip_prefix(oci::PEERS_PATH) {
            let mut response = self.share(path, &request).await.unwrap_or_else(Refusal::response);
            let version = header::HeaderValue::from_static(oci::PEERS_VERSION);
            response.headers_mut().insert(oci::PEERS_VERSION_HEADER, version);
            return response;
        }
        let admitted = self.admit(&request).await;
        let route = admitted.and(route(request.uri().path()).ok_or_else(|| Refusal::missing("404 page not found")));
        let answer = match route {
            Ok(route) => self.answer(route, request).await,
            Err(refusal) => Err(refusal),
        };
        answer.unwrap_or_else(|refusal| refusal.response())
    }

    /// What other nodes ask for; they may ask for nothing else.
    async fn share(&self, path: &str, request: &Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let peer = self.peer.as_ref().ok_or_else(|| Refusal(StatusCode::UNAUTHORIZED, "Unauthorized".to_owned()))?;
        if !(peer.name.starts_with("system:node:") && peer.groups.iter().any(|group| group == "system:nodes")) {
            return Err(Refusal(StatusCode::FORBIDDEN, format!("Forbidden: {} is no node", peer.name)));
        }
        if request.method() != Method::GET {
            return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "images are only read here".to_owned()));
        }
        oci::understood(request.headers().get(oci::PEERS_VERSION_HEADER)).map_err(Refusal::bad)?;
        let proof = request.headers().get(oci::PEERS_PROOF).and_then(|value| value.to_str().ok());
        self.node.sharing.answer(path, proof.map(str::to_owned)).await
    }

    /// The API server and administrators are known; about others the API server is asked.
    async fn admit(&self, request: &Request<Incoming>) -> Result<(), Refusal> {
        let certificate = self.peer.as_ref();
        let known = |peer: &pki::Presented| {
            self.node.options.authorised_users.contains(&peer.name)
                || peer.groups.iter().any(|group| group == "system:masters")
        };
        if certificate.is_some_and(known) {
            return Ok(());
        }
        let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (shown, node) = (Shown { certificate, authorization }, &self.node);
        let wish = access::wish(request.method(), request.uri().path());
        node.access.admit(shown, wish, &node.options.node_name, &node.client, &*node.clock).await
    }

    async fn answer(&self, route: Route, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let asked = query(request.uri().query().unwrap_or_default());
        match route {
            Route::Healthz => Ok(text(StatusCode::OK, PLAIN, "ok")),
            Route::Pods => Ok(text(StatusCode::OK, JSON, self.pod_list())),
            Route::Metrics => Ok(exposition(&self.metrics().await)),
            Route::ResourceMetrics => Ok(exposition(&self.resource_metrics().await)),
            Route::ContainerMetrics => Ok(exposition(&self.container_metrics().await)),
            Route::Summary => Ok(text(StatusCode::OK, JSON, self.summary().await)),
            Route::Logs(place) => self.logs(&place, &asked).await,
            Route::Exec(place) => self.command(&place, &asked, request, false).await,
            Route::Attach(place) => self.command(&place, &asked, request, true).await,
            Route::Run(place) => self.run(&place, &asked, request.method()).await,
            Route::Forward(place) => self.forward(&place, &asked, request).await,
        }
    }

    fn shown(&self) -> Vec<Arc<PodInfo>> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.values().map(|handle| handle.shown.borrow().clone()).collect()
    }

    fn pod(&self, place: &Place) -> Result<Arc<PodInfo>, Refusal> {
        let found = self.shown().into_iter().find(|pod| pod.namespace == place.namespace && pod.name == place.pod);
        found.ok_or_else(|| Refusal::missing(format!("pod \"{}\" not found", place.pod)))
    }

    async fn look(&self, pod: &PodInfo) -> Result<Observed, Refusal> {
        let internal = |error: RuntimeError| Refusal::internal(&error);
        let mut sandboxes = self.node.runtime.list_sandboxes().await.map_err(internal)?;
        let mut containers = self.node.runtime.list_containers().await.map_err(internal)?;
        sandboxes.retain(|sandbox| sandbox.config.uid == pod.uid);
        containers.retain(|container| sandboxes.iter().any(|sandbox| sandbox.id == container.sandbox));
        Ok(Observed { sandboxes, containers })
    }

    async fn running(&self, place: &Place) -> Result<ContainerStatus, Refusal> {
        let pod = self.pod(place)?;
        let seen = self.look(&pod).await?;
        let found = seen.latest(&place.container).filter(|found| matches!(found.state, ContainerState::Running { .. }));
        found.cloned().ok_or_else(|| Refusal::missing(format!("container not found (\"{}\")", place.container)))
    }

    async fn logs(&self, place: &Place, asked: &[(String, String)]) -> Result<Response<Body>, Refusal> {
        let pod = self.pod(place)?;
        if pod.member(&place.container).is_none() {
            let message = format!("container \"{}\" in pod \"{}\" is not valid", place.container, place.pod);
            return Err(Refusal::bad(message));
        }
        let wanted = LogRequest::read(asked, self.node.clock.now())?;
        let seen = self.look(&pod).await?;
        let container = self.log_of(place, &pod, &seen, wanted.previous)?;
        let (pieces, body) = mpsc::channel(16);
        let (node, id) = (self.node.clone(), container.id.clone());
        let live = container.log_path.clone();
        // Reading the file may block, and ends when nobody wants the pieces any more.
        self.node.tasks.spawn(async move {
            let ended = move || has_ended(node.clone(), id.clone()).boxed();
            send_log(&live, wanted, &pieces, &ended).await;
        });
        let body =
            futures::stream::unfold(body, |mut body| async move { body.recv().await.map(|piece| (piece, body)) });
        let body = StreamBody::new(body.map(|piece: Bytes| Ok(Frame::data(piece))));
        let mut response = Response::new(body.boxed_unsync());
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    /// The container whose log is meant, or why there is none.
    fn log_of(
        &self,
        place: &Place,
        pod: &PodInfo,
        seen: &Observed,
        previous: bool,
    ) -> Result<ContainerStatus, Refusal> {
        let (name, pod_name) = (&place.container, &place.pod);
        if previous {
            let ended = |found: &&ContainerStatus| {
                matches!(found.state, ContainerState::Exited { .. } | ContainerState::Unknown)
            };
            // While a container waits to be started again, the previous one is the newest.
            let newest = seen.latest(name).filter(ended);
            let found =
                seen.previous(name).or(newest.filter(|found| found.attempt > 0 || pod.restart_policy() != "Never"));
            let missing =
                || Refusal::bad(format!("previous terminated container \"{name}\" in pod \"{pod_name}\" not found"));
            return found.cloned().ok_or_else(missing);
        }
        if let Some(found) = seen.latest(name).filter(|found| found.state != ContainerState::Created) {
            return Ok(found.clone());
        }
        let statuses = pod.pod.status.as_ref().map(|status| {
            [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
        });
        let statuses = statuses.into_iter().flatten().flat_map(|list| list.iter().flatten());
        let waiting =
            statuses.into_iter().find(|status| status.name == *name).and_then(|status| status.state.clone()?.waiting);
        let waiting = waiting.unwrap_or_default();
        let (reason, message) = (waiting.reason.unwrap_or_else(|| "ContainerCreating".to_owned()), waiting.message);
        Err(Refusal::bad(match (reason.as_str(), message) {
            ("ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName", _) => {
                format!("container \"{name}\" in pod \"{pod_name}\" is waiting to start: {}", image_trouble(&reason))
            }
            (_, _) => format!("container \"{name}\" in pod \"{pod_name}\" is waiting to start: {reason}"),
        }))
    }

    async fn command(
        &self,
        place: &Place,
        asked: &[(String, String)],
        request: Request<Incoming>,
        attach: bool,
    ) -> Result<Response<Body>, Refusal> {
        let tty = flag(asked, &["tty"]);
        let config = ExecConfig {
            command: asked.iter().filter(|(name, _)| name == "command").map(|(_, value)| value.clone()).collect(),
            stdin: flag(asked, &["input", "stdin"]),
            stdout: flag(asked, &["output", "stdout"]),
            stderr: flag(asked, &["error", "stderr"]) && !tty,
            tty,
        };
        if !config.stdin && !config.stdout && !config.stderr {
            return Err(Refusal::bad("you must specify at least 1 of stdin, stdout, stderr"));
        }
        if !attach && config.command.is_empty() {
            return Err(Refusal::bad("you must specify a command to run"));
        }
        let container = self.running(place).await?;
        let upgrade = Upgrade::read(&request, &websocket::COMMAND_PROTOCOLS, &SPDY_COMMAND)?;
        let runtime = self.node.runtime.clone();
        let (id, kind) = (container.id.clone(), upgrade.clone());
        let response = upgrade.response();
        self.node.tasks.spawn(async move {
            let Ok(io) = hyper::upgrade::on(request).await else { return };
            let link = match kind {
                Upgrade::WebSocket { protocol, .. } => {
                    let outputs =
                        [(config.stdout, Channel::Stdout), (config.stderr, Channel::Stderr), (true, Channel::Error)];
                    let first =
                        outputs.into_iter().find(|(wanted, _)| *wanted).map_or(Channel::Error, |(_, channel)| channel);
                    Some(link::over_websocket(TokioIo::new(io), protocol, first))
                }
                Upgrade::Spdy { protocol } => {
                    let version = protocol.strip_prefix('v').and_then(|rest| rest.get(..1)?.parse().ok()).unwrap_or(1);
                    let wanted = [
                        (true, Channel::Error),
                        (config.stdin, Channel::Stdin),
                        (config.stdout, Channel::Stdout),
                        (config.stderr, Channel::Stderr),
                        (config.tty && version >= 3, Channel::Resize),
                    ];
                    let wanted: Vec<Channel> =
                        wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, one)| one).collect();
                    link::over_spdy(TokioIo::new(io), version, &wanted).await
                }
            };
            let Some(link) = link else { return };
            let streams = if attach { runtime.attach(id, config).await } else { runtime.exec(id, config).await };
            match streams {
                Ok(streams) => remote::serve(link, streams).await,
                Err(error) => {
                    let told = remote::verdict(link.version, Err(chain(&error).to_string()));
                    let _ = link.outgoing.send((Channel::Error, told)).await;
                }
            }
        });
        Ok(response)
    }

    async fn run(&self, place: &Place, asked: &[(String, String)], method: &Method) -> Result<Response<Body>, Refusal> {
        if method != Method::POST {
            return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed".to_owned()));
        }
        const RUN_MAX: Duration = Duration::from_secs(60);
        let container = self.running(place).await?;
        let command = asked.iter().find(|(name, _)| name == "cmd").map(|(_, value)| value.as_str()).unwrap_or_default();
        let command = command.split_whitespace().map(str::to_owned).collect();
        let result = self.node.runtime.exec_sync(container.id, command, RUN_MAX).await;
        let result = result.map_err(|error| Refusal::internal(&error))?;
        Ok(text(StatusCode::OK, PLAIN, [result.stdout, result.stderr].concat()))
    }

    async fn forward(
        &self,
        place: &Place,
        asked: &[(String, String)],
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let pod = self.pod(place)?;
        let seen = self.look(&pod).await?;
        let sandbox = seen.ready_sandbox().map(|sandbox| sandbox.id.clone());
        let sandbox = sandbox
            .ok_or_else(|| Refusal::missing(format!("pod {}_{} has no running sandbox", place.pod, place.namespace)))?;
        let upgrade = Upgrade::read(&request, &websocket::FORWARD_PROTOCOLS, &SPDY_FORWARD)?;
        let named = asked.iter().filter(|(name, _)| matches!(name.as_str(), "port" | "ports"));
        let wanted: Vec<u16> =
            named.flat_map(|(_, value)| value.split(',').filter_map(|port| port.parse().ok())).collect();
        let ports = Ports { runtime: self.node.runtime.clone(), sandbox, pod: pod.full_name() };
        let response = upgrade.response();
        if matches!(&upgrade, Upgrade::WebSocket { protocol, .. } if !protocol.starts_with("SPDY")) && wanted.is_empty()
        {
            return Err(Refusal::bad("query parameter \"port\" is required"));
        }
        self.node.tasks.spawn(async move {
            let Ok(io) = hyper::upgrade::on(request).await else { return };
            match upgrade {
                Upgrade::Spdy { .. } => forward::over_spdy(TokioIo::new(io), ports).await,
                Upgrade::WebSocket { protocol, .. } if protocol.starts_with("SPDY") => {
                    forward::over_spdy(forward::through_websocket(TokioIo::new(io)), ports).await;
                }
                Upgrade::WebSocket { .. } => forward::over_channels(TokioIo::new(io), ports, &wanted).await,
            }
        });
        Ok(response)
    }

    fn pod_list(&self) -> String {
        let items: Vec<serde_json::Value> =
            self.shown().iter().filter_map(|pod| serde_json::to_value(&pod.pod).ok()).collect();
        serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}).to_string()
    }

    /// Every container with its pod's names and its counters, and whether one could not be measured.
    async fn measured(&self) -> (Vec<Measured>, bool) {
        let pods: BTreeMap<String, Arc<PodInfo>> = self.shown().into_iter().map(|pod| (pod.uid.clone(), pod)).collect();
        let sandboxes = self.node.runtime.list_sandboxes().await.unwrap_or_default();
        let (mut all, mut failed) = (Vec::new(), false);
        for container in self.node.runtime.list_containers().await.unwrap_or_default() {
            let uid =
                sandboxes.iter().find(|sandbox| sandbox.id == container.sandbox).map(|sandbox| &sandbox.config.uid);
            let Some(pod) = uid.and_then(|uid| pods.get(uid)) else { continue };
            match self.node.runtime.container_stats(container.id.clone()).await {
                Ok(stats) => all.push((container, pod.clone(), stats)),
                Err(_) => failed = true,
            }
        }
        (all, failed)
    }

    async fn metrics(&self) -> Exposition {
        let sandboxes = self.node.runtime.list_sandboxes().await.unwrap_or_default();
        let ready = sandboxes.iter().filter(|sandbox| sandbox.state == SandboxState::Ready).count();
        let containers = self.node.runtime.list_containers().await.unwrap_or_default();
        metrics::own(&self.node.options.node_name, ready, &containers)
    }

    async fn resource_metrics(&self) -> Exposition {
        let now_ms = (self.node.clock.now().0 / 1_000_000) as i64;
        let (all, failed) = self.measured().await;
        metrics::resource(&all, failed, &machine::Usage::read(&self.node.options.data_dir), now_ms)
    }

    async fn container_metrics(&self) -> Exposition {
        let options = &self.node.options;
        metrics::cadvisor(&self.measured().await.0, &machine::Usage::read(&options.data_dir), &options.machine)
    }

    async fn summary(&self) -> String {
        let time = self.node.clock.now().rfc3339();
        let mut pods: BTreeMap<String, serde_json::Value> = BTreeMap::new();
        for (container, pod, stats) in self.measured().await.0 {
            let entry = pods.entry(pod.uid.clone()).or_insert_with(|| {
                let reference = serde_json::json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid});
                serde_json::json!({"podRef": reference, "startTime": time, "containers": []})
            });
            add(&mut entry["cpu"]["usageCoreNanoSeconds"], stats.cpu.as_nanos() as u64);
            entry["cpu"]["time"] = time.as_str().into();
            if let Some((received, sent)) = stats.network {
                // All containers of a pod see the same links.
                entry["network"] = serde_json::json!({"time": time, "rxBytes": received.0, "txBytes": sent.0});
            }
            let mut one = serde_json::json!({
                "name": container.name,
                "startTime": container.created_at.rfc3339(),
                "cpu": {"time": time, "usageCoreNanoSeconds": stats.cpu.as_nanos() as u64},
            });
            if let Some(bytes) = stats.memory_working_set {
                one["memory"] = serde_json::json!({"time": time, "workingSetBytes": bytes.0});
                add(&mut entry["memory"]["workingSetBytes"], bytes.0);
                entry["memory"]["time"] = time.as_str().into();
            }
            if let Some((read, written)) = stats.disk {
                // Ours: upstream's summary has no such thing.
                one["io"] = serde_json::json!({"time": time, "readBytes": read.0, "writtenBytes": written.0});
                add(&mut entry["io"]["readBytes"], read.0);
                add(&mut entry["io"]["writtenBytes"], written.0);
                entry["io"]["time"] = time.as_str().into();
            }
            if let Some(list) = entry["containers"].as_array_mut() {
                list.push(one);
            }
        }
        let pods: Vec<serde_json::Value> = pods.into_values().collect();
        let machine = machine::Usage::read(&self.node.options.data_dir);
        let node = machine.summary(&self.node.options.node_name, &time);
        serde_json::json!({"node": node, "pods": pods}).to_string()
    }
}

async fn has_ended(node: Arc<Node>, id: ContainerId) -> bool {
    let all = node.runtime.list_containers().await.unwrap_or_default();
    let lives = |one: &ContainerStatus| matches!(one.state, ContainerState::Running { .. } | ContainerState::Created);
    !all.iter().any(|one| one.id == id && lives(one))
}

fn image_trouble(reason: &str) -> &'static str {
    match reason {
        "ImagePullBackOff" => "trying and failing to pull image",
        "ErrImageNeverPull" => "image can't be pulled: ErrImageNeverPull",
        "InvalidImageName" => "InvalidImageName",
        _ => "image can't be pulled",
    }
}

/// What a client wants to upgrade to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Upgrade {
    WebSocket { key: String, protocol: &'static str },
    Spdy { protocol: &'static str },
}

impl Upgrade {
    fn read<B>(request: &Request<B>, websockets: &[&'static str], spdy: &[&'static str]) -> Result<Upgrade, Refusal> {
        let value = |name: &str| {
            let all = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
            all.collect::<Vec<_>>().join(",")
        };
        let wanted = value("upgrade").to_lowercase();
        if wanted.contains("websocket") {
            let offered = value("sec-websocket-protocol");
            let refused = || Refusal::bad(format!("unable to negotiate a WebSocket subprotocol of [{offered}]"));
            let protocol = websocket::choose(&offered, websockets).ok_or_else(refused)?;
            return Ok(Upgrade::WebSocket { key: value("sec-websocket-key"), protocol });
        }
        if wanted.contains("spdy/3.1") {
            let offered = value("x-stream-protocol-version");
            // Clients that offer none speak the first version.
            let oldest = offered.is_empty().then(|| spdy.last().copied()).flatten();
            let refused = || {
                Refusal(
                    StatusCode::FORBIDDEN,
                    format!("unable to negotiate protocol: client supports [{offered}], server accepts {spdy:?}"),
                )
            };
            let protocol = oldest.or_else(|| websocket::choose(&offered, spdy)).ok_or_else(refused)?;
            return Ok(Upgrade::Spdy { protocol });
        }
        Err(Refusal::bad("unable to upgrade: missing upgrade headers in request"))
    }

    fn response(&self) -> Response<Body> {
        let builder = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header("Connection", "Upgrade");
        let builder = match self {
            Upgrade::WebSocket { key, protocol } => {
                let builder =
                    builder.header("Upgrade", "websocket").header("Sec-WebSocket-Accept", websocket::answer_key(key));
                if protocol.is_empty() { builder } else { builder.header("Sec-WebSocket-Protocol", *protocol) }
            }
            Upgrade::Spdy { protocol } => {
                builder.header("Upgrade", "SPDY/3.1").header("X-Stream-Protocol-Version", *protocol)
            }
        };
        // Every part is a constant or base64.
        builder.body(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync()).expect("valid headers")
    }
}

/// Adds to a number that may not be there yet.
fn add(number: &mut serde_json::Value, more: u64) {
    *number = (number.as_u64().unwrap_or(0) + more).into();
}

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LogRequest {
    follow: bool,
    previous: bool,
    tail: Option<usize>,
    shape: Shape,
}

impl LogRequest {
    fn read(asked: &[(String, String)], now: Timestamp) -> Result<LogRequest, Refusal> {
        let value = |wanted: &str| {
            asked.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).filter(|v| !v.is_empty())
        };
        let number = |name: &str| -> Result<Option<u64>, Refusal> {
            value(name)
                .map(|text| text.parse().map_err(|_| Refusal::bad(format!("invalid {name}: {text:?}"))))
                .transpose()
        };
        let since = match (number("sinceSeconds")?, value("sinceTime")) {
            (Some(seconds), _) => Some(Timestamp(now.0 - i128::from(seconds) * 1_000_000_000)),
            (None, Some(time)) => {
                Some(time.parse().map_err(|error| Refusal::bad(format!("invalid sinceTime: {error}")))?)
            }
            (None, None) => None,
        };
        Ok(LogRequest {
            follow: flag(asked, &["follow"]),
            previous: flag(asked, &["previous"]),
            tail: number("tailLines")?.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
            shape: Shape {
                since,
                timestamps: flag(asked, &["timestamps"]),
                limit_bytes: number("limitBytes")?,
                stderr_only: match value("stream") {
                    Some("Stdout") => Some(false),
                    Some("Stderr") => Some(true),
                    _ => None,
                },
            },
        })
    }
}

/// Sends a log's files, the oldest first, then what is added while the container runs, if it is followed.
async fn send_log(
    live: &Path,
    wanted: LogRequest,
    pieces: &mpsc::Sender<Bytes>,
    ended: &(dyn Fn() -> BoxFuture<'static, bool> + Send + Sync),
) {
    let mut renderer = Renderer::new(wanted.shape.clone());
    let mut files = logs::files(live);
    let mut begin = 0;
    if let Some(lines) = wanted.tail {
        (files, begin) = last_lines(files, lines);
    }
    let last = files.pop();
    for file in files {
        let offset = std::mem::take(&mut begin);
        if let Some(mut reader) = LogReader::open(&file, offset)
            && !reader.send(&mut renderer, pieces).await
        {
            return;
        }
    }
    let mut reader = last.and_then(|file| LogReader::open(&file, begin));
    loop {
        // Asked before reading: what was written before the end is then surely read.
        let over = !wanted.follow || ended().await;
        if let Some(reader) = &mut reader
            && !reader.send(&mut renderer, pieces).await
        {
            return;
        }
        if renderer.full() || pieces.is_closed() {
            return;
        }
        let rotated = reader.as_ref().is_none_or(|reader| !reader.is_at(live));
        if rotated && let Some(next) = LogReader::open(live, 0) {
            if let Some(old) = &mut reader {
                old.send(&mut renderer, pieces).await;
            }
            reader = Some(next);
            continue;
        }
        if over {
            return;
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

/// The files that hold the last lines, and where in the first of them they begin.
fn last_lines(files: Vec<PathBuf>, lines: usize) -> (Vec<PathBuf>, u64) {
    let (mut missing, mut begin, mut kept) = (lines, 0, Vec::new());
    for path in files.into_iter().rev() {
        let Ok(mut file) = std::fs::File::open(&path) else { continue };
        begin = logs::tail_offset(&mut file, missing).unwrap_or(0);
        kept.insert(0, path);
        if begin > 0 || missing == 0 {
            break;
        }
        let mut all = Vec::new();
        let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut all));
        missing = missing.saturating_sub(all.iter().filter(|byte| **byte == b'\n').count());
        if missing == 0 {
            break;
        }
    }
    (kept, begin)
}

struct LogReader {
    file: std::fs::File,
    rest: Vec<u8>,
}

impl LogReader {
    fn open(path: &Path, offset: u64) -> Option<LogReader> {
        let mut file = std::fs::File::open(path).ok()?;
        file.seek(SeekFrom::Start(offset)).ok()?;
        Some(LogReader { file, rest: Vec::new() })
    }

    fn is_at(&self, path: &Path) -> bool {
        let ours = self.file.metadata().map(|found| (found.dev(), found.ino()));
        let theirs = std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
        // While the live file is away, between rename and reopen, ours is the newest there is.
        theirs.is_err() || matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours == theirs)
    }

    /// Sends whole lines up to the file's end. Says whether the client still listens.
    async fn send(&mut self, renderer: &mut Renderer, pieces: &mpsc::Sender<Bytes>) -> bool {
        let mut block = vec![0; 64 << 10];
        loop {
            let length = match self.file.read(&mut block) {
                Ok(0) | Err(_) => return true,
                Ok(length) => length,
            };
            self.rest.extend_from_slice(&block[..length]);
            let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { continue };
            let mut out = Vec::with_capacity(length);
            for line in self.rest[..end].split(|byte| *byte == b'\n') {
                renderer.line(line, &mut out);
            }
            self.rest.drain(..=end);
            if !out.is_empty() && pieces.send(Bytes::from(out)).await.is_err() {
                return false;
            }
            if renderer.full() {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_is_asked() {
        let place = |container: &str| Place { namespace: "ns".into(), pod: "p".into(), container: container.into() };
        for (path, wanted) in [
            ("/healthz", Some(Route::Healthz)),
            ("/metrics", Some(Route::Metrics)),
            ("/metrics/cadvisor", Some(Route::ContainerMetrics)),
            ("/metrics/other", None),
            ("/pods/", Some(Route::Pods)),
            ("/containerLogs/ns/p/c", Some(Route::Logs(place("c")))),
            ("/exec/ns/p/c", Some(Route::Exec(place("c")))),
            ("/exec/ns/p/uid/c", Some(Route::Exec(place("c")))),
            ("/attach/ns/p/c", Some(Route::Attach(place("c")))),
            ("/portForward/ns/p", Some(Route::Forward(place("")))),
            ("/exec/ns/p", None),
            ("/", None),
        ] {
            assert_eq!(route(path), wanted, "{path}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let found = query("command=sh&command=-c&command=echo+a%20%26b&tty=1&x");
        let commands: Vec<&str> =
            found.iter().filter(|(name, _)| name == "command").map(|(_, value)| value.as_str()).collect();
        assert_eq!(commands, ["sh", "-c", "echo a &b"]);
        assert!(flag(&found, &["tty"]) && !flag(&found, &["x"]));
    }

    #[test]
    fn upgrades_are_negotiated() {
        let ask = |headers: &[(&str, &str)]| {
            let mut request = Request::builder();
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            Upgrade::read(&request.body(()).expect("a request"), &websocket::COMMAND_PROTOCOLS, &SPDY_COMMAND)
                .map_err(|refusal| refusal.1)
        };
        let spdy = [
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", "v2.channel.k8s.io"),
            ("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
        ];
        assert_eq!(ask(&spdy), Ok(Upgrade::Spdy { protocol: "v4.channel.k8s.io" }));
        assert_eq!(ask(&spdy[..1]), Ok(Upgrade::Spdy { protocol: "channel.k8s.io" }));
        let socket =
            [("Upgrade", "websocket"), ("Sec-WebSocket-Key", "k"), ("Sec-WebSocket-Protocol", "v5.channel.k8s.io")];
        assert_eq!(ask(&socket), Ok(Upgrade::WebSocket { key: "k".into(), protocol: "v5.channel.k8s.io" }));
        assert!(ask(&[]).is_err());
        assert!(ask(&[("Upgrade", "websocket"), ("Sec-WebSocket-Protocol", "chat")]).is_err());
    }

    async fn log(live: &Path, asked: &str) -> String {
        let now = "2026-11-23T20:00:10Z".parse().expect("a time");
        let wanted = LogRequest::read(&query(asked), now).map_err(|refusal| refusal.1).expect("a request");
        let (pieces, mut body) = mpsc::channel(100);
        send_log(live, wanted, &pieces, &|| async { true }.boxed()).await;
        drop(pieces);
        let mut all = Vec::new();
        while let Some(piece) = body.recv().await {
            all.extend_from_slice(&piece);
        }
        String::from_utf8(all).expect("text")
    }

    #[tokio::test]
    async fn logs_are_read_across_rotated_files() {
        let dir = tempfile::tempdir().expect("a folder");
        let live = dir.path().join("0.log");
        let line = |second: u32, text: &str| format!("2026-11-23T20:00:0{second}.000000000Z stdout F {text}\n");
        std::fs::write(dir.path().join("0.log.20261123"), line(1, "one") + &line(2, "two")).expect("written");
        std::fs::write(&live, line(3, "three")).expect("written");
        assert_eq!(log(&live, "").await, "one\ntwo\nthree\n");
        assert_eq!(log(&live, "follow=true").await, "one\ntwo\nthree\n");
        assert_eq!(log(&live, "tailLines=2").await, "two\nthree\n");
        assert_eq!(log(&live, "tailLines=0").await, "");
        assert_eq!(log(&live, "tailLines=9").await, "one\ntwo\nthree\n");
        assert_eq!(log(&live, "sinceSeconds=8").await, "two\nthree\n");
        assert_eq!(log(&live, "limitBytes=5").await, "one\nt");
        assert_eq!(log(&live, "timestamps=true&tailLines=1").await, "2026-11-23T20:00:03.000000000Z three\n");
    }

    #[test]
    fn wrong_numbers_are_refused() {
        let now = Timestamp::from_seconds(0);
        assert!(LogRequest::read(&query("tailLines=x"), now).is_err());
        assert!(LogRequest::read(&query("sinceTime=yesterday"), now).is_err());
    }
}
