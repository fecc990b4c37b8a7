//! What several controllers ask of pods, and how they make and claim them.
//!
//! Start at [`claim`] and [`from_template`].
//!
//! Invariants:
//! * a pod has at most one controller: only pods without one are adopted, and only in the version that was seen;
//! * adopting is held back unless the server says that the owner is there and stays: a cache may be behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use client::{Kind, Selector};
use control::{Guard, View, Write};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use crate::times::{moment, pause_left, time};

/// What lives under an owner by selector.
pub struct Claimed<T> {
    /// The objects that are its own.
    pub own: Vec<Arc<T>>,
    /// The writes that adopt and release others.
    pub writes: Vec<Write>,
}

/// Finds the objects of `owner` in its namespace: its own that the selector selects; others are adopted or released.
pub fn claim<O: Kind, T: Kind>(view: &View<'_>, owner: &O, selector: &Selector) -> Claimed<T> {
    let mut claimed = Claimed { own: Vec::new(), writes: Vec::new() };
    for object in view.list::<T>(Some(owner.namespace())) {
        let meta = object.metadata();
        let empty = BTreeMap::new();
        let selected = selector.matches(meta.labels.as_ref().unwrap_or(&empty));
        match controller_of(meta) {
            Some(reference) if reference.uid == owner.uid() => match selected {
                true => claimed.own.push(object),
                false if !owner.deleting() && !object.deleting() => {
                    claimed.writes.push(set_owners(&*object, |owners| owners.retain(|each| each.uid != owner.uid())));
                }
                false => {}
            },
            None if selected && !owner.deleting() && !object.deleting() => {
                let adopt = set_owners(&*object, |owners| owners.push(controller_reference(owner)));
                claimed.writes.push(adopt.only_if(Guard::Present {
                    resource: O::RESOURCE.clone(),
                    namespace: owner.namespace().to_owned(),
                    name: owner.name().to_owned(),
                    uid: owner.uid().to_owned(),
                }));
            }
            _ => {}
        }
    }
    claimed
}

fn set_owners<T: Kind>(object: &T, change: impl FnOnce(&mut Vec<OwnerReference>)) -> Write {
    let mut owners = object.metadata().owner_references.clone().unwrap_or_default();
    change(&mut owners);
    let version = object.metadata().resource_version.clone();
    Write::patch(object, "", json!({"metadata": {"ownerReferences": owners, "resourceVersion": version}}))
}

/// The owner that manages an object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The reference that says that `owner` manages an object.
pub fn controller_reference<O: Kind>(owner: &O) -> OwnerReference {
    OwnerReference {
        api_version: O::RESOURCE.api_version(),
        kind: O::RESOURCE.kind.to_string(),
        name: owner.name().to_owned(),
        uid: owner.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A pod as a template and its owner want it; without a name.
pub fn from_template<O: Kind>(template: &PodTemplateSpec, owner: &O) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(owner.namespace().to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The name prefix under which the server makes up a pod's name.
pub fn name_prefix(owner: &str) -> String {
    let prefix = format!("{owner}-");
    // Upstream falls back to the bare name when the dash would make the prefix invalid, which only its length can.
    if prefix.len() > 253 { owner.to_owned() } else { prefix }
}

/// `status.phase`, or `Pending`.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Neither finished nor leaving.
pub fn is_active(pod: &Pod) -> bool {
    !matches!(phase(pod), "Succeeded" | "Failed") && !pod.deleting()
}

/// A condition of a pod.
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// Whether the condition `Ready` holds.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Whether the pod has been ready for so long; if not yet, how long that will take.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Result<(), Option<Duration>> {
    let Some(ready) = condition(pod, "Ready").filter(|ready| ready.status == "True") else { return Err(None) };
    if min_ready_seconds <= 0 {
        return Ok(());
    }
    let Some(since) = &ready.last_transition_time else { return Err(None) };
    let pause = Duration::from_secs(min_ready_seconds.max(0) as u64);
    match pause_left(moment(since), pause, now) {
        None => Ok(()),
        left => Err(left),
    }
}

/// How many restarts its containers had.
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).max().unwrap_or_default()
}

/// When it was created.
pub fn moment_of(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(moment)
}

