//! Glue: the runtime asks for a network, `podnet` is one.
//!
//! Start at [`PodNetwork`]. `podnet` blocks for some milliseconds, so each call goes to a blocking thread.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use futures::FutureExt;
use podnet::{HostPort, PodNet, PodNetError};
use runtime::{Answer, Network, PodLink, PortMapping, RuntimeError};
use sys::net::nft::Transport;

/// The node's pod network, as the runtime sees it.
pub struct PodNetwork(pub Arc<PodNet>);

impl PodNetwork {
    fn blocking<T: Send + 'static>(
        &self,
        action: String,
        work: impl FnOnce(&PodNet) -> Result<T, PodNetError> + Send + 'static,
    ) -> Answer<T> {
        let net = self.0.clone();
        async move {
            let failed = |source| RuntimeError::System { action, source };
            match tokio::task::spawn_blocking(move || work(&net)).await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err(failed(Box::new(error))),
                Err(error) => Err(failed(Box::new(error))),
            }
        }
        .boxed()
    }
}

impl Network for PodNetwork {
    fn attach(&self, pod: PodLink) -> Answer<Vec<IpAddr>> {
        let action = format!("connect pod {}/{} to the network", pod.namespace, pod.name);
        let ports: Vec<HostPort> = pod.port_mappings.iter().filter_map(host_port).collect();
        self.blocking(action, move |net| net.attach(&pod.sandbox, &pod.netns, &ports))
    }

    fn detach(&self, pod: PodLink) -> Answer<()> {
        let action = format!("disconnect pod {}/{} from the network", pod.namespace, pod.name);
        self.blocking(action, move |net| net.detach(&pod.sandbox))
    }

    fn adopt(&self, _pod: PodLink, _ips: Vec<IpAddr>) -> Answer<()> {
        // The lease is on the disk, and `PodNet::open` has read it.
        async { Ok(()) }.boxed()
    }
}

fn host_port(mapping: &PortMapping) -> Option<HostPort> {
    let transport = match mapping.protocol.as_str() {
        "UDP" => Transport::Udp,
        "SCTP" => Transport::Sctp,
        _ => Transport::Tcp,
    };
    let host_ip = mapping.host_ip.parse::<Ipv4Addr>().ok().filter(|address| !address.is_unspecified());
    let port = HostPort { transport, host_port: mapping.host_port, container_port: mapping.container_port, host_ip };
    (mapping.host_port > 0).then_some(port)
}
