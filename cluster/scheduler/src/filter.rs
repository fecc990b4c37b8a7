//! Why a pod cannot be on a node.
//!
//! Start at [`check`]: the filters in order, the first that objects is heard.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use client::Selector;
use k8s_openapi::api::core::v1::{Taint, TopologySpreadConstraint};

use crate::affinity::{neighbours, node_matches, required_affinity, required_anti_affinity, term_matches, tolerates};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// Why not, in upstream's words: `kubectl describe pod` shows them, and people search for them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Not this node by name.
    NodeName,
    /// Cordoned.
    Unschedulable,
    /// A taint nobody tolerates.
    Taint {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    },
    /// `nodeSelector` or required node affinity.
    NodeAffinity,
    /// A host port is taken.
    Ports,
    /// Not enough of a resource.
    Insufficient(String),
    /// The node has as many pods as it takes.
    TooManyPods,
    /// Required pod affinity.
    PodAffinity,
    /// Required pod anti-affinity of this pod.
    PodAntiAffinity,
    /// Required anti-affinity of a pod that is there.
    ExistingAntiAffinity,
    /// A hard topology spread constraint.
    Spread,
    /// The node lacks the label a hard topology spread constraint goes by.
    SpreadLabel,
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NodeName => write!(out, "node(s) didn't match the requested node name"),
            Reason::Unschedulable => write!(out, "node(s) were unschedulable"),
            Reason::Taint { key, value } => write!(out, "node(s) had untolerated taint {{{key}: {value}}}"),
            Reason::NodeAffinity => write!(out, "node(s) didn't match Pod's node affinity/selector"),
            Reason::Ports => write!(out, "node(s) didn't have free ports for the requested pod ports"),
            Reason::Insufficient(name) => write!(out, "Insufficient {name}"),
            Reason::TooManyPods => write!(out, "Too many pods"),
            Reason::PodAffinity => write!(out, "node(s) didn't match pod affinity rules"),
            Reason::PodAntiAffinity => write!(out, "node(s) didn't match pod anti-affinity rules"),
            Reason::ExistingAntiAffinity => write!(out, "node(s) didn't satisfy existing pods anti-affinity rules"),
            Reason::Spread => write!(out, "node(s) didn't match pod topology spread constraints"),
            Reason::SpreadLabel => {
                write!(out, "node(s) didn't match pod topology spread constraints (missing required label)")
            }
        }
    }
}

type Filter = fn(&PodInfo, &NodeInfo, &Snapshot) -> Vec<Reason>;

/// The filters in upstream's order: cheap ones first.
const FILTERS: [Filter; 8] = [unschedulable, node_name, taints, node_affinity, ports, resources, spread, pod_affinity];

