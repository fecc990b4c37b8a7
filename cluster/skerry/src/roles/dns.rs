//! The DNS role: answers on this node's address among its pods.
//!
//! Start at [`run`]. That it does is told by the control plane (`controllers`), for every node.

use std::net::Ipv4Addr;
use std::sync::Arc;

use client::Caches;

/// What the role needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node's address among its pods.
    pub gateway: Ipv4Addr,
    /// The Service's address.
    pub cluster_dns: Ipv4Addr,
    /// Such as `cluster.local`.
    pub domain: String,
    /// Where the node's own servers are named.
    pub resolv_conf: std::path::PathBuf,
}

/// Serves, until it fails to listen.
pub async fn run(options: Options, caches: Arc<Caches>) -> Result<(), dns::DnsError> {
    let own = [options.gateway, options.cluster_dns];
    let upstreams = dns::Upstreams::of_file(&options.resolv_conf, &own);
    let listen = vec![(options.gateway, 53).into()];
    dns::run(dns::Options { listen, domain: options.domain, upstreams }, caches).await
}
