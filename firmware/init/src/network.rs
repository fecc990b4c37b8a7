//! The machine's own network: loopback, and one wired link with an address from DHCP or from the settings.
//!
//! Start at [`up`]; [`renew`] keeps a lease.
//!
//! Not here: pods' links (the cluster's), wireless.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use sys::net::link::{Link, Links, Net, Route};

use crate::dhcp::{Kind, Lease, message, read};
use crate::phase::{Doing, Error};
use crate::settings::Facts;

/// USB network chips take seconds to appear.
const LINK_WITHIN: Duration = Duration::from_secs(20);
/// Links take seconds to come up, and servers a moment to answer.
const LEASE_WITHIN: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const RESOLV_CONF: &str = "/run/resolv.conf";

/// What the machine's network is.
#[derive(Clone, Debug)]
pub struct Network {
    /// The link's name.
    pub link: String,
    /// The lease, where it has one that ends.
    pub lease: Option<Lease>,
}

/// Switches loopback on.
pub fn loopback() -> Result<String, Error> {
    let mut links = Links::open().doing("open the kernel's links")?;
    let lo = links.find("lo").doing("find the loopback link")?;
    let lo = lo.ok_or_else(|| Error::Wrong("the kernel has no loopback link".into()))?;
    links.up(lo.index).doing("switch the loopback link on")?;
    Ok("lo is up".into())
}

/// Brings the first wired link up. `settings` may say `address` (with prefix), `gateway`, `dns`; otherwise DHCP does.
pub fn up(settings: &Facts, hostname: &str) -> Result<(Network, String), Error> {
    let mut links = Links::open().doing("open the kernel's links")?;
    let link = wait_for_link(&mut links, settings.get("link"))?;
    links.up(link.index).doing(format_args!("switch {} on", link.name))?;
    let (lease, how) = match settings.get("address") {
        Some(address) => (fixed(settings, address)?, "from the settings"),
        None => (ask(&link, hostname)?, "by DHCP"),
    };
    apply(&mut links, &link, &lease)?;
    let told = format!("{} is {}/{} {how}", link.name, lease.address, lease.prefix);
    let lease = (lease.seconds > 0).then_some(lease);
    Ok((Network { link: link.name, lease }, told))
}

/// Asks again for the address we have; the caller waits for half its time first.
pub fn renew(network: &Network, hostname: &str) -> Result<Network, Error> {
    let mut links = Links::open().doing("open the kernel's links")?;
    let link = wait_for_link(&mut links, Some(&network.link))?;
    let lease = ask(&link, hostname)?;
    apply(&mut links, &link, &lease)?;
    Ok(Network { link: link.name, lease: Some(lease) })
}

fn wait_for_link(links: &mut Links, wanted: Option<&str>) -> Result<Link, Error> {
    let began = Instant::now();
    loop {
        let all = links.list().doing("list the kernel's links")?;
        let found = all.into_iter().filter(|link| match wanted {
            Some(name) => link.name == name,
            None => link.name.starts_with("eth") || link.name.starts_with("en"),
        });
        if let Some(link) = found.min_by_key(|link| link.index) {
            return Ok(link);
        }
        if began.elapsed() > LINK_WITHIN {
            let what = wanted.unwrap_or("wired link (eth*, en*)");
            return Err(Error::Wrong(format!("no {what} appeared within {} s", LINK_WITHIN.as_secs())));
        }
        sleep(LOOK_EVERY);
    }
}

fn fixed(settings: &Facts, address: &str) -> Result<Lease, Error> {
    let wrong = |what: &str, value: &str| Error::Wrong(format!("the settings' {what} is {value:?}, which is none"));
    let ip = |what: &str, value: &str| value.parse::<Ipv4Addr>().map_err(|_| wrong(what, value));
    let (host, prefix) = address.split_once('/').unwrap_or((address, "24"));
    let dns = settings.get("dns").unwrap_or_default().split_whitespace();
    Ok(Lease {
        address: ip("address", host)?,
        prefix: prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or_else(|| wrong("address", address))?,
        router: settings.get("gateway").map(|gateway| ip("gateway", gateway)).transpose()?,
        dns: dns.map(|server| ip("dns", server)).collect::<Result<_, _>>()?,
        server: Ipv4Addr::UNSPECIFIED,
        seconds: 0,
    })
}

