//! What the user writes: new objects of each kind, and changes to them.
//!
//! Start at [`new`] and [`change`].

use base::Rng;
use client::Resource;
use serde_json::{Value, json};

/// A new object.
pub fn new(kind: &Resource, namespace: &str, name: &str, rng: &mut Rng) -> Value {
    let spec = match kind.plural.as_ref() {
        "deployments" => deployment(name, rng),
        "statefulsets" => stateful_set(name, rng),
        "daemonsets" => daemon_set(name, rng),
        "jobs" => job(rng),
        "cronjobs" => cron_job(rng),
        "replicasets" => {
            json!({"replicas": rng.below(4), "selector": {"matchLabels": labels(name)}, "template": template(name, rng)})
        }
        "replicationcontrollers" => {
            json!({"replicas": rng.below(4), "selector": labels(name), "template": template(name, rng)})
        }
        "services" => json!({"selector": labels(target(rng)), "ports": [{"port": 80}]}),
        _ => budget(rng),
    };
    json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

/// A change to an object; null if there is none to make.
pub fn change(kind: &Resource, rng: &mut Rng) -> Value {
    let template = json!({"spec": {"template": {"metadata": {"annotations": {"version": rng.below(3).to_string()}}}}});
    let replicas = json!({"spec": {"replicas": rng.below(5)}});
    match (kind.plural.as_ref(), rng.below(4)) {
        ("deployments", 0) => json!({"spec": {"paused": rng.chance(1, 2)}}),
        ("statefulsets", 0) => {
            json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": rng.below(4)}}}})
        }
        ("deployments" | "statefulsets", 1) | ("replicasets" | "replicationcontrollers", _) => replicas,
        ("deployments" | "statefulsets" | "daemonsets", _) => template,
        ("jobs" | "cronjobs", 0..2) => json!({"spec": {"suspend": rng.chance(1, 2)}}),
        ("jobs", 2) => json!({"spec": {"parallelism": rng.below(3) + 1}}),
        ("services", _) => json!({"spec": {"selector": labels(target(rng))}}),
        _ => Value::Null,
    }
}

fn one_of(words: &[&'static str], rng: &mut Rng) -> &'static str {
    words[rng.below(words.len() as u64) as usize]
}

fn labels(name: &str) -> Value {
    json!({"app": name})
}

/// A workload that a Service or a budget selects.
fn target(rng: &mut Rng) -> &'static str {
    one_of(&["deployment-0", "deployment-1", "statefulset-0", "daemonset-0", "replicaset-1"], rng)
}

fn template(name: &str, rng: &mut Rng) -> Value {
    let cpu = one_of(&["50m", "100m", "300m", "700m"], rng);
    let container = json!({"name": "main", "image": "busybox", "resources": {"requests": {"cpu": cpu}}});
    let grace = rng.below(20);
    json!({"metadata": {"labels": labels(name)}, "spec": {"containers": [container], "terminationGracePeriodSeconds": grace}})
}

/// Every third asks that no two of its pods share a node.
fn apart(mut template: Value, name: &str, rng: &mut Rng) -> Value {
    if rng.chance(1, 3) {
        template["metadata"]["labels"]["apart"] = name.into();
        template["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"apart": name}}, "topologyKey": "kubernetes.io/hostname"}]}});
    } else if rng.chance(1, 3) {
        template["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": one_of(&["DoNotSchedule", "ScheduleAnyway"], rng), "labelSelector": {"matchLabels": {"app": name}}}]);
    }
    template
}

fn deployment(name: &str, rng: &mut Rng) -> Value {
    let template = template(name, rng);
    let strategy = match rng.below(4) {
        0 => json!({"type": "Recreate"}),
        1 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}),
        2 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}}),
        _ => json!({"type": "RollingUpdate"}),
    };
    json!({"replicas": rng.below(5), "selector": {"matchLabels": labels(name)}, "template": apart(template, name, rng), "strategy": strategy,
        "minReadySeconds": rng.below(2) * 3, "revisionHistoryLimit": rng.below(3)})
}

fn stateful_set(name: &str, rng: &mut Rng) -> Value {
    let template = template(name, rng);
    json!({"replicas": rng.below(4), "serviceName": name, "selector": {"matchLabels": labels(name)}, "template": apart(template, name, rng),
        "podManagementPolicy": one_of(&["OrderedReady", "Parallel"], rng), "minReadySeconds": rng.below(2) * 3,
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": rng.below(2)}}})
}

fn daemon_set(name: &str, rng: &mut Rng) -> Value {
    let strategy = match rng.below(3) {
        0 => json!({"type": "OnDelete"}),
        1 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
        _ => json!({"type": "RollingUpdate"}),
    };
    json!({"selector": {"matchLabels": labels(name)}, "template": template(name, rng), "updateStrategy": strategy})
}

fn job(rng: &mut Rng) -> Value {
    let restart = one_of(&["Never", "OnFailure"], rng);
    let containers = json!([{"name": "main", "image": "busybox", "resources": {"requests": {"cpu": "50m"}}}]);
    let mut spec = json!({"completions": 1 + rng.below(4), "parallelism": 1 + rng.below(3), "backoffLimit": 20,
        "template": {"spec": {"containers": containers, "restartPolicy": restart}}});
    if rng.chance(1, 3) {
        spec["completionMode"] = "Indexed".into();
        if restart == "Never" && rng.chance(1, 2) {
            spec["backoffLimitPerIndex"] = rng.below(3).into();
            spec["maxFailedIndexes"] = (1 + rng.below(2)).into();
        }
    }
    if restart == "Never" && rng.chance(1, 3) {
        let action = one_of(&["Ignore", "Count", "FailJob"], rng);
        spec["podFailurePolicy"] =
            json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [1]}}]});
    }
    if rng.chance(1, 3) {
        spec["suspend"] = true.into();
    }
    if rng.chance(1, 4) {
        spec["ttlSecondsAfterFinished"] = rng.below(60).into();
    }
    if rng.chance(1, 4) {
        spec["activeDeadlineSeconds"] = (30 + rng.below(300)).into();
    }
    spec
}

fn cron_job(rng: &mut Rng) -> Value {
    let mut template = job(rng);
    // A Job that is made suspended waits for somebody: that is what the CronJob's own switch is for.
    template["suspend"] = false.into();
    json!({"schedule": one_of(&["* * * * *", "*/2 * * * *", "@hourly"], rng), "jobTemplate": {"spec": template},
        "concurrencyPolicy": one_of(&["Allow", "Forbid", "Replace"], rng), "suspend": false})
}

fn budget(rng: &mut Rng) -> Value {
    let limit = match rng.below(3) {
        0 => json!({"minAvailable": 1}),
        1 => json!({"maxUnavailable": 1}),
        _ => json!({"minAvailable": "50%"}),
    };
    let mut spec = json!({"selector": {"matchLabels": labels(target(rng))}});
    spec.as_object_mut().into_iter().for_each(|spec| spec.extend(limit.as_object().cloned().unwrap_or_default()));
    spec
}
