//! What becomes of a volume whose claim is gone: kept, deleted with its data, or emptied and offered again.
//!
//! Start at [`released`]. The controllers run nowhere near the data: a node, the volume's caretaker, removes it and says so in
//! an annotation. Upstream runs a pod for that, which needs an image that a board without internet may lack.
//!
//! Invariants:
//! * every write asks the server itself first whether the claim is really gone;
//! * a caretaker, once named, is replaced only when its Node is gone: a slow node must never empty a volume that another one
//!   emptied before and that is used again;
//! * what this cluster made is deleted only after its caretaker said, for this very claim, that the data is gone.
//!
//! Not here: removing the data (`kubelet`), what other provisioners made.

use base::Timestamp;
use claims::{CARETAKER, CLEARED, CLEARING_FAILED, LOCAL, NFS, PROVISIONED_BY, annotation, spec};
use client::{DeleteOptions, Kind};
use control::{Guard, Note, Outcome, Regarding, View, Write};
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use serde_json::{Value, json};

use crate::binding::{set_phase, unbind};

/// Keeps a volume whose data is to be deleted until it is, whoever deletes the object; upstream's name.
pub(crate) const HOLD: &str = "kubernetes.io/pv-controller";

/// How far a caretaker is.
enum Clearing {
    /// The data is gone.
    Done,
    /// It could not.
    Failed(String),
    /// It is at it, or is to be named first.
    Under(Option<Write>),
    /// No node can.
    NoNode,
}

/// A volume whose claim is gone, or has another one.
pub(crate) fn released(
    view: &View<'_>,
    volume: &PersistentVolume,
    claim_uid: &str,
    gone: &Guard,
    now: Timestamp,
) -> Outcome {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let mut outcome = if !matches!(phase, Some("Released" | "Failed")) {
        set_phase(volume, "Released", None, now).map_or_else(Outcome::none, Outcome::from)
    } else {
        match spec(volume).persistent_volume_reclaim_policy.as_deref() {
            Some("Delete") => delete(view, volume, claim_uid, now),
            Some("Recycle") => recycle(view, volume, claim_uid, now),
            _ => Outcome::none(),
        }
    };
    for write in &mut outcome.writes {
        write.guards.push(gone.clone());
    }
    outcome
}

/// Holds what is to be deleted with its data, and lets go of what no longer is.
pub(crate) fn hold(volume: &PersistentVolume) -> Option<Write> {
    let ours = matches!(annotation(&volume.metadata, PROVISIONED_BY), Some(LOCAL | NFS));
    let wanted = spec(volume).persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    let has = volume.metadata.finalizers.iter().flatten().any(|each| each == HOLD);
    if !ours || wanted == has || (wanted && volume.deleting()) {
        return None;
    }
    let mut finalizers = volume.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|each| each != HOLD);
    finalizers.extend(wanted.then(|| HOLD.to_owned()));
    Some(set_finalizers(volume, &finalizers))
}

/// Sets the finalizers of an object, in the version that was seen.
pub(crate) fn set_finalizers<T: Kind>(object: &T, finalizers: &[String]) -> Write {
    let version = object.metadata().resource_version.clone();
    Write::patch(object, "", json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}}))
}

fn delete(view: &View<'_>, volume: &PersistentVolume, claim_uid: &str, now: Timestamp) -> Outcome {
    let failed = |message: &str| fail(volume, "VolumeFailedDelete", message, now);
    match annotation(&volume.metadata, PROVISIONED_BY) {
        Some(LOCAL | NFS) => {}
        // Whoever made it sees that it is released.
        Some(_) => return Outcome::none(),
        None => match &spec(volume).host_path {
            Some(source) if is_temporary(&source.path) => {}
            Some(source) => {
                return failed(&format!(
                    "host_path deleter only supports /tmp/.+ but received provided {}",
                    source.path
                ));
            }
            None => {
                let message = "no deletable volume plugin matched";
                let name = volume.name();
                return failed(&format!("error getting deleter volume plugin for volume \"{name}\": {message}"));
            }
        },
    }
    match clearing(view, volume, claim_uid) {
        Clearing::Done => {
            let mut left = volume.metadata.finalizers.clone().unwrap_or_default();
            left.retain(|each| each != HOLD);
            let writes = vec![set_finalizers(volume, &left), Write::delete(volume, DeleteOptions::default())];
            Outcome { writes, ..Outcome::none() }
        }
        Clearing::Failed(message) => failed(&message),
        Clearing::NoNode => failed("no node is ready to delete what it holds"),
        Clearing::Under(write) => write.map_or_else(Outcome::none, Outcome::from),
    }
}

