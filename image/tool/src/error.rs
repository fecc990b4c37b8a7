//! What the tool cannot do, and why.

use std::io;

/// What the tool cannot do, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("failed to {doing}")]
    Io {
        /// What was being done, to which file.
        doing: String,
        /// Why not.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {said}")]
    Program {
        /// The program with its first words.
        program: String,
        /// The last it said.
        said: String,
    },
    /// A board is missing or wrong.
    #[error(transparent)]
    Board(#[from] board::Error),
    /// Nothing is written to this device.
    #[error(transparent)]
    Device(#[from] crate::device::Refusal),
    /// A module is unknown to the kernel's package.
    #[error("{at}: {source}")]
    Module {
        /// The board, or file and line.
        at: String,
        /// The module.
        source: sys::modules::Unknown,
    },
    /// Something else, in a sentence that names it.
    #[error("{0}")]
    Wrong(String),
}

/// An answer.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what was being done, on the way out.
pub trait Doing<T> {
    /// Attaches `what` to the cause.
    fn doing(self, what: impl std::fmt::Display) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl std::fmt::Display) -> Result<T> {
        self.map_err(|source| Error::Io { doing: what.to_string(), source })
    }
}

/// A sentence as an error.
pub fn wrong(what: impl std::fmt::Display) -> Error {
    Error::Wrong(what.to_string())
}
