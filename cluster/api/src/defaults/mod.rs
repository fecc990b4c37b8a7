//! What an object means where it says nothing: upstream's defaults, and the canonical form of quantities.
//!
//! Start at [`apply`]. One walk follows the object and its schema; at every struct it applies, in this order, what is
//! written for that type by hand (`table.rs` lists it, `pods.rs`, `workloads.rs` and `others.rs` compute the rest) and
//! what the schema itself carries. Parents come before children, as in upstream's generated code.
//!
//! Invariants:
//! * applying twice is applying once;
//! * a field that is set, even to its zero value where zero differs from absence, is never changed;
//! * a default inside an absent struct stays unapplied, unless the struct itself has a default.
//!
//! Not here: values that come from elsewhere than the object (admission, allocation; see `apiserver`).

mod others;
mod pods;
mod table;
mod workloads;

use crate::dig;
use crate::kinds::Kind;
use crate::quantity::Quantity;
use crate::schema::{Field, Presence, Ty, Type, TypeRef};
use serde_json::{Map, Value};

/// Resource lists keep thousandths and nothing finer.
const RESOURCE_EXPONENT: i32 = -3;

/// Fills in `object` as upstream's decoder does.
pub fn apply(kind: &Kind, object: &mut Value) {
    fill_struct(&kind.ty, object);
}

fn fill_struct(ty: &TypeRef, value: &mut Value) {
    if !value.is_object() {
        return;
    }
    if matches!(ty, TypeRef::BuiltIn(_))
        && let Some(row) = table::row(&ty.name)
    {
        row.apply(value);
    }
    let Value::Object(fields) = value else { return };
    let custom = matches!(ty, TypeRef::Own(_));
    let described: &Type = ty;
    for field in &described.fields {
        fill_field(field, fields, custom);
    }
}

fn fill_field(field: &Field, fields: &mut Map<String, Value>, custom: bool) {
    let name = field.name.as_ref();
    let default = field.default.as_deref().filter(|_| is_unset(field, fields.get(name)));
    if let Some(default) = default.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        // Where zero means absence, a zero default is Go's zero value: never written.
        if custom || field.presence != Presence::ZeroIsAbsent || !dig::is_zero(&default) {
            fields.insert(name.to_owned(), default);
        }
    }
    if let Some(value) = fields.get_mut(name) {
        fill_value(&field.ty, value);
    }
}

fn is_unset(field: &Field, value: Option<&Value>) -> bool {
    match value {
        None => true,
        Some(Value::Null) => !field.nullable,
        Some(value) => field.presence == Presence::ZeroIsAbsent && dig::is_zero(value),
    }
}

fn fill_value(ty: &Ty, value: &mut Value) {
    match (ty, value) {
        (Ty::Object(inner), value) => fill_struct(inner, value),
        (Ty::List(list), Value::Array(items)) if holds_more(&list.item) => {
            items.iter_mut().for_each(|item| fill_value(&list.item, item));
        }
        (Ty::Map(map), Value::Object(entries)) if matches!(map.value, Ty::Quantity) => {
            entries.values_mut().for_each(|entry| canonical(entry, RESOURCE_EXPONENT));
        }
        (Ty::Map(map), Value::Object(entries)) if holds_more(&map.value) => {
            entries.values_mut().for_each(|entry| fill_value(&map.value, entry));
        }
        (Ty::Quantity, value) => canonical(value, i32::MIN),
        _ => {}
    }
}

fn holds_more(ty: &Ty) -> bool {
    matches!(ty, Ty::Object(_) | Ty::List(_) | Ty::Map(_) | Ty::Quantity)
}

