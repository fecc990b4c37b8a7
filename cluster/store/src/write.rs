//! What a caller wants changed.
//!
//! Start at [`Write`].
//!
//! Not here: whether it may happen (`plan.rs`), when it is acknowledged (`core.rs`).

use bytes::Bytes;

use crate::Revision;

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
