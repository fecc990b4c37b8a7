//! What a place in an object is, for whoever keeps track of its fields.
//!
//! Start at [`Shape`]; [`items`] gives each item of a list the path element by which it is known.

use serde_json::Value;

use super::{Tree, path};
use crate::schema::{Field, ListTy, Raw, Topology, Ty, Type};

/// How a place is divided.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape<'a> {
    /// Fields with names of their own.
    Struct(&'a Type),
    /// Any keys, with values of one type.
    Map(&'a Ty),
    /// Items that are told apart.
    Items(&'a ListTy),
    /// Any JSON: maps by their keys, everything else as one unit.
    Free,
    /// One unit, whatever it holds.
    Unit,
}

impl<'a> Shape<'a> {
    /// The shape of a whole object. An object is never one unit.
    pub(super) fn root(ty: &'a Type) -> Shape<'a> {
        Shape::Struct(ty)
    }

    fn of_struct(ty: &'a Type, atomic: bool) -> Shape<'a> {
        if atomic { Shape::Unit } else { Shape::Struct(ty) }
    }

    fn of(ty: &'a Ty) -> Shape<'a> {
        match ty {
            Ty::Object(ty) => Shape::of_struct(ty, ty.atomic),
            Ty::Map(map) if !map.atomic => Shape::Map(&map.value),
            Ty::List(list) if list.topology != Topology::Atomic => Shape::Items(list),
            Ty::Raw(Raw::Extension | Raw::Fields | Raw::Any) => Shape::Free,
            _ => Shape::Unit,
        }
    }

    fn of_field(field: &'a Field) -> Shape<'a> {
        match (&field.ty, field.struct_atomic) {
            (Ty::Object(ty), Some(atomic)) => Shape::of_struct(ty, atomic),
            (ty, _) => Shape::of(ty),
        }
    }

    /// The shape under a field or a map's key.
    pub(super) fn under(self, name: &str) -> Shape<'a> {
        match self {
            Shape::Struct(ty) => ty.field(name).map_or(Shape::Free, Shape::of_field),
            Shape::Map(value) => Shape::of(value),
            _ => Shape::Free,
        }
    }

    /// The shape of a list's items.
    pub(super) fn item(self) -> Shape<'a> {
        match self {
            Shape::Items(list) => Shape::of(&list.item),
            _ => Shape::Unit,
        }
    }

    /// The schema itself names this field; the keys of maps and of free JSON it does not.
    pub(super) fn names(self, field: &str) -> bool {
        matches!(self, Shape::Struct(ty) if ty.field(field).is_some())
    }

    /// The place is divided by keys, given what may be there.
    pub(super) fn is_map(self, value: Option<&Value>) -> bool {
        match self {
            Shape::Struct(_) | Shape::Map(_) => true,
            Shape::Free => value.is_some_and(Value::is_object),
            Shape::Items(_) | Shape::Unit => false,
        }
    }
}

/// The items of a list with their path elements, in the list's order. An item that cannot be told from others (no key is
/// set, a set holds a struct) has none.
pub(super) fn items<'v>(list: &ListTy, items: &'v [Value]) -> Vec<(Option<String>, &'v Value)> {
    items.iter().map(|item| (element(list, item), item)).collect()
}

/// The path element of one item.
pub(super) fn element(list: &ListTy, item: &Value) -> Option<String> {
    match (&list.topology, item) {
        (Topology::Set, Value::String(_) | Value::Number(_) | Value::Bool(_)) => Some(path::value(item)),
        (Topology::Map(names), Value::Object(fields)) => {
            let known = names.iter().filter_map(|name| {
                let given = fields.get(name.as_ref()).cloned();
                Some((name.to_string(), given.or_else(|| default_of(list, name))?))
            });
            let keys: Tree = known.collect();
            (!keys.is_empty()).then(|| path::key(&keys))
        }
        _ => None,
    }
}

fn default_of(list: &ListTy, name: &str) -> Option<Value> {
    let text = list.item.object()?.field(name)?.default.as_deref()?;
    serde_json::from_str(text).ok()
}

/// The elements of a map; of anything else there are none.
pub(super) fn entries(value: Option<&Value>) -> Option<&Tree> {
    value.and_then(Value::as_object)
}

/// The items of a list; of anything else there are none.
pub(super) fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
