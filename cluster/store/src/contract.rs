//! The contract every store keeps.
//!
//! Start at [`Store`]; the conformance suite is the same contract as a test.

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::{Entry, Event, Page, Range, Revision, StoreError, Write};

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
