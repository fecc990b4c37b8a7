//! What the body check accepts, prunes, refuses and rewrites.

use serde_json::{Value, json};

use super::{Mode, Report, parse_json, strict_error, structure, structure_as};
use crate::kinds::{Kind, find_kind};
use crate::schema::{Field, Ty, Type, TypeRef, find_ref};

fn kind(api_version: &str, kind: &str) -> &'static Kind {
    let (group, version) = crate::kinds::split_api_version(api_version);
    find_kind(group, version, kind).expect("the test names a kind of the table")
}

fn check(api_version: &str, name: &str, mut value: Value, mode: Mode) -> (Value, Report) {
    let report = structure(kind(api_version, name), &mut value, mode);
    (value, report)
}

fn refusal(api_version: &str, name: &str, value: Value) -> String {
    let (_, report) = check(api_version, name, value, Mode::Whole);
    report.refusal(kind(api_version, name)).unwrap_or_default()
}

fn becomes(api_version: &str, name: &str, given: Value, want: Value) {
    let (got, report) = check(api_version, name, given, Mode::Whole);
    assert_eq!(report, Report::default());
    let at = |value: &Value, path: &str| value.pointer(path).cloned();
    for path in paths(&want) {
        assert_eq!(at(&got, &path), at(&want, &path), "at {path} of {got}");
    }
    let (again, _) = check(api_version, name, got.clone(), Mode::Whole);
    assert_eq!(again, got, "checking twice changes the object");
}

/// Pointers to everything in a value that is no object.
fn paths(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) if !map.is_empty() => map
            .iter()
            .flat_map(|(key, value)| paths(value).into_iter().map(move |path| format!("/{key}{path}")))
            .collect(),
        _ => vec![String::new()],
    }
}

#[test]
fn unknown_fields_are_pruned_and_named() {
    let pod = json!({"spec": {"foo": 1, "containers": [{"name": "a", "imagee": "x"}]}, "bar": {}});
    let (value, report) = check("v1", "Pod", pod, Mode::Whole);
    assert_eq!(report.unknown, ["bar", "spec.foo", "spec.containers[0].imagee"]);
    assert_eq!(value["spec"]["containers"], json!([{"name": "a", "resources": {}}]));
    assert_eq!(
        strict_error(&report.warnings()).as_deref(),
        Some(
            "strict decoding error: unknown field \"bar\", unknown field \"spec.foo\", unknown field \"spec.containers[0].imagee\""
        )
    );
}

#[test]
fn field_names_heed_case() {
    let (_, report) = check("v1", "ConfigMap", json!({"Data": {"a": "b"}}), Mode::Whole);
    assert_eq!(report.unknown, ["Data"]);
}

#[test]
fn wrong_types_are_refused_in_the_decoders_words() {
    assert_eq!(
        refusal("apps/v1", "Deployment", json!({"spec": {"replicas": "three"}})),
        "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct \
         field DeploymentSpec.spec.replicas of type int32"
    );
    let env = json!({"spec": {"template": {"spec": {"containers": [{"env": [{"name": "a", "value": 1}]}]}}}});
    assert_eq!(
        refusal("apps/v1", "Deployment", env),
        "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal number into Go struct \
         field EnvVar.spec.template.spec.containers.env.value of type string"
    );
}