fn is_temporary(path: &str) -> bool {
    path.strip_prefix("/tmp/").is_some_and(|rest| !rest.is_empty() && !rest.split('/').any(|part| part == ".."))
}

fn recycle(view: &View<'_>, volume: &PersistentVolume, claim_uid: &str, now: Timestamp) -> Outcome {
    if spec(volume).nfs.is_none() && spec(volume).host_path.is_none() {
        return fail(volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!", now);
    }
    match clearing(view, volume, claim_uid) {
        Clearing::Done => {
            let mut free = unbind(volume);
            let mut patch: Value = serde_json::from_slice(&free.body).unwrap_or_default();
            for each in [CARETAKER, CLEARED, CLEARING_FAILED] {
                patch["metadata"]["annotations"][each] = Value::Null;
            }
            free.body = patch.to_string().into();
            let mut writes = vec![free];
            writes.extend(set_phase(volume, "Available", None, now));
            let told = Note::normal(&Regarding::object(volume), "VolumeRecycled", "Volume recycled");
            Outcome { writes, events: vec![told], ..Outcome::none() }
        }
        Clearing::Failed(message) => fail(volume, "VolumeFailedRecycle", &format!("Recycle failed: {message}"), now),
        Clearing::NoNode => fail(volume, "VolumeFailedRecycle", "Recycle failed: no node is ready for it", now),
        Clearing::Under(write) => write.map_or_else(Outcome::none, Outcome::from),
    }
}

fn clearing(view: &View<'_>, volume: &PersistentVolume, claim_uid: &str) -> Clearing {
    let said = |key| annotation(&volume.metadata, key);
    if said(CLEARED) == Some(claim_uid) {
        return Clearing::Done;
    }
    let caretaker = said(CARETAKER).filter(|name| view.get::<Node>("", name).is_some());
    if caretaker.is_some() {
        return said(CLEARING_FAILED).map_or(Clearing::Under(None), |message| Clearing::Failed(message.to_owned()));
    }
    if said(PROVISIONED_BY) == Some(LOCAL) {
        // Nobody else has it. It stays, so that a node that comes back under its name can be asked.
        let node = said(CARETAKER).unwrap_or("that held it");
        return Clearing::Failed(format!("node \"{node}\" is gone, and the data with it or still on its disk"));
    }
    match view.list::<Node>(None).iter().filter(|node| is_ready(node)).map(|node| node.name().to_owned()).min() {
        None => Clearing::NoNode,
        Some(node) => {
            let version = volume.metadata.resource_version.clone();
            let annotations = json!({CARETAKER: node, CLEARING_FAILED: null});
            let patch = json!({"metadata": {"resourceVersion": version, "annotations": annotations}});
            Clearing::Under(Some(Write::patch(volume, "", patch)))
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|each| each.type_ == "Ready" && each.status == "True")
}

fn fail(volume: &PersistentVolume, reason: &'static str, message: &str, now: Timestamp) -> Outcome {
    let Some(write) = set_phase(volume, "Failed", Some(message), now) else { return Outcome::none() };
    let note = Note::warning(&Regarding::object(volume), reason, message);
    Outcome { writes: vec![write], events: vec![note], ..Outcome::none() }
}
