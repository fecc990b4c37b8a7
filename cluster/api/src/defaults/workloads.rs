//! Defaults of workloads that depend on other fields.

use super::table::set;
use crate::dig;
use serde_json::{Value, json};

/// The labels of the template select, and label the controller itself.
pub(super) fn replication_controller(object: &mut Value) {
    let labels = dig::get(object, "spec.template.metadata.labels").clone();
    for path in ["spec.selector", "metadata.labels"] {
        if labels.is_object() && dig::map(object, path).is_empty() {
            dig::put(object, path, labels.clone());
        }
    }
}

/// A rolling update replaces a quarter at a time.
pub(super) fn deployment(object: &mut Value) {
    if dig::text(object, "spec.strategy.type") == "RollingUpdate" {
        set(object, "spec.strategy.rollingUpdate.maxUnavailable", &json!("25%"));
        set(object, "spec.strategy.rollingUpdate.maxSurge", &json!("25%"));
    }
}

/// A rolling update replaces one node's pod at a time.
pub(super) fn daemon_set(object: &mut Value) {
    if dig::text(object, "spec.updateStrategy.type") == "RollingUpdate" {
        set(object, "spec.updateStrategy.rollingUpdate.maxUnavailable", &json!(1));
        set(object, "spec.updateStrategy.rollingUpdate.maxSurge", &json!(0));
    }
}

/// A rolling update starts at ordinal 0; claims in the template carry their kind.
pub(super) fn stateful_set(object: &mut Value) {
    if dig::text(object, "spec.updateStrategy.type") == "RollingUpdate" {
        set(object, "spec.updateStrategy.rollingUpdate.partition", &json!(0));
        set(object, "spec.updateStrategy.rollingUpdate.maxUnavailable", &json!(1));
    }
    for claim in dig::items_mut(object, "spec.volumeClaimTemplates") {
        set(claim, "apiVersion", &json!("v1"));
        set(claim, "kind", &json!("PersistentVolumeClaim"));
    }
}

/// One completion by one pod, unless a work queue is meant by giving the parallelism alone.
pub(super) fn job(object: &mut Value) {
    if !dig::has(object, "spec.completions") && !dig::has(object, "spec.parallelism") {
        dig::put(object, "spec.completions", json!(1));
    }
    set(object, "spec.parallelism", &json!(1));
    let per_index = dig::has(object, "spec.backoffLimitPerIndex");
    set(object, "spec.backoffLimit", &json!(if per_index { i32::MAX } else { 6 }));
    let replacement = if dig::has(object, "spec.podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    set(object, "spec.podReplacementPolicy", &json!(replacement));
    let labels = dig::get(object, "spec.template.metadata.labels").clone();
    if labels.is_object() && dig::map(object, "metadata.labels").is_empty() {
        dig::put(object, "metadata.labels", labels);
    }
}
