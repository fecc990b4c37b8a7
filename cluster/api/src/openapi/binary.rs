//! The v2 document in the binary form that client libraries in Go ask for.
//!
//! Start at [`document`]. The messages are those of `openapi.v2` (github.com/google/gnostic-models): a message per JSON
//! object, a list of named values per JSON map, and extensions as YAML text, for which JSON will do.
//!
//! Not here: what our own documents never hold (forms, headers, examples, files).

use serde_json::{Map, Value};

use crate::proto::wire::{put_bytes, put_double, put_number};

/// How a key of a JSON object is written: its field number, and what it holds.
type Row = (&'static str, u16, Holds);

#[derive(Clone, Copy)]
enum Holds {
    Text,
    Flag,
    Whole,
    Number,
    Texts,
    /// Any JSON, as YAML text.
    Free,
    FreeList,
    One(fn(&Value) -> Vec<u8>),
    Many(fn(&Value) -> Vec<u8>),
}

use Holds::{Flag, Free, FreeList, Many, Number, One, Text, Texts, Whole};

/// The whole document.
pub(super) fn document(document: &Value) -> Vec<u8> {
    const ROWS: &[Row] = &[
        ("swagger", 1, Text),
        ("info", 2, One(|value| object(value, &[("title", 1, Text), ("version", 2, Text)], None))),
        ("paths", 8, One(|value| named(value, 2, path_item))),
        ("definitions", 9, One(|value| named(value, 1, schema))),
        (
            "security",
            12,
            Many(|value| named(value, 1, |texts| object(&wrap("value", texts), &[("value", 1, Texts)], None))),
        ),
        ("securityDefinitions", 13, One(|value| named(value, 1, api_key))),
    ];
    object(document, ROWS, Some(16))
}

fn path_item(value: &Value) -> Vec<u8> {
    const ROWS: &[Row] = &[
        ("get", 2, One(operation)),
        ("put", 3, One(operation)),
        ("post", 4, One(operation)),
        ("delete", 5, One(operation)),
        ("patch", 8, One(operation)),
        ("parameters", 9, Many(parameter)),
    ];
    object(value, ROWS, Some(10))
}

fn operation(value: &Value) -> Vec<u8> {
    const ROWS: &[Row] = &[
        ("tags", 1, Texts),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Many(parameter)),
        ("responses", 9, One(|value| named(value, 1, |value| inside(1, &object(value, RESPONSE, Some(5)))))),
        ("schemes", 10, Texts),
    ];
    const RESPONSE: &[Row] = &[("description", 1, Text), ("schema", 2, One(|value| inside(1, &schema(value))))];
    object(value, ROWS, Some(13))
}

fn parameter(value: &Value) -> Vec<u8> {
    const BODY: &[Row] = &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Flag),
        ("schema", 5, One(schema)),
    ];
    const PATH: &[Row] = &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("uniqueItems", 19, Flag),
    ];
    const QUERY: &[Row] = &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("uniqueItems", 20, Flag),
    ];
    let parameter = match value["in"].as_str() {
        Some("body") => inside(1, &object(value, BODY, Some(6))),
        Some("path") => inside(2, &inside(4, &object(value, PATH, Some(22)))),
        _ => inside(2, &inside(3, &object(value, QUERY, Some(23)))),
    };
    inside(1, &parameter)
}

fn api_key(value: &Value) -> Vec<u8> {
    inside(2, &object(value, &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text)], Some(5)))
}

fn schema(value: &Value) -> Vec<u8> {
    const ROWS: &[Row] = &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Free),
        ("multipleOf", 6, Number),
        ("maximum", 7, Number),
        ("exclusiveMaximum", 8, Flag),
        ("minimum", 9, Number),
        ("exclusiveMinimum", 10, Flag),
        ("maxLength", 11, Whole),
        ("minLength", 12, Whole),
        ("pattern", 13, Text),
        ("maxItems", 14, Whole),
        ("minItems", 15, Whole),
        ("uniqueItems", 16, Flag),
        ("maxProperties", 17, Whole),
        ("minProperties", 18, Whole),
        ("required", 19, Texts),
        ("enum", 20, FreeList),
        ("additionalProperties", 21, One(additional)),
        ("type", 22, One(|value| object(&wrap("value", value), &[("value", 1, Texts)], None))),
        ("items", 23, One(|value| inside(1, &schema(value)))),
        ("allOf", 24, Many(schema)),
        ("properties", 25, One(|value| named(value, 1, schema))),
    ];
    object(value, ROWS, Some(31))
}

fn additional(value: &Value) -> Vec<u8> {
    match value {
        Value::Bool(allowed) => {
            let mut out = Vec::new();
            put_number(&mut out, 2, i64::from(*allowed));
            out
        }
        value => inside(1, &schema(value)),
    }
}

/// A JSON object as a message: known keys by their rows, `x-…` keys into the field of that number.
fn object(value: &Value, rows: &[Row], extensions: Option<u16>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, number, holds) in rows {
        if let Some(value) = value.get(*key) {
            put(&mut out, *number, *holds, value);
        }
    }
    for (key, value) in value.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with("x-")) {
        if let Some(number) = extensions {
            put_bytes(&mut out, number, &name_and_value(key, &free(value)));
        }
    }
    out
}

fn put(out: &mut Vec<u8>, number: u16, holds: Holds, value: &Value) {
    let texts = || match value {
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().into_iter().collect::<Vec<&str>>(),
    };
    match holds {
        Text => put_bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Flag => put_number(out, number, i64::from(value.as_bool().unwrap_or_default())),
        Whole => put_number(out, number, value.as_i64().unwrap_or_default()),
        Number => put_double(out, number, value.as_f64().unwrap_or_default()),
        Texts => texts().iter().for_each(|text| put_bytes(out, number, text.as_bytes())),
        Free => put_bytes(out, number, &free(value)),
        FreeList => value.as_array().into_iter().flatten().for_each(|item| put_bytes(out, number, &free(item))),
        One(write) => put_bytes(out, number, &write(value)),
        Many(write) => value.as_array().into_iter().flatten().for_each(|item| put_bytes(out, number, &write(item))),
    }
}

/// A JSON map as a list of named values.
fn named(value: &Value, number: u16, write: fn(&Value) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        put_bytes(&mut out, number, &name_and_value(key, &write(value)));
    }
    out
}

fn name_and_value(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, name.as_bytes());
    put_bytes(&mut out, 2, value);
    out
}

/// A value as YAML text, which JSON is.
fn free(value: &Value) -> Vec<u8> {
    inside(2, value.to_string().as_bytes())
}

/// A message that holds one field.
fn inside(number: u16, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, number, bytes);
    out
}

/// An object with one key, so that a bare value can be written by rows.
fn wrap(key: &str, value: &Value) -> Value {
    Value::Object(Map::from_iter([(key.to_owned(), value.clone())]))
}
