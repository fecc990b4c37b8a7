//! Tells load balancers which nodes have endpoints of a Service: `spec.healthCheckNodePort`, for `externalTrafficPolicy: Local`.
//!
//! Start at [`checks`], which says what there is to tell; [`Health`] tells it over HTTP, in upstream's words and codes (v1.36):
//! 200 where an endpoint is ready here and the rules are in place, 503 where not.
//!
//! Invariants:
//! * a port is open as long as a Service has it, and no longer;
//! * a port that somebody else holds is tried again, and said.
//!
//! Not here: giving out the ports (`apiserver`), the balancer that asks.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Service;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::plan::{Slices, View, slices_by_service};

/// A port that could not be had is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);
/// So many ask at once; more wait.
const CONNECTIONS_MAX: usize = 64;
/// Who asks has so long to say so.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// After a failed accept the next try waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is told at one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The Service's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its endpoints that are ready on this node.
    pub local_endpoints: usize,
}

/// What is told, by port.
pub type Checks = BTreeMap<u16, Check>;

/// What there is to tell.
pub fn checks(view: &View<'_>) -> Checks {
    let slices = slices_by_service(view.slices);
    view.services.iter().filter_map(|service| check(service, &slices, view.node)).collect()
}

fn check(service: &Service, slices: &Slices<'_>, node: &str) -> Option<(u16, Check)> {
    let spec = service.spec.as_ref()?;
    let is_asked_for =
        spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local");
    let port = spec.health_check_node_port.filter(|_| is_asked_for)?;
    let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
    let (namespace, name) = (service.metadata.namespace.clone()?, service.metadata.name.clone()?);
    let slices = slices.get(&(namespace.as_str(), name.as_str())).map(Vec::as_slice).unwrap_or_default();
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|endpoint| {
        endpoint.node_name.as_deref() == Some(node)
            && endpoint.conditions.as_ref().is_none_or(|is| is.ready.unwrap_or(true))
    });
    let local: BTreeSet<&String> = ready.filter_map(|endpoint| endpoint.addresses.first()).collect();
    Some((port, Check { local_endpoints: local.len(), namespace, name }))
}

/// The open ports. Dropping it closes them.
pub(crate) struct Health {
    told: watch::Sender<Told>,
    open: BTreeMap<u16, AbortHandle>,
    tasks: JoinSet<()>,
}

#[derive(Clone, Default)]
struct Told {
    checks: Arc<Checks>,
    /// The rules of all Services are in place.
    is_healthy: bool,
}

