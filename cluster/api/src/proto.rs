//! Kubernetes' binary encoding: objects to and from protobuf, driven by the schema.
//!
//! Start at [`decode`] and [`encode`]. An object travels as the magic `k8s\0` and a `runtime.Unknown` around the
//! message; [`decode_any`] and [`encode_any`] also know what is no kind of its own: lists, `Status`, `DeleteOptions`.
//!
//! Invariants:
//! * decoding what was encoded gives the same value, in canonical form;
//! * encoding writes fields in the order of their numbers and maps in the order of their keys, as upstream does.
//!
//! Not here: custom resources, which have no protobuf form; content negotiation.

mod read;
pub(crate) mod wire;
mod write;

use std::sync::LazyLock;

use serde_json::Value;

use crate::check::{self, Mode};
use crate::kinds::{self, Kind};
use crate::schema::{Field, ListTy, Topology, Ty, Type, TypeRef, find_ref};

/// What every encoded object starts with.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// The content type.
pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Messages within messages deeper than this are refused, as in JSON.
const DEPTH_MAX: usize = 128;

/// Bytes that are no such object, or an object that has no such bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What is wrong with which thing.
    pub message: String,
}

impl std::fmt::Display for Error {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

fn error(message: impl Into<String>) -> Error {
    Error { message: message.into() }
}

/// Decodes an enveloped object of that kind; the envelope may leave out which kind it is.
pub fn decode(kind: &Kind, bytes: &[u8]) -> Result<Value, Error> {
    let envelope = read::envelope(bytes)?;
    let (api_version, name) = (kind.api_version(), kind.kind.as_ref());
    let says = |word: &str, want: &str| word.is_empty() || word == want;
    if !says(&envelope.api_version, &api_version) || !says(&envelope.kind, name) {
        return Err(error(format!(
            "the object is a {} of {}, not a {name} of {api_version}",
            envelope.kind, envelope.api_version
        )));
    }
    body(&kind.ty, envelope.raw, &envelope.api_version, &envelope.kind)
}

/// Decodes any enveloped built-in object, by the `apiVersion` and `kind` that its envelope names.
pub fn decode_any(bytes: &[u8]) -> Result<Value, Error> {
    let envelope = read::envelope(bytes)?;
    let ty = type_of(&envelope.api_version, &envelope.kind)?;
    body(&ty, envelope.raw, &envelope.api_version, &envelope.kind)
}

/// Encodes an object of that kind, with envelope.
pub fn encode(kind: &Kind, value: &Value) -> Result<Vec<u8>, Error> {
    enveloped(&kind.ty, &kind.api_version(), &kind.kind, value)
}

/// Encodes any built-in object, by the `apiVersion` and `kind` that it names.
pub fn encode_any(value: &Value) -> Result<Vec<u8>, Error> {
    let word = |key: &str| value[key].as_str().unwrap_or_default();
    let (api_version, kind) = (word("apiVersion"), word("kind"));
    enveloped(&type_of(api_version, kind)?, api_version, kind, value)
}

/// One event as a watch streams it, around an object that [`encode`] gave: four bytes of length, then a `WatchEvent`.
///
/// The event itself has no envelope; the object inside keeps its own, so one encoding serves every watcher.
pub fn watch_event(event_type: &str, encoded: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    wire::put_bytes(&mut raw, 1, encoded);
    let mut event = Vec::new();
    wire::put_bytes(&mut event, 1, event_type.as_bytes());
    wire::put_bytes(&mut event, 2, &raw);
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &event].concat()
}

/// Encodes one watch event, object included.
pub fn encode_watch_event(event_type: &str, object: &Value) -> Result<Vec<u8>, Error> {
    Ok(watch_event(event_type, &encode_any(object)?))
}

fn body(ty: &TypeRef, raw: &[u8], api_version: &str, kind: &str) -> Result<Value, Error> {
    let mut value = read::message(ty, raw)?;
    for (key, word) in [("apiVersion", api_version), ("kind", kind)] {
        if !word.is_empty() {
            value[key] = word.into();
        }
    }
    // The wire writes every zero; what of that is absent in JSON is decided in one place.
    match check::structure_as(ty, &mut value, Mode::Whole).errors.first() {
        Some(fault) => Err(error(format!("{}: {}", fault.path, fault.message))),
        None => Ok(value),
    }
}

fn enveloped(ty: &TypeRef, api_version: &str, kind: &str, value: &Value) -> Result<Vec<u8>, Error> {
    let Value::Object(fields) = value else { return Err(error(format!("{kind} is no object"))) };
    let mut type_meta = Vec::new();
    wire::put_bytes(&mut type_meta, 1, api_version.as_bytes());
    wire::put_bytes(&mut type_meta, 2, kind.as_bytes());
    let raw = write::message(ty, fields)?;
    let mut out = MAGIC.to_vec();
    out.reserve(type_meta.len() + raw.len() + 16);
    wire::put_bytes(&mut out, 1, &type_meta);
    wire::put_bytes(&mut out, 2, &raw);
    // Content encoding and content type: always there, always empty.
    wire::put_bytes(&mut out, 3, b"");
    wire::put_bytes(&mut out, 4, b"");
    Ok(out)
}

fn type_of(api_version: &str, kind: &str) -> Result<TypeRef, Error> {
    let found = match (api_version, kind) {
        ("meta.k8s.io/v1", "PartialObjectMetadata") => Some(PARTIAL.0.clone()),
        ("meta.k8s.io/v1", "PartialObjectMetadataList") => Some(PARTIAL.1.clone()),
        _ => kinds::type_of(api_version, kind),
    };
    found.ok_or_else(|| error(format!("{kind} of {api_version} has no protobuf form")))
}

/// An object's metadata alone, and a list of such: OpenAPI does not define them, so the facts do not hold them.
static PARTIAL: LazyLock<(TypeRef, TypeRef)> = LazyLock::new(|| {
    let meta = |name: &str| {
        let found = find_ref(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"));
        Ty::Object(found.unwrap_or_else(|| Type::default().into()))
    };
    let field = |name: &'static str, number, ty| Field { number, ..Field::new(name, ty) };
    let words = || [field("apiVersion", 0, Ty::String), field("kind", 0, Ty::String)];
    let ty = |more: Vec<Field>| {
        let mut fields: Vec<Field> = words().into_iter().chain(more).collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        TypeRef::from(Type { fields, ..Type::default() })
    };
    let one = ty(vec![field("metadata", 1, meta("ObjectMeta"))]);
    let items = Ty::List(Box::new(ListTy { item: Ty::Object(one.clone()), topology: Topology::Atomic }));
    let list = ty(vec![field("metadata", 1, meta("ListMeta")), field("items", 2, items)]);
    (one, list)
});

#[cfg(test)]
mod tests;
