//! The three patches a client may send: JSON patch, JSON merge patch, strategic merge patch.
//!
//! Start at [`json_patch`], [`merge_patch`] and [`strategic`]. Each is a function of trees: what a patch makes of an
//! object that then still has to be checked, defaulted and validated.
//!
//! Not here: server-side apply, which keeps track of who set what.

mod json;
mod merge;
mod strategic;

pub use json::{OPERATIONS_MAX, json_patch};
pub use merge::merge_patch;
pub use strategic::strategic;

/// Why a patch could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is no patch (400 Bad Request).
    #[error("{0}")]
    Malformed(String),
    /// The patch is well formed but does not apply to this object (422 Unprocessable Entity).
    #[error("{0}")]
    DoesNotApply(String),
    /// A JSON patch with more operations than [`OPERATIONS_MAX`] (413 Request Entity Too Large).
    #[error("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {0}")]
    TooManyOperations(usize),
}

impl PatchError {
    /// The HTTP status that tells a client.
    pub const fn code(&self) -> u16 {
        match self {
            PatchError::Malformed(_) => 400,
            PatchError::DoesNotApply(_) => 422,
            PatchError::TooManyOperations(_) => 413,
        }
    }
}
