//! Makes volumes for claims whose class says how: a directory of a node, or a directory of an NFS export.
//!
//! Start at [`provision`]. The volume is an object only: its directory is made by the first kubelet that mounts it, and is
//! removed by the volume's caretaker (`reclaim.rs`).
//!
//! Invariants:
//! * a claim has one volume, named after its uid: making it again finds it there;
//! * what a class or a claim asks for and cannot have is told in the claim's events, by name.
//!
//! Not here: classes of other provisioners, which are told and waited for.

use std::collections::BTreeMap;

use claims::{
    BOUND_BY_CONTROLLER, CARETAKER, LOCAL, LOCAL_FOLDER, NFS, NFS_SHARE, PROVISIONED_BY, PROVISIONER, SELECTED_NODE,
    annotation, claim_spec, class,
};
use client::Kind;
use control::{Announce, Note, Outcome, Regarding, View, Write};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use crate::binding::claim_reference;
use crate::reclaim::HOLD;

const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Has a volume made for a claim that none suits.
pub(crate) fn provision(view: &View<'_>, claim: &PersistentVolumeClaim, class_found: Option<&StorageClass>) -> Outcome {
    let Some(found) = class_found else {
        return refuse(claim, format!("storageclass.storage.k8s.io \"{}\" not found", class(claim)));
    };
    if let Some(write) = name_provisioner(claim, &found.provisioner) {
        return write.into();
    }
    let made = match found.provisioner.as_str() {
        LOCAL => local(view, claim, found),
        NFS => nfs(claim, found),
        other if other.starts_with("kubernetes.io/") => Err(format!("no volume plugin matched name: {other}")),
        other => return wait_for(claim, other),
    };
    match made {
        Err(message) => refuse(claim, message),
        Ok(Made::Elsewhere(write)) => write.into(),
        Ok(Made::Volume(volume)) => create(claim, &found.provisioner, &volume),
    }
}

enum Made {
    Volume(Value),
    /// The node that was chosen is gone: the scheduler is to choose again.
    Elsewhere(Write),
}

fn refuse(claim: &PersistentVolumeClaim, message: String) -> Outcome {
    let note = Note::warning(&Regarding::object(claim), "ProvisioningFailed", message);
    Outcome { events: vec![note], ..Outcome::none() }
}

fn wait_for(claim: &PersistentVolumeClaim, provisioner: &str) -> Outcome {
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
         administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    let note = Note::normal(&Regarding::object(claim), "ExternalProvisioning", message);
    Outcome { events: vec![note], ..Outcome::none() }
}

fn name_provisioner(claim: &PersistentVolumeClaim, provisioner: &str) -> Option<Write> {
    let known = annotation(&claim.metadata, PROVISIONER) == Some(provisioner);
    let patch = json!({"metadata": {"annotations": {PROVISIONER: provisioner, BETA_PROVISIONER: provisioner}}});
    (!known).then(|| Write::patch(claim, "", patch))
}

fn create(claim: &PersistentVolumeClaim, provisioner: &str, volume: &Value) -> Outcome {
    let name = volume["metadata"]["name"].as_str().unwrap_or_default();
    let volume: PersistentVolume = match serde_json::from_value(volume.clone()) {
        Ok(volume) => volume,
        Err(error) => return refuse(claim, format!("failed to describe volume \"{name}\": {error}")),
    };
    let announce = Announce {
        regarding: Regarding::object(claim),
        done: ("ProvisioningSucceeded", format!("Successfully provisioned volume {name} using {provisioner}")),
        failed: ("ProvisioningFailed", format!("Error creating provisioned PV object for claim {}: ", key(claim))),
    };
    Write::create(&volume).or_exists().announce(announce).into()
}

fn key(claim: &PersistentVolumeClaim) -> String {
    format!("{}/{}", claim.namespace(), claim.name())
}

fn volume_of(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.uid())
}

/// What all volumes made here have in common.
fn describe(claim: &PersistentVolumeClaim, class: &StorageClass) -> Value {
    let spec = claim_spec(claim);
    let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
    let mut finalizers = vec!["kubernetes.io/pv-protection"];
    finalizers.extend((policy == "Delete").then_some(HOLD));
    let size = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("storage"));
    json!({
        "metadata": {
            "name": volume_of(claim),
            "annotations": {PROVISIONED_BY: class.provisioner, BOUND_BY_CONTROLLER: "yes"},
            "finalizers": finalizers,
        },
        "spec": {
            "capacity": {"storage": size},
            "accessModes": spec.access_modes,
            "claimRef": claim_reference(claim),
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": class.name(),
            "volumeMode": "Filesystem",
        },
    })
}