/// What the first filter that objects says; nothing if the pod can be there.
pub(crate) fn check(pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> Vec<Reason> {
    FILTERS.iter().map(|filter| filter(pod, node, snapshot)).find(|reasons| !reasons.is_empty()).unwrap_or_default()
}

fn when(objection: bool, reason: Reason) -> Vec<Reason> {
    if objection { vec![reason] } else { Vec::new() }
}

fn unschedulable(pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> Vec<Reason> {
    let cordoned = node.node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
    let taint =
        Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    let tolerations = pod.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    when(cordoned && !tolerates(tolerations, &taint), Reason::Unschedulable)
}

fn node_name(pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> Vec<Reason> {
    when(pod.node_name().is_some_and(|name| node.node.metadata.name.as_deref() != Some(name)), Reason::NodeName)
}

fn taints(pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> Vec<Reason> {
    let tolerations = pod.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let taints = node.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let binding = taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    let untolerated = binding.filter(|taint| !tolerates(tolerations, taint)).take(1);
    untolerated
        .map(|taint| Reason::Taint { key: taint.key.clone(), value: taint.value.clone().unwrap_or_default() })
        .collect()
}

fn node_affinity(pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> Vec<Reason> {
    when(!node_matches(&pod.pod, node), Reason::NodeAffinity)
}

fn ports(pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> Vec<Reason> {
    let any = "0.0.0.0";
    let clash = |mine: &(String, String, i32), other: &(String, String, i32)| {
        let addresses = mine.1 == other.1 || mine.1 == any || other.1 == any;
        addresses && mine.0 == other.0 && mine.2 == other.2
    };
    let taken =
        pod.ports.iter().any(|mine| node.pods.iter().flat_map(|each| &each.ports).any(|other| clash(mine, other)));
    when(taken, Reason::Ports)
}

fn resources(pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if node.allocatable.0.contains_key("pods") && node.pods.len() as i64 >= node.allocatable.get("pods") {
        reasons.push(Reason::TooManyPods);
    }
    for (name, asked) in &pod.request.0 {
        let free = node.allocatable.get(name) - node.requested.get(name);
        if *asked > 0 && *asked > free {
            reasons.push(Reason::Insufficient(name.clone()));
        }
    }
    reasons
}

fn pod_affinity(pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> Vec<Reason> {
    let existing = snapshot.pods().any(|(other_node, other)| {
        required_anti_affinity(&other.pod).iter().any(|term| {
            let same = node
                .label(&term.topology_key)
                .is_some_and(|domain| other_node.label(&term.topology_key) == Some(domain));
            same && term_matches(term, &other.pod, &pod.pod, snapshot)
        })
    });
    if existing {
        return vec![Reason::ExistingAntiAffinity];
    }
    if required_anti_affinity(&pod.pod).iter().any(|term| neighbours(term, pod, node, snapshot) > 0) {
        return vec![Reason::PodAntiAffinity];
    }
    let terms = required_affinity(&pod.pod);
    if terms.iter().all(|term| neighbours(term, pod, node, snapshot) > 0) {
        return Vec::new();
    }
    // The first of a group that wants to be together has nobody to be with: it may go anywhere that has the labels.
    let first = terms.iter().all(|term| {
        let nobody = !snapshot.pods().any(|(_, other)| term_matches(term, &pod.pod, &other.pod, snapshot));
        nobody && term_matches(term, &pod.pod, &pod.pod, snapshot) && node.label(&term.topology_key).is_some()
    });
    when(!first, Reason::PodAffinity)
}

fn spread(pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> Vec<Reason> {
    let constraints = pod.pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_deref());
    let hard = constraints.unwrap_or_default().iter().filter(|each| each.when_unsatisfiable == "DoNotSchedule");
    hard.filter_map(|constraint| spread_objection(constraint, pod, node, snapshot)).take(1).collect()
}

fn spread_objection(
    constraint: &TopologySpreadConstraint,
    pod: &PodInfo,
    node: &NodeInfo,
    snapshot: &Snapshot,
) -> Option<Reason> {
    let Some(domain) = node.label(&constraint.topology_key) else { return Some(Reason::SpreadLabel) };
    let counts = spread_counts(constraint, pod, snapshot);
    let domains = counts.len() as i32;
    let enough_domains = constraint.min_domains.is_none_or(|least| domains >= least);
    let least = if enough_domains { counts.values().min().copied().unwrap_or_default() } else { 0 };
    let here = counts.get(domain).copied().unwrap_or_default() + i32::from(spread_selects(constraint, pod, pod));
    (here - least > constraint.max_skew).then_some(Reason::Spread)
}

/// How many pods that the constraint counts are in each topology domain that the pod could be in.
pub(crate) fn spread_counts(
    constraint: &TopologySpreadConstraint,
    pod: &PodInfo,
    snapshot: &Snapshot,
) -> BTreeMap<String, i32> {
    let honour_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let honour_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    let mut counts = BTreeMap::new();
    for node in snapshot.nodes.values() {
        let Some(domain) = node.label(&constraint.topology_key) else { continue };
        let excluded = (honour_affinity && !node_matches(&pod.pod, node))
            || (honour_taints && !taints(pod, node, snapshot).is_empty());
        if !excluded {
            let counted = node.pods.iter().filter(|other| spread_selects(constraint, pod, other)).count();
            *counts.entry(domain.to_owned()).or_default() += counted as i32;
        }
    }
    counts
}

fn spread_selects(constraint: &TopologySpreadConstraint, owner: &PodInfo, candidate: &PodInfo) -> bool {
    let none = BTreeMap::new();
    let labels = candidate.pod.metadata.labels.as_ref().unwrap_or(&none);
    let own = owner.pod.metadata.labels.as_ref().unwrap_or(&none);
    let keys: BTreeSet<&String> = constraint.match_label_keys.iter().flatten().collect();
    candidate.pod.metadata.namespace == owner.pod.metadata.namespace
        && candidate.pod.metadata.deletion_timestamp.is_none()
        && constraint.label_selector.as_ref().is_some_and(|selector| Selector::of(selector).matches(labels))
        && keys.iter().all(|key| own.get(*key).is_none_or(|value| labels.get(*key) == Some(value)))
}
