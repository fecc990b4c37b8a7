//! Makes the claims of pods' generic ephemeral volumes: `POD-VOLUME`, owned by the pod, so that it goes with it.
//!
//! Start at [`Ephemeral`].
//!
//! Invariants:
//! * a claim of that name that is not the pod's own is left alone, and the pod is told;
//! * a pod that is leaving gets none.
//!
//! Not here: binding the claim (`binding.rs`), deleting it after its pod (`gc.rs`).
//!
//! See <https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#generic-ephemeral-volumes>.

use base::Timestamp;
use client::{Collection, Entry, Kind, Resource};
use control::{About, Key, Note, Outcome, Reconciler, Regarding, View, Write, itself};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimTemplate, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::pods::controller_reference;
use crate::protection::uses_name;

/// The controller of generic ephemeral volumes.
pub struct Ephemeral;

impl Reconciler for Ephemeral {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Pod::RESOURCE, PersistentVolumeClaim::RESOURCE];
        About {
            name: "ephemeral-volume-controller",
            reads: READS,
            writes: &["persistentvolumeclaims"],
            everything: false,
        }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        if collection.resource == "pods" {
            return itself(entry);
        }
        // A claim that goes frees its name.
        let pods = view.list::<Pod>(Some(&entry.meta.namespace));
        let waiting = pods.iter().filter(|pod| volumes(pod).next().is_some() && uses_name(pod, &entry.meta.name));
        waiting.map(|pod| Key::new(pod.namespace(), pod.name())).collect()
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Outcome {
        let mut outcome = Outcome::none();
        let Some(pod) = view.get::<Pod>(&key.namespace, &key.name).filter(|pod| !pod.deleting()) else {
            return outcome;
        };
        for (volume, template) in volumes(&pod) {
            let name = claims::ephemeral_name(pod.name(), &volume.name);
            let wrong = match view.get::<PersistentVolumeClaim>(&key.namespace, &name) {
                Some(claim) => claims::made_for(&claim, &pod.metadata).err(),
                None => {
                    outcome.writes.push(Write::create(&claim(&pod, &name, template)).or_exists());
                    view.failure().map(|failure| format!("create PVC {name}: {}", failure.message))
                }
            };
            let note = |wrong: String| {
                let message = format!("ephemeral volume {}: {wrong}", volume.name);
                Note::warning(&Regarding::object(&*pod), "FailedBinding", message)
            };
            outcome.events.extend(wrong.map(note));
        }
        outcome
    }
}

fn volumes(pod: &Pod) -> impl Iterator<Item = (&Volume, &PersistentVolumeClaimTemplate)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some((volume, volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?)))
}

fn claim(pod: &Pod, name: &str, template: &PersistentVolumeClaimTemplate) -> PersistentVolumeClaim {
    let meta = template.metadata.clone().unwrap_or_default();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: pod.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, body, lines};
    use serde_json::{Value, json};

    const MAKE: &str = "create persistentvolumeclaims n/p-v";

    fn world(meta: Value) -> World {
        let mut world = World::default();
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"storageClassName": "local"}});
        let volumes = json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}, {"name": "w"}]);
        let mut pod =
            json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [], "volumes": volumes}});
        pod["metadata"].as_object_mut().expect("an object").extend(meta.as_object().cloned().unwrap_or_default());
        world.put(Pod::RESOURCE, pod);
        world
    }

    fn put_claim(world: &mut World, owner_uid: &str) {
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner_uid, "controller": true}]);
        let meta = json!({"name": "p-v", "namespace": "n", "ownerReferences": owner});
        world.put(PersistentVolumeClaim::RESOURCE, json!({"metadata": meta}));
    }

    #[test]
    fn a_pod_gets_a_claim_of_its_own_from_the_template() {
        let mut world = world(json!({}));
        let made = body(&world.reconcile(&Ephemeral, "n", "p"), MAKE);
        assert_eq!(
            (&made["metadata"]["labels"]["a"], &made["spec"]["storageClassName"]),
            (&json!("b"), &json!("local"))
        );
        let owner = &made["metadata"]["ownerReferences"][0];
        assert_eq!(
            (&owner["kind"], &owner["uid"], &owner["controller"]),
            (&json!("Pod"), &json!("uid-p"), &json!(true))
        );
        put_claim(&mut world, "uid-p");
        let outcome = world.reconcile(&Ephemeral, "n", "p");
        assert!(lines(&outcome).is_empty() && outcome.events.is_empty(), "it has it");
    }

    #[test]
    fn a_pod_that_is_leaving_gets_no_claim() {
        let world = world(json!({"deletionTimestamp": "2026-11-23T19:59:00Z"}));
        assert!(lines(&world.reconcile(&Ephemeral, "n", "p")).is_empty());
    }

    #[test]
    fn a_pod_is_told_what_keeps_it_from_its_claim() {
        let told = |outcome: &Outcome| outcome.events.iter().map(|note| note.message.clone()).collect::<Vec<_>>();
        let mut world = world(json!({}));
        world.fail("exceeded quota");
        assert_eq!(
            told(&world.reconcile(&Ephemeral, "n", "p")),
            ["ephemeral volume v: create PVC p-v: exceeded quota"]
        );
        put_claim(&mut world, "uid-of-another");
        let outcome = world.reconcile(&Ephemeral, "n", "p");
        let wanted = "ephemeral volume v: PVC n/p-v was not created for pod n/p (pod is not owner)";
        assert_eq!((lines(&outcome).len(), told(&outcome)), (0, vec![wanted.to_owned()]));
    }

    #[test]
    fn a_claim_wakes_the_pod_that_waits_for_its_name() {
        let mut world = world(json!({}));
        put_claim(&mut world, "uid-of-another");
        let view = View::new(&world.caches);
        let claim = view.entries(PersistentVolumeClaim::RESOURCE, None).remove(0);
        assert_eq!(Ephemeral.keys(&view, &PersistentVolumeClaim::RESOURCE.all(), &claim), [Key::new("n", "p")]);
    }
}