/// Refuses what no directory can be.
fn must_be_plain(claim: &PersistentVolumeClaim, class: &StorageClass, known: &[&str]) -> Result<(), String> {
    let spec = claim_spec(claim);
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(format!("{} makes directories: volumeMode Block is not supported", class.provisioner));
    }
    if spec.selector.is_some() {
        return Err("claim.Spec.Selector is not supported for dynamic provisioning".to_owned());
    }
    let data_source = spec.data_source.is_some() || spec.data_source_ref.is_some();
    if data_source {
        return Err(format!("{} cannot fill a volume: dataSource is not supported", class.provisioner));
    }
    let mut parameters = class.parameters.iter().flatten();
    match parameters.find(|(name, _)| !known.contains(&name.as_str())) {
        Some((name, _)) => Err(format!("class \"{}\" has an unknown parameter \"{name}\"", class.name())),
        None => Ok(()),
    }
}

fn local(view: &View<'_>, claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<Made, String> {
    must_be_plain(claim, class, &[])?;
    if let Some(mode) = claim_spec(claim).access_modes.iter().flatten().find(|mode| mode.ends_with("Many")) {
        return Err(format!(
            "a directory of one node cannot be used from many: accessMode {mode} is not supported by {LOCAL}"
        ));
    }
    if class.mount_options.iter().flatten().next().is_some() {
        return Err(format!(
            "a directory is not mounted: mountOptions of class \"{}\" are not supported",
            class.name()
        ));
    }
    let Some(name) = annotation(&claim.metadata, SELECTED_NODE) else {
        let message = "volumes lie where their first pod runs: it needs volumeBindingMode WaitForFirstConsumer";
        return Err(format!("class \"{}\": {message}", class.name()));
    };
    let Some(node) = view.get::<Node>("", name) else {
        let patch = json!({"metadata": {"annotations": {SELECTED_NODE: null}}});
        return Ok(Made::Elsewhere(Write::patch(claim, "", patch)));
    };
    let folder = annotation(&node.metadata, LOCAL_FOLDER).filter(|folder| folder.starts_with('/'));
    let folder =
        folder.ok_or_else(|| format!("node \"{name}\" does not say in {LOCAL_FOLDER} where its volumes lie"))?;
    let hostname = node.metadata.labels.as_ref().and_then(|labels| labels.get(HOSTNAME)).map_or(name, String::as_str);
    let mut volume = describe(claim, class);
    volume["metadata"]["annotations"][CARETAKER] = name.into();
    volume["spec"]["local"] = json!({"path": format!("{}/{}", folder.trim_end_matches('/'), volume_of(claim))});
    let here = json!({"key": HOSTNAME, "operator": "In", "values": [hostname]});
    volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}});
    Ok(Made::Volume(volume))
}

