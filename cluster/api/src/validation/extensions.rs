//! The rules of what extends the API: custom resource definitions and webhooks.

use super::wrong::Wrong;
use crate::custom;
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
    joined(spec, "group", names::dns1123_subdomain, "", &SPEC, wrong);
    if group.is_empty() {
        wrong.required(&SPEC.child("group"), "");
    } else if names::dns1123_subdomain(group).is_empty() && !group.contains('.') {
        wrong.invalid(&SPEC.child("group"), group, "should be a domain with at least one dot");
    }
    approval(object, group, wrong);
    wrong.one_of(spec, "scope", &["Cluster", "Namespaced"], &SPEC);
    versions(spec, wrong);
    let at = SPEC.child("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        wrong.need_text(dig::get(spec, "names"), field, &at);
    }
    given_names(dig::get(spec, "names"), &at, wrong);
    conversion(spec, wrong);
}

/// One error for all that is wrong with a name.
fn joined(value: &Value, field: &str, check: fn(&str) -> Vec<String>, before: &str, at: &Path, wrong: &mut Wrong) {
    let text = dig::text(value, field);
    let sentences = check(text);
    if !text.is_empty() && !sentences.is_empty() {
        wrong.invalid(&at.child(field), text, format!("{before}{}", sentences.join(",")));
    }
}

/// Groups of Kubernetes' own are for its own definitions, which say where that was agreed.
fn approval(object: &Value, group: &str, wrong: &mut Wrong) {
    const ANNOTATION: &str = "api-approved.kubernetes.io";
    if !["k8s.io", "kubernetes.io"].iter().any(|own| group == *own || group.ends_with(&format!(".{own}"))) {
        return;
    }
    let at = Path::new("metadata.annotations");
    match meta::annotation(object, ANNOTATION).unwrap_or_default() {
        "" => wrong.required(
            &at.key(ANNOTATION),
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        ),
        given if given.starts_with("unapproved") || given.starts_with("https://") || given.starts_with("http://") => {}
        given => wrong.invalid(
            &at.key(ANNOTATION),
            given,
            "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111",
        ),
    }
}

fn given_names(given: &Value, at: &Path, wrong: &mut Wrong) {
    joined(given, "plural", names::dns1035_label, "", at, wrong);
    joined(given, "singular", names::dns1035_label, "", at, wrong);
    for field in ["kind", "listKind"] {
        let check = |name: &str| names::dns1035_label(&name.to_lowercase());
        joined(given, field, check, "may have mixed case, but should otherwise match: ", at, wrong);
    }
    let words = |field: &str, wrong: &mut Wrong| {
        let at = at.child(field);
        for (index, word) in dig::texts(given, field).into_iter().enumerate() {
            let sentences = names::dns1035_label(word);
            if !sentences.is_empty() {
                wrong.invalid(&at.index(index), word, sentences.join(","));
            }
        }
    };
    words("shortNames", wrong);
    if dig::text(given, "kind") == dig::text(given, "listKind") && dig::has(given, "kind") {
        let rule = "kind and listKind may not be the same";
        wrong.invalid(&at.child("listKind"), dig::text(given, "listKind"), rule);
    }
    words("categories", wrong);
}

fn versions(spec: &Value, wrong: &mut Wrong) {
    let (versions, at) = (dig::list(spec, "versions"), SPEC.child("versions"));
    let mut taken = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let at = at.index(index);
        joined(version, "name", names::dns1035_label, "", &at, wrong);
        wrong.need_text(version, "name", &at);
        taken.push(dig::text(version, "name"));
        self::version(version, &at, wrong);
    }
    let shown = || Value::from(versions.to_vec());
    let count = taken.len();
    taken.sort_unstable();
    taken.dedup();
    if taken.len() < count {
        wrong.invalid(&at, shown(), "must contain unique version names");
    }
    if versions.iter().filter(|version| dig::flag(version, "storage")).count() != 1 {
        wrong.invalid(&at, shown(), "must have exactly one version marked as storage version");
    }
}

fn version(version: &Value, at: &Path, wrong: &mut Wrong) {
    if dig::has(version, "deprecationWarning") && !dig::flag(version, "deprecated") {
        let given = dig::text(version, "deprecationWarning");
        wrong.invalid(&at.child("deprecationWarning"), given, "can only be set for deprecated versions");
    }
    let at_schema = at.child("schema");
    let at_schema = at_schema.child("openAPIV3Schema");
    let schema = dig::get(version, "schema.openAPIV3Schema");
    match schema {
        Value::Null => wrong.required(&at_schema, "schemas are required"),
        schema => wrong.0.extend(custom::structural_errors(schema, &at_schema)),
    }
    scale_paths(dig::get(version, "subresources.scale"), at, wrong);
    let at_columns = at.child("additionalPrinterColumns");
    for (index, column) in dig::list(version, "additionalPrinterColumns").iter().enumerate() {
        printer_column(column, &at_columns.index(index), wrong);
    }
    let at_selectable = at.child("selectableFields");
    let mut taken = Vec::new();
    for (index, field) in dig::list(version, "selectableFields").iter().enumerate() {
        selectable_field(dig::text(field, "jsonPath"), schema, &mut taken, &at_selectable.index(index), wrong);
    }
    if taken.len() > SELECTABLE_MAX {
        wrong.too_many(&at_selectable, taken.len(), SELECTABLE_MAX);
    }
}

