//! The cells of the remaining kinds.

use super::words::{age, condition, count, either_or, name, or_none, since, text, text_or};
use crate::dig;
use crate::duration;
use crate::meta;
use base::Timestamp;
use serde_json::{Value, json};

pub(super) fn plain(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

pub(super) fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut status = vec![match condition(object, "Ready") {
        None => "Unknown",
        Some("True") => "Ready",
        Some(_) => "NotReady",
    }];
    if dig::flag(object, "spec.unschedulable") {
        status.push("SchedulingDisabled");
    }
    let address = |ty: &str| {
        let found = dig::list(object, "status.addresses").iter().find(|address| dig::text(address, "type") == ty);
        json!(or_none(found.map_or("", |address| dig::text(address, "address")).to_owned()))
    };
    let info = |field: &str| text_or(dig::get(object, "status.nodeInfo"), field, "<unknown>");
    vec![
        name(object),
        json!(status.join(",")),
        json!(or_none(roles(object).join(","))),
        age(object, now),
        text(object, "status.nodeInfo.kubeletVersion"),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn roles(object: &Value) -> Vec<&str> {
    let mut found: Vec<&str> = meta::labels(object)
        .iter()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

pub(super) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "status.phase"), age(object, now)]
}

pub(super) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(dig::map(object, "data").len() + dig::map(object, "binaryData").len()), age(object, now)]
}

pub(super) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "type"), json!(dig::map(object, "data").len()), age(object, now)]
}

pub(super) fn service_account(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(dig::list(object, "secrets").len()), age(object, now)]
}

/// Events come in two shapes, core and `events.k8s.io`, of the same stored object.
pub(super) fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let one_of = |paths: [&'static str; 2]| paths.into_iter().find(|path| dig::has(object, path)).unwrap_or(paths[0]);
    let subject = dig::get(object, one_of(["involvedObject", "regarding"]));
    let kind = dig::text(subject, "kind").to_lowercase();
    let target = match dig::text(subject, "name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = dig::get(object, one_of(["source", "deprecatedSource"]));
    let either = |first: &'static str, second: &'static str| match dig::text(source, first) {
        "" => dig::text(object, second).to_owned(),
        found => found.to_owned(),
    };
    let controller = match dig::has(object, "reportingController") {
        true => "reportingController",
        false => "reportingComponent",
    };
    let origin = [either("component", controller), either("host", "reportingInstance")];
    let origin: Vec<&str> = origin.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    let (first, last, times) = event_times(object, now);
    vec![
        json!(last),
        text(object, "type"),
        text(object, "reason"),
        json!(target),
        text(subject, "fieldPath"),
        json!(origin.join(", ")),
        json!(dig::text(object, one_of(["message", "note"])).trim()),
        json!(first),
        json!(times),
        name(object),
    ]
}

/// How long ago an event was seen first and last, and how often.
fn event_times(object: &Value, now: Timestamp) -> (String, String, i64) {
    let time =
        |paths: [&str; 2]| paths.into_iter().find(|path| dig::has(object, path)).map(|path| since(object, path, now));
    let first = time(["firstTimestamp", "deprecatedFirstTimestamp"]).unwrap_or_else(|| since(object, "eventTime", now));
    let last = time(["lastTimestamp", "deprecatedLastTimestamp"]).unwrap_or_else(|| first.clone());
    if dig::has(object, "series") {
        let times = dig::int(object, "series.count").unwrap_or(0);
        return (first, since(object, "series.lastObservedTime", now), times);
    }
    let times = dig::int(object, "count").or(dig::int(object, "deprecatedCount")).unwrap_or(0);
    (first, last, times.max(1))
}

pub(super) fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!("{}/{}", dig::text(object, "roleRef.kind"), dig::text(object, "roleRef.name"));
    let subjects = |kind: &str| {
        let of_kind = dig::list(object, "subjects").iter().filter(|subject| dig::text(subject, "kind") == kind);
        let shown = of_kind.map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", dig::text(subject, "namespace"), dig::text(subject, "name")),
            _ => dig::text(subject, "name").to_owned(),
        });
        json!(shown.collect::<Vec<_>>().join(", "))
    };
    vec![name(object), json!(role), age(object, now), subjects("User"), subjects("Group"), subjects("ServiceAccount")]
}

pub(super) fn quota(object: &Value, now: Timestamp) -> Vec<Value> {
    let used = dig::map(object, "status.used");
    let amount = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("0").to_owned();
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in dig::map(object, "status.hard") {
        let text = format!("{resource}: {}/{}", amount(used.get(resource)), amount(Some(hard)));
        if resource.starts_with("limits") { limits.push(text) } else { requests.push(text) }
    }
    vec![name(object), json!(requests.join(", ")), json!(limits.join(", ")), age(object, now)]
}

