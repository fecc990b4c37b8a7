//! What this machine is called and where it is found.
//!
//! Start at [`hostname`] and [`address`], or [`address_towards`] on a machine that has a server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};

/// The machine's name, as Kubernetes writes names; `localhost` where there is none.
pub(crate) fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim().to_lowercase();
    if name.is_empty() || name == "(none)" { "localhost".to_owned() } else { name }
}

/// Where pods find a machine that has no network but theirs.
pub(crate) const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);

/// The address from which this machine would call the world. Where it could not, its pods still call it: at their gateway,
/// or at loopback if there are none. Nothing is sent: connecting a datagram socket only asks the kernel for the route.
pub(crate) fn address(no_node: bool) -> Ipv4Addr {
    match routed_address() {
        Some(address) => address,
        None if no_node => Ipv4Addr::LOCALHOST,
        None => POD_GATEWAY,
    }
}

/// The same; none where it could not.
pub(crate) fn routed_address() -> Option<Ipv4Addr> {
    routed((Ipv4Addr::new(192, 0, 2, 1), 9).into())
}

/// The address from which this machine calls a server, such as `https://10.0.0.1:6443`; none while it has no way there.
pub(crate) fn address_towards(server: &str) -> Option<Ipv4Addr> {
    let rest = server.strip_prefix("https://").unwrap_or(server);
    let rest = rest.split('/').next().unwrap_or_default();
    let with_port = if rest.contains(':') { rest.to_owned() } else { format!("{rest}:443") };
    with_port.to_socket_addrs().ok()?.find_map(routed)
}

fn routed(to: SocketAddr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(to).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) if !address.is_unspecified() => Some(address),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_this_machine_is_called_from_itself() {
        for server in ["https://127.0.0.1:6443", "https://127.0.0.1", "https://127.0.0.1/"] {
            assert_eq!(address_towards(server), Some(Ipv4Addr::LOCALHOST), "{server}");
        }
        assert_eq!(address_towards("https://"), None);
    }
}
