//! Keeps the number of live pods of a ReplicaSet, or of a ReplicationController, equal to `spec.replicas`.
//!
//! Start at [`ReplicaSets`]. Both kinds are read as one [`Set`], whose decision is the same.
//!
//! Invariants:
//! * only pods this set owns are ever counted or deleted;
//! * one pass creates or deletes at most [`BURST_PODS_MAX`] pods.
//!
//! Not here: rolling updates (`deployment.rs`), which pods go first and adoption (`pods.rs`).

use std::sync::Arc;

use base::Timestamp;
use client::{Collection, DeleteOptions, Entry, Kind, Resource, Selector};
use control::{About, Announce, Key, Outcome, Reconciler, Regarding, View, Write, itself, owner};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController, ReplicationControllerStatus};

use crate::pods::{
    Condition, claim, from_template, is_active, is_available, is_ready, name_prefix, rank_for_deletion, set_condition,
    some,
};

/// Pods created or deleted in one pass; the next pass goes on when the cache has seen them.
pub const BURST_PODS_MAX: usize = 500;

/// The controller of ReplicaSets.
pub struct ReplicaSets;

/// The controller of ReplicationControllers.
pub struct ReplicationControllers;

impl Reconciler for ReplicaSets {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[ReplicaSet::RESOURCE, Pod::RESOURCE];
        About {
            name: "replicaset-controller",
            reads: READS,
            writes: &["pods", "replicasets.apps.status"],
            everything: false,
        }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        keys_of_set::<ReplicaSet>(view, collection, entry, |set| {
            Selector::of(&set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default())
        })
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        let Some(set) = view.get::<ReplicaSet>(&key.namespace, &key.name) else { return Outcome::none() };
        let spec = set.spec.clone().unwrap_or_default();
        let status = set.status.clone().unwrap_or_default();
        let (mut outcome, counts) = Set {
            owner: &*set,
            selector: Selector::of(&spec.selector),
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or_default(),
            template: &spec.template.unwrap_or_default(),
        }
        .decide(view, now);
        let mut wanted = ReplicaSetStatus {
            replicas: counts.pods,
            fully_labeled_replicas: some(counts.fully_labelled),
            ready_replicas: some(counts.ready),
            available_replicas: some(counts.available),
            terminating_replicas: Some(counts.terminating),
            observed_generation: set.metadata.generation,
            conditions: status.conditions.clone(),
        };
        counts.tell_failure(&mut wanted.conditions, view, now);
        if wanted != status {
            let write = Write::status(&ReplicaSet { status: Some(wanted), ..(*set).clone() });
            put_status(&mut outcome, write, view);
        }
        outcome
    }
}

impl Reconciler for ReplicationControllers {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[ReplicationController::RESOURCE, Pod::RESOURCE];
        About {
            name: "replication-controller",
            reads: READS,
            writes: &["pods", "replicationcontrollers.status"],
            everything: false,
        }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        keys_of_set::<ReplicationController>(view, collection, entry, selector_of)
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        let Some(set) = view.get::<ReplicationController>(&key.namespace, &key.name) else { return Outcome::none() };
        let spec = set.spec.clone().unwrap_or_default();
        let status = set.status.clone().unwrap_or_default();
        let (mut outcome, counts) = Set {
            owner: &*set,
            selector: selector_of(&set),
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or_default(),
            template: &spec.template.unwrap_or_default(),
        }
        .decide(view, now);
        let mut wanted = ReplicationControllerStatus {
            replicas: counts.pods,
            fully_labeled_replicas: some(counts.fully_labelled),
            ready_replicas: some(counts.ready),
            available_replicas: some(counts.available),
            observed_generation: set.metadata.generation,
            conditions: status.conditions.clone(),
        };
        counts.tell_failure(&mut wanted.conditions, view, now);
        if wanted != status {
            let write = Write::status(&ReplicationController { status: Some(wanted), ..(*set).clone() });
            put_status(&mut outcome, write, view);
        }
        outcome
    }
}

fn selector_of(set: &ReplicationController) -> Selector {
    match set.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|labels| !labels.is_empty()) {
        Some(labels) => Selector::labels(labels),
        None => Selector::nothing(),
    }
}

/// Which sets may have to be looked at for an object that they own, or might; or for one of themselves.
pub fn keys_of_set<T: Kind>(
    view: &View<'_>,
    collection: &Collection,
    entry: &Entry,
    selector: impl Fn(&T) -> Selector,
) -> Vec<Key> {
    if collection.resource == T::RESOURCE.plural {
        itself(entry)
    } else if collection.resource == "pods" && !entry.meta.owners.iter().any(|owner| owner.controller) {
        selecting(view, entry, selector)
    } else {
        owner(entry, &T::RESOURCE.kind)
    }
}

/// The sets of a namespace that would adopt an object without a controller.
pub fn selecting<T: Kind>(view: &View<'_>, entry: &Entry, selector: impl Fn(&T) -> Selector) -> Vec<Key> {
    let sets = view.list::<T>(Some(&entry.meta.namespace));
    let wants = sets.iter().filter(|set| selector(set).matches(&entry.meta.labels));
    wants.map(|set| Key::new(set.namespace(), set.name())).collect()
}

/// The status goes last, except that a failure of the pass before must be told before the same failure ends this pass.
fn put_status(outcome: &mut Outcome, write: Write, view: &View<'_>) {
    let at = if view.failure().is_some() { 0 } else { outcome.writes.len() };
    outcome.writes.insert(at, write);
}

/// What both kinds are.
struct Set<'a, O: Kind> {
    owner: &'a O,
    selector: Selector,
    replicas: i32,
    min_ready_seconds: i32,
    template: &'a PodTemplateSpec,
}

