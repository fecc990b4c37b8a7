//! Which of the nodes that can take a pod is best.
//!
//! Start at [`scores`]: a list of judges with weights, each giving every node 0 to [`FULL`].
//!
//! The judges and their weights are those of upstream's default profile, image locality left out.

use std::collections::BTreeMap;

use crate::affinity::{neighbours, node_term_matches, term_matches, tolerates};
use crate::filter::spread_counts;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// The best mark a judge gives.
const FULL: i64 = 100;

type Judge = fn(&PodInfo, &[&NodeInfo], &Snapshot) -> Vec<i64>;

/// The judges and how much each counts.
const JUDGES: [(Judge, i64); 7] =
    [(room, 1), (balance, 1), (taints, 3), (node_affinity, 2), (pod_affinity, 2), (spread, 2), (siblings, 2)];

/// The sum of all marks, node by node.
pub(crate) fn scores(pod: &PodInfo, nodes: &[&NodeInfo], snapshot: &Snapshot) -> Vec<i64> {
    let mut total = vec![0; nodes.len()];
    for (judge, weight) in JUDGES {
        for (sum, mark) in total.iter_mut().zip(judge(pod, nodes, snapshot)) {
            *sum += mark * weight;
        }
    }
    total
}

/// Upstream counts a pod that asks for nothing as if it asked for a little, so that such pods spread too.
const MILLI_CPU_UNASKED: i64 = 100;
const MEMORY_UNASKED: i64 = 200 << 20;

fn with_default(pod: &PodInfo, resource: &str) -> i64 {
    match (pod.request.get(resource), resource) {
        (0, "cpu") => MILLI_CPU_UNASKED,
        (0, "memory") => MEMORY_UNASKED,
        (asked, _) => asked,
    }
}

/// The part of a resource that would be used, in thousandths.
fn used(pod: &PodInfo, node: &NodeInfo, resource: &str) -> i64 {
    let has = node.allocatable.get(resource);
    let wants = with_default(pod, resource) + node.pods.iter().map(|each| with_default(each, resource)).sum::<i64>();
    if has <= 0 { 1000 } else { (wants.min(has) as i128 * 1000 / has as i128) as i64 }
}

/// More room is better (LeastAllocated).
fn room(pod: &PodInfo, nodes: &[&NodeInfo], _: &Snapshot) -> Vec<i64> {
    nodes.iter().map(|node| FULL - (used(pod, node, "cpu") + used(pod, node, "memory")) / 2 * FULL / 1000).collect()
}

/// Processor and memory used alike are better (BalancedAllocation).
fn balance(pod: &PodInfo, nodes: &[&NodeInfo], _: &Snapshot) -> Vec<i64> {
    nodes
        .iter()
        .map(|node| FULL - (used(pod, node, "cpu") - used(pod, node, "memory")).abs() / 2 * FULL / 1000)
        .collect()
}

/// Fewer soft taints that are not tolerated are better.
fn taints(pod: &PodInfo, nodes: &[&NodeInfo], _: &Snapshot) -> Vec<i64> {
    let tolerations = pod.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let count = |node: &&NodeInfo| {
        let taints = node.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let soft = taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        soft.filter(|taint| !tolerates(tolerations, taint)).count() as i64
    };
    fewer_is_better(&nodes.iter().map(count).collect::<Vec<_>>())
}

/// More weight of preferred node terms is better.
fn node_affinity(pod: &PodInfo, nodes: &[&NodeInfo], _: &Snapshot) -> Vec<i64> {
    let affinity = pod.pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let preferred = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
    let terms = preferred.and_then(|each| each.preferred_during_scheduling_ignored_during_execution.as_deref());
    let weight = |node: &&NodeInfo| {
        let matching = terms.unwrap_or_default().iter().filter(|term| node_term_matches(&term.preference, node));
        matching.map(|term| i64::from(term.weight)).sum()
    };
    more_is_better(&nodes.iter().map(weight).collect::<Vec<_>>())
}

