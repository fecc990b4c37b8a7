//! Watches over nodes: who stopped reporting, which taints that brings, and which addresses a node may give its pods.
//!
//! Start at [`Lifecycle`].
//!
//! Invariants:
//! * silence is measured by the stopwatch since the last report was *seen*: a clock that jumps fails no node, and a
//!   restarted controller gives every node its full time again;
//! * pods are asked to leave a node (`NoExecute`) only as `zones.rs` allows, and never when all nodes are silent;
//! * a node's address range never changes once it has one, and no two nodes have the same.
//!
//! Not here: reporting (`kubelet`), who leaves a tainted node when (`taints.rs`), pods of nodes that are gone (`podgc.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Monotonic, Timestamp};
use client::{Collection, Entry, Kind, Resource};
use control::{About, Key, Note, Outcome, Reconciler, Regarding, View, Write};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition, Taint};

use crate::placement::taints;
use crate::pods::{node_name, phase, set_condition};
use crate::times::time;
use crate::zones::{Moves, Zones};

/// Where nodes keep their leases.
const LEASES: &str = "kube-node-lease";
/// The key under which address ranges are given out, one node after another.
const RANGES: &str = "*ranges*";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions of a node that keep new pods away while they are true.
const PRESSURES: &[(&str, &str)] = &[
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// Conditions, taints and address ranges of nodes.
pub struct Lifecycle {
    /// The pods' network; each node gets a /24 of it.
    cluster_network: (Ipv4Addr, u8),
    /// A node that is silent for so long is not known to be ready.
    grace: Duration,
    /// The newest report of each node, and when it was seen.
    seen: Mutex<BTreeMap<String, (String, Monotonic)>>,
    /// Whether each node was last seen ready.
    ready: Mutex<BTreeMap<String, bool>>,
    zones: Mutex<Zones>,
}

impl Lifecycle {
    /// Gives out ranges of this network, and has so much patience with silent nodes.
    pub fn new(cluster_network: (Ipv4Addr, u8), grace: Duration) -> Lifecycle {
        Lifecycle { cluster_network, grace, seen: Mutex::default(), ready: Mutex::default(), zones: Mutex::default() }
    }

    /// How long a node has been silent.
    fn silence(&self, view: &View<'_>, node: &Node) -> Duration {
        let lease = view.get::<Lease>(LEASES, node.name());
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.clone()).map(|time| time.0.to_string());
        let ready =
            condition(node, "Ready").and_then(|ready| ready.last_heartbeat_time.clone()).map(|time| time.0.to_string());
        let report = format!("{renewed:?} {ready:?}");
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get(node.name()) {
            Some((known, at)) if *known == report => view.at().since(*at),
            _ => {
                seen.insert(node.name().to_owned(), (report, view.at()));
                Duration::ZERO
            }
        }
    }

    fn judge(&self, view: &View<'_>, node: &Node, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::none();
        let silence = self.silence(view, node);
        let mut seen = node.clone();
        if silence >= self.grace {
            // Only a report changes anything now, and reports are events.
            mark_unknown(&mut seen, now);
        } else {
            outcome.again((self.grace - silence).max(Duration::from_secs(1)));
        }
        if seen.status != node.status {
            outcome.writes.push(Write::status(&seen));
            let message = format!("Node {} status is now: NodeNotReady", node.name());
            outcome.events.push(Note::normal(&Regarding::object(node), "NodeNotReady", message));
        } else {
            self.taint(view, &mut seen, now, &mut outcome);
        }
        if condition(&seen, "Ready").is_some_and(|ready| ready.status != "True") {
            outcome.writes.extend(pods_on(view, node.name()).iter().filter_map(|pod| unready(pod, now)));
        }
        outcome
    }

    /// Gives a node the taints that belong to its conditions, as far as its pods may be moved now.
    fn taint(&self, view: &View<'_>, node: &mut Node, now: Timestamp, outcome: &mut Outcome) {
        let mut wanted = wanted_taints(node, now);
        let moves =
            |taint: &Taint| taint.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str());
        if wanted.iter().any(moves) {
            let has_begun = taints(node).iter().any(moves);
            match self.moves(view, node, has_begun) {
                Moves::Now => {}
                Moves::Later(wait) => {
                    wanted.retain(|taint| !moves(taint));
                    outcome.again(wait);
                }
                Moves::Hold | Moves::TakeBack => wanted.retain(|taint| !moves(taint)),
            }
        }
        if wanted != taints(node) {
            node.spec.get_or_insert_default().taints = Some(wanted).filter(|taints| !taints.is_empty());
            outcome.writes.push(Write::update(node));
        }
    }

    /// What was begun goes on, unless all nodes are silent.
    fn moves(&self, view: &View<'_>, node: &Node, has_begun: bool) -> Moves {
        let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = view.list::<Node>(None);
        match has_begun {
            true if nodes.iter().any(|node| is_ready(node)) => Moves::Now,
            _ => zones.moves(&nodes, node, self.grace, view.at()),
        }
    }

    /// Whether a node is ready that was not when it was last heard of, or the other way round.
    fn has_turned(&self, name: &str, ready: Option<bool>) -> bool {
        let mut known = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        match ready {
            Some(ready) => known.insert(name.to_owned(), ready) != Some(ready),
            None => known.remove(name).is_some(),
        }
    }

    fn give_ranges(&self, view: &View<'_>) -> Outcome {
        let nodes = view.list::<Node>(None);
        let range =
            |node: &Node| node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()).filter(|range| !range.is_empty());
        let mut taken: BTreeSet<String> = nodes.iter().filter_map(|node| range(node)).collect();
        let mut outcome = Outcome::none();
        for node in nodes.iter().filter(|node| range(node).is_none() && !node.deleting()) {
            let (base, bits) = self.cluster_network;
            let count = 1u32 << 24u8.saturating_sub(bits).min(16);
            let ranges = (0..count).map(|index| format!("{}/24", Ipv4Addr::from(u32::from(base) + (index << 8))));
            let Some(free) = ranges.into_iter().find(|range| !taken.contains(range)) else {
                let about = Regarding::object(&**node);
                outcome.events.push(Note::warning(
                    &about,
                    "CIDRNotAvailable",
                    format!("Node {} status is now: CIDRNotAvailable", node.name()),
                ));
                continue;
            };
            taken.insert(free.clone());
            let patch = serde_json::json!({"spec": {"podCIDR": free, "podCIDRs": [free]}});
            outcome.writes.push(Write::patch(&**node, "", patch));
        }
        outcome
    }
}

