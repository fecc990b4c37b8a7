//! Clusters on this machine, for tests by real clients.
//!
//! Start at [`Cluster`] for one node, at [`Site`] for several, at [`Plain`] for none. `tests/host_cluster.rs` runs the documentation's workloads
//! on the first, `tests/nodes.rs` joins machines on the second.
#![forbid(unsafe_code)]

mod cluster;
mod machine;
mod plain;
mod site;

pub use cluster::Cluster;
pub use machine::Machine;
pub use plain::{Plain, kubectl};
pub use site::{Site, TOKEN};
pub use workloads::{User, manifest};
