//! Fake nodes: they take pods by chance, run them, and end them by chance.
//!
//! Start at [`Nodes::step`].
//!
//! Invariants:
//! * a node starts only pods that the server says are bound to it, and stops a pod before the server forgets it;
//! * what really runs is kept here, apart from what the API says, for the checks to compare.

use std::collections::BTreeMap;

use base::{Clock, ManualClock, Rng};
use bytes::Bytes;
use client::{Call, Door, Kind, Reply};
use http::Method;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::server::Server;

/// What runs where.
#[derive(Default)]
pub struct Nodes {
    names: Vec<String>,
    /// By pod uid: node, namespace and name.
    pub running: BTreeMap<String, (String, String, String)>,
    /// Pods that ended well, by uid, with the name of their Job.
    pub succeeded: BTreeMap<String, String>,
}

/// One request; `None` when the server is away or says no.
pub fn call(server: &Server, method: Method, path: String, body: Option<Value>) -> Option<Value> {
    let content_type = if method == Method::PATCH { client::typed::MERGE_PATCH } else { client::typed::JSON };
    let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let reply: Reply = server.drive(server.door.call(Call { method, path, content_type, body })).ok()?;
    if reply.status.as_u16() >= 400 {
        return None;
    }
    serde_json::from_slice(&reply.body).ok()
}

impl Nodes {
    /// Registers so many nodes.
    pub fn start(server: &Server, count: usize) -> Nodes {
        let names: Vec<String> = (0..count).map(|index| format!("node-{index}")).collect();
        for name in &names {
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
            call(server, Method::POST, Node::RESOURCE.all().path(), Some(node)).expect("a node can register");
        }
        let mut nodes = Nodes { names, ..Nodes::default() };
        nodes.report(server, &ManualClock::at(base::Timestamp::from_seconds(1)));
        nodes
    }

    /// Every node says that it is well.
    pub fn report(&mut self, server: &Server, clock: &ManualClock) {
        let now = clock.now().rfc3339();
        for name in &self.names {
            let status = json!({"status": {
                "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}, "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "well",
                    "lastHeartbeatTime": now, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            call(server, Method::PATCH, Node::RESOURCE.path("", name, "status"), Some(status));
        }
    }

    /// Binds, starts, ends and removes some pods.
    pub fn step(&mut self, server: &Server, clock: &ManualClock, rng: &mut Rng) {
        let Some(list) = call(server, Method::GET, Pod::RESOURCE.all().path(), None) else { return };
        let mut seen = Vec::new();
        for pod in list["items"].as_array().into_iter().flatten() {
            seen.push(text(pod, "/metadata/uid"));
            if rng.chance(1, 2) {
                self.look(server, clock, rng, pod);
            }
        }
        // A pod that was removed by force stops when its node notices.
        self.running.retain(|uid, _| seen.contains(uid));
    }

    fn look(&mut self, server: &Server, clock: &ManualClock, rng: &mut Rng, pod: &Value) {
        let (namespace, name, uid) =
            (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"), text(pod, "/metadata/uid"));
        let (node, phase) = (text(pod, "/spec/nodeName"), text(pod, "/status/phase"));
        let leaving = !pod["metadata"]["deletionTimestamp"].is_null();
        let status = |status: Value| {
            let path = Pod::RESOURCE.path(&namespace, &name, "status");
            let patch = json!({"metadata": {"uid": uid}, "status": status});
            call(server, Method::PATCH, path, Some(patch)).is_some()
        };
        let now = clock.now().rfc3339();
        let ready = |is: bool| json!([{"type": "Ready", "status": if is { "True" } else { "False" }, "lastTransitionTime": now}]);
        if node.is_empty() {
            if !leaving {
                self.bind(server, rng, pod, &namespace, &name);
            }
        } else if leaving {
            self.running.remove(&uid);
            let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
            call(server, Method::DELETE, Pod::RESOURCE.path(&namespace, &name, ""), Some(options));
        } else if phase == "Pending" || phase.is_empty() {
            self.running.insert(uid.clone(), (node, namespace.clone(), name.clone()));
            status(
                json!({"phase": "Running", "podIP": format!("10.42.{}.{}", rng.below(4), rng.below(250)), "conditions": ready(true)}),
            );
        } else if phase == "Running" && text(pod, "/spec/restartPolicy") != "Always" && rng.chance(1, 3) {
            let ends_well = !rng.chance(1, 6);
            let phase = if ends_well { "Succeeded" } else { "Failed" };
            self.running.remove(&uid);
            if status(json!({"phase": phase, "conditions": ready(false)})) && ends_well {
                let job = format!("{namespace}/{}", text(pod, "/metadata/labels/job-name"));
                self.succeeded.insert(uid.clone(), job);
            }
        }
    }

    fn bind(&self, server: &Server, rng: &mut Rng, pod: &Value, namespace: &str, name: &str) {
        let wanted = pod.pointer("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0");
        let any = &self.names[rng.below(self.names.len() as u64) as usize];
        let node = wanted.and_then(Value::as_str).unwrap_or(any);
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        call(server, Method::POST, Pod::RESOURCE.path(namespace, name, "binding"), Some(binding));
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}
