//! Which sandbox has which address.
//!
//! Start at [`Leases::take`]. The next address is the first free one behind the last that was given out, so that an
//! address that was just freed rests as long as possible: a client that still remembers the old pod meets nobody.
//!
//! Invariants:
//! * the net's own address, the gateway (its first) and the broadcast address are never leased.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use sys::net::nft::Transport;

/// A port of the host that leads into a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The protocol.
    pub transport: Transport,
    /// The port outside.
    pub host_port: u16,
    /// The port inside.
    pub container_port: u16,
    /// Only on this address of the host; `None` is on all.
    pub host_ip: Option<Ipv4Addr>,
}

/// What is remembered of a sandbox's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The sandbox's id.
    pub sandbox: String,
    /// Its ports on the host.
    pub ports: Vec<HostPort>,
}

/// All addresses of a node's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leases {
    first: u32,
    last: u32,
    next: u32,
    taken: BTreeMap<Ipv4Addr, Lease>,
}

impl Leases {
    /// The addresses of the net `base/prefix`, none of them taken. The prefix is at most 29.
    pub fn new(base: Ipv4Addr, prefix: u8) -> Leases {
        assert!(prefix <= 29);
        let size = 1u64 << (32 - prefix);
        let base = u32::from(base) & !((size - 1) as u32);
        let (first, last) = (base + 2, base + (size - 2) as u32);
        Leases { first, last, next: first, taken: BTreeMap::new() }
    }

    /// The gateway: the node's own address among its pods.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.first - 1)
    }

    /// Takes an address for a sandbox; one that has an address keeps it. `None` if all are taken.
    pub fn take(&mut self, lease: Lease) -> Option<Ipv4Addr> {
        let address = match self.of(&lease.sandbox) {
            Some(address) => address,
            None => self.first_free()?,
        };
        self.taken.insert(address, lease);
        Some(address)
    }

    /// Restores a lease read from the disk.
    pub fn restore(&mut self, address: Ipv4Addr, lease: Lease) {
        if (self.first..=self.last).contains(&u32::from(address)) {
            self.taken.insert(address, lease);
        }
    }

    /// Gives an address back; the answer is the address it had.
    pub fn give_back(&mut self, sandbox: &str) -> Option<Ipv4Addr> {
        let address = self.of(sandbox)?;
        self.taken.remove(&address);
        Some(address)
    }

    /// A sandbox's address.
    pub fn of(&self, sandbox: &str) -> Option<Ipv4Addr> {
        self.taken.iter().find(|(_, lease)| lease.sandbox == sandbox).map(|(address, _)| *address)
    }

    /// All leases, by address.
    pub fn all(&self) -> &BTreeMap<Ipv4Addr, Lease> {
        &self.taken
    }

    fn first_free(&mut self) -> Option<Ipv4Addr> {
        let behind = self.next..=self.last;
        let before = self.first..=self.next.saturating_sub(1).min(self.last);
        let free = behind.chain(before).find(|number| !self.taken.contains_key(&Ipv4Addr::from(*number)))?;
        self.next = if free == self.last { self.first } else { free + 1 };
        Some(Ipv4Addr::from(free))
    }
}

/// A lease as it lies on the disk: the sandbox, then a line a port.
impl fmt::Display for Lease {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.sandbox)?;
        for port in &self.ports {
            let host_ip = port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
            writeln!(out, "{} {} {} {host_ip}", port.transport, port.host_port, port.container_port)?;
        }
        Ok(())
    }
}

/// A text that is no lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no lease of a pod address")]
pub struct ParseLeaseError(String);

impl FromStr for Lease {
    type Err = ParseLeaseError;

    fn from_str(text: &str) -> Result<Lease, ParseLeaseError> {
        let bad = || ParseLeaseError(text.to_owned());
        let mut lines = text.lines();
        let sandbox = lines.next().filter(|line| !line.is_empty()).ok_or_else(bad)?.to_owned();
        let ports = lines.map(|line| parse_port(line).ok_or_else(bad)).collect::<Result<_, _>>()?;
        Ok(Lease { sandbox, ports })
    }
}

fn parse_port(line: &str) -> Option<HostPort> {
    let [transport, host_port, container_port, host_ip] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let transport = match transport {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        "sctp" => Transport::Sctp,
        _ => return None,
    };
    let host_ip: Ipv4Addr = host_ip.parse().ok()?;
    Some(HostPort {
        transport,
        host_port: host_port.parse().ok()?,
        container_port: container_port.parse().ok()?,
        host_ip: (!host_ip.is_unspecified()).then_some(host_ip),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases() -> Leases {
        Leases::new(Ipv4Addr::new(10, 42, 0, 0), 29)
    }

    fn take(leases: &mut Leases, sandbox: &str) -> Option<u8> {
        let lease = Lease { sandbox: sandbox.into(), ports: Vec::new() };
        leases.take(lease).map(|address| address.octets()[3])
    }

    #[test]
    fn gives_each_sandbox_an_address_of_its_own_until_none_is_left() {
        let mut leases = leases();
        let given: Vec<_> = ["a", "b", "c", "d", "e", "f"].iter().map(|name| take(&mut leases, name)).collect();
        assert_eq!(given, [Some(2), Some(3), Some(4), Some(5), Some(6), None]);
        assert_eq!(leases.gateway().octets()[3], 1);
    }

    #[test]
    fn gives_the_same_sandbox_the_same_address_again() {
        let mut leases = leases();
        assert_eq!((take(&mut leases, "a"), take(&mut leases, "a")), (Some(2), Some(2)));
    }

    #[test]
    fn lets_a_freed_address_rest() {
        let mut leases = leases();
        take(&mut leases, "a");
        leases.give_back("a");
        assert_eq!(take(&mut leases, "b"), Some(3));
        for name in ["c", "d", "e", "f"] {
            take(&mut leases, name);
        }
        assert_eq!(leases.of("f").map(|address| address.octets()[3]), Some(2));
    }

    #[test]
    fn a_lease_reads_back_as_written() {
        let port = HostPort { transport: Transport::Udp, host_port: 53, container_port: 5353, host_ip: None };
        let on_one = HostPort { host_ip: Some(Ipv4Addr::LOCALHOST), ..port.clone() };
        let lease = Lease { sandbox: "abc".into(), ports: vec![port, on_one] };
        assert_eq!(lease.to_string().parse(), Ok(lease));
        assert!("".parse::<Lease>().is_err());
        assert!("abc\ntcp x 1 0.0.0.0".parse::<Lease>().is_err());
    }
}
