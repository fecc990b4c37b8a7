//! Logs: from the files on every node to one store, each line once.
//!
//! Start at [`collect`], which reads files and sends them, and at [`LogStore`], which takes them in; [`wire`] is what goes
//! between the two. A log is a stream of bytes with one number for each place in it, from the container's first byte on,
//! whatever files the kubelet has cut it into. The store keeps for each stream how far it has it, in the same write as the
//! lines themselves, and takes only what begins there; so nothing is stored twice, nothing is left out unnoticed, and the
//! collector keeps nothing of its own on the disk.
//!
//! Invariants:
//! * the pieces of a stream in the store touch: where bytes are missing, a gap stands for them and says how many;
//! * what is said to be stored may be lost in a power cut for some seconds; the collector is told, and sends it again.

mod arrivals;
pub mod collect;
pub mod cri;
mod files;
mod follow;
pub(crate) mod frame;
mod kernel;
mod query;
mod store;
pub mod wire;

pub use query::{Entry, Mark, Page, Query, Source};
pub use store::{LogStore, Options, Sizes, StoreError};
