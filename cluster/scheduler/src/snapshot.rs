//! The cluster as the scheduler sees it: nodes, and the pods that count against each.
//!
//! Start at [`Snapshot::set_node`] and [`Snapshot::place`]. It is changed in place, an object at a time: building it anew for
//! each pod would cost more than deciding.
//!
//! Invariants:
//! * what a node's pods ask for together is the sum over its pods, whatever the order they and the node came in;
//! * a pod counts at one node at most; one that has ended counts nowhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Labels;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};

use crate::affinity::{preferences, required_affinity, required_anti_affinity};
use crate::request::Request;
use crate::volumes::{Volumes, claims_of};

/// Upstream counts a pod that asks for nothing as if it asked for a little, so that such pods spread too.
const MILLI_CPU_UNASKED: i64 = 100;
const MEMORY_UNASKED: i64 = 200 << 20;

/// A pod with what is asked of it often.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its uid.
    pub uid: String,
    /// What it asks for.
    pub request: Request,
    /// Processor and memory as they count when nodes are compared.
    pub weight: (i64, i64),
    /// The host's ports it takes: protocol, address, port.
    pub ports: Vec<(String, String, i32)>,
    /// Its priority.
    pub priority: i32,
    /// The uid of its controller.
    pub owner: Option<String>,
    /// Whether it has rules about the pods beside it.
    pub has_terms: bool,
    /// The claims it uses, by name.
    pub claims: Vec<String>,
}

/// A node with the pods that count against it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The node.
    pub node: Arc<Node>,
    /// Its name.
    pub name: String,
    /// What it has for pods.
    pub allocatable: Request,
    /// What its pods ask for together.
    pub requested: Request,
    /// The same as it counts when nodes are compared.
    pub weight: (i64, i64),
    /// Its pods, those that have ended left out.
    pub pods: Vec<Arc<PodInfo>>,
    /// The images it has, and their sizes.
    pub images: BTreeMap<String, i64>,
}

/// The cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeInfo>,
    /// Labels of namespaces, for affinity terms that select by them.
    pub namespaces: BTreeMap<String, Labels>,
    /// Claims, volumes and classes.
    pub volumes: Volumes,
    /// Which pods count at which node, by uid; the node may be gone.
    placed: BTreeMap<String, (String, Arc<PodInfo>)>,
    /// Those of them with rules about their neighbours: usually few, and asked for each pod that comes.
    with_terms: BTreeMap<String, (String, Arc<PodInfo>)>,
    /// How many pods of each owner are on which node.
    siblings: BTreeMap<String, BTreeMap<String, i64>>,
    changes: Changes,
}

/// Counts what could help a pod that found no place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Nodes that came or changed, pods that went.
    pub room: u64,
    /// Pods that came, namespaces that changed: of interest to pods with rules about others.
    pub company: u64,
    /// Claims, volumes and classes that changed: of interest to pods with claims.
    pub volumes: u64,
}

impl PodInfo {
    /// Reads a pod.
    pub fn new(pod: Arc<Pod>) -> PodInfo {
        let request = Request::of(&pod);
        let or = |asked: i64, default: i64| if asked == 0 { default } else { asked };
        let owners = pod.metadata.owner_references.iter().flatten();
        let owner = owners.filter(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone()).next();
        let has_terms = !required_affinity(&pod).is_empty()
            || !required_anti_affinity(&pod).is_empty()
            || !preferences(&pod).is_empty();
        PodInfo {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            weight: (or(request.milli_cpu, MILLI_CPU_UNASKED), or(request.memory, MEMORY_UNASKED)),
            ports: ports(&pod),
            priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default(),
            owner,
            has_terms,
            claims: claims_of(&pod),
            request,
            pod,
        }
    }

    /// The node it is bound to.
    pub fn node_name(&self) -> Option<&str> {
        self.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty())
    }

    /// Whether other pods can make a place for it by being somewhere.
    pub fn depends_on_others(&self) -> bool {
        let spread = self.pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_deref());
        self.has_terms || !spread.unwrap_or_default().is_empty()
    }
}

