//! Says how many pods of a PodDisruptionBudget may be evicted now.
//!
//! Start at [`Budgets`].
//!
//! Invariants:
//! * never more than `currentHealthy - desiredHealthy`; 0 when it cannot be told how many pods there should be.
//!
//! Not here: refusing evictions (`apiserver` counts them against this status).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use client::{Collection, Entry, Kind, Resource, Selector};
use control::{About, Key, Outcome, Reconciler, View, Write, itself};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::deployment::portion;
use crate::pods::{controller_of, is_ready, phase};
use crate::times::{left, time};

/// An eviction that was allowed but not seen is forgotten after so many seconds.
const DISRUPTED_SECONDS: i64 = 120;

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
        let (expected, desired) = wanted(view, &spec, &pods);
        let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
        let mut status = PodDisruptionBudgetStatus {
            current_healthy: Some(healthy),
            desired_healthy: Some(desired),
            expected_pods: Some(expected),
            disruptions_allowed: Some(allowed),
            disrupted_pods: Some(disrupted).filter(|disrupted| !disrupted.is_empty()),
            observed_generation: budget.metadata.generation,
            conditions: known.conditions.clone(),
        };
        describe(&mut status, allowed > 0, now);
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

fn describe(status: &mut PodDisruptionBudgetStatus, allowed: bool, now: Timestamp) {
    let mut fresh = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: if allowed { "True" } else { "False" }.to_owned(),
        reason: if allowed { "SufficientPods" } else { "InsufficientPods" }.to_owned(),
        message: String::new(),
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

/// How many pods there should be, and how many of them healthy.
fn wanted(view: &View<'_>, spec: &PodDisruptionBudgetSpec, pods: &[Arc<Pod>]) -> (i32, i32) {
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(max), _) => {
            let expected = expected(view, pods);
            (expected, (expected - portion(Some(max), expected, true)).max(0))
        }
        (None, Some(IntOrString::Int(min))) => (pods.len() as i32, *min),
        (None, Some(min)) => {
            let expected = expected(view, pods);
            (expected, portion(Some(min), expected, true))
        }
        (None, None) => (pods.len() as i32, pods.len() as i32),
    }
}

/// The sizes of the sets these pods belong to; pods of nobody count for nothing.
fn expected(view: &View<'_>, pods: &[Arc<Pod>]) -> i32 {
    let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
    for pod in pods {
        let Some(owner) = controller_of(&pod.metadata) else { continue };
        let (namespace, name) = (pod.namespace(), owner.name.as_str());
        let size = match owner.kind.as_str() {
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
            _ => None,
        };
        if let Some((uid, replicas)) = size {
            sizes.insert(uid, replicas.unwrap_or(1));
        }
    }
    sizes.values().sum()
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
}
