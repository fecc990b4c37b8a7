//! One version of one key, and what can happen to a key.
//!
//! Start at [`Entry`]. Everything in it is shared: a clone copies four pointers, never a value.
//!
//! Not here: how an entry comes to be (`plan.rs`).

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

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