impl Reconciler for Lifecycle {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Node::RESOURCE, Lease::RESOURCE, Pod::RESOURCE];
        About {
            name: "node-controller",
            reads: READS,
            writes: &["nodes.status.conditions", "nodes.spec.taints", "nodes.spec.podCIDR"],
            everything: false,
        }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        match collection.resource.as_str() {
            // How many are ready decides about the pods of those that are not.
            "nodes" => {
                let name = &entry.meta.name;
                let now = view.get::<Node>("", name).map(|node| is_ready(&node));
                let all = if self.has_turned(name, now) { view.list::<Node>(None) } else { Vec::new() };
                let mut keys: Vec<Key> = all.iter().map(|node| Key::new("", node.name())).collect();
                keys.extend([Key::new("", name), Key::new("", RANGES)]);
                keys
            }
            "leases" if entry.meta.namespace == LEASES => vec![Key::new("", &entry.meta.name)],
            // Pods of a node that is not ready must not be ready either.
            "pods" => {
                let node = entry.typed::<Pod>().map(|pod| node_name(&pod).to_owned()).unwrap_or_default();
                let is_sick = |node: &Node| condition(node, "Ready").is_some_and(|ready| ready.status != "True");
                let sick = view.get::<Node>("", &node).filter(|node| is_sick(node));
                sick.map(|node| Key::new("", node.name())).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        if key.name == RANGES {
            return self.give_ranges(view);
        }
        match view.get::<Node>("", &key.name) {
            Some(node) => self.judge(view, &node, now),
            None => {
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.name);
                Outcome::none()
            }
        }
    }
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|each| each.type_ == type_)
}

