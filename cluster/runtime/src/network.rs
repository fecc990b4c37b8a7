//! What the runtime asks of the pod network.
//!
//! Start at [`Network`]. `podnet` answers it, through glue in the binary; [`LoopbackOnly`] answers it in tests.
//!
//! Not here: addresses, links and routes (`podnet`).

use std::net::IpAddr;
use std::path::PathBuf;

use futures::FutureExt;

use crate::cri::{Answer, PortMapping};

/// The pod that is to be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// The sandbox's id: unique on this machine for ever, so a name for the link can be made from it.
    pub sandbox: String,
    /// `metadata.namespace` of the pod.
    pub namespace: String,
    /// `metadata.name` of the pod.
    pub name: String,
    /// `metadata.uid` of the pod.
    pub uid: String,
    /// Where the network namespace is pinned. Its loopback is already up.
    pub netns: PathBuf,
    /// Ports of the host that lead into this pod.
    pub port_mappings: Vec<PortMapping>,
}

/// Gives pods their addresses.
pub trait Network: Send + Sync + 'static {
    /// Connects the namespace; the answer is the pod's addresses, the primary first. Called again for the same sandbox
    /// it gives the same answer.
    fn attach(&self, pod: PodLink) -> Answer<Vec<IpAddr>>;
    /// Gives the addresses back. The namespace may be gone already; what is gone is as good as detached.
    fn detach(&self, pod: PodLink) -> Answer<()>;
    /// Told of every sandbox found after a restart, before any other call: these addresses are taken.
    fn adopt(&self, pod: PodLink, ips: Vec<IpAddr>) -> Answer<()>;
}

/// A network of nothing but `lo`: pods have the address 127.0.0.1, each its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopbackOnly;

impl Network for LoopbackOnly {
    fn attach(&self, _pod: PodLink) -> Answer<Vec<IpAddr>> {
        async { Ok(vec![IpAddr::from([127, 0, 0, 1])]) }.boxed()
    }
    fn detach(&self, _pod: PodLink) -> Answer<()> {
        async { Ok(()) }.boxed()
    }
    fn adopt(&self, _pod: PodLink, _ips: Vec<IpAddr>) -> Answer<()> {
        async { Ok(()) }.boxed()
    }
}
