//! The role that keeps the ways to other nodes' pods: it tells `podnet` which nodes there are, and the cluster whether this
//! node reaches them.
//!
//! Start at [`run`]. It looks again when a Node changes in what concerns routes, and when the kernel tells of a change of
//! links, addresses or routes; a Node's heartbeats are nothing to it.
//!
//! Invariants:
//! * before the Nodes are known nothing is taken away: what was remembered holds;
//! * who is out of reach is said in the node's condition `NetworkUnavailable`. It is true, and keeps new pods away, only where
//!   the cluster's oldest node is out of reach: so one node in a wrong network closes that node, and not all the others.
//!
//! Not here: routes (`podnet::peers`), the address of this node (`kubelet` tells it in the Node).

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, chain};
use client::{Cache, Caches, Client, ClientError, Kind};
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use podnet::peers::{Plan, parse_net};
use podnet::{Peer, PodNet, PodNetError};
use serde_json::{Value, json};
use sys::net::monitor::Monitor;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// Changes of links and routes come in flocks: a pod that starts makes several.
const GATHER: Duration = Duration::from_millis(50);
/// After a failure it is looked again.
const RETRY: Duration = Duration::from_secs(2);
const CONDITION: &str = "NetworkUnavailable";

/// Why the ways to other nodes are not kept.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// The kernel does not tell of changes.
    #[error("failed to watch the links and routes of this node")]
    Monitor(#[source] io::Error),
}

/// What the role needs.
pub struct Peers {
    /// This node's name.
    pub node: String,
    /// Its pod network.
    pub net: Arc<PodNet>,
    /// The way to tell.
    pub client: Client,
    /// Where Nodes are read.
    pub caches: Arc<Caches>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// What routes are made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    peers: Vec<Peer>,
    own: Option<Ipv4Addr>,
    /// The node in whose network the cluster is.
    oldest: String,
}

/// Keeps the ways, until the kernel cannot be watched any more.
pub async fn run(peers: Peers) -> Result<(), PeersError> {
    let monitor = watched().map_err(PeersError::Monitor)?;
    let nodes = peers.caches.of::<Node>();
    nodes.wait_synced().await;
    let mut changed = nodes.changed();
    loop {
        changed.mark_unchanged();
        let seen = seen(&nodes.list::<Node>(None), &peers.node);
        let is_done = match route(&peers.net, seen.clone()).await {
            Ok(plan) => tell(&peers, &nodes, &seen, &plan).await,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "failed to make the routes to other nodes' pods");
                false
            }
        };
        tokio::select! {
            () = differs(&mut changed, &nodes, &peers, &seen) => {}
            told = told(&monitor) => told.map_err(PeersError::Monitor)?,
            () = tokio::time::sleep(RETRY), if !is_done => {}
        }
    }
}

fn watched() -> io::Result<AsyncFd<Monitor>> {
    // `new` is deprecated because some type could change its descriptor; a `Monitor` does not, and the successor of `new` is
    // unsafe, which this crate has none of.
    #[allow(deprecated)]
    AsyncFd::new(Monitor::open()?)
}

async fn route(net: &Arc<PodNet>, seen: Seen) -> Result<Plan, PodNetError> {
    let net = net.clone();
    let work = move || net.set_peers(&seen.peers, seen.own);
    let panicked = |_| PodNetError::System {
        action: "make the routes to other nodes' pods".to_owned(),
        source: io::Error::other("the thread that makes them panicked"),
    };
    tokio::task::spawn_blocking(work).await.map_err(panicked)?
}

/// Waits until the Nodes say something else, or this node's condition is not what was told.
async fn differs(changed: &mut watch::Receiver<u64>, nodes: &Cache, peers: &Peers, before: &Seen) {
    let shown = |nodes: &Cache| nodes.get::<Node>("", &peers.node).and_then(|node| condition(&node).cloned());
    let condition_before = shown(nodes);
    while changed.changed().await.is_ok() {
        if seen(&nodes.list::<Node>(None), &peers.node) != *before || shown(nodes) != condition_before {
            return;
        }
    }
    // The cache lives as long as we hold it.
    std::future::pending::<()>().await;
}

/// Waits until the kernel tells of a change, and for what comes with it.
async fn told(monitor: &AsyncFd<Monitor>) -> io::Result<()> {
    loop {
        let mut ready = monitor.readable().await?;
        ready.clear_ready();
        if monitor.get_ref().take()? {
            tokio::time::sleep(GATHER).await;
            monitor.get_ref().take()?;
            return Ok(());
        }
    }
}

fn seen(nodes: &[Arc<Node>], own: &str) -> Seen {
    let mut peers: Vec<Peer> = nodes.iter().filter(|node| node.name() != own).filter_map(|node| peer(node)).collect();
    peers.sort();
    let age = |node: &&Arc<Node>| (node.metadata.creation_timestamp.clone().map(|time| time.0), node.name().to_owned());
    let oldest = nodes.iter().filter(|node| range(node).is_some()).min_by_key(age);
    let address = nodes.iter().find(|node| node.name() == own).and_then(|node| address(node));
    Seen { peers, own: address, oldest: oldest.map(|node| node.name().to_owned()).unwrap_or_default() }
}

/// A node that has no addresses for pods yet has no pods either.
fn peer(node: &Node) -> Option<Peer> {
    Some(Peer { node: node.name().to_owned(), pods: parse_net(range(node)?)?, address: address(node) })
}

fn range(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.pod_cidr.as_deref().filter(|range| !range.is_empty())
}

fn address(node: &Node) -> Option<Ipv4Addr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).next()
}

fn condition(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|each| each.type_ == CONDITION)
}