fn ask(link: &Link, hostname: &str) -> Result<Lease, Error> {
    let mac = link.mac.ok_or_else(|| Error::Wrong(format!("{} has no hardware address", link.name)))?;
    let socket = open_socket(&link.name).doing(format_args!("open a DHCP socket on {}", link.name))?;
    let began = Instant::now();
    let mut transaction = u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]);
    while began.elapsed() < LEASE_WITHIN {
        transaction = transaction.wrapping_add(began.elapsed().subsec_nanos() | 1);
        let discover = message(transaction, mac, hostname, None);
        let Some((Kind::Offer, offer)) = exchange(&socket, &discover, transaction, mac) else { continue };
        let request = message(transaction, mac, hostname, Some(&offer));
        if let Some((Kind::Ack, lease)) = exchange(&socket, &request, transaction, mac) {
            return Ok(lease);
        }
    }
    Err(Error::Wrong(format!("nobody on {} gave us an address within {} s", link.name, LEASE_WITHIN.as_secs())))
}

fn open_socket(link: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68))?;
    setsockopt(&socket.as_fd(), sockopt::BindToDevice, &link.into())?;
    socket.set_broadcast(true)?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    Ok(socket)
}

/// Sends and waits for an answer to it; nothing where none came in time. A link that is not up yet refuses to send.
fn exchange(socket: &UdpSocket, bytes: &[u8], transaction: u32, mac: [u8; 6]) -> Option<(Kind, Lease)> {
    if socket.send_to(bytes, (Ipv4Addr::BROADCAST, 67)).is_err() {
        sleep(Duration::from_millis(100));
        return None;
    }
    let began = Instant::now();
    let mut buffer = [0; 1500];
    while began.elapsed() < ANSWER_WITHIN {
        let count = socket.recv(&mut buffer).ok()?;
        if let Some(answer) = read(&buffer[..count], transaction, mac) {
            return Some(answer);
        }
    }
    None
}

fn apply(links: &mut Links, link: &Link, lease: &Lease) -> Result<(), Error> {
    let net = Net { address: IpAddr::V4(lease.address), prefix: lease.prefix };
    let doing = format!("give {} the address {net}", link.name);
    for (_, other) in links.addresses().doing(&doing)?.into_iter().filter(|(index, _)| *index == link.index) {
        if other.address.is_ipv4() && other != net {
            links.remove_address(link.index, other).doing(&doing)?;
        }
    }
    links.add_address(link.index, net).doing(&doing)?;
    if let Some(router) = lease.router {
        let route = Route { to: None, via: Some(IpAddr::V4(router)), link: link.index, source: None };
        links.set_route(&route).doing(format_args!("set the default route by {router}"))?;
    }
    let text: String = lease.dns.iter().map(|server| format!("nameserver {server}\n")).collect();
    fs::write(RESOLV_CONF, text).doing(format_args!("write {RESOLV_CONF}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_address_needs_no_server() {
        let settings = Facts::parse("settings", "address 192.168.7.2/16\ngateway 192.168.1.1\ndns 9.9.9.9 1.1.1.1\n");
        let lease = fixed(&settings, settings.get("address").unwrap()).unwrap();
        assert_eq!((lease.address.to_string(), lease.prefix, lease.dns.len()), ("192.168.7.2".into(), 16, 2));
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let settings = Facts::parse("settings", "address 192.168.7\n");
        let error = fixed(&settings, "192.168.7").unwrap_err();
        assert_eq!(error.to_string(), "the settings' address is \"192.168.7\", which is none");
        assert!(fixed(&settings, "192.168.7.1/40").is_err());
    }
}