impl Health {
    pub(crate) fn new() -> Health {
        Health { told: watch::Sender::default(), open: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Tells this from now on.
    pub(crate) fn tell(&mut self, checks: Checks, is_healthy: bool) {
        self.open.retain(|port, task| {
            let stays = checks.contains_key(port);
            if !stays {
                task.abort();
            }
            stays
        });
        // Ended tasks are forgotten.
        while self.tasks.try_join_next().is_some() {}
        for port in checks.keys() {
            let (told, tasks) = (self.told.subscribe(), &mut self.tasks);
            self.open.entry(*port).or_insert_with(|| tasks.spawn(serve(*port, told)));
        }
        self.told.send_replace(Told { checks: Arc::new(checks), is_healthy });
    }
}

async fn serve(port: u16, told: watch::Receiver<Told>) {
    let listener = loop {
        match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
            Ok(listener) => break listener,
            Err(error) => {
                let check = told.borrow().checks.get(&port).cloned();
                let service = check.map(|check| format!("{}/{}", check.namespace, check.name)).unwrap_or_default();
                tracing::warn!(%error, port, service, "failed to listen at a Service's healthCheckNodePort");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let (room, mut connections) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), JoinSet::new());
    loop {
        // Never closed, so a place always comes.
        let place = room.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((client, _)) => {
                let told = told.clone();
                connections.spawn(async move {
                    answer(client, port, told).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(client: TcpStream, port: u16, told: watch::Receiver<Told>) {
    let service = service_fn(move |_| {
        let now = told.borrow().clone();
        async move { Ok::<_, Infallible>(response(now.checks.get(&port), now.is_healthy)) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    if let Err(error) = builder.serve_connection(TokioIo::new(client), service).await {
        tracing::debug!(%error, "a connection to a healthCheckNodePort ended early");
    }
}

/// Any path and any method get the same, as upstream.
fn response(check: Option<&Check>, is_healthy: bool) -> Response<Full<Bytes>> {
    let (status, count, body) = match check {
        Some(Check { namespace, name, local_endpoints: count }) => {
            let status = if *count > 0 && is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            // Names of Kubernetes need no escaping.
            let body = format!(
                "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\
                 \"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {is_healthy}\n}}"
            );
            (status, *count, body)
        }
        // The Service has just gone; upstream says so in plain words.
        None => (StatusCode::NOT_FOUND, 0, "Service not registered on this node".to_owned()),
    };
    let kind = if check.is_some() { "application/json" } else { "text/plain; charset=utf-8" };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    headers.insert("X-Load-Balancing-Endpoint-Weight", count.into());
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;

    fn service(ty: &str, policy: &str, port: u16) -> Arc<Service> {
        let spec = json!({"type": ty, "externalTrafficPolicy": policy, "healthCheckNodePort": port});
        let object = json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": spec});
        Arc::new(serde_json::from_value(object).expect("a Service"))
    }

    /// Endpoints as `ADDRESS@NODE`, with `!` behind one that is not ready.
    #[track_caller]
    fn check(service: Arc<Service>, endpoints: &str, wanted: Option<(u16, usize)>) {
        let endpoints: Vec<Value> = endpoints.split_whitespace().map(endpoint).collect();
        let slice = json!({
            "metadata": {"namespace": "ns", "name": "x", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 80}],
        });
        let slices = [Arc::new(serde_json::from_value(slice).expect("a slice"))];
        let pods = sys::net::link::Net { address: [10, 42, 0, 0].into(), prefix: 16 };
        let told = checks(&View { services: &[service], slices: &slices, node: "n1", pods, leaving: false });
        let told: Vec<(u16, usize)> = told.into_iter().map(|(port, check)| (port, check.local_endpoints)).collect();
        assert_eq!(told, Vec::from_iter(wanted));
    }

    fn endpoint(text: &str) -> Value {
        let (address, node) = text.split_once('@').expect("an address and a node");
        json!({
            "addresses": [address], "nodeName": node.trim_end_matches('!'), "conditions": {"ready": !node.ends_with('!')},
        })
    }

    #[test]
    fn ready_endpoints_of_this_node_count() {
        let local = || service("LoadBalancer", "Local", 31_000);
        check(local(), "10.42.0.1@n1 10.42.0.2@n1 10.42.1.1@n2", Some((31_000, 2)));
        check(local(), "10.42.0.1@n1! 10.42.1.1@n2", Some((31_000, 0)));
        check(local(), "", Some((31_000, 0)));
    }

    #[test]
    fn only_balanced_services_with_a_local_policy_are_told() {
        check(service("LoadBalancer", "Cluster", 31_000), "10.42.0.1@n1", None);
        check(service("NodePort", "Local", 31_000), "10.42.0.1@n1", None);
        check(service("LoadBalancer", "Local", 0), "10.42.0.1@n1", None);
    }

    async fn told(local_endpoints: usize, is_healthy: bool) -> (u16, Value) {
        let check = Check { namespace: "ns".into(), name: "web".into(), local_endpoints };
        let response = response(Some(&check), is_healthy);
        assert_eq!(response.headers()["X-Load-Balancing-Endpoint-Weight"], local_endpoints.to_string());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("memory").to_bytes();
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    #[tokio::test]
    async fn an_answer_says_how_many_there_are() {
        let body = |count: usize, healthy: bool| {
            let service = json!({"namespace": "ns", "name": "web"});
            json!({"service": service, "localEndpoints": count, "serviceProxyHealthy": healthy})
        };
        assert_eq!(told(2, true).await, (200, body(2, true)));
        assert_eq!(told(0, true).await, (503, body(0, true)));
        assert_eq!(told(2, false).await, (503, body(2, false)));
    }

    #[tokio::test]
    async fn ports_open_and_close_with_their_services() {
        let free = std::net::TcpListener::bind("0.0.0.0:0").expect("a port").local_addr().expect("an address").port();
        let mut health = Health::new();
        let check = Check { namespace: "ns".into(), name: "web".into(), local_endpoints: 1 };
        let open = async |wanted: bool| {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, free)).await.is_ok() != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        health.tell(Checks::from([(free, check)]), true);
        open(true).await;
        health.tell(Checks::new(), true);
        open(false).await;
    }
}
