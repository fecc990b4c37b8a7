//! Which fields an object has: the fields that a configuration sets, when that is the object.
//!
//! Start at [`fields`].
//!
//! Surprises that are upstream's (structured-merge-diff v6): a struct is in the set only when it is empty, a map's key
//! always, and an empty list never.

use serde_json::Value;

use super::shape::{Shape, element};
use super::{Set, Tree, node};
use crate::schema::{ListTy, Type};

/// What no manager ever owns of an object, at its root and in its metadata: identity, and what the server keeps.
pub(super) const NOBODYS: [&str; 2] = ["apiVersion", "kind"];
/// The same, in the metadata.
pub(super) const NOBODYS_METADATA: [&str; 8] =
    ["creationTimestamp", "generation", "managedFields", "name", "namespace", "resourceVersion", "selfLink", "uid"];

/// Every field that an object or a configuration has.
pub fn fields(ty: &Type, object: &Value) -> Set {
    let root = Shape::root(ty);
    let mut tree = Tree::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        let found = match name.as_str() {
            name if NOBODYS.contains(&name) => continue,
            "metadata" => node(metadata(root.under(name), value), false),
            name => field(root, name, value),
        };
        if let Some(found) = found {
            tree.insert(super::path::field(name), found);
        }
    }
    Set(tree)
}

fn metadata(shape: Shape, value: &Value) -> Tree {
    let fields = value.as_object().into_iter().flatten();
    let fields = fields.filter(|(name, _)| !NOBODYS_METADATA.contains(&name.as_str()));
    let fields = fields.filter_map(|(name, value)| Some((super::path::field(name), field(shape, name, value)?)));
    fields.collect()
}

fn field(shape: Shape, name: &str, value: &Value) -> Option<Value> {
    let is_empty = value.is_null() || value.as_object().is_some_and(Tree::is_empty);
    let (below, leaf) = collect(shape.under(name), value);
    node(below, leaf || is_empty || !shape.names(name))
}

/// What lies below a value, and whether it is a leaf.
fn collect(shape: Shape, value: &Value) -> (Tree, bool) {
    match (shape, value) {
        (Shape::Unit, _) => (Tree::new(), true),
        (Shape::Items(list), Value::Array(items)) => (collect_items(list, shape.item(), items), false),
        (shape, Value::Object(fields)) if shape.is_map(Some(value)) => {
            let fields = fields.iter();
            let fields =
                fields.filter_map(|(name, value)| Some((super::path::field(name), field(shape, name, value)?)));
            (fields.collect(), false)
        }
        (_, Value::Null) => (Tree::new(), false),
        _ => (Tree::new(), true),
    }
}

fn collect_items(list: &ListTy, shape: Shape, items: &[Value]) -> Tree {
    let mut tree = Tree::new();
    for item in items {
        let Some(element) = element(list, item) else { continue };
        // Items that cannot be told apart are one member, of which nothing more is known.
        let is_again = tree.contains_key(&element);
        let below = if is_again { Tree::new() } else { collect(shape, item).0 };
        tree.extend(node(below, true).map(|node| (element, node)));
    }
    tree
}
