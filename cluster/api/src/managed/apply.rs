//! Server-side apply: a configuration becomes part of an object, and its manager the owner of what it says.
//!
//! Start at [`apply`]: merge, prune, look for conflicts, note the owners.
//!
//! Invariants:
//! * a field goes when its manager no longer applies it and nobody else manages it;
//! * nobody loses a field to a different value without force;
//! * what is refused changes nothing.
//!
//! Not here: reading the configuration, creating or replacing the object (`apiserver`).

use serde_json::Value;

use super::entry::{self, Entry, Operation};
use super::{BEFORE_FIRST_APPLY, Changes, Writer, empty, last_applied, put, written};
use crate::dig;
use crate::fieldset::{self, Set, fields, merge, misfits, with_named};
use crate::meta;
use crate::schema::Type;

/// Why a configuration cannot be applied.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// The configuration is of another kind or version; this one.
    OtherKind(String),
    /// The configuration says itself who manages what.
    HasManagedFields,
    /// The configuration does not fit the schema.
    Misfit(String),
    /// Others manage fields to which it gives other values.
    Conflicts(Vec<Conflict>),
}

/// A field that somebody else manages.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// Who, as people read it: `"kubectl" using v1`.
    pub manager: String,
    /// The field, such as `.data.key`.
    pub path: String,
}

/// A conflict as it is found.
struct Found {
    manager: String,
    fields: Set,
}

/// The object once the configuration is applied to it; `None` for an object that is not there yet. Both are in the
/// version of the request.
pub fn apply(writer: &Writer, live: Option<&Value>, configuration: &Value, force: bool) -> Result<Value, Refusal> {
    fits(writer, configuration)?;
    let (live, entries) = start(writer, live);
    let time_before = entries.iter().find(|entry| is_own(writer, entry)).and_then(|own| own.time.clone());
    let tried = match attempt(writer, &live, entries.clone(), configuration, force) {
        Err(found) => match unforgiven(writer, &live, found) {
            found if found.is_empty() => attempt(writer, &live, entries, configuration, true),
            found => Err(found),
        },
        applied => applied,
    };
    let (mut object, mut entries) = tried.map_err(conflicts)?;
    // Only what changes the object is news; a manager that is new here has no time before.
    if object == live {
        entries.iter_mut().filter(|entry| is_own(writer, entry)).for_each(|entry| entry.time = time_before.clone());
    }
    if writer.manager == last_applied::MANAGER {
        last_applied::renew(&mut object, configuration);
    }
    put(&mut object, entries);
    Ok(object)
}

fn fits(writer: &Writer, configuration: &Value) -> Result<(), Refusal> {
    let kind = writer.kind;
    let told = |name: &str| dig::text(configuration, name);
    if told("apiVersion") != kind.api_version() || told("kind") != kind.kind {
        return Err(Refusal::OtherKind(kind_words(told("apiVersion"), told("kind"))));
    }
    if dig::get(configuration, "metadata").get("managedFields").is_some_and(|entries| !entries.is_null()) {
        return Err(Refusal::HasManagedFields);
    }
    match misfits(&kind.ty, configuration) {
        None => Ok(()),
        Some(misfits) => {
            let (namespace, name) = (meta::namespace(configuration), meta::name(configuration));
            let what = kind_words(told("apiVersion"), told("kind"));
            Err(Refusal::Misfit(format!("failed to create typed patch object ({namespace}/{name}; {what}): {misfits}")))
        }
    }
}

/// A kind as Go prints it: `apps/v1, Kind=Deployment`, `/v1, Kind=Pod`.
fn kind_words(api_version: &str, kind: &str) -> String {
    let slash = if api_version.contains('/') { "" } else { "/" };
    format!("{slash}{api_version}, Kind={kind}")
}

/// The object without its entries, and the entries. Where nobody was written down, everything there is belongs to one
/// manager, so that nobody can take it unasked.
fn start(writer: &Writer, live: Option<&Value>) -> (Value, Vec<Entry>) {
    let Some(live) = live else { return (empty(writer.kind), Vec::new()) };
    let mut live = live.clone();
    let kept = dig::remove(&mut live, "metadata.managedFields").unwrap_or_default();
    let mut entries = entry::read(kept, true).unwrap_or_default();
    if entries.is_empty() {
        let before = Writer { manager: BEFORE_FIRST_APPLY, ..*writer };
        entries = written(&before, Vec::new(), &empty(writer.kind), &live);
    }
    (live, entries)
}

fn is_own(writer: &Writer, entry: &Entry) -> bool {
    entry.is_of(writer.manager, Operation::Apply, "", writer.subresource)
}

