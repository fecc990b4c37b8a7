//! Messages to values.
//!
//! Start at [`envelope`], then [`message`]. Fields that nobody knows are skipped, as protobuf demands; zero values are
//! put in as they come, and what of them JSON leaves out is decided by the body check afterwards.
//!
//! Not here: the canonical form (`check`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::wire::{Payload, Reader};
use super::{DEPTH_MAX, Error, MAGIC, decode_any, error};
use crate::duration;
use crate::schema::{Field, Raw, Ty, Type, find_ref};

/// The type of the schemas inside a custom resource definition.
const SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// A `runtime.Unknown`: an object that says what it is.
#[derive(Default)]
pub(super) struct Envelope<'a> {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) raw: &'a [u8],
}

pub(super) fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, Error> {
    let body = bytes.strip_prefix(&MAGIC).ok_or_else(|| error("the object does not start with k8s and a zero"))?;
    let mut envelope = Envelope::default();
    let mut reader = Reader(body);
    while let Some(field) = reader.next()? {
        match field {
            (1, Payload::Bytes(type_meta)) => {
                let mut reader = Reader(type_meta);
                while let Some(field) = reader.next()? {
                    match field {
                        (1, Payload::Bytes(word)) => envelope.api_version = text(word)?,
                        (2, Payload::Bytes(word)) => envelope.kind = text(word)?,
                        _ => {}
                    }
                }
            }
            (2, Payload::Bytes(raw)) => envelope.raw = raw,
            (3, Payload::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(error("the object's content encoding is not known"));
            }
            _ => {}
        }
    }
    Ok(envelope)
}

pub(super) fn message(ty: &Type, bytes: &[u8]) -> Result<Value, Error> {
    struct_value(ty, bytes, 0)
}

fn struct_value(ty: &Type, bytes: &[u8], depth: usize) -> Result<Value, Error> {
    if depth > DEPTH_MAX {
        return Err(error(format!("messages nest deeper than {DEPTH_MAX}")));
    }
    let mut map = Map::new();
    level(ty, [0, 0], 0, bytes, &mut map, depth)?;
    Ok(Value::Object(map))
}

