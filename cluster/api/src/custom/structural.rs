//! Whether a definition's schema is structural: every value has one type, said once, so that pruning and defaulting know
//! what they look at.
//!
//! Start at [`wrong`]. The sentences are upstream's.
//!
//! Invariant: errors come in the schema's order; at most [`ERRORS_MAX`].
//!
//! Not here: names and versions (`validation`). Rules in CEL are refused by name: nothing evaluates them yet.

use regex_lite::Regex;
use serde_json::{Value, json};

use super::rules;
use crate::dig;
use crate::field::{FieldError, Path};

/// After so many errors the rest is of no use to anybody.
const ERRORS_MAX: usize = 100;

/// Below a definition's properties nothing may say this.
const NOT_NESTED: [(&str, &str); 12] = [
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
];

/// Keywords of JSON schema that Kubernetes does not have.
const UNSUPPORTED: [(&str, &str); 7] = [
    ("$ref", "$ref is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("deprecated", "deprecated is not supported"),
    ("id", "id is not supported"),
    ("patternProperties", "patternProperties is not supported"),
    ("additionalItems", "additionalItems is not supported"),
];

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// Where in a definition's schema a value stands, which decides the words.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What is wrong with a version's schema.
pub(crate) fn wrong(schema: &Value, at: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if schema["nullable"] == true {
        errors.push(FieldError::forbidden(&at.child("nullable"), "nullable cannot be true at the root"));
    }
    structure(schema, Level::Root, at, &mut errors);
    if errors.is_empty() {
        defaults(schema, at, &mut errors);
    }
    errors.truncate(ERRORS_MAX);
    errors
}

fn structure(schema: &Value, level: Level, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    if errors.len() >= ERRORS_MAX {
        return;
    }
    typed(schema, level, at, errors);
    keywords(schema, at, errors);
    extensions(schema, at, errors);
    let items = dig::get(schema, "items");
    match items {
        Value::Null if dig::text(schema, "type") == "array" => {
            errors.push(FieldError::required(&at.child("items"), "must be specified"));
        }
        Value::Array(_) => {
            errors.push(FieldError::forbidden(&at.child("items"), "items must be a schema object and not an array"));
        }
        Value::Object(_) => structure(items, Level::Item, &at.child("items"), errors),
        _ => {}
    }
    let at_properties = at.child("properties");
    for (name, property) in dig::map(schema, "properties") {
        let at = at_properties.key(name);
        match (name.as_str(), level) {
            ("metadata", Level::Root) => metadata(property, &at, errors),
            ("apiVersion" | "kind", Level::Root) if property["type"] != "string" => {
                let ty = dig::text(property, "type");
                errors.push(FieldError::invalid(&at.child("type"), ty, "must be string"));
            }
            _ => structure(property, Level::Field, &at, errors),
        }
    }
    match schema.get("additionalProperties") {
        None | Some(Value::Null) => {}
        Some(others) => {
            let at = at.child("additionalProperties");
            if level == Level::Root {
                errors.push(FieldError::forbidden(&at, "must not be used at the root"));
            } else if !dig::map(schema, "properties").is_empty() && *others != true {
                let why = "additionalProperties and properties are mutual exclusive";
                errors.push(FieldError::forbidden(&at, why));
            }
            if others.is_object() {
                structure(others, Level::Field, &at, errors);
            }
        }
    }
    junctors(schema, at, errors);
}

fn typed(schema: &Value, level: Level, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let flag = |key: &str| schema[key] == true;
    let ty = dig::text(schema, "type");
    let at = at.child("type");
    let embedded = flag("x-kubernetes-embedded-resource");
    match (ty, level) {
        ("object", _) => {}
        ("", _) if embedded => {
            errors.push(FieldError::required(&at, "must be object if x-kubernetes-embedded-resource is true"));
        }
        (other, _) if embedded => {
            let why = "must be object if x-kubernetes-embedded-resource is true";
            errors.push(FieldError::invalid(&at, other, why));
        }
        ("", Level::Root) => errors.push(FieldError::required(&at, "must not be empty at the root")),
        ("", _) if flag("x-kubernetes-int-or-string") || flag("x-kubernetes-preserve-unknown-fields") => {}
        ("", Level::Item) => {
            errors.push(FieldError::required(&at, "must not be empty for specified array items"));
        }
        ("", Level::Field) => {
            errors.push(FieldError::required(&at, "must not be empty for specified object fields"));
        }
        (other, _) if !TYPES.contains(&other) => errors.push(FieldError::not_supported(&at, other, &TYPES)),
        (other, Level::Root) => errors.push(FieldError::invalid(&at, other, "must be object at the root")),
        _ => {}
    }
}

/// The root's metadata is every object's: a definition may only narrow the names.
fn metadata(schema: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    if schema["type"] != "object" {
        errors.push(FieldError::invalid(&at.child("type"), dig::text(schema, "type"), "must be object"));
    }
    let others = schema.as_object().into_iter().flatten().filter(|(key, _)| *key != "type" && *key != "properties");
    let names = dig::map(schema, "properties").keys().all(|name| name == "name" || name == "generateName");
    if others.count() > 0 || !names {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(at, why));
    }
}

