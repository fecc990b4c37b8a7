//! What a definition makes: rows, schemas, and what they do to objects.

use serde_json::{Value, json};

use super::{check, kinds, priority, schema};
use crate::check::{Mode, structure};
use crate::kinds::Kind;
use crate::{defaults, discovery, openapi};

fn definition() -> Value {
    let spec = json!({
        "type": "object",
        "required": ["cron"],
        "properties": {
            "cron": {"type": "string", "pattern": "^[0-9 */]+$", "description": "when"},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
            "mode": {"type": "string", "enum": ["fast", "slow"]},
            "port": {"x-kubernetes-int-or-string": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}},
            "hosts": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set", "maxItems": 2},
            "rules": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
            },
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            "gone": {"type": "string", "nullable": true},
        },
    });
    let root =
        json!({"type": "object", "description": "a table", "properties": {"spec": spec, "status": {"type": "object"}}});
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": root}, "subresources": {"status": {}}});
    json!({
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com",
            "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
            "versions": [version("v1beta1", true), version("v1", false)],
        },
    })
}

fn rows(definition: &Value) -> Vec<Kind> {
    kinds(definition, 0).into_iter().filter(|(_, served)| *served).map(|(kind, _)| kind).collect()
}

fn crontab() -> Kind {
    kinds(&definition(), 0).remove(0).0
}

#[track_caller]
fn refused(spec: Value, want: &[&str]) {
    let definition = definition();
    let object = json!({"metadata": {"name": 5}, "spec": spec});
    let errors: Vec<String> = check(schema(&definition, "v1"), &object).iter().map(ToString::to_string).collect();
    assert_eq!(errors, want);
}

#[test]
fn each_served_version_is_a_kind_and_the_stable_one_is_preferred() {
    let rows = rows(&definition());
    let versions: Vec<&str> = rows.iter().map(|kind| kind.version.as_ref()).collect();
    assert_eq!(versions, ["v1", "v1beta1"]);
    assert_eq!(rows[0].key("a", "b"), "crontabs.stable.example.com/a/b");
    assert_eq!((rows[0].singular.as_ref(), rows[0].list_kind.as_ref()), ("crontab", "CronTabList"));
    assert!(rows[0].has_status() && rows[1].is_storage_version() && !rows[0].is_storage_version());
}

#[test]
fn versions_are_ranked_as_discovery_does() {
    let mut names = ["foo1", "v1alpha1", "v2", "v1", "v1beta2", "v11", "v1beta1", "foo10", "v3beta1"];
    names.sort_by_key(|name| std::cmp::Reverse(priority(name)));
    assert_eq!(names, ["v11", "v2", "v1", "v3beta1", "v1beta2", "v1beta1", "v1alpha1", "foo1", "foo10"]);
}

#[test]
fn objects_are_pruned_and_defaulted() {
    let kind = crontab();
    let mut object = json!({
        "metadata": {"name": "a", "nonsense": 1},
        "spec": {"cron": "*", "bar": 1, "free": {"x": 1}, "pod": {"spec": {}, "metadata": {"nonsense": 2}}, "hosts": []},
        "status": {"y": 1},
    });
    let report = structure(&kind, &mut object, Mode::Whole);
    defaults::apply(&kind, &mut object);
    assert_eq!(report.unknown, ["metadata.nonsense", "spec.bar", "spec.pod.metadata.nonsense", "status.y"]);
    let spec = json!({"cron": "*", "free": {"x": 1}, "pod": {"spec": {}, "metadata": {}}, "hosts": [], "replicas": 1});
    assert_eq!(object, json!({"metadata": {"name": "a"}, "spec": spec, "status": {}}));
}

#[test]
fn good_objects_pass() {
    refused(json!({"cron": "* *", "replicas": 3, "port": "http", "labels": {"a": "b"}, "gone": null}), &[]);
    refused(json!({"cron": "1", "port": 80, "free": {"a": [1]}, "rules": [{"name": "a"}, {"name": "b"}]}), &[]);
}

#[test]
fn bad_objects_are_refused_in_upstreams_words() {
    refused(json!({}), &["spec.cron: Required value"]);
    refused(
        json!({"cron": "x", "replicas": "3"}),
        &[
            "spec.cron: Invalid value: \"x\": spec.cron in body should match '^[0-9 */]+$'",
            "spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\"",
        ],
    );
    refused(
        json!({"cron": "1", "replicas": 11}),
        &["spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10"],
    );
    refused(
        json!({"cron": "1", "mode": "odd"}),
        &["spec.mode: Unsupported value: \"odd\": supported values: \"fast\", \"slow\""],
    );
    refused(
        json!({"cron": "1", "labels": {"a": "long"}}),
        &["spec.labels.a: Invalid value: \"long\": spec.labels.a in body should be at most 3 chars long"],
    );
    refused(json!({"cron": "1", "hosts": ["a", "a"]}), &["spec.hosts[1]: Duplicate value: \"a\""]);
    refused(
        json!({"cron": "1", "rules": [{"name": "a"}, {"name": "a"}, {}]}),
        &["spec.rules[1]: Duplicate value: {\"name\":\"a\"}", "spec.rules[2].name: Required value"],
    );
    refused(
        json!({"cron": null}),
        &["spec.cron: Invalid value: \"null\": spec.cron in body must be of type string: \"null\""],
    );
}

#[test]
fn combined_schemas_hold() {
    let either =
        json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "not": {"required": ["c"]}, "type": "object"});
    for (object, errors) in
        [(json!({"a": 1}), 0), (json!({"a": 1, "b": 1}), 1), (json!({}), 1), (json!({"a": 1, "c": 1}), 1)]
    {
        assert_eq!(check(&either, &object).len(), errors, "{object}");
    }
}

#[test]
fn definitions_are_published_like_built_in_kinds() {
    let rows = rows(&definition());
    let resources = discovery::resources("stable.example.com", "v1", &rows).expect("the version is served");
    assert_eq!(resources["resources"][0]["shortNames"], json!(["ct"]));
    let rows: Vec<&Kind> = rows.iter().collect();
    let text = openapi::v3("stable.example.com", "v1", &rows).expect("the version is served");
    let document: Value = serde_json::from_slice(&text).expect("the document is JSON");
    let published = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(published["description"], "a table");
    let spec = &published["properties"]["spec"]["properties"];
    let theirs = schema(&definition(), "v1")["properties"]["spec"]["properties"].clone();
    for (name, property) in theirs.as_object().expect("properties") {
        for (key, value) in property.as_object().expect("a property") {
            assert_eq!(spec[name][key], *value, "{key} of {name}");
        }
    }
}

#[test]
fn endless_schemas_come_to_an_end() {
    let mut schema = json!({"type": "string"});
    for _ in 0..200 {
        schema = json!({"type": "object", "properties": {"a": schema}});
    }
    let definition =
        json!({"spec": {"versions": [{"name": "v1", "served": true, "schema": {"openAPIV3Schema": schema}}]}});
    assert_eq!(rows(&definition).len(), 1);
    assert!(rows(&json!({})).is_empty() && rows(&json!({"spec": 5})).is_empty());
}