/// Whether a node says that it is ready, and is believed.
pub fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Nobody knows any more how a silent node is.
fn mark_unknown(node: &mut Node, now: Timestamp) {
    let status = node.status.get_or_insert_default();
    for type_ in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let known = status.conditions.iter().flatten().find(|each| each.type_ == type_);
        let (reason, message) = match known {
            Some(known) if known.status == "Unknown" => continue,
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        set_condition::<NodeCondition>(&mut status.conditions, type_, "Unknown", reason, message, now);
    }
}

/// The pods of a node that are not over.
pub fn pods_on(view: &View<'_>, node: &str) -> Vec<Arc<Pod>> {
    let mut pods = view.list::<Pod>(None);
    pods.retain(|pod| node_name(pod) == node && !matches!(phase(pod), "Succeeded" | "Failed"));
    pods
}

/// Takes a pod of a node that is not ready out of its Services.
fn unready(pod: &Pod, now: Timestamp) -> Option<Write> {
    let mut status = pod.status.clone()?;
    status.conditions.iter().flatten().find(|each| each.type_ == "Ready" && each.status == "True")?;
    set_condition::<PodCondition>(&mut status.conditions, "Ready", "False", "", "", now);
    Some(Write::status(&Pod { status: Some(status), ..pod.clone() }))
}

