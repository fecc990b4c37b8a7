//! Which PersistentVolume suits which claim: what the scheduler and the volume controller must agree on.
//!
//! Start at [`best`], which chooses, and [`misfit`], which says why not. The rules are upstream's, as are the words.
//!
//! Invariants:
//! * a volume is for one claim: what names another in its `claimRef` suits nobody else;
//! * of those that suit, the smallest is chosen, by name where they are equal: the same objects give the same choice;
//! * a claim may ask for less than it gets, never for more.
//!
//! Not here: writing anything (`controllers`, `scheduler`), mounting (`kubelet`).
//!
//! See <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#binding>.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

use api::quantity::Quantity;
use client::{Kind, Selector};
use k8s_openapi::api::core::v1::{
    NodeSelector, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeSpec, Volume,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// On a claim: it was bound once. What is missing afterwards is lost.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On both: the binding was the cluster's choice, not a user's.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it for its claim.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is to make a volume for it.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// On a claim: the node on which the scheduler wants its volume.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes are made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The built-in provisioner of directories of a node.
pub const LOCAL: &str = "skerry.dev/local";
/// The built-in provisioner of directories of an NFS export.
pub const NFS: &str = "skerry.dev/nfs";
/// On a Node: the folder in which it keeps the volumes of the class `local`.
pub const LOCAL_FOLDER: &str = "skerry.dev/local-volumes";
/// On a volume: the node that empties or removes what it holds when it is released.
pub const CARETAKER: &str = "skerry.dev/caretaker";
/// On a volume: the uid of the claim whose data its caretaker has removed.
pub const CLEARED: &str = "skerry.dev/cleared";
/// On a volume: why its caretaker could not remove the data.
pub const CLEARING_FAILED: &str = "skerry.dev/clearing-failed";
/// On a volume of an NFS class: the export below which its directory lies.
pub const NFS_SHARE: &str = "skerry.dev/nfs-share";

/// Why a volume does not suit a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It is for another claim.
    Claimed,
    /// It is about to go.
    Deleting,
    /// It has not been offered yet, or holds what another claim left.
    NotAvailable,
    /// It holds less than is asked for.
    TooSmall,
    /// It is of another class.
    Class,
    /// Block against file system.
    VolumeMode,
    /// It cannot be used in all the ways asked for.
    AccessMode,
    /// The claim's selector does not select it.
    Selector,
    /// It cannot be reached from the node.
    Node,
}

/// Upstream's words where it has any.
impl fmt::Display for Misfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Misfit::Claimed => "it is bound to another claim",
            Misfit::Deleting => "the volume is marked for deletion",
            Misfit::NotAvailable => "it is not available",
            Misfit::TooSmall => "requested PV is too small",
            Misfit::Class => "storageClassName does not match",
            Misfit::VolumeMode => "incompatible volumeMode",
            Misfit::AccessMode => "incompatible accessMode",
            Misfit::Selector => "the claim's selector does not match its labels",
            Misfit::Node => "its node affinity does not match the node",
        })
    }
}

/// Says whether a node is one that a selector selects.
pub type NodeMatches<'a> = &'a dyn Fn(&NodeSelector) -> bool;

/// Why a claim cannot have a volume; with a node, why it cannot have it there.
pub fn misfit(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    node: Option<NodeMatches<'_>>,
) -> Option<Misfit> {
    let reference = spec(volume).claim_ref.as_ref();
    let reserved = reference.is_some_and(|reference| is_for(reference, claim));
    let labels = volume.metadata.labels.clone().unwrap_or_default();
    let selector = claim_spec(claim).selector.as_ref();
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let is_away = |required: &NodeSelector| node.is_some_and(|matches| !matches(required));
    let required = spec(volume).node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    [
        (reference.is_some() && !reserved, Misfit::Claimed),
        (volume.deleting(), Misfit::Deleting),
        (size(volume) < wanted_size(claim), Misfit::TooSmall),
        (
            volume_mode(spec(volume).volume_mode.as_ref()) != volume_mode(claim_spec(claim).volume_mode.as_ref()),
            Misfit::VolumeMode,
        ),
        (!reserved && class_of_volume(volume) != class(claim), Misfit::Class),
        (!has_modes(claim, volume), Misfit::AccessMode),
        (!reserved && selector.is_some_and(|selector| !Selector::of(selector).matches(&labels)), Misfit::Selector),
        (!reserved && phase != Some("Available"), Misfit::NotAvailable),
        (required.is_some_and(is_away), Misfit::Node),
    ]
    .into_iter()
    .find_map(|(wrong, misfit)| wrong.then_some(misfit))
}

