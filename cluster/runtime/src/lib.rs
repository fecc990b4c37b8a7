//! Containers on this machine, behind a trait shaped like the CRI.
//!
//! Start at [`Runtime`]. The words are those of the Container Runtime Interface (kubernetes/cri-api, v1): a pod is a
//! sandbox (namespaces, address) and the containers in it.
//!
//! Invariants:
//! * every call can be repeated: stopping what is stopped and removing what is gone succeed;
//! * what this process did not start but finds (after its own restart) is adopted, by cgroup path, then pidfd and start
//!   time, never by pid alone.
//!
//! Not here: what should run (`kubelet`), image formats (`oci`), addresses (`podnet`).
#![forbid(unsafe_code)]

pub mod cri;
mod embedded;
pub mod fake;
mod helper;
mod launch;
mod measure;
mod network;
mod node;
mod own;
mod plan;
mod record;
mod seccomp;
mod stream;
mod syscalls;
mod user;

pub use cri::*;
pub use embedded::{Embedded, Options, RegistryRule};
pub use helper::helper_main;
pub use network::{LoopbackOnly, Network, PodLink};
