//! Defaults of pods that depend on other fields.

use super::table::set;
use crate::dig;
use crate::quantity::Quantity;
use serde_json::{Map, Value, json};

/// Requests follow limits, in a Pod only: a template leaves them open for its pods.
pub(super) fn pod(pod: &mut Value) {
    if !dig::has(pod, "spec") {
        return;
    }
    set(pod, "spec.enableServiceLinks", &json!(true));
    for list in ["spec.containers", "spec.initContainers"] {
        for container in dig::items_mut(pod, list) {
            let limits = dig::map(container, "resources.limits").clone();
            requests_from(container, &limits);
        }
    }
    pod_requests(pod);
}

fn requests_from(holder: &mut Value, limits: &Map<String, Value>) {
    if limits.is_empty() {
        return;
    }
    let requests = dig::map_mut(holder, "resources.requests");
    for (resource, limit) in limits {
        requests.entry(resource).or_insert_with(|| limit.clone());
    }
}

/// A pod's own requests: what its containers ask together, else its own limit.
fn pod_requests(pod: &mut Value) {
    if !dig::has(pod, "spec.resources") {
        return;
    }
    let mut wanted = dig::map(pod, "spec.resources.limits").clone();
    for (resource, amount) in &mut wanted {
        let asked = dig::list(pod, "spec.containers")
            .iter()
            .filter_map(|container| dig::map(container, "resources.requests").get(resource))
            .filter_map(|asked| Quantity::from_json(asked).ok())
            .reduce(Quantity::plus);
        if let Some(asked) = asked {
            *amount = json!(asked.to_string());
        }
    }
    if let Some(spec) = dig::get_mut(pod, "spec") {
        requests_from(spec, &wanted);
    }
}

/// On the host's network every container port is a host port.
pub(super) fn host_ports(spec: &mut Value) {
    if !dig::flag(spec, "hostNetwork") {
        return;
    }
    for list in ["containers", "initContainers"] {
        for container in dig::items_mut(spec, list) {
            for port in dig::items_mut(container, "ports") {
                if dig::int(port, "hostPort").unwrap_or(0) == 0 {
                    let number = dig::get(port, "containerPort").clone();
                    dig::put(port, "hostPort", number);
                }
            }
        }
    }
}

/// An image whose tag may move is pulled every time.
pub(super) fn pull_policy(container: &mut Value) {
    if !dig::text(container, "imagePullPolicy").is_empty() {
        return;
    }
    let policy = if is_latest(dig::text(container, "image")) { "Always" } else { "IfNotPresent" };
    dig::put(container, "imagePullPolicy", json!(policy));
}

/// Whether an image is named without tag and digest, or with the tag `latest`.
fn is_latest(image: &str) -> bool {
    let (name, has_digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or("");
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => !has_digest && !name.is_empty(),
    }
}

/// A volume that says nothing is an empty directory.
pub(super) fn volume(volume: &mut Value) {
    let has_source =
        volume.as_object().is_some_and(|fields| fields.iter().any(|(key, value)| key != "name" && !value.is_null()));
    if !has_source {
        dig::put(volume, "emptyDir", json!({}));
    }
}
