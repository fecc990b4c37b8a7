//! Which less important pods go, so that a more important one gets a place.
//!
//! Start at [`preempt`].
//!
//! Invariants:
//! * a victim has a lower priority than the pod; as few go as will do, those under a disruption budget last;
//! * the snapshot is the same afterwards as before.
//!
//! Not here: telling and deleting the victims (`core.rs`); the budget itself is not enforced, as upstream's is not either.
//!
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/>.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use client::Selector;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::decide::nominated;
use crate::filter::{Question, Reason};
use crate::place::available;
use crate::snapshot::{PodInfo, Snapshot};

/// Nodes tried for one pod: enough to choose well from, and a bound on the time that one pod takes.
const CANDIDATES_MAX: usize = 100;
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
pub(crate) const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// Who goes, and from where.
#[derive(Clone, Debug, PartialEq)]
pub struct Preemption {
    /// Where there will be room.
    pub node: String,
    /// The pods to delete, the most important first.
    pub victims: Vec<Arc<Pod>>,
}

struct Candidate {
    node: String,
    victims: Vec<Arc<PodInfo>>,
    violations: usize,
}

/// Why nobody goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// In upstream's words.
    pub(crate) words: String,
    /// The victims of before are still on their way out: their room stays the pod's.
    pub(crate) keeps_room: bool,
}

/// Finds victims for a pod that every node objects to.
pub(crate) fn preempt(
    snapshot: &mut Snapshot,
    pod: &PodInfo,
    objections: &BTreeMap<String, Vec<Reason>>,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Result<Preemption, Refusal> {
    may_preempt(snapshot, pod)?;
    let mut words = Vec::new();
    let mut candidates = Vec::new();
    for (node, reasons) in objections {
        if !reasons.iter().all(Reason::yields_to_preemption) {
            words.push(NOT_HELPFUL.to_owned());
        } else if candidates.len() < CANDIDATES_MAX {
            match try_node(snapshot, pod, node, budgets) {
                Ok(candidate) => candidates.push(candidate),
                Err(reasons) => words.extend(reasons),
            }
        }
    }
    let best = candidates.into_iter().min_by_key(cost);
    let best = best.ok_or_else(|| Refusal {
        words: format!("preemption: {}", available(objections.len(), words.into_iter())),
        keeps_room: false,
    })?;
    Ok(Preemption { node: best.node, victims: best.victims.iter().map(|victim| victim.pod.clone()).collect() })
}

fn may_preempt(snapshot: &Snapshot, pod: &PodInfo) -> Result<(), Refusal> {
    let refuse = |words: &str, keeps_room| {
        Err(Refusal { words: format!("preemption: not eligible due to {words}."), keeps_room })
    };
    if pod.pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never") {
        return refuse("preemptionPolicy=Never", false);
    }
    let nominated = nominated(&pod.pod).and_then(|node| snapshot.nodes.get(node));
    let is_leaving =
        |victim: &Arc<PodInfo>| victim.priority < pod.priority && victim.pod.metadata.deletion_timestamp.is_some();
    match nominated.is_some_and(|node| node.pods.iter().any(is_leaving)) {
        true => refuse("a terminating pod on the nominated node", true),
        false => Ok(()),
    }
}

