//! Removes the data of volumes that were released, where this node is the caretaker.
//!
//! Start at [`duty`], which says what is to be done about a volume; [`run`] does it and notes on the volume that it is done,
//! or why not. The volume controller goes on from there.
//!
//! Invariants:
//! * only what the server itself, asked again, still says is released is touched, and only for the claim it was released by;
//! * of this node's own folder of volumes only the volume's own directory is removed;
//! * what takes long or fails holds up nothing else and is tried again once it has had all its time ([`helper::CLEAR_MAX`]).
//!
//! Not here: who takes care, and what becomes of the object (`controllers`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{Monotonic, chain};
use claims::{CARETAKER, CLEARED, CLEARING_FAILED, LOCAL, NFS, NFS_SHARE, PROVISIONED_BY, annotation, spec};
use client::{Cache, Kind};
use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::json;

use crate::volumes::helper::{self, Export, Request};
use crate::worker::Node;

/// What is to be done is looked for so often, where nothing says that it has changed.
const AGAIN: Duration = Duration::from_secs(60);

/// What is to be done about a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duty {
    /// The claim whose data goes.
    pub claim_uid: String,
    /// What goes; an error is why nothing can.
    pub task: Result<Task, String>,
}

/// What goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// A directory of this node.
    Remove(PathBuf),
    /// What a directory of this node holds.
    Empty(PathBuf),
    /// What an export holds, or a directory below one.
    Remote(Export, Option<String>),
}

/// What this node has to do about a volume, if anything.
pub fn duty(volume: &PersistentVolume, node: &str, local_volumes: &Path) -> Option<Duty> {
    let said = |key| annotation(&volume.metadata, key);
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let claim_uid = spec(volume).claim_ref.as_ref()?.uid.clone().filter(|uid| !uid.is_empty())?;
    let policy = spec(volume).persistent_volume_reclaim_policy.as_deref();
    let is_asked = said(CARETAKER) == Some(node)
        && matches!(phase, Some("Released" | "Failed"))
        && matches!(policy, Some("Delete" | "Recycle"))
        && said(CLEARED) != Some(&claim_uid);
    is_asked.then(|| Duty { claim_uid, task: task(volume, policy == Some("Delete"), local_volumes) })
}

fn task(volume: &PersistentVolume, delete: bool, local_volumes: &Path) -> Result<Task, String> {
    let (spec, name) = (spec(volume), volume.name());
    let provisioner = annotation(&volume.metadata, PROVISIONED_BY);
    if let Some(source) = spec.local.as_ref().filter(|_| provisioner == Some(LOCAL) && delete) {
        let own = local_volumes.join(name);
        // Whoever may write volumes must not make a node remove anything else.
        return match Path::new(&source.path) == own {
            true => Ok(Task::Remove(own)),
            false => Err(format!("{} is not {}, where this node keeps this volume", source.path, own.display())),
        };
    }
    if let Some(source) = &spec.nfs {
        let below =
            annotation(&volume.metadata, NFS_SHARE).filter(|_| provisioner == Some(NFS) && delete).map(str::to_owned);
        let options = spec.mount_options.clone().unwrap_or_default();
        let export = Export { server: source.server.clone(), path: source.path.clone(), options, read_only: false };
        return if delete && below.is_none() {
            Err("it is not this cluster's to delete".to_owned())
        } else {
            Ok(Task::Remote(export, below))
        };
    }
    let source = spec.host_path.as_ref().ok_or_else(|| "it is not this cluster's to delete".to_owned())?;
    let path = PathBuf::from(&source.path);
    let plain = path.components().skip(1).all(|part| matches!(part, std::path::Component::Normal(_)));
    match (plain && path.components().count() > 1, delete) {
        (false, _) => Err(format!("{} is no place to remove anything from", source.path)),
        (true, true) if !path.starts_with("/tmp") => Err(format!("{} does not lie below /tmp", source.path)),
        (true, true) => Ok(Task::Remove(path)),
        (true, false) => Ok(Task::Empty(path)),
    }
}

