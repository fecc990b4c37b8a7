//! Objects there and back, and bytes that are none.

use serde_json::{Value, json};

use super::{MAGIC, decode, decode_any, encode, encode_any, encode_watch_event};
use crate::check::{Mode, structure_as};
use crate::kinds::{find_kind, type_of};

/// Brings an object into canonical form, encodes it, decodes it.
fn there_and_back(mut value: Value) {
    let ty = type_of(value["apiVersion"].as_str().expect("apiVersion"), value["kind"].as_str().expect("kind"));
    let report = structure_as(&ty.expect("the test names a built-in type"), &mut value, Mode::Whole);
    assert_eq!(report, Default::default());
    let bytes = encode_any(&value).expect("the object can be encoded");
    assert_eq!(decode_any(&bytes).expect("the bytes can be decoded"), value);
}

#[test]
fn objects_survive() {
    there_and_back(json!({"apiVersion": "v1", "kind": "Pod"}));
    there_and_back(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "labels": {"b": "c", "a": ""}, "creationTimestamp": "2026-11-23T21:28:21Z"},
        "spec": {
            "terminationGracePeriodSeconds": 0, "priority": -5,
            "containers": [{
                "name": "c", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 3}, "args": ["", "x"],
            }],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}}],
        },
    }));
    there_and_back(json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "", "b": "aGVsbG8="}}));
    there_and_back(
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"renewTime": "2026-11-23T21:28:21.000001Z"}}),
    );
}

#[test]
fn lists_and_companions_survive() {
    there_and_back(
        json!({"apiVersion": "apps/v1", "kind": "DeploymentList", "metadata": {"resourceVersion": "7"}, "items": [{}]}),
    );
    there_and_back(
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 404, "details": {"name": "a"}}),
    );
    there_and_back(
        json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Orphan"}),
    );
    there_and_back(json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 3}}));
}

#[test]
fn partial_metadata_survives() {
    let list = json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {},
        "items": [{"metadata": {"name": "a"}}],
    });
    let bytes = encode_any(&list).expect("the list can be encoded");
    assert_eq!(decode_any(&bytes).expect("the bytes can be decoded")["items"], list["items"]);
}

#[test]
fn schemas_in_definitions_survive() {
    let schema = json!({
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": "string", "default": "x"}},
            "b": {"type": "object", "additionalProperties": true},
            "c": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0.5}},
            "d": {"enum": ["a", 1, true]},
        },
        "x-kubernetes-preserve-unknown-fields": true,
    });
    there_and_back(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}}]},
    }));
}

#[test]
fn values_are_written_and_absent_pointers_are_not() {
    let kind = find_kind("", "v1", "ConfigMap").expect("config maps are in the table");
    let bytes = encode(kind, &json!({"data": {"k": "v"}})).expect("the object can be encoded");
    // Magic; type meta; raw: metadata with its eight values, one entry; content encoding; content type.
    let meta = b"\x0a\x10\x0a\x00\x12\x00\x1a\x00\x22\x00\x2a\x00\x32\x00\x38\x00\x42\x00\x12\x06\x0a\x01k\x12\x01v";
    let mut want = MAGIC.to_vec();
    want.extend_from_slice(b"\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12");
    want.push(meta.len() as u8);
    want.extend_from_slice(meta);
    want.extend_from_slice(b"\x1a\x00\x22\x00");
    assert_eq!(bytes, want);
}

#[test]
fn watch_events_carry_an_enveloped_object() {
    let bytes = encode_watch_event("ADDED", &json!({"apiVersion": "v1", "kind": "ConfigMap"})).expect("an event");
    let (length, event) = bytes.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().expect("four bytes")) as usize, event.len());
    assert_eq!(&event[..7], b"\x0a\x05ADDED");
    assert!(event.windows(4).any(|window| window == MAGIC));
}

#[test]
fn bytes_that_are_no_object_are_refused() {
    let kind = find_kind("", "v1", "Pod").expect("pods are in the table");
    let good = encode(kind, &json!({"metadata": {"name": "a"}})).expect("the object can be encoded");
    for bytes in [
        &b""[..],
        b"k8s",
        b"{}",
        b"k8s\0\xff",
        b"k8s\0\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        &good[..good.len() - 7],
    ] {
        assert!(decode(kind, bytes).is_err(), "{bytes:?} was read");
    }
    let other = encode_any(&json!({"apiVersion": "v1", "kind": "ConfigMap"})).expect("a config map");
    assert!(decode(kind, &other).is_err_and(|error| error.message.contains("ConfigMap")));
    assert!(encode_any(&json!({"apiVersion": "x.example/v1", "kind": "Foo"})).is_err());
}

#[test]
fn endless_nesting_is_refused() {
    const NOT: u16 = 28;
    let not = |inner: &[u8]| {
        let mut out = Vec::new();
        super::wire::put_bytes(&mut out, NOT, inner);
        out
    };
    let schema = crate::schema::find_ref("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
    let mut nested = Vec::new();
    for _ in 0..1000 {
        nested = not(&nested);
    }
    let schema = schema.expect("schemas are built in");
    let number = schema.field("not").expect("schemas have a field `not`").number;
    assert_eq!(number, NOT, "the test writes the field `not`");
    assert!(super::read::message(&schema, &nested).is_err_and(|error| error.message.contains("deeper")));
}