#[test]
fn other_wrong_types_are_refused_too() {
    for (value, want) in [
        (
            json!({"metadata": {"labels": {"a": 1}}}),
            "cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (json!({"metadata": {"creationTimestamp": "soon"}}), "parsing time \"soon\" as"),
        (json!({"spec": "x"}), "cannot unmarshal string into Go struct field Pod.spec of type v1.PodSpec"),
        (json!({"spec": {"containers": {}}}), "field PodSpec.spec.containers of type []v1.Container"),
        (
            json!({"spec": {"priority": 3_000_000_000_u64}}),
            "cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (json!({"spec": {"priority": 1.5}}), "number 1.5 into"),
        (
            json!({"spec": {"hostNetwork": "yes"}}),
            "cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
        ),
        (json!([]), "cannot unmarshal array into Go value of type v1.Pod"),
    ] {
        let got = refusal("v1", "Pod", value);
        assert!(got.contains(want), "{got}");
    }
    assert!(refusal("v1", "Secret", json!({"data": {"a": "x!"}})).ends_with("illegal base64 data at input byte 1"));
    assert!(
        refusal("v1", "LimitRange", json!({"spec": {"limits": [{"max": {"cpu": "x"}}]}})).contains("quantities must")
    );
}

#[test]
fn null_means_absent() {
    becomes("v1", "Pod", json!({"metadata": {"labels": null}, "spec": {"nodeName": null}}), json!({"metadata": {}}));
    let (value, _) = check("v1", "ConfigMap", json!({"data": null}), Mode::Whole);
    assert_eq!(value, json!({"metadata": {}}));
}

#[test]
fn what_go_omits_is_left_out() {
    let pod = json!({"metadata": {"labels": {}, "name": ""}, "spec": {"containers": [], "hostNetwork": false, "volumes": []}});
    let (value, _) = check("v1", "Pod", pod, Mode::Whole);
    assert_eq!(value, json!({"metadata": {}, "spec": {"containers": []}, "status": {}}));
}

#[test]
fn zero_counts_where_absence_means_something_else() {
    becomes("apps/v1", "Deployment", json!({"spec": {"replicas": 0}}), json!({"spec": {"replicas": 0}}));
    becomes(
        "v1",
        "Pod",
        json!({"spec": {"volumes": [{"name": "a", "emptyDir": {}}]}}),
        json!({"spec": {"volumes": [{"name": "a", "emptyDir": {}}]}}),
    );
}

#[test]
fn what_go_always_writes_is_put_in() {
    becomes("v1", "Service", json!({"spec": {}}), json!({"status": {"loadBalancer": {}}}));
    becomes("apps/v1", "ReplicaSet", json!({"status": {}}), json!({"status": {"replicas": 0}}));
}

#[test]
fn partial_objects_keep_every_word() {
    let given = json!({"metadata": {"labels": {}}, "spec": {"hostNetwork": false, "nodeName": null}});
    let (value, report) = check("v1", "Pod", given.clone(), Mode::Partial);
    assert_eq!((value, report), (given, Report::default()));
}

#[test]
fn times_are_written_in_one_way() {
    for (given, want) in [
        ("2026-11-23T21:28:21Z", "2026-11-23T21:28:21Z"),
        ("2026-11-23T23:28:21+02:00", "2026-11-23T21:28:21Z"),
        ("2026-11-23T21:28:21.999Z", "2026-11-23T21:28:21Z"),
    ] {
        becomes(
            "v1",
            "Pod",
            json!({"metadata": {"creationTimestamp": given}}),
            json!({"metadata": {"creationTimestamp": want}}),
        );
    }
    for given in ["2026-11-23T21:28:21Z", "2026-11-23T21:28:21.0Z"] {
        let want = json!({"spec": {"renewTime": "2026-11-23T21:28:21.000000Z"}});
        becomes("coordination.k8s.io/v1", "Lease", json!({"spec": {"renewTime": given}}), want);
    }
    for refused in ["2026-11-23", "2026-11-23 21:28:21Z", "2026-13-23T21:28:21Z", "2026-11-23T21:28:21", ""] {
        assert!(super::canonical_time(refused).is_none(), "{refused} was read");
    }
}

#[test]
fn amounts_are_written_in_one_way() {
    let given = json!({"spec": {"hard": {"cpu": 1, "memory": "1024Mi", "pods": "1000m"}}});
    becomes("v1", "ResourceQuota", given, json!({"spec": {"hard": {"cpu": "1", "memory": "1Gi", "pods": "1"}}}));
}

#[test]
fn bytes_lose_their_line_breaks() {
    becomes("v1", "Secret", json!({"data": {"a": "aGVs\nbG8="}}), json!({"data": {"a": "aGVsbG8="}}));
}

#[test]
fn schemas_inside_definitions_are_pruned_silently() {
    let items = json!({"type": "object", "nonsense": 1});
    let schema = json!({"properties": {"a": {"type": "array", "items": items, "additionalProperties": false}}});
    let crd = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
    let (value, report) = check("apiextensions.k8s.io/v1", "CustomResourceDefinition", crd, Mode::Whole);
    assert_eq!(report, Report::default());
    let property = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["a"];
    assert_eq!(*property, json!({"type": "array", "items": {"type": "object"}, "additionalProperties": false}));
}

#[test]
fn custom_resources_are_pruned_and_otherwise_left_alone() {
    let spec = Type { fields: vec![Field::new("list", Ty::String)], ..Type::default() };
    let meta = find_ref("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("ObjectMeta is built in");
    let fields = vec![Field::new("metadata", Ty::Object(meta)), Field::new("spec", Ty::Object(spec.into()))];
    let ty = TypeRef::from(Type { fields, ..Type::default() });
    let mut value = json!({"metadata": {"name": "a", "foo": 1}, "spec": {"list": [], "bar": null}});
    let report = structure_as(&ty, &mut value, Mode::Whole);
    assert_eq!(report.unknown, ["metadata.foo", "spec.bar"]);
    assert_eq!(value, json!({"metadata": {"name": "a"}, "spec": {"list": []}}));
}

#[test]
fn duplicate_keys_are_named_and_the_last_counts() {
    let text = br#"{"a": 1, "b": [{"c": 1, "c": 2, "c": 3}], "a": {"x": null}}"#;
    let (value, duplicates) = parse_json(text).expect("the text is JSON");
    assert_eq!(value, json!({"a": {"x": null}, "b": [{"c": 3}]}));
    assert_eq!(duplicates, ["duplicate field \"b[0].c\"", "duplicate field \"a\""]);
}

#[test]
fn what_is_no_json_or_too_deep_is_refused() {
    let deep = "[".repeat(1000);
    for text in ["", "{", "{} {}", "{\"a\": 1e999}", deep.as_str()] {
        assert!(parse_json(text.as_bytes()).is_err(), "{} was read", &text[..text.len().min(20)]);
    }
}
