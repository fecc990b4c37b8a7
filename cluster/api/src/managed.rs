//! Who manages which fields of an object: `metadata.managedFields`.
//!
//! Start at [`update`], which every ordinary write passes, and [`apply`], which server-side apply is. Both are functions of
//! trees: of the object as it is, of what is to come, and of the one who writes.
//!
//! Invariants:
//! * a write takes the fields it changes from everybody else, a removed field is nobody's;
//! * what a write does not change keeps its owners and their times;
//! * the entries stand in upstream's order, and no entry is empty;
//! * an object whose entries were cleared stays without, until somebody applies to it.
//!
//! Not here: sets of fields and what is computed with them (`fieldset.rs`).

mod apply;
mod entry;
mod last_applied;

use serde_json::Value;

use crate::check;
use crate::dig;
use crate::fieldset::{Comparison, Set, compare};
use crate::kinds::Kind;
use crate::meta;
use crate::schema::{Presence, Ty, Type, TypeRef};
use crate::strategy;

pub use apply::{Conflict, Refusal, apply};
pub use entry::{Entry, Operation};

/// So many entries of ordinary writes are kept apart; older ones become one.
const UPDATES_MAX: usize = 10;
/// Who manages what those older ones managed.
const ANCIENT: &str = "ancient-changes";
/// Who manages what was there before anybody was written down.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Gives an object, which says its version itself, in another version, with that version's type. Nothing if there is no
/// such version.
pub type Convert<'a> = dyn Fn(&Value, &str) -> Option<(TypeRef, Value)> + 'a;

/// Who writes what, and when.
pub struct Writer<'a> {
    /// The kind, in the version of the request.
    pub kind: &'a Kind,
    /// Who writes.
    pub manager: &'a str,
    /// Such as `status`; `None` for the object itself.
    pub subresource: Option<&'a str>,
    /// The time, as entries keep it.
    pub now: &'a str,
    /// To look at an object as those saw it who wrote another version.
    pub convert: &'a Convert<'a>,
}

/// The name of a manager that a client gives itself by its `User-Agent`: what stands before the first slash.
pub fn of_user_agent(agent: &str) -> String {
    const BYTES_MAX: usize = 128;
    let mut name = String::new();
    for letter in agent.split('/').next().unwrap_or_default().chars().filter(|letter| !letter.is_control()) {
        if name.len() + letter.len_utf8() > BYTES_MAX {
            break;
        }
        name.push(letter);
    }
    name
}

/// Notes in `new` who manages what once it takes the place of `old`; `None` for a new object. Both are in the version of
/// the request.
pub fn update(writer: &Writer, old: Option<&Value>, new: &mut Value) {
    let sent = dig::remove(new, "metadata.managedFields").unwrap_or_default();
    let kept = old.map_or(&Value::Null, |old| dig::get(old, "metadata.managedFields"));
    let known = known(sent, kept, writer.subresource.is_some());
    if known.is_empty() && old.is_some() {
        return;
    }
    let blank;
    let old = match old {
        Some(old) => old,
        None => {
            blank = empty(writer.kind);
            &blank
        }
    };
    let mut entries = written(writer, known, old, new);
    cap(&mut entries);
    put(new, entries);
}

/// Keeps the wish to clear all entries where canonical form would lose it: an empty list is absent there.
pub fn keep_reset(object: &mut Value) {
    let entries = object.get_mut("metadata").and_then(|metadata| metadata.get_mut("managedFields"));
    if let Some(Value::Array(entries)) = entries
        && entries.is_empty()
    {
        entries.push(Value::Object(serde_json::Map::new()));
    }
}

/// Whether two versions of an object differ in nothing but the times of their entries.
pub fn is_same_but_for_times(new: &Value, old: &Value) -> bool {
    let without = |object: &'_ Value| {
        let entries = dig::list(object, "metadata.managedFields").iter();
        entries.map(|entry| entry.as_object().cloned().unwrap_or_default()).collect::<Vec<_>>()
    };
    let same_fields = |one: &Value, other: &Value, but: &str| match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(key, value)| key == but || other.get(key) == Some(value))
        }
        _ => false,
    };
    same_fields(new, old, "metadata") && same_fields(&new["metadata"], &old["metadata"], "managedFields") && {
        let (mut new, mut old) = (without(new), without(old));
        new.iter_mut().chain(&mut old).for_each(|entry| drop(entry.remove("time")));
        new == old
    }
}

/// The entries to begin with: those that were sent, if they may be and can be read, else those that were there.
fn known(sent: Value, kept: &Value, is_subresource: bool) -> Vec<Entry> {
    let ours = || entry::read(kept.clone(), true).unwrap_or_default();
    if is_subresource {
        return ours();
    }
    if is_reset(&sent) {
        return Vec::new();
    }
    // What was read is sent back unchanged in nearly every write.
    let trusted = sent == *kept;
    match entry::read(sent, trusted) {
        Some(entries) if !entries.is_empty() => entries,
        _ => ours(),
    }
}

/// The two documented ways to clear all entries: no entry, and one that says nothing.
fn is_reset(sent: &Value) -> bool {
    match sent.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => only.as_object().is_some_and(|fields| fields.values().all(dig::is_zero)),
        _ => false,
    }
}

fn put(object: &mut Value, entries: Vec<Entry>) {
    let entries = entry::written(entries);
    if !entries.is_null() {
        meta::metadata_mut(object).insert("managedFields".to_owned(), entries);
    }
}