/// More weight of preferred neighbours is better, of both sides' terms; anti-affinity counts against.
fn pod_affinity(pod: &PodInfo, nodes: &[&NodeInfo], snapshot: &Snapshot) -> Vec<i64> {
    let weight = |node: &&NodeInfo| {
        let mine: i64 = preferences(pod)
            .into_iter()
            .map(|(term, weight)| neighbours(term, pod, node, snapshot) as i64 * weight)
            .sum();
        let theirs: i64 = snapshot
            .pods()
            .flat_map(|(other_node, other)| preferences(other).into_iter().map(move |each| (other_node, other, each)))
            .filter(|(other_node, other, (term, _))| {
                let domain = node.label(&term.topology_key);
                domain.is_some()
                    && other_node.label(&term.topology_key) == domain
                    && term_matches(term, &other.pod, &pod.pod, snapshot)
            })
            .map(|(_, _, (_, weight))| weight)
            .sum();
        mine + theirs
    };
    more_is_better(&nodes.iter().map(weight).collect::<Vec<_>>())
}

fn preferences(pod: &PodInfo) -> Vec<(&k8s_openapi::api::core::v1::PodAffinityTerm, i64)> {
    let Some(affinity) = pod.pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return Vec::new() };
    let wanted =
        affinity.pod_affinity.iter().flat_map(|each| &each.preferred_during_scheduling_ignored_during_execution);
    let unwanted =
        affinity.pod_anti_affinity.iter().flat_map(|each| &each.preferred_during_scheduling_ignored_during_execution);
    let wanted = wanted.flatten().map(|term| (&term.pod_affinity_term, i64::from(term.weight)));
    wanted.chain(unwanted.flatten().map(|term| (&term.pod_affinity_term, -i64::from(term.weight)))).collect()
}

/// Fewer of the pods counted by soft spread constraints in the node's domain are better.
fn spread(pod: &PodInfo, nodes: &[&NodeInfo], snapshot: &Snapshot) -> Vec<i64> {
    let constraints = pod.pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_deref());
    let mut total = vec![0; nodes.len()];
    for constraint in constraints.unwrap_or_default().iter().filter(|each| each.when_unsatisfiable == "ScheduleAnyway")
    {
        let counts = spread_counts(constraint, pod, snapshot);
        for (sum, node) in total.iter_mut().zip(nodes) {
            let domain = node.label(&constraint.topology_key).unwrap_or_default();
            *sum += i64::from(counts.get(domain).copied().unwrap_or_default());
        }
    }
    fewer_is_better(&total)
}

/// Fewer pods of the same owner are better: what upstream's default spread constraints do for pods that have none.
fn siblings(pod: &PodInfo, nodes: &[&NodeInfo], _: &Snapshot) -> Vec<i64> {
    let owner = |pod: &PodInfo| {
        let owners = pod.pod.metadata.owner_references.as_deref().unwrap_or_default();
        owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone())
    };
    let Some(mine) = owner(pod) else { return vec![FULL; nodes.len()] };
    let count = |node: &&NodeInfo| node.pods.iter().filter(|each| owner(each).as_ref() == Some(&mine)).count() as i64;
    fewer_is_better(&nodes.iter().map(count).collect::<Vec<_>>())
}

fn more_is_better(raw: &[i64]) -> Vec<i64> {
    let (low, high) = (raw.iter().min().copied().unwrap_or_default(), raw.iter().max().copied().unwrap_or_default());
    raw.iter().map(|mark| if high == low { 0 } else { (mark - low) * FULL / (high - low) }).collect()
}

fn fewer_is_better(raw: &[i64]) -> Vec<i64> {
    let high = raw.iter().max().copied().unwrap_or_default();
    raw.iter().map(|mark| if high == 0 { FULL } else { FULL - mark * FULL / high }).collect()
}

/// Breaks ties: the same pod always likes the same node, and different pods different ones (FNV-1a).
pub(crate) fn taste(pod: &PodInfo, node: &str) -> u64 {
    let uid = pod.pod.metadata.uid.as_deref().unwrap_or_default();
    let bytes = uid.bytes().chain([0]).chain(node.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Sums by name, for tests and explanations.
pub(crate) fn by_name(nodes: &[&NodeInfo], scores: &[i64]) -> BTreeMap<String, i64> {
    let name = |node: &&NodeInfo| node.node.metadata.name.clone().unwrap_or_default();
    nodes.iter().map(name).zip(scores.iter().copied()).collect()
}
