//! Claims of pods: on which nodes they can be had, and what is to be reserved before the pod is bound.
//!
//! Start at [`Needs::of`], what a pod needs of any node, and [`Needs::check`], what speaks against one; [`Needs::reserve`] says
//! what to write once a node is chosen.
//!
//! Invariants:
//! * a pod is bound only when all its claims are;
//! * a volume that was reserved for a claim is offered to no other, whether or not its cache has seen that.
//!
//! Not here: which volume suits (`claims`), finishing a binding and making volumes (`controllers`).
//!
//! See <https://kubernetes.io/docs/concepts/storage/storage-classes/#volume-binding-mode>.

use std::collections::BTreeMap;
use std::sync::Arc;

use claims::{
    BOUND_BY_CONTROLLER, NO_PROVISIONER, SELECTED_NODE, annotation, best, claim_spec, has_mode, spec, volume_name,
};
use client::Kind;
use control::Write;
use k8s_openapi::api::core::v1::{NodeSelector, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;

use crate::filter::Reason;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// Claims, volumes and classes, as the caches have them.
#[derive(Clone, Debug, Default)]
pub struct Volumes {
    claims: BTreeMap<(String, String), Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    classes: BTreeMap<String, Arc<StorageClass>>,
    /// Volumes that were reserved, and for the claim of which uid, until their cache shows it.
    reserved: BTreeMap<String, String>,
}

impl Volumes {
    /// A claim came, changed or went.
    pub(crate) fn set_claim(&mut self, namespace: &str, name: &str, claim: Option<Arc<PersistentVolumeClaim>>) {
        let key = (namespace.to_owned(), name.to_owned());
        let gone = match claim {
            Some(claim) => self.claims.insert(key, claim.clone()).filter(|old| old.uid() != claim.uid()),
            None => self.claims.remove(&key),
        };
        if let Some(gone) = gone {
            self.reserved.retain(|_, uid| uid != gone.uid());
        }
    }

    /// A volume came, changed or went.
    pub(crate) fn set_volume(&mut self, name: &str, volume: Option<Arc<PersistentVolume>>) {
        self.reserved.remove(name);
        match volume {
            Some(volume) => drop(self.volumes.insert(name.to_owned(), volume)),
            None => drop(self.volumes.remove(name)),
        }
    }

    /// A class came, changed or went.
    pub(crate) fn set_class(&mut self, name: &str, class: Option<Arc<StorageClass>>) {
        match class {
            Some(class) => drop(self.classes.insert(name.to_owned(), class)),
            None => drop(self.classes.remove(name)),
        }
    }

    /// Remembers what was reserved.
    pub(crate) fn reserve(&mut self, volume: &str, claim_uid: &str) {
        self.reserved.insert(volume.to_owned(), claim_uid.to_owned());
    }
}

/// The names of the claims a pod uses.
pub(crate) fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| claims::claim_of(pod.name(), volume)).collect()
}

/// Whether a claim of this name is to be made for an ephemeral volume of the pod.
fn is_ephemeral(pod: &Pod, claim: &str) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.any(|volume| volume.ephemeral.is_some() && claims::ephemeral_name(pod.name(), &volume.name) == claim)
}

/// What a pod needs.
#[derive(Debug, Default)]
pub(crate) struct Needs<'a> {
    /// Volumes it has; `None` for one that is gone.
    bound: Vec<Option<&'a PersistentVolume>>,
    /// Claims that wait for it.
    unbound: Vec<&'a PersistentVolumeClaim>,
    /// A claim that only one pod may use is used already.
    taken: bool,
}

/// One claim that is to be had on a node.
enum Way<'a> {
    /// By this volume, which is free.
    Volume(&'a PersistentVolume),
    /// By one that is made there.
    Made,
}

/// What is to be written, and which volumes that reserves for the claims of which uid.
pub(crate) type Reservation = (Vec<Write>, Vec<(String, String)>);