fn ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    // Of the init containers only sidecars hold their ports while the others run.
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let taken = ports.filter(|port| port.host_port.unwrap_or_default() > 0).map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let address = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned());
        (protocol, address, port.host_port.unwrap_or_default())
    });
    taken.collect()
}

/// Whether a pod has ended and counts no more.
pub(crate) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(node: Arc<Node>) -> NodeInfo {
        let status = node.status.as_ref();
        let images = status.and_then(|status| status.images.as_deref()).unwrap_or_default();
        let images = images.iter().flat_map(|image| {
            let size = image.size_bytes.unwrap_or_default();
            image.names.iter().flatten().map(move |name| (normal_image(name), size))
        });
        NodeInfo {
            name: node.metadata.name.clone().unwrap_or_default(),
            allocatable: Request::allocatable(status.and_then(|status| status.allocatable.as_ref())),
            requested: Request::default(),
            weight: (0, 0),
            pods: Vec::new(),
            images: images.collect(),
            node,
        }
    }

    fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.request);
        self.weight = (self.weight.0 + pod.weight.0, self.weight.1 + pod.weight.1);
        self.pods.push(pod);
    }

    fn remove(&mut self, uid: &str) {
        let Some(at) = self.pods.iter().position(|pod| pod.uid == uid) else { return };
        let pod = self.pods.remove(at);
        self.requested.subtract(&pod.request);
        self.weight = (self.weight.0 - pod.weight.0, self.weight.1 - pod.weight.1);
    }

    /// One of the node's labels.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str)
    }
}

/// An image's name with its tag: `busybox` is `busybox:latest`.
pub(crate) fn normal_image(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { name.to_owned() } else { format!("{name}:latest") }
}

impl Snapshot {
    /// A snapshot of these objects.
    pub fn new(nodes: &[Arc<Node>], pods: &[Arc<Pod>], namespaces: &[Arc<Namespace>]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        namespaces.iter().for_each(|namespace| snapshot.set_namespace(namespace));
        nodes.iter().for_each(|node| snapshot.set_node(node));
        for pod in pods.iter().filter(|pod| !has_ended(pod)) {
            let info = PodInfo::new(pod.clone());
            if let Some(node) = info.node_name().map(str::to_owned) {
                snapshot.place(&node, Arc::new(info));
            }
        }
        snapshot
    }

    /// A node came or changed.
    pub fn set_node(&mut self, node: &Arc<Node>) {
        let mut info = NodeInfo::new(node.clone());
        match self.nodes.remove(&info.name) {
            Some(known) => {
                let same =
                    |one: &Node, other: &Node| one.spec == other.spec && one.metadata.labels == other.metadata.labels;
                let same = same(&known.node, node) && known.allocatable == info.allocatable;
                self.changes.room += u64::from(!same);
                (info.requested, info.weight, info.pods) = (known.requested, known.weight, known.pods);
            }
            None => {
                self.changes.room += 1;
                // Pods may be seen before their node.
                for (node, pod) in self.placed.values() {
                    if *node == info.name {
                        info.add(pod.clone());
                    }
                }
            }
        }
        self.nodes.insert(info.name.clone(), info);
    }

    /// A node went. Its pods count nowhere until it comes back.
    pub fn remove_node(&mut self, name: &str) {
        if self.nodes.remove(name).is_some() {
            // Rules about topology may hold in fewer domains.
            self.changes.company += 1;
        }
    }

    /// A namespace came or changed.
    pub fn set_namespace(&mut self, namespace: &Namespace) {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        self.namespaces.insert(name, namespace.metadata.labels.clone().unwrap_or_default());
        self.changes.company += 1;
    }

    /// Counts a pod against a node, and nowhere else.
    pub fn place(&mut self, node: &str, pod: Arc<PodInfo>) {
        if let Some((before, known)) = self.placed.get(&pod.uid) {
            if before == node && Arc::ptr_eq(&known.pod, &pod.pod) {
                return;
            }
            self.take(&pod.uid.clone());
        }
        self.changes.company += 1;
        if let Some(owner) = &pod.owner {
            *self.siblings.entry(owner.clone()).or_default().entry(node.to_owned()).or_default() += 1;
        }
        if pod.has_terms {
            self.with_terms.insert(pod.uid.clone(), (node.to_owned(), pod.clone()));
        }
        if let Some(node) = self.nodes.get_mut(node) {
            node.add(pod.clone());
        }
        self.placed.insert(pod.uid.clone(), (node.to_owned(), pod));
    }

