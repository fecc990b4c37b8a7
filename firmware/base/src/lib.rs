//! What every crate of Skerry stands on: units, ids, time, chance, and the ways errors and measurements are told.
//!
//! Start at [`Clock`] and [`Rng`]: time and chance are inputs, made once in a `main` and passed down.
//!
//! Invariants:
//! * no dependencies and no IO: this crate never reads a clock, a file or the kernel;
//! * every type here has one meaning and one unit, named in its documentation.
//!
//! Not here: Kubernetes quantities (`api::quantity`), the real clock (`sys::clock`).
#![forbid(unsafe_code)]

mod chain;
mod digest;
pub mod exposition;
pub mod log_file;
mod random;
mod time;
mod units;

pub use chain::{Chain, chain};
pub use digest::fnv1a;
pub use random::{Rng, Uid};
pub use time::{Clock, ManualClock, Monotonic, ParseTimeError, Timestamp};
pub use units::{Bytes, MilliCpu};
