//! Every figure we promise, measured: load on API servers side by side, and what Skerry takes to start, run pods and idle.
//!
//! Start at [`promise`], the table of what is promised; each command of the `bench` program is one function: [`compare`],
//! [`start::starts`], [`pods::latencies`], [`idle::idle`], [`size::binary`], [`watchers::watchers`],
//! [`telemetry::telemetry`].
//!
//! Invariants:
//! * two servers get the same requests, in turns, over one connection a client (HTTPS, HTTP/2, client certificate, JSON);
//! * a request that is not answered as it should be ends the run with an error: a wrong answer is never counted;
//! * a server started here lives in a network namespace of its own and leaves nothing behind.
//!
//! Not here: starting the reference, boards (`tests/boot`).
#![forbid(unsafe_code)]

pub mod connection;
mod error;
pub mod idle;
mod load;
pub mod namespace;
pub mod pods;
pub mod processes;
pub mod promise;
pub mod server;
pub mod size;
pub mod start;
pub mod syncs;
mod table;
pub mod telemetry;
pub mod watchers;

pub use connection::Connection;
pub use error::BenchError;
pub use load::{Load, Verb, compare};
pub use table::{Sample, Table};

use std::time::Duration;

/// The one in the middle, or zero if there is none.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
