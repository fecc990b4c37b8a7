//! Keeps claims that pods use, and volumes that claims use, until they are used no more.
//!
//! Start at [`Claims`] and [`Volumes`]. The API server puts the finalizers on new objects; they are taken off here.
//!
//! Invariants:
//! * a claim goes only when no pod that has a node mentions it; a volume, when it is not Bound.
//!
//! See <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection>.

use base::Timestamp;
use client::{Collection, Entry, Kind, Resource};
use control::{About, Key, Outcome, Reconciler, View, Write, itself};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};

use crate::pods::node_name;
use crate::reclaim::set_finalizers;

const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
const OF_VOLUMES: &str = "kubernetes.io/pv-protection";

/// Protects claims.
pub struct Claims;

impl Reconciler for Claims {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[PersistentVolumeClaim::RESOURCE, Pod::RESOURCE];
        About {
            name: "pvc-protection-controller",
            reads: READS,
            writes: &["persistentvolumeclaims.metadata.finalizers"],
            everything: false,
        }
    }

    fn keys(&self, _: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        if collection.resource != "pods" {
            return itself(entry);
        }
        let Some(pod) = entry.typed::<Pod>() else { return Vec::new() };
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        volumes.filter_map(|volume| Some(Key::new(pod.namespace(), &claims::claim_of(pod.name(), volume)?))).collect()
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Outcome {
        let Some(claim) = view.get::<PersistentVolumeClaim>(&key.namespace, &key.name) else { return Outcome::none() };
        let used = || {
            let pods = view.list::<Pod>(Some(&key.namespace));
            pods.iter().any(|pod| !node_name(pod).is_empty() && uses(pod, &claim))
        };
        protect(&*claim, OF_CLAIMS, used).map_or_else(Outcome::none, Outcome::from)
    }
}

/// Protects volumes.
pub struct Volumes;

impl Reconciler for Volumes {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[PersistentVolume::RESOURCE];
        About {
            name: "pv-protection-controller",
            reads: READS,
            writes: &["persistentvolumes.metadata.finalizers"],
            everything: false,
        }
    }

    fn keys(&self, _: &View<'_>, _: &Collection, entry: &Entry) -> Vec<Key> {
        itself(entry)
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Outcome {
        let Some(volume) = view.get::<PersistentVolume>("", &key.name) else { return Outcome::none() };
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        protect(&*volume, OF_VOLUMES, || phase == Some("Bound")).map_or_else(Outcome::none, Outcome::from)
    }
}

/// Takes the finalizer off what is to go and is not used; puts it on what has none and stays.
fn protect<T: Kind>(object: &T, finalizer: &str, used: impl FnOnce() -> bool) -> Option<Write> {
    let mut finalizers = object.metadata().finalizers.clone().unwrap_or_default();
    let has = finalizers.iter().any(|each| each == finalizer);
    match (object.deleting(), has) {
        (false, false) => finalizers.push(finalizer.to_owned()),
        (true, true) if !used() => finalizers.retain(|each| each != finalizer),
        _ => return None,
    }
    Some(set_finalizers(object, &finalizers))
}

/// The volumes of a pod that refer to a claim by its name.
fn by_name<'a>(pod: &'a Pod, claim: &'a str) -> impl Iterator<Item = &'a Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(move |volume| claims::claim_of(pod.name(), volume).as_deref() == Some(claim))
}

/// Whether a pod mentions a claim by its name.
pub(crate) fn uses_name(pod: &Pod, claim: &str) -> bool {
    by_name(pod, claim).next().is_some()
}

/// Whether a pod uses a claim; of an ephemeral volume, only the one that was made for it.
pub(crate) fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    by_name(pod, claim.name()).any(|volume| claims::may_have(&pod.metadata, volume, claim).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, body, lines};
    use serde_json::{Value, json};

    fn leaving(name: &str, finalizers: &[&str]) -> Value {
        json!({"metadata": {"name": name, "finalizers": finalizers, "deletionTimestamp": "2026-11-23T19:59:00Z"}})
    }

    #[track_caller]
    fn check(pod: Option<Value>, wanted: &[&str]) {
        let mut world = World::default();
        let mut claim = leaving("c", &[OF_CLAIMS, "a/b"]);
        claim["metadata"]["namespace"] = "n".into();
        world.put(PersistentVolumeClaim::RESOURCE, claim);
        if let Some(spec) = pod {
            world.put(Pod::RESOURCE, json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}));
        }
        assert_eq!(lines(&world.reconcile(&Claims, "n", "c")), wanted);
    }

    #[test]
    fn a_claim_goes_when_no_pod_with_a_node_uses_it() {
        let goes: &[&str] = &["patch persistentvolumeclaims n/c"];
        let volumes = |claim: &str| json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
        check(None, goes);
        check(Some(json!({"containers": [], "nodeName": "x", "volumes": volumes("c")})), &[]);
        check(Some(json!({"containers": [], "volumes": volumes("c")})), goes);
        check(Some(json!({"containers": [], "nodeName": "x", "volumes": volumes("d")})), goes);
    }

    #[test]
    fn a_claim_is_not_used_by_a_pod_it_was_not_made_for() {
        let used = |owner: &str| {
            let volumes = json!([{"name": "v", "ephemeral": {}}]);
            let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [], "volumes": volumes}});
            let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]);
            let claim = json!({"metadata": {"name": "p-v", "namespace": "n", "ownerReferences": owner}});
            let claim = serde_json::from_value(claim).expect("a claim");
            uses(&serde_json::from_value(pod).expect("a pod"), &claim)
        };
        assert!(used("u"));
        assert!(!used("another"));
    }

    #[test]
    fn a_volume_goes_when_it_is_not_bound() {
        let mut world = World::default();
        world.put(PersistentVolume::RESOURCE, leaving("v", &[OF_VOLUMES]));
        let patch = body(&world.reconcile(&Volumes, "", "v"), "patch persistentvolumes v");
        assert_eq!(patch["metadata"]["finalizers"], json!([]));
        let mut bound = leaving("v", &[OF_VOLUMES]);
        bound["status"] = json!({"phase": "Bound"});
        world.put(PersistentVolume::RESOURCE, bound);
        assert!(lines(&world.reconcile(&Volumes, "", "v")).is_empty());
    }

    #[test]
    fn what_stays_is_protected() {
        let mut world = World::default();
        world.put(PersistentVolume::RESOURCE, json!({"metadata": {"name": "v", "finalizers": ["a/b"]}}));
        let patch = body(&world.reconcile(&Volumes, "", "v"), "patch persistentvolumes v");
        assert_eq!(patch["metadata"]["finalizers"], json!(["a/b", OF_VOLUMES]));
    }
}
