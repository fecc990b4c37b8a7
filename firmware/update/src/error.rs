//! What an update cannot do, and why.
//!
//! Start at [`Error`].

use std::io;

use bundle::Digest;
use slots::Name;

/// What an update cannot do, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bundle is refused.
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
    /// The ledger does not allow it.
    #[error(transparent)]
    Ledger(#[from] slots::Refused),
    /// The other slot is in use.
    #[error("slot {} is on trial; it must be confirmed or given up first", .0.letter())]
    OnTrial(Name),
    /// We run from a slot that the ledger does not know as one to run from.
    #[error("the board runs from slot {} though slot {} is the active one, which could not be booted", .running.letter(), .active.letter())]
    Astray {
        /// The slot we run from.
        running: Name,
        /// The slot of the ledger.
        active: Name,
    },
    /// What is asked for is not there.
    #[error("the other slot does not hold {wanted}{}", .found.map_or(String::new(), |found| format!("; it holds {found}")))]
    NotStaged {
        /// What is wanted.
        wanted: Digest,
        /// What is there.
        found: Option<Digest>,
    },
    /// There is nothing to go back to.
    #[error("slot {} holds nothing to go back to", .0.letter())]
    NothingToReturnTo(Name),
    /// The disk has no slots.
    #[error("{0} has no partition table with two slots")]
    NoSlots(String),
    /// What was written is not what is read.
    #[error("part {part} of {parts} reads back otherwise than it was written to slot {}: the disk is failing", .slot.letter())]
    ReadBack {
        /// The slot.
        slot: Name,
        /// Which, from 1.
        part: usize,
        /// Of how many.
        parts: usize,
    },
    /// This bundle was tried and went wrong.
    #[error("{digest} was tried on this board and given up: {told}")]
    FailedBefore {
        /// The bundle.
        digest: Digest,
        /// Why.
        told: String,
    },
    /// Another bundle is on its way.
    #[error("{0} is on its way; it must end first")]
    Busy(Digest),
    /// The disk or a file fails.
    #[error("failed to {doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why not.
        source: io::Error,
    },
}

/// Says what was being done, on the way out.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl std::fmt::Display) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl std::fmt::Display) -> Result<T, Error> {
        self.map_err(|source| Error::Io { doing: what.to_string(), source: source.into() })
    }
}
