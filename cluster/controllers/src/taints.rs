//! Deletes pods that do not, or no longer, tolerate a `NoExecute` taint of their node.
//!
//! Start at [`Evictions`].
//!
//! Invariants:
//! * how long a pod has stayed under a taint is measured by the stopwatch since that was first *seen*, as upstream does: a
//!   clock that jumps evicts nobody, and a restarted controller gives every pod its full time again;
//! * a pod whose node's taints go before its time is over stays.
//!
//! Not here: which taints a node has (`node.rs`), new pods (`scheduler`).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base::{Monotonic, Timestamp};
use client::{Collection, DeleteOptions, Entry, Kind, Resource};
use control::{About, Key, Note, Outcome, Reconciler, Regarding, View, Write, itself};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};

use crate::node::pods_on;
use crate::placement::{taints, tolerates};
use crate::pods::{node_name, set_condition};

/// The controller of taint-based evictions.
#[derive(Default)]
pub struct Evictions {
    /// Since when pods are to leave, by namespace and name, with their uid.
    since: Mutex<BTreeMap<(String, String), (String, Monotonic)>>,
}

impl Evictions {
    /// For how long a pod has been under a taint that it does not tolerate for ever.
    fn stayed(&self, pod: &Pod, at: Monotonic) -> Duration {
        let key = (pod.namespace().to_owned(), pod.name().to_owned());
        let mut all = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let since = all.entry(key).or_insert_with(|| (pod.uid().to_owned(), at));
        if since.0 != pod.uid() {
            *since = (pod.uid().to_owned(), at);
        }
        at.since(since.1)
    }

    /// Nobody waits for this pod any more; whether somebody did.
    fn forget(&self, key: &Key) -> bool {
        let key = (key.namespace.clone(), key.name.clone());
        self.since.lock().unwrap_or_else(PoisonError::into_inner).remove(&key).is_some()
    }
}

impl Reconciler for Evictions {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Node::RESOURCE, Pod::RESOURCE];
        About { name: "taint-eviction-controller", reads: READS, writes: &["pods"], everything: false }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        if collection.resource == "pods" {
            return itself(entry);
        }
        let node = entry.typed::<Node>();
        if node.is_none_or(|node| taints(&node).iter().all(|taint| taint.effect != "NoExecute")) {
            return Vec::new();
        }
        pods_on(view, &entry.meta.name).iter().map(|pod| Key::new(pod.namespace(), pod.name())).collect()
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        let pod = view.get::<Pod>(&key.namespace, &key.name).filter(|pod| !pod.deleting());
        let Some(pod) = pod else {
            self.forget(key);
            return Outcome::none();
        };
        let node = view.get::<Node>("", node_name(&pod));
        let Some(limit) = node.and_then(|node| patience(&pod, &node)) else {
            let mut outcome = Outcome::none();
            if self.forget(key) {
                outcome.events.push(note(&pod, format!("Cancelling deletion of Pod {key}")));
            }
            return outcome;
        };
        let left = limit.saturating_sub(self.stayed(&pod, view.at()));
        match left.is_zero() {
            true => evict(&pod, now),
            false => Outcome { requeue_after: Some(left), ..Outcome::default() },
        }
    }
}

/// How long a pod stays on its node; `None` is for ever.
fn patience(pod: &Pod, node: &Node) -> Option<Duration> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let hard = taints(node).iter().filter(|taint| taint.effect == "NoExecute");
    let limits = hard.filter_map(|taint| match tolerates(tolerations, taint) {
        None => Some(0),
        Some(toleration) => toleration.toleration_seconds.map(|seconds| seconds.max(0) as u64),
    });
    limits.min().map(Duration::from_secs)
}

