//! The rules of metadata, for every kind.
//!
//! Start at [`create`] and [`update`]; [`NAME_RULES`] says how each kind's objects may be named.

use crate::dig;
use crate::field::{FieldError, Path};
use crate::kinds::Kind;
use crate::meta;
use crate::names::{self, NameRule};
use serde_json::Value;

/// All annotations of an object together, keys and values.
pub const ANNOTATION_BYTES_MAX: usize = 256 * 1024;

const METADATA: Path<'static> = Path::new("metadata");
const IMMUTABLE: &str = "field is immutable";

/// Kinds whose names follow another rule than [`NameRule::DnsSubdomain`], by group and plural.
const NAME_RULES: &[(&str, &str, NameRule)] = &[
    ("", "namespaces", NameRule::DnsLabel),
    ("", "services", NameRule::Dns1035Label),
    ("rbac.authorization.k8s.io", "roles", NameRule::PathSegment),
    ("rbac.authorization.k8s.io", "rolebindings", NameRule::PathSegment),
    ("rbac.authorization.k8s.io", "clusterroles", NameRule::PathSegment),
    ("rbac.authorization.k8s.io", "clusterrolebindings", NameRule::PathSegment),
    ("flowcontrol.apiserver.k8s.io", "flowschemas", NameRule::PathSegment),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", NameRule::PathSegment),
];

/// How objects of this kind may be named.
pub fn name_rule(kind: &Kind) -> NameRule {
    let row = NAME_RULES.iter().find(|(group, plural, _)| *group == kind.group && *plural == kind.plural);
    row.map_or(NameRule::DnsSubdomain, |(_, _, rule)| *rule)
}

/// What is wrong with the metadata of a new object.
pub fn create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (name, prefix, namespace) = (meta::name(object), meta::generate_name(object), meta::namespace(object));
    let rule = name_rule(kind);
    let mut named = |field: &str, value: &str, wrong: Vec<String>| {
        errors.extend(wrong.into_iter().map(|one| FieldError::invalid(&METADATA.child(field), value, one)));
    };
    if !prefix.is_empty() {
        named("generateName", prefix, rule.check(prefix, true));
    }
    if !name.is_empty() {
        named("name", name, rule.check(name, false));
    }
    if kind.namespaced && !namespace.is_empty() {
        named("namespace", namespace, names::dns1123_label(namespace));
    }
    if name.is_empty() {
        errors.push(FieldError::required(&METADATA.child("name"), "name or generateName is required"));
    }
    if kind.namespaced && namespace.is_empty() {
        errors.push(FieldError::required(&METADATA.child("namespace"), ""));
    }
    if !kind.namespaced && !namespace.is_empty() {
        errors.push(FieldError::forbidden(&METADATA.child("namespace"), "not allowed on this type"));
    }
    common(object, &mut errors);
    finalizers(object, &mut errors);
    errors
}

/// What is wrong with the metadata of `new` in the place of `old`.
pub fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if meta::is_terminating(old) {
        let kept = meta::finalizers(old);
        let added: Vec<&str> = meta::finalizers(new).into_iter().filter(|one| !kept.contains(one)).collect();
        if !added.is_empty() {
            let listed: Vec<String> = added.iter().map(|one| crate::field::go_quote(one)).collect();
            errors.push(FieldError::forbidden(
                &METADATA.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    listed.join(", ")
                ),
            ));
        }
    }
    if meta::resource_version(new).is_empty() {
        let at = METADATA.child("resourceVersion");
        errors.push(FieldError::invalid(&at, "", "must be specified for an update"));
    }
    if meta::generation(new) < meta::generation(old) {
        let at = METADATA.child("generation");
        errors.push(FieldError::invalid(&at, meta::generation(new), "must not be decremented"));
    }
    let fixed = ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];
    for field in fixed {
        let (new, old) = (dig::get(&new["metadata"], field), dig::get(&old["metadata"], field));
        if !dig::same(new, old) {
            errors.push(FieldError::invalid(&METADATA.child(field), new.clone(), IMMUTABLE));
        }
    }
    common(new, &mut errors);
    errors
}

fn common(object: &Value, errors: &mut Vec<FieldError>) {
    if meta::generation(object) < 0 {
        let at = METADATA.child("generation");
        errors.push(FieldError::invalid(&at, meta::generation(object), "must be greater than or equal to 0"));
    }
    labels(dig::get(object, "metadata.labels"), &METADATA.child("labels"), errors);
    annotations(object, errors);
    owner_references(object, errors);
}

/// What is wrong with a map of labels.
pub fn labels(labels: &Value, at: &Path, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or("");
        errors.extend(names::qualified_name(key).into_iter().map(|one| FieldError::invalid(at, key.as_str(), one)));
        errors.extend(names::label_value(value).into_iter().map(|one| FieldError::invalid(at, value, one)));
    }
}

fn annotations(object: &Value, errors: &mut Vec<FieldError>) {
    let at = METADATA.child("annotations");
    let mut bytes = 0;
    for (key, value) in meta::annotations(object) {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        let wrong = names::qualified_name(&key.to_lowercase());
        errors.extend(wrong.into_iter().map(|one| FieldError::invalid(&at, key.as_str(), one)));
    }
    if bytes > ANNOTATION_BYTES_MAX {
        errors.push(FieldError::too_long(&at, ANNOTATION_BYTES_MAX));
    }
}

fn owner_references(object: &Value, errors: &mut Vec<FieldError>) {
    let at = METADATA.child("ownerReferences");
    let mut controller: Option<String> = None;
    for (index, owner) in meta::owner_references(object).into_iter().enumerate() {
        let at_owner = at.index(index);
        let fields =
            [("apiVersion", owner.api_version), ("kind", owner.kind), ("name", owner.name), ("uid", owner.uid)];
        for (field, _) in fields.iter().filter(|(_, value)| value.is_empty()) {
            errors.push(FieldError::required(&at_owner.child(field), "must not be empty"));
        }
        if owner.api_version.matches('/').count() > 1 || owner.api_version.ends_with('/') {
            let rule = "must be <group>/<version> or <version>";
            errors.push(FieldError::invalid(&at_owner.child("apiVersion"), owner.api_version, rule));
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            let value = dig::list(object, "metadata.ownerReferences")[index].clone();
            errors.push(FieldError::invalid(&at_owner, value, "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner.controller {
            let name = format!("{}/{}", owner.kind, owner.name);
            match &controller {
                None => controller = Some(name),
                Some(first) => errors.push(FieldError::invalid(
                    &at,
                    dig::get(object, "metadata.ownerReferences").clone(),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {name}"
                    ),
                )),
            }
        }
    }
}

fn finalizers(object: &Value, errors: &mut Vec<FieldError>) {
    let at = METADATA.child("finalizers");
    let all = meta::finalizers(object);
    for finalizer in &all {
        errors
            .extend(names::qualified_name(finalizer).into_iter().map(|one| FieldError::invalid(&at, *finalizer, one)));
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        let value = dig::get(object, "metadata.finalizers").clone();
        let rule = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(&at, value, rule));
    }
}