/// What it costs to have the pod on this node, or why it cannot be had there.
fn try_node(
    snapshot: &mut Snapshot,
    pod: &PodInfo,
    node: &str,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Result<Candidate, Vec<String>> {
    let there = snapshot.nodes[node].pods.iter();
    let mut lower: Vec<Arc<PodInfo>> = there.filter(|each| each.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(vec![NO_VICTIMS.to_owned()]);
    }
    lower.sort_by_key(importance);
    lower.iter().for_each(|victim| drop(snapshot.take(&victim.uid)));
    let objections = Question::new(pod, snapshot).check(&snapshot.nodes[node]);
    let result = match objections.is_empty() {
        true => Ok(reprieve(snapshot, pod, node, &lower, budgets)),
        false => Err(objections.iter().map(ToString::to_string).collect()),
    };
    lower.into_iter().for_each(|victim| snapshot.place(node, victim));
    result
}

/// Lets stay who can, the pods whose budget would be exceeded first, then the more important.
fn reprieve(
    snapshot: &mut Snapshot,
    pod: &PodInfo,
    node: &str,
    lower: &[Arc<PodInfo>],
    budgets: &[Arc<PodDisruptionBudget>],
) -> Candidate {
    let (violating, free): (Vec<_>, Vec<_>) = {
        let over = over_budget(lower, budgets);
        lower.iter().cloned().partition(|victim| over.contains(&victim.uid))
    };
    let mut candidate = Candidate { node: node.to_owned(), victims: Vec::new(), violations: 0 };
    let protected = violating.len();
    for (index, victim) in violating.into_iter().chain(free).enumerate() {
        snapshot.place(node, victim.clone());
        if !Question::new(pod, snapshot).check(&snapshot.nodes[node]).is_empty() {
            snapshot.take(&victim.uid);
            candidate.violations += usize::from(index < protected);
            candidate.victims.push(victim);
        }
    }
    candidate.victims.sort_by_key(importance);
    candidate
}

/// The uids of the pods that a budget does not let go, if the others went before them.
fn over_budget(pods: &[Arc<PodInfo>], budgets: &[Arc<PodDisruptionBudget>]) -> Vec<String> {
    let mut allowed: Vec<i32> = budgets
        .iter()
        .map(|each| each.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or_default())
        .collect();
    let mut over = Vec::new();
    for pod in pods {
        let mut exceeded = false;
        for (budget, allowed) in budgets.iter().zip(&mut allowed).filter(|(budget, _)| protects(budget, &pod.pod)) {
            let gone = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
            if !gone.is_some_and(|gone| gone.contains_key(pod.pod.metadata.name.as_deref().unwrap_or_default())) {
                *allowed -= 1;
                exceeded |= *allowed < 0;
            }
        }
        if exceeded {
            over.push(pod.uid.clone());
        }
    }
    over
}

fn protects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let none = BTreeMap::new();
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    budget.metadata.namespace == pod.metadata.namespace
        && selector
            .is_some_and(|selector| Selector::of(selector).matches(pod.metadata.labels.as_ref().unwrap_or(&none)))
}

/// Sorts the more important to the front: by priority, then by how long they run.
fn importance(pod: &Arc<PodInfo>) -> (Reverse<i32>, Option<String>, String) {
    (Reverse(pod.priority), started(pod), pod.uid.clone())
}

fn started(pod: &PodInfo) -> Option<String> {
    let status = pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    status.or(pod.pod.metadata.creation_timestamp.as_ref()).map(|time| time.0.to_string())
}

