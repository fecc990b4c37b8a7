//! The cells of what runs pods.

use super::words::{age, condition, containers, count, either_or, labels, name, selector, since, text, text_or};
use crate::dig;
use crate::duration;
use crate::meta;
use base::Timestamp;
use serde_json::{Value, json};

/// `2/3`
fn ratio(object: &Value, done: &str, wanted: &str) -> Value {
    json!(format!("{}/{}", dig::int(object, done).unwrap_or(0), dig::int(object, wanted).unwrap_or(0)))
}

pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, "spec.template");
    vec![
        name(object),
        ratio(object, "status.readyReplicas", "spec.replicas"),
        count(object, "status.updatedReplicas"),
        count(object, "status.availableReplicas"),
        age(object, now),
        names,
        images,
        selector(object, "spec.selector"),
    ]
}

pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    replicas(object, now, selector(object, "spec.selector"))
}

pub(super) fn replication_controller(object: &Value, now: Timestamp) -> Vec<Value> {
    replicas(object, now, labels(object, "spec.selector"))
}

fn replicas(object: &Value, now: Timestamp, selector: Value) -> Vec<Value> {
    let [names, images] = containers(object, "spec.template");
    vec![
        name(object),
        count(object, "spec.replicas"),
        count(object, "status.replicas"),
        count(object, "status.readyReplicas"),
        age(object, now),
        names,
        images,
        selector,
    ]
}

pub(super) fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, "spec.template");
    vec![name(object), ratio(object, "status.readyReplicas", "spec.replicas"), age(object, now), names, images]
}

pub(super) fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, "spec.template");
    vec![
        name(object),
        count(object, "status.desiredNumberScheduled"),
        count(object, "status.currentNumberScheduled"),
        count(object, "status.numberReady"),
        count(object, "status.updatedNumberScheduled"),
        count(object, "status.numberAvailable"),
        labels(object, "spec.template.spec.nodeSelector"),
        age(object, now),
        names,
        images,
        selector(object, "spec.selector"),
    ]
}

pub(super) fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, "spec.template");
    vec![
        name(object),
        json!(job_status(object)),
        json!(completions(object)),
        json!(job_duration(object, now)),
        age(object, now),
        names,
        images,
        selector(object, "spec.selector"),
    ]
}

fn job_status(object: &Value) -> &'static str {
    let holds = |ty: &str| condition(object, ty) == Some("True");
    match () {
        () if holds("Complete") => "Complete",
        () if holds("Failed") => "Failed",
        () if meta::is_terminating(object) => "Terminating",
        () if holds("Suspended") => "Suspended",
        () if holds("FailureTarget") => "FailureTarget",
        () if holds("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(object: &Value) -> String {
    let succeeded = dig::int(object, "status.succeeded").unwrap_or(0);
    match (dig::int(object, "spec.completions"), dig::int(object, "spec.parallelism").unwrap_or(0)) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn job_duration(object: &Value, now: Timestamp) -> String {
    let time = |path: &str| dig::text(object, path).parse::<Timestamp>().ok();
    match (time("status.startTime"), time("status.completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => duration::human(end.unwrap_or(now).seconds() - start.seconds()),
    }
}

pub(super) fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, "spec.jobTemplate.spec.template");
    let last = match dig::has(object, "status.lastScheduleTime") {
        true => since(object, "status.lastScheduleTime", now),
        false => "<none>".to_owned(),
    };
    let suspended = match dig::get(object, "spec.suspend").as_bool() {
        None => "<unset>",
        Some(true) => "True",
        Some(false) => "False",
    };
    vec![
        name(object),
        text(object, "spec.schedule"),
        text_or(object, "spec.timeZone", "<none>"),
        json!(suspended),
        json!(dig::list(object, "status.active").len()),
        json!(last),
        age(object, now),
        names,
        images,
        selector(object, "spec.jobTemplate.spec.selector"),
    ]
}

pub(super) fn pod_template(object: &Value, _now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, "template");
    vec![name(object), names, images, labels(object, "template.metadata.labels")]
}

pub(super) fn controller_revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let controller = meta::controller(object).map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let (group, _) = meta::split_api_version(owner.api_version);
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", owner.kind.to_lowercase(), owner.name)
        },
    );
    vec![name(object), json!(controller), count(object, "revision"), age(object, now)]
}

pub(super) fn disruption_budget(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        either_or(object, "spec.minAvailable", "N/A"),
        either_or(object, "spec.maxUnavailable", "N/A"),
        count(object, "status.disruptionsAllowed"),
        age(object, now),
    ]
}

/// More metrics than this are only counted.
const METRICS_SHOWN: usize = 2;

pub(super) fn autoscaler(object: &Value, now: Timestamp) -> Vec<Value> {
    let reference =
        format!("{}/{}", dig::text(object, "spec.scaleTargetRef.kind"), dig::text(object, "spec.scaleTargetRef.name"));
    vec![
        name(object),
        json!(reference),
        json!(metrics(object)),
        either_or(object, "spec.minReplicas", "<unset>"),
        either_or(object, "spec.maxReplicas", "0"),
        either_or(object, "status.currentReplicas", "0"),
        age(object, now),
    ]
}

fn metrics(object: &Value) -> String {
    // The first version can only aim at CPU.
    if let Some(target) = dig::int(object, "spec.targetCPUUtilizationPercentage") {
        let current = dig::int(object, "status.currentCPUUtilizationPercentage");
        return format!("cpu: {}/{target}%", current.map_or("<unknown>".to_owned(), |now| format!("{now}%")));
    }
    let specs = dig::list(object, "spec.metrics");
    let none = Value::Null;
    let statuses = dig::list(object, "status.currentMetrics");
    let all = specs.iter().enumerate().map(|(index, spec)| metric(spec, statuses.get(index).unwrap_or(&none)));
    super::words::or_none(super::words::some_of(&all.collect::<Vec<_>>(), METRICS_SHOWN, ", "))
}

fn metric(spec: &Value, status: &Value) -> String {
    let source = match dig::text(spec, "type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let (spec, status) = (dig::get(spec, source), dig::get(status, source));
    let part = |path: &str| either_or(status, path, "<unknown>").as_str().unwrap_or("").to_owned();
    let target = |path: &str| either_or(spec, path, "").as_str().unwrap_or("").to_owned();
    let is_resource = matches!(source, "resource" | "containerResource");
    let text = if dig::has(spec, "target.averageValue") {
        let average = if matches!(source, "external" | "object") { " (avg)" } else { "" };
        format!("{}/{}{average}", part("current.averageValue"), target("target.averageValue"))
    } else if is_resource {
        let percent = |value: &Value, path: &str, otherwise: &str| {
            dig::int(value, path).map_or(otherwise.to_owned(), |found| format!("{found}%"))
        };
        let current = percent(status, "current.averageUtilization", "<unknown>");
        format!("{current}/{}", percent(spec, "target.averageUtilization", "<auto>"))
    } else {
        format!("{}/{}", part("current.value"), target("target.value"))
    };
    if is_resource { format!("{}: {text}", dig::text(spec, "name")) } else { text }
}
