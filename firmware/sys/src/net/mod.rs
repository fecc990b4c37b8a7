//! The kernel's network: links, addresses, routes, nftables and tracked connections, all by netlink.
//!
//! Start at [`link`] for interfaces and routes, at [`nft`] for rules, at [`in_namespace`] to do either inside a pod.
//!
//! Invariants:
//! * no external program is run;
//! * an error names the operation and the thing, and carries the kernel's own words where it sent any.
//!
//! Not here: which rules and routes there should be (`proxy`, `podnet`).

pub mod conntrack;
pub mod link;
pub mod monitor;
pub mod netlink;
pub mod nft;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// Runs `work` on a thread of its own that has entered the network namespace at `path`.
///
/// A network namespace belongs to a thread, so the caller's own is left alone, and sockets opened inside stay inside.
pub fn in_namespace<T: Send>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(path)?;
    let enter = || {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        work()
    };
    std::thread::scope(|scope| {
        scope.spawn(enter).join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}