/// Reads the fields of one message; `via` are the numbers of the hidden messages around it, `hidden` how many.
fn level(
    ty: &Type,
    via: [u16; 2],
    hidden: usize,
    bytes: &[u8],
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Error> {
    let mut reader = Reader(bytes);
    while let Some((number, payload)) = reader.next()? {
        let Ok(number) = u16::try_from(number) else { continue };
        if let Some(field) = ty.fields.iter().find(|field| field.number == number && field.via == via) {
            put(field, payload, map, depth)
                .map_err(|inner| error(format!("{}.{}", field.name, inner.message.trim_start_matches('.'))))?;
        } else if let (Payload::Bytes(inner), true) = (payload, hidden < 2) {
            let mut deeper = via;
            deeper[hidden] = number;
            if ty.fields.iter().any(|field| field.via[..=hidden] == deeper[..=hidden]) {
                level(ty, deeper, hidden + 1, inner, map, depth)?;
            }
        }
    }
    Ok(())
}

fn put(field: &Field, payload: Payload<'_>, map: &mut Map<String, Value>, depth: usize) -> Result<(), Error> {
    let slot = map.entry(field.name.as_ref()).or_insert(Value::Null);
    match &field.ty {
        Ty::List(list) => {
            let items = as_list(slot);
            if field.boxed {
                *items = unboxed(&list.item, payload, depth)?;
                return Ok(());
            }
            match (&list.item, payload) {
                // Numbers may come packed.
                (Ty::Int32 | Ty::Int64, Payload::Bytes(packed)) => {
                    let mut reader = Reader(packed);
                    while !reader.0.is_empty() {
                        items.push((reader.varint()? as i64).into());
                    }
                }
                (item, payload) => items.push(value(item, payload, depth)?),
            }
        }
        Ty::Map(ty) => {
            let Payload::Bytes(entry) = payload else { return Err(mismatch()) };
            let (mut key, mut found) = (String::new(), None);
            let mut reader = Reader(entry);
            while let Some(part) = reader.next()? {
                match part {
                    (1, Payload::Bytes(bytes)) => key = text(bytes)?,
                    (2, payload) => {
                        found = Some(match &ty.value {
                            Ty::List(list) if field.boxed => Value::Array(unboxed(&list.item, payload, depth)?),
                            ty => value(ty, payload, depth)?,
                        });
                    }
                    _ => {}
                }
            }
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            if let Value::Object(entries) = slot {
                entries.insert(key, found.unwrap_or(Value::Null));
            }
        }
        ty => *slot = value(ty, payload, depth)?,
    }
    Ok(())
}

fn as_list(slot: &mut Value) -> &mut Vec<Value> {
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    match slot {
        Value::Array(items) => items,
        _ => unreachable!("the slot was just made a list"),
    }
}

/// The items of a list that is a message of its own.
fn unboxed(ty: &Ty, payload: Payload<'_>, depth: usize) -> Result<Vec<Value>, Error> {
    let Payload::Bytes(bytes) = payload else { return Err(mismatch()) };
    let (mut items, mut reader) = (Vec::new(), Reader(bytes));
    while let Some((number, payload)) = reader.next()? {
        if number == 1 {
            items.push(value(ty, payload, depth)?);
        }
    }
    Ok(items)
}

fn mismatch() -> Error {
    error(": the wire type does not fit")
}

fn value(ty: &Ty, payload: Payload<'_>, depth: usize) -> Result<Value, Error> {
    Ok(match (ty, payload) {
        (Ty::Bool, Payload::Varint(number)) => (number != 0).into(),
        (Ty::Int32, Payload::Varint(number)) => (number as i32).into(),
        (Ty::Int64, Payload::Varint(number)) => (number as i64).into(),
        (Ty::Double, Payload::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Ty::String, Payload::Bytes(bytes)) => text(bytes)?.into(),
        (Ty::Bytes, Payload::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Ty::Object(inner), Payload::Bytes(bytes)) => struct_value(inner, bytes, depth + 1)?,
        (Ty::Raw(raw), Payload::Bytes(bytes)) => raw_value(*raw, bytes, depth + 1)?,
        (special, Payload::Bytes(bytes)) => special_value(special, bytes)?,
        _ => return Err(mismatch()),
    })
}

fn text(bytes: &[u8]) -> Result<String, Error> {
    // Go strings need not be UTF-8; JSON's do, and upstream writes the replacement sign.
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// Values that JSON writes as one text or number: their messages hold up to two numbers and a text.
fn special_value(ty: &Ty, bytes: &[u8]) -> Result<Value, Error> {
    let (mut numbers, mut word) = ([0_i64; 3], String::new());
    let mut reader = Reader(bytes);
    while let Some(field) = reader.next()? {
        match field {
            (number @ 1..=2, Payload::Varint(value)) => numbers[number as usize] = value as i64,
            (1 | 3, Payload::Bytes(bytes)) => word = text(bytes)?,
            _ => {}
        }
    }
    let [_, first, second] = numbers;
    Ok(match ty {
        Ty::Time | Ty::MicroTime if bytes.is_empty() => Value::Null,
        Ty::Time => Timestamp::from_second(first).map_err(|_| far_time(first))?.to_string().into(),
        Ty::MicroTime => {
            let nanos = i32::try_from(second).map_err(|_| far_time(first))?;
            Timestamp::new(first, nanos).map_err(|_| far_time(first))?.to_string().into()
        }
        Ty::Duration => duration::print(first).into(),
        Ty::Quantity => word.into(),
        Ty::IntOrString if first == 1 => word.into(),
        Ty::IntOrString => (second as i32).into(),
        _ => return Err(mismatch()),
    })
}

fn far_time(seconds: i64) -> Error {
    error(format!(": the time {seconds} is out of range"))
}

fn raw_value(raw: Raw, bytes: &[u8], depth: usize) -> Result<Value, Error> {
    let (mut allows, mut schema, mut list) = (false, None, None::<Vec<Value>>);
    let mut reader = Reader(bytes);
    while let Some((number, payload)) = reader.next()? {
        match (raw, number, payload) {
            (Raw::Extension | Raw::Fields | Raw::Json | Raw::Any, 1, Payload::Bytes(bytes)) => {
                return free_json(bytes, depth);
            }
            (Raw::SchemaOrBool, 1, Payload::Varint(number)) => allows = number != 0,
            (Raw::SchemaOrBool, 2, Payload::Bytes(bytes))
            | (Raw::SchemaOrArray | Raw::SchemaOrStrings, 1, Payload::Bytes(bytes)) => {
                schema = Some(props(bytes, depth)?);
            }
            (Raw::SchemaOrArray, 2, Payload::Bytes(bytes)) => list.get_or_insert_default().push(props(bytes, depth)?),
            (Raw::SchemaOrStrings, 2, Payload::Bytes(bytes)) => list.get_or_insert_default().push(text(bytes)?.into()),
            _ => {}
        }
    }
    Ok(match (raw, schema, list) {
        (_, Some(schema), _) => schema,
        (_, None, Some(list)) => Value::Array(list),
        (Raw::SchemaOrBool, None, None) => allows.into(),
        _ => Value::Null,
    })
}

fn props(bytes: &[u8], depth: usize) -> Result<Value, Error> {
    let props = find_ref(SCHEMA_PROPS).ok_or_else(|| error(": no type for schemas"))?;
    struct_value(&props, bytes, depth + 1)
}

/// Free JSON; inside lists and watch events it may be an enveloped object instead.
fn free_json(bytes: &[u8], depth: usize) -> Result<Value, Error> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    // An envelope in an envelope is an event around an object; deeper is nobody's honest data.
    if bytes.starts_with(&MAGIC) && depth < 4 {
        return decode_any(bytes);
    }
    serde_json::from_slice(bytes).map_err(|cause| error(format!(": raw data is no JSON: {cause}")))
}
