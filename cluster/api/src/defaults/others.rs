//! Defaults of the remaining kinds that depend on other fields.

use super::table::set;
use crate::dig;
use serde_json::{Value, json};

/// How long a client stays with its endpoint.
const CLIENT_AFFINITY_SECONDS: i64 = 10_800;

pub(super) fn service(object: &mut Value) {
    if !dig::has(object, "spec") {
        return;
    }
    set(object, "spec.sessionAffinity", &json!("None"));
    if dig::text(object, "spec.sessionAffinity") == "None" {
        dig::remove(object, "spec.sessionAffinityConfig");
    } else {
        set(object, "spec.sessionAffinityConfig.clientIP.timeoutSeconds", &json!(CLIENT_AFFINITY_SECONDS));
    }
    set(object, "spec.type", &json!("ClusterIP"));
    for port in dig::items_mut(object, "spec.ports") {
        set(port, "protocol", &json!("TCP"));
        let target = dig::get(port, "targetPort");
        if dig::is_zero(target) {
            let number = dig::get(port, "port").clone();
            dig::put(port, "targetPort", number);
        }
    }
    let (external, internal, balanced) = match dig::text(object, "spec.type") {
        "LoadBalancer" => (true, true, true),
        "NodePort" => (true, true, false),
        "ClusterIP" => (!dig::list(object, "spec.externalIPs").is_empty(), true, false),
        _ => (false, false, false),
    };
    if external {
        set(object, "spec.externalTrafficPolicy", &json!("Cluster"));
    }
    if internal {
        set(object, "spec.internalTrafficPolicy", &json!("Cluster"));
    }
    if balanced {
        set(object, "spec.allocateLoadBalancerNodePorts", &json!(true));
        for point in dig::items_mut(object, "status.loadBalancer.ingress") {
            if !dig::text(point, "ip").is_empty() {
                set(point, "ipMode", &json!("VIP"));
            }
        }
    }
}

/// Every namespace can be selected by its name.
pub(super) fn namespace(object: &mut Value) {
    let name = crate::meta::name(object).to_owned();
    if !name.is_empty() {
        dig::map_mut(object, "metadata.labels").insert("kubernetes.io/metadata.name".to_owned(), json!(name));
    }
}

pub(super) fn node_status(status: &mut Value) {
    if !dig::has(status, "allocatable") {
        let capacity = dig::get(status, "capacity").clone();
        dig::put(status, "allocatable", capacity);
    }
}

/// Limits follow the maximum, requests the limits, then the minimum.
pub(super) fn limit_range_item(item: &mut Value) {
    if dig::text(item, "type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let source = dig::map(item, from).clone();
        if !source.is_empty() {
            let target = dig::map_mut(item, to);
            for (resource, amount) in source {
                target.entry(resource).or_insert(amount);
            }
        }
    }
}

/// The first version could only aim at CPU, and aims at 80 % where it says nothing.
pub(super) fn autoscaler_v1(object: &mut Value) {
    let has_metrics = crate::meta::annotation(object, "autoscaling.alpha.kubernetes.io/metrics").is_some();
    if !has_metrics {
        set(object, "spec.targetCPUUtilizationPercentage", &json!(80));
    }
}

pub(super) fn autoscaler_v2(object: &mut Value) {
    if dig::list(object, "spec.metrics").is_empty() {
        let cpu = json!([{"type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        dig::put(object, "spec.metrics", cpu);
    }
    if dig::has(object, "spec.behavior") {
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        set(object, "spec.behavior.scaleUp.stabilizationWindowSeconds", &json!(0));
        set(object, "spec.behavior.scaleUp.selectPolicy", &json!("Max"));
        set(object, "spec.behavior.scaleUp.policies", &json!([pods, percent]));
        set(object, "spec.behavior.scaleDown.selectPolicy", &json!("Max"));
        set(object, "spec.behavior.scaleDown.policies", &json!([percent]));
    }
}

/// A policy always restricts what comes in; what goes out only if it speaks of it.
pub(super) fn network_policy(object: &mut Value) {
    if !dig::has(object, "spec") || !dig::list(object, "spec.policyTypes").is_empty() {
        return;
    }
    let mut types = vec!["Ingress"];
    if !dig::list(object, "spec.egress").is_empty() {
        types.push("Egress");
    }
    dig::put(object, "spec.policyTypes", json!(types));
}

pub(super) fn subject(subject: &mut Value) {
    if matches!(dig::text(subject, "kind"), "User" | "Group") {
        set(subject, "apiGroup", &json!("rbac.authorization.k8s.io"));
    }
}

pub(super) fn mutating_webhook(webhook: &mut Value) {
    set(webhook, "reinvocationPolicy", &json!("Never"));
}

pub(super) fn device_count(request: &mut Value) {
    if dig::text(request, "allocationMode") == "ExactCount" {
        set(request, "count", &json!(1));
    }
}

/// The names that follow from the kind.
pub(super) fn definition(spec: &mut Value) {
    let kind = dig::text(spec, "names.kind").to_owned();
    if !kind.is_empty() {
        set(spec, "names.singular", &json!(kind.to_lowercase()));
        set(spec, "names.listKind", &json!(format!("{kind}List")));
    }
}
