//! Says how many pods of a PodDisruptionBudget may be evicted now.
//!
//! Start at [`Budgets`].
//!
//! Invariants:
//! * never more than `currentHealthy - desiredHealthy`; 0, and the condition says why, when it cannot be told how many pods
//!   there should be;
//! * a permission that the server gave counts against the budget until its pod goes, or [`DISRUPTED_SECONDS`] are over.
//!
//! Not here: refusing evictions (`apiserver` counts them against this status).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use client::{Collection, Entry, Kind, Resource, Selector};
use control::{About, Key, Note, Outcome, Reconciler, Regarding, View, Write, itself};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::deployment::portion;
use crate::pods::{controller_of, is_ready, phase};
use crate::times::{left, time};

/// An eviction that was allowed but not seen is forgotten after so many seconds.
const DISRUPTED_SECONDS: i64 = 120;

/// The reason of the condition while the budget cannot be counted.
const SYNC_FAILED: &str = "SyncFailed";

/// The controller of PodDisruptionBudgets.
pub struct Budgets;

impl Reconciler for Budgets {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[
            PodDisruptionBudget::RESOURCE,
            Pod::RESOURCE,
            ReplicaSet::RESOURCE,
            Deployment::RESOURCE,
            StatefulSet::RESOURCE,
            ReplicationController::RESOURCE,
        ];
        About {
            name: "disruption-controller",
            reads: READS,
            writes: &["poddisruptionbudgets.policy.status"],
            everything: false,
        }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        match collection.resource.as_str() {
            "poddisruptionbudgets" => itself(entry),
            "pods" => crate::replicaset::selecting::<PodDisruptionBudget>(view, entry, selector),
            // How many pods there should be changed: rarely, and cheap to look at.
            _ => {
                let all = view.list::<PodDisruptionBudget>(Some(&entry.meta.namespace));
                all.iter().map(|budget| Key::new(budget.namespace(), budget.name())).collect()
            }
        }
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        let Some(budget) = view.get::<PodDisruptionBudget>(&key.namespace, &key.name) else { return Outcome::none() };
        let spec = budget.spec.clone().unwrap_or_default();
        let mut pods = view.select::<Pod>(&key.namespace, &selector(&budget));
        pods.retain(|pod| !matches!(phase(pod), "Succeeded" | "Failed"));
        let known = budget.status.clone().unwrap_or_default();
        let mut outcome = Outcome::none();
        let mut disrupted = known.disrupted_pods.clone().unwrap_or_default();
        disrupted.retain(|name, since| {
            let wait = left(since, DISRUPTED_SECONDS, now);
            let here = pods.iter().any(|pod| pod.name() == name && !pod.deleting());
            if let Some(wait) = wait.filter(|_| here) {
                outcome.again(wait + Duration::from_secs(1));
            }
            here && wait.is_some()
        });
        let healthy = pods.iter().filter(|pod| is_ready(pod) && !pod.deleting() && !disrupted.contains_key(pod.name()));
        let healthy = healthy.count() as i32;
        let wanted = wanted(view, &spec, &pods);
        outcome.events.extend(told(&budget, &wanted, pods.is_empty(), &known));
        let (expected, desired) = match &wanted {
            Ok(wanted) => (wanted.expected, wanted.desired),
            // Nothing is known, so nobody may go; what was counted last stays to be seen.
            Err(_) => (known.expected_pods.unwrap_or(0), known.desired_healthy.unwrap_or(0)),
        };
        let allowed = if expected > 0 && wanted.is_ok() { (healthy - desired).max(0) } else { 0 };
        let mut status = PodDisruptionBudgetStatus {
            current_healthy: Some(healthy),
            desired_healthy: Some(desired),
            expected_pods: Some(expected),
            disruptions_allowed: Some(allowed),
            disrupted_pods: Some(disrupted).filter(|disrupted| !disrupted.is_empty()),
            observed_generation: budget.metadata.generation,
            conditions: known.conditions.clone(),
        };
        describe(&mut status, wanted.as_ref().map(|_| allowed > 0).map_err(String::as_str), now);
        if status != known {
            outcome.writes.push(Write::status(&PodDisruptionBudget { status: Some(status), ..(*budget).clone() }));
        }
        outcome
    }
}

