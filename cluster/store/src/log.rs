//! What keeps a store's objects when the process ends.
//!
//! Start at [`Log`]. The core (`core.rs`) decides what is written and when; a log only keeps it.
//!
//! Invariants every log must hold:
//! * a commit is kept as a whole or not at all, and once `append` says so it survives a power cut;
//! * after `append` failed, either is possible; `open` finds out which it was.
//!
//! Not here: revisions, preconditions, watchers.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Entry, Revision};

/// A place to keep objects.
pub(crate) trait Log: Send + 'static {
    /// Opens it, or opens it again after a failure; checks it, and shows every object to `each`.
    fn open(&mut self, each: Each<'_>) -> impl Future<Output = Result<Header, LogError>> + Send;

    /// Keeps `commit`.
    fn append(&mut self, commit: &Commit) -> impl Future<Output = Result<(), LogError>> + Send;

    /// Does what upkeep is due, within a time that a waiting writer hardly notices.
    fn tend(&mut self) -> impl Future<Output = Result<(), LogError>> + Send;

    /// Lets go of it.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// Is shown the objects of a log.
pub(crate) type Each<'a> = &'a mut (dyn FnMut(&str, Revision, Bytes) + Send);

/// What a log knows beside its objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// The newest revision committed.
    pub(crate) revision: Revision,
    /// Revisions up to this one may have been used.
    pub(crate) fence: Revision,
    /// Whether nothing was used behind `revision`: the store was closed, or is new.
    pub(crate) clean: bool,
}

/// What is to be kept, all or nothing.
pub(crate) struct Commit {
    /// The last version of every key that changed.
    pub(crate) rows: Vec<Row>,
    /// What to know beside them.
    pub(crate) header: Header,
}

/// The last version of a key.
pub(crate) enum Row {
    /// The key holds this.
    Put(Entry),
    /// The key is gone.
    Delete(Arc<str>),
}

/// What went wrong with a log, in words: the operation, the file, the cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct LogError(pub(crate) String);
