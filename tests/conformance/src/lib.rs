//! Clusters on this machine, for tests by real clients.
//!
//! Start at [`Cluster`] for one node, or at [`Site`] for several. `tests/host_cluster.rs` runs the documentation's workloads
//! on the first, `tests/nodes.rs` joins machines on the second.
#![forbid(unsafe_code)]

mod cluster;
mod machine;
pub mod manifest;
mod site;

pub use cluster::Cluster;
pub use machine::Machine;
pub use site::{Site, TOKEN};
pub use workloads::User;