fn selector(budget: &PodDisruptionBudget) -> Selector {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.map_or_else(Selector::nothing, Selector::of)
}

/// What is worth an event, when it is news.
fn told(
    budget: &PodDisruptionBudget,
    wanted: &Result<Wanted, String>,
    is_empty: bool,
    known: &PodDisruptionBudgetStatus,
) -> Option<Note> {
    let about = Regarding::object(budget);
    let is_new = known.observed_generation != budget.metadata.generation;
    let had_failed = known.conditions.iter().flatten().any(|condition| condition.reason == SYNC_FAILED);
    match wanted {
        Err(why) if !had_failed => {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            Some(Note::warning(&about, "CalculateExpectedPodCountFailed", message))
        }
        Ok(wanted) if wanted.unmanaged && is_new => {
            let message = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of the \
                           PDB cannot be calculated correctly, which may result in undefined behavior. To account for these \
                           pods please set \".spec.minAvailable\" field of the PDB to an integer value.";
            Some(Note::warning(&about, "UnmanagedPods", message))
        }
        Ok(_) if is_empty && is_new => Some(Note::normal(&about, "NoPods", "No matching pods found")),
        _ => None,
    }
}

fn describe(status: &mut PodDisruptionBudgetStatus, allowed: Result<bool, &str>, now: Timestamp) {
    let (is_allowed, reason, message) = match allowed {
        Ok(true) => ("True", "SufficientPods", ""),
        Ok(false) => ("False", "InsufficientPods", ""),
        Err(why) => ("False", SYNC_FAILED, why),
    };
    let mut fresh = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: is_allowed.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: status.observed_generation,
        last_transition_time: time(now),
    };
    let list = status.conditions.get_or_insert_default();
    match list.iter_mut().find(|each| each.type_ == fresh.type_) {
        Some(known) => {
            if known.status == fresh.status {
                fresh.last_transition_time = known.last_transition_time.clone();
            }
            *known = fresh;
        }
        None => list.push(fresh),
    }
}

/// What a budget asks for.
struct Wanted {
    /// How many pods there should be.
    expected: i32,
    /// How many of them are to be healthy.
    desired: i32,
    /// Whether some belong to nobody, and were not counted.
    unmanaged: bool,
}

fn wanted(view: &View<'_>, spec: &PodDisruptionBudgetSpec, pods: &[Arc<Pod>]) -> Result<Wanted, String> {
    let counted = |desired: &dyn Fn(i32) -> i32| {
        let (expected, unmanaged) = expected(view, pods)?;
        Ok(Wanted { expected, desired: desired(expected), unmanaged })
    };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(max), _) => counted(&|expected| (expected - portion(Some(max), expected, true)).max(0)),
        (None, Some(IntOrString::Int(min))) => {
            Ok(Wanted { expected: pods.len() as i32, desired: *min, unmanaged: false })
        }
        (None, Some(min)) => counted(&|expected| portion(Some(min), expected, true)),
        (None, None) => Ok(Wanted { expected: 0, desired: 0, unmanaged: false }),
    }
}

/// The sizes of the sets these pods belong to together, and whether some belong to none.
fn expected(view: &View<'_>, pods: &[Arc<Pod>]) -> Result<(i32, bool), String> {
    let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
    let mut unmanaged = false;
    for pod in pods {
        match controller_of(&pod.metadata) {
            None => unmanaged = true,
            Some(owner) => {
                let (uid, replicas) = size(view, pod.namespace(), owner)?;
                sizes.insert(uid, replicas);
            }
        }
    }
    Ok((sizes.values().sum(), unmanaged))
}

