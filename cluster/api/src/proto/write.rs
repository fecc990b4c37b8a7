//! Values to messages.
//!
//! Start at [`message`]. Go's structs decide what is written: values always, zero or not; pointers, lists and maps only
//! when they hold something. Structs that JSON flattens are messages of their own here.
//!
//! Not here: the envelope (`proto.rs`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::wire::{put_bytes, put_double, put_number};
use super::{Error, error};
use crate::duration;
use crate::quantity::Quantity;
use crate::schema::{Field, Presence, Raw, Ty, Type, find_ref};

/// The type of the schemas inside a custom resource definition.
const SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

pub(super) fn message(ty: &Type, value: &Map<String, Value>) -> Result<Vec<u8>, Error> {
    let mut fields: Vec<&Field> = ty.fields.iter().filter(|field| field.number != 0).collect();
    fields.sort_by_key(|field| path(field));
    let mut out = Vec::new();
    level(&mut out, &fields, 0, value)?;
    Ok(out)
}

/// The numbers from the outermost hidden message to the field itself.
fn path(field: &Field) -> [u16; 3] {
    match field.via {
        [0, _] => [field.number, 0, 0],
        [outer, 0] => [outer, field.number, 0],
        [outer, inner] => [outer, inner, field.number],
    }
}

/// Writes fields that share their first `depth` numbers.
fn level(out: &mut Vec<u8>, fields: &[&Field], depth: usize, value: &Map<String, Value>) -> Result<(), Error> {
    for same in fields.chunk_by(|a, b| path(a)[depth] == path(b)[depth]) {
        let is_hidden = depth < 2 && same[0].via[depth] != 0;
        if is_hidden {
            let mut inner = Vec::new();
            level(&mut inner, same, depth + 1, value)?;
            put_bytes(out, path(same[0])[depth], &inner);
            continue;
        }
        for field in same {
            let present = value.get(field.name.as_ref()).filter(|value| !value.is_null());
            put_field(out, field, present)
                .map_err(|inner| error(format!("{}.{}", field.name, inner.message.trim_start_matches('.'))))?;
        }
    }
    Ok(())
}

fn put_field(out: &mut Vec<u8>, field: &Field, value: Option<&Value>) -> Result<(), Error> {
    match (&field.ty, value) {
        (Ty::List(list), Some(Value::Array(items))) if field.boxed => {
            put_bytes(out, field.number, &boxed(&list.item, items)?);
            Ok(())
        }
        (Ty::List(list), Some(Value::Array(items))) => {
            items.iter().try_for_each(|item| put(out, field.number, &list.item, item))
        }
        (Ty::Map(map), Some(Value::Object(entries))) => {
            for (key, value) in entries {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                match (&map.value, value) {
                    (Ty::List(list), Value::Array(items)) if field.boxed => {
                        put_bytes(&mut entry, 2, &boxed(&list.item, items)?);
                    }
                    _ => put(&mut entry, 2, &map.value, value)?,
                }
                put_bytes(out, field.number, &entry);
            }
            Ok(())
        }
        (Ty::List(_) | Ty::Map(_), Some(_)) => Err(error(": a list or map is expected")),
        (ty, Some(value)) => put(out, field.number, ty, value),
        (Ty::List(_) | Ty::Map(_) | Ty::Bytes, None) => Ok(()),
        (_, None) if matches!(field.presence, Presence::Optional | Presence::NullIfAbsent) => Ok(()),
        (ty, None) => put(out, field.number, ty, &Value::Null),
    }
}

/// A list that is a message of its own.
fn boxed(ty: &Ty, items: &[Value]) -> Result<Vec<u8>, Error> {
    let mut inner = Vec::new();
    items.iter().try_for_each(|item| put(&mut inner, 1, ty, item))?;
    Ok(inner)
}

