//! The last changes, in a ring that is bounded by construction.
//!
//! Start at [`History::push`].
//!
//! Invariants:
//! * every change behind [`History::floor`] is in the ring, in revision order, and none at or below it is;
//! * after each push there are at most `changes_max` changes of at most `bytes_max` bytes together.
//!
//! Not here: the live objects (`state.rs`). History is not kept on the disk: it would write every version twice, and a
//! client that was away for longer lists again anyway.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::{Entry, Event, Revision};

/// What a change costs beside its bytes: its own allocation, keys, annexes.
const CHANGE_OVERHEAD_BYTES: usize = 256;

/// One thing that happened to one key. Shared by the ring and by all watchers.
#[derive(Clone)]
pub(crate) struct Change {
    /// The new version, or the tombstone.
    pub(crate) entry: Entry,
    /// The version before.
    pub(crate) previous: Option<Entry>,
    /// Whether the key is gone by it.
    pub(crate) deletes: bool,
}

impl Change {
    /// The change as watchers are told of it.
    pub(crate) fn event(&self) -> Event {
        match (self.deletes, &self.previous) {
            (true, Some(previous)) => Event::Delete { entry: self.entry.clone(), previous: previous.clone() },
            (_, previous) => Event::Put { entry: self.entry.clone(), previous: previous.clone() },
        }
    }

    /// What the key holds once the change has happened.
    pub(crate) fn after(&self) -> Option<&Entry> {
        (!self.deletes).then_some(&self.entry)
    }

    /// Both values count: the ring may be the last to hold the previous one.
    pub(crate) fn bytes(&self) -> usize {
        let previous = self.previous.as_ref().map_or(0, |entry| entry.value.len());
        self.entry.value.len() + previous + CHANGE_OVERHEAD_BYTES
    }
}

/// The ring.
pub(crate) struct History {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    floor: Revision,
    changes_max: usize,
    bytes_max: usize,
}

impl History {
    /// An empty ring that knows everything behind `floor`.
    pub(crate) fn new(floor: Revision, changes_max: usize, bytes_max: usize) -> History {
        History { changes: VecDeque::new(), bytes: 0, floor, changes_max, bytes_max }
    }

    /// The oldest revision one can go back to, or watch from.
    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    /// Remembers `change`, and forgets what no longer fits.
    pub(crate) fn push(&mut self, change: Arc<Change>) {
        assert!(change.entry.revision > self.newest().unwrap_or(self.floor), "revisions grow");
        self.bytes += change.bytes();
        self.changes.push_back(change);
        while self.changes.len() > self.changes_max || self.bytes > self.bytes_max {
            self.forget_oldest();
        }
    }

    /// Everything behind `after`, oldest first; can be walked from both ends. Found by bisection.
    pub(crate) fn since(&self, after: Revision) -> impl DoubleEndedIterator<Item = &Arc<Change>> {
        let first = self.changes.partition_point(|change| change.entry.revision <= after);
        self.changes.range(first..)
    }

    /// Forgets everything up to `revision`.
    pub(crate) fn compact(&mut self, revision: Revision) {
        while self.changes.front().is_some_and(|oldest| oldest.entry.revision <= revision) {
            self.forget_oldest();
        }
        self.floor = self.floor.max(revision);
    }

    fn newest(&self) -> Option<Revision> {
        self.changes.back().map(|change| change.entry.revision)
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.changes.pop_front() {
            self.bytes -= oldest.bytes();
            self.floor = oldest.entry.revision;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// A ring of at most `changes_max` after `pushes` changes of `bytes` each, as "floor: revisions".
    #[track_caller]
    fn check(pushes: u64, bytes: usize, after: u64, expected: &str) {
        let mut history = History::new(Revision(0), 3, 3_000);
        for revision in 1..=pushes {
            history.push(Arc::new(change(revision, bytes)));
        }
        let found: Vec<String> = history.since(Revision(after)).map(|each| each.entry.revision.to_string()).collect();
        assert_eq!(format!("{}: {}", history.floor(), found.join(" ")).trim_end(), expected);
    }

    fn change(revision: u64, bytes: usize) -> Change {
        let value = Bytes::from(vec![0; bytes]);
        let entry = Entry { key: "a".into(), value, revision: Revision(revision), annex: Arc::new(()) };
        Change { entry, previous: None, deletes: false }
    }

    #[test]
    fn remembers_what_fits() {
        check(2, 1, 0, "0: 1 2");
        check(3, 1, 0, "0: 1 2 3");
    }

    #[test]
    fn forgets_the_oldest_when_there_are_too_many() {
        check(5, 1, 0, "2: 3 4 5");
    }

    #[test]
    fn forgets_the_oldest_when_there_are_too_many_bytes() {
        check(3, 2_000, 0, "2: 3");
        check(3, 20_000, 0, "3:");
    }

    #[test]
    fn begins_behind_the_revision_asked_for() {
        check(3, 1, 2, "0: 3");
        check(3, 1, 3, "0:");
    }

    #[test]
    fn compaction_raises_the_floor_even_of_an_empty_ring() {
        let mut history = History::new(Revision(4), 3, 3_000);
        history.compact(Revision(9));
        assert_eq!(history.floor(), Revision(9));
        history.compact(Revision(2));
        assert_eq!(history.floor(), Revision(9));
    }
}
