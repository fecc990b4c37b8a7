//! From the version a client speaks to the version that is stored, and back.
//!
//! Start at [`to_storage`] and [`from_storage`]. Few built-in kinds have two: events of two groups, and the
//! HorizontalPodAutoscaler, whose old version keeps what it cannot say in annotations. The versions of a custom resource
//! differ in nothing but their name ([`as_stored`]); they are handled in the client's version up to the write, because
//! that version's schema is the one that judges.
//!
//! Invariant: an object of the storage version passes unchanged.

use api::check::{self, Mode};
use api::defaults;
use api::dig;
use api::kinds::{Kind, join_api_version};
use serde_json::{Value, json};

/// Pairs of fields: in `events.k8s.io`, in core.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

/// Where the old HorizontalPodAutoscaler keeps the metrics it has no field for.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CPU: &str = "targetCPUUtilizationPercentage";

/// An object of `kind`, as it is stored.
pub(crate) fn to_storage(kind: &Kind, mut object: Value) -> Value {
    if kind.is_storage_version() || !kind.is_stored() || kind.own.is_some() {
        return object;
    }
    object["apiVersion"] = join_api_version(&kind.storage_group, &kind.storage_version).into();
    match kind.kind.as_ref() {
        "Event" => renamed(&mut object, |(new, old)| (new, old)),
        "HorizontalPodAutoscaler" => {
            if let Some(percent) = dig::int(&object, "spec.targetCPUUtilizationPercentage") {
                dig::remove(&mut object, "spec.targetCPUUtilizationPercentage");
                let target = json!({"type": "Utilization", "averageUtilization": percent});
                object["spec"]["metrics"] =
                    json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
            }
        }
        _ => {}
    }
    object
}

/// A stored object, as `kind` shows it.
pub(crate) fn from_storage(kind: &Kind, mut object: Value) -> Value {
    if kind.own.is_some() {
        return shown(kind, object);
    }
    if kind.is_storage_version() || !kind.is_stored() {
        return object;
    }
    object["apiVersion"] = kind.api_version().into();
    match kind.kind.as_ref() {
        "Event" => renamed(&mut object, |(new, old)| (old, new)),
        "HorizontalPodAutoscaler" => {
            if let Some(metrics) = dig::remove(&mut object, "spec.metrics") {
                let cpu = metrics.as_array().into_iter().flatten().find(|metric| metric["resource"]["name"] == "cpu");
                let percent = cpu.map(|metric| metric["resource"]["target"]["averageUtilization"].clone());
                if let Some(percent) = percent.filter(|percent| !percent.is_null()) {
                    object["spec"][CPU] = percent;
                } else {
                    dig::map_mut(&mut object, "metadata.annotations")
                        .insert(METRICS.to_owned(), metrics.to_string().into());
                }
            }
            dig::remove(&mut object, "spec.behavior");
            dig::remove(&mut object, "status.currentMetrics");
            dig::remove(&mut object, "status.conditions");
        }
        _ => {}
    }
    object
}

/// A custom resource in the version asked for: what that version's schema does not know is left out, what it has
/// defaults for is filled in, also where the object was written before the definition said so.
fn shown(kind: &Kind, mut object: Value) -> Value {
    object["apiVersion"] = kind.api_version().into();
    check::structure(kind, &mut object, Mode::Whole);
    defaults::apply(kind, &mut object);
    object
}

/// A custom resource that was handled in its client's version, in the version that is stored; others as they are.
pub(crate) fn as_stored(kind: &Kind, object: &Value) -> Option<Value> {
    if kind.own.is_none() || kind.is_storage_version() {
        return None;
    }
    let mut stored = object.clone();
    stored["apiVersion"] = join_api_version(&kind.storage_group, &kind.storage_version).into();
    Some(stored)
}

fn renamed(object: &mut Value, direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let Some(fields) = object.as_object_mut() else { return };
    for pair in EVENT_FIELDS {
        let (from, to) = direction(pair);
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(group: &str, version: &str, plural: &str) -> &'static Kind {
        api::kinds::find(group, version, plural).expect("a kind")
    }

    #[test]
    fn events_of_both_groups_are_one() {
        let kind = kind("events.k8s.io", "v1", "events");
        let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "regarding": {"name": "p"}});
        let stored = to_storage(kind, event.clone());
        assert_eq!(
            stored,
            json!({"apiVersion": "v1", "kind": "Event", "message": "n", "involvedObject": {"name": "p"}})
        );
        assert_eq!(from_storage(kind, stored), event);
    }

    #[test]
    fn an_old_autoscaler_keeps_its_target() {
        let kind = kind("autoscaling", "v1", "horizontalpodautoscalers");
        let old = json!({"apiVersion": "autoscaling/v1", "spec": {"maxReplicas": 3, CPU: 80}});
        let stored = to_storage(kind, old.clone());
        assert_eq!(stored["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(from_storage(kind, stored), old);
    }
}
