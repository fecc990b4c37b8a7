//! Binds claims to volumes, one to one, and says in both where they stand.
//!
//! Start at [`Binder`]: a key with a namespace is a claim, one without is a volume.
//!
//! Invariants:
//! * the volume is written first, in the version that was seen: two claims never get the same volume;
//! * a claim whose class waits for its first consumer is left to the scheduler until that has reserved a volume;
//! * a claim is bound only to a volume that the server itself says is there;
//! * a volume is released only if the server itself says that its claim is gone.
//!
//! Not here: which volume suits (`claims`), making one (`provision.rs`), what becomes of a released one (`reclaim.rs`),
//! finalizers of what is in use (`protection.rs`).
//!
//! See <https://kubernetes.io/docs/concepts/storage/persistent-volumes/>.

use std::sync::Arc;

use base::Timestamp;
use claims::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONED_BY, annotation, best, class, class_of_volume, is_for, misfit,
    mismatch, spec, volume_name, waits_for_consumer,
};
use client::{Collection, Entry, Kind, Resource};
use control::{About, Guard, Key, Note, Outcome, Reconciler, Regarding, View, Write, itself};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use crate::{provision, reclaim};

/// Volumes named in one event, so that it stays readable.
const NAMED_MAX: usize = 5;

/// The controller of claims and volumes.
pub struct Binder;

