//! All nodes: they come, report, fall silent, return, and leave.
//!
//! Start at [`Nodes::step`].
//!
//! Invariant: a node that left was switched off: nothing of it runs.

use std::collections::BTreeMap;

use base::{Clock, ManualClock, Rng};
use bytes::Bytes;
use client::{Call, Door, Kind};
use http::Method;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::node::FakeNode;
use crate::server::Server;

const LEASES: &str = "kube-node-lease";
/// What a node gives its pods.
pub const NODE_MILLI_CPU: i64 = 2000;
/// How many pods a node takes.
pub const NODE_PODS: usize = 16;

/// All nodes.
#[derive(Default)]
pub struct Nodes {
    nodes: Vec<FakeNode>,
    /// Pods that ended well, by uid, with the name of their Job.
    pub succeeded: BTreeMap<String, String>,
}

/// One request; `None` when the server is away or says no. What was there already, or is gone already, counts as done.
pub fn ask(server: &Server, method: Method, path: String, content_type: &'static str, body: String) -> Option<Value> {
    let is_delete = method == Method::DELETE;
    let call = Call { method, path, content_type, body: Bytes::from(body) };
    let reply = server.drive(server.door.call(call))?.ok()?;
    match reply.status.as_u16() {
        404 | 409 if is_delete => Some(Value::Null),
        400.. => None,
        _ => serde_json::from_slice(&reply.body).ok(),
    }
}

/// One request in JSON.
pub fn call(server: &Server, method: Method, path: String, body: Option<Value>) -> Option<Value> {
    let content_type = if method == Method::PATCH { client::typed::MERGE_PATCH } else { client::typed::JSON };
    ask(server, method, path, content_type, body.map(|body| body.to_string()).unwrap_or_default())
}

/// All objects of a kind; `None` when the server is away.
pub fn list(server: &Server, resource: &client::Resource) -> Option<Vec<Value>> {
    let list = call(server, Method::GET, resource.all().path(), None)?;
    list["items"].as_array().cloned()
}

impl Nodes {
    /// So many nodes, which register when they report first.
    pub fn start(count: usize) -> Nodes {
        let nodes = (0..count).map(|index| FakeNode::new(&format!("node-{index}"), index as u8));
        Nodes { nodes: nodes.collect(), ..Nodes::default() }
    }

    /// What runs where: uid to node, namespace, name.
    pub fn running(&self) -> BTreeMap<String, (String, String, String)> {
        let mut running = BTreeMap::new();
        for node in &self.nodes {
            for (uid, namespace, name) in node.running() {
                running.insert(uid.to_owned(), (node.name.clone(), namespace.to_owned(), name.to_owned()));
            }
        }
        running
    }

    /// The names of the nodes there are.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| &*node.name)
    }

    /// Some node falls silent, restarts its kubelet, leaves, or a new one of an old name comes.
    pub fn trouble(&mut self, server: &Server, rng: &mut Rng) {
        let at = rng.below(self.nodes.len() as u64) as usize;
        match rng.below(10) {
            // The switch they all hang on.
            8 => self.nodes.iter_mut().for_each(|node| node.silent = 20 + rng.below(60) as u32),
            9 => self.nodes[at].flaps = 4 + rng.below(12) as u32,
            0..3 => self.nodes[at].silent = 5 + rng.below(80) as u32,
            3..6 => self.nodes[at].restart(),
            6 if self.nodes.len() > 1 => {
                // Somebody takes it away for good, and tells the server first: whoever is silent may come back.
                let path = Node::RESOURCE.path("", &self.nodes[at].name, "");
                if call(server, Method::DELETE, path, None).is_some() {
                    self.nodes.remove(at);
                }
            }
            _ => {
                let free = (0..6).find(|index| self.names().all(|name| name != format!("node-{index}")));
                if let Some(index) = free {
                    self.nodes.push(FakeNode::new(&format!("node-{index}"), index));
                }
            }
        }
    }

    /// Every node is heard again.
    pub fn heal(&mut self) {
        self.nodes.iter_mut().for_each(|node| (node.silent, node.flaps) = (0, 0));
    }

    /// The node of this number is not heard for so many rounds.
    pub fn silence(&mut self, number: usize, rounds: u32) {
        self.nodes[number].silent = rounds;
    }

    /// Every node that can be heard says that it is well; one that the API does not know registers.
    pub fn report(&mut self, server: &Server, clock: &ManualClock) {
        let now = clock.now().rfc3339_micros();
        let Some(known) = list(server, Node::RESOURCE) else { return };
        for node in self.nodes.iter().filter(|node| node.silent == 0) {
            let name = &node.name;
            let object = known.iter().find(|each| each["metadata"]["name"] == **name);
            let is_well = object.is_some_and(|node| {
                let conditions = node["status"]["conditions"].as_array();
                conditions.into_iter().flatten().any(|each| each["type"] == "Ready" && each["status"] == "True")
            });
            if object.is_none() {
                let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", name.len() % 2)});
                let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
                call(server, Method::POST, Node::RESOURCE.all().path(), Some(node));
            }
            if !is_well {
                call(server, Method::PATCH, Node::RESOURCE.path("", name, "status"), Some(well(&now)));
            }
            renew(server, name, &now);
        }
    }

    /// Lets every node do some of what it has to. Returns how much was done.
    pub fn step(&mut self, server: &Server, clock: &ManualClock, rng: &mut Rng, calm: bool) -> usize {
        let pods = list(server, Pod::RESOURCE);
        let mut all = 0;
        for node in &mut self.nodes {
            node.pass_round();
            if let Some(pods) = &pods
                && node.silent == 0
                && (calm || rng.chance(2, 3))
            {
                node.hear(pods);
            }
            let (done, succeeded) = node.step(server, clock, rng, calm);
            self.succeeded.extend(succeeded);
            all += done;
        }
        all
    }
}

fn well(now: &str) -> Value {
    let amounts = json!({"cpu": format!("{NODE_MILLI_CPU}m"), "memory": "8Gi", "pods": NODE_PODS.to_string()});
    json!({"status": {"allocatable": amounts, "capacity": amounts, "conditions": [
        {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "well", "lastHeartbeatTime": now, "lastTransitionTime": now}]}})
}

fn renew(server: &Server, name: &str, now: &str) {
    let path = Lease::RESOURCE.path(LEASES, name, "");
    let patch = json!({"spec": {"renewTime": now}});
    if call(server, Method::PATCH, path, Some(patch)).is_none() {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": LEASES},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now}});
        call(server, Method::POST, Lease::RESOURCE.within(LEASES).path(), Some(lease));
    }
}
