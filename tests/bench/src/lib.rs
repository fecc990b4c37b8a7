//! Load against any Kubernetes API server, so that two can be compared in one run.
//!
//! Start at [`compare`]: it takes the servers' kubeconfigs and a [`Load`], and gives a [`Table`] of operations per second
//! and latencies, verb by verb, with the ratio of the second server to the first.
//!
//! Invariants:
//! * both servers get the same requests, in turns, over one connection a client (HTTPS, HTTP/2, client certificate, JSON);
//! * a request that is not answered as it should be ends the run with an error: a wrong answer is never counted.
//!
//! Not here: starting servers.
#![forbid(unsafe_code)]

mod connection;
mod kubeconfig;
mod load;
mod table;

pub use connection::{BenchError, Connection};
pub use kubeconfig::{Access, KubeconfigError};
pub use load::{Load, Verb, compare};
pub use table::{Sample, Table};
