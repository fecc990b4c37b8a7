//! What a volume of a pod really is: a claim leads to its PersistentVolume, and that to a path or an export.
//!
//! Start at [`resolve`]. What was found is kept beside the pod's folder, so that a node without a server, or one whose claim is
//! being deleted, still knows what its running pods use.
//!
//! Invariants:
//! * a volume is used only if its `claimRef` and the claim name each other, and only on a node that its affinity allows;
//! * what was found once for a pod never changes for it.
//!
//! Not here: mounting (`helper.rs`), folders (`mod.rs`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use claims::{LOCAL, NFS_SHARE, PROVISIONED_BY, annotation, spec};
use client::{Client, Kind};
use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, Node, NodeSelector, PersistentVolume, PersistentVolumeClaim, Volume,
};
use serde::{Deserialize, Serialize};

use super::helper::Export;
use crate::pod::PodInfo;

/// The file in a pod's folder that remembers.
const FILE: &str = "volumes.json";

/// What volumes of a pod are, by the volume's name; those that are no claims and not remote are left out.
pub type Found = BTreeMap<String, Origin>;

/// Where a volume's data is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Where.
    pub place: Place,
    /// Whether the claim, the volume or the pod allows only reading.
    pub read_only: bool,
}

/// Where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// A path of the node that somebody else looks after.
    HostPath {
        /// The path.
        path: String,
        /// What it must be, as in `hostPath.type`.
        kind: Option<String>,
    },
    /// A directory of the node that is a volume: the pod's `fsGroup` owns it.
    Local {
        /// The directory.
        path: String,
        /// It is made if it is not there.
        make: bool,
    },
    /// An export of a server.
    Nfs {
        /// Which.
        export: Export,
        /// It is a directory below this export, made if it is not there.
        below: Option<String>,
        /// The name of its folder.
        name: String,
    },
}

/// Why a volume of a pod cannot be had, as its event says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The volume's data is on other nodes: a new, empty directory here would look like data that was lost.
    #[error("MountVolume.NodeAffinity check failed for volume \"{0}\" : no matching NodeSelectorTerms")]
    NodeAffinity(String),
    /// Its claim, its volume, or what was heard of them; a token, a file, a mount.
    #[error("MountVolume.SetUp failed for volume \"{0}\" : {1}")]
    SetUp(String, String),
}

impl Place {
    /// Where a container's mount starts.
    pub fn folder(&self, pod_dir: &Path) -> PathBuf {
        match self {
            Place::HostPath { path, .. } | Place::Local { path, .. } => PathBuf::from(path),
            Place::Nfs { name, .. } => pod_dir.join("volumes/kubernetes.io~nfs").join(name),
        }
    }

    /// Whether touching it may take for ever.
    pub fn is_remote(&self) -> bool {
        matches!(self, Place::Nfs { .. })
    }
}