fn nfs(claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<Made, String> {
    must_be_plain(claim, class, &["server", "share"])?;
    let none = BTreeMap::new();
    let parameters = class.parameters.as_ref().unwrap_or(&none);
    let named = |name: &str| {
        let value = parameters.get(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| format!("class \"{}\" lacks the parameter \"{name}\"", class.name()))
    };
    let (server, share) = (named("server")?, named("share")?);
    if !share.starts_with('/') || share.split('/').any(|part| part == "..") {
        return Err(format!("class \"{}\": share \"{share}\" is not an absolute path", class.name()));
    }
    let directory = format!("{}-{}-{}", claim.namespace(), claim.name(), volume_of(claim));
    let mut volume = describe(claim, class);
    volume["metadata"]["annotations"][NFS_SHARE] = share.as_str().into();
    volume["spec"]["nfs"] = json!({"server": server, "path": format!("{}/{directory}", share.trim_end_matches('/'))});
    if let Some(options) = &class.mount_options {
        volume["spec"]["mountOptions"] = json!(options);
    }
    Ok(Made::Volume(volume))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::Binder;
    use crate::testing::{World, body};

    /// What becomes of a claim of this class: the source of its volume, or what its events say.
    #[track_caller]
    fn check(class: Value, claim: Value, wanted: &str) -> Outcome {
        let mut world = World::default();
        let mut whole = json!({"metadata": {"name": "fast"}});
        whole.as_object_mut().expect("an object").extend(class.as_object().cloned().unwrap_or_default());
        let provisioner = whole["provisioner"].clone();
        world.put(StorageClass::RESOURCE, whole);
        let labels = json!({HOSTNAME: "host-a"});
        world.put(
            Node::RESOURCE,
            json!({"metadata": {"name": "a", "labels": labels, "annotations": {LOCAL_FOLDER: "/data/local"}}}),
        );
        world.put(Node::RESOURCE, json!({"metadata": {"name": "b"}}));
        let mut annotations = json!({PROVISIONER: provisioner});
        if let Some(node) = claim["node"].as_str() {
            annotations[SELECTED_NODE] = node.into();
        }
        let spec = json!({
            "accessModes": [claim["mode"].as_str().unwrap_or("ReadWriteOnce")], "storageClassName": "fast",
            "volumeMode": claim["volumeMode"], "resources": {"requests": {"storage": "1Gi"}},
        });
        let meta = json!({"name": "c", "namespace": "n", "uid": "u", "annotations": annotations});
        world.put(
            PersistentVolumeClaim::RESOURCE,
            json!({"metadata": meta, "spec": spec, "status": {"phase": "Pending"}}),
        );
        let outcome = world.reconcile(&Binder, "n", "c");
        let told = outcome.events.first().map(|note| format!("{}: {}", note.reason, note.message));
        let made = || body(&outcome, "create persistentvolumes pvc-u")["spec"].clone();
        let found = told.unwrap_or_else(|| format!("{}{}", made()["local"]["path"], made()["nfs"]).replace("null", ""));
        assert_eq!(found, wanted);
        outcome
    }

    fn local() -> Value {
        json!({"provisioner": LOCAL, "volumeBindingMode": "WaitForFirstConsumer"})
    }

    #[test]
    fn a_local_volume_lies_on_the_node_the_scheduler_chose() {
        let outcome = check(local(), json!({"node": "a"}), "\"/data/local/pvc-u\"");
        let volume = body(&outcome, "create persistentvolumes pvc-u");
        let term = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
        assert_eq!((&term["key"], &term["values"]), (&json!(HOSTNAME), &json!(["host-a"])));
        assert_eq!(volume["metadata"]["annotations"][CARETAKER], "a");
        assert_eq!(volume["spec"]["claimRef"]["uid"], "u");
        assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Delete");
    }

    #[test]
    fn what_a_directory_cannot_be_is_refused_by_name() {
        let no_folder = "ProvisioningFailed: node \"b\" does not say in skerry.dev/local-volumes where its volumes lie";
        check(local(), json!({"node": "b"}), no_folder);
        let many = "ProvisioningFailed: a directory of one node cannot be used from many: accessMode ReadWriteMany is not \
                    supported by skerry.dev/local";
        check(local(), json!({"node": "a", "mode": "ReadWriteMany"}), many);
        let block = "ProvisioningFailed: skerry.dev/local makes directories: volumeMode Block is not supported";
        check(local(), json!({"node": "a", "volumeMode": "Block"}), block);
        let early = "ProvisioningFailed: class \"fast\": volumes lie where their first pod runs: it needs volumeBindingMode \
                     WaitForFirstConsumer";
        check(json!({"provisioner": LOCAL}), json!({}), early);
        let plugin = "ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner";
        check(json!({"provisioner": "kubernetes.io/no-provisioner"}), json!({}), plugin);
    }

    #[test]
    fn a_node_that_is_gone_is_chosen_no_more() {
        let mut world = World::default();
        let mut class = local();
        class["metadata"] = json!({"name": "fast"});
        world.put(StorageClass::RESOURCE, class);
        let annotations = json!({PROVISIONER: LOCAL, SELECTED_NODE: "gone"});
        let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "fast"});
        let meta = json!({"name": "c", "namespace": "n", "uid": "u", "annotations": annotations});
        world.put(
            PersistentVolumeClaim::RESOURCE,
            json!({"metadata": meta, "spec": spec, "status": {"phase": "Pending"}}),
        );
        let patch = body(&world.reconcile(&Binder, "n", "c"), "patch persistentvolumeclaims n/c");
        assert_eq!(patch["metadata"]["annotations"], json!({SELECTED_NODE: null}));
    }

    #[test]
    fn an_nfs_volume_is_a_directory_of_the_export() {
        let class =
            |parameters: Value| json!({"provisioner": NFS, "parameters": parameters, "mountOptions": ["nfsvers=3"]});
        let both = json!({"server": "10.0.0.9", "share": "/srv/"});
        let outcome = check(
            class(both),
            json!({"mode": "ReadWriteMany"}),
            "{\"path\":\"/srv/n-c-pvc-u\",\"server\":\"10.0.0.9\"}",
        );
        let volume = body(&outcome, "create persistentvolumes pvc-u");
        assert_eq!(volume["spec"]["mountOptions"], json!(["nfsvers=3"]));
        assert_eq!(volume["metadata"]["annotations"][NFS_SHARE], "/srv/");
        let lacks = "ProvisioningFailed: class \"fast\" lacks the parameter \"share\"";
        check(class(json!({"server": "s"})), json!({}), lacks);
        let unknown = "ProvisioningFailed: class \"fast\" has an unknown parameter \"path\"";
        check(class(json!({"server": "s", "path": "/"})), json!({}), unknown);
        let relative = "ProvisioningFailed: class \"fast\": share \"srv\" is not an absolute path";
        check(class(json!({"server": "s", "share": "srv"})), json!({}), relative);
    }
}
