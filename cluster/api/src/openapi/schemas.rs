//! Types as OpenAPI schemas.
//!
//! Start at [`all`]: from the names that paths refer to, everything they refer to in turn.
//!
//! Not here: paths (`paths.rs`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::prose::{Index, Prose};
use super::{Dialect, collect_references};
use crate::kinds::Kind;
use crate::schema::{Field, Presence, Raw, Text, Topology, Ty, Type, TypeRef, find};

/// Names of types that are one value, and what refers to them.
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const DURATION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Duration";
const FIELDS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const JSON: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";
const OR_ARRAY: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray";
const OR_BOOL: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool";
const OR_STRINGS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray";

/// The type that a list of objects has besides its items.
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// Every schema that the names need, by name.
pub(super) fn all(kinds: &[&Kind], dialect: Dialect, names: &BTreeSet<String>) -> Value {
    let kinds_by_type = group_version_kinds(kinds);
    let prose = Prose::unpack();
    let prose = prose.index();
    let mut schemas = Map::new();
    let mut waiting = names.clone();
    while let Some(name) = waiting.pop_first() {
        let mut schema = one(&name, kinds, dialect, &prose);
        if dialect == Dialect::V3 {
            set_references_apart(&mut schema);
        }
        if let Some(rows) = kinds_by_type.get(&name) {
            schema["x-kubernetes-group-version-kind"] = rows.clone().into();
        }
        let mut references = BTreeSet::new();
        collect_references(&schema, &mut references);
        waiting.extend(references.into_iter().filter(|other| *other != name && !schemas.contains_key(other)));
        schemas.insert(name, schema);
    }
    Value::Object(schemas)
}

/// The schema name of a kind's objects.
pub(super) fn name_of(kind: &Kind) -> String {
    match kind.ty.name.as_ref() {
        "" => {
            let group: Vec<&str> = kind.group.rsplit('.').collect();
            format!("{}.{}.{}", group.join("."), kind.version, kind.kind)
        }
        name => name.to_owned(),
    }
}

/// The schema name of a list of a kind's objects.
pub(super) fn list_name_of(kind: &Kind) -> String {
    let name = name_of(kind);
    let package = name.rsplit_once('.').map_or("", |(package, _)| package);
    format!("{package}.{}", kind.list_kind)
}

/// The kinds that a type stands for, as the extension by which clients find it.
fn group_version_kinds(kinds: &[&Kind]) -> BTreeMap<String, Vec<Value>> {
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut put = |name: String, group: &str, version: &str, kind: &str| {
        let row = json!({"group": group, "version": version, "kind": kind});
        let rows = found.entry(name).or_default();
        if !rows.contains(&row) {
            rows.push(row);
        }
    };
    for kind in kinds {
        put(name_of(kind), &kind.group, &kind.version, &kind.kind);
        put(
            "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".to_owned(),
            &kind.group,
            &kind.version,
            "DeleteOptions",
        );
        if !kind.list_kind.is_empty() {
            put(list_name_of(kind), &kind.group, &kind.version, &kind.list_kind);
        }
    }
    for (name, group, version, kind) in [
        ("io.k8s.api.authentication.v1.TokenRequest", "authentication.k8s.io", "v1", "TokenRequest"),
        ("io.k8s.api.autoscaling.v1.Scale", "autoscaling", "v1", "Scale"),
        ("io.k8s.api.policy.v1.Eviction", "policy", "v1", "Eviction"),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup", "", "v1", "APIGroup"),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList", "", "v1", "APIResourceList"),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.Status", "", "v1", "Status"),
    ] {
        put(name.to_owned(), group, version, kind);
    }
    found
}

/// The schema of that name.
fn one(name: &str, kinds: &[&Kind], dialect: Dialect, prose: &Index<'_>) -> Value {
    if let Some(schema) = special(name, dialect) {
        return schema;
    }
    let own = |kind: &&&Kind| matches!(kind.ty, TypeRef::Own(_));
    if let Some(kind) = kinds.iter().filter(own).find(|kind| name_of(kind) == name) {
        let mut schema = object(&kind.ty, true, dialect);
        if dialect == Dialect::V2 {
            fit_for_v2(&mut schema);
        }
        return schema;
    }
    if let Some(kind) = kinds.iter().filter(own).find(|kind| list_name_of(kind) == name) {
        return list(kind, dialect);
    }
    let mut schema = find(name).map_or_else(|| json!({"type": "object"}), |ty| object(ty, false, dialect));
    describe(&mut schema, name, prose);
    schema
}

