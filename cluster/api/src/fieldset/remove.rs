//! Taking fields out of an object.
//!
//! Start at [`remove`]; [`with_named`] widens a set so that a struct goes with the last of its fields.

use serde_json::Value;

use super::shape::{Shape, element};
use super::{SELF, Set, Tree, below, is_member, path, settle};
use crate::schema::Type;

/// The object without these fields and items.
pub fn remove(ty: &Type, object: &Value, fields: &Set) -> Value {
    without(Shape::root(ty), object, &fields.0).unwrap_or_else(|| Value::Object(Tree::new()))
}

/// The value without what the set names, or nothing if nothing is left of it. One unit is never taken apart.
fn without(shape: Shape, value: &Value, gone: &Tree) -> Option<Value> {
    match (shape, value) {
        (Shape::Items(ty), Value::Array(items)) => {
            let kept = items.iter().filter_map(|item| {
                let node = element(ty, item).and_then(|key| gone.get(&key));
                rest(shape.item(), item, node)
            });
            let kept: Vec<Value> = kept.collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        (shape, Value::Object(fields)) if shape.is_map(Some(value)) => {
            let kept = fields.iter().filter_map(|(name, value)| {
                Some((name.clone(), rest(shape.under(name), value, gone.get(&path::field(name)))?))
            });
            let kept: Tree = kept.collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        _ => None,
    }
}

fn rest(shape: Shape, value: &Value, node: Option<&Value>) -> Option<Value> {
    match node {
        None => Some(value.clone()),
        Some(node) if is_member(node) => None,
        Some(node) => match (shape, value) {
            // What the schema now takes for one unit is not cut by an old set; a scalar has no parts.
            (Shape::Unit, Value::Object(_) | Value::Array(_)) => None,
            (_, Value::Object(_) | Value::Array(_)) => without(shape, value, below(node)),
            _ => Some(value.clone()),
        },
    }
}

/// The set, with every named field of a struct that has members below it a member too.
pub fn with_named(ty: &Type, set: &Set) -> Set {
    let mut tree = set.0.clone();
    widen(Shape::root(ty), &mut tree);
    Set(tree)
}

fn widen(shape: Shape, tree: &mut Tree) {
    for (element, node) in tree.iter_mut().filter(|(element, _)| *element != SELF) {
        let Value::Object(inner) = node else { continue };
        let (under, named) = match element.strip_prefix("f:") {
            Some(name) => (shape.under(name), shape.names(name)),
            None => (shape.item(), false),
        };
        widen(under, inner);
        if named {
            settle(node, true);
        }
    }
}
