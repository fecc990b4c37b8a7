//! Compares a log that was opened again with what must be in it.
//!
//! Start at [`verify`]. A commit that failed may be in the log or not; anything else must be as memory has it.
//!
//! Not here: the file's own checks (`sqlite/open.rs`).

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::Revision;
use crate::core::{Core, Suspect};
use crate::log::Header;

/// What was found in the log.
#[derive(Default)]
pub(crate) struct Found {
    revisions: BTreeMap<Box<str>, Revision>,
    damage: Option<String>,
}

impl Found {
    /// Takes note of one object.
    pub(crate) fn see(&mut self, core: &Core, key: &str, revision: Revision, value: &Bytes) {
        let known = core.state.live().get(key).filter(|entry| entry.revision == revision);
        if known.is_some_and(|entry| entry.value != *value) {
            self.damage = Some(format!("the value of {key} at revision {revision} is not the one that was written"));
        }
        self.revisions.insert(key.into(), revision);
    }
}

/// Whether the suspect's commit is in the log; an error says what is there that should not be.
pub(crate) fn verify(core: &Core, suspect: Option<&Suspect>, header: Header, mut found: Found) -> Result<bool, String> {
    if let Some(damage) = found.damage {
        return Err(damage);
    }
    let happened = suspect.filter(|suspect| suspect.header.revision == header.revision);
    if happened.is_none() && header.revision != core.committed() {
        return Err(format!("it is at revision {}, not at {}", header.revision, core.committed()));
    }
    let mut wanted: BTreeMap<&str, Revision> = core.state.live().iter().map(|(k, e)| (&**k, e.revision)).collect();
    for change in happened.iter().flat_map(|suspect| &suspect.changes) {
        match change.after() {
            Some(entry) => wanted.insert(&change.entry.key, entry.revision),
            None => wanted.remove(&*change.entry.key),
        };
    }
    for (key, revision) in wanted {
        let there = found.revisions.remove(key);
        let lazy = core.lazy(key).is_some();
        if there != Some(revision) && !(lazy && there.is_none_or(|there| there < revision)) {
            return Err(format!("{key} should be at revision {revision} and is {}", show(there)));
        }
    }
    match found.revisions.into_iter().next() {
        Some((key, revision)) => Err(format!("{key} should be absent and is {}", show(Some(revision)))),
        None => Ok(happened.is_some()),
    }
}

fn show(revision: Option<Revision>) -> String {
    revision.map_or_else(|| "absent".to_owned(), |revision| format!("at {revision}"))
}