fn keywords(schema: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (keyword, why) in UNSUPPORTED {
        if !dig::is_zero(&schema[keyword]) {
            errors.push(FieldError::forbidden(&at.child(keyword), why));
        }
    }
    if schema["uniqueItems"] == true {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(&at.child("uniqueItems"), why));
    }
    let pattern = dig::text(schema, "pattern");
    if let Err(error) = Regex::new(pattern) {
        let why = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(&at.child("pattern"), pattern, why));
    }
}

fn extensions(schema: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
    const EMBEDDED: &str = "x-kubernetes-embedded-resource";
    let int_or_string = schema["x-kubernetes-int-or-string"] == true;
    if schema.get(PRESERVE) == Some(&Value::Bool(false)) {
        errors.push(FieldError::invalid(&at.child(PRESERVE), false, "must be true or undefined"));
    }
    for key in [PRESERVE, EMBEDDED] {
        if int_or_string && schema[key] == true {
            let why = "must be false if x-kubernetes-int-or-string is true";
            errors.push(FieldError::invalid(&at.child(key), true, why));
        }
    }
    if schema[EMBEDDED] == true && schema[PRESERVE] != true && dig::map(schema, "properties").is_empty() {
        let why =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(&at.child("properties"), why));
    }
    merging(schema, ("x-kubernetes-map-type", "object", &["atomic", "granular"]), at, errors);
    merging(schema, ("x-kubernetes-list-type", "array", &["atomic", "set", "map"]), at, errors);
    list_map(schema, at, errors);
    if !dig::list(schema, "x-kubernetes-validations").is_empty() {
        // Taken and not evaluated, they would let through what their author forbids.
        let why = "rules in CEL are not evaluated by this version of Skerry, so a schema that has any is refused";
        errors.push(FieldError::forbidden(&at.child("x-kubernetes-validations"), why));
    }
}

/// How a list or map merges: the extension, the type it belongs to, what it may say.
fn merging(schema: &Value, (key, wanted, allowed): (&str, &str, &[&str]), at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let (Some(says), ty) = (schema[key].as_str(), dig::text(schema, "type")) else { return };
    let why = format!("must be {wanted} if {key} is specified");
    match ty {
        ty if ty == wanted => {}
        "" => errors.push(FieldError::required(&at.child("type"), why)),
        ty => errors.push(FieldError::invalid(&at.child("type"), ty, why)),
    }
    if !allowed.contains(&says) {
        errors.push(FieldError::not_supported(&at.child(key), says, allowed));
    }
}

fn list_map(schema: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let (ty, keys) = (schema["x-kubernetes-list-type"].as_str(), dig::texts(schema, "x-kubernetes-list-map-keys"));
    let (at_ty, at_keys) = (at.child("x-kubernetes-list-type"), at.child("x-kubernetes-list-map-keys"));
    if ty != Some("map") {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        match ty {
            _ if keys.is_empty() => {}
            None => errors.push(FieldError::required(&at_ty, why)),
            Some(ty) => errors.push(FieldError::invalid(&at_ty, ty, why)),
        }
        return;
    }
    if keys.is_empty() {
        errors.push(FieldError::required(&at_keys, "must not be empty if x-kubernetes-list-type is map"));
    }
    let items = dig::get(schema, "items");
    if dig::text(items, "type") != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(FieldError::invalid(&at.child("items").child("type"), dig::text(items, "type"), why));
        return;
    }
    let properties = dig::map(items, "properties");
    for (index, key) in keys.iter().enumerate() {
        match properties.get(*key).map(|property| dig::text(property, "type")) {
            None => {
                let why = "entries must all be names of item properties";
                errors.push(FieldError::invalid(&at_keys, json!(keys), why));
            }
            Some("array" | "object") => {
                let at = at.child("items");
                let at = at.child("properties");
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.push(FieldError::invalid(&at.key(key).child("type"), "object", why));
            }
            Some(_) => {}
        }
        if keys[..index].contains(key) {
            errors.push(FieldError::invalid(&at_keys, json!(keys), "must not contain duplicate entries"));
        }
    }
}

