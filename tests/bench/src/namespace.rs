//! A network namespace for a node, its pods and those who measure it: the machine's own network is not touched.
//!
//! Start at [`enter`]. The namespace ends with its last process.

use sys::Doing;
use sys::namespace::Kinds;
use sys::net::link::Links;

use crate::BenchError;

/// Moves this thread, and whatever it starts from now on, into a network namespace of its own. Needs root.
pub fn enter() -> Result<(), BenchError> {
    sys::namespace::unshare(Kinds::CLONE_NEWNET)?;
    let mut links = Links::open().doing("open a netlink socket")?;
    let loopback = links.find("lo").doing("find the loopback link")?;
    if let Some(loopback) = loopback {
        links.up(loopback.index).doing("set the loopback link up")?;
    }
    Ok(())
}
