//! Updates of a board: a signed bundle goes into the slot we do not run from, is tried, and stays if it proves itself.
//!
//! Start at [`stage::stage`], then [`turn`] (activate, confirm, reject, roll back); [`trial::verdict`] decides whether a trial
//! went well, and [`run`] serves all of it over the update socket. Every verb can be run alone and repeated.
//!
//! Invariants:
//! * nothing is written before the whole bundle has been checked;
//! * the slot we run from is never written, and the ledger never points to a slot that is not whole: any write may be the
//!   last one before a power cut, and the board then boots the old image or the new one, and the ledger says which;
//! * what lies in the slot already is not written again, so that an interrupted staging goes on where it was.
//!
//! Not here: Kubernetes (nodes and pods are names of checks here), the boot script (`image`), what a file of chunks looks like
//! (`bundle`).
#![forbid(unsafe_code)]

mod error;
pub mod medium;
pub mod notes;
pub mod run;
pub mod stage;
pub mod trial;
pub mod turn;

pub use error::Error;
pub use medium::{Device, Medium, Slots};