/// The old language knows neither alternatives nor `null`, and clients of its time trip over structure beside unknown
/// fields: upstream leaves the same out of a definition's schema.
fn fit_for_v2(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for keyword in ["allOf", "anyOf", "not", "oneOf"] {
        map.remove(keyword);
    }
    let preserves = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if map.remove("nullable") == Some(Value::Bool(true)) {
        map.remove("type");
        map.remove("items");
        map.remove("properties");
    }
    if preserves {
        map.remove("items");
        map.remove("properties");
    }
    let ty = map.get("type").and_then(Value::as_str);
    if (ty == Some("array") && !map.contains_key("items")) || (ty == Some("object") && preserves) {
        map.remove("type");
    }
    let nullable = |property: &Value| property["nullable"] == true;
    let free: Vec<String> = map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, one)| nullable(one))
        .map(|(name, _)| name.clone())
        .collect();
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|name| !free.iter().any(|free| name == free));
        if required.is_empty() {
            map.remove("required");
        }
    }
    for key in ["items", "additionalProperties"] {
        map.get_mut(key).into_iter().for_each(fit_for_v2);
    }
    let properties = map.get_mut("properties").and_then(Value::as_object_mut);
    properties.into_iter().flatten().for_each(|(_, property)| fit_for_v2(property));
}

/// Puts in what a built-in type and its fields are for.
fn describe(schema: &mut Value, name: &str, prose: &Index<'_>) {
    let Value::Object(schema) = schema else { return };
    put_text(schema, "description", &prose.of_type(name));
    for (field, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        let words = prose.of_field(name, field);
        let Value::Object(property) = property else { continue };
        put_text(property, "description", &words);
    }
}

/// In v3 nothing may stand beside a reference: it moves into an `allOf` where something does.
fn set_references_apart(schema: &mut Value) {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flatten().filter_map(|(_, property)| property.as_object_mut()) {
        if property.len() > 1
            && let Some(reference) = property.remove("$ref")
        {
            property.insert("allOf".to_owned(), json!([{"$ref": reference}]));
        }
    }
}

/// Types that are one value.
fn special(name: &str, dialect: Dialect) -> Option<Value> {
    Some(match name {
        TIME | MICRO_TIME => json!({"type": "string", "format": "date-time"}),
        DURATION => json!({"type": "string"}),
        FIELDS | PATCH | EXTENSION => json!({"type": "object"}),
        QUANTITY if dialect == Dialect::V2 => json!({"type": "string"}),
        QUANTITY => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        INT_OR_STRING if dialect == Dialect::V2 => json!({"type": "string", "format": "int-or-string"}),
        INT_OR_STRING => json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"}),
        JSON | OR_ARRAY | OR_BOOL | OR_STRINGS => json!({}),
        _ => return None,
    })
}

/// A list of custom resources: built-in lists have types of their own.
fn list(kind: &Kind, dialect: Dialect) -> Value {
    json!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "items": {"type": "array", "items": dialect.reference(&name_of(kind))},
            "kind": {"type": "string"},
            "metadata": dialect.reference(LIST_META),
        },
    })
}

