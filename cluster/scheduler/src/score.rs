//! Which of the nodes that can take a pod is best.
//!
//! Start at [`scores`]: a list of judges with weights, each giving every node 0 to [`FULL`].
//!
//! The judges and their weights are those of upstream's default profile. Where upstream spreads the pods of a Service or a
//! controller by default constraints, [`siblings`] counts pods of the same controller.

use std::collections::BTreeMap;

use crate::affinity::{Term, preferences, required_affinity, tolerates};
use crate::filter::tolerations;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot, normal_image};
use crate::spread::Spread;

/// The best mark a judge gives.
const FULL: i64 = 100;

type Judge = fn(&PodInfo, &[&NodeInfo], &Snapshot) -> Vec<i64>;

/// The judges and how much each counts.
const JUDGES: [(Judge, i64); 8] = [
    (room, 1),
    (balance, 1),
    (taints, 3),
    (node_affinity, 2),
    (pod_affinity, 2),
    (spread, 2),
    (siblings, 2),
    (images, 1),
];

/// The sum of all marks, node by node.
pub(crate) fn scores(pod: &PodInfo, nodes: &[&NodeInfo], snapshot: &Snapshot) -> Vec<i64> {
    let mut total = vec![0; nodes.len()];
    for (judge, weight) in JUDGES {
        // A judge who has nothing to say gives no marks.
        for (sum, mark) in total.iter_mut().zip(judge(pod, nodes, snapshot)) {
            *sum += mark * weight;
        }
    }
    total
}

/// The parts of processor and memory that would be used, in thousandths.
fn used(pod: &PodInfo, node: &NodeInfo) -> (i64, i64) {
    let part =
        |wants: i64, has: i64| if has <= 0 { 1000 } else { (wants.min(has) as f64 * 1000.0 / has as f64) as i64 };
    (
        part(pod.weight.0 + node.weight.0, node.allocatable.milli_cpu),
        part(pod.weight.1 + node.weight.1, node.allocatable.memory),
    )
}

/// More room is better (LeastAllocated).
fn room(pod: &PodInfo, nodes: &[&NodeInfo], _: &Snapshot) -> Vec<i64> {
    let mark = |(cpu, memory): (i64, i64)| FULL - (cpu + memory) / 2 * FULL / 1000;
    nodes.iter().map(|node| mark(used(pod, node))).collect()
}

/// Processor and memory used alike are better (BalancedAllocation).
fn balance(pod: &PodInfo, nodes: &[&NodeInfo], _: &Snapshot) -> Vec<i64> {
    let mark = |(cpu, memory): (i64, i64)| FULL - (cpu - memory).abs() / 2 * FULL / 1000;
    nodes.iter().map(|node| mark(used(pod, node))).collect()
}

/// Fewer soft taints that are not tolerated are better.
fn taints(pod: &PodInfo, nodes: &[&NodeInfo], _: &Snapshot) -> Vec<i64> {
    let tolerations = tolerations(pod);
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
    let Some(terms) = terms else { return Vec::new() };
    let weight = |node: &&NodeInfo| {
        let matching = terms.iter().filter(|term| client::node_term_matches(&term.preference, &node.node));
        matching.map(|term| i64::from(term.weight)).sum()
    };
    more_is_better(&nodes.iter().map(weight).collect::<Vec<_>>())
}

/// More weight of preferred neighbours is better, of both sides' terms; anti-affinity counts against. A pod that must be beside
/// this one counts as if it preferred it, by the least weight.
fn pod_affinity(pod: &PodInfo, nodes: &[&NodeInfo], snapshot: &Snapshot) -> Vec<i64> {
    let mut weights: BTreeMap<(String, String), i64> = BTreeMap::new();
    for (term, weight) in preferences(&pod.pod) {
        for (domain, count) in Term::new(term, &pod.pod).domains(snapshot) {
            *weights.entry((term.topology_key.clone(), domain)).or_default() += count * weight;
        }
    }
    for (node, other) in snapshot.pods_with_terms() {
        let required = required_affinity(&other.pod).iter().map(|term| (term, 1));
        for (term, weight) in preferences(&other.pod).into_iter().chain(required) {
            if let Some(domain) = node.label(&term.topology_key)
                && Term::new(term, &other.pod).matches(&pod.pod, snapshot)
            {
                *weights.entry((term.topology_key.clone(), domain.to_owned())).or_default() += weight;
            }
        }
    }
    if weights.is_empty() {
        return Vec::new();
    }
    let here = |node: &&NodeInfo| {
        let inside = weights.iter().filter(|((key, domain), _)| node.label(key) == Some(domain));
        inside.map(|(_, weight)| weight).sum()
    };
    more_is_better(&nodes.iter().map(here).collect::<Vec<_>>())
}