pub(super) fn priority_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        count(object, "value"),
        json!(dig::flag(object, "globalDefault")),
        age(object, now),
        text_or(object, "preemptionPolicy", "<unset>"),
    ]
}

pub(super) fn runtime_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "handler"), age(object, now)]
}

pub(super) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "spec.holderIdentity"), age(object, now)]
}

pub(super) fn signing_request(object: &Value, now: Timestamp) -> Vec<Value> {
    let has = |ty: &str| condition(object, ty).is_some();
    let mut status = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has("Failed") {
        status.push_str(",Failed");
    }
    if !dig::text(object, "status.certificate").is_empty() {
        status.push_str(",Issued");
    }
    let wanted = dig::int(object, "spec.expirationSeconds").map_or_else(|| "<none>".to_owned(), duration::human);
    vec![
        name(object),
        age(object, now),
        text_or(object, "spec.signerName", "<none>"),
        text(object, "spec.username"),
        json!(wanted),
        json!(status),
    ]
}

pub(super) fn webhooks(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(dig::list(object, "webhooks").len()), age(object, now)]
}

fn param_kind(object: &Value) -> Value {
    match dig::get(object, "spec.paramKind") {
        Value::Null => json!("<unset>"),
        kind => json!(format!("{}/{}", dig::text(kind, "apiVersion"), dig::text(kind, "kind"))),
    }
}

pub(super) fn validating_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(dig::list(object, "spec.validations").len()), param_kind(object), age(object, now)]
}

pub(super) fn mutating_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(dig::list(object, "spec.mutations").len()), param_kind(object), age(object, now)]
}

pub(super) fn policy_binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = match dig::get(object, "spec.paramRef") {
        Value::Null => "<unset>".to_owned(),
        reference => match (dig::text(reference, "namespace"), dig::text(reference, "name")) {
            (_, "") => "<selector>".to_owned(),
            ("", name) => name.to_owned(),
            (namespace, name) => format!("{namespace}/{name}"),
        },
    };
    vec![name(object), text(object, "spec.policyName"), json!(parameters), age(object, now)]
}

pub(super) fn flow_schema(object: &Value, now: Timestamp) -> Vec<Value> {
    let missing = match condition(object, "Dangling") {
        Some("") | None => "?",
        Some(status) => status,
    };
    vec![
        name(object),
        text_or(object, "spec.priorityLevelConfiguration.name", "<none>"),
        count(object, "spec.matchingPrecedence"),
        text_or(object, "spec.distinguisherMethod.type", "<none>"),
        age(object, now),
        json!(missing),
    ]
}

pub(super) fn priority_level(object: &Value, now: Timestamp) -> Vec<Value> {
    let limited = dig::get(object, "spec.limited");
    let exempt = dig::get(object, "spec.exempt");
    let shares = if limited.is_null() { exempt } else { limited };
    let queuing = |field: &str| either_or(dig::get(limited, "limitResponse.queuing"), field, "<none>");
    vec![
        name(object),
        text(object, "spec.type"),
        either_or(shares, "nominalConcurrencyShares", "<none>"),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        age(object, now),
    ]
}

pub(super) fn api_service(object: &Value, now: Timestamp) -> Vec<Value> {
    let service = match dig::get(object, "spec.service") {
        Value::Null => "Local".to_owned(),
        service => format!("{}/{}", dig::text(service, "namespace"), dig::text(service, "name")),
    };
    let conditions = dig::list(object, "status.conditions");
    let available = match conditions.iter().find(|one| dig::text(one, "type") == "Available") {
        None => "Unknown".to_owned(),
        Some(one) if dig::text(one, "status") == "True" => "True".to_owned(),
        Some(one) => format!("{} ({})", dig::text(one, "status"), dig::text(one, "reason")),
    };
    vec![name(object), json!(service), json!(available), age(object, now)]
}

pub(super) fn resource_claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut states = Vec::new();
    if meta::is_terminating(object) {
        states.push("deleted");
    }
    match dig::has(object, "status.allocation") {
        false if states.is_empty() => states.push("pending"),
        false => {}
        true => states.push("allocated"),
    }
    if !dig::list(object, "status.reservedFor").is_empty() {
        states.push("reserved");
    }
    vec![name(object), json!(states.join(",")), age(object, now)]
}

pub(super) fn resource_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text_or(object, "spec.nodeName", "<unset>"),
        text(object, "spec.driver"),
        text(object, "spec.pool.name"),
        age(object, now),
    ]
}
