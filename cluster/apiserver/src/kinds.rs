//! Which kinds are served now: the built-in table, and what custom resource definitions add at run time.
//!
//! Start at [`Kinds::find`], which answers a request's path, and [`Kinds::reload`], called after each write to a
//! definition, before the write is answered: who was told that a definition is established finds it served.
//!
//! Invariants:
//! * only definitions that are Established are served; one that is being deleted is served until it is gone;
//! * a definition is read again only when its entry changed, so a hundred of them cost one parse a write;
//! * objects newer than `since` were written by the rows of now and are served as stored.
//!
//! Not here: who establishes and cleans up (`controllers`), what a definition means (`api::custom`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use api::custom;
use api::kinds::{self, KINDS, Kind, KindRef};
use serde_json::Value;
use store::{Range, Revision, Store};

use crate::server::decoded;

/// The prefix of the definitions' own keys.
const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io/";

/// The kinds of this server.
#[derive(Default)]
pub(crate) struct Kinds {
    now: RwLock<Arc<Custom>>,
    /// Held while definitions are read, so that a later reading is never overtaken by an earlier one.
    loading: Mutex<BTreeMap<String, Definition>>,
    /// Rows of extensions: they are shown, and answered elsewhere.
    extended: Vec<KindRef>,
}

/// What the definitions add.
#[derive(Default)]
pub(crate) struct Custom {
    rows: Vec<KindRef>,
    /// Rows of versions that are stored and not served: only conversion needs them.
    hidden: Vec<KindRef>,
}

/// One definition as it was last read.
struct Definition {
    revision: Revision,
    generation: i64,
    since: Revision,
    rows: Vec<(KindRef, bool)>,
}

impl Kinds {
    /// The built-in kinds and those of extensions.
    pub(crate) fn with(extended: Vec<KindRef>) -> Kinds {
        Kinds { extended, ..Kinds::default() }
    }

    /// The kind behind a path.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<KindRef> {
        if let Some(kind) = kinds::find(group, version, plural) {
            return Some(kind.into());
        }
        find(&self.custom().rows, group, version, plural)
    }

    /// The row of the version in which objects of a kind are stored.
    pub(crate) fn storage(&self, kind: &KindRef) -> KindRef {
        if kind.is_storage_version() {
            return kind.clone();
        }
        let (group, version, plural) = (&kind.storage_group, &kind.storage_version, &kind.plural);
        let custom = self.custom();
        let found = kinds::find(group, version, plural).map(KindRef::from);
        let found = found.or_else(|| find(&custom.rows, group, version, plural));
        found.or_else(|| find(&custom.hidden, group, version, plural)).unwrap_or_else(|| kind.clone())
    }

    /// Every kind that is served, the built-in ones first.
    pub(crate) fn all(&self) -> Vec<KindRef> {
        let built_in = KINDS.iter().map(KindRef::from);
        built_in.chain(self.extended.iter().cloned()).chain(self.custom().rows.iter().cloned()).collect()
    }

    /// What the definitions add to the table.
    pub(crate) fn custom(&self) -> Arc<Custom> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the definitions again. The answer is whether anything that is published changed.
    pub(crate) fn reload(&self, store: &dyn Store) -> bool {
        let mut known = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let range = Range { prefix: DEFINITIONS.to_owned(), ..Range::default() };
        // Only a revision of the past can be missing, and none was asked for.
        let entries = store.list(&range).map(|page| page.entries).unwrap_or_default();
        let mut read = BTreeMap::new();
        for entry in &entries {
            let before = known.remove(&*entry.key);
            let definition = match before {
                Some(before) if before.revision == entry.revision => before,
                before => Definition::read(&decoded(entry), entry.revision, before),
            };
            read.insert(entry.key.to_string(), definition);
        }
        *known = read;
        let mut custom = Custom::default();
        for (kind, served) in known.values().flat_map(|definition| &definition.rows) {
            if *served { custom.rows.push(kind.clone()) } else { custom.hidden.push(kind.clone()) }
        }
        custom.rows.sort_by(|a, b| order(a).cmp(&order(b)));
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        let changed = now.marks() != custom.marks();
        *now = Arc::new(custom);
        changed
    }
}

impl Custom {
    /// Changes when what is published of a group and version does; empty where nothing is custom.
    pub(crate) fn mark(&self, group: &str, version: &str) -> String {
        let rows = self.rows.iter().filter(|kind| kind.group == group && kind.version == version);
        rows.map(|kind| format!("-{:x}", mark(kind))).collect()
    }

    fn marks(&self) -> Vec<(String, u64)> {
        let mark = |kind: &KindRef| (format!("{}/{}", kind.qualified_plural(), kind.version), mark(kind));
        self.rows.iter().map(mark).collect()
    }
}

impl Definition {
    fn read(object: &Value, revision: Revision, before: Option<Definition>) -> Definition {
        let generation = api::meta::generation(object);
        let since = before.filter(|before| before.generation == generation).map_or(revision, |before| before.since);
        let rows = if custom::is_established(object) { custom::kinds(object, since.0) } else { Vec::new() };
        let rows = rows.into_iter().map(|(kind, served)| (KindRef::from(kind), served)).collect();
        Definition { revision, generation, since, rows }
    }
}

fn find(rows: &[KindRef], group: &str, version: &str, plural: &str) -> Option<KindRef> {
    let found = rows.iter().find(|kind| kind.plural == plural && kind.version == version && kind.group == group);
    found.cloned()
}

/// Groups by name; within a group the better version first, as its definitions are ranked; then by plural.
fn order(kind: &Kind) -> (String, std::cmp::Reverse<(u8, u64, u64, std::cmp::Reverse<String>)>, String) {
    (kind.group.to_string(), std::cmp::Reverse(custom::priority(&kind.version)), kind.plural.to_string())
}

fn mark(kind: &Kind) -> u64 {
    kind.own.as_ref().map_or(0, |own| own.mark)
}
