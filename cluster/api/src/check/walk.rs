//! Walks an object beside its type: prunes, complains, brings into canonical form.
//!
//! Start at [`check`]. Built-in types follow Go's rules: `null` means absent, and `omitempty` decides what is left out.
//! Custom resources are JSON all the way down, so of those only unknown fields are taken out.
//!
//! Not here: the rules of single values (`scalar.rs`).

use std::fmt::Write;

use serde_json::{Map, Value};

use super::scalar::{self, Complaint, word};
use super::{Fault, Mode, PROBLEMS_MAX, Report};
use crate::schema::{Field, Presence, Raw, Ty, Type, TypeRef, find_ref};

/// The type of the schemas inside a custom resource definition.
const SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// The next walk's path segments are joined with what upstream prints: dots, and brackets for list items.
struct Walk {
    mode: Mode,
    report: Report,
    /// With list indices and map keys, for people.
    path: String,
    /// Fields only, as Go's decoder names them.
    fields: Vec<String>,
    /// The innermost struct's Go name.
    inside: String,
}

pub(super) fn check(ty: &TypeRef, value: &mut Value, mode: Mode) -> Report {
    let mut walk =
        Walk { mode, report: Report::default(), path: String::new(), fields: Vec::new(), inside: String::new() };
    walk.object(ty, value);
    walk.report
}

impl Walk {
    fn object(&mut self, ty: &TypeRef, value: &mut Value) {
        match (ty, value) {
            (_, Value::Object(map)) => self.members(ty, map),
            (TypeRef::BuiltIn(_), other) => {
                let found = word(other).to_owned();
                self.complain(Complaint::Type(found, ""), &go_struct(ty));
            }
            // The custom resource's own validator says what is wrong.
            (TypeRef::Own(_), _) => {}
        }
    }

    fn members(&mut self, ty: &TypeRef, map: &mut Map<String, Value>) {
        let is_go = matches!(ty, TypeRef::BuiltIn(_));
        let outer = std::mem::replace(&mut self.inside, ty.short_name().to_owned());
        if !ty.preserve_unknown {
            self.prune(ty, map);
        }
        for field in &ty.fields {
            let name = field.name.as_ref();
            let Some(value) = map.get_mut(name) else { continue };
            let before = self.enter_field(name);
            let keep = match is_go {
                true => self.go_value(&field.ty, value) && !(self.mode == Mode::Whole && means_absent(field, value)),
                false => {
                    self.own_value(&field.ty, value);
                    true
                }
            };
            self.leave_field(before);
            if !keep {
                map.remove(name);
            }
        }
        if is_go && self.mode == Mode::Whole {
            fill(ty, map);
        }
        self.inside = outer;
    }

    fn prune(&mut self, ty: &Type, map: &mut Map<String, Value>) {
        if map.keys().all(|name| ty.field(name).is_some()) {
            return;
        }
        let unknown: Vec<String> = map.keys().filter(|name| ty.field(name).is_none()).cloned().collect();
        for name in unknown {
            map.remove(&name);
            let before = self.enter_field(&name);
            if self.report.unknown.len() < PROBLEMS_MAX {
                self.report.unknown.push(self.path.clone());
            }
            self.leave_field(before);
        }
    }

    /// A value inside a built-in struct. False if it means that the field is absent.
    fn go_value(&mut self, ty: &Ty, value: &mut Value) -> bool {
        if value.is_null() {
            return self.mode == Mode::Partial;
        }
        match ty {
            Ty::Object(inner) => self.object(inner, value),
            Ty::List(list) => match value {
                Value::Array(items) => {
                    for (index, item) in items.iter_mut().enumerate() {
                        self.item(index, |walk| walk.go_item(&list.item, item));
                    }
                }
                other => self.wrong(ty, other),
            },
            Ty::Map(map) => match value {
                Value::Object(entries) => {
                    for (key, entry) in entries.iter_mut() {
                        self.entry(key, |walk| walk.go_item(&map.value, entry));
                    }
                }
                other => self.wrong(ty, other),
            },
            Ty::Raw(raw) => self.raw(*raw, value),
            scalar => match scalar::canonical(scalar, value) {
                Ok(Some(new)) => *value = new,
                Ok(None) => {}
                Err(complaint) => self.complain(complaint, ""),
            },
        }
        true
    }

    /// An item or a map's value: Go has a zero value where JSON has `null`.
    fn go_item(&mut self, ty: &Ty, value: &mut Value) {
        if !self.go_value(ty, value) {
            *value = zero(ty);
        }
    }

