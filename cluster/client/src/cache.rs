//! A local copy of a collection, and who wants to know when it changes.
//!
//! Start at [`Cache`]: [`Cache::get`], [`Cache::list`], [`Cache::owned`]. The bytes are the server's own; an object is
//! decoded when somebody asks for it as a type, and then once.
//!
//! Invariants:
//! * the copy is always one the server had, or lies between two it had; it only moves forward;
//! * an event that comes late or twice changes nothing: what is not newer than [`Cache::revision`] is dropped;
//! * listeners are called after the change is visible, in the order of the changes, and never under the cache's lock.
//!
//! Not here: listing and watching (`reflector.rs`), tasks (`run.rs`).

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::watch;

use crate::{Collection, Event, EventKind, Kind, Labels, Listing, Selector};

/// One object as the cache holds it.
pub struct Entry {
    /// What can be asked without decoding.
    pub meta: Meta,
    /// The object's JSON.
    pub object: Bytes,
    typed: OnceLock<Option<Arc<dyn Any + Send + Sync>>>,
}

/// The part of an object's metadata that is indexed and mapped by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// `""` for objects outside namespaces.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion` as a number; 0 if it is none.
    pub revision: u64,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.ownerReferences`.
    pub owners: Vec<Owner>,
    /// `metadata.finalizers`.
    pub finalizers: Vec<String>,
    /// Whether it has a `deletionTimestamp`.
    pub deleting: bool,
}

/// An owner reference.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    /// Such as `apps/v1`.
    pub api_version: String,
    /// Such as `ReplicaSet`.
    pub kind: String,
    /// The owner's name.
    pub name: String,
    /// The owner's uid.
    pub uid: String,
    /// Whether this owner manages the object.
    pub controller: bool,
    /// Whether the owner's foreground deletion waits for the object.
    pub block_owner_deletion: bool,
}

/// What happened to a cache.
#[derive(Clone)]
pub enum Change {
    /// An object came (`old` is absent), changed, or went (`new` is absent).
    Object {
        /// The version before.
        old: Option<Arc<Entry>>,
        /// The version now.
        new: Option<Arc<Entry>>,
    },
    /// The first list is in, or the revision moved without an object.
    Progress,
}

/// Is called after each change.
pub type Listener = dyn Fn(&Collection, &Change) + Send + Sync;

/// A local copy of one collection.
pub struct Cache {
    collection: Collection,
    state: RwLock<State>,
    /// Held while changes are applied and told, so that they are told in order.
    telling: Mutex<Vec<Weak<Listener>>>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    synced: bool,
    revision: u64,
    resource_version: String,
    objects: BTreeMap<Name, Arc<Entry>>,
    by_owner: BTreeMap<String, BTreeSet<Name>>,
    by_uid: BTreeMap<String, Name>,
}

/// Namespace, then name.
type Name = (String, String);

impl Cache {
    /// An empty cache that has not seen a list yet.
    pub fn new(collection: Collection) -> Cache {
        Cache { collection, state: RwLock::default(), telling: Mutex::default(), version: watch::Sender::new(0) }
    }

    /// What it is a copy of.
    pub fn collection(&self) -> &Collection {
        &self.collection
    }

    /// Whether the first list is in. Before that an absent object may well exist.
    pub fn synced(&self) -> bool {
        self.read().synced
    }

    /// The revision up to which it has seen everything.
    pub fn revision(&self) -> u64 {
        self.read().revision
    }

    /// The same as the server wrote it: where a watch goes on. Empty before the first list.
    pub fn resource_version(&self) -> String {
        self.read().resource_version.clone()
    }

    /// A number that grows with every change, to wait on. Only the newest value is kept.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Waits for the first list.
    pub async fn wait_synced(&self) {
        let mut changed = self.changed();
        while !self.synced() {
            // The sender lives in `self`, so this cannot fail.
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Calls `listener` after every change from now on, for as long as somebody else holds it.
    pub fn subscribe(&self, listener: &Arc<Listener>) {
        self.tell().push(Arc::downgrade(listener));
    }

    /// One object; the namespace is `""` for what has none.
    pub fn entry(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.read().objects.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// One object by its uid.
    pub fn by_uid(&self, uid: &str) -> Option<Arc<Entry>> {
        let state = self.read();
        state.by_uid.get(uid).and_then(|name| state.objects.get(name)).cloned()
    }

    /// All objects, of one namespace or of all, by namespace and name.
    pub fn entries(&self, namespace: Option<&str>) -> Vec<Arc<Entry>> {
        let state = self.read();
        match namespace {
            None => state.objects.values().cloned().collect(),
            Some(namespace) => state
                .objects
                .range((namespace.to_owned(), String::new())..)
                .take_while(|((its, _), _)| its == namespace)
                .map(|(_, entry)| entry.clone())
                .collect(),
        }
    }

    /// All objects that name this uid among their owners.
    pub fn owned_entries(&self, owner_uid: &str) -> Vec<Arc<Entry>> {
        let state = self.read();
        let names = state.by_owner.get(owner_uid);
        names.into_iter().flatten().filter_map(|name| state.objects.get(name)).cloned().collect()
    }

    /// One object as its type. `None` also when the object is not of that shape (which is logged).
    pub fn get<T: Kind>(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.entry(namespace, name)?.typed()
    }

    /// All objects as their type.
    pub fn list<T: Kind>(&self, namespace: Option<&str>) -> Vec<Arc<T>> {
        self.entries(namespace).iter().filter_map(|entry| entry.typed()).collect()
    }

    /// The objects of a namespace that a selector selects.
    pub fn select<T: Kind>(&self, namespace: Option<&str>, selector: &Selector) -> Vec<Arc<T>> {
        let selected = self.entries(namespace);
        selected.iter().filter(|entry| selector.matches(&entry.meta.labels)).filter_map(|entry| entry.typed()).collect()
    }

    /// All objects that name this uid among their owners, as their type.
    pub fn owned<T: Kind>(&self, owner_uid: &str) -> Vec<Arc<T>> {
        self.owned_entries(owner_uid).iter().filter_map(|entry| entry.typed()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes over a list: what it lacks is gone.
    pub fn replace(&self, listing: &Listing) {
        let mut listeners = self.tell();
        let changes = self.write(|state| {
            let mut gone: BTreeSet<Name> = state.objects.keys().cloned().collect();
            let mut changes = Vec::new();
            for item in &listing.items {
                let Some(entry) = Entry::read(&item.object, &self.collection) else { continue };
                gone.remove(&entry.name());
                let known = state.objects.get(&entry.name());
                if known
                    .is_some_and(|known| known.meta.revision == entry.meta.revision && known.meta.uid == entry.meta.uid)
                {
                    continue;
                }
                changes.push(state.put(entry));
            }
            changes.extend(gone.iter().filter_map(|name| state.remove(name, None)));
            state.synced = true;
            state.revision = number(&listing.resource_version);
            state.resource_version.clone_from(&listing.resource_version);
            changes.push(Change::Progress);
            changes
        });
        self.told(&mut listeners, changes);
    }

    /// Takes over what somebody remembers of it, unless a list of the server's own is in. The cache counts as synced then and
    /// stands nowhere: the server's first list replaces all of it.
    pub fn remember(&self, objects: &[Bytes]) {
        let mut listeners = self.tell();
        let changes = self.write(|state| {
            if state.synced {
                return Vec::new();
            }
            state.synced = true;
            let entries = objects.iter().filter_map(|object| Entry::read(object, &self.collection));
            let mut changes: Vec<Change> = entries.map(|entry| state.put(entry)).collect();
            changes.push(Change::Progress);
            changes
        });
        self.told(&mut listeners, changes);
    }

    /// Whether the server was heard: what it holds is not only remembered.
    pub fn is_heard(&self) -> bool {
        !self.read().resource_version.is_empty()
    }

    /// Takes over an event. One that is not newer than what is known is dropped.
    pub fn apply(&self, event: &Event) {
        let Some(entry) = Entry::read(&event.object, &self.collection) else { return };
        let mut listeners = self.tell();
        let changes = self.write(|state| {
            let revision = entry.meta.revision;
            if revision != 0 && revision <= state.revision {
                return Vec::new();
            }
            if revision != 0 {
                state.revision = revision;
                state.resource_version = revision.to_string();
            }
            match event.kind {
                EventKind::Bookmark => vec![Change::Progress],
                EventKind::Added | EventKind::Modified => vec![state.put(entry)],
                EventKind::Deleted => state.remove(&entry.name(), Some(entry)).into_iter().collect(),
            }
        });
        self.told(&mut listeners, changes);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self) -> MutexGuard<'_, Vec<Weak<Listener>>> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self, listeners: &mut Vec<Weak<Listener>>, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        listeners.retain(|listener| match listener.upgrade() {
            Some(listener) => {
                changes.iter().for_each(|change| listener(&self.collection, change));
                true
            }
            None => false,
        });
        self.version.send_modify(|version| *version += 1);
    }
}

impl State {
    fn put(&mut self, entry: Entry) -> Change {
        let (name, new) = (entry.name(), Arc::new(entry));
        let old = self.objects.insert(name.clone(), new.clone());
        if let Some(old) = &old {
            self.unindex(&name, &old.meta);
        }
        for owner in &new.meta.owners {
            self.by_owner.entry(owner.uid.clone()).or_default().insert(name.clone());
        }
        self.by_uid.insert(new.meta.uid.clone(), name);
        Change::Object { old, new: Some(new) }
    }

    /// `last` is the state in which it went, if that is known.
    fn remove(&mut self, name: &Name, last: Option<Entry>) -> Option<Change> {
        let old = self.objects.remove(name)?;
        self.unindex(name, &old.meta);
        let old = last.map_or(old, Arc::new);
        Some(Change::Object { old: Some(old), new: None })
    }

    fn unindex(&mut self, name: &Name, meta: &Meta) {
        self.by_uid.remove(&meta.uid);
        for owner in &meta.owners {
            if let Some(names) = self.by_owner.get_mut(&owner.uid) {
                names.remove(name);
                if names.is_empty() {
                    self.by_owner.remove(&owner.uid);
                }
            }
        }
    }
}

impl Entry {
    /// Reads the metadata of an object; logs and gives nothing if it has none.
    pub fn read(object: &Bytes, collection: &Collection) -> Option<Entry> {
        match serde_json::from_slice::<Partial>(object) {
            Ok(partial) => {
                Some(Entry { meta: partial.metadata.into(), object: object.clone(), typed: OnceLock::new() })
            }
            Err(error) => {
                tracing::error!(%collection, %error, "the API server sent an object without readable metadata");
                None
            }
        }
    }

    /// The object as its type, decoded the first time somebody asks. All askers must mean the same type.
    pub fn typed<T: Kind>(&self) -> Option<Arc<T>> {
        let any = self.typed.get_or_init(|| match T::decode(&self.object) {
            Ok(object) => Some(Arc::new(object) as Arc<dyn Any + Send + Sync>),
            Err(error) => {
                let (namespace, name) = (&self.meta.namespace, &self.meta.name);
                tracing::error!(kind = %T::RESOURCE.kind, namespace, name, %error, "failed to decode an object");
                None
            }
        });
        any.clone()?.downcast().ok()
    }

    fn name(&self) -> Name {
        (self.meta.namespace.clone(), self.meta.name.clone())
    }
}

fn number(resource_version: &str) -> u64 {
    resource_version.parse().unwrap_or_default()
}

#[derive(Deserialize)]
struct Partial {
    #[serde(default)]
    metadata: PartialMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PartialMeta {
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<Labels>,
    owner_references: Option<Vec<Owner>>,
    finalizers: Option<Vec<String>>,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}

impl From<PartialMeta> for Meta {
    fn from(partial: PartialMeta) -> Meta {
        Meta {
            namespace: partial.namespace.unwrap_or_default(),
            name: partial.name.unwrap_or_default(),
            uid: partial.uid.unwrap_or_default(),
            revision: partial.resource_version.as_deref().map(number).unwrap_or_default(),
            labels: partial.labels.unwrap_or_default(),
            owners: partial.owner_references.unwrap_or_default(),
            finalizers: partial.finalizers.unwrap_or_default(),
            deleting: partial.deletion_timestamp.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Item;

    fn object(name: &str, revision: u64, owner: &str) -> Bytes {
        let owners = if owner.is_empty() { String::new() } else { format!(r#"{{"uid":"{owner}","controller":true}}"#) };
        Bytes::from(format!(
            r#"{{"metadata":{{"namespace":"n","name":"{name}","uid":"u-{name}","resourceVersion":"{revision}","ownerReferences":[{owners}]}}}}"#
        ))
    }

    fn event(kind: EventKind, name: &str, revision: u64, owner: &str) -> Event {
        Event { kind, object: object(name, revision, owner) }
    }

    /// Applies `+name@revision`, `-name@revision` or `=name@revision,…` (a list) and says what is left.
    fn run(script: &str) -> String {
        let cache = Cache::new(Collection::all("", "v1", "pods"));
        for step in script.split(' ') {
            let (act, rest) = step.split_at(1);
            let parse = |text: &str| {
                let (name, revision) = text.split_once('@').expect("name@revision");
                (name.to_owned(), revision.parse::<u64>().expect("a revision"))
            };
            match act {
                "=" => {
                    let (names, revision) = parse(rest);
                    let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
                    let items = names.iter().map(|name| Item { object: object(name, 1, "") }).collect();
                    cache.replace(&Listing { resource_version: revision.to_string(), items });
                }
                _ => {
                    let (name, revision) = parse(rest);
                    let kind = if act == "+" { EventKind::Modified } else { EventKind::Deleted };
                    cache.apply(&event(kind, &name, revision, ""));
                }
            }
        }
        let names: Vec<String> = cache.entries(None).iter().map(|entry| entry.meta.name.clone()).collect();
        format!("{}@{}", names.join(","), cache.revision())
    }

    #[test]
    fn follows_events() {
        assert_eq!(run("=a,b@2 +c@3 -a@4"), "b,c@4");
    }
    #[test]
    fn an_event_that_comes_twice_changes_nothing() {
        assert_eq!(run("=@2 +c@3 +c@3 -c@4 +c@3"), "@4");
    }
    #[test]
    fn a_list_removes_what_it_lacks() {
        assert_eq!(run("=a,b@2 =b@7"), "b@7");
    }

    #[test]
    fn what_is_remembered_holds_until_the_server_is_heard() {
        let cache = Cache::new(Collection::all("", "v1", "pods"));
        cache.remember(&[object("a", 0, ""), object("b", 0, "")]);
        assert_eq!((cache.synced(), cache.is_heard(), cache.len()), (true, false, 2));
        assert_eq!(cache.resource_version(), "", "a watch cannot go on from there");
        cache.replace(&Listing { resource_version: "7".into(), items: vec![Item { object: object("b", 5, "") }] });
        cache.remember(&[object("a", 0, "")]);
        assert_eq!((cache.is_heard(), cache.len(), cache.revision()), (true, 1, 7));
    }

    #[test]
    fn owners_are_indexed_and_forgotten() {
        let cache = Cache::new(Collection::all("", "v1", "pods"));
        cache.apply(&event(EventKind::Added, "a", 1, "o"));
        assert_eq!(cache.owned_entries("o").len(), 1);
        cache.apply(&event(EventKind::Modified, "a", 2, "p"));
        assert_eq!((cache.owned_entries("o").len(), cache.owned_entries("p").len()), (0, 1));
        cache.apply(&event(EventKind::Deleted, "a", 3, "p"));
        assert_eq!(cache.owned_entries("p").len(), 0);
        assert!(cache.by_uid("u-a").is_none());
    }

    #[test]
    fn listeners_hear_changes_until_they_are_dropped() {
        let cache = Cache::new(Collection::all("", "v1", "pods"));
        let heard = Arc::new(Mutex::new(0));
        let count = heard.clone();
        let listener: Arc<Listener> = Arc::new(move |_, _| *count.lock().expect("unpoisoned") += 1);
        cache.subscribe(&listener);
        cache.apply(&event(EventKind::Added, "a", 1, ""));
        drop(listener);
        cache.apply(&event(EventKind::Added, "b", 2, ""));
        assert_eq!(*heard.lock().expect("unpoisoned"), 1);
    }
}
