//! All pods that wait, in order.
//!
//! Start at [`decide`].

use std::cmp::Reverse;
use std::sync::Arc;

use control::Write;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::place::{Placement, available, place};
use crate::preempt::{NOT_HELPFUL, Preemption, preempt};
use crate::snapshot::{PodInfo, Snapshot, has_ended};
use crate::volumes::Needs;

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
    /// Have its volumes there first; it is bound when its claims are.
    Reserve {
        /// The pod.
        pod: Arc<Pod>,
        /// The node.
        node: String,
        /// What reserves them, unless that is written already.
        writes: Vec<Write>,
    },
    /// Tell why it cannot be, and perhaps make room.
    Explain {
        /// The pod.
        pod: Arc<Pod>,
        /// The condition's reason: `Unschedulable` or `SchedulingGated`.
        reason: &'static str,
        /// In words.
        message: String,
        /// What happens to the room that is, or was, made for it.
        room: Room,
    },
}

/// What a pod that finds no place does to others.
#[derive(Clone, Debug, PartialEq)]
pub enum Room {
    /// Nothing new.
    Unchanged,
    /// Others go for it.
    Make(Preemption),
    /// Nobody goes for it, nor is any room kept.
    Forget,
}

/// Decides about pods that wait, the highest priority first, then the oldest. Each that is placed counts for the next; one
/// that waits for its victims to go keeps their room from those behind it.
pub fn decide(
    snapshot: &mut Snapshot,
    mut waiting: Vec<Arc<Pod>>,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Vec<Decision> {
    waiting.sort_by_cached_key(|pod| order(pod));
    waiting.iter().map(|pod| decide_one(snapshot, pod, budgets)).collect()
}

fn decide_one(snapshot: &mut Snapshot, pod: &Arc<Pod>, budgets: &[Arc<PodDisruptionBudget>]) -> Decision {
    if is_gated(pod) {
        let message = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
        return Decision::Explain { pod: pod.clone(), reason: "SchedulingGated", message, room: Room::Unchanged };
    }
    let info = PodInfo::new(pod.clone());
    let nowhere = place(snapshot, &info);
    let message = nowhere.to_string();
    let objections = match nowhere {
        Placement::Node(node) => return go(snapshot, info, node),
        Placement::Refused(nodes, _) => {
            let words = available(nodes, std::iter::repeat_n(NOT_HELPFUL.to_owned(), nodes));
            return explain(pod, format!("{message} preemption: {words}"), Room::Unchanged);
        }
        Placement::Nowhere(objections) => objections,
    };
    if objections.is_empty() {
        return explain(pod, message, Room::Unchanged);
    }
    match preempt(snapshot, &info, &objections, budgets) {
        Ok(found) => {
            snapshot.place(&found.node, Arc::new(info));
            explain(pod, message, Room::Make(found))
        }
        Err(refusal) if refusal.keeps_room => {
            if let Some(node) = nominated(pod) {
                snapshot.place(node, Arc::new(info));
            }
            explain(pod, format!("{message} {}", refusal.words), Room::Unchanged)
        }
        Err(refusal) => explain(pod, format!("{message} {}", refusal.words), Room::Forget),
    }
}

/// The pod counts at its node from now on, whether it is bound at once or its volumes come first.
fn go(snapshot: &mut Snapshot, info: PodInfo, node: String) -> Decision {
    let pod = info.pod.clone();
    let needs = Needs::of(&info, snapshot).unwrap_or_default();
    let reserving = (!needs.are_met()).then(|| needs.reserve(&snapshot.nodes[&node], &snapshot.volumes));
    snapshot.place(&node, Arc::new(info));
    let Some((writes, reserved)) = reserving else { return Decision::Bind { pod, node } };
    reserved.iter().for_each(|(volume, uid)| snapshot.volumes.reserve(volume, uid));
    Decision::Reserve { pod, node, writes }
}

fn explain(pod: &Arc<Pod>, message: String, room: Room) -> Decision {
    Decision::Explain { pod: pod.clone(), reason: "Unschedulable", message, room }
}

/// The node on which room is being made for a pod.
pub(crate) fn nominated(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.nominated_node_name.as_deref().filter(|node| !node.is_empty())
}

fn is_gated(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty())
}

/// Whether a pod waits for this scheduler.
pub(crate) fn waits_for(pod: &Pod, scheduler: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ours = spec.scheduler_name.as_deref().unwrap_or("default-scheduler") == scheduler;
    let bound = spec.node_name.as_deref().is_some_and(|name| !name.is_empty());
    ours && !bound && !has_ended(pod) && pod.metadata.deletion_timestamp.is_none()
}

fn order(pod: &Pod) -> (Reverse<i32>, Option<String>, Option<String>, Option<String>) {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default();
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    (Reverse(priority), created, pod.metadata.namespace.clone(), pod.metadata.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;
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

    fn name(pod: &Pod) -> String {
        pod.metadata.name.clone().unwrap_or_default()
    }

    #[track_caller]
    fn check(bound: &[Arc<Pod>], waiting: &[Arc<Pod>], expected: &str) {
        let mut snapshot = Snapshot::new(&[node()], bound, &[]);
        let decisions = decide(&mut snapshot, waiting.to_vec(), &[]);
        let word = |decision: &Decision| match decision {
            Decision::Bind { pod, node } => format!("{}>{node}", name(pod)),
            Decision::Reserve { pod, node, .. } => format!("{}~{node}", name(pod)),
            Decision::Explain { pod, reason, room: Room::Make(found), .. } => {
                let victims = found.victims.iter().map(|pod| format!("-{}", name(pod)));
                format!("{}!{reason}{}", name(pod), victims.collect::<String>())
            }
            Decision::Explain { pod, reason, .. } => format!("{}!{reason}", name(pod)),
        };
        assert_eq!(decisions.iter().map(word).collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn the_more_important_goes_first_and_counts_for_the_next() {
        check(&[], &[pod("low", 0, json!({})), pod("high", 9, json!({}))], "high>a low!Unschedulable");
    }

    #[test]
    fn room_that_is_made_is_kept() {
        let bound = pod("x", 0, json!({"nodeName": "a"}));
        check(
            &[bound],
            &[pod("high", 9, json!({})), pod("next", 8, json!({}))],
            "high!Unschedulable-x next!Unschedulable",
        );
    }

    #[test]
    fn a_pod_with_gates_waits_for_them() {
        check(&[], &[pod("x", 0, json!({"schedulingGates": [{"name": "g"}]}))], "x!SchedulingGated");
    }

    #[test]
    fn the_message_is_upstreams() {
        let decisions =
            decide(&mut Snapshot::new(&[node()], &[], &[]), vec![pod("x", 0, json!({})), pod("y", 0, json!({}))], &[]);
        let Decision::Explain { message, .. } = &decisions[1] else { panic!("y has a place") };
        let wanted = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
                      1 No preemption victims found for incoming pod.";
        assert_eq!(message, wanted);
    }
}