impl<'a> Needs<'a> {
    /// Reads a pod's claims. An error keeps it from every node, in upstream's words.
    pub(crate) fn of(pod: &PodInfo, snapshot: &'a Snapshot) -> Result<Needs<'a>, String> {
        let mut needs = Needs::default();
        let all = &snapshot.volumes;
        let namespace = pod.pod.namespace();
        for name in &pod.claims {
            let claim = all.claims.get(&(namespace.to_owned(), name.clone()));
            let is_ephemeral = is_ephemeral(&pod.pod, name);
            let claim = claim.ok_or_else(|| match is_ephemeral {
                true => {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
                }
                false => format!("persistentvolumeclaim \"{name}\" not found"),
            })?;
            if is_ephemeral {
                claims::made_for(claim, &pod.pod.metadata)?;
            }
            if claim.deleting() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
            let volume = volume_name(claim);
            if phase == Some("Lost") {
                return Err(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
                ));
            }
            if claims::is_bound(claim) {
                needs.bound.push(all.volumes.get(volume).map(|volume| &**volume));
            } else if volume.is_empty()
                && claims::waits_for_consumer(all.classes.get(claims::class(claim)).map(|it| &**it))
            {
                needs.unbound.push(claim);
            } else {
                return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
            }
            if has_mode(claim_spec(claim).access_modes.as_ref(), "ReadWriteOncePod") {
                let uses = |other: &PodInfo| other.pod.namespace() == namespace && other.claims.contains(name);
                needs.taken |= snapshot.pods().any(|(_, other)| uses(other));
            }
        }
        // The largest first: it has the fewest volumes to choose from.
        needs.unbound.sort_by_key(|claim| (std::cmp::Reverse(claims::wanted_size(claim)), claim.name()));
        Ok(needs)
    }

    /// Whether the pod may be bound as soon as a node is found.
    pub(crate) fn are_met(&self) -> bool {
        self.unbound.is_empty()
    }

    /// What speaks against a node.
    pub(crate) fn check(&self, node: &NodeInfo, all: &Volumes) -> Vec<Reason> {
        if self.taken {
            return vec![Reason::VolumeTaken];
        }
        let required = |volume: &'a PersistentVolume| {
            spec(volume).node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref())
        };
        if self.bound.iter().any(Option::is_none) {
            return vec![Reason::VolumeGone];
        }
        if self.bound.iter().flatten().filter_map(|volume| required(volume)).any(|selector| !selects(selector, node)) {
            return vec![Reason::VolumeNode];
        }
        if self.ways(node, all).is_none() { vec![Reason::VolumeNone] } else { Vec::new() }
    }

    /// How each of the claims that wait can be had on a node, if all can.
    fn ways<'b>(&self, node: &NodeInfo, all: &'b Volumes) -> Option<Vec<(&'a PersistentVolumeClaim, Way<'b>)>> {
        let mut ways: Vec<(&'a PersistentVolumeClaim, Way<'b>)> = Vec::new();
        for claim in &self.unbound {
            let chosen = annotation(&claim.metadata, SELECTED_NODE);
            if chosen.is_some_and(|chosen| chosen != node.name) {
                return None;
            }
            let is_free = |volume: &&PersistentVolume| {
                let theirs = all.reserved.get(volume.name()).is_some_and(|uid| uid != claim.uid());
                let mine =
                    ways.iter().any(|(_, way)| matches!(way, Way::Volume(other) if other.name() == volume.name()));
                !theirs && !mine
            };
            let free = all.volumes.values().map(|volume| &**volume).filter(is_free);
            let found =
                if chosen.is_none() { best(claim, free, Some(&|selector| selects(selector, node))) } else { None };
            let way = match found {
                Some(volume) => Way::Volume(volume),
                None if all.classes.get(claims::class(claim)).is_some_and(|class| can_make(class, node)) => Way::Made,
                None => return None,
            };
            ways.push((claim, way));
        }
        Some(ways)
    }

    /// What to write so that all claims that wait can be had on the node; what is written already is left out.
    pub(crate) fn reserve(&self, node: &NodeInfo, all: &Volumes) -> Reservation {
        let (mut writes, mut reserved) = (Vec::new(), Vec::new());
        for (claim, way) in self.ways(node, all).unwrap_or_default() {
            let version = claim.metadata.resource_version.clone();
            match way {
                Way::Volume(volume) => {
                    let has = spec(volume).claim_ref.as_ref().is_some_and(|it| it.uid.as_deref() == Some(claim.uid()));
                    if !has && !all.reserved.contains_key(volume.name()) {
                        writes.push(claimed(volume, claim));
                        reserved.push((volume.name().to_owned(), claim.uid().to_owned()));
                    }
                }
                Way::Made if annotation(&claim.metadata, SELECTED_NODE).is_none() => {
                    let annotations = json!({SELECTED_NODE: node.name});
                    let patch = json!({"metadata": {"resourceVersion": version, "annotations": annotations}});
                    writes.push(Write::patch(claim, "", patch));
                }
                Way::Made => {}
            }
        }
        (writes, reserved)
    }
}