    /// A pod ended or went: there is room.
    pub fn remove(&mut self, uid: &str) {
        if self.take(uid).is_some() {
            self.changes.room += 1;
            self.changes.company += 1;
        }
    }

    /// Takes a pod out for the sake of argument, without saying that there is room.
    pub(crate) fn take(&mut self, uid: &str) -> Option<(String, Arc<PodInfo>)> {
        let (node, pod) = self.placed.remove(uid)?;
        self.with_terms.remove(uid);
        if let Some(owner) = &pod.owner
            && let Some(counts) = self.siblings.get_mut(owner)
        {
            let count = counts.entry(node.clone()).or_default();
            *count -= 1;
            if *count == 0 {
                counts.remove(&node);
            }
            if counts.is_empty() {
                self.siblings.remove(owner);
            }
        }
        if let Some(info) = self.nodes.get_mut(&node) {
            info.remove(uid);
        }
        Some((node, pod))
    }

    /// All pods that count, with the node each is on.
    pub fn pods(&self) -> impl Iterator<Item = (&NodeInfo, &PodInfo)> {
        self.nodes.values().flat_map(|node| node.pods.iter().map(move |pod| (node, &**pod)))
    }

    /// Those of them that have rules about their neighbours.
    pub(crate) fn pods_with_terms(&self) -> impl Iterator<Item = (&NodeInfo, &PodInfo)> {
        self.with_terms.values().filter_map(|(node, pod)| Some((self.nodes.get(node)?, &**pod)))
    }

    /// How many pods of an owner are on which node.
    pub(crate) fn siblings(&self, owner: &str) -> Option<&BTreeMap<String, i64>> {
        self.siblings.get(owner)
    }

    /// Changes what is known of claims, volumes and classes.
    pub(crate) fn change_volumes(&mut self, change: impl FnOnce(&mut Volumes)) {
        change(&mut self.volumes);
        self.changes.volumes += 1;
    }

    /// What happened so far that could help a pod that waits.
    pub fn changes(&self) -> Changes {
        self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str) -> Arc<PodInfo> {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "1"}}});
        let object = json!({"metadata": {"name": name, "uid": name}, "spec": {"containers": [container]}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(object).expect("a pod"))))
    }

    fn node(name: &str) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}})).expect("a node"))
    }

    #[track_caller]
    fn check(snapshot: &Snapshot, node: &str, milli_cpu: i64, pods: usize) {
        let info = &snapshot.nodes[node];
        assert_eq!((info.requested.milli_cpu, info.pods.len()), (milli_cpu, pods));
    }

    #[test]
    fn a_pod_counts_also_if_its_node_comes_later_or_again() {
        let mut snapshot = Snapshot::default();
        snapshot.place("a", pod("x"));
        snapshot.set_node(&node("a"));
        check(&snapshot, "a", 1000, 1);
        snapshot.remove_node("a");
        snapshot.place("a", pod("y"));
        snapshot.set_node(&node("a"));
        check(&snapshot, "a", 2000, 2);
        snapshot.set_node(&node("a"));
        check(&snapshot, "a", 2000, 2);
    }

    #[test]
    fn a_pod_counts_once_wherever_it_is_seen() {
        let mut snapshot = Snapshot::new(&[node("a"), node("b")], &[], &[]);
        snapshot.place("a", pod("x"));
        snapshot.place("b", pod("x"));
        check(&snapshot, "a", 0, 0);
        check(&snapshot, "b", 1000, 1);
        snapshot.remove("x");
        check(&snapshot, "b", 0, 0);
    }

    #[test]
    fn images_without_a_tag_are_the_latest() {
        for (name, wanted) in
            [("a", "a:latest"), ("r:5000/a", "r:5000/a:latest"), ("a:1", "a:1"), ("a@sha256:0", "a@sha256:0")]
        {
            assert_eq!(normal_image(name), wanted);
        }
    }
}
