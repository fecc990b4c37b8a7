//! Removes pods that no kubelet will ever remove.
//!
//! Start at [`PodGc`].
//!
//! Invariants:
//! * a pod of a node that is gone is removed only after [`QUARANTINE`], when the server too says that the node is gone;
//! * a pod that was never bound has nobody to end it: it goes as soon as it is asked to;
//! * so does one on a node that is not ready and that somebody declared out of service (`node.kubernetes.io/out-of-service`):
//!   that somebody promises that nothing runs there any more.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base::{Monotonic, Timestamp};
use client::{Collection, DeleteOptions, Entry, Kind, Resource};
use control::{About, Guard, Key, Outcome, Reconciler, View, Write, itself};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, PodStatus};

use crate::node::is_ready;
use crate::placement::taints;
use crate::pods::{node_name, phase, set_condition};

/// How long a node may be missing before its pods are given up.
pub const QUARANTINE: Duration = Duration::from_secs(40);

/// Says that a node is switched off and stays so until the taint is taken away.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The collector of pods without a kubelet.
#[derive(Default)]
pub struct PodGc {
    /// Since when a node is missed.
    missing: Mutex<BTreeMap<String, Monotonic>>,
}

impl Reconciler for PodGc {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Pod::RESOURCE, Node::RESOURCE];
        About { name: "pod-garbage-collector-controller", reads: READS, writes: &["pods"], everything: false }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        if collection.resource == "pods" {
            return itself(entry);
        }
        if let Some(node) = view.get::<Node>("", &entry.meta.name) {
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&entry.meta.name);
            if !is_out_of_service(&node) {
                return Vec::new();
            }
        }
        let pods = view.list::<Pod>(None);
        let left = pods.iter().filter(|pod| node_name(pod) == entry.meta.name);
        left.map(|pod| Key::new(pod.namespace(), pod.name())).collect()
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        let Some(pod) = view.get::<Pod>(&key.namespace, &key.name) else { return Outcome::none() };
        let node = node_name(&pod);
        if node.is_empty() {
            return if pod.deleting() { end(&pod, fail(&pod)).into() } else { Outcome::none() };
        }
        if let Some(node) = view.get::<Node>("", node) {
            let is_over = pod.deleting() && is_out_of_service(&node);
            return if is_over { end(&pod, fail(&pod)).into() } else { Outcome::none() };
        }
        let since =
            *self.missing.lock().unwrap_or_else(PoisonError::into_inner).entry(node.to_owned()).or_insert(view.at());
        let waited = view.at().since(since);
        if waited < QUARANTINE {
            return Outcome { requeue_after: Some(QUARANTINE.saturating_sub(waited)), ..Outcome::default() };
        }
        let gone = |write: Write| {
            write.only_if(Guard::Absent {
                resource: Node::RESOURCE.clone(),
                namespace: String::new(),
                name: node.to_owned(),
                // Whatever node has that name now, it is not absent.
                uid: String::new(),
            })
        };
        gone(end(&pod, disrupt(fail(&pod), now))).into()
    }
}

fn is_out_of_service(node: &Node) -> bool {
    !is_ready(node) && taints(node).iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Its owner must see how it ended before it goes: a Job counts no pod that is not over.
fn end(pod: &Pod, failed: PodStatus) -> Write {
    match phase(pod) {
        "Succeeded" | "Failed" => remove(pod),
        _ => Write::status(&Pod { status: Some(failed), ..pod.clone() }),
    }
}

fn fail(pod: &Pod) -> PodStatus {
    PodStatus { phase: Some("Failed".to_owned()), ..pod.status.clone().unwrap_or_default() }
}

fn disrupt(mut status: PodStatus, now: Timestamp) -> PodStatus {
    let message = "PodGC: node no longer exists";
    set_condition::<PodCondition>(&mut status.conditions, "DisruptionTarget", "True", "DeletionByPodGC", message, now);
    status
}

pub(crate) fn remove(pod: &Pod) -> Write {
    Write::delete(pod, DeleteOptions { grace_period: Some(0), ..DeleteOptions::default() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{World, lines};

    fn world(pod: serde_json::Value) -> World {
        let mut world = World::default();
        world.put(Node::RESOURCE, json!({"metadata": {"name": "here"}}));
        world.put(Pod::RESOURCE, pod);
        world
    }

    #[test]
    fn a_pod_of_a_node_that_is_gone_fails_and_goes() {
        let mut world =
            world(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "gone", "containers": []}}));
        let collector = PodGc::default();
        assert!(lines(&world.reconcile(&collector, "n", "p")).is_empty());
        world.at = world.at.plus(QUARANTINE);
        let outcome = world.reconcile(&collector, "n", "p");
        assert_eq!(lines(&outcome), ["update pods/status n/p"]);
        world.put(Pod::RESOURCE, serde_json::from_slice(&outcome.writes[0].body).expect("JSON"));
        assert_eq!(lines(&world.reconcile(&collector, "n", "p")), ["delete pods n/p"]);
    }

    #[test]
    fn a_pod_of_a_living_node_is_its_kubelets() {
        let world =
            world(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "here", "containers": []}}));
        assert!(lines(&world.reconcile(&PodGc::default(), "n", "p")).is_empty());
    }

    #[track_caller]
    fn leaving(ready: &str, taint: &str, wanted: &[&str]) {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "deletionTimestamp": "2026-11-23T19:59:00Z"},
            "spec": {"nodeName": "here", "containers": []}});
        let mut world = world(pod);
        let conditions = json!([{"type": "Ready", "status": ready}]);
        let taints = json!([{"key": taint, "effect": "NoExecute"}]);
        world.put(
            Node::RESOURCE,
            json!({"metadata": {"name": "here"}, "spec": {"taints": taints}, "status": {"conditions": conditions}}),
        );
        assert_eq!(lines(&world.reconcile(&PodGc::default(), "n", "p")), wanted, "{ready} {taint}");
    }

    #[test]
    fn a_leaving_pod_goes_when_its_node_is_out_of_service() {
        leaving("Unknown", OUT_OF_SERVICE, &["update pods/status n/p"]);
        leaving("Unknown", "node.kubernetes.io/unreachable", &[]);
        leaving("True", OUT_OF_SERVICE, &[]);
    }

    /// Found by the simulator (seed 36): a Job waited for ever for a pod to end that had no node to end it.
    #[test]
    fn an_unbound_pod_fails_and_goes_when_asked() {
        let mut world =
            world(json!({"metadata": {"name": "p", "namespace": "n", "deletionTimestamp": "2026-11-23T19:59:00Z"}}));
        let outcome = world.reconcile(&PodGc::default(), "n", "p");
        assert_eq!(lines(&outcome), ["update pods/status n/p"]);
        world.put(Pod::RESOURCE, serde_json::from_slice(&outcome.writes[0].body).expect("JSON"));
        assert_eq!(lines(&world.reconcile(&PodGc::default(), "n", "p")), ["delete pods n/p"]);
    }
}
