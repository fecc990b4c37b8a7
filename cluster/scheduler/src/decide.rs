//! All pods that wait, in order.
//!
//! Start at [`decide`].

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};

use crate::place::{Placement, place};
use crate::snapshot::{PodInfo, Snapshot, has_ended};

/// Pods that were bound and that the cache may not have seen bound yet: node by uid.
pub type Assumed = BTreeMap<String, String>;

/// What to do about one pod.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Bind it.
    Bind {
        /// The pod.
        pod: Arc<Pod>,
        /// The node.
        node: String,
    },
    /// Tell why it cannot be.
    Explain {
        /// The pod.
        pod: Arc<Pod>,
        /// The condition's reason: `Unschedulable` or `SchedulingGated`.
        reason: &'static str,
        /// In words.
        message: String,
    },
}

/// Decides about every pod of `scheduler` that has no node, the highest priority first, then the oldest. Forgets of
/// `assumed` what the pods themselves show by now.
pub fn decide(
    nodes: &[Arc<Node>],
    pods: &[Arc<Pod>],
    namespaces: &[Arc<Namespace>],
    scheduler: &str,
    assumed: &mut Assumed,
) -> Vec<Decision> {
    let mut waiting: Vec<&Arc<Pod>> = pods.iter().filter(|pod| waits_for(pod, scheduler)).collect();
    let unseen: BTreeMap<String, &Arc<Pod>> = waiting.iter().map(|pod| (uid(pod), *pod)).collect();
    assumed.retain(|uid, _| unseen.contains_key(uid));
    if waiting.iter().all(|pod| assumed.contains_key(&uid(pod))) {
        return Vec::new();
    }
    let mut snapshot = Snapshot::new(nodes, pods, namespaces);
    for (uid, node) in assumed.iter() {
        snapshot.assume(node, PodInfo::new(unseen[uid].clone()));
    }
    waiting.retain(|pod| !assumed.contains_key(&uid(pod)));
    waiting.sort_by_key(|pod| order(pod));
    waiting.into_iter().map(|pod| decide_one(&mut snapshot, pod)).collect()
}

fn decide_one(snapshot: &mut Snapshot, pod: &Arc<Pod>) -> Decision {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_deref()).unwrap_or_default();
    if !gates.is_empty() {
        let message = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
        return Decision::Explain { pod: pod.clone(), reason: "SchedulingGated", message };
    }
    let info = PodInfo::new(pod.clone());
    match place(snapshot, &info) {
        Placement::Node(node) => {
            snapshot.assume(&node, info);
            Decision::Bind { pod: pod.clone(), node }
        }
        nowhere => Decision::Explain { pod: pod.clone(), reason: "Unschedulable", message: nowhere.to_string() },
    }
}

fn waits_for(pod: &Pod, scheduler: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ours = spec.scheduler_name.as_deref().unwrap_or("default-scheduler") == scheduler;
    let bound = spec.node_name.as_deref().is_some_and(|name| !name.is_empty());
    ours && !bound && !has_ended(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// A pod's uid.
pub(crate) fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn order(pod: &Pod) -> (Reverse<i32>, Option<String>, Option<String>, Option<String>) {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default();
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    (Reverse(priority), created, pod.metadata.namespace.clone(), pod.metadata.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> Arc<Node> {
        let status = json!({"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "a"}, "status": status})).expect("a node"))
    }

    fn pod(name: &str, priority: i32, more: serde_json::Value) -> Arc<Pod> {
        let mut spec = json!({"priority": priority,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "600m"}}}]});
        spec.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        let meta = json!({"name": name, "namespace": "default", "uid": name});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("a pod"))
    }

    #[track_caller]
    fn check(pods: &[Arc<Pod>], assumed: &[&str], expected: &str) {
        let mut assumed = assumed.iter().map(|uid| ((*uid).to_owned(), "a".to_owned())).collect();
        let decisions = decide(&[node()], pods, &[], "default-scheduler", &mut assumed);
        let word = |decision: &Decision| match decision {
            Decision::Bind { pod, node } => format!("{}>{node}", uid(pod)),
            Decision::Explain { pod, reason, .. } => format!("{}!{reason}", uid(pod)),
        };
        assert_eq!(decisions.iter().map(word).collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn the_more_important_goes_first_and_counts_for_the_next() {
        check(&[pod("low", 0, json!({})), pod("high", 9, json!({}))], &[], "high>a low!Unschedulable");
    }

    #[test]
    fn what_was_bound_counts_before_the_cache_shows_it() {
        check(&[pod("x", 0, json!({})), pod("y", 0, json!({}))], &["x"], "y!Unschedulable");
    }

    #[test]
    fn an_assumption_is_dropped_once_the_pod_is_gone_or_bound() {
        check(&[pod("y", 0, json!({}))], &["x"], "y>a");
    }

    #[test]
    fn others_pods_and_gated_ones_are_left_alone() {
        check(&[pod("x", 0, json!({"schedulerName": "mine"}))], &[], "");
        check(&[pod("x", 0, json!({"schedulingGates": [{"name": "g"}]}))], &[], "x!SchedulingGated");
    }
}
