//! Prints how many pods a second find their node among 1,000: `cargo run --release -p scheduler --example throughput`.
//!
//! Start at [`main`]. Decisions only: what is written about them is measured by `tests/bench`.

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Node, Pod};
use scheduler::{Decision, Snapshot, decide};
use serde_json::{Value, json};

const NODES: usize = 1000;
const PODS: usize = 10_000;

fn main() {
    measure("pods of ten Deployments", json!({}));
    let term = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "0"}}});
    measure("the same with a hard spread over zones", json!({"topologySpreadConstraints": [term]}));
}

fn measure(what: &str, spec: Value) {
    let nodes: Vec<Arc<Node>> = (0..NODES).map(node).collect();
    let mut snapshot = Snapshot::new(&nodes, &[], &[]);
    let pods = (0..PODS).map(|index| pod(index, &spec)).collect();
    let start = Instant::now();
    let decisions = decide(&mut snapshot, pods, &[]);
    let took = start.elapsed();
    let bound = decisions.iter().filter(|decision| matches!(decision, Decision::Bind { .. })).count();
    println!("{what}: {bound} of {PODS} placed on {NODES} nodes, {:.0} pods/s", bound as f64 / took.as_secs_f64());
}

fn node(index: usize) -> Arc<Node> {
    let name = format!("node-{index}");
    let object = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": (index % 10).to_string()}},
        "status": {"allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110"}},
    });
    Arc::new(serde_json::from_value(object).expect("a node"))
}

fn pod(index: usize, spec: &Value) -> Arc<Pod> {
    let app = (index % 10).to_string();
    let resources = json!({"requests": {"cpu": "100m", "memory": "128Mi"}});
    let mut object = json!({
        "metadata": {"name": format!("pod-{index}"), "namespace": "default", "uid": format!("uid-{index}"), "labels": {"app": app},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": app, "controller": true}]},
        "spec": {"containers": [{"name": "c", "image": "busybox", "resources": resources}]},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    Arc::new(serde_json::from_value(object).expect("a pod"))
}