/// The node it is bound to, or `""`.
pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// Sorts the pods that should be deleted first to the front: those whose loss costs least.
pub fn rank_for_deletion(pods: &mut [Arc<Pod>]) {
    let mut neighbours: BTreeMap<String, usize> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| is_active(pod)) {
        *neighbours.entry(node_name(pod).to_owned()).or_default() += 1;
    }
    pods.sort_by_cached_key(|pod| {
        let phase = match phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        let cost = pod.metadata.annotations.iter().flatten();
        let cost = cost.filter(|(key, _)| *key == "controller.kubernetes.io/pod-deletion-cost");
        let cost: i32 = cost.filter_map(|(_, value)| value.parse().ok()).next().unwrap_or_default();
        let crowd = neighbours.get(node_name(pod)).copied().unwrap_or_default();
        let ready_since = condition(pod, "Ready").filter(|ready| ready.status == "True");
        let ready_since = ready_since.and_then(|ready| ready.last_transition_time.as_ref()).map(moment);
        let created = pod.metadata.creation_timestamp.as_ref().map(moment);
        (
            !node_name(pod).is_empty(),
            phase,
            is_ready(pod),
            cost,
            std::cmp::Reverse(crowd),
            std::cmp::Reverse(ready_since),
            std::cmp::Reverse(restarts(pod)),
            std::cmp::Reverse(created),
            pod.name().to_owned(),
        )
    });
}

/// A template as text to compare by: without `skip`ped labels and without what is empty.
pub fn fingerprint(template: &PodTemplateSpec, skip: &str) -> String {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(skip);
    }
    let mut value = serde_json::to_value(&template).unwrap_or_default();
    prune(&mut value);
    value.to_string()
}

/// Removes nulls, empty maps and empty lists: the API means the same without them, except in an `emptyDir: {}`, where
/// both sides lose the same.
pub fn prune(value: &mut Value) {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|key, value| key == "emptyDir" || !is_empty(value));
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

/// A short stable hash for names and labels, in the alphabet of generated names (32-bit FNV-1a).
pub fn hash(text: &str, collisions: i32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash: u32 = 0x811c_9dc5;
    for byte in text.bytes().chain(collisions.to_le_bytes().into_iter().filter(|_| collisions > 0)) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit - b'0')])).collect()
}

/// What upstream leaves out when it is zero.
pub fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// Sets a condition in a list: unchanged if status, reason and message are the same; the time of the last transition moves with
/// the status only.
pub fn set_condition<C: Condition>(
    conditions: &mut Option<Vec<C>>,
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let list = conditions.get_or_insert_default();
    match list.iter_mut().find(|condition| condition.type_() == type_) {
        Some(known) => known.set(status, reason, message, now),
        None => list.push(C::new(type_, status, reason, message, now)),
    }
}

/// What the condition types of several kinds have in common.
pub trait Condition {
    /// A new condition.
    fn new(type_: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Self;
    /// Its type.
    fn type_(&self) -> &str;
    /// Changes it.
    fn set(&mut self, status: &str, reason: &str, message: &str, now: Timestamp);
}

macro_rules! conditions {
    ($($type:ty),*) => {$(
        impl Condition for $type {
            fn new(type_: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Self {
                Self {
                    type_: type_.to_owned(),
                    status: status.to_owned(),
                    reason: Some(reason.to_owned()).filter(|text| !text.is_empty()),
                    message: Some(message.to_owned()).filter(|text| !text.is_empty()),
                    last_transition_time: Some(time(now)),
                    ..Self::default()
                }
            }
            fn type_(&self) -> &str {
                &self.type_
            }
            fn set(&mut self, status: &str, reason: &str, message: &str, now: Timestamp) {
                let fresh = Self::new(&self.type_, status, reason, message, now);
                if self.status != fresh.status {
                    self.last_transition_time = fresh.last_transition_time;
                }
                (self.status, self.reason, self.message) = (fresh.status, fresh.reason, fresh.message);
            }
        }
    )*};
}

conditions!(
    k8s_openapi::api::core::v1::NamespaceCondition,
    k8s_openapi::api::core::v1::NodeCondition,
    k8s_openapi::api::core::v1::PodCondition,
    k8s_openapi::api::core::v1::ReplicationControllerCondition,
    k8s_openapi::api::apps::v1::ReplicaSetCondition,
    k8s_openapi::api::batch::v1::JobCondition
);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ready_seconds_ago: i64, wanted: Result<(), Option<Duration>>) {
        let now = Timestamp::from_seconds(1_795_464_000);
        let since = Timestamp::from_seconds(now.seconds() - ready_seconds_ago).rfc3339();
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": since});
        let pod = serde_json::from_value(json!({"status": {"conditions": [ready]}})).expect("a pod");
        assert_eq!(is_available(&pod, 10, now), wanted);
    }

    #[test]
    fn a_pod_is_available_when_it_has_been_ready_for_long_enough() {
        check(4, Err(Some(Duration::from_secs(6))));
        check(10, Ok(()));
    }

    /// Found by the simulator (seed 4): a StatefulSet stood still until the clock had caught up.
    #[test]
    fn a_clock_that_was_set_back_holds_up_no_rollout() {
        check(-3000, Ok(()));
    }
}