fn object(ty: &Type, own: bool, dialect: Dialect) -> Value {
    let mut schema = Map::new();
    schema.insert("type".to_owned(), "object".into());
    put_text(&mut schema, "description", &ty.description);
    let required: Vec<&str> =
        ty.fields.iter().filter(|field| field.required).map(|field| field.name.as_ref()).collect();
    if !required.is_empty() {
        schema.insert("required".to_owned(), required.into());
    }
    let properties: Map<String, Value> =
        ty.fields.iter().map(|field| (field.name.to_string(), property(field, own, dialect))).collect();
    if !properties.is_empty() {
        schema.insert("properties".to_owned(), properties.into());
    }
    if ty.atomic {
        schema.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    if ty.preserve_unknown {
        schema.insert("x-kubernetes-preserve-unknown-fields".to_owned(), true.into());
    }
    put_keywords(&mut schema, ty.keywords.as_deref());
    Value::Object(schema)
}

fn property(field: &Field, own: bool, dialect: Dialect) -> Value {
    let mut schema = of_ty(&field.ty, own, dialect);
    match (&field.ty, field.struct_atomic) {
        (_, Some(atomic)) => {
            schema.insert("x-kubernetes-map-type".to_owned(), if atomic { "atomic" } else { "granular" }.into());
        }
        (Ty::Map(map), None) if map.atomic => {
            schema.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
        }
        _ => {}
    }
    put_merging(&mut schema, field);
    put_text(&mut schema, "description", &field.description);
    if field.nullable {
        schema.insert("nullable".to_owned(), true.into());
    }
    // Defaults are published in v3 only, as upstream does; custom resources have theirs in both.
    let default = if own || dialect == Dialect::V3 { default_of(field) } else { None };
    if let Some(default) = default {
        schema.insert("default".to_owned(), default);
    }
    put_keywords(&mut schema, field.keywords.as_deref());
    Value::Object(schema)
}

fn put_merging(schema: &mut Map<String, Value>, field: &Field) {
    if let Ty::List(list) = &field.ty {
        let (kind, keys): (&str, &[Text]) = match &list.topology {
            Topology::Atomic => ("atomic", &[]),
            Topology::Set => ("set", &[]),
            Topology::Map(keys) => ("map", keys),
        };
        schema.insert("x-kubernetes-list-type".to_owned(), kind.into());
        if !keys.is_empty() {
            let keys: Vec<&str> = keys.iter().map(AsRef::as_ref).collect();
            schema.insert("x-kubernetes-list-map-keys".to_owned(), keys.into());
        }
    }
    let strategy = match (field.patch_merge, field.patch_retain_keys) {
        (true, true) => "merge,retainKeys",
        (true, false) => "merge",
        (false, true) => "retainKeys",
        (false, false) => return,
    };
    schema.insert("x-kubernetes-patch-strategy".to_owned(), strategy.into());
    if let Some(key) = &field.patch_merge_key {
        schema.insert("x-kubernetes-patch-merge-key".to_owned(), key.as_ref().into());
    }
}

/// The default: what the field says, or Go's zero value where upstream always writes one.
fn default_of(field: &Field) -> Option<Value> {
    if let Some(text) = &field.default {
        return serde_json::from_str(text).ok();
    }
    match (&field.ty, field.presence) {
        (Ty::Object(_) | Ty::Time | Ty::MicroTime, Presence::Always | Presence::EmptyIsAbsent) => Some(json!({})),
        (Ty::String, Presence::Always) => Some("".into()),
        (Ty::Int32 | Ty::Int64 | Ty::Double, Presence::Always) => Some(0.into()),
        (Ty::Bool, Presence::Always) => Some(false.into()),
        _ => None,
    }
}

fn of_ty(ty: &Ty, own: bool, dialect: Dialect) -> Map<String, Value> {
    let schema = match ty {
        Ty::Bool => json!({"type": "boolean"}),
        Ty::Int32 => json!({"type": "integer", "format": "int32"}),
        Ty::Int64 => json!({"type": "integer", "format": "int64"}),
        Ty::Double => json!({"type": "number", "format": "double"}),
        Ty::String => json!({"type": "string"}),
        Ty::Bytes => json!({"type": "string", "format": "byte"}),
        Ty::Object(inner @ TypeRef::Own(_)) => object(inner, true, dialect),
        Ty::Object(inner) => dialect.reference(&inner.name),
        Ty::Map(map) => json!({"type": "object", "additionalProperties": of_item(&map.value, own, dialect)}),
        Ty::List(list) => json!({"type": "array", "items": of_item(&list.item, own, dialect)}),
        Ty::IntOrString if own => json!({"x-kubernetes-int-or-string": true}),
        Ty::Raw(_) if own => json!({"x-kubernetes-preserve-unknown-fields": true}),
        Ty::Time => dialect.reference(TIME),
        Ty::MicroTime => dialect.reference(MICRO_TIME),
        Ty::Duration => dialect.reference(DURATION),
        Ty::Quantity => dialect.reference(QUANTITY),
        Ty::IntOrString => dialect.reference(INT_OR_STRING),
        Ty::Raw(Raw::Extension) => dialect.reference(EXTENSION),
        Ty::Raw(Raw::Fields) => dialect.reference(FIELDS),
        Ty::Raw(Raw::Json) => dialect.reference(JSON),
        Ty::Raw(Raw::SchemaOrArray) => dialect.reference(OR_ARRAY),
        Ty::Raw(Raw::SchemaOrBool) => dialect.reference(OR_BOOL),
        Ty::Raw(Raw::SchemaOrStrings) => dialect.reference(OR_STRINGS),
        Ty::Raw(Raw::Any) => json!({"type": "object"}),
    };
    match schema {
        Value::Object(map) => map,
        _ => unreachable!("every schema above is an object"),
    }
}

/// An item or a map's value.
fn of_item(ty: &Ty, own: bool, dialect: Dialect) -> Value {
    let mut schema = of_ty(ty, own, dialect);
    if dialect == Dialect::V3 && !own {
        let default = match ty {
            Ty::String => Some(json!("")),
            Ty::Int32 | Ty::Int64 | Ty::Double => Some(json!(0)),
            _ => None,
        };
        schema.extend(default.map(|default| ("default".to_owned(), default)));
    }
    Value::Object(schema)
}

fn put_text(schema: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        schema.insert(key.to_owned(), text.into());
    }
}

fn put_keywords(schema: &mut Map<String, Value>, keywords: Option<&Map<String, Value>>) {
    schema.extend(keywords.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
}
