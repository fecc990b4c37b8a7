//! Holds an object to the schema of its definition, in the words of upstream's validator.
//!
//! Start at [`check`]. `metadata` is left out: it has rules of its own (`validation`).
//!
//! Invariants: errors come in the order of the schema's keywords and the object's keys; at most [`ERRORS_MAX`].
//!
//! Not here: pruning (`check`), defaults (`defaults`), rules in CEL (`x-kubernetes-validations`).

use regex_lite::Regex;
use serde_json::Value;

use crate::dig;
use crate::field::{FieldError, Path};
use crate::names;

/// After so many errors the rest is of no use to anybody.
const ERRORS_MAX: usize = 100;

/// Objects nest no deeper than this.
const DEPTH_MAX: usize = 128;

/// What of the object breaks the schema.
pub fn check(schema: &Value, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    value_at(schema, object, &Path::ROOT, &mut errors, 0);
    errors.truncate(ERRORS_MAX);
    errors
}

/// What of a value somewhere inside an object breaks its part of the schema.
pub(super) fn check_at(schema: &Value, value: &Value, at: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    value_at(schema, value, at, &mut errors, 1);
    errors.truncate(ERRORS_MAX);
    errors
}

fn value_at(schema: &Value, value: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>, depth: usize) {
    if errors.len() >= ERRORS_MAX || depth > DEPTH_MAX || (value.is_null() && schema["nullable"] == true) {
        return;
    }
    if !fits(schema, value) {
        let wanted =
            if schema["x-kubernetes-int-or-string"] == true { "integer,string" } else { dig::text(schema, "type") };
        let found = type_name(value);
        let detail = format!("{at} in body must be of type {wanted}: \"{found}\"");
        errors.push(FieldError::type_invalid(at, found, detail));
        return;
    }
    allowed(schema, value, at, errors);
    match value {
        Value::String(text) => text_rules(schema, text, at, errors),
        Value::Number(number) => number_rules(schema, number.as_f64().unwrap_or_default(), value, at, errors),
        Value::Array(items) => list_rules(schema, items, at, errors, depth),
        Value::Object(_) => object_rules(schema, value, at, errors, depth),
        Value::Null | Value::Bool(_) => {}
    }
    unions(schema, value, at, errors, depth);
}

/// The value has the schema's type; a schema without one takes any.
fn fits(schema: &Value, value: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return value.is_string() || is_whole(value);
    }
    match dig::text(schema, "type") {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => is_whole(value),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_whole(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn allowed(schema: &Value, value: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let Some(allowed) = schema.get("enum").and_then(Value::as_array) else { return };
    if !allowed.contains(value) {
        let words: Vec<String> =
            allowed.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(at, value.clone(), &words));
    }
}

fn text_rules(schema: &Value, text: &str, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let length = text.chars().count() as i64;
    if let Some(most) = dig::int(schema, "maxLength").filter(|most| length > *most) {
        errors.push(FieldError::invalid(at, text, format!("{at} in body should be at most {most} chars long")));
    }
    if let Some(least) = dig::int(schema, "minLength").filter(|least| length < *least) {
        errors.push(FieldError::invalid(at, text, format!("{at} in body should be at least {least} chars long")));
    }
    let pattern = dig::text(schema, "pattern");
    // A pattern that cannot be read matches nothing: upstream refuses the definition, so none should come here.
    if !pattern.is_empty() && !Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text)) {
        errors.push(FieldError::invalid(at, text, format!("{at} in body should match '{pattern}'")));
    }
    let format = dig::text(schema, "format");
    if !has_format(format, text) {
        errors.push(FieldError::invalid(at, text, format!("{at} in body must be of type {format}: \"{text}\"")));
    }
}

/// The formats that upstream checks and that are in use; the others say nothing.
fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "byte" => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).is_ok(),
        "duration" => crate::duration::parse(text).is_some(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "hostname" => names::dns1123_subdomain(&text.to_lowercase()).is_empty(),
        "uuid" => {
            let plain: String = text.chars().filter(|c| *c != '-').collect();
            plain.len() == 32 && plain.bytes().all(|byte| byte.is_ascii_hexdigit())
        }
        _ => true,
    }
}