fn evict(pod: &Pod, now: Timestamp) -> Outcome {
    let mut status = pod.status.clone().unwrap_or_default();
    let (reason, message) = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
    set_condition::<PodCondition>(&mut status.conditions, "DisruptionTarget", "True", reason, message, now);
    let marked = Write::status(&Pod { status: Some(status), ..pod.clone() });
    let delete = Write::delete(pod, DeleteOptions::default());
    let message = format!("Marking for deletion Pod {}/{}", pod.namespace(), pod.name());
    Outcome { writes: vec![marked, delete], events: vec![note(pod, message)], requeue_after: None }
}

fn note(pod: &Pod, message: String) -> Note {
    Note::normal(&Regarding::object(pod), "TaintManagerEviction", message)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{World, body, lines};

    const KEY: &str = "node.kubernetes.io/unreachable";
    const GOES: [&str; 2] = ["update pods/status n/p", "delete pods n/p"];

    /// A node that is unreachable, and a pod on it that tolerates that for `seconds`.
    fn world(seconds: Value) -> World {
        let mut world = World::default();
        taint(&mut world, json!([{"key": KEY, "effect": "NoExecute", "timeAdded": "2026-11-23T19:00:00Z"}]));
        let toleration = json!({"key": KEY, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        world.put(
            Pod::RESOURCE,
            json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "a", "containers": [], "tolerations": [toleration]}}),
        );
        world
    }

    fn taint(world: &mut World, taints: Value) {
        world.put(Node::RESOURCE, json!({"metadata": {"name": "a"}, "spec": {"taints": taints}}));
    }

    #[test]
    fn a_pod_leaves_when_its_time_is_over() {
        let (mut world, evictions) = (world(json!(20)), Evictions::default());
        assert_eq!(world.reconcile(&evictions, "n", "p").requeue_after, Some(Duration::from_secs(20)));
        world.at = world.at.plus(Duration::from_secs(19));
        assert_eq!(world.reconcile(&evictions, "n", "p").requeue_after, Some(Duration::from_secs(1)));
        world.at = world.at.plus(Duration::from_secs(1));
        let outcome = world.reconcile(&evictions, "n", "p");
        assert_eq!(lines(&outcome), GOES);
        let condition = body(&outcome, GOES[0])["status"]["conditions"][0].clone();
        assert_eq!(
            (&condition["type"], &condition["reason"]),
            (&json!("DisruptionTarget"), &json!("DeletionByTaintManager"))
        );
    }

    #[test]
    fn a_jump_of_the_clock_evicts_nobody() {
        let (mut world, evictions) = (world(json!(20)), Evictions::default());
        world.reconcile(&evictions, "n", "p");
        world.now = world.now.plus(Duration::from_secs(1_000_000));
        assert!(lines(&world.reconcile(&evictions, "n", "p")).is_empty());
    }

    #[test]
    fn whoever_tolerates_nothing_goes_at_once_and_whoever_tolerates_all_stays() {
        assert_eq!(lines(&world(json!(0)).reconcile(&Evictions::default(), "n", "p")), GOES);
        let mut other = world(json!(20));
        taint(&mut other, json!([{"key": "mine", "effect": "NoExecute"}]));
        assert_eq!(lines(&other.reconcile(&Evictions::default(), "n", "p")), GOES);
        let outcome = world(json!(null)).reconcile(&Evictions::default(), "n", "p");
        assert_eq!((lines(&outcome).len(), outcome.requeue_after), (0, None));
    }

    #[test]
    fn a_taint_that_goes_in_time_is_forgotten() {
        let (mut world, evictions) = (world(json!(20)), Evictions::default());
        world.reconcile(&evictions, "n", "p");
        world.at = world.at.plus(Duration::from_secs(15));
        taint(&mut world, json!([]));
        assert_eq!(world.reconcile(&evictions, "n", "p").events[0].message, "Cancelling deletion of Pod n/p");
        taint(&mut world, json!([{"key": KEY, "effect": "NoExecute"}]));
        assert_eq!(world.reconcile(&evictions, "n", "p").requeue_after, Some(Duration::from_secs(20)));
    }
}
