//! Why the store did not do it.
//!
//! Start at [`StoreError`]; [`StoreError::retry`] says whether asking again may help.
//!
//! Not here: what a client is told (`apiserver` makes a Kubernetes Status of it).

use crate::Revision;

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
    /// A file could not be filled from what another store held.
    #[error("failed to fill the store at {path}: {reason}")]
    Fill {
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