/// The taints that a node's conditions ask for, among those that others set.
fn wanted_taints(node: &Node, now: Timestamp) -> Vec<Taint> {
    let ready = condition(node, "Ready").map_or("Unknown", |ready| ready.status.as_str());
    let is_never_seen = condition(node, "Ready").is_none();
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let mut asked: BTreeSet<(&str, &str)> = BTreeSet::new();
    match ready {
        "True" => {}
        "False" => asked.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        _ if is_never_seen => asked.extend([(NOT_READY, "NoSchedule")]),
        _ => asked.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
    }
    for (type_, key) in PRESSURES {
        if condition(node, type_).is_some_and(|each| each.status == "True") {
            asked.insert((key, "NoSchedule"));
        }
    }
    if unschedulable {
        asked.insert((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |key: &str| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key) || PRESSURES.iter().any(|(_, taint)| *taint == key)
    };
    let mut wanted: Vec<Taint> = taints(node).to_vec();
    let before = asked.clone();
    wanted.retain(|taint| {
        !ours(&taint.key) || before.iter().any(|(key, effect)| *key == taint.key && *effect == taint.effect)
    });
    asked.retain(|(key, effect)| !wanted.iter().any(|taint| taint.key == *key && taint.effect == *effect));
    wanted.extend(asked.into_iter().map(|(key, effect)| Taint {
        key: key.to_owned(),
        effect: effect.to_owned(),
        value: None,
        time_added: Some(time(now)),
    }));
    wanted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{World, body, lines};

    fn node(world: &mut World, ready: &str, extra: serde_json::Value) {
        let mut spec = json!({"podCIDR": "10.42.0.0/24"});
        spec.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
        world.put(Node::RESOURCE, json!({"metadata": {"name": "a"}, "spec": spec,
            "status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-11-23T19:59:00Z"}]}}));
    }

    const GRACE: Duration = Duration::from_secs(20);

    fn lifecycle() -> Lifecycle {
        Lifecycle::new((Ipv4Addr::new(10, 42, 0, 0), 16), GRACE)
    }

    /// A node that is ready and never falls silent.
    fn neighbour(world: &mut World) {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        world.put(Node::RESOURCE, json!({"metadata": {"name": "b"}, "status": {"conditions": ready}}));
    }

    #[test]
    fn a_silent_node_becomes_unknown_and_then_tainted() {
        let mut world = World::default();
        node(&mut world, "True", json!({}));
        neighbour(&mut world);
        world.pod("p", "s", "ReplicaSet", "web", "");
        let lifecycle = lifecycle();
        assert!(lines(&world.reconcile(&lifecycle, "", "a")).is_empty());
        world.at = world.at.plus(GRACE);
        let outcome = world.reconcile(&lifecycle, "", "a");
        assert_eq!(lines(&outcome), ["update nodes/status a"]);
        world.put(Node::RESOURCE, body(&outcome, "update nodes/status a"));
        let outcome = world.reconcile(&lifecycle, "", "a");
        let taints = body(&outcome, "update nodes a")["spec"]["taints"].clone();
        assert_eq!((&taints[0]["key"], &taints[0]["effect"]), (&json!(UNREACHABLE), &json!("NoExecute")));
    }

    #[test]
    fn a_jump_of_the_clock_fails_no_node() {
        let mut world = World::default();
        node(&mut world, "True", json!({}));
        let lifecycle = lifecycle();
        world.reconcile(&lifecycle, "", "a");
        world.now = world.now.plus(Duration::from_secs(1_000_000));
        assert!(lines(&world.reconcile(&lifecycle, "", "a")).is_empty());
    }

    #[test]
    fn taints_follow_the_conditions_and_leave_others_alone() {
        let mut world = World::default();
        let taints = json!([{"key": "mine", "effect": "NoSchedule"}, {"key": NOT_READY, "effect": "NoSchedule"}]);
        node(&mut world, "True", json!({"taints": taints, "unschedulable": true}));
        let outcome = world.reconcile(&lifecycle(), "", "a");
        let taints = body(&outcome, "update nodes a")["spec"]["taints"].clone();
        let keys: Vec<&str> =
            taints.as_array().expect("taints").iter().filter_map(|taint| taint["key"].as_str()).collect();
        assert_eq!(keys, ["mine", UNSCHEDULABLE]);
    }

    #[test]
    fn each_node_gets_a_range_of_its_own() {
        let mut world = World::default();
        node(&mut world, "True", json!({}));
        world.put(Node::RESOURCE, json!({"metadata": {"name": "b"}}));
        let outcome = world.reconcile(&lifecycle(), "", RANGES);
        assert_eq!(body(&outcome, "patch nodes b")["spec"]["podCIDR"], "10.42.1.0/24");
    }

    fn keys_of_taints(node: &serde_json::Value) -> Vec<String> {
        let word = |taint: &serde_json::Value, field: &str| taint[field].as_str().unwrap_or_default().to_owned();
        let taints = node["spec"]["taints"].as_array();
        taints.into_iter().flatten().map(|taint| format!("{}:{}", word(taint, "key"), word(taint, "effect"))).collect()
    }

    #[test]
    fn nobodys_pods_move_when_all_nodes_are_silent() {
        let mut world = World::default();
        node(&mut world, "Unknown", json!({"taints": [{"key": UNREACHABLE, "effect": "NoExecute"}]}));
        let outcome = world.reconcile(&lifecycle(), "", "a");
        assert_eq!(keys_of_taints(&body(&outcome, "update nodes a")), [format!("{UNREACHABLE}:NoSchedule")]);
    }

    #[test]
    fn the_return_of_one_node_is_news_to_all() {
        let mut world = World::default();
        node(&mut world, "Unknown", json!({}));
        neighbour(&mut world);
        let caches = world.caches.clone();
        world.reconcile(&lifecycle(), "", "a");
        let lifecycle = lifecycle();
        let entry = caches.open(&Node::RESOURCE.all()).entry("", "b").expect("a node");
        let keys = |lifecycle: &Lifecycle| lifecycle.keys(&View::new(&caches), &Node::RESOURCE.all(), &entry).len();
        assert_eq!((keys(&lifecycle), keys(&lifecycle)), (4, 2), "the second time it is no news");
    }
}
