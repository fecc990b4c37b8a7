//! What must hold when everything has been quiet for a while.
//!
//! Start at [`settled`].

use std::collections::BTreeMap;

use client::Kind;
use http::Method;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::nodes::{Nodes, call};
use crate::server::Server;

/// What is wrong with a cluster that should have settled.
pub fn settled(server: &Server, nodes: &Nodes) -> Vec<String> {
    let list = |path: String| -> Vec<Value> {
        let list = call(server, Method::GET, path, None).unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    };
    let mut broken = Vec::new();
    let kinds = [
        Deployment::RESOURCE,
        ReplicaSet::RESOURCE,
        StatefulSet::RESOURCE,
        DaemonSet::RESOURCE,
        Job::RESOURCE,
        Pod::RESOURCE,
        ControllerRevision::RESOURCE,
    ];
    let all: Vec<Value> = kinds.iter().flat_map(|kind| list(kind.all().path())).collect();
    broken.extend(orphans(&all));
    for deployment in list(Deployment::RESOURCE.all().path()) {
        broken.extend(replicas(&deployment, &["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"]));
    }
    for set in list(StatefulSet::RESOURCE.all().path()) {
        broken.extend(replicas(&set, &["replicas", "readyReplicas", "updatedReplicas"]));
    }
    for set in list(DaemonSet::RESOURCE.all().path()) {
        let wanted = number(&set, "/status/desiredNumberScheduled");
        for field in ["currentNumberScheduled", "numberReady", "updatedNumberScheduled"] {
            let is = number(&set, &format!("/status/{field}"));
            if is != wanted {
                broken.push(format!("{} has {field} {is}, not {wanted}", name(&set)));
            }
        }
    }
    for job in list(Job::RESOURCE.all().path()) {
        broken.extend(completed(&job, nodes));
    }
    broken
}

/// No orphan outlives its owner, and nothing hangs half deleted.
fn orphans(all: &[Value]) -> Vec<String> {
    let uids: BTreeMap<&str, &Value> =
        all.iter().filter_map(|each| Some((each["metadata"]["uid"].as_str()?, each))).collect();
    let mut broken = Vec::new();
    for each in all {
        for owner in each["metadata"]["ownerReferences"].as_array().into_iter().flatten() {
            if !uids.contains_key(owner["uid"].as_str().unwrap_or_default()) {
                broken.push(format!("{} outlives its owner {} {}", name(each), owner["kind"], owner["name"]));
            }
        }
        if !each["metadata"]["deletionTimestamp"].is_null() {
            broken.push(format!(
                "{} is still being deleted, finalizers {}",
                name(each),
                each["metadata"]["finalizers"]
            ));
        }
    }
    broken
}

fn replicas(set: &Value, fields: &[&str]) -> Vec<String> {
    let wanted = number(set, "/spec/replicas");
    let differs = fields.iter().map(|field| (field, number(set, &format!("/status/{field}"))));
    let differs = differs.filter(|(_, is)| *is != wanted);
    differs.map(|(field, is)| format!("{} has {field} {is}, not {wanted}", name(set))).collect()
}

/// A Job counts exactly what succeeded, and ends.
fn completed(job: &Value, nodes: &Nodes) -> Vec<String> {
    let mut broken = Vec::new();
    let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ended = |type_: &str| conditions.iter().any(|each| each["type"] == type_ && each["status"] == "True");
    if !ended("Complete") && !ended("Failed") {
        broken.push(format!("{} has not ended: {}", name(job), job["status"]));
    }
    let (counted, wanted) = (number(job, "/status/succeeded"), number(job, "/spec/completions"));
    if ended("Complete") && counted != wanted {
        broken.push(format!("{} is complete with {counted} of {wanted}", name(job)));
    }
    let key = name(job).split_once(' ').map(|(_, key)| key.to_owned()).unwrap_or_default();
    let really = nodes.succeeded.values().filter(|each| **each == key).count() as i64;
    if counted > really {
        broken.push(format!("{} counts {counted} successes, there were {really}", name(job)));
    }
    broken
}

fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

fn name(object: &Value) -> String {
    let word = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{} {}/{}", object["kind"].as_str().unwrap_or("object"), word("namespace"), word("name"))
}