/// What is no quantity stays as it is; validation says so.
fn canonical(value: &mut Value, exponent: i32) {
    if let Ok(quantity) = Quantity::from_json(value) {
        *value = Value::String(quantity.round_up(exponent).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::schema::{ListTy, Topology};
    use serde_json::json;

    fn custom() -> TypeRef {
        let with = |name: &'static str, ty: Ty, default: Option<&'static str>| Field {
            default: default.map(Into::into),
            ..Field::new(name, ty)
        };
        let item = Type { fields: vec![with("mode", Ty::String, Some("\"a\""))], ..Type::default() };
        let list = ListTy { item: Ty::Object(item.clone().into()), topology: Topology::Atomic };
        Type {
            fields: vec![
                with("count", Ty::Int64, Some("0")),
                with("inner", Ty::Object(item.into()), Some("{}")),
                with("items", Ty::List(Box::new(list)), None),
            ],
            ..Type::default()
        }
        .into()
    }

    #[test]
    fn a_custom_schema_fills_absent_fields_as_deep_as_the_object_goes() {
        for (given, want) in [
            (json!({}), json!({"count": 0, "inner": {"mode": "a"}})),
            (json!({"count": 5, "inner": {"mode": "b"}}), json!({"count": 5, "inner": {"mode": "b"}})),
            (
                json!({"count": null, "inner": {}, "items": [{}]}),
                json!({"count": 0, "inner": {"mode": "a"}, "items": [{"mode": "a"}]}),
            ),
        ] {
            let mut object = given.clone();
            fill_struct(&custom(), &mut object);
            assert_eq!(object, want, "{given}");
        }
    }

    /// `path` of the defaulted object reads `want`.
    fn check(api_version: &str, kind: &str, given: &str, path: &str, want: &str) {
        let (group, version) = kinds::split_api_version(api_version);
        let row = kinds::find_kind(group, version, kind).unwrap_or_else(|| panic!("no kind {kind}"));
        let mut object: Value = serde_json::from_str(given).unwrap_or_else(|error| panic!("{given}: {error}"));
        apply(row, &mut object);
        let found =
            path.split('/').filter(|step| !step.is_empty()).fold(&object, |here, step| match step.parse::<usize>() {
                Ok(index) => here.get(index).unwrap_or(&Value::Null),
                Err(_) => here.get(step).unwrap_or(&Value::Null),
            });
        assert_eq!(found.to_string(), want, "{kind} {path} of {object}");
        let once = object.clone();
        apply(row, &mut object);
        assert_eq!(object, once, "applying twice is applying once");
    }

    const POD: &str = r#"{"spec":{"containers":[{"name":"a","image":"busybox","ports":[{"containerPort":80}],
        "livenessProbe":{"httpGet":{"port":80}},"resources":{"limits":{"cpu":"1000m","memory":"1024Mi"}},
        "env":[{"name":"X","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]}],"hostNetwork":true,
        "volumes":[{"name":"e"},{"name":"c","configMap":{"name":"x"}},{"name":"h","hostPath":{"path":"/"}},
        {"name":"p","projected":{"sources":[{"serviceAccountToken":{"path":"t"}}]}}]}}"#;

    #[test]
    fn pods_are_filled() {
        for (path, want) in [
            ("spec/restartPolicy", "\"Always\""),
            ("spec/dnsPolicy", "\"ClusterFirst\""),
            ("spec/securityContext", "{}"),
            ("spec/schedulerName", "\"default-scheduler\""),
            ("spec/terminationGracePeriodSeconds", "30"),
            ("spec/enableServiceLinks", "true"),
            ("spec/containers/0/imagePullPolicy", "\"Always\""),
            ("spec/containers/0/terminationMessagePath", "\"/dev/termination-log\""),
            ("spec/containers/0/terminationMessagePolicy", "\"File\""),
            ("spec/containers/0/ports/0", r#"{"containerPort":80,"hostPort":80,"protocol":"TCP"}"#),
            ("spec/containers/0/resources/requests", r#"{"cpu":"1","memory":"1Gi"}"#),
            ("spec/containers/0/env/0/valueFrom/fieldRef/apiVersion", "\"v1\""),
            (
                "spec/containers/0/livenessProbe",
                r#"{"failureThreshold":3,"httpGet":{"path":"/","port":80,"scheme":"HTTP"},"periodSeconds":10,"successThreshold":1,"timeoutSeconds":1}"#,
            ),
            ("spec/volumes/0/emptyDir", "{}"),
            ("spec/volumes/1/configMap/defaultMode", "420"),
            ("spec/volumes/2/hostPath/type", "\"\""),
            ("spec/volumes/3/projected/sources/0/serviceAccountToken/expirationSeconds", "3600"),
            ("spec/volumes/3/projected/defaultMode", "420"),
        ] {
            check("v1", "Pod", POD, path, want);
        }
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, want) in [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.36", "IfNotPresent"),
            ("reg:5000/busybox", "Always"),
            ("reg:5000/a/b:2", "IfNotPresent"),
            ("busybox@sha256:0123456789012345678901234567890123456789012345678901234567890123", "IfNotPresent"),
        ] {
            let pod = format!(r#"{{"spec":{{"containers":[{{"name":"a","image":"{image}"}}]}}}}"#);
            check("v1", "Pod", &pod, "spec/containers/0/imagePullPolicy", &format!("\"{want}\""));
        }
    }

    #[test]
    fn workloads_are_filled() {
        let rolling = r#"{"rollingUpdate":{"maxSurge":"25%","maxUnavailable":"25%"},"type":"RollingUpdate"}"#;
        let template = r#"{"metadata":{},"spec":{"template":{"spec":{"containers":[{"name":"a","image":"b:1"}]}}}}"#;
        for (version, kind, given, path, want) in [
            ("apps/v1", "Deployment", template, "spec/strategy", rolling),
            ("apps/v1", "Deployment", template, "spec/replicas", "1"),
            ("apps/v1", "Deployment", r#"{"spec":{"replicas":0}}"#, "spec/replicas", "0"),
            ("apps/v1", "Deployment", template, "spec/revisionHistoryLimit", "10"),
            ("apps/v1", "Deployment", template, "spec/progressDeadlineSeconds", "600"),
            ("apps/v1", "Deployment", template, "spec/template/spec/restartPolicy", "\"Always\""),
            ("apps/v1", "Deployment", template, "spec/template/spec/enableServiceLinks", "null"),
            (
                "apps/v1",
                "Deployment",
                r#"{"spec":{"strategy":{"type":"Recreate"}}}"#,
                "spec/strategy",
                r#"{"type":"Recreate"}"#,
            ),
            (
                "apps/v1",
                "DaemonSet",
                template,
                "spec/updateStrategy/rollingUpdate",
                r#"{"maxSurge":0,"maxUnavailable":1}"#,
            ),
            ("apps/v1", "StatefulSet", template, "spec/podManagementPolicy", "\"OrderedReady\""),
            ("apps/v1", "StatefulSet", template, "spec/updateStrategy/rollingUpdate/partition", "0"),
            ("batch/v1", "Job", template, "spec/completions", "1"),
            ("batch/v1", "Job", r#"{"spec":{"parallelism":3}}"#, "spec/completions", "null"),
            ("batch/v1", "Job", template, "spec/backoffLimit", "6"),
            ("batch/v1", "Job", template, "spec/podReplacementPolicy", "\"TerminatingOrFailed\""),
            (
                "batch/v1",
                "CronJob",
                r#"{"spec":{}}"#,
                "spec",
                r#"{"concurrencyPolicy":"Allow","failedJobsHistoryLimit":1,"successfulJobsHistoryLimit":3,"suspend":false}"#,
            ),
            (
                "v1",
                "ReplicationController",
                r#"{"spec":{"template":{"metadata":{"labels":{"a":"b"}}}}}"#,
                "spec/selector",
                r#"{"a":"b"}"#,
            ),
        ] {
            check(version, kind, given, path, want);
        }
    }

    #[test]
    fn other_kinds_are_filled() {
        for (version, kind, given, path, want) in [
            (
                "v1",
                "Service",
                r#"{"spec":{"ports":[{"port":80}]}}"#,
                "spec/ports/0",
                r#"{"port":80,"protocol":"TCP","targetPort":80}"#,
            ),
            ("v1", "Service", r#"{"spec":{}}"#, "spec/sessionAffinity", "\"None\""),
            ("v1", "Service", r#"{"spec":{}}"#, "spec/internalTrafficPolicy", "\"Cluster\""),
            ("v1", "Service", r#"{"spec":{"type":"NodePort"}}"#, "spec/externalTrafficPolicy", "\"Cluster\""),
            ("v1", "Service", r#"{"spec":{"type":"ExternalName"}}"#, "spec/internalTrafficPolicy", "null"),
            (
                "v1",
                "Service",
                r#"{"spec":{"sessionAffinity":"ClientIP"}}"#,
                "spec/sessionAffinityConfig",
                r#"{"clientIP":{"timeoutSeconds":10800}}"#,
            ),
            (
                "v1",
                "Namespace",
                r#"{"metadata":{"name":"a"}}"#,
                "metadata/labels",
                r#"{"kubernetes.io/metadata.name":"a"}"#,
            ),
            ("v1", "Secret", "{}", "type", "\"Opaque\""),
            ("v1", "PersistentVolumeClaim", r#"{"spec":{}}"#, "spec/volumeMode", "\"Filesystem\""),
            (
                "v1",
                "LimitRange",
                r#"{"spec":{"limits":[{"type":"Container","max":{"cpu":"2"}}]}}"#,
                "spec/limits/0/defaultRequest",
                r#"{"cpu":"2"}"#,
            ),
            (
                "networking.k8s.io/v1",
                "NetworkPolicy",
                r#"{"spec":{"egress":[{}]}}"#,
                "spec/policyTypes",
                r#"["Ingress","Egress"]"#,
            ),
            ("autoscaling/v2", "HorizontalPodAutoscaler", r#"{"spec":{}}"#, "spec/minReplicas", "1"),
            (
                "autoscaling/v2",
                "HorizontalPodAutoscaler",
                r#"{"spec":{"behavior":{}}}"#,
                "spec/behavior/scaleDown/policies",
                r#"[{"periodSeconds":15,"type":"Percent","value":100}]"#,
            ),
            (
                "rbac.authorization.k8s.io/v1",
                "RoleBinding",
                r#"{"roleRef":{"kind":"Role"},"subjects":[{"kind":"User"},{"kind":"ServiceAccount"}]}"#,
                "subjects",
                r#"[{"apiGroup":"rbac.authorization.k8s.io","kind":"User"},{"kind":"ServiceAccount"}]"#,
            ),
            ("storage.k8s.io/v1", "StorageClass", "{}", "volumeBindingMode", "\"Immediate\""),
            ("scheduling.k8s.io/v1", "PriorityClass", "{}", "preemptionPolicy", "\"PreemptLowerPriority\""),
            ("discovery.k8s.io/v1", "EndpointSlice", r#"{"ports":[{}]}"#, "ports/0", r#"{"name":"","protocol":"TCP"}"#),
            (
                "apiextensions.k8s.io/v1",
                "CustomResourceDefinition",
                r#"{"spec":{"names":{"kind":"Foo"}}}"#,
                "spec/names",
                r#"{"kind":"Foo","listKind":"FooList","singular":"foo"}"#,
            ),
            (
                "admissionregistration.k8s.io/v1",
                "ValidatingWebhookConfiguration",
                r#"{"webhooks":[{"rules":[{}]}]}"#,
                "webhooks/0",
                r#"{"failurePolicy":"Fail","matchPolicy":"Equivalent","namespaceSelector":{},"objectSelector":{},"rules":[{"scope":"*"}],"timeoutSeconds":10}"#,
            ),
        ] {
            check(version, kind, given, path, want);
        }
    }
}
