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
mod network;

pub use cri::*;
pub use embedded::{Embedded, Options, RegistryRule};
pub use network::{LoopbackOnly, Network, PodLink};

/// The entry of the short-lived helpers, for the binary that [`Options::program`] names; `args` are the words after
/// [`Options::helper_args`]. The answer is the exit code.
pub fn helper_main(args: impl Iterator<Item = std::ffi::OsString>) -> i32 {
    let words: Vec<_> = args.collect();
    eprintln!("this build has no helper for {words:?}");
    1
}