/// Fewer of the pods counted by soft spread constraints in the node's domain are better; no domain is worst.
fn spread(pod: &PodInfo, nodes: &[&NodeInfo], snapshot: &Snapshot) -> Vec<i64> {
    let constraints = Spread::read(pod, snapshot, "ScheduleAnyway");
    if constraints.is_empty() {
        return Vec::new();
    }
    let sum = |node: &&NodeInfo| constraints.iter().map(|each| each.count(node)).sum::<Option<i64>>();
    let sums: Vec<Option<i64>> = nodes.iter().map(sum).collect();
    let worst = sums.iter().flatten().max().copied().unwrap_or_default();
    fewer_is_better(&sums.iter().map(|sum| sum.unwrap_or(worst + 1)).collect::<Vec<_>>())
}

/// Fewer pods of the same owner are better.
fn siblings(pod: &PodInfo, nodes: &[&NodeInfo], snapshot: &Snapshot) -> Vec<i64> {
    let Some(counts) = pod.owner.as_ref().and_then(|owner| snapshot.siblings(owner)) else { return Vec::new() };
    let count = |node: &&NodeInfo| counts.get(&node.name).copied().unwrap_or_default();
    fewer_is_better(&nodes.iter().map(count).collect::<Vec<_>>())
}

/// The smallest image that is worth going where it is.
const IMAGE_BYTES_MIN: i64 = 23 << 20;
/// From this size on, for each container, more makes no difference.
const IMAGE_BYTES_MAX: i64 = 1000 << 20;

/// More bytes of the pod's images already there are better (ImageLocality).
fn images(pod: &PodInfo, nodes: &[&NodeInfo], snapshot: &Snapshot) -> Vec<i64> {
    let Some(spec) = &pod.pod.spec else { return Vec::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let names: Vec<String> = containers.filter_map(|each| each.image.as_deref()).map(normal_image).collect();
    let all = snapshot.nodes.len().max(1) as i64;
    let mut sums = vec![0; nodes.len()];
    for name in &names {
        let sizes: Vec<Option<i64>> = nodes.iter().map(|node| node.images.get(name).copied()).collect();
        let have = sizes.iter().flatten().count() as i64;
        for (sum, size) in sums.iter_mut().zip(sizes) {
            // An image that few nodes have counts less: else all its pods would go to the same few.
            *sum += size.unwrap_or_default() * have / all;
        }
    }
    if sums.iter().all(|sum| *sum == 0) {
        return Vec::new();
    }
    let most = IMAGE_BYTES_MAX * names.len().max(1) as i64;
    let mark = |sum: i64| (sum.clamp(IMAGE_BYTES_MIN, most) - IMAGE_BYTES_MIN) * FULL / (most - IMAGE_BYTES_MIN);
    sums.into_iter().map(mark).collect()
}

fn more_is_better(raw: &[i64]) -> Vec<i64> {
    let (low, high) = (raw.iter().min().copied().unwrap_or_default(), raw.iter().max().copied().unwrap_or_default());
    raw.iter().map(|mark| if high == low { 0 } else { (mark - low) * FULL / (high - low) }).collect()
}

fn fewer_is_better(raw: &[i64]) -> Vec<i64> {
    let high = raw.iter().max().copied().unwrap_or_default();
    raw.iter().map(|mark| if high == 0 { FULL } else { FULL - mark * FULL / high }).collect()
}

/// Breaks ties: the same pod always likes the same node, and different pods different ones.
pub(crate) fn taste(pod: &PodInfo, node: &str) -> u64 {
    base::fnv1a(pod.uid.bytes().chain([0]).chain(node.bytes()))
}