impl Reconciler for Binder {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[
            PersistentVolumeClaim::RESOURCE,
            PersistentVolume::RESOURCE,
            StorageClass::RESOURCE,
            Pod::RESOURCE,
            Node::RESOURCE,
        ];
        About {
            name: "persistentvolume-controller",
            reads: READS,
            writes: &["persistentvolumes", "persistentvolumeclaims.spec.volumeName", "persistentvolumeclaims.status"],
            everything: false,
        }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        match collection.resource.as_str() {
            "persistentvolumeclaims" => {
                let claim = entry.typed::<PersistentVolumeClaim>();
                let named = |volume: &PersistentVolume| {
                    let reference = spec(volume).claim_ref.as_ref();
                    let theirs = reference.is_some_and(|it| claim.as_ref().is_some_and(|claim| is_for(it, claim)));
                    theirs || claim.as_ref().is_some_and(|claim| volume_name(claim) == volume.name())
                };
                let volumes = view.list::<PersistentVolume>(None);
                let volumes = volumes.iter().filter(|volume| named(volume)).map(|volume| Key::new("", volume.name()));
                itself(entry).into_iter().chain(volumes).collect()
            }
            "persistentvolumes" => {
                let of = |volume: Arc<PersistentVolume>| spec(&volume).claim_ref.clone();
                let named = entry.typed::<PersistentVolume>().and_then(of).map(|it| {
                    Key::new(it.namespace.as_deref().unwrap_or_default(), it.name.as_deref().unwrap_or_default())
                });
                itself(entry).into_iter().chain(named).chain(unbound(view, |_| true)).collect()
            }
            "storageclasses" => unbound(view, |claim| class(claim) == entry.meta.name),
            // Who looks after volumes may have gone, and a node may say at last where its volumes lie.
            "nodes" => {
                let chosen = |claim: &PersistentVolumeClaim| {
                    annotation(&claim.metadata, claims::SELECTED_NODE) == Some(&entry.meta.name)
                };
                unbound(view, chosen).into_iter().chain(uncleared(view)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        if key.namespace.is_empty() {
            let volume = view.get::<PersistentVolume>("", &key.name);
            return volume.map_or_else(Outcome::none, |volume| sync_volume(view, &volume, now));
        }
        match view.get::<PersistentVolumeClaim>(&key.namespace, &key.name) {
            Some(claim) if annotation(&claim.metadata, BIND_COMPLETED).is_some() => sync_bound(view, &claim, now),
            Some(claim) if !claim.deleting() => sync_unbound(view, &claim, now),
            _ => Outcome::none(),
        }
    }
}

fn unbound(view: &View<'_>, wanted: impl Fn(&PersistentVolumeClaim) -> bool) -> Vec<Key> {
    let claims = view.list::<PersistentVolumeClaim>(None);
    let waiting = claims.iter().filter(|claim| annotation(&claim.metadata, BIND_COMPLETED).is_none() && wanted(claim));
    waiting.map(|claim| Key::new(claim.namespace(), claim.name())).collect()
}

/// Volumes whose data a node is to remove: each may wait for one that is ready.
fn uncleared(view: &View<'_>) -> Vec<Key> {
    let phase = |volume: &PersistentVolume| volume.status.as_ref().and_then(|status| status.phase.clone());
    let policy = |volume: &PersistentVolume| spec(volume).persistent_volume_reclaim_policy.clone();
    let waits = |volume: &PersistentVolume| {
        matches!(phase(volume).as_deref(), Some("Released" | "Failed"))
            && matches!(policy(volume).as_deref(), Some("Delete" | "Recycle"))
    };
    let volumes = view.list::<PersistentVolume>(None);
    volumes.iter().filter(|volume| waits(volume)).map(|volume| Key::new("", volume.name())).collect()
}

fn sync_unbound(view: &View<'_>, claim: &PersistentVolumeClaim, now: Timestamp) -> Outcome {
    let wanted = volume_name(claim);
    if !wanted.is_empty() {
        return match view.get::<PersistentVolume>("", wanted) {
            Some(volume) => sync_prebound(claim, &volume, now),
            None => pending(claim, Outcome::none()),
        };
    }
    let class_name = class(claim);
    let class = view.get::<StorageClass>("", class_name);
    let delayed = waits_for_consumer(class.as_deref());
    let volumes = view.list::<PersistentVolume>(None);
    let eligible = volumes.iter().map(|volume| &**volume);
    let eligible = eligible.filter(|volume| !delayed || spec(volume).claim_ref.is_some());
    if let Some(volume) = best(claim, eligible, None) {
        return bind(claim, volume, now);
    }
    let about = Regarding::object(claim);
    let mut outcome = Outcome::none();
    if delayed && annotation(&claim.metadata, claims::SELECTED_NODE).is_none() {
        outcome.events.push(waits_for(view, claim));
    } else if class_name.is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        let message = format!("{message}{}", why_none(claim, &volumes));
        outcome.events.push(Note::normal(&about, "FailedBinding", message));
    } else {
        outcome = provision::provision(view, claim, class.as_deref());
        let why = why_none(claim, &volumes);
        if outcome.writes.is_empty() && !why.is_empty() {
            let message = format!("no persistent volume of class \"{class_name}\" fits{why}");
            outcome.events.push(Note::normal(&about, "FailedBinding", message));
        }
    }
    pending(claim, outcome)
}

/// What keeps the claim from each volume that its user may have thought of: those of its class, and those it named.
fn why_none(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> String {
    let of_class = volumes.iter().filter(|volume| class_of_volume(volume) == class(claim));
    let said = of_class.filter_map(|volume| Some(format!("{}: {}", volume.name(), misfit(claim, volume, None)?)));
    let said: Vec<String> = said.collect();
    match said.len() {
        0 => String::new(),
        count if count > NAMED_MAX => format!(" ({}; and {} more)", said[..NAMED_MAX].join("; "), count - NAMED_MAX),
        _ => format!(" ({})", said.join("; ")),
    }
}

fn waits_for(view: &View<'_>, claim: &PersistentVolumeClaim) -> Note {
    let about = Regarding::object(claim);
    let pods = view.list::<Pod>(Some(claim.namespace()));
    let names: Vec<&str> =
        pods.iter().filter(|pod| crate::protection::uses(pod, claim)).map(|pod| pod.name()).collect();
    match names.as_slice() {
        [] => Note::normal(&about, "WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        [one] => Note::normal(&about, "WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
        many => {
            Note::normal(&about, "WaitForPodScheduled", format!("waiting for pods {} to be scheduled", many.join(",")))
        }
    }
}

/// The claim names its volume, but is not bound yet.
fn sync_prebound(claim: &PersistentVolumeClaim, volume: &PersistentVolume, now: Timestamp) -> Outcome {
    match &spec(volume).claim_ref {
        Some(reference) if !is_for(reference, claim) => pending(claim, Outcome::none()),
        Some(_) => bind(claim, volume, now),
        None => match mismatch(claim, volume) {
            None => bind(claim, volume, now),
            Some(why) => {
                let message = format!("Cannot bind to requested volume \"{}\": {why}", volume.name());
                let note = Note::warning(&Regarding::object(claim), "VolumeMismatch", message);
                pending(claim, Outcome { events: vec![note], ..Outcome::none() })
            }
        },
    }
}

fn sync_bound(view: &View<'_>, claim: &PersistentVolumeClaim, now: Timestamp) -> Outcome {
    let name = volume_name(claim);
    if name.is_empty() {
        let message = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return lost(claim, "ClaimLost", message, None);
    }
    let Some(volume) = view.get::<PersistentVolume>("", name) else {
        let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        // A cache may be behind: a volume made a moment ago is not lost.
        let gone = Guard::Absent {
            resource: PersistentVolume::RESOURCE.clone(),
            namespace: String::new(),
            name: name.to_owned(),
            uid: String::new(),
        };
        return lost(claim, "ClaimLost", message, Some(gone));
    };
    match &spec(&volume).claim_ref {
        Some(reference) if !is_for(reference, claim) => {
            let message = "Two claims are bound to the same volume, this one is bound incorrectly";
            lost(claim, "ClaimMisbound", message, None)
        }
        _ => bind(claim, &volume, now),
    }
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn pending(claim: &PersistentVolumeClaim, mut outcome: Outcome) -> Outcome {
    if phase(claim) != "Pending" {
        outcome.writes.push(Write::patch(claim, "status", json!({"metadata": {}, "status": {"phase": "Pending"}})));
    }
    outcome
}

fn lost(claim: &PersistentVolumeClaim, reason: &'static str, message: &str, guard: Option<Guard>) -> Outcome {
    if phase(claim) == "Lost" {
        return Outcome::none();
    }
    let status = json!({"phase": "Lost", "accessModes": null, "capacity": null});
    let mut write = Write::patch(claim, "status", json!({"metadata": {}, "status": status}));
    write.guards.extend(guard);
    let write = write.announce(control::Announce {
        regarding: Regarding::object(claim),
        done: (reason, message.to_owned()),
        failed: (reason, String::new()),
    });
    write.into()
}

/// Everything that is still missing until a claim and a volume are each other's. The volume comes first.
fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume, now: Timestamp) -> Outcome {
    let mut outcome = Outcome::none();
    let reference = spec(volume).claim_ref.as_ref();
    if reference.is_none_or(|reference| reference.uid.as_deref() != Some(claim.uid())) {
        let mut patch = json!({
            "metadata": {"resourceVersion": volume.metadata.resource_version},
            "spec": {"claimRef": claim_reference(claim)},
        });
        if reference.is_none() {
            patch["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
        }
        outcome.writes.push(Write::patch(volume, "", patch));
    }
    outcome.writes.extend(set_phase(volume, "Bound", None, now));
    let named = volume_name(claim) == volume.name();
    let is_new = !named || annotation(&claim.metadata, BIND_COMPLETED).is_none();
    // A write to a volume that is gone is content, and a claim bound to it would be lost; held back, it takes another.
    let guard = (is_new && !volume.deleting()).then(|| present(volume));
    let of_claim = outcome.writes.len();
    if is_new {
        let mut patch = json!({
            "metadata": {"resourceVersion": claim.metadata.resource_version, "annotations": {BIND_COMPLETED: "yes"}},
            "spec": {"volumeName": volume.name()},
        });
        if !named {
            patch["metadata"]["annotations"][BOUND_BY_CONTROLLER] = "yes".into();
        }
        outcome.writes.push(Write::patch(claim, "", patch));
    }
    let status = claim.status.clone().unwrap_or_default();
    if phase(claim) != "Bound" || status.access_modes != spec(volume).access_modes || status.capacity.is_none() {
        let status =
            json!({"phase": "Bound", "accessModes": spec(volume).access_modes, "capacity": spec(volume).capacity});
        outcome.writes.push(Write::patch(claim, "status", json!({"metadata": {}, "status": status})));
    }
    for write in &mut outcome.writes[of_claim..] {
        write.guards.extend(guard.clone());
    }
    outcome
}

/// The volume that was seen is there, and is not being deleted.
fn present(volume: &PersistentVolume) -> Guard {
    Guard::Present {
        resource: PersistentVolume::RESOURCE.clone(),
        namespace: String::new(),
        name: volume.name().to_owned(),
        uid: volume.uid().to_owned(),
    }
}

/// How a volume refers to its claim.
pub(crate) fn claim_reference(claim: &PersistentVolumeClaim) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": claim.namespace(), "name": claim.name(), "uid": claim.uid(),
        "resourceVersion": claim.metadata.resource_version,
    })
}

/// Shows the phase of a volume, and why, unless it is shown already.
pub(crate) fn set_phase(
    volume: &PersistentVolume,
    phase: &str,
    message: Option<&str>,
    now: Timestamp,
) -> Option<Write> {
    let status = volume.status.clone().unwrap_or_default();
    let same = status.phase.as_deref() == Some(phase);
    if same && status.message.as_deref() == message {
        return None;
    }
    let mut shown = json!({"phase": phase, "message": message});
    if !same {
        shown["lastPhaseTransitionTime"] = now.rfc3339().into();
    }
    Some(Write::patch(volume, "status", json!({"metadata": {}, "status": shown})))
}

fn sync_volume(view: &View<'_>, volume: &PersistentVolume, now: Timestamp) -> Outcome {
    if let Some(write) = reclaim::hold(volume) {
        return write.into();
    }
    let Some(reference) = &spec(volume).claim_ref else { return phase_only(volume, "Available", now) };
    let uid = reference.uid.as_deref().unwrap_or_default();
    if uid.is_empty() {
        return phase_only(volume, "Available", now);
    }
    let (namespace, name) =
        (reference.namespace.clone().unwrap_or_default(), reference.name.clone().unwrap_or_default());
    let claim = view.get::<PersistentVolumeClaim>(&namespace, &name).filter(|claim| claim.uid() == uid);
    let Some(claim) = claim else {
        let gone =
            Guard::Absent { resource: PersistentVolumeClaim::RESOURCE.clone(), namespace, name, uid: uid.to_owned() };
        return reclaim::released(view, volume, uid, &gone, now);
    };
    match volume_name(&claim) {
        // The claim's own turn finishes the binding.
        "" => Outcome::none(),
        bound if bound == volume.name() => phase_only(volume, "Bound", now),
        _ => bound_elsewhere(view, volume, uid, now),
    }
}

fn phase_only(volume: &PersistentVolume, phase: &str, now: Timestamp) -> Outcome {
    set_phase(volume, phase, None, now).map_or_else(Outcome::none, Outcome::from)
}

/// Its claim took another volume: what was made for the claim goes, everything else is free again.
fn bound_elsewhere(view: &View<'_>, volume: &PersistentVolume, uid: &str, now: Timestamp) -> Outcome {
    let policy = spec(volume).persistent_volume_reclaim_policy.as_deref();
    if annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy == Some("Delete") {
        return reclaim::released(view, volume, uid, &present(volume), now);
    }
    unbind(volume).into()
}

/// Takes the claim off a volume; what a user reserved stays reserved by name.
pub(crate) fn unbind(volume: &PersistentVolume) -> Write {
    let version = volume.metadata.resource_version.clone();
    let patch = match annotation(&volume.metadata, BOUND_BY_CONTROLLER) {
        Some(_) => json!({
            "metadata": {"resourceVersion": version, "annotations": {BOUND_BY_CONTROLLER: null}},
            "spec": {"claimRef": null},
        }),
        None => json!({
            "metadata": {"resourceVersion": version},
            "spec": {"claimRef": {"uid": null, "resourceVersion": null}},
        }),
    };
    Write::patch(volume, "", patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, body, lines};

    fn claim(more: Value) -> Value {
        let mut claim = json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""},
            "status": {"phase": "Pending"},
        });
        merge(&mut claim, more);
        claim
    }

    fn volume(name: &str, more: Value) -> Value {
        let mut volume = json!({
            "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}},
            "status": {"phase": "Available"},
        });
        merge(&mut volume, more);
        volume
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    fn world(claims: &[Value], volumes: &[Value]) -> World {
        let mut world = World::default();
        claims.iter().for_each(|claim| world.put(PersistentVolumeClaim::RESOURCE, claim.clone()));
        volumes.iter().for_each(|volume| world.put(PersistentVolume::RESOURCE, volume.clone()));
        world
    }

    fn told(outcome: &Outcome) -> Vec<String> {
        outcome.events.iter().map(|note| format!("{}: {}", note.reason, note.message)).collect()
    }

    fn reference(uid: &str) -> Value {
        json!({"spec": {"claimRef": {"namespace": "n", "name": "c", "uid": uid}}})
    }

    const BIND: [&str; 4] = [
        "patch persistentvolumes v",
        "patch persistentvolumes/status v",
        "patch persistentvolumeclaims n/c",
        "patch persistentvolumeclaims/status n/c",
    ];

    #[test]
    fn a_claim_and_a_volume_become_each_others() {
        let world = world(&[claim(json!({}))], &[volume("v", json!({}))]);
        let outcome = world.reconcile(&Binder, "n", "c");
        assert_eq!(lines(&outcome), BIND);
        let patch = body(&outcome, BIND[0]);
        assert_eq!(
            (&patch["spec"]["claimRef"]["uid"], &patch["metadata"]["resourceVersion"]),
            (&json!("u"), &json!("3"))
        );
        assert_eq!(patch["metadata"]["annotations"][BOUND_BY_CONTROLLER], "yes");
        assert_eq!(body(&outcome, BIND[2])["spec"]["volumeName"], "v");
        assert_eq!(body(&outcome, BIND[3])["status"]["capacity"]["storage"], "1Gi");
    }

    #[test]
    fn a_claim_is_not_bound_to_a_volume_that_is_gone_meanwhile() {
        let guarded = |outcome: &Outcome| outcome.writes.iter().map(|write| write.guards.clone()).collect::<Vec<_>>();
        let outcome = world(&[claim(json!({}))], &[volume("v", json!({}))]).reconcile(&Binder, "n", "c");
        let there = Guard::Present {
            resource: PersistentVolume::RESOURCE.clone(),
            namespace: String::new(),
            name: "v".into(),
            uid: "uid-v".into(),
        };
        assert_eq!(guarded(&outcome), [vec![], vec![], vec![there.clone()], vec![there]]);
        // A claim that is bound already shows so, whether or not its volume is to go.
        let named = json!({"spec": {"volumeName": "v"}, "metadata": {"annotations": {BIND_COMPLETED: "yes"}}});
        let half = volume("v", json!({"spec": reference("u")["spec"], "status": {"phase": "Bound"}}));
        let outcome = world(&[claim(named)], &[half]).reconcile(&Binder, "n", "c");
        assert_eq!(guarded(&outcome), [vec![]]);
    }

    #[test]
    fn a_binding_that_stopped_halfway_is_finished() {
        let half = volume("v", json!({"spec": reference("u")["spec"], "status": {"phase": "Bound"}}));
        assert_eq!(lines(&world(&[claim(json!({}))], &[half.clone()]).reconcile(&Binder, "n", "c")), BIND[2..]);
        let named = json!({"spec": {"volumeName": "v"}, "metadata": {"annotations": {BIND_COMPLETED: "yes"}}});
        assert_eq!(lines(&world(&[claim(named.clone())], &[half.clone()]).reconcile(&Binder, "n", "c")), BIND[3..]);
        let mut whole = claim(named);
        whole["status"] = json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
        assert!(lines(&world(&[whole], &[half]).reconcile(&Binder, "n", "c")).is_empty());
    }

    #[test]
    fn a_claim_that_nothing_fits_is_told_why() {
        let small = volume("small", json!({"spec": {"capacity": {"storage": "1Mi"}}}));
        let only = volume("only", json!({"spec": {"accessModes": ["ReadOnlyMany"]}}));
        let outcome = world(&[claim(json!({}))], &[only, small]).reconcile(&Binder, "n", "c");
        let wanted = "FailedBinding: no persistent volumes available for this claim and no storage class is set \
                      (only: incompatible accessMode; small: requested PV is too small)";
        assert_eq!((lines(&outcome).len(), told(&outcome)), (0, vec![wanted.to_owned()]));
        let manual = claim(json!({"spec": {"storageClassName": "manual"}}));
        let outcome = world(&[manual], &[]).reconcile(&Binder, "n", "c");
        assert_eq!(told(&outcome), ["ProvisioningFailed: storageclass.storage.k8s.io \"manual\" not found"]);
    }

    #[test]
    fn a_claim_that_names_its_volume_gets_that_or_waits() {
        let named = || claim(json!({"spec": {"volumeName": "v"}}));
        assert_eq!(lines(&world(&[named()], &[volume("v", json!({}))]).reconcile(&Binder, "n", "c")), BIND);
        assert!(lines(&world(&[named()], &[]).reconcile(&Binder, "n", "c")).is_empty());
        let other = volume("v", json!({"spec": {"claimRef": {"namespace": "n", "name": "x", "uid": "x"}}}));
        assert!(lines(&world(&[named()], &[other]).reconcile(&Binder, "n", "c")).is_empty());
        let small = volume("v", json!({"spec": {"capacity": {"storage": "1Mi"}}}));
        let outcome = world(&[named()], &[small]).reconcile(&Binder, "n", "c");
        assert_eq!(
            told(&outcome),
            ["VolumeMismatch: Cannot bind to requested volume \"v\": requested PV is too small"]
        );
    }

    #[test]
    fn a_delayed_claim_waits_for_its_consumer() {
        let waiting = claim(json!({"spec": {"storageClassName": "late"}}));
        let mut world = world(&[waiting], &[volume("v", json!({"spec": {"storageClassName": "late"}}))]);
        let class =
            json!({"metadata": {"name": "late"}, "provisioner": "x/y", "volumeBindingMode": "WaitForFirstConsumer"});
        world.put(StorageClass::RESOURCE, class);
        let wanted = "WaitForFirstConsumer: waiting for first consumer to be created before binding";
        assert_eq!(told(&world.reconcile(&Binder, "n", "c")), [wanted]);
        let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]);
        world.put(
            Pod::RESOURCE,
            json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [], "volumes": volumes}}),
        );
        let outcome = world.reconcile(&Binder, "n", "c");
        assert_eq!(told(&outcome), ["WaitForPodScheduled: waiting for pod p to be scheduled"]);
        // What the scheduler has reserved is bound.
        let reserved = json!({"spec": {"storageClassName": "late", "claimRef": reference("u")["spec"]["claimRef"]}});
        world.put(PersistentVolume::RESOURCE, volume("v", reserved));
        assert_eq!(lines(&world.reconcile(&Binder, "n", "c")), BIND[1..]);
    }

    #[test]
    fn a_bound_claim_without_its_volume_is_lost() {
        let bound = json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}, "spec": {"volumeName": "v"},
            "status": {"phase": "Bound"}});
        let outcome = world(&[claim(bound.clone())], &[]).reconcile(&Binder, "n", "c");
        assert_eq!(body(&outcome, BIND[3])["status"]["phase"], "Lost");
        assert_eq!(outcome.writes[0].guards.len(), 1, "the server is asked whether the volume is gone");
        let other = volume("v", json!({"spec": {"claimRef": {"namespace": "n", "name": "x", "uid": "x"}}}));
        let outcome = world(&[claim(bound)], &[other]).reconcile(&Binder, "n", "c");
        assert_eq!(outcome.writes[0].announce.as_ref().map(|told| told.done.0), Some("ClaimMisbound"));
    }

    #[track_caller]
    fn check_volume(more: Value, claims: &[Value], wanted: &str) {
        let outcome = world(claims, &[volume("v", more)]).reconcile(&Binder, "", "v");
        let phases = outcome.writes.iter().map(|write| {
            let body: Value = serde_json::from_slice(&write.body).expect("JSON");
            format!("{write}{}", body["status"]["phase"].as_str().map(|phase| format!(" {phase}")).unwrap_or_default())
        });
        assert_eq!(phases.collect::<Vec<_>>().join(", "), wanted);
    }

    #[test]
    fn a_volume_shows_where_it_stands() {
        check_volume(json!({"status": null}), &[], "patch persistentvolumes/status v Available");
        check_volume(json!({}), &[], "");
        check_volume(
            json!({"status": {"phase": "Pending"}, "spec": reference("")["spec"]}),
            &[],
            "patch persistentvolumes/status v Available",
        );
        let bound = claim(json!({"spec": {"volumeName": "v"}}));
        check_volume(reference("u"), &[bound], "patch persistentvolumes/status v Bound");
        check_volume(reference("u"), &[claim(json!({"spec": {"volumeName": "other"}}))], "patch persistentvolumes v");
        check_volume(reference("u"), &[], "patch persistentvolumes/status v Released");
        // A claim of that name that came later is another one.
        check_volume(reference("old"), &[claim(json!({}))], "patch persistentvolumes/status v Released");
    }

    fn released(policy: &str, more: Value) -> Value {
        let mut volume = reference("u");
        volume["spec"]["persistentVolumeReclaimPolicy"] = policy.into();
        volume["status"] = json!({"phase": "Released"});
        merge(&mut volume, more);
        volume
    }

    #[test]
    fn what_is_released_is_kept_deleted_or_emptied() {
        let host = |path: &str| json!({"spec": {"hostPath": {"path": path}}});
        let failed = "patch persistentvolumes/status v Failed";
        check_volume(released("Retain", json!({})), &[], "");
        check_volume(released("Delete", host("/srv/x")), &[], failed);
        check_volume(released("Delete", host("/tmp/../etc")), &[], failed);
        check_volume(released("Recycle", json!({"spec": {"local": {"path": "/x"}}})), &[], failed);
        let theirs = json!({"metadata": {"annotations": {PROVISIONED_BY: "x/y"}}});
        check_volume(released("Delete", theirs), &[], "");
        let cleared =
            json!({"metadata": {"annotations": {claims::CLEARED: "u"}}, "spec": {"hostPath": {"path": "/srv"}}});
        let free = "patch persistentvolumes v, patch persistentvolumes/status v Available";
        check_volume(released("Recycle", cleared), &[], free);
        let ours = |cleared: &str| {
            let annotations =
                json!({PROVISIONED_BY: claims::LOCAL, claims::CARETAKER: "node", claims::CLEARED: cleared});
            released("Delete", json!({"metadata": {"annotations": annotations, "finalizers": [reclaim::HOLD]}}))
        };
        check_volume(ours("u"), &[], "patch persistentvolumes v, delete persistentvolumes v");
        // What was cleared for an earlier claim says nothing about this one's data; and its node is gone.
        check_volume(ours("older"), &[], failed);
    }

    #[test]
    fn a_released_volume_is_looked_at_when_a_node_changes() {
        #[track_caller]
        fn check(policy: &str, phase: &str, wanted: &[Key]) {
            let volume = volume("v", released(policy, json!({"status": {"phase": phase}})));
            let mut world = world(&[claim(json!({}))], &[volume]);
            world.put(Node::RESOURCE, json!({"metadata": {"name": "a"}}));
            let view = View::new(&world.caches);
            let node = view.entries(Node::RESOURCE, None).remove(0);
            assert_eq!(Binder.keys(&view, &Node::RESOURCE.all(), &node), wanted, "{policy} {phase}");
        }
        let looked_at = [Key::new("", "v")];
        check("Delete", "Failed", &looked_at);
        check("Recycle", "Released", &looked_at);
        check("Retain", "Released", &[]);
        check("Delete", "Bound", &[]);
    }

    #[test]
    fn what_no_node_could_clear_is_cleared_by_one_that_is_ready_again() {
        let left = |annotations: Value| {
            let nfs = json!({"nfs": {"server": "s", "path": "/"}});
            let more = json!({"metadata": {"annotations": annotations}, "spec": nfs, "status": {"phase": "Failed"}});
            let mut world = world(&[], &[volume("v", released("Recycle", more))]);
            let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
            world.put(Node::RESOURCE, json!({"metadata": {"name": "b"}, "status": status}));
            body(&world.reconcile(&Binder, "", "v"), BIND[0])["metadata"]["annotations"][claims::CARETAKER].clone()
        };
        assert_eq!(left(json!({})), "b");
        assert_eq!(left(json!({claims::CARETAKER: "gone"})), "b");
    }

    #[test]
    fn a_ready_node_takes_care_and_its_failure_is_told() {
        let recycled = |annotations: Value| {
            let more = json!({"metadata": {"annotations": annotations}, "spec": {"nfs": {"server": "s", "path": "/"}}});
            let mut world = world(&[], &[volume("v", released("Recycle", more))]);
            for (name, ready) in [("a", "False"), ("b", "True"), ("c", "True")] {
                let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
                world.put(Node::RESOURCE, json!({"metadata": {"name": name}, "status": status}));
            }
            world.reconcile(&Binder, "", "v")
        };
        let outcome = recycled(json!({}));
        assert_eq!(body(&outcome, BIND[0])["metadata"]["annotations"][claims::CARETAKER], "b");
        assert!(lines(&recycled(json!({claims::CARETAKER: "a"}))).is_empty(), "whoever was named stays");
        let outcome = recycled(json!({claims::CARETAKER: "a", claims::CLEARING_FAILED: "busy"}));
        assert_eq!(body(&outcome, BIND[1])["status"]["message"], "Recycle failed: busy");
        assert_eq!(told(&outcome), ["VolumeFailedRecycle: Recycle failed: busy"]);
    }
}
