//! The rules of what extends the API: custom resource definitions and webhooks.

use super::wrong::Wrong;
use crate::dig;
use crate::field::Path;
use crate::meta;
use crate::names;
use serde_json::{Value, json};

const SPEC: Path<'static> = Path::new("spec");

pub(super) fn definition(object: &Value, wrong: &mut Wrong) {
    let spec = dig::get(object, "spec");
    let (group, plural) = (dig::text(spec, "group"), dig::text(spec, "names.plural"));
    if meta::name(object) != format!("{plural}.{group}") {
        wrong.invalid(&Path::new("metadata.name"), meta::name(object), "must be spec.names.plural+\".\"+spec.group");
    }
    wrong.name(spec, "group", names::dns1123_subdomain, &SPEC);
    if !group.is_empty() && !group.contains('.') {
        wrong.invalid(&SPEC.child("group"), group, "should be a domain with at least one dot");
    }
    wrong.one_of(spec, "scope", &["Cluster", "Namespaced"], &SPEC);
    let at = SPEC.child("names");
    let given = dig::get(spec, "names");
    wrong.name(given, "plural", names::dns1035_label, &at);
    wrong.text(given, "singular", names::dns1035_label, &at);
    for field in ["kind", "listKind"] {
        let name = dig::text(given, field);
        if name.is_empty() {
            wrong.required(&at.child(field), "");
        } else {
            wrong.all(&at.child(field), name, names::dns1035_label(&name.to_lowercase()));
        }
    }
    if dig::text(given, "kind") == dig::text(given, "listKind") && dig::has(given, "kind") {
        let rule = "kind and listKind may not be the same";
        wrong.invalid(&at.child("listKind"), dig::text(given, "listKind"), rule);
    }
    versions(spec, wrong);
    conversion(spec, wrong);
}

fn versions(spec: &Value, wrong: &mut Wrong) {
    let (versions, at) = (dig::list(spec, "versions"), SPEC.child("versions"));
    let mut taken = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let at = at.index(index);
        let name = dig::text(version, "name");
        wrong.all(&at.child("name"), name, names::dns1035_label(name));
        if taken.contains(&name) {
            wrong.invalid(&at.child("name"), name, "must be unique");
        }
        taken.push(name);
        let at = at.child("schema");
        let schema = dig::get(version, "schema.openAPIV3Schema");
        if schema.is_null() {
            wrong.required(&at.child("openAPIV3Schema"), "schemas are required");
        } else {
            root_schema(schema, &at.child("openAPIV3Schema"), wrong);
        }
    }
    if versions.iter().filter(|version| dig::flag(version, "storage")).count() != 1 {
        let shown = Value::from(versions.to_vec());
        wrong.invalid(&at, shown, "must have exactly one version marked as storage version");
    }
}

fn root_schema(schema: &Value, at: &Path, wrong: &mut Wrong) {
    match dig::text(schema, "type") {
        "object" => {}
        "" => wrong.required(&at.child("type"), "must not be empty at the root"),
        other => wrong.invalid(&at.child("type"), other, "must be object at the root"),
    }
}

fn conversion(spec: &Value, wrong: &mut Wrong) {
    let (conversion, at) = (dig::get(spec, "conversion"), SPEC.child("conversion"));
    wrong.one_of(conversion, "strategy", &["None", "Webhook"], &at);
    let has_webhook = dig::has(conversion, "webhook");
    match dig::text(conversion, "strategy") {
        "Webhook" if !dig::has(conversion, "webhook.clientConfig") => {
            let at = at.child("webhook");
            wrong.required(&at.child("clientConfig"), "required when strategy is set to Webhook");
        }
        "None" if has_webhook => {
            wrong.forbidden(&at.child("webhook"), "should not be set when strategy is not set to Webhook")
        }
        _ => {}
    }
}