/// What is remembered of a pod's volumes.
pub fn remembered(pod_dir: &Path) -> Found {
    let text = std::fs::read(pod_dir.join(FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Finds out about every volume that is not known yet, and remembers it.
pub async fn resolve(
    client: &Client,
    node_name: &str,
    pod: &PodInfo,
    pod_dir: &Path,
    found: &mut Found,
) -> Result<(), Refusal> {
    let before = found.len();
    for volume in pod.spec().volumes.iter().flatten() {
        if !found.contains_key(&volume.name)
            && let Some(origin) = origin(client, node_name, pod, volume).await?
        {
            found.insert(volume.name.clone(), origin);
        }
    }
    if found.len() > before {
        // Plain data always has a JSON form; what cannot be kept is asked for again after a restart.
        let text = serde_json::to_vec(found).unwrap_or_default();
        let kept = std::fs::create_dir_all(pod_dir).map_err(|error| error.to_string());
        let kept = kept.and_then(|()| {
            sys::files::write_atomically(&pod_dir.join(FILE), &text, 0o600)
                .map_err(|error| base::chain(&error).to_string())
        });
        if let Err(error) = kept {
            tracing::warn!(pod = %pod.full_name(), error, "what the pod's volumes are is not remembered");
        }
    }
    Ok(())
}

async fn origin(client: &Client, node_name: &str, pod: &PodInfo, volume: &Volume) -> Result<Option<Origin>, Refusal> {
    if let Some(source) = &volume.nfs {
        let export = Export {
            server: source.server.clone(),
            path: source.path.clone(),
            options: Vec::new(),
            read_only: source.read_only == Some(true),
        };
        let read_only = export.read_only;
        return Ok(Some(Origin { place: Place::Nfs { export, below: None, name: volume.name.clone() }, read_only }));
    }
    let Some(name) = claims::claim_of(&pod.name, volume) else { return Ok(None) };
    let read_only = volume.persistent_volume_claim.as_ref().is_some_and(|source| source.read_only == Some(true));
    let key = format!("{}/{name}", pod.namespace);
    let refused = |detail: String| Refusal::SetUp(volume.name.clone(), detail);
    let asked = |what: String| {
        move |error: client::ClientError| {
            refused(format!("failed to fetch {what} from API server: {}", base::chain(&error)))
        }
    };
    let claim: PersistentVolumeClaim = client.get(&pod.namespace, &name).await.map_err(asked(format!("PVC {key}")))?;
    claims::may_have(&pod.pod.metadata, volume, &claim).map_err(refused)?;
    let bound = named_volume(&claim, &key).map_err(refused)?;
    let found: PersistentVolume = client.get("", bound).await.map_err(asked(format!("PV {bound}")))?;
    if required_affinity(&found).is_some() {
        let node: Node = client.get("", node_name).await.map_err(asked(format!("Node {node_name}")))?;
        check_affinity(&volume.name, &found, &node)?;
    }
    place(&claim, &key, &found, read_only).map(Some).map_err(refused)
}

fn required_affinity(volume: &PersistentVolume) -> Option<&NodeSelector> {
    spec(volume).node_affinity.as_ref()?.required.as_ref()
}

/// Refuses a volume that this node's labels do not allow here; a pod with `nodeName` got here without the scheduler.
fn check_affinity(name: &str, volume: &PersistentVolume, node: &Node) -> Result<(), Refusal> {
    match required_affinity(volume).is_none_or(|required| client::node_matches(required, node)) {
        true => Ok(()),
        false => Err(Refusal::NodeAffinity(name.to_owned())),
    }
}

/// The volume of a claim that may be used by a new pod.
fn named_volume<'a>(claim: &'a PersistentVolumeClaim, key: &str) -> Result<&'a str, String> {
    if claim.deleting() {
        return Err(format!("error processing PVC {key}: PVC is being deleted"));
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let name = claims::volume_name(claim);
    if phase != Some("Bound") || name.is_empty() {
        return Err(format!("error processing PVC {key}: PVC is not bound"));
    }
    Ok(name)
}

fn place(
    claim: &PersistentVolumeClaim,
    key: &str,
    volume: &PersistentVolume,
    read_only: bool,
) -> Result<Origin, String> {
    let (spec, name) = (spec(volume), volume.name().to_owned());
    if spec.claim_ref.as_ref().and_then(|reference| reference.uid.as_deref()) != Some(claim.uid()) {
        return Err(format!("error processing PVC {key}: PV {name} is bound to another claim"));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(format!("PV {name} has volumeMode Block: raw block volumes are not supported on this node"));
    }
    let options = spec.mount_options.clone().unwrap_or_default();
    let provisioner = annotation(&volume.metadata, PROVISIONED_BY);
    let no_options = |place: Place| match options.is_empty() {
        true => Ok(Origin { place, read_only }),
        false => Err(format!("PV {name}: a path is not mounted, so mountOptions are not supported")),
    };
    if let Some(HostPathVolumeSource { path, type_ }) = &spec.host_path {
        return no_options(Place::HostPath { path: path.clone(), kind: type_.clone() });
    }
    if let Some(source) = &spec.local {
        return no_options(Place::Local { path: source.path.clone(), make: provisioner == Some(LOCAL) });
    }
    let Some(source) = &spec.nfs else {
        return Err(format!(
            "PV {name} is neither nfs, hostPath nor local: other volumes are not supported on this node"
        ));
    };
    let read_only = read_only || source.read_only == Some(true);
    let export = Export { server: source.server.clone(), path: source.path.clone(), options, read_only };
    let below = annotation(&volume.metadata, NFS_SHARE).filter(|_| provisioner == Some(claims::NFS)).map(str::to_owned);
    Ok(Origin { place: Place::Nfs { export, below, name }, read_only })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// What a claim of uid `u` gets from this volume.
    #[track_caller]
    fn check(claim: Value, volume: Value, wanted: Result<Origin, &str>) {
        let mut whole = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"},
            "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
        for (key, value) in claim.as_object().expect("an object") {
            whole[key] = value.clone();
        }
        let claim: PersistentVolumeClaim = serde_json::from_value(whole).expect("a claim");
        let mut spec = json!({"claimRef": {"namespace": "n", "name": "c", "uid": "u"}});
        spec.as_object_mut().expect("an object").extend(volume["spec"].as_object().cloned().unwrap_or_default());
        let meta = json!({"name": "v", "annotations": volume["annotations"]});
        let volume: PersistentVolume =
            serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("a volume");
        let found = named_volume(&claim, "n/c").and_then(|_| place(&claim, "n/c", &volume, false));
        assert_eq!(found, wanted.map_err(str::to_owned));
    }

    #[test]
    fn an_ephemeral_volume_takes_only_the_claim_made_for_its_pod() {
        let found = |owner: &str, volume: Value| {
            let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": []}});
            let pod = PodInfo::new(serde_json::from_value(pod).expect("a pod")).expect("a whole pod");
            let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]);
            let claim = json!({"metadata": {"name": "p-v", "namespace": "n", "ownerReferences": owner}});
            let claim = serde_json::from_value(claim).expect("a claim");
            claims::may_have(&pod.pod.metadata, &serde_json::from_value(volume).expect("a volume"), &claim)
        };
        let ephemeral = || json!({"name": "v", "ephemeral": {}});
        let wanted = "PVC n/p-v was not created for pod n/p (pod is not owner)";
        assert_eq!(found("u", ephemeral()), Ok(()));
        assert_eq!(found("another", ephemeral()), Err(wanted.to_owned()));
        assert_eq!(found("another", json!({"name": "v", "persistentVolumeClaim": {"claimName": "p-v"}})), Ok(()));
    }

    fn nfs(options: &[&str], below: Option<&str>, read_only: bool) -> Origin {
        let options = options.iter().map(|it| (*it).to_owned()).collect();
        let export = Export { server: "s".into(), path: "/srv/d".into(), options, read_only };
        Origin { place: Place::Nfs { export, below: below.map(str::to_owned), name: "v".into() }, read_only }
    }

    #[test]
    fn a_claim_leads_to_its_volume() {
        let local = |make| Ok(Origin { place: Place::Local { path: "/d".into(), make }, read_only: false });
        check(json!({}), json!({"spec": {"local": {"path": "/d"}}}), local(false));
        let ours = json!({"spec": {"local": {"path": "/d"}}, "annotations": {PROVISIONED_BY: LOCAL}});
        check(json!({}), ours, local(true));
        let host = Place::HostPath { path: "/h".into(), kind: Some("Directory".into()) };
        let wanted = Origin { place: host, read_only: false };
        check(json!({}), json!({"spec": {"hostPath": {"path": "/h", "type": "Directory"}}}), Ok(wanted));
        let export = json!({"server": "s", "path": "/srv/d", "readOnly": true});
        check(json!({}), json!({"spec": {"nfs": export, "mountOptions": ["hard"]}}), Ok(nfs(&["hard"], None, true)));
        let made = json!({"spec": {"nfs": {"server": "s", "path": "/srv/d"}},
            "annotations": {PROVISIONED_BY: claims::NFS, NFS_SHARE: "/srv"}});
        check(json!({}), made, Ok(nfs(&[], Some("/srv"), false)));
    }

    #[test]
    fn a_volume_of_another_node_is_refused() {
        let node = |room: &str| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"room": room}}})).expect("a node")
        };
        let volume = |affinity: Value| -> PersistentVolume {
            let spec = json!({"local": {"path": "/d"}, "nodeAffinity": affinity});
            serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).expect("a volume")
        };
        let kitchen = json!({"key": "room", "operator": "In", "values": ["kitchen"]});
        let bound = volume(json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [kitchen]}]}}));
        assert_eq!(check_affinity("v", &bound, &node("kitchen")), Ok(()));
        assert_eq!(check_affinity("v", &volume(Value::Null), &node("cellar")), Ok(()));
        let told = check_affinity("v", &bound, &node("cellar")).expect_err("refused").to_string();
        let wanted = "MountVolume.NodeAffinity check failed for volume \"v\" : no matching NodeSelectorTerms";
        assert_eq!(told, wanted);
        let told = Refusal::SetUp("v".to_owned(), "why".to_owned()).to_string();
        assert_eq!(told, "MountVolume.SetUp failed for volume \"v\" : why");
    }

    #[test]
    fn a_claim_that_cannot_be_used_says_why() {
        let any = || json!({"spec": {"local": {"path": "/d"}}});
        check(json!({"status": {"phase": "Pending"}}), any(), Err("error processing PVC n/c: PVC is not bound"));
        let leaving = json!({"name": "c", "uid": "u", "deletionTimestamp": "2026-11-23T19:59:00Z"});
        check(json!({"metadata": leaving}), any(), Err("error processing PVC n/c: PVC is being deleted"));
        let other = json!({"spec": {"claimRef": {"namespace": "n", "name": "c", "uid": "x"}}});
        check(json!({}), other, Err("error processing PVC n/c: PV v is bound to another claim"));
        let csi = json!({"spec": {"csi": {"driver": "d", "volumeHandle": "h"}}});
        let wanted = "PV v is neither nfs, hostPath nor local: other volumes are not supported on this node";
        check(json!({}), csi, Err(wanted));
        let options = json!({"spec": {"local": {"path": "/d"}, "mountOptions": ["hard"]}});
        check(json!({}), options, Err("PV v: a path is not mounted, so mountOptions are not supported"));
    }
}
