//! The cluster as the scheduler sees it: nodes, and the pods that count against each.
//!
//! Start at [`Snapshot::new`].

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};

use crate::request::Request;

/// A pod with what is asked of it often.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it asks for.
    pub request: Request,
    /// The host's ports it takes: protocol, address, port.
    pub ports: Vec<(String, String, i32)>,
}

/// A node with the pods that count against it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The node.
    pub node: Arc<Node>,
    /// What it has for pods.
    pub allocatable: Request,
    /// What its pods ask for together.
    pub requested: Request,
    /// Its pods, those that have ended left out.
    pub pods: Vec<PodInfo>,
}

/// The cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeInfo>,
    /// Labels of namespaces, for affinity terms that select by them.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl PodInfo {
    /// Reads a pod.
    pub fn new(pod: Arc<Pod>) -> PodInfo {
        let request = Request::of(&pod);
        let ports = pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|container| {
            container.ports.iter().flatten().filter(|port| port.host_port.unwrap_or_default() > 0).map(|port| {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                let address = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned());
                (protocol, address, port.host_port.unwrap_or_default())
            })
        });
        PodInfo { ports: ports.collect(), request, pod }
    }

    /// The node it is bound to.
    pub fn node_name(&self) -> Option<&str> {
        self.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty())
    }
}

/// Whether a pod has ended and counts no more.
pub(crate) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(node: Arc<Node>) -> NodeInfo {
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        let allocatable = Request::allocatable(allocatable);
        NodeInfo { node, allocatable, requested: Request::default(), pods: Vec::new() }
    }

    /// Counts a pod against the node.
    pub fn add(&mut self, pod: PodInfo) {
        self.requested.add(&pod.request);
        self.pods.push(pod);
    }

    /// The node's labels.
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.node.metadata.labels.clone().unwrap_or_default()
    }

    /// One of the node's labels.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str)
    }
}

impl Snapshot {
    /// Puts the pods where they are bound. A pod bound to a node that is gone counts nowhere.
    pub fn new(nodes: &[Arc<Node>], pods: &[Arc<Pod>], namespaces: &[Arc<Namespace>]) -> Snapshot {
        let name = |node: &Arc<Node>| node.metadata.name.clone().unwrap_or_default();
        let mut snapshot = Snapshot {
            nodes: nodes.iter().map(|node| (name(node), NodeInfo::new(node.clone()))).collect(),
            namespaces: namespaces
                .iter()
                .map(|each| {
                    (each.metadata.name.clone().unwrap_or_default(), each.metadata.labels.clone().unwrap_or_default())
                })
                .collect(),
        };
        for pod in pods.iter().filter(|pod| !has_ended(pod)) {
            let info = PodInfo::new(pod.clone());
            if let Some(node) = info.node_name().map(str::to_owned) {
                snapshot.assume(&node, info);
            }
        }
        snapshot
    }

    /// Counts a pod against a node.
    pub fn assume(&mut self, node: &str, pod: PodInfo) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.add(pod);
        }
    }

    /// All pods that count, with the node each is on.
    pub fn pods(&self) -> impl Iterator<Item = (&NodeInfo, &PodInfo)> {
        self.nodes.values().flat_map(|node| node.pods.iter().map(move |pod| (node, pod)))
    }
}
