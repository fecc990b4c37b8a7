//! What this machine is called and where it is found.
//!
//! Start at [`hostname`] and [`address`].

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// The machine's name, as Kubernetes writes names; `localhost` where there is none.
pub(crate) fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim().to_lowercase();
    if name.is_empty() || name == "(none)" { "localhost".to_owned() } else { name }
}

/// Where pods find a machine that has no network but theirs.
const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);

/// The address from which this machine would call the world. Where it could not, its pods still call it: at their gateway,
/// or at loopback if there are none. Nothing is sent: connecting a datagram socket only asks the kernel for the route.
pub(crate) fn address(no_node: bool) -> Ipv4Addr {
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    match routed.map(|address| address.ip()) {
        Ok(IpAddr::V4(address)) if !address.is_unspecified() => address,
        _ if no_node => Ipv4Addr::LOCALHOST,
        _ => POD_GATEWAY,
    }
}