/// How many pods an owner, or the owner above it, wants.
fn size(view: &View<'_>, namespace: &str, owner: &OwnerReference) -> Result<(String, i32), String> {
    let name = owner.name.as_str();
    let found = match owner.kind.as_str() {
        "ReplicaSet" => view.get::<ReplicaSet>(namespace, name).map(|set| {
            let above = controller_of(&set.metadata).filter(|above| above.kind == "Deployment");
            let above =
                above.and_then(|above| Some((above.uid.clone(), view.get::<Deployment>(namespace, &above.name)?)));
            match above {
                Some((uid, deployment)) => (uid, deployment.spec.as_ref().and_then(|spec| spec.replicas)),
                None => (owner.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas)),
            }
        }),
        "StatefulSet" => view
            .get::<StatefulSet>(namespace, name)
            .map(|set| (owner.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas))),
        "ReplicationController" => view
            .get::<ReplicationController>(namespace, name)
            .map(|set| (owner.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas))),
        kind => {
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
            let dot = if group.is_empty() { "" } else { "." };
            return Err(format!("{}s{dot}{group} does not implement the scale subresource", kind.to_lowercase()));
        }
    };
    match found {
        Some((uid, replicas)) => Ok((uid, replicas.unwrap_or(1))),
        None => Err(format!("found no controllers for pod of {} {namespace}/{name}", owner.kind)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{World, body};

    #[track_caller]
    fn check(spec: serde_json::Value, pods: &str, wanted: [i32; 4]) {
        let mut world = World::default();
        let mut all = json!({"selector": {"matchLabels": {"app": "web"}}});
        all.as_object_mut().expect("a map").extend(spec.as_object().expect("a map").clone());
        world.put(PodDisruptionBudget::RESOURCE, json!({"metadata": {"name": "b", "namespace": "n"}, "spec": all}));
        world.put(
            ReplicaSet::RESOURCE,
            json!({"metadata": {"name": "web", "namespace": "n", "uid": "s"}, "spec": {"replicas": 4, "selector": {}}}),
        );
        for pod in pods.split_whitespace() {
            let (name, marks) = pod.split_at(1);
            world.pod(name, "s", "ReplicaSet", "web", marks);
        }
        let status = body(&world.reconcile(&Budgets, "n", "b"), "update poddisruptionbudgets.policy/status n/b");
        let figures = ["expectedPods", "currentHealthy", "desiredHealthy", "disruptionsAllowed"];
        assert_eq!(figures.map(|figure| status["status"][figure].as_i64().expect("a number") as i32), wanted);
    }

    #[test]
    fn allows_what_is_above_the_minimum() {
        check(json!({"minAvailable": 2}), "a b c", [3, 3, 2, 1]);
        check(json!({"minAvailable": "50%"}), "a b c d", [4, 4, 2, 2]);
    }
    #[test]
    fn allows_what_may_be_missing() {
        check(json!({"maxUnavailable": 1}), "a b c d", [4, 4, 3, 1]);
        check(json!({"maxUnavailable": 1}), "a b c! d", [4, 3, 3, 0]);
    }
    #[test]
    fn a_minimum_in_percent_is_of_what_should_be_there() {
        check(json!({"minAvailable": "50%"}), "a b", [4, 2, 2, 0]);
        check(json!({"minAvailable": "30%"}), "a b c d", [4, 4, 2, 2]);
        check(json!({"maxUnavailable": "50%"}), "a b c d", [4, 4, 2, 2]);
        check(json!({"maxUnavailable": "100%"}), "a b c d", [4, 4, 0, 4]);
    }
    #[test]
    fn pods_of_nobody_count_as_a_number_only() {
        check(json!({"minAvailable": 1}), "a? b?", [2, 2, 1, 1]);
        check(json!({"maxUnavailable": 1}), "a? b?", [0, 2, 0, 0]);
    }
    #[test]
    fn a_pod_that_leaves_is_not_healthy() {
        check(json!({"minAvailable": 2}), "a b c-", [3, 2, 2, 0]);
    }

    #[test]
    fn a_budget_over_a_job_says_why_it_allows_nothing() {
        let mut world = World::default();
        let spec = json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}});
        world.put(PodDisruptionBudget::RESOURCE, json!({"metadata": {"name": "b", "namespace": "n"}, "spec": spec}));
        world.pod("a", "s", "Job", "web", "");
        let outcome = world.reconcile(&Budgets, "n", "b");
        assert_eq!(outcome.events[0].reason, "CalculateExpectedPodCountFailed");
        let status = body(&outcome, "update poddisruptionbudgets.policy/status n/b")["status"].clone();
        let condition = &status["conditions"][0];
        assert_eq!((&status["disruptionsAllowed"], &condition["reason"]), (&json!(0), &json!("SyncFailed")));
        assert_eq!(condition["message"], "jobs does not implement the scale subresource");
    }
}