fn claimed(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Write {
    let reference = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": claim.namespace(), "name": claim.name(), "uid": claim.uid(),
        "resourceVersion": claim.metadata.resource_version,
    });
    let mut meta = json!({"resourceVersion": volume.metadata.resource_version});
    if spec(volume).claim_ref.is_none() {
        meta["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
    }
    Write::patch(volume, "", json!({"metadata": meta, "spec": {"claimRef": reference}}))
}

fn selects(selector: &NodeSelector, node: &NodeInfo) -> bool {
    client::node_matches(selector, &node.node)
}

/// Whether somebody makes volumes of a class for this node.
fn can_make(class: &StorageClass, node: &NodeInfo) -> bool {
    let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
    let holds = |term: &k8s_openapi::api::core::v1::TopologySelectorTerm| {
        let mut labels = term.match_label_expressions.iter().flatten();
        labels.all(|each| node.label(&each.key).is_some_and(|value| each.values.iter().any(|one| one == value)))
    };
    class.provisioner != NO_PROVISIONER && (topologies.is_empty() || topologies.iter().any(holds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Decision, decide};
    use k8s_openapi::api::core::v1::Node;
    use serde_json::Value;

    fn object<T: serde::de::DeserializeOwned>(object: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(object).expect("an object"))
    }

    fn node(name: &str) -> Arc<Node> {
        object(json!({"metadata": {"name": name, "labels": {"host": name}}, "status": {"allocatable": {"pods": "9"}}}))
    }

    fn pod(name: &str, more: Value) -> Arc<Pod> {
        let mut spec = json!({"containers": [{"name": "c"}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
        spec.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        object(json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": spec}))
    }

    fn claim(snapshot: &mut Snapshot, modes: &str, spec: Value, annotations: Value) {
        let mut whole =
            json!({"accessModes": [modes], "storageClassName": "late", "resources": {"requests": {"storage": "1Gi"}}});
        whole.as_object_mut().expect("an object").extend(spec.as_object().cloned().unwrap_or_default());
        let meta = json!({"name": "c", "namespace": "n", "uid": "u", "annotations": annotations});
        snapshot.volumes.set_claim("n", "c", Some(object(json!({"metadata": meta, "spec": whole}))));
    }

    fn volume(snapshot: &mut Snapshot, name: &str, host: &str) {
        let here = json!({"key": "host", "operator": "In", "values": [host]});
        let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}});
        let spec = json!({"accessModes": ["ReadWriteOnce", "ReadWriteOncePod"], "capacity": {"storage": "1Gi"},
            "storageClassName": "late", "nodeAffinity": affinity});
        let volume = json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}});
        snapshot.volumes.set_volume(name, Some(object(volume)));
    }

    fn world(provisioner: &str) -> Snapshot {
        let mut snapshot = Snapshot::new(&[node("a"), node("b")], &[], &[]);
        let class = json!({"metadata": {"name": "late"}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"});
        snapshot.volumes.set_class("late", Some(object(class)));
        snapshot
    }

    #[track_caller]
    fn check(snapshot: &mut Snapshot, names: &[&str], wanted: &[&str]) {
        let pods = names.iter().map(|name| pod(name, json!({}))).collect();
        let words = |decision: Decision| match decision {
            Decision::Bind { node, .. } => format!("bind to {node}"),
            Decision::Reserve { node, writes, .. } => {
                let writes: Vec<String> = writes.iter().map(ToString::to_string).collect();
                format!("on {node}: {}", writes.join(", "))
            }
            Decision::Explain { message, .. } => message.split(" preemption").next().unwrap_or_default().to_owned(),
        };
        let said: Vec<String> = decide(snapshot, pods, &[]).into_iter().map(words).collect();
        assert_eq!(said, wanted);
    }

    const BOUND: &str = "pv.kubernetes.io/bind-completed";

    #[test]
    fn a_pod_waits_for_claims_that_wait_for_nobody() {
        let mut snapshot = world("x/y");
        check(&mut snapshot, &["p"], &["0/2 nodes are available: persistentvolumeclaim \"c\" not found."]);
        claim(&mut snapshot, "ReadWriteOnce", json!({"storageClassName": "now"}), json!({}));
        let unbound = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
        check(&mut snapshot, &["p"], &[unbound]);
    }

    #[test]
    fn a_pod_waits_for_a_claim_of_its_own() {
        let mut snapshot = world("x/y");
        let volumes = json!({"volumes": [{"name": "v", "ephemeral": {}}]});
        let said = |snapshot: &mut Snapshot| match decide(snapshot, vec![pod("p", volumes.clone())], &[]).remove(0) {
            Decision::Explain { message, .. } => message.split(". ").next().unwrap_or_default().to_owned(),
            Decision::Bind { node, .. } | Decision::Reserve { node, .. } => node,
        };
        let waits = "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\"";
        assert!(said(&mut snapshot).contains(waits));
        let own = |uid: &str| {
            let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]);
            let meta = json!({"name": "p-v", "namespace": "n", "uid": "u", "ownerReferences": owner});
            object(json!({"metadata": meta, "spec": {"storageClassName": "late"}}))
        };
        snapshot.volumes.set_claim("n", "p-v", Some(own("another")));
        let foreign = "PVC n/p-v was not created for pod n/p (pod is not owner)";
        assert!(said(&mut snapshot).contains(foreign));
        snapshot.volumes.set_claim("n", "p-v", Some(own("p")));
        assert!(matches!(said(&mut snapshot).as_str(), "a" | "b"));
    }

    #[test]
    fn a_pod_goes_where_its_volume_is() {
        let mut snapshot = world("x/y");
        claim(&mut snapshot, "ReadWriteOnce", json!({"volumeName": "v"}), json!({BOUND: "yes"}));
        let gone = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
        check(&mut snapshot, &["p"], &[&format!("0/2 nodes are available: 2 {gone}.")]);
        volume(&mut snapshot, "v", "b");
        check(&mut snapshot, &["p"], &["bind to b"]);
        volume(&mut snapshot, "v", "z");
        let away = "node(s) didn't match PersistentVolume's node affinity";
        check(&mut snapshot, &["p2"], &[&format!("0/2 nodes are available: 2 {away}.")]);
    }

    #[test]
    fn a_volume_is_reserved_where_the_pod_can_be() {
        let mut snapshot = world(NO_PROVISIONER);
        claim(&mut snapshot, "ReadWriteOnce", json!({}), json!({}));
        let none = "node(s) didn't find available persistent volumes to bind";
        check(&mut snapshot, &["p"], &[&format!("0/2 nodes are available: 2 {none}.")]);
        volume(&mut snapshot, "v", "b");
        // Only once: the write is on its way.
        check(&mut snapshot, &["p"], &["on b: patch persistentvolumes v"]);
        check(&mut snapshot, &["p"], &["on b: "]);
    }

    #[test]
    fn a_volume_is_made_on_the_node_that_was_chosen() {
        let mut snapshot = world("x/y");
        claim(&mut snapshot, "ReadWriteOnce", json!({}), json!({}));
        let mut bound =
            Snapshot::new(&[node("a"), node("b")], &[pod("other", json!({"nodeName": "a", "volumes": []}))], &[]);
        bound.volumes = snapshot.volumes;
        check(&mut bound, &["p"], &["on b: patch persistentvolumeclaims n/c"]);
        claim(&mut bound, "ReadWriteOnce", json!({}), json!({SELECTED_NODE: "a"}));
        check(&mut bound, &["p"], &["on a: "]);
    }

    #[test]
    fn a_claim_for_one_pod_is_used_by_one() {
        let mut snapshot = world("x/y");
        volume(&mut snapshot, "v", "b");
        claim(&mut snapshot, "ReadWriteOncePod", json!({"volumeName": "v"}), json!({BOUND: "yes"}));
        let taken = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
        check(&mut snapshot, &["p", "q"], &["bind to b", &format!("0/2 nodes are available: 2 {taken}.")]);
    }
}
