//! Sets of fields, as `metadata.managedFields` keeps them (FieldsV1), and what is computed with them over the schema.
//!
//! Start at [`Set`]. A set is its own JSON: a tree whose keys are path elements, `f:NAME` a field or a map's key,
//! `k:{…}` a list's item by its keys, `v:…` an item by its value, `i:N` an item by its place. An empty map under a key
//! means that the element is in the set; elements below it are in the set too where `.` says so. That form is read and
//! written for nothing, and the operations below need no other.
//!
//! Then [`compare`] (which fields differ), [`fields`] (which fields a configuration sets), [`merge`] and [`remove`].
//!
//! Invariants:
//! * the root is no member, and no element without members is kept;
//! * elements are canonical: equal elements are equal texts;
//! * built-in kinds and custom resources take the same road: only the schema is asked.
//!
//! Not here: who owns which set (`managed.rs`).

mod collect;
mod compare;
mod fit;
mod merge;
mod path;
mod remove;
mod shape;

use serde_json::{Map, Value};

pub use collect::fields;
pub use compare::{Comparison, compare};
pub use fit::misfits;
pub use merge::merge;
pub use remove::{remove, with_named};

/// A tree of path elements.
type Tree = Map<String, Value>;

/// The key that puts an element with others below it in the set itself.
const SELF: &str = ".";

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set(Tree);

impl Set {
    /// The set that is written so; elements that mean nothing are left out, the others are brought into canonical form.
    /// `None` for what is no set at all.
    pub fn read(fields: Value) -> Option<Set> {
        match fields {
            Value::Object(tree) => path::canonical(tree).map(Set),
            Value::Null => Some(Set::default()),
            _ => None,
        }
    }

    /// The set that this program wrote itself.
    pub fn trusted(fields: Value) -> Set {
        match fields {
            Value::Object(tree) => Set(tree),
            _ => Set::default(),
        }
    }

    /// As it is kept in an object.
    pub fn into_json(self) -> Value {
        Value::Object(self.0)
    }

    /// The set of one field, given by the names that lead to it.
    pub fn of_field(names: &[&str]) -> Set {
        let leaf = Value::Object(Tree::new());
        let tree = names.iter().rev().fold(leaf, |below, name| {
            let mut tree = Tree::new();
            tree.insert(path::field(name), below);
            Value::Object(tree)
        });
        Set::trusted(tree)
    }

    /// Nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what is in the other set.
    pub fn unite(&mut self, other: &Set) {
        unite(&mut self.0, &other.0);
    }

    /// Takes out what is in the other set, and only that: what lies below stays.
    pub fn subtract(&mut self, other: &Set) {
        subtract(&mut self.0, &other.0);
    }

    /// Takes out what is in the other set and everything below.
    pub fn subtract_whole(&mut self, other: &Set) {
        subtract_whole(&mut self.0, &other.0);
    }

    /// What is in both.
    pub fn common(&self, other: &Set) -> Set {
        Set(common(&self.0, &other.0))
    }

    /// Takes one field out, given by the names that lead to it; what lies below stays.
    pub fn remove_field(&mut self, names: &[&str]) {
        self.subtract(&Set::of_field(names));
    }

    /// Every member as people read it, such as `.spec.containers[name="web"].image`, in upstream's order: the members of
    /// a level before what lies deeper.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        path::print(&self.0, "", &mut found);
        found
    }
}

fn below(node: &Value) -> &Tree {
    static NOTHING: std::sync::LazyLock<Tree> = std::sync::LazyLock::new(Tree::new);
    node.as_object().unwrap_or(&NOTHING)
}

fn below_mut(node: &mut Value) -> &mut Tree {
    if !node.is_object() {
        *node = Value::Object(Tree::new());
    }
    node.as_object_mut().expect("made a map on the line above")
}

fn is_member(node: &Value) -> bool {
    let tree = below(node);
    tree.is_empty() || tree.contains_key(SELF)
}

/// The elements of a tree, without the word about the tree itself.
fn elements(tree: &Tree) -> impl Iterator<Item = (&String, &Value)> {
    tree.iter().filter(|(element, _)| *element != SELF)
}

/// Makes a node a member or not. False if nothing is left of it.
fn settle(node: &mut Value, member: bool) -> bool {
    let tree = below_mut(node);
    let has_self = tree.contains_key(SELF);
    let more = tree.len() > usize::from(has_self);
    match (member && more, has_self) {
        (true, false) => {
            tree.insert(SELF.to_owned(), Value::Object(Tree::new()));
        }
        (false, true) => {
            tree.remove(SELF);
        }
        _ => {}
    }
    member || more
}

/// A node of what lies below it and whether it is a member itself; nothing if it is empty.
fn node(below: Tree, member: bool) -> Option<Value> {
    let mut node = Value::Object(below);
    settle(&mut node, member).then_some(node)
}

fn unite(own: &mut Tree, other: &Tree) {
    for (element, theirs) in elements(other) {
        match own.get_mut(element) {
            Some(ours) => {
                let member = is_member(ours) || is_member(theirs);
                unite(below_mut(ours), below(theirs));
                settle(ours, member);
            }
            None => {
                own.insert(element.clone(), theirs.clone());
            }
        }
    }
}

fn subtract(own: &mut Tree, other: &Tree) {
    for (element, theirs) in elements(other) {
        let Some(ours) = own.get_mut(element) else { continue };
        let member = is_member(ours) && !is_member(theirs);
        subtract(below_mut(ours), below(theirs));
        if !settle(ours, member) {
            own.remove(element);
        }
    }
}

fn subtract_whole(own: &mut Tree, other: &Tree) {
    for (element, theirs) in elements(other) {
        let Some(ours) = own.get_mut(element) else { continue };
        let mut left = !is_member(theirs);
        if left {
            let member = is_member(ours);
            subtract_whole(below_mut(ours), below(theirs));
            left = settle(ours, member);
        }
        if !left {
            own.remove(element);
        }
    }
}

fn common(one: &Tree, other: &Tree) -> Tree {
    let shared = elements(one).filter_map(|(element, ours)| {
        let theirs = other.get(element)?;
        let both = node(common(below(ours), below(theirs)), is_member(ours) && is_member(theirs))?;
        Some((element.clone(), both))
    });
    shared.collect()
}

#[cfg(test)]
mod tests;