/// Follows the volumes for ever.
pub async fn run(node: Arc<Node>, volumes: Arc<Cache>) {
    let mut changed = volumes.changed();
    // By volume and claim: what the next claim leaves behind waits for nothing.
    let mut not_before: BTreeMap<(String, String), Monotonic> = BTreeMap::new();
    loop {
        changed.borrow_and_update();
        let now = node.clock.monotonic();
        not_before.retain(|_, until| *until > now);
        for volume in volumes.list::<PersistentVolume>(None) {
            let duty = duty(&volume, &node.options.node_name, &node.options.local_volumes);
            let Some(Duty { claim_uid, .. }) = duty else { continue };
            if let Entry::Vacant(free) = not_before.entry((volume.uid().to_owned(), claim_uid)) {
                free.insert(now.plus(helper::CLEAR_MAX));
                node.tasks.spawn(take_care(node.clone(), volume.name().to_owned()));
            }
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

async fn take_care(node: Arc<Node>, name: String) {
    // What the server says now counts: the claim may be another one since.
    let volume: PersistentVolume = match node.client.get("", &name).await {
        Ok(volume) => volume,
        Err(error) => {
            return tracing::debug!(volume = name, error = %chain(&error), "a released volume was not looked at");
        }
    };
    let Some(duty) = duty(&volume, &node.options.node_name, &node.options.local_volumes) else { return };
    let helper = node.options.mount_helper.clone();
    let done = tokio::task::spawn_blocking(move || duty.task.and_then(|task| perform(task, &helper))).await;
    let done = done.unwrap_or_else(|error| Err(error.to_string()));
    let annotations = match &done {
        Ok(()) => json!({CLEARED: duty.claim_uid, CLEARING_FAILED: null}),
        Err(why) => json!({CLEARING_FAILED: why}),
    };
    if let Err(why) = &done {
        tracing::warn!(volume = name, why, "a released volume keeps its data for now");
    }
    let patch = json!({"metadata": {"uid": volume.uid(), "annotations": annotations}});
    let noted: Result<PersistentVolume, _> = node.client.patch("", &name, "", client::typed::MERGE_PATCH, &patch).await;
    if let Err(error) = noted {
        tracing::warn!(volume = name, error = %chain(&error), "what became of a released volume was not noted");
    }
}

fn perform(task: Task, helper: &helper::Helper) -> Result<(), String> {
    let failed =
        |path: &Path, error: std::io::Error| format!("failed to remove the data in {}: {error}", path.display());
    match task {
        Task::Remove(path) => match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(&path, error)),
            _ => Ok(()),
        },
        Task::Empty(path) => match helper::empty(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(&path, error)),
            _ => Ok(()),
        },
        Task::Remote(export, below) => {
            let asked = helper.ask(&Request::Clear { export, below }, helper::CLEAR_MAX);
            asked.map(drop).map_err(|error| error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// What node `a` has to do about a volume named `v`, released by the claim `u`.
    #[track_caller]
    fn check(annotations: Value, policy: &str, phase: &str, source: Value, wanted: Option<Result<Task, &str>>) {
        let mut spec = json!({"claimRef": {"uid": "u"}, "persistentVolumeReclaimPolicy": policy});
        spec.as_object_mut().expect("an object").extend(source.as_object().cloned().unwrap_or_default());
        let meta = json!({"name": "v", "annotations": annotations});
        let volume = json!({"metadata": meta, "spec": spec, "status": {"phase": phase}});
        let found = duty(&serde_json::from_value(volume).expect("a volume"), "a", Path::new("/data/local"));
        assert_eq!(found.map(|duty| duty.task), wanted.map(|task| task.map_err(str::to_owned)));
    }

    fn ours() -> Value {
        json!({CARETAKER: "a", PROVISIONED_BY: LOCAL})
    }

    #[test]
    fn a_directory_of_this_node_is_removed_once_it_is_released() {
        let source = || json!({"local": {"path": "/data/local/v"}});
        check(ours(), "Delete", "Released", source(), Some(Ok(Task::Remove("/data/local/v".into()))));
        check(ours(), "Delete", "Bound", source(), None);
        check(ours(), "Retain", "Released", source(), None);
        check(json!({CARETAKER: "b", PROVISIONED_BY: LOCAL}), "Delete", "Released", source(), None);
        check(json!({CARETAKER: "a", PROVISIONED_BY: LOCAL, CLEARED: "u"}), "Delete", "Released", source(), None);
    }

    #[test]
    fn nothing_else_of_this_node_is_removed() {
        let elsewhere = "/data/local is not /data/local/v, where this node keeps this volume";
        check(ours(), "Delete", "Released", json!({"local": {"path": "/data/local"}}), Some(Err(elsewhere)));
        let outside = "/etc is not /data/local/v, where this node keeps this volume";
        check(ours(), "Delete", "Released", json!({"local": {"path": "/etc"}}), Some(Err(outside)));
        let host = |path: &str| json!({"hostPath": {"path": path}});
        let asked = || json!({CARETAKER: "a"});
        check(asked(), "Delete", "Released", host("/srv/x"), Some(Err("/srv/x does not lie below /tmp")));
        check(asked(), "Delete", "Released", host("/tmp/x"), Some(Ok(Task::Remove("/tmp/x".into()))));
        check(asked(), "Recycle", "Failed", host("/srv/x"), Some(Ok(Task::Empty("/srv/x".into()))));
        check(asked(), "Recycle", "Released", host("/"), Some(Err("/ is no place to remove anything from")));
        check(
            asked(),
            "Recycle",
            "Released",
            host("/srv/../etc"),
            Some(Err("/srv/../etc is no place to remove anything from")),
        );
    }

    #[test]
    fn an_export_is_emptied_and_a_directory_of_a_class_removed() {
        let source = || json!({"nfs": {"server": "s", "path": "/srv/d"}, "mountOptions": ["hard"]});
        let export =
            || Export { server: "s".into(), path: "/srv/d".into(), options: vec!["hard".into()], read_only: false };
        check(json!({CARETAKER: "a"}), "Recycle", "Released", source(), Some(Ok(Task::Remote(export(), None))));
        let made = json!({CARETAKER: "a", PROVISIONED_BY: NFS, NFS_SHARE: "/srv"});
        check(made, "Delete", "Released", source(), Some(Ok(Task::Remote(export(), Some("/srv".into())))));
        check(json!({CARETAKER: "a"}), "Delete", "Released", source(), Some(Err("it is not this cluster's to delete")));
    }
}
