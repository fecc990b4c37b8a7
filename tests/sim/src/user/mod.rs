//! Somebody who uses the cluster: makes, changes, scales, evicts and deletes by chance.
//!
//! Start at [`step`]; [`calm_down`] lets go of everything that holds the cluster from settling.
//!
//! Not here: what the objects look like (`objects.rs`), the writes that must not be lost (`checks/ledger.rs`).

mod objects;

use base::Rng;
use client::{Kind, Resource};
use http::Method;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use crate::nodes::{Nodes, call, list};
use crate::server::Server;

/// Where it all happens; the second comes and goes.
const NAMESPACES: [&str; 2] = ["default", "other"];
/// Workloads of one kind and namespace that may be there at once.
const NAMES: u64 = 2;
const KINDS: [&Resource; 9] = [
    Deployment::RESOURCE,
    StatefulSet::RESOURCE,
    DaemonSet::RESOURCE,
    Job::RESOURCE,
    CronJob::RESOURCE,
    ReplicaSet::RESOURCE,
    ReplicationController::RESOURCE,
    Service::RESOURCE,
    PodDisruptionBudget::RESOURCE,
];

/// Does one thing.
pub fn step(server: &Server, nodes: &Nodes, rng: &mut Rng) {
    match rng.below(20) {
        0 => evict(server, rng),
        1 => disturb_pod(server, rng),
        2 => cordon(server, nodes, rng),
        3 => namespace(server, rng),
        4 => holder(server, rng),
        _ => workload(server, rng),
    }
}

fn workload(server: &Server, rng: &mut Rng) {
    let kind = KINDS[rng.below(KINDS.len() as u64) as usize];
    let namespace = NAMESPACES[usize::from(rng.chance(1, 5))];
    let name = format!("{}-{}", kind.kind.to_lowercase(), rng.below(NAMES));
    let path = kind.path(namespace, &name, "");
    if call(server, Method::GET, path.clone(), None).is_none() {
        call(server, Method::POST, kind.within(namespace).path(), Some(objects::new(kind, namespace, &name, rng)));
    } else if rng.chance(1, 6) {
        let policy = ["Background", "Foreground", "Orphan"][rng.below(3) as usize];
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
        call(server, Method::DELETE, path, Some(options));
    } else {
        let patch = objects::change(kind, rng);
        if !patch.is_null() {
            call(server, Method::PATCH, path, Some(patch));
        }
    }
}

fn any<'a>(all: &'a [Value], rng: &mut Rng) -> Option<&'a Value> {
    all.get(rng.below(all.len().max(1) as u64) as usize)
}

fn place(object: &Value) -> (&str, &str) {
    let word = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    (word("namespace"), word("name"))
}

/// Evicts a pod, as a drain does; a budget may refuse.
fn evict(server: &Server, rng: &mut Rng) {
    let pods = list(server, Pod::RESOURCE).unwrap_or_default();
    let Some(pod) = any(&pods, rng) else { return };
    let (namespace, name) = place(pod);
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}});
    call(server, Method::POST, Pod::RESOURCE.path(namespace, name, "eviction"), Some(eviction));
}

/// Deletes a pod, or takes its labels away so that its owner lets it go, or gives them back so that it is taken again.
fn disturb_pod(server: &Server, rng: &mut Rng) {
    let pods = list(server, Pod::RESOURCE).unwrap_or_default();
    let Some(pod) = any(&pods, rng) else { return };
    let (namespace, name) = place(pod);
    let path = Pod::RESOURCE.path(namespace, name, "");
    let app = pod["metadata"]["labels"]["app"].as_str().unwrap_or_default();
    let is_free = pod["metadata"]["ownerReferences"].is_null();
    if rng.chance(1, 2) {
        call(server, Method::DELETE, path, None);
    } else if is_free && let Some(app) = app.strip_prefix("lost-") {
        call(server, Method::PATCH, path, Some(json!({"metadata": {"labels": {"app": app}}})));
    } else if !app.is_empty() && !app.starts_with("lost-") && !app.starts_with("apart") {
        call(server, Method::PATCH, path, Some(json!({"metadata": {"labels": {"app": format!("lost-{app}")}}})));
    }
}

