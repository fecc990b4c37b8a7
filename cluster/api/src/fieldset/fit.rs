//! What in a configuration does not fit the schema, in upstream's words.
//!
//! Start at [`misfits`]. An apply patch is merged before it is read into types, so it is checked before that: fields the
//! schema does not know, values of the wrong sort, items that cannot be told apart.
//!
//! Not here: what values are allowed (`validation`), patches that are merged without a schema (`check`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::path;
use super::shape::element;
use crate::schema::{ListTy, Topology, Ty, Type};

/// Everything that does not fit, as upstream prints it; `None` if all does.
pub fn misfits(ty: &Type, configuration: &Value) -> Option<String> {
    let mut found = Vec::new();
    members(ty, configuration, "", &mut found);
    match found.len() {
        0 => None,
        1 => found.pop(),
        _ => Some(found.into_iter().fold("errors:".to_owned(), |all, one| format!("{all}\n  {one}"))),
    }
}

fn members(ty: &Type, value: &Value, at: &str, found: &mut Vec<String>) {
    let Value::Object(fields) = value else { return complain("map", value, at, found) };
    for (name, value) in fields {
        let at = || format!("{at}.{name}");
        match ty.field(name) {
            Some(field) => check(&field.ty, value, &at(), found),
            None if ty.preserve_unknown => {}
            None => {
                found.push(format!("{}: field not declared in schema", at()));
                // One is told, as upstream does.
                return;
            }
        }
    }
}

fn check(ty: &Ty, value: &Value, at: &str, found: &mut Vec<String>) {
    match (ty, value) {
        (_, Value::Null) | (Ty::Raw(_), _) => {}
        (Ty::Object(ty), value) => members(ty, value, at, found),
        (Ty::Map(map), Value::Object(fields)) => {
            fields.iter().for_each(|(name, value)| check(&map.value, value, &format!("{at}.{name}"), found));
        }
        (Ty::Map(_), other) => complain("map", other, at, found),
        (Ty::List(list), Value::Array(values)) => items(list, values, at, found),
        (Ty::List(_), other) => complain("list", other, at, found),
        (Ty::Bool, Value::Bool(_)) => {}
        (Ty::Bool, other) => complain("boolean", other, at, found),
        (Ty::Int32 | Ty::Int64 | Ty::Double, Value::Number(_)) => {}
        (Ty::Int32 | Ty::Int64 | Ty::Double, other) => {
            found.push(told(at, &format!("expected numeric (int or float), got {}", go_type(other))));
        }
        (Ty::Quantity | Ty::IntOrString, Value::String(_) | Value::Number(_)) | (_, Value::String(_)) => {}
        (_, other) => {
            found
                .push(told(at, &format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_value(other))));
        }
    }
}

fn items(list: &ListTy, values: &[Value], at: &str, found: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (index, item) in values.iter().enumerate() {
        if list.topology == Topology::Atomic {
            check(&list.item, item, &format!("{at}[{index}]"), found);
            continue;
        }
        let Some(key) = element(list, item) else {
            // Nothing more can be said of what has no name.
            return found.push(told(at, &format!("element {index}: {}", nameless(list, item))));
        };
        let at_item = format!("{at}{}", path::words(&key));
        if !seen.insert(key.clone()) {
            found.push(told(at, &format!("duplicate entries for key {}", path::words(&key))));
        }
        check(&list.item, item, &at_item, found);
    }
}

fn nameless(list: &ListTy, item: &Value) -> String {
    match (&list.topology, item) {
        (Topology::Map(_), Value::Null) => "associative list with keys may not have a null element".to_owned(),
        (Topology::Map(names), Value::Object(_)) => {
            let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
            format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values \
                 for any key fields)",
                names.join(" ")
            )
        }
        (Topology::Map(_), _) => "associative list with keys may not have non-map elements".to_owned(),
        (_, Value::Object(_)) => "associative list without keys has an element that's a map type".to_owned(),
        (_, Value::Array(_)) => "not supported: associative list with lists as elements".to_owned(),
        (_, _) => "associative list without keys has an element that's an explicit null".to_owned(),
    }
}

fn complain(wanted: &str, value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(told(at, &format!("expected {wanted}, got &{{{}}}", go_value(value))));
}

fn told(at: &str, what: &str) -> String {
    if at.is_empty() { what.to_owned() } else { format!("{at}: {what}") }
}

/// A value as Go prints it.
fn go_value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_value).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name}:{}", go_value(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
