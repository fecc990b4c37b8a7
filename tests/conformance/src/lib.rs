//! A cluster on this machine, for tests by real clients.
//!
//! Start at [`Cluster`]. `tests/host_cluster.rs` runs the documentation's workloads on one.
#![forbid(unsafe_code)]

mod cluster;

pub use cluster::Cluster;
pub use workloads::User;
