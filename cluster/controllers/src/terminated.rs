//! Removes pods that are over, the oldest first, when there are too many of them.
//!
//! Start at [`Terminated`]. They are counted every [`EVERY`] while pods end, as upstream's pod garbage collector does
//! (<https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-garbage-collection>).
//!
//! Invariant: a pod that is not over is never removed here.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base::{Monotonic, Timestamp};
use client::{Collection, Entry, Kind, Resource};
use control::{About, Key, Outcome, Reconciler, View};
use k8s_openapi::api::core::v1::Pod;

use crate::podgc::remove;
use crate::pods::phase;

/// How often they are counted.
pub const EVERY: Duration = Duration::from_secs(20);
/// No more are removed at once, so that nothing else waits for it.
const AT_ONCE: usize = 500;

/// The collector of pods that are over.
pub struct Terminated {
    /// So many stay.
    threshold: usize,
    /// When they were counted last.
    counted: Mutex<Option<Monotonic>>,
}

impl Terminated {
    /// Lets `threshold` of them stay; with 0 all do, as upstream has it.
    pub fn new(threshold: usize) -> Terminated {
        Terminated { threshold, counted: Mutex::default() }
    }

    /// How long it is until they are counted again.
    fn wait(&self, at: Monotonic) -> Option<Duration> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = counted.map(|counted| EVERY.saturating_sub(at.since(counted))).filter(|wait| !wait.is_zero());
        if wait.is_none() {
            *counted = Some(at);
        }
        wait
    }
}

impl Reconciler for Terminated {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Pod::RESOURCE];
        About { name: "terminated-pod-controller", reads: READS, writes: &["pods"], everything: false }
    }

    fn keys(&self, view: &View<'_>, _: &Collection, entry: &Entry) -> Vec<Key> {
        let pod = view.get::<Pod>(&entry.meta.namespace, &entry.meta.name);
        let one_more = self.threshold > 0 && pod.is_some_and(|pod| is_over(&pod));
        if one_more { vec![Key::new("", "")] } else { Vec::new() }
    }

    fn reconcile(&self, view: &View<'_>, _: &Key, _: Timestamp) -> Outcome {
        if let Some(wait) = self.wait(view.at()) {
            return Outcome { requeue_after: Some(wait), ..Outcome::default() };
        }
        let mut over = view.list::<Pod>(None);
        over.retain(|pod| is_over(pod) && !pod.deleting());
        let too_many = over.len().saturating_sub(self.threshold);
        over.sort_by_cached_key(|pod| {
            (!is_evicted(pod), pod.metadata.creation_timestamp.clone(), pod.name().to_owned())
        });
        let writes: Vec<_> = over.iter().take(too_many.min(AT_ONCE)).map(|pod| remove(pod)).collect();
        Outcome { requeue_after: (too_many > AT_ONCE).then_some(EVERY), writes, ..Outcome::default() }
    }
}

fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

fn is_evicted(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{World, lines};

    /// Pods as `name phase minute reason`, and what is removed of them.
    #[track_caller]
    fn check(threshold: usize, pods: &[&str], removed: &[&str]) {
        let mut world = World::default();
        for pod in pods {
            let [name, phase, minute, reason] = pod.split(' ').collect::<Vec<_>>()[..] else { panic!("{pod}") };
            let created = format!("2026-11-23T19:{minute}:00Z");
            world.put(
                Pod::RESOURCE,
                json!({"metadata": {"name": name, "namespace": "n", "creationTimestamp": created}, "spec": {"containers": []},
                    "status": {"phase": phase, "reason": reason}}),
            );
        }
        assert_eq!(lines(&world.reconcile(&Terminated::new(threshold), "", "")), removed);
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let pods = ["a Succeeded 10 -", "b Failed 05 -", "c Running 01 -", "d Succeeded 20 -"];
        check(2, &pods, &["delete pods n/b"]);
        check(3, &pods, &[]);
    }

    #[test]
    fn an_evicted_one_goes_before_older_ones() {
        check(1, &["a Failed 10 Evicted", "b Failed 05 -"], &["delete pods n/a"]);
    }

    #[test]
    fn they_are_counted_now_and_then() {
        let mut world = World::default();
        let collector = Terminated::new(1);
        assert!(world.reconcile(&collector, "", "").requeue_after.is_none());
        world.at = world.at.plus(EVERY / 2);
        assert_eq!(world.reconcile(&collector, "", "").requeue_after, Some(EVERY / 2));
        world.at = world.at.plus(EVERY / 2);
        assert!(world.reconcile(&collector, "", "").requeue_after.is_none());
    }
}