/// The cheaper the better: budgets, then the highest priority, then all priorities, then how many, then the younger.
fn cost(candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<Option<String>>) {
    let highest = candidate.victims.iter().map(|victim| victim.priority).max().unwrap_or(i32::MIN);
    // Priorities may be negative; more victims must never be cheaper.
    let sum = candidate.victims.iter().map(|victim| i64::from(victim.priority) - i64::from(i32::MIN)).sum();
    let eldest =
        candidate.victims.iter().filter(|victim| victim.priority == highest).filter_map(|victim| started(victim));
    (candidate.violations, highest, sum, candidate.victims.len(), Reverse(eldest.min()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{Placement, place};
    use k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};

    fn node(name: &str) -> Arc<Node> {
        let object = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "9"}}});
        Arc::new(serde_json::from_value(object).expect("a node"))
    }

    fn pod(name: &str, node: &str, priority: i32, cpu: &str, more: Value) -> Arc<Pod> {
        let mut object = json!({
            "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": name},
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": node, "priority": priority,
                "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            for (key, value) in value.as_object().into_iter().flatten() {
                object[field.as_str()][key.as_str()] = value.clone();
            }
        }
        Arc::new(serde_json::from_value(object).expect("a pod"))
    }

    /// Pods are `name@node:priority:cpu`; the pod that comes has priority 100. Expects `node: victims` or the words.
    #[track_caller]
    fn check_with(nodes: &str, pods: &str, cpu: &str, more: Value, budgets: &[Value], expected: &str) {
        let nodes: Vec<_> = nodes.split(' ').map(node).collect();
        let read = |text: &str| {
            let parts: Vec<&str> = text.split(['@', ':']).collect();
            pod(parts[0], parts[1], parts[2].parse().expect("a priority"), parts[3], json!({}))
        };
        let pods: Vec<_> = pods.split_whitespace().map(read).collect();
        let budgets: Vec<Arc<PodDisruptionBudget>> =
            budgets.iter().map(|each| Arc::new(serde_json::from_value(each.clone()).expect("a budget"))).collect();
        let mut snapshot = Snapshot::new(&nodes, &pods, &[]);
        let before = format!("{:?}", snapshot.nodes);
        let new = PodInfo::new(pod("new", "", 100, cpu, more));
        let Placement::Nowhere(objections) = place(&snapshot, &new) else { panic!("it has a place") };
        let found = match preempt(&mut snapshot, &new, &objections, &budgets) {
            Ok(found) => {
                let names: Vec<_> =
                    found.victims.iter().map(|pod| pod.metadata.name.clone().unwrap_or_default()).collect();
                format!("{}: {}", found.node, names.join(" "))
            }
            Err(refusal) => refusal.words,
        };
        assert_eq!(found, expected);
        let sums = |snapshot: &Snapshot| {
            snapshot.nodes.values().map(|node| (node.requested.clone(), node.pods.len())).collect::<Vec<_>>()
        };
        assert_eq!(sums(&snapshot), sums(&Snapshot::new(&nodes, &pods, &[])), "changed from {before}");
    }

    #[track_caller]
    fn check(nodes: &str, pods: &str, cpu: &str, expected: &str) {
        check_with(nodes, pods, cpu, json!({}), &[], expected);
    }

    #[test]
    fn the_less_important_makes_room() {
        check("a", "x@a:0:2", "1", "a: x");
    }

    #[test]
    fn equals_stay() {
        let none = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
        check("a", "x@a:100:2", "1", none);
    }

    #[test]
    fn as_few_go_as_will_do_and_the_least_important() {
        check("a", "x@a:5:500m y@a:1:1 z@a:9:500m", "1", "a: y");
        check("a", "x@a:5:1 y@a:1:1", "2", "a: x y");
    }

    #[test]
    fn the_node_with_the_least_important_victims_is_chosen() {
        check("a b", "x@a:50:2 y@b:10:2", "2", "b: y");
        check("a b", "x@a:10:1 z@a:10:1 y@b:10:2", "2", "b: y");
    }

    #[test]
    fn what_would_not_fit_an_empty_node_moves_nobody() {
        check("a", "x@a:0:2", "3", "preemption: 0/1 nodes are available: 1 Insufficient cpu.");
    }

    #[test]
    fn a_node_that_is_wrong_for_other_reasons_is_left_alone() {
        let elsewhere = json!({"spec": {"nodeSelector": {"disk": "ssd"}}});
        let words = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
        check_with("a", "x@a:0:2", "1", elsewhere, &[], words);
    }

    #[test]
    fn who_never_preempts_waits() {
        let never = json!({"spec": {"preemptionPolicy": "Never"}});
        check_with("a", "x@a:0:2", "1", never, &[], "preemption: not eligible due to preemptionPolicy=Never.");
    }

    #[test]
    fn budgets_are_kept_if_possible() {
        let budget = json!({"metadata": {"name": "b", "namespace": "n"}, "spec": {"selector": {"matchLabels": {"app": "x"}}},
            "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
        check_with("a b", "x@a:0:2 y@b:50:2", "1", json!({}), std::slice::from_ref(&budget), "b: y");
        check_with("a", "x@a:0:1 y@a:50:1", "1", json!({}), std::slice::from_ref(&budget), "a: y");
        check_with("a", "x@a:0:2", "1", json!({}), &[budget], "a: x");
    }

    #[test]
    fn an_affinity_to_a_victim_keeps_it() {
        let beside = json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}]}}}});
        check_with(
            "a",
            "x@a:0:1 y@a:50:1",
            "1",
            beside,
            &[],
            "preemption: 0/1 nodes are available: 1 node(s) didn't match pod affinity rules.",
        );
    }
}
