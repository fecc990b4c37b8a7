//! The revisioned store behind the API server.
//!
//! Start at [`Store`]. Keys are text, values are bytes; this crate knows no kinds. Every change gets a [`Revision`], and
//! revisions become visible in order.
//!
//! Invariants:
//! * a write of class [`Durability::Durable`] is on the disk before it is acknowledged, and a crash loses none;
//! * a crash loses only a suffix of history, and of [`Durability::Lazy`] writes alone;
//! * no revision is ever given out twice, not even after a crash;
//! * readers and watchers see only what is committed (or lazy and accepted); preconditions see the pending batch too.
//!
//! Not here: JSON, kinds, selectors (`apiserver` attaches what it needs to select by through [`Annotate`]).
#![forbid(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// The number of a change; 0 is before the first. It is what Kubernetes calls `resourceVersion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

/// What a caller wants remembered beside a value: made once a version by [`Annotate`], shared by all readers.
pub type Annex = Arc<dyn Any + Send + Sync>;

/// Computes the annex of a value when it is written or loaded. Must be pure and quick.
pub type Annotate = Arc<dyn Fn(&str, &Bytes) -> Annex + Send + Sync>;

/// One version of one key.
#[derive(Clone)]
pub struct Entry {
    /// The key, such as `pods/default/web-0`.
    pub key: Arc<str>,
    /// The value as it was written, with the revision stamped in (see [`Put::stamp_at`]).
    pub value: Bytes,
    /// The change that made this version.
    pub revision: Revision,
    /// What [`Annotate`] made of it.
    pub annex: Annex,
}

/// How much a write may be delayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Acknowledged after the disk has it.
    Durable,
    /// Acknowledged at once, carried to the disk by the next durable commit (or a slow timer), never the reason for an
    /// fsync. For Events and for `renewTime` of existing Leases.
    Lazy,
}

/// What must be true of the key for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists in exactly this version.
    At(Revision),
}

/// Writes a value.
#[derive(Clone, Debug)]
pub struct Put {
    /// The key to write.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// Where in `value` the decimal of the new revision is to be inserted, as a byte offset. This is how an object can
    /// carry its own `resourceVersion` and still be served as stored.
    pub stamp_at: Option<usize>,
    /// What must hold.
    pub precondition: Precondition,
    /// When to acknowledge.
    pub durability: Durability,
}

/// Deletes a key.
#[derive(Clone, Debug)]
pub struct Delete {
    /// The key to delete; it must exist.
    pub key: String,
    /// What must hold.
    pub precondition: Precondition,
    /// The last state to show watchers, with its own stamp offset; `None` shows the stored value as it was.
    pub tombstone: Option<(Bytes, Option<usize>)>,
}

/// A change to one key.
#[derive(Clone, Debug)]
pub enum Write {
    /// Create or replace.
    Put(Put),
    /// Delete.
    Delete(Delete),
}

/// A page of a range.
#[derive(Clone)]
pub struct Page {
    /// The revision the page is a picture of.
    pub revision: Revision,
    /// The entries, by key.
    pub entries: Vec<Entry>,
    /// How many more there are behind the last entry.
    pub remaining: usize,
}

/// A question for a range of keys.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// All keys that begin with this.
    pub prefix: String,
    /// Only keys behind this one.
    pub after: Option<String>,
    /// At most so many; 0 is all.
    pub limit: usize,
    /// As of this revision; `None` is now.
    pub at: Option<Revision>,
}

/// What happened to a key.
#[derive(Clone)]
pub enum Event {
    /// It was created or replaced. `previous` is the version before, if there was one.
    Put {
        /// The new version.
        entry: Entry,
        /// The version before.
        previous: Option<Entry>,
    },
    /// It was deleted. `entry` is the tombstone, with the revision of the deletion.
    Delete {
        /// The tombstone.
        entry: Entry,
        /// The version before.
        previous: Entry,
    },
    /// Nothing happened up to this revision. Sent when the watch has caught up, and now and then.
    Progress(Revision),
}

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The precondition did not hold; `current` is the version there is, if any.
    #[error("precondition of {key} does not hold: the key is {}", match .current { Some(revision) => format!("at revision {revision}"), None => "absent".to_owned() })]
    Conflict {
        /// The key.
        key: String,
        /// What is there.
        current: Option<Revision>,
    },
    /// The revision is no longer (or not known to be) in the history.
    #[error("revision {asked} is not in the history, which begins at {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest that can be had.
        oldest: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision {asked} has not happened yet, the newest is {current}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The newest there is.
        current: Revision,
    },
    /// It is not known whether the write happened. Its revision will not be used again.
    #[error("outcome of the write to {key} is unknown: {reason}")]
    Unknown {
        /// The key.
        key: String,
        /// What went wrong.
        reason: String,
    },
    /// The disk refuses writes; reads go on.
    #[error("the store is read-only: {reason}")]
    ReadOnly {
        /// Why.
        reason: String,
    },
    /// The watcher was too slow and its queue is full; it must list again.
    #[error("the watcher fell behind")]
    Slow,
    /// The store could not be opened.
    #[error("failed to open the store at {path}: {reason}")]
    Open {
        /// Where.
        path: String,
        /// Why, with its causes.
        reason: String,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn retry(&self) -> bool {
        matches!(
            self,
            StoreError::Unknown { .. } | StoreError::ReadOnly { .. } | StoreError::Slow | StoreError::Future { .. }
        )
    }
}

/// A running watch: events in revision order, then an error or the end.
pub type Watch = BoxStream<'static, Result<Event, StoreError>>;

/// The store. Reads and watches are answered from memory.
pub trait Store: Send + Sync + 'static {
    /// The newest visible revision.
    fn revision(&self) -> Revision;

    /// The newest version of a key.
    fn get(&self, key: &str) -> Option<Entry>;

    /// A range of keys, now or at a revision still in the history.
    fn list(&self, range: &Range) -> Result<Page, StoreError>;

    /// Everything that happens behind `after` to keys that begin with `prefix`.
    fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError>;

    /// Writes; the answer is the version written (for a delete the tombstone). Once called it happens or fails as a
    /// whole, also when the future is dropped.
    fn write(&self, write: Write) -> BoxFuture<'static, Result<Entry, StoreError>>;

    /// Forgets history up to `revision` (the store also does so by itself, to stay within its bounds).
    fn compact(&self, revision: Revision);

    /// Commits what is pending, lazy writes too, and closes. Later calls fail with [`StoreError::Closed`].
    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>>;
}
