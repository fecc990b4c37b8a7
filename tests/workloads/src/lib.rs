//! The Kubernetes documentation's workloads, and what they must show wherever they run.
//!
//! Start at [`SCENARIOS`], one a page of the documentation, and [`run_all`], which runs them side by side wherever a [`User`]'s
//! kubectl leads: to a cluster on this machine (`tests/conformance`) or into the booted image (`tests/boot`).
//!
//! Invariants:
//! * a scenario knows kubectl and nothing else, and keeps to a namespace of its own;
//! * what it waits for is named, and has a limit that grows with how slow the cluster's machine is.
//!
//! `SKERRY_SCENARIOS=job,probes` runs these alone, here and there.
//!
//! The manifests are ours, in the shape of the published ones: the same kinds, fields, names and images, but shorter times and
//! smaller numbers, so that they fit a small board and a short test. `manifests/README.md` tells the differences.
//!
//! Not here: making a cluster, or breaking it.
#![forbid(unsafe_code)]

mod backup;
pub mod lines;
pub mod manifest;
mod nfs;
pub mod power;
mod scenario;
mod scenarios;
mod user;
pub mod writes;

pub use backup::with_volume;
pub use nfs::nfs_is_shared;
pub use scenario::{Break, Report, Scenario, check_again, run_all};
pub use scenarios::{SCENARIOS, chosen};
pub use user::User;