/// `allOf` and its like: rules about values, never about structure.
fn junctors(schema: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let is_either = |one: &Value| {
        let any = dig::list(one, "anyOf");
        schema["x-kubernetes-int-or-string"] == true && *any == [json!({"type": "integer"}), json!({"type": "string"})]
    };
    for (key, excepted) in [("anyOf", is_either(schema)), ("allOf", false), ("oneOf", false)] {
        let at = at.child(key);
        for (index, one) in dig::list(schema, key).iter().enumerate().filter(|_| !excepted) {
            if !(key == "allOf" && index == 0 && is_either(one)) {
                nested(one, &at.index(index), errors);
            }
        }
    }
    if let Some(not) = schema.get("not").filter(|not| not.is_object()) {
        nested(not, &at.child("not"), errors);
    }
}

fn nested(schema: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    if errors.len() >= ERRORS_MAX {
        return;
    }
    for (key, why) in NOT_NESTED {
        if !dig::is_zero(&schema[key]) {
            errors.push(FieldError::forbidden(&at.child(key), why));
        }
    }
    if !dig::list(schema, "x-kubernetes-validations").is_empty() {
        let why = "must be empty to be structural";
        errors.push(FieldError::forbidden(&at.child("x-kubernetes-validations"), why));
    }
    keywords(schema, at, errors);
    let at_properties = at.child("properties");
    for (name, property) in dig::map(schema, "properties") {
        if name == "metadata" {
            let why = "must not be specified in a nested context";
            errors.push(FieldError::forbidden(&at_properties.key(name), why));
        }
        nested(property, &at_properties.key(name), errors);
    }
    if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
        nested(items, &at.child("items"), errors);
    }
    junctors(schema, at, errors);
}

/// A default must be a value that the schema takes.
fn defaults(schema: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
        let at = at.child("default");
        errors.extend(rules::check_at(schema, default, &at));
    }
    let at_properties = at.child("properties");
    for (name, property) in dig::map(schema, "properties") {
        defaults(property, &at_properties.key(name), errors);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(key).filter(|inner| inner.is_object()) {
            defaults(inner, &at.child(key), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(field: Value, want: &[&str]) {
        let schema = json!({"type": "object", "properties": {"a": field}});
        let errors: Vec<String> = wrong(&schema, &Path::new("s")).iter().map(ToString::to_string).collect();
        assert_eq!(errors, want);
    }

    #[test]
    fn structural_schemas_pass() {
        check(json!({"type": "string", "default": "x", "pattern": "^x"}), &[]);
        check(json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}), &[]);
        check(json!({"type": "object", "additionalProperties": {"type": "string"}}), &[]);
        check(json!({"type": "object", "oneOf": [{"required": ["b"]}], "properties": {"b": {"type": "string"}}}), &[]);
        check(json!({"x-kubernetes-preserve-unknown-fields": true}), &[]);
    }

    #[test]
    fn others_are_refused_in_upstreams_words() {
        check(json!({}), &["s.properties[a].type: Required value: must not be empty for specified object fields"]);
        check(json!({"type": "array"}), &["s.properties[a].items: Required value: must be specified"]);
        check(
            json!({"type": "array", "items": {}}),
            &["s.properties[a].items.type: Required value: must not be empty for specified array items"],
        );
        check(
            json!({"type": "text"}),
            &[
                "s.properties[a].type: Unsupported value: \"text\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ],
        );
        check(
            json!({"type": "string", "allOf": [{"type": "string"}]}),
            &["s.properties[a].allOf[0].type: Forbidden: must be empty to be structural"],
        );
        check(
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "map"}),
            &[
                "s.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
                "s.properties[a].items.type: Invalid value: \"string\": must be object if parent array's x-kubernetes-list-type is map",
            ],
        );
        check(
            json!({"type": "integer", "default": "x"}),
            &[
                "s.properties[a].default: Invalid value: \"string\": s.properties[a].default in body must be of type integer: \"string\"",
            ],
        );
        check(
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "self != ''"}]}),
            &[
                "s.properties[a].x-kubernetes-validations: Forbidden: rules in CEL are not evaluated by this version of Skerry, so a schema that has any is refused",
            ],
        );
        check(json!({"type": "string", "$ref": "x"}), &["s.properties[a].$ref: Forbidden: $ref is not supported"]);
    }

    #[test]
    fn metadata_is_not_the_definitions() {
        let schema = json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}});
        let errors = wrong(&schema, &Path::new("s"));
        assert_eq!(
            errors[0].to_string(),
            "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"
        );
    }
}