fn cordon(server: &Server, nodes: &Nodes, rng: &mut Rng) {
    let names: Vec<&str> = nodes.names().collect();
    let name = names[rng.below(names.len() as u64) as usize];
    let patch = json!({"spec": {"unschedulable": rng.chance(1, 2)}});
    call(server, Method::PATCH, Node::RESOURCE.path("", name, ""), Some(patch));
}

fn namespace(server: &Server, rng: &mut Rng) {
    let path = Namespace::RESOURCE.path("", NAMESPACES[1], "");
    if call(server, Method::GET, path.clone(), None).is_none() {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACES[1]}});
        call(server, Method::POST, Namespace::RESOURCE.all().path(), Some(object));
    } else if rng.chance(1, 3) {
        call(server, Method::DELETE, path, None);
    }
}

/// An object that a finalizer holds, owned by nobody; when it is deleted somebody lets it go.
fn holder(server: &Server, rng: &mut Rng) {
    let path = ConfigMap::RESOURCE.path(NAMESPACES[0], "held", "");
    match call(server, Method::GET, path.clone(), None) {
        None => {
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "held", "namespace": NAMESPACES[0], "finalizers": ["example.com/hold"]}});
            call(server, Method::POST, ConfigMap::RESOURCE.within(NAMESPACES[0]).path(), Some(object));
        }
        Some(object) if object["metadata"]["deletionTimestamp"].is_null() => {
            if rng.chance(1, 2) {
                call(server, Method::DELETE, path, None);
            }
        }
        Some(_) => drop(call(server, Method::PATCH, path, Some(json!({"metadata": {"finalizers": []}})))),
    }
}

/// Resumes what is paused, ends what goes on for ever, uncordons. Whether everything was done.
pub fn calm_down(server: &Server) -> bool {
    let mut done = true;
    let mut set = |resource: &Resource, pointer: &str, wanted: Value, patch: Value| {
        let Some(all) = list(server, resource) else {
            done = false;
            return;
        };
        for each in all.iter().filter(|each| each.pointer(pointer).is_some_and(|is| *is != wanted)) {
            let (namespace, name) = place(each);
            done &= call(server, Method::PATCH, resource.path(namespace, name, ""), Some(patch.clone())).is_some();
        }
    };
    set(Deployment::RESOURCE, "/spec/paused", json!(false), json!({"spec": {"paused": false}}));
    set(Job::RESOURCE, "/spec/suspend", json!(false), json!({"spec": {"suspend": false}}));
    set(CronJob::RESOURCE, "/spec/suspend", json!(true), json!({"spec": {"suspend": true}}));
    set(Node::RESOURCE, "/spec/unschedulable", json!(false), json!({"spec": {"unschedulable": false}}));
    set(
        StatefulSet::RESOURCE,
        "/spec/updateStrategy/rollingUpdate/partition",
        json!(0),
        json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}),
    );
    set(ConfigMap::RESOURCE, "/metadata/finalizers", json!([]), json!({"metadata": {"finalizers": []}}));
    done && fetch_lost(server)
}

/// Deletes pods that lost their labels: one that bears the name of a StatefulSet's blocks the set for ever, upstream too.
fn fetch_lost(server: &Server) -> bool {
    let Some(pods) = list(server, Pod::RESOURCE) else { return false };
    let is_lost = |pod: &&Value| {
        let app = pod["metadata"]["labels"]["app"].as_str().unwrap_or_default();
        app.starts_with("lost-") && pod["metadata"]["deletionTimestamp"].is_null()
    };
    pods.iter().filter(is_lost).all(|pod| {
        let (namespace, name) = place(pod);
        call(server, Method::DELETE, Pod::RESOURCE.path(namespace, name, ""), None).is_some()
    })
}
