//! Which fields of two versions of an object differ.
//!
//! Start at [`compare`]. Both versions are walked at once; what is the same costs one comparison and no memory.
//!
//! Surprises that are upstream's (structured-merge-diff v6): a struct or map that appears is added itself, beside what it
//! holds; one that was there, even empty, is not.

use std::collections::BTreeMap;

use serde_json::Value;

use super::collect::{NOBODYS, NOBODYS_METADATA};
use super::shape::{Shape, element, entries, list};
use super::{Set, Tree, node, path};
use crate::schema::{ListTy, Type};

/// What became of an object's fields. No field is in two of the sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// In the new version only.
    pub added: Set,
    /// In both, but not the same.
    pub modified: Set,
    /// In the old version only.
    pub removed: Set,
}

impl Comparison {
    /// The versions are the same.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Forgets these fields and everything below them.
    pub fn ignore(&mut self, fields: &Set) {
        for set in [&mut self.added, &mut self.modified, &mut self.removed] {
            set.subtract_whole(fields);
        }
    }

    /// The fields that whoever wrote the new version set: added and modified ones.
    pub fn into_written(self) -> (Set, Set) {
        let mut written = self.added;
        written.unite(&self.modified);
        (written, self.removed)
    }
}

/// Compares two versions of an object, but for what no manager owns.
pub fn compare(ty: &Type, old: &Value, new: &Value) -> Comparison {
    let root = Shape::root(ty);
    let mut all = Change::default();
    zip(entries(Some(old)), entries(Some(new)), |name, old, new| {
        if NOBODYS.contains(&name) {
            return;
        }
        if name != "metadata" {
            return all.enter(|| path::field(name), root.under(name), old, new);
        }
        let mut metadata = Change::default();
        zip(entries(old), entries(new), |name, old, new| {
            if !NOBODYS_METADATA.contains(&name) {
                metadata.enter(|| path::field(name), root.under("metadata").under(name), old, new);
            }
        });
        all.put(|| path::field(name), metadata);
    });
    Comparison { added: Set(all.added.0), modified: Set(all.modified.0), removed: Set(all.removed.0) }
}

/// What lies below a place, and whether the place itself is meant.
type Part = (Tree, bool);

#[derive(Default)]
struct Change {
    added: Part,
    modified: Part,
    removed: Part,
}

impl Change {
    /// Compares what lies under `element`.
    fn enter(&mut self, element: impl Fn() -> String, shape: Shape, old: Option<&Value>, new: Option<&Value>) {
        let mut below = Change::default();
        below.values(shape, old, new);
        self.put(element, below);
    }

    fn put(&mut self, element: impl Fn() -> String, below: Change) {
        let parts =
            [(&mut self.added, below.added), (&mut self.modified, below.modified), (&mut self.removed, below.removed)];
        for ((tree, _), (below, member)) in parts {
            if member || !below.is_empty() {
                tree.extend(node(below, member).map(|node| (element(), node)));
            }
        }
    }

    fn values(&mut self, shape: Shape, old: Option<&Value>, new: Option<&Value>) {
        let is_map = shape.is_map(new.or(old)) && [old, new].iter().all(|one| one.is_none_or(is_map_or_null));
        match shape {
            _ if is_map => {
                let (old_fields, new_fields) = (entries(old), entries(new));
                if [old_fields, new_fields].iter().all(|one| one.is_none_or(Tree::is_empty)) {
                    return self.leaf(old, new);
                }
                zip(old_fields, new_fields, |name, old, new| {
                    self.enter(|| path::field(name), shape.under(name), old, new);
                });
                self.container(old, new);
            }
            Shape::Items(ty) => {
                if list(old).is_empty() && list(new).is_empty() {
                    return self.leaf(old, new);
                }
                if old != new {
                    self.items(ty, shape.item(), list(old), list(new));
                }
                self.container(old, new);
            }
            _ => self.leaf(old, new),
        }
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, _) => self.added.1 = true,
            (_, None) => self.removed.1 = true,
            (old, new) => self.modified.1 = old != new,
        }
    }

    /// A container that was not there, or no longer is, is meant itself.
    fn container(&mut self, old: Option<&Value>, new: Option<&Value>) {
        self.added.1 = old.is_none();
        self.removed.1 = new.is_none() && old.is_some();
    }

    fn items(&mut self, ty: &ListTy, shape: Shape, old: &[Value], new: &[Value]) {
        let mut pairs: BTreeMap<String, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        // Items that stand where they stood are the usual case, and need no key if they are the same.
        let same =
            if old.len() == new.len() { old.iter().zip(new).map(|(old, new)| old == new).collect() } else { vec![] };
        let is_same = |at: usize| same.get(at).copied().unwrap_or(false);
        let changed = |items: &'_ [Value]| (0..items.len()).filter(|at| !is_same(*at)).collect::<Vec<usize>>();
        for item in changed(old).into_iter().map(|at| &old[at]) {
            element(ty, item).into_iter().for_each(|key| pairs.entry(key).or_default().0.push(item));
        }
        for item in changed(new).into_iter().map(|at| &new[at]) {
            element(ty, item).into_iter().for_each(|key| pairs.entry(key).or_default().1.push(item));
        }
        for (key, (old, new)) in pairs {
            self.item(&key, shape, &old, &new);
        }
    }

    /// Compares the items of one key. Where several share it, they are one unit.
    fn item(&mut self, key: &str, shape: Shape, old: &[&Value], new: &[&Value]) {
        let element = || key.to_owned();
        match (old.len(), new.len()) {
            (0..=1, 0..=1) => self.enter(element, shape, old.first().copied(), new.first().copied()),
            (0..=1, _) => {
                if let Some(old) = old.first() {
                    self.enter(element, shape, Some(old), None);
                }
                self.put(element, Change { added: (Tree::new(), true), ..Change::default() });
            }
            (_, 0..=1) => {
                if let Some(new) = new.first() {
                    self.enter(element, shape, None, Some(new));
                }
                self.put(element, Change { removed: (Tree::new(), true), ..Change::default() });
            }
            _ if old != new => self.put(element, Change { modified: (Tree::new(), true), ..Change::default() }),
            _ => {}
        }
    }
}

fn is_map_or_null(value: &Value) -> bool {
    value.is_object() || value.is_null()
}

/// Visits the keys of either map, in order.
fn zip<'v>(
    old: Option<&'v Tree>,
    new: Option<&'v Tree>,
    mut visit: impl FnMut(&str, Option<&'v Value>, Option<&'v Value>),
) {
    let mut old = old.into_iter().flatten().peekable();
    let mut new = new.into_iter().flatten().peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((one, _)), Some((other, _))) => one.cmp(other),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return,
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        let name = before.or(after).map_or("", |(name, _)| name);
        visit(name, before.map(|(_, value)| value), after.map(|(_, value)| value));
    }
}