/// Writes one value; `null` is Go's zero value.
fn put(out: &mut Vec<u8>, number: u16, ty: &Ty, value: &Value) -> Result<(), Error> {
    let wrong = || error(format!(": {value} does not fit"));
    match ty {
        Ty::Bool => put_number(out, number, i64::from(zero_or(value, Value::as_bool).ok_or_else(wrong)?)),
        Ty::Int32 | Ty::Int64 => put_number(out, number, zero_or(value, Value::as_i64).ok_or_else(wrong)?),
        Ty::Double => put_double(out, number, zero_or(value, Value::as_f64).ok_or_else(wrong)?),
        Ty::String => put_bytes(out, number, zero_or(value, Value::as_str).ok_or_else(wrong)?.as_bytes()),
        Ty::Bytes => {
            let text = zero_or(value, Value::as_str).ok_or_else(wrong)?;
            put_bytes(out, number, &STANDARD.decode(text).map_err(|_| wrong())?);
        }
        Ty::Object(inner) => {
            let empty = Map::new();
            let fields = if value.is_null() { Some(&empty) } else { value.as_object() };
            put_bytes(out, number, &message(inner, fields.ok_or_else(wrong)?)?);
        }
        Ty::List(_) | Ty::Map(_) => return Err(error(": a list or map inside a list or map has no protobuf form")),
        special => put_bytes(out, number, &special_message(special, value).ok_or_else(wrong)??),
    }
    Ok(())
}

fn zero_or<'a, T: Default>(value: &'a Value, read: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
    if value.is_null() { Some(T::default()) } else { read(value) }
}

/// The messages behind values that JSON writes as one text, number or free JSON. Nothing if the value does not fit.
fn special_message(ty: &Ty, value: &Value) -> Option<Result<Vec<u8>, Error>> {
    let mut out = Vec::new();
    match ty {
        Ty::Time | Ty::MicroTime if value.is_null() => {}
        Ty::Time | Ty::MicroTime => {
            let time: Timestamp = value.as_str()?.parse().ok()?;
            let nanos = time.as_nanosecond().rem_euclid(1_000_000_000) as i64;
            put_number(&mut out, 1, time.as_nanosecond().div_euclid(1_000_000_000) as i64);
            put_number(&mut out, 2, if matches!(ty, Ty::MicroTime) { nanos } else { 0 });
        }
        Ty::Duration => put_number(&mut out, 1, zero_or(value, |value| duration::parse(value.as_str()?))?),
        Ty::Quantity if value.is_null() => put_bytes(&mut out, 1, b"0"),
        Ty::Quantity => put_bytes(&mut out, 1, Quantity::from_json(value).ok()?.to_string().as_bytes()),
        Ty::IntOrString => {
            let text = value.as_str();
            put_number(&mut out, 1, i64::from(text.is_some()));
            put_number(&mut out, 2, if text.is_some() { 0 } else { zero_or(value, Value::as_i64)? });
            put_bytes(&mut out, 3, text.unwrap_or_default().as_bytes());
        }
        Ty::Raw(raw) => match raw_message(*raw, value) {
            Ok(bytes) => out = bytes,
            Err(error) => return Some(Err(error)),
        },
        _ => return None,
    }
    Some(Ok(out))
}

fn raw_message(raw: Raw, value: &Value) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    let schema = |value: &Value| -> Result<Vec<u8>, Error> {
        let props = find_ref(SCHEMA_PROPS).ok_or_else(|| error(": no type for schemas"))?;
        message(&props, value.as_object().ok_or_else(|| error(": a schema is expected"))?)
    };
    match (raw, value) {
        (Raw::Extension | Raw::Fields | Raw::Json | Raw::Any, Value::Null) => {}
        (Raw::Extension | Raw::Fields | Raw::Json | Raw::Any, value) => {
            put_bytes(&mut out, 1, value.to_string().as_bytes())
        }
        (Raw::SchemaOrBool, Value::Object(_)) => {
            put_number(&mut out, 1, 1);
            put_bytes(&mut out, 2, &schema(value)?);
        }
        (Raw::SchemaOrBool, value) => put_number(&mut out, 1, i64::from(value.as_bool().unwrap_or_default())),
        (Raw::SchemaOrArray, Value::Array(items)) => {
            for item in items {
                put_bytes(&mut out, 2, &schema(item)?);
            }
        }
        (Raw::SchemaOrStrings, Value::Array(items)) => {
            items.iter().filter_map(Value::as_str).for_each(|item| put_bytes(&mut out, 2, item.as_bytes()));
        }
        (Raw::SchemaOrArray | Raw::SchemaOrStrings, value) => put_bytes(&mut out, 1, &schema(value)?),
    }
    Ok(out)
}