/// Says in the Node who is reached, if it does not say so already; whether that is done.
async fn tell(peers: &Peers, nodes: &Cache, seen: &Seen, plan: &Plan) -> bool {
    // A node that is not registered yet is told of when it is.
    let Some(node) = nodes.get::<Node>("", &peers.node) else { return true };
    let (status, reason, message) = verdict(seen, &peers.node, plan);
    let shown = condition(&node);
    let says = |it: &NodeCondition| {
        it.status == status && it.reason.as_deref() == Some(reason) && it.message.as_ref() == Some(&message)
    };
    if shown.is_some_and(says) {
        return true;
    }
    if !plan.blocked.is_empty() {
        tracing::warn!("{message}");
    }
    let since = shown.filter(|it| it.status == status).and_then(|it| it.last_transition_time.clone());
    let now = peers.clock.now().rfc3339();
    let since = since.map_or_else(|| json!(now), |since| json!(since));
    let sent = send(&peers.client, &peers.node, status, reason, &message, &since, &now).await;
    sent.inspect_err(|error| tracing::warn!(error = %chain(error), "the node's {CONDITION} was not taken")).is_ok()
}

async fn send(
    client: &Client,
    node: &str,
    status: &str,
    reason: &str,
    message: &str,
    since: &Value,
    now: &str,
) -> Result<(), ClientError> {
    let condition = json!({
        "type": CONDITION, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since, "lastHeartbeatTime": now,
    });
    let patch = json!({"status": {"conditions": [condition]}});
    client.patch::<Node>("", node, "status", client::typed::STRATEGIC_PATCH, &patch).await.map(drop)
}

/// Status, reason and message of the condition. Where all is well they are those of upstream's route controller.
fn verdict(seen: &Seen, own: &str, plan: &Plan) -> (&'static str, &'static str, String) {
    if plan.blocked.is_empty() {
        return ("False", "RouteCreated", "the pods of all other nodes are within reach".to_owned());
    }
    let blocked: Vec<String> = plan.blocked.iter().map(ToString::to_string).collect();
    let message = format!("pods are out of reach: {}", blocked.join("; "));
    let is_cut_off = seen.oldest != own && !seen.oldest.is_empty() && !plan.reaches(&seen.oldest);
    if is_cut_off { ("True", "NoRouteToCluster", message) } else { ("False", "NoRouteToSomeNodes", message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podnet::peers::{Blocked, Way, Why};

    /// Nodes, oldest first: `name range address`, `-` for what is missing.
    fn nodes(text: &str) -> Vec<Arc<Node>> {
        let node = |(age, line): (usize, &str)| {
            let [name, range, address] = line.split(' ').collect::<Vec<_>>().try_into().expect("three words");
            let addresses = [("Hostname", name), ("InternalIP", address)];
            let addresses = addresses.iter().filter(|(_, address)| *address != "-");
            let addresses: Vec<Value> =
                addresses.map(|(kind, address)| json!({"type": kind, "address": address})).collect();
            let spec = if range == "-" { json!({}) } else { json!({"podCIDR": range}) };
            let made = format!("2026-11-24T00:00:{age:02}Z");
            let node = json!({
                "metadata": {"name": name, "creationTimestamp": made},
                "spec": spec, "status": {"addresses": addresses},
            });
            Arc::new(serde_json::from_value(node).expect("a Node"))
        };
        text.split(", ").enumerate().map(node).collect()
    }

    #[test]
    fn nodes_without_a_range_have_no_pods() {
        let seen = seen(
            &nodes("c - 192.168.7.4, b 10.42.1.0/24 192.168.7.3, a 10.42.0.0/24 192.168.7.2, d 10.42.3.0/24 -"),
            "a",
        );
        let told: Vec<String> = seen.peers.iter().map(|peer| format!("{} {}", peer.node, peer.pods)).collect();
        assert_eq!(told, ["b 10.42.1.0/24", "d 10.42.3.0/24"]);
        assert_eq!((seen.own, seen.oldest.as_str()), (Some(Ipv4Addr::new(192, 168, 7, 2)), "b"));
    }

    /// What node `a` says of itself, with these nodes blocked, among `old`, `a` and `new` by age.
    #[track_caller]
    fn check(own: &str, blocked: &str, want: &str) {
        let seen = Seen { oldest: "old".to_owned(), ..Seen::default() };
        let net = parse_net("10.42.1.0/24").expect("a net");
        let why = Why::NotOnLink(Ipv4Addr::new(10, 9, 0, 4));
        let mut plan = Plan::default();
        for node in ["old", "a", "new"].into_iter().filter(|node| *node != own) {
            let node = node.to_owned();
            if blocked.contains(&node) {
                plan.blocked.push(Blocked { node, to: net, why });
            } else {
                let via = Ipv4Addr::new(192, 168, 7, 3);
                plan.ways.push(Way { node, to: net, via, link: "eth0".to_owned(), index: 2 });
            }
        }
        let (status, reason, message) = verdict(&seen, own, &plan);
        assert_eq!(format!("{status} {reason}"), want);
        assert!(
            blocked.split_whitespace().all(|node| message.contains(&format!("of node {node}: its address 10.9.0.4"))),
            "{message}"
        );
    }

    #[test]
    fn a_node_that_reaches_all_is_available() {
        check("a", "", "False RouteCreated");
    }

    #[test]
    fn only_who_is_cut_off_from_the_oldest_is_closed() {
        check("a", "old", "True NoRouteToCluster");
        check("a", "old new", "True NoRouteToCluster");
        check("a", "new", "False NoRouteToSomeNodes");
        check("old", "a new", "False NoRouteToSomeNodes");
    }
}
