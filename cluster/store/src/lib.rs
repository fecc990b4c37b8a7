//! The revisioned store behind the API server.
//!
//! Start at [`Store`], and at [`sqlite`] and [`memory`], which make one. Keys are text, values are bytes; this crate knows no
//! kinds. Every change gets a [`Revision`], and revisions become visible in order.
//!
//! Inside: `plan.rs` judges writes, `core.rs` decides what is committed together and who is told, `state.rs` and
//! `history.rs` are what readers see, `watch.rs` what watchers are told; all of these are values and never wait. `log.rs` is
//! what keeps them: `sqlite.rs` on a disk, `memory.rs` in a simulated one. `run.rs` is the edge between the two. [`Filling`]
//! makes a file from what another store held.
//!
//! Invariants:
//! * a write of class [`Durability::Durable`] is on the disk before it is acknowledged, and a crash loses none;
//! * a crash loses only a suffix of history, and of [`Durability::Lazy`] writes alone;
//! * no revision is ever given out twice, not even after a crash;
//! * readers and watchers see only what is committed (or lazy and accepted); preconditions see the pending batch too.
//!
//! Not here: JSON, kinds, selectors (`apiserver` attaches what it needs to select by through [`Annotate`]).
#![forbid(unsafe_code)]

mod conformance;
mod contract;
mod core;
mod entry;
mod error;
mod fill;
mod history;
mod local;
mod log;
mod memory;
mod options;
mod plan;
mod range;
mod run;
mod sqlite;
mod state;
mod verify;
mod watch;
mod write;

pub use conformance::{annex, conformance};
pub use contract::{Store, Watch};
pub use entry::{Annex, Annotate, Entry, Event, Revision};
pub use error::StoreError;
pub use fill::Filling;
pub use local::{Local, Pace, memory, memory_on, sqlite};
pub use memory::{Disk, Fault};
pub use options::Options;
pub use range::{Page, Range};
pub use write::{Delete, Durability, Precondition, Put, Write};