#[derive(Default)]
struct Counts {
    pods: i32,
    fully_labelled: i32,
    ready: i32,
    available: i32,
    terminating: i32,
    differs: bool,
    failing: &'static str,
}

impl Counts {
    /// Says why the number of pods is not what it should be, as long as that is so.
    fn tell_failure<C: Condition>(&self, conditions: &mut Option<Vec<C>>, view: &View<'_>, now: Timestamp) {
        const TYPE: &str = "ReplicaFailure";
        if let Some(failure) = view.failure().filter(|_| self.differs) {
            return set_condition(conditions, TYPE, "True", self.failing, &failure.message, now);
        }
        if let Some(list) = conditions {
            list.retain(|each| each.type_() != TYPE);
        }
        *conditions = conditions.take().filter(|list| !list.is_empty());
    }
}

impl<O: Kind> Set<'_, O> {
    fn decide(&self, view: &View<'_>, now: Timestamp) -> (Outcome, Counts) {
        let claimed = claim::<O, Pod>(view, self.owner, &self.selector);
        let mut outcome = Outcome { writes: claimed.writes, ..Outcome::default() };
        let terminating = claimed.own.iter().filter(|pod| pod.deleting()).count() as i32;
        let live: Vec<Arc<Pod>> = claimed.own.into_iter().filter(|pod| is_active(pod)).collect();
        let wanted_labels = self.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        let mut counts = Counts { pods: live.len() as i32, terminating, ..Counts::default() };
        for pod in &live {
            let labels = pod.metadata.labels.as_ref();
            let full = wanted_labels.iter().all(|(key, value)| labels.is_some_and(|its| its.get(key) == Some(value)));
            counts.fully_labelled += i32::from(full);
            counts.ready += i32::from(is_ready(pod));
            match is_available(pod, self.min_ready_seconds, now) {
                Ok(()) => counts.available += 1,
                Err(Some(wait)) => outcome.again(wait),
                Err(None) => {}
            }
        }
        if !self.owner.deleting() {
            let wanted = self.replicas.max(0) as usize;
            counts.differs = wanted != live.len();
            counts.failing = if live.len() < wanted { "FailedCreate" } else { "FailedDelete" };
            if live.len() < wanted {
                let missing = (wanted - live.len()).min(BURST_PODS_MAX);
                outcome.writes.extend(std::iter::repeat_n(self.create(), missing));
            } else {
                outcome.writes.extend(self.delete(live, wanted));
            }
        }
        (outcome, counts)
    }

    fn create(&self) -> Write {
        let mut pod = from_template(self.template, self.owner);
        pod.metadata.generate_name = Some(name_prefix(self.owner.name()));
        Write::create(&pod).announce(Announce {
            regarding: Regarding::object(self.owner),
            done: ("SuccessfulCreate", "Created pod: {}".into()),
            failed: ("FailedCreate", "Error creating: ".into()),
        })
    }

    fn delete(&self, mut live: Vec<Arc<Pod>>, wanted: usize) -> Vec<Write> {
        let surplus = (live.len() - wanted).min(BURST_PODS_MAX);
        rank_for_deletion(&mut live);
        let gone = live.into_iter().take(surplus);
        gone.map(|pod| {
            Write::delete(&*pod, DeleteOptions::default()).announce(Announce {
                regarding: Regarding::object(self.owner),
                done: ("SuccessfulDelete", format!("Deleted pod: {}", pod.name())),
                failed: ("FailedDelete", "Error deleting: ".into()),
            })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::World;

    const SET: &str = r#"{"kind":"ReplicaSet","metadata":{"name":"web","namespace":"n","uid":"s","generation":1},
        "spec":{"replicas":2,"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[]}}}}"#;

    /// Pods are letters: `a` ready, `a!` unready, `a-` leaving, `a?` without owner, `a*` with a label that does not match.
    #[track_caller]
    fn check(pods: &str, writes: &str) {
        let mut world = World::default();
        world.add::<super::ReplicaSet>(SET);
        for pod in pods.split_whitespace() {
            let (name, marks) = pod.split_at(1);
            world.pod(name, "s", "ReplicaSet", "web", marks);
        }
        let outcome = world.reconcile(&super::ReplicaSets, "n", "web");
        let told: Vec<String> =
            outcome.writes.iter().filter(|write| write.subresource.is_empty()).map(ToString::to_string).collect();
        assert_eq!(told.join(", ").replace("pods n/", ""), writes);
    }

    #[test]
    fn is_quiet_when_satisfied() {
        check("a b", "");
    }
    #[test]
    fn creates_what_is_missing() {
        check("", "create , create ");
    }
    #[test]
    fn replaces_a_pod_that_is_leaving() {
        check("a b-", "create ");
    }
    #[test]
    fn removes_the_unready_first() {
        check("a! b c", "delete a");
    }
    #[test]
    fn adopts_a_pod_that_matches() {
        check("a b?", "patch b, create ");
    }
    #[test]
    fn releases_a_pod_that_no_longer_matches() {
        check("a b c*", "patch c");
    }
    #[test]
    fn a_failed_create_becomes_a_condition() {
        let mut world = World::default();
        world.add::<super::ReplicaSet>(SET);
        world.fail("pods is forbidden: exceeded quota");
        let outcome = world.reconcile(&super::ReplicaSets, "n", "web");
        assert_eq!(outcome.writes[0].to_string(), "update replicasets.apps/status n/web");
        let body = std::str::from_utf8(&outcome.writes[0].body).expect("text");
        assert!(body.contains(r#""reason":"FailedCreate""#) && body.contains("exceeded quota"), "{body}");
    }
}