fn number_rules(schema: &Value, number: f64, value: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let limit = |key: &str| schema.get(key).and_then(Value::as_f64);
    let plain = |limit: f64| Value::from(limit).as_f64().map_or_else(String::new, |limit| limit.to_string());
    if let Some(most) = limit("maximum") {
        let exclusive = schema["exclusiveMaximum"] == true;
        if number > most || (exclusive && number == most) {
            let words = if exclusive { "less than" } else { "less than or equal to" };
            errors.push(FieldError::invalid(
                at,
                value.clone(),
                format!("{at} in body should be {words} {}", plain(most)),
            ));
        }
    }
    if let Some(least) = limit("minimum") {
        let exclusive = schema["exclusiveMinimum"] == true;
        if number < least || (exclusive && number == least) {
            let words = if exclusive { "greater than" } else { "greater than or equal to" };
            errors.push(FieldError::invalid(
                at,
                value.clone(),
                format!("{at} in body should be {words} {}", plain(least)),
            ));
        }
    }
    if let Some(factor) = limit("multipleOf").filter(|factor| *factor != 0.0 && (number / factor).fract() != 0.0) {
        errors.push(FieldError::invalid(
            at,
            value.clone(),
            format!("{at} in body should be a multiple of {}", plain(factor)),
        ));
    }
    let fits = match dig::text(schema, "format") {
        "int32" => number >= f64::from(i32::MIN) && number <= f64::from(i32::MAX),
        _ => true,
    };
    if !fits {
        errors.push(FieldError::invalid(at, value.clone(), format!("{at} in body must be of type int32: \"{value}\"")));
    }
}

fn list_rules(schema: &Value, items: &[Value], at: &Path<'_>, errors: &mut Vec<FieldError>, depth: usize) {
    let count = items.len() as i64;
    if let Some(most) = dig::int(schema, "maxItems").filter(|most| count > *most) {
        errors.push(FieldError::too_many(at, count as usize, most as usize));
    }
    if let Some(least) = dig::int(schema, "minItems").filter(|least| count < *least) {
        errors.push(FieldError::invalid(at, count, format!("{at} in body should have at least {least} items")));
    }
    let keys = dig::texts(schema, "x-kubernetes-list-map-keys");
    let key_of = |item: &Value| match keys.is_empty() {
        true => item.clone(),
        false => keys.iter().map(|key| ((*key).to_owned(), item[key].clone())).collect(),
    };
    let unique = matches!(dig::text(schema, "x-kubernetes-list-type"), "set" | "map");
    let mut taken: Vec<Value> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let at = at.index(index);
        value_at(dig::get(schema, "items"), item, &at, errors, depth + 1);
        let key = key_of(item);
        if unique && taken.contains(&key) {
            errors.push(FieldError::duplicate(&at, key));
        } else if unique {
            taken.push(key);
        }
    }
}

fn object_rules(schema: &Value, value: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>, depth: usize) {
    let Some(fields) = value.as_object() else { return };
    let count = fields.len() as i64;
    if let Some(most) = dig::int(schema, "maxProperties").filter(|most| count > *most) {
        errors.push(FieldError::too_many(at, count as usize, most as usize));
    }
    if let Some(least) = dig::int(schema, "minProperties").filter(|least| count < *least) {
        errors.push(FieldError::invalid(at, count, format!("{at} in body should have at least {least} properties")));
    }
    for field in dig::texts(schema, "required").into_iter().filter(|field| !fields.contains_key(*field)) {
        errors.push(FieldError::required(&at.child(field), ""));
    }
    let properties = dig::map(schema, "properties");
    let others = schema.get("additionalProperties").filter(|others| others.is_object());
    let is_ours = |name: &str| depth > 0 || !["apiVersion", "kind", "metadata"].contains(&name);
    for (name, value) in fields.iter().filter(|(name, _)| is_ours(name)) {
        match (properties.get(name), others) {
            (Some(property), _) => value_at(property, value, &at.child(name), errors, depth + 1),
            (None, Some(others)) => value_at(others, value, &at.child(name), errors, depth + 1),
            (None, None) => {}
        }
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not`: they add rules, never structure.
fn unions(schema: &Value, value: &Value, at: &Path<'_>, errors: &mut Vec<FieldError>, depth: usize) {
    let holds = |one: &Value| {
        let mut found = Vec::new();
        value_at(one, value, at, &mut found, depth + 1);
        found.is_empty()
    };
    for one in dig::list(schema, "allOf") {
        value_at(one, value, at, errors, depth + 1);
    }
    let any = dig::list(schema, "anyOf");
    if !any.is_empty() && !any.iter().any(holds) {
        let detail = format!("{at} in body must validate at least one schema (anyOf)");
        errors.push(FieldError::invalid(at, value.clone(), detail));
    }
    let one_of = dig::list(schema, "oneOf");
    if !one_of.is_empty() && one_of.iter().filter(|one| holds(one)).count() != 1 {
        let detail = format!("{at} in body must validate one and only one schema (oneOf)");
        errors.push(FieldError::invalid(at, value.clone(), detail));
    }
    if schema.get("not").is_some_and(holds) {
        let detail = format!("{at} in body must not validate the schema (not)");
        errors.push(FieldError::invalid(at, value.clone(), detail));
    }
}