pub(super) fn definition_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    let is_established = dig::list(old, "status.conditions")
        .iter()
        .any(|one| dig::text(one, "type") == "Established" && dig::text(one, "status") == "True");
    let (new_spec, old_spec) = (dig::get(new, "spec"), dig::get(old, "spec"));
    if is_established {
        wrong.fixed(new_spec, old_spec, "scope", &SPEC);
        let at = SPEC.child("names");
        wrong.fixed(dig::get(new_spec, "names"), dig::get(old_spec, "names"), "kind", &at);
    }
    wrong.fixed(new_spec, old_spec, "group", &SPEC);
    let kept: Vec<&str> = dig::list(new_spec, "versions").iter().map(|version| dig::text(version, "name")).collect();
    let at = Path::new("status.storedVersions");
    for (index, stored) in dig::texts(new, "status.storedVersions").into_iter().enumerate() {
        if !kept.contains(&stored) {
            let rule = "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until \
                        a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions"
                .replace("v1", stored);
            wrong.invalid(&at.index(index), stored, rule);
        }
    }
}

/// The lists of a rule, and what stands in them; `*` stands alone, but for resources, which it leaves subresources.
const RULE_LISTS: [(&str, &str); 4] =
    [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions"), ("resources", "")];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];

pub(super) fn webhooks(object: &Value, wrong: &mut Wrong) {
    let (at, mut taken) = (Path::new("webhooks"), Vec::new());
    for (index, hook) in dig::list(object, "webhooks").iter().enumerate() {
        let at = at.index(index);
        let name = dig::text(hook, "name");
        if name.is_empty() {
            wrong.required(&at.child("name"), "");
        } else {
            wrong.all(&at.child("name"), name, names::dns1123_subdomain(name));
            if name.split('.').count() < 3 {
                let rule = "should be a domain with at least three segments separated by dots";
                wrong.invalid(&at.child("name"), name, rule);
            }
        }
        if taken.contains(&name) {
            wrong.duplicate(&at.child("name"), name);
        }
        taken.push(name);
        hook_fields(hook, &at, wrong);
        let at = at.child("rules");
        for (index, rule) in dig::list(hook, "rules").iter().enumerate() {
            hook_rule(rule, &at.index(index), wrong);
        }
    }
}

fn hook_fields(hook: &Value, at: &Path, wrong: &mut Wrong) {
    wrong.one_of_if_set(hook, "failurePolicy", &["Fail", "Ignore"], at);
    wrong.one_of_if_set(hook, "matchPolicy", &["Equivalent", "Exact"], at);
    wrong.one_of_if_set(hook, "reinvocationPolicy", &["IfNeeded", "Never"], at);
    let effects = dig::text(hook, "sideEffects");
    if effects.is_empty() {
        wrong.required(&at.child("sideEffects"), "must specify one of None, NoneOnDryRun");
    } else {
        wrong.one_of(hook, "sideEffects", &["None", "NoneOnDryRun"], at);
    }
    if let Some(seconds) = dig::int(hook, "timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds)) {
        wrong.invalid(&at.child("timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds");
    }
    for field in ["namespaceSelector", "objectSelector"] {
        wrong.selector(dig::get(hook, field), &at.child(field));
    }
    let (client, at_client) = (dig::get(hook, "clientConfig"), at.child("clientConfig"));
    if dig::has(client, "url") == dig::has(client, "service") {
        wrong.required(&at_client, "exactly one of url or service is required");
    }
    let versions = dig::texts(hook, "admissionReviewVersions");
    if versions.is_empty() {
        wrong.required(&at.child("admissionReviewVersions"), "must specify one of v1, v1beta1");
    } else if !versions.iter().any(|version| ["v1", "v1beta1"].contains(version)) {
        let rule = "must include at least one of v1, v1beta1";
        wrong.invalid(&at.child("admissionReviewVersions"), json!(versions), rule);
    }
}

fn hook_rule(rule: &Value, at: &Path, wrong: &mut Wrong) {
    for (field, others) in RULE_LISTS {
        let values = dig::texts(rule, field);
        if values.is_empty() {
            wrong.required(&at.child(field), "");
        }
        if values.len() > 1 && values.contains(&"*") && !others.is_empty() {
            wrong.invalid(
                &at.child(field),
                json!(values),
                format!("if '*' is present, must not specify other {others}"),
            );
        }
    }
    let at_operations = at.child("operations");
    for (index, operation) in dig::texts(rule, "operations").into_iter().enumerate() {
        if !OPERATIONS.contains(&operation) {
            wrong.not_supported(&at_operations.index(index), operation, &OPERATIONS);
        }
    }
    wrong.one_of_if_set(rule, "scope", &["*", "Cluster", "Namespaced"], at);
}
