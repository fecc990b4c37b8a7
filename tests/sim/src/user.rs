//! Somebody who uses the cluster: makes, changes, scales and deletes workloads by chance.
//!
//! Start at [`step`].

use base::Rng;
use client::{Kind, Resource};
use http::Method;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use crate::nodes::call;
use crate::server::Server;

/// Where it all happens.
pub const NAMESPACE: &str = "default";
/// Workloads of one kind that may be there at once.
const NAMES: u64 = 2;

/// Does one thing.
pub fn step(server: &Server, rng: &mut Rng) {
    let kinds: [&Resource; 4] = [Deployment::RESOURCE, StatefulSet::RESOURCE, DaemonSet::RESOURCE, Job::RESOURCE];
    let kind = kinds[rng.below(4) as usize];
    let name = format!("{}-{}", kind.kind.to_lowercase(), rng.below(NAMES));
    let path = kind.path(NAMESPACE, &name, "");
    let exists = call(server, Method::GET, path.clone(), None).is_some();
    if !exists {
        call(server, Method::POST, kind.within(NAMESPACE).path(), Some(object(kind, &name, rng)));
    } else if rng.chance(1, 6) {
        let policy = ["Background", "Foreground"][rng.below(2) as usize];
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
        call(server, Method::DELETE, path, Some(options));
    } else if kind.plural != "jobs" {
        let patch = if rng.chance(1, 2) && kind.plural != "daemonsets" {
            json!({"spec": {"replicas": rng.below(5)}})
        } else {
            json!({"spec": {"template": {"metadata": {"annotations": {"version": rng.below(3).to_string()}}}}})
        };
        call(server, Method::PATCH, path, Some(patch));
    }
}

fn object(kind: &Resource, name: &str, rng: &mut Rng) -> Value {
    let labels = json!({"app": name});
    let container = json!([{"name": "main", "image": "busybox"}]);
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": container}});
    let meta = json!({"name": name, "namespace": NAMESPACE});
    let spec = match kind.plural.as_ref() {
        "jobs" => {
            let mut spec = json!({"completions": 1 + rng.below(4), "parallelism": 1 + rng.below(3), "backoffLimit": 20,
                "template": {"spec": {"containers": container, "restartPolicy": "Never"}}});
            if rng.chance(1, 3) {
                spec["completionMode"] = "Indexed".into();
            }
            spec
        }
        "daemonsets" => json!({"selector": {"matchLabels": labels}, "template": template}),
        "statefulsets" => {
            json!({"replicas": rng.below(4), "serviceName": name, "selector": {"matchLabels": labels}, "template": template})
        }
        _ => {
            let strategy = if rng.chance(1, 3) { "Recreate" } else { "RollingUpdate" };
            json!({"replicas": rng.below(5), "selector": {"matchLabels": labels}, "template": template, "strategy": {"type": strategy}})
        }
    };
    json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": meta, "spec": spec})
}