/// The object with the configuration in it and the entries it then has, or what stands against that.
fn attempt(
    writer: &Writer,
    live: &Value,
    mut entries: Vec<Entry>,
    configuration: &Value,
    force: bool,
) -> Result<(Value, Vec<Entry>), Vec<Found>> {
    let version = writer.kind.api_version();
    let merged = merge(&writer.kind.ty, live, configuration);
    let mut wanted = fields(&writer.kind.ty, configuration);
    wanted.subtract_whole(&writer.ignored());
    let own = entries.iter().position(|entry| is_own(writer, entry));
    let last = own.map(|at| entries.remove(at));
    entries.push(writer.entry(Operation::Apply, &version, wanted));
    let object = match last {
        Some(last) => prune(writer, merged, &entries, &last),
        None => merged,
    };
    take(writer, live, &object, &mut entries, force)?;
    entries.retain(|entry| !entry.fields.is_empty());
    Ok((object, entries))
}

/// Takes from the others what the object now says differently, if that is allowed.
fn take(
    writer: &Writer,
    live: &Value,
    object: &Value,
    entries: &mut Vec<Entry>,
    force: bool,
) -> Result<(), Vec<Found>> {
    let version = writer.kind.api_version();
    let mut changes = Changes::new(writer, &version, live, object);
    let mut found = Vec::new();
    entries.retain_mut(|entry| {
        if is_own(writer, entry) {
            return true;
        }
        let Some((written, removed)) = changes.at(&entry.api_version) else { return false };
        let fields = entry.fields.common(written);
        entry.fields.subtract(written);
        entry.fields.subtract(removed);
        if !fields.is_empty() {
            found.push(Found { manager: entry.words(), fields });
        }
        true
    });
    if force || found.is_empty() { Ok(()) } else { Err(found) }
}

/// Every field in conflict, manager by manager.
fn conflicts(mut found: Vec<Found>) -> Refusal {
    found.sort_by(|one, other| one.manager.cmp(&other.manager));
    let each = found.into_iter().flat_map(|one| {
        let manager = one.manager;
        one.fields.paths().into_iter().map(move |path| Conflict { manager: manager.clone(), path })
    });
    Refusal::Conflicts(each.collect())
}

/// Whoever applied with `kubectl apply` before may go on with `kubectl apply --server-side`: what the annotation of the
/// client says was theirs is no conflict.
fn unforgiven(writer: &Writer, live: &Value, mut found: Vec<Found>) -> Vec<Found> {
    let allowed = (writer.manager == last_applied::MANAGER).then(|| last_applied::owned(writer.kind, live)).flatten();
    if let Some(allowed) = allowed {
        found.iter_mut().for_each(|one| one.fields.subtract(&allowed));
        found.retain(|one| !one.fields.is_empty());
    }
    found
}

/// Removes what this manager applied last time, does not apply now, and nobody else manages.
fn prune(writer: &Writer, merged: Value, entries: &[Entry], last: &Entry) -> Value {
    let convert = |object: &Value, version: &str| (writer.convert)(object, version);
    let version = writer.kind.api_version();
    if last.fields.is_empty() {
        return merged;
    }
    let Some((ty, merged_then)) = convert(&merged, &last.api_version) else { return merged };
    let gone = with_named(&ty, &last.fields);
    let mut pruned = fieldset::remove(&ty, &merged_then, &gone);
    let mut whole = merged_then.clone();
    for at in versions(entries, &last.api_version) {
        let (Some((ty, new_whole)), Some((_, kept))) = (convert(&whole, at), convert(&pruned, at)) else { continue };
        pruned = with_owned_back(&ty, &new_whole, &kept, &managed_at(entries, at));
        whole = new_whole;
    }
    let Some((_, pruned)) = convert(&pruned, &last.api_version) else { return merged };
    let mut lost = with_named(&ty, &fields(&ty, &merged_then));
    lost.subtract(&with_named(&ty, &fields(&ty, &pruned)));
    let mut lost = lost.common(&gone);
    // An object never loses its metadata as a whole.
    lost.remove_field(&["metadata"]);
    let pruned = fieldset::remove(&ty, &merged_then, &lost);
    convert(&pruned, &version).map_or(merged, |(_, object)| object)
}

/// The versions that somebody wrote, `first` before the others.
fn versions<'a>(entries: &'a [Entry], first: &'a str) -> Vec<&'a str> {
    let mut versions: Vec<&str> = entries.iter().map(|entry| entry.api_version.as_str()).collect();
    versions.sort_by_key(|version| (*version != first, version.to_string()));
    versions.dedup();
    versions
}

fn managed_at(entries: &[Entry], version: &str) -> Set {
    let mut managed = Set::default();
    entries.iter().filter(|entry| entry.api_version == version).for_each(|entry| managed.unite(&entry.fields));
    managed
}

/// The whole object without what was pruned, unless somebody manages it.
fn with_owned_back(ty: &Type, whole: &Value, pruned: &Value, managed: &Set) -> Value {
    let mut kept = with_named(ty, &fields(ty, pruned));
    kept.unite(&with_named(ty, managed));
    let mut gone = with_named(ty, &fields(ty, whole));
    gone.subtract(&kept);
    gone.remove_field(&["metadata"]);
    fieldset::remove(ty, whole, &gone)
}