/// What keeps a claim from the volume that it, or its user, names: what was asked for by name need not be available yet.
pub fn mismatch(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Misfit> {
    let named = Some(ObjectReference {
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        ..ObjectReference::default()
    });
    let mut reserved = volume.clone();
    reserved.spec.get_or_insert_default().claim_ref = named;
    let wrong_class = class_of_volume(volume) != class(claim);
    misfit(claim, &reserved, None).or(wrong_class.then_some(Misfit::Class))
}

/// The volume a claim should have: one that is reserved for it, or else the smallest that suits.
pub fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'a PersistentVolume>,
    node: Option<NodeMatches<'_>>,
) -> Option<&'a PersistentVolume> {
    let suits = volumes.into_iter().filter(|volume| misfit(claim, volume, node).is_none());
    suits.min_by_key(|volume| {
        let modes = spec(volume).access_modes.as_ref().map_or(0, Vec::len);
        // What can be used in fewer ways goes first, as upstream has it: the others may be needed for more.
        (spec(volume).claim_ref.is_none(), modes, size(volume), volume.metadata.name.clone())
    })
}

/// Whether a volume's reference means this claim: by name if it has no uid, as what a user wrote.
pub fn is_for(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    let named = reference.name == claim.metadata.name && reference.namespace == claim.metadata.namespace;
    let uid = reference.uid.as_deref().unwrap_or_default();
    named && (uid.is_empty() || uid == claim.uid())
}

/// The class of a claim; `""` if it has none.
pub fn class(claim: &PersistentVolumeClaim) -> &str {
    annotation(&claim.metadata, "volume.beta.kubernetes.io/storage-class")
        .or(claim_spec(claim).storage_class_name.as_deref())
        .unwrap_or_default()
}

/// The class of a volume; `""` if it has none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    annotation(&volume.metadata, "volume.beta.kubernetes.io/storage-class")
        .or(spec(volume).storage_class_name.as_deref())
        .unwrap_or_default()
}

/// Whether the claims of a class wait for a pod that uses them.
pub fn waits_for_consumer(class: Option<&StorageClass>) -> bool {
    class.and_then(|class| class.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer")
}

/// The name of the claim behind a pod's generic ephemeral volume.
pub fn ephemeral_name(pod: &str, volume: &str) -> String {
    format!("{pod}-{volume}")
}

/// The name of the claim that a volume of a pod refers to, or that is made for it.
pub fn claim_of(pod: &str, volume: &Volume) -> Option<String> {
    let named = volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone());
    named.or_else(|| volume.ephemeral.as_ref().map(|_| ephemeral_name(pod, &volume.name)))
}

/// Whether a pod may have the claim of that name by this volume: any that it refers to, but for an ephemeral volume only the one
/// that was [made for](made_for) it.
pub fn may_have(pod: &ObjectMeta, volume: &Volume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    if volume.persistent_volume_claim.is_some() { Ok(()) } else { made_for(claim, pod) }
}

/// Whether a claim is the one made for a generic ephemeral volume of a pod; an error says, in upstream's words, that it is not:
/// anybody may have made a claim of that name.
pub fn made_for(claim: &PersistentVolumeClaim, pod: &ObjectMeta) -> Result<(), String> {
    let owner = claim.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let is_owner = owner.is_some_and(|owner| Some(&owner.uid) == pod.uid.as_ref());
    if is_owner && claim.metadata.namespace == pod.namespace {
        return Ok(());
    }
    let (namespace, name) = (pod.namespace.as_deref().unwrap_or_default(), pod.name.as_deref().unwrap_or_default());
    let claim = format!("{}/{}", claim.namespace(), claim.name());
    Err(format!("PVC {claim} was not created for pod {namespace}/{name} (pod is not owner)"))
}

/// Whether a claim is bound for good.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// The volume a claim has or wants, by name.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim_spec(claim).volume_name.as_deref().unwrap_or_default()
}

/// An annotation's value.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The spec of a volume.
pub fn spec(volume: &PersistentVolume) -> &PersistentVolumeSpec {
    static NONE: std::sync::LazyLock<PersistentVolumeSpec> = std::sync::LazyLock::new(Default::default);
    volume.spec.as_ref().unwrap_or(&NONE)
}

/// The spec of a claim.
pub fn claim_spec(claim: &PersistentVolumeClaim) -> &PersistentVolumeClaimSpec {
    static NONE: std::sync::LazyLock<PersistentVolumeClaimSpec> = std::sync::LazyLock::new(Default::default);
    claim.spec.as_ref().unwrap_or(&NONE)
}

/// Whether somebody may use it in this way.
pub fn has_mode(modes: Option<&Vec<String>>, mode: &str) -> bool {
    modes.is_some_and(|modes| modes.iter().any(|each| each == mode))
}

fn has_modes(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let offered = spec(volume).access_modes.as_ref();
    claim_spec(claim).access_modes.iter().flatten().all(|mode| has_mode(offered, mode))
}

fn volume_mode(mode: Option<&String>) -> &str {
    mode.map_or("Filesystem", String::as_str)
}

