//! A question for a range of keys, and its answer.
//!
//! Start at [`Range`].
//!
//! Not here: how it is answered (`state.rs`).

use crate::{Entry, Revision};

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