fn scale_paths(scale: &Value, at: &Path, wrong: &mut Wrong) {
    if scale.is_null() {
        return;
    }
    let at = at.child("subresources");
    let at = at.child("scale");
    let fields = [
        ("specReplicasPath", true, ".spec."),
        ("statusReplicasPath", true, ".status."),
        ("labelSelectorPath", false, ".spec.\" or \".status."),
    ];
    for (field, required, folder) in fields {
        let (given, at) = (dig::text(scale, field), at.child(field));
        let begins = folder.split("\" or \"").any(|folder| given.starts_with(folder));
        match given {
            "" if required => wrong.required(&at, ""),
            "" => {}
            given if !begins && !required => {
                wrong.invalid(&at, given, "should be a json path under either .spec or .status");
            }
            given if !begins => {
                let folder = folder.trim_end_matches('.');
                wrong.invalid(&at, given, format!("should be a json path under {folder}"));
            }
            given => path_rule(given, &at, wrong),
        }
    }
}

fn path_rule(path: &str, at: &Path, wrong: &mut Wrong) {
    if !path.starts_with('.') && !path.starts_with('[') {
        wrong.invalid(at, path, "must be a simple json path starting with .");
    } else if let Err(error) = custom::Path::parse(path) {
        wrong.invalid(at, path, format!("must be a valid json path, but isn't: {error}"));
    }
}

const COLUMN_TYPES: &str = "boolean,date,integer,number,string";
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

fn printer_column(column: &Value, at: &Path, wrong: &mut Wrong) {
    wrong.need_text(column, "name", at);
    let must = format!("must be one of {COLUMN_TYPES}");
    match dig::text(column, "type") {
        "" => wrong.required(&at.child("type"), &must),
        ty if !COLUMN_TYPES.split(',').any(|known| known == ty) => wrong.invalid(&at.child("type"), ty, must),
        _ => {}
    }
    let format = dig::text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        wrong.invalid(&at.child("format"), format, format!("must be one of {}", COLUMN_FORMATS.join(",")));
    }
    match dig::text(column, "jsonPath") {
        "" => wrong.required(&at.child("JSONPath"), ""),
        path => path_rule(path, &at.child("JSONPath"), wrong),
    }
}

/// So many fields of a version can be selected by.
const SELECTABLE_MAX: usize = 8;

fn selectable_field(path: &str, schema: &Value, taken: &mut Vec<String>, at: &Path, wrong: &mut Wrong) {
    let at = at.child("jsonPath");
    if path.is_empty() {
        return wrong.required(&at, "");
    }
    let parsed = custom::Path::parse(path).ok();
    let Some(names) = parsed.as_ref().and_then(custom::Path::names).filter(|_| path.starts_with('.')) else {
        return wrong.invalid(&at, path, "is an invalid path: only fields may be named, each behind a dot");
    };
    let mut here = schema;
    for name in &names {
        match dig::map(here, "properties").get(*name) {
            Some(property) => here = property,
            None if names[0] == "metadata" => break,
            None => {
                return wrong.invalid(
                    &at,
                    path,
                    format!("is an invalid path: does not refer to a valid field: {name}"),
                );
            }
        }
    }
    if names[0] == "metadata" {
        wrong.invalid(&at, path, "must not point to fields in metadata");
    }
    if !["string", "boolean", "integer"].contains(&dig::text(here, "type")) {
        let rule = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
        wrong.invalid(&at, path, rule);
    }
    if taken.iter().any(|one| one == path) {
        wrong.duplicate(&at, path);
    } else {
        taken.push(path.to_owned());
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
        // With one version there is nothing to convert.
        "Webhook" if dig::list(spec, "versions").len() > 1 => {
            let why =
                "conversion by webhook is not done by this version of Skerry, so several versions need strategy None";
            wrong.forbidden(&at.child("strategy"), why);
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
    let at_names = SPEC.child("names");
    wrong.fixed(dig::get(new_spec, "names"), dig::get(old_spec, "names"), "plural", &at_names);
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