fn size(volume: &PersistentVolume) -> i64 {
    bytes(spec(volume).capacity.as_ref())
}

/// How many bytes a claim asks for.
pub fn wanted_size(claim: &PersistentVolumeClaim) -> i64 {
    bytes(claim_spec(claim).resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

fn bytes(amounts: Option<&BTreeMap<String, Text>>) -> i64 {
    let text = amounts.and_then(|amounts| amounts.get("storage"));
    text.and_then(|text| Quantity::parse(&text.0).ok()).map_or(0, |quantity| quantity.value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn merged(mut object: Value, more: Value) -> Value {
        for (key, value) in more.as_object().expect("an object") {
            object[key] = value.clone();
        }
        object
    }

    fn claim(more: Value) -> PersistentVolumeClaim {
        let spec = merged(
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}, "storageClassName": "c"}),
            more,
        );
        let meta = json!({"name": "claim", "namespace": "n", "uid": "u"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("a claim")
    }

    fn volume(name: &str, more: Value) -> PersistentVolume {
        let spec = merged(
            json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "storageClassName": "c"}),
            more,
        );
        let meta = json!({"name": name, "labels": {"disk": name}});
        serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": {"phase": "Available"}}))
            .expect("a volume")
    }

    #[track_caller]
    fn check(of_claim: Value, of_volume: Value, wanted: Option<Misfit>) {
        assert_eq!(misfit(&claim(of_claim), &volume("a", of_volume), None), wanted);
    }

    #[test]
    fn what_is_asked_for_must_be_there() {
        check(json!({}), json!({}), None);
        check(json!({}), json!({"capacity": {"storage": "2147483648"}}), None);
        check(json!({}), json!({"capacity": {"storage": "2G"}}), Some(Misfit::TooSmall));
        check(json!({"accessModes": ["ReadWriteMany"]}), json!({}), Some(Misfit::AccessMode));
        check(json!({}), json!({"accessModes": ["ReadWriteMany", "ReadWriteOnce"]}), None);
        check(json!({"volumeMode": "Block"}), json!({}), Some(Misfit::VolumeMode));
        check(json!({"volumeMode": "Filesystem"}), json!({}), None);
        check(json!({"storageClassName": ""}), json!({}), Some(Misfit::Class));
        check(json!({"storageClassName": ""}), json!({"storageClassName": null}), None);
        check(json!({"selector": {"matchLabels": {"disk": "b"}}}), json!({}), Some(Misfit::Selector));
    }

    #[test]
    fn a_volume_is_for_one_claim() {
        let reference = |name: &str, uid: &str| json!({"claimRef": {"namespace": "n", "name": name, "uid": uid}});
        check(json!({}), reference("other", ""), Some(Misfit::Claimed));
        check(json!({}), reference("claim", "another"), Some(Misfit::Claimed));
        check(json!({}), reference("claim", "u"), None);
        // What is reserved by name need not match class or selector.
        check(json!({"storageClassName": "x"}), reference("claim", ""), None);
        check(json!({"accessModes": ["ReadOnlyMany"]}), reference("claim", ""), Some(Misfit::AccessMode));
    }

    #[test]
    fn a_volume_asked_for_by_name_must_suit_too() {
        assert_eq!(mismatch(&claim(json!({})), &volume("a", json!({}))), None);
        assert_eq!(mismatch(&claim(json!({"storageClassName": "x"})), &volume("a", json!({}))), Some(Misfit::Class));
        let small = volume("a", json!({"capacity": {"storage": "1Gi"}}));
        assert_eq!(mismatch(&claim(json!({})), &small), Some(Misfit::TooSmall));
    }

    #[test]
    fn the_smallest_that_suits_is_chosen_unless_one_is_reserved() {
        let of_size = |name: &str, size: &str| volume(name, json!({"capacity": {"storage": size}}));
        let mut all = vec![of_size("a", "9Gi"), of_size("b", "3Gi"), of_size("c", "3Gi"), of_size("d", "1Gi")];
        let name =
            |all: &[PersistentVolume]| best(&claim(json!({})), all, None).and_then(|it| it.metadata.name.clone());
        assert_eq!(name(&all).as_deref(), Some("b"));
        all.push(volume(
            "r",
            json!({"capacity": {"storage": "99Gi"}, "claimRef": {"namespace": "n", "name": "claim"}}),
        ));
        assert_eq!(name(&all).as_deref(), Some("r"));
        assert_eq!(name(&[]), None);
    }

    #[test]
    fn a_volume_of_another_node_cannot_be_had_here() {
        let there = volume("a", json!({"nodeAffinity": {"required": {"nodeSelectorTerms": []}}}));
        assert_eq!(misfit(&claim(json!({})), &there, Some(&|_| false)), Some(Misfit::Node));
        assert_eq!(misfit(&claim(json!({})), &there, Some(&|_| true)), None);
    }
}