    /// Schemas inside schemas are read leniently upstream: what is unknown is dropped without a word.
    fn raw(&mut self, raw: Raw, value: &mut Value) {
        if !matches!(raw, Raw::SchemaOrArray | Raw::SchemaOrBool | Raw::SchemaOrStrings) {
            return;
        }
        let Some(props) = find_ref(SCHEMA_PROPS) else { return };
        let told = self.report.unknown.len();
        match value {
            Value::Object(map) => self.members(&props, map),
            Value::Array(items) if raw == Raw::SchemaOrArray => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.item(index, |walk| walk.object(&props, item));
                }
            }
            _ => {}
        }
        self.report.unknown.truncate(told);
    }

    /// A value of a custom resource.
    fn own_value(&mut self, ty: &Ty, value: &mut Value) {
        match (ty, value) {
            (_, Value::Null) => {}
            (Ty::Object(inner), value) => self.object(inner, value),
            (Ty::List(list), Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.item(index, |walk| walk.own_value(&list.item, item));
                }
            }
            (Ty::Map(map), Value::Object(entries)) => {
                for (key, entry) in entries.iter_mut() {
                    self.entry(key, |walk| walk.own_value(&map.value, entry));
                }
            }
            _ => {}
        }
    }

    fn enter_field(&mut self, name: &str) -> usize {
        let before = self.path.len();
        if before > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        self.fields.push(name.to_owned());
        before
    }

    fn leave_field(&mut self, before: usize) {
        self.path.truncate(before);
        self.fields.pop();
    }

    fn item(&mut self, index: usize, visit: impl FnOnce(&mut Self)) {
        let before = self.path.len();
        let _ = write!(self.path, "[{index}]");
        visit(self);
        self.path.truncate(before);
    }

    fn entry(&mut self, key: &str, visit: impl FnOnce(&mut Self)) {
        let before = self.path.len();
        self.path.push('.');
        self.path.push_str(key);
        visit(self);
        self.path.truncate(before);
    }

    fn wrong(&mut self, ty: &Ty, value: &Value) {
        self.complain(Complaint::Type(word(value).to_owned(), ""), &go_type(ty));
    }

    /// Words a complaint as Go's decoder does; `go` names the Go type where the complaint does not.
    fn complain(&mut self, complaint: Complaint, go: &str) {
        let message = match complaint {
            Complaint::Text(message) => message,
            Complaint::Type(found, named) => {
                let go = if named.is_empty() { go } else { named };
                match self.fields.is_empty() {
                    true => format!("json: cannot unmarshal {found} into Go value of type {go}"),
                    false => format!(
                        "json: cannot unmarshal {found} into Go struct field {}.{} of type {go}",
                        self.inside,
                        self.fields.join(".")
                    ),
                }
            }
        };
        self.report.errors.push(Fault { path: self.path.clone(), message });
    }
}

/// Go leaves the field out when it writes the struct.
fn means_absent(field: &Field, value: &Value) -> bool {
    match field.presence {
        Presence::Optional => match (&field.ty, value) {
            (Ty::List(_), Value::Array(items)) => items.is_empty(),
            (Ty::Map(_), Value::Object(map)) => map.is_empty(),
            (Ty::Bytes, Value::String(text)) => text.is_empty(),
            _ => false,
        },
        Presence::ZeroIsAbsent => *value == zero(&field.ty),
        Presence::EmptyIsAbsent | Presence::Always | Presence::NullIfAbsent => false,
    }
}

/// Puts in what Go always writes: structs that are values, and scalars without `omitempty`.
fn fill(ty: &Type, map: &mut Map<String, Value>) {
    for field in ty.fields.iter().filter(|field| field.presence == Presence::Always) {
        let name = field.name.as_ref();
        if is_plain(&field.ty) && !map.contains_key(name) {
            map.insert(name.to_owned(), zero(&field.ty));
        }
    }
}

/// Go's zero value of the type is a value in JSON too, and not `null`.
fn is_plain(ty: &Ty) -> bool {
    matches!(ty, Ty::Bool | Ty::String | Ty::Int32 | Ty::Int64 | Ty::Double | Ty::Object(_))
}

/// The zero value, as Go writes it.
pub(crate) fn zero(ty: &Ty) -> Value {
    match ty {
        Ty::Bool => Value::Bool(false),
        Ty::Int32 | Ty::Int64 | Ty::Double | Ty::IntOrString => 0.into(),
        Ty::String => "".into(),
        Ty::Quantity => "0".into(),
        Ty::Duration => "0s".into(),
        Ty::Object(inner) => {
            let mut map = Map::new();
            fill(inner, &mut map);
            Value::Object(map)
        }
        Ty::Bytes | Ty::Time | Ty::MicroTime | Ty::Raw(_) | Ty::Map(_) | Ty::List(_) => Value::Null,
    }
}

/// The Go type, as the decoder prints it.
fn go_type(ty: &Ty) -> String {
    match ty {
        Ty::Bool => "bool".to_owned(),
        Ty::Int32 => "int32".to_owned(),
        Ty::Int64 => "int64".to_owned(),
        Ty::Double => "float64".to_owned(),
        Ty::String => "string".to_owned(),
        Ty::Bytes => "[]uint8".to_owned(),
        Ty::Time => "v1.Time".to_owned(),
        Ty::MicroTime => "v1.MicroTime".to_owned(),
        Ty::Duration => "v1.Duration".to_owned(),
        Ty::Quantity => "resource.Quantity".to_owned(),
        Ty::IntOrString => "intstr.IntOrString".to_owned(),
        Ty::Raw(_) => "runtime.RawExtension".to_owned(),
        Ty::Object(inner) => go_struct(inner),
        Ty::Map(map) => format!("map[string]{}", go_type(&map.value)),
        Ty::List(list) => format!("[]{}", go_type(&list.item)),
    }
}

/// `v1.PodSpec` for `io.k8s.api.core.v1.PodSpec`.
fn go_struct(ty: &Type) -> String {
    let mut parts = ty.name.rsplit('.');
    let (name, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!("{package}.{name}")
}