/// The entries once somebody wrote `new` over `old`.
fn written(writer: &Writer, mut entries: Vec<Entry>, old: &Value, new: &Value) -> Vec<Entry> {
    let version = writer.kind.api_version();
    let mut changes = Changes::new(writer, &version, old, new);
    let (written, removed) = changes.own();
    if written.is_empty() && removed.is_empty() {
        return entries;
    }
    let is_own = |entry: &Entry| entry.is_of(writer.manager, Operation::Update, &version, writer.subresource);
    entries.retain_mut(|entry| {
        let Some((written, removed)) = changes.at(&entry.api_version) else { return false };
        entry.fields.subtract(removed);
        if !is_own(entry) {
            entry.fields.subtract(written);
        }
        is_own(entry) || !entry.fields.is_empty()
    });
    let (written, _) = changes.own();
    if !written.is_empty() {
        match entries.iter_mut().find(|entry| is_own(entry)) {
            Some(own) => {
                own.fields.unite(written);
                own.time = writer.time();
            }
            None => entries.push(writer.entry(Operation::Update, &version, written.clone())),
        }
    }
    entries.retain(|entry| !entry.fields.is_empty());
    entries
}

impl Writer<'_> {
    fn entry(&self, operation: Operation, version: &str, fields: Set) -> Entry {
        let manager = if self.manager.is_empty() { "unknown" } else { self.manager };
        Entry {
            manager: manager.to_owned(),
            operation,
            api_version: version.to_owned(),
            subresource: self.subresource.unwrap_or_default().to_owned(),
            time: self.time(),
            fields,
        }
    }

    /// Upstream loses the time of whoever scales (seen in v1.36: `ScaleHandler.ToParent`).
    fn time(&self) -> Option<String> {
        (self.subresource != Some("scale")).then(|| self.now.to_owned())
    }

    /// The fields that this write cannot change, whatever it says of them.
    fn ignored(&self) -> Set {
        let mut ignored = Set::default();
        for names in strategy::reset_fields(self.kind, self.subresource) {
            ignored.unite(&Set::of_field(names));
        }
        ignored
    }
}

/// What a write changes, in each version that somebody wrote.
struct Changes<'a> {
    writer: &'a Writer<'a>,
    old: &'a Value,
    new: &'a Value,
    /// By version: the fields that the write sets, and those that it removes. The request's own version is the first.
    found: Vec<(String, Option<(Set, Set)>)>,
}

impl<'a> Changes<'a> {
    fn new(writer: &'a Writer, version: &str, old: &'a Value, new: &'a Value) -> Changes<'a> {
        let own = compare(&writer.kind.ty, old, new);
        let found = vec![(version.to_owned(), Some(relevant(writer, own)))];
        Changes { writer, old, new, found }
    }

    fn own(&self) -> &(Set, Set) {
        match &self.found[0].1 {
            Some(changes) => changes,
            None => unreachable!("the request's own version is always there"),
        }
    }

    /// The changes as somebody sees them who writes that version; nothing if the version is no more.
    fn at(&mut self, version: &str) -> Option<&(Set, Set)> {
        let at = match self.found.iter().position(|(its, _)| its == version) {
            Some(at) => at,
            None => {
                self.found.push((version.to_owned(), self.converted(version)));
                self.found.len() - 1
            }
        };
        self.found[at].1.as_ref()
    }

    fn converted(&self, version: &str) -> Option<(Set, Set)> {
        let (ty, old) = (self.writer.convert)(self.old, version)?;
        let (_, new) = (self.writer.convert)(self.new, version)?;
        Some(relevant(self.writer, compare(&ty, &old, &new)))
    }
}

fn relevant(writer: &Writer, mut comparison: Comparison) -> (Set, Set) {
    if !comparison.is_empty() {
        comparison.ignore(&writer.ignored());
    }
    comparison.into_written()
}

/// Makes one of the oldest entries of ordinary writes, version by version, until there are no more than allowed.
fn cap(entries: &mut Vec<Entry>) {
    let updates = entries.iter().filter(|entry| entry.operation == Operation::Update).count();
    let mut surplus = updates.saturating_sub(UPDATES_MAX);
    if surplus == 0 {
        return;
    }
    let (mut updates, applied): (Vec<Entry>, Vec<Entry>) =
        std::mem::take(entries).into_iter().partition(|entry| entry.operation == Operation::Update);
    updates.sort_by(|one, other| (&one.time, one.identity()).cmp(&(&other.time, other.identity())));
    let mut kept: Vec<Entry> = applied;
    let applied = kept.len();
    for entry in updates {
        let same_version = |one: &&mut Entry| one.api_version == entry.api_version;
        match kept[applied..].iter_mut().find(same_version).filter(|_| surplus > 0) {
            Some(bucket) => {
                bucket.fields.unite(&entry.fields);
                bucket.time = entry.time;
                bucket.manager = ANCIENT.to_owned();
                bucket.subresource.clear();
                surplus -= 1;
            }
            None => kept.push(entry),
        }
    }
    *entries = kept;
}

/// An object that nobody has written anything into: for a built-in kind with what a Go struct always has.
fn empty(kind: &Kind) -> Value {
    match &kind.ty {
        ty @ TypeRef::BuiltIn(_) => blank(ty),
        TypeRef::Own(_) => Value::Object(serde_json::Map::new()),
    }
}

fn blank(ty: &Type) -> Value {
    let fields = ty.fields.iter().filter_map(|field| {
        let value = match (field.presence, &field.ty) {
            (Presence::Always, Ty::Object(inner)) => blank(inner),
            (Presence::Always, ty) => check::zero(ty),
            (Presence::NullIfAbsent, _) => Value::Null,
            _ => return None,
        };
        Some((field.name.to_string(), value))
    });
    Value::Object(fields.collect())
}

#[cfg(test)]
mod tests;
