//! DHCP for IPv4: the messages, and what a lease says.
//!
//! Start at [`message`] and [`read`]. Sending and waiting is in `network.rs`. See RFC 2131 and RFC 2132.

use std::net::Ipv4Addr;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const FIXED_BYTES: usize = 236;
/// The least that every relay passes on.
const MESSAGE_BYTES_MIN: usize = 300;
const BROADCAST_FLAG: u16 = 0x8000;

const OPTION_MASK: u8 = 1;
const OPTION_ROUTER: u8 = 3;
const OPTION_DNS: u8 = 6;
const OPTION_HOSTNAME: u8 = 12;
const OPTION_NTP: u8 = 42;
const OPTION_REQUESTED: u8 = 50;
const OPTION_LEASE: u8 = 51;
const OPTION_KIND: u8 = 53;
const OPTION_SERVER: u8 = 54;
const OPTION_WANTED: u8 = 55;
const OPTION_END: u8 = 255;

/// Of a lease, no more name servers than the resolver asks, and as many that know the time.
const SERVERS_MAX: usize = 3;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who is there?
    Discover,
    /// An address is to be had.
    Offer,
    /// I want it.
    Request,
    /// It is yours.
    Ack,
    /// It is not.
    Nak,
}

impl Kind {
    const ALL: [(Kind, u8); 5] =
        [(Kind::Discover, 1), (Kind::Offer, 2), (Kind::Request, 3), (Kind::Ack, 5), (Kind::Nak, 6)];

    fn number(self) -> u8 {
        Kind::ALL.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, number)| *number)
    }
}

/// An address for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Ours.
    pub address: Ipv4Addr,
    /// The length of its net's prefix.
    pub prefix: u8,
    /// Who leads to other nets.
    pub router: Option<Ipv4Addr>,
    /// Who resolves names.
    pub dns: Vec<Ipv4Addr>,
    /// Who knows the time.
    pub ntp: Vec<Ipv4Addr>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// For how long; 0 where nobody says.
    pub seconds: u32,
}

/// What we ask for.
#[derive(Clone, Copy, Debug)]
pub enum Ask<'a> {
    /// Any address; the one we had before is the dearest.
    Any(Option<Ipv4Addr>),
    /// The one that was offered.
    This(&'a Lease),
}

/// A message of ours: a Discover, or a Request for what was offered.
pub fn message(transaction: u32, mac: [u8; 6], hostname: &str, ask: Ask<'_>) -> Vec<u8> {
    let mut bytes = vec![0; FIXED_BYTES];
    bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
    bytes[4..8].copy_from_slice(&transaction.to_be_bytes());
    // We have no address yet that an answer could be sent to.
    bytes[10..12].copy_from_slice(&BROADCAST_FLAG.to_be_bytes());
    bytes[28..34].copy_from_slice(&mac);
    bytes.extend_from_slice(&COOKIE);
    let mut option = |kind: u8, value: &[u8]| {
        bytes.extend_from_slice(&[kind, value.len() as u8]);
        bytes.extend_from_slice(value);
    };
    match ask {
        Ask::Any(before) => {
            option(OPTION_KIND, &[Kind::Discover.number()]);
            if let Some(address) = before {
                option(OPTION_REQUESTED, &address.octets());
            }
        }
        Ask::This(offer) => {
            option(OPTION_KIND, &[Kind::Request.number()]);
            option(OPTION_REQUESTED, &offer.address.octets());
            option(OPTION_SERVER, &offer.server.octets());
        }
    }
    option(OPTION_HOSTNAME, &hostname.as_bytes()[..hostname.len().min(63)]);
    option(OPTION_WANTED, &[OPTION_MASK, OPTION_ROUTER, OPTION_DNS, OPTION_NTP, OPTION_LEASE]);
    bytes.push(OPTION_END);
    bytes.resize(bytes.len().max(MESSAGE_BYTES_MIN), 0);
    bytes
}

/// A message from a server to us, in this transaction: what it is, and what it offers or grants.
pub fn read(bytes: &[u8], transaction: u32, mac: [u8; 6]) -> Option<(Kind, Lease)> {
    if *bytes.first()? != 2 || bytes.get(4..8)? != transaction.to_be_bytes() || bytes.get(28..34)? != mac {
        return None;
    }
    let options = bytes.get(FIXED_BYTES..)?.strip_prefix(&COOKIE)?;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
    let mut kind = None;
    let mut lease = Lease {
        address: address(16)?,
        prefix: 24,
        router: None,
        dns: Vec::new(),
        ntp: Vec::new(),
        server: address(20)?,
        seconds: 0,
    };
    for (option, value) in split(options) {
        match option {
            OPTION_KIND => {
                let number = *value.first()?;
                kind = Kind::ALL.iter().find(|(_, known)| *known == number).map(|(kind, _)| *kind);
            }
            OPTION_MASK => lease.prefix = u32::from_be_bytes(value.try_into().ok()?).leading_ones() as u8,
            OPTION_ROUTER => lease.router = addresses(value).next(),
            OPTION_DNS => lease.dns = addresses(value).take(SERVERS_MAX).collect(),
            OPTION_NTP => lease.ntp = addresses(value).take(SERVERS_MAX).collect(),
            OPTION_SERVER => lease.server = addresses(value).next()?,
            OPTION_LEASE => lease.seconds = u32::from_be_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    Some((kind?, lease))
}

fn addresses(value: &[u8]) -> impl Iterator<Item = Ipv4Addr> {
    value.chunks_exact(4).map(|four| Ipv4Addr::new(four[0], four[1], four[2], four[3]))
}

/// The options up to their end or to the first one that is cut short.
fn split(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let Some((&kind, rest)) = bytes.split_first() {
        if kind == OPTION_END {
            break;
        }
        if kind == 0 {
            bytes = rest;
            continue;
        }
        let Some((&length, rest)) = rest.split_first() else { break };
        let Some((value, after)) = rest.split_at_checked(length.into()) else { break };
        found.push((kind, value));
        bytes = after;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    /// An answer as QEMU's own server gives it.
    fn answer(kind: u8) -> Vec<u8> {
        let mut bytes = message(7, MAC, "skerry", Ask::Any(None));
        bytes.truncate(FIXED_BYTES);
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[10, 0, 2, 15]);
        bytes.extend_from_slice(&COOKIE);
        bytes.extend_from_slice(&[53, 1, kind, 54, 4, 10, 0, 2, 2, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2]);
        bytes.extend_from_slice(&[0, 6, 4, 10, 0, 2, 3, 51, 4, 0, 1, 0x51, 0x80, 255]);
        bytes
    }

    #[test]
    fn an_answer_becomes_a_lease() {
        let (kind, lease) = read(&answer(5), 7, MAC).unwrap();
        assert_eq!(kind, Kind::Ack);
        assert_eq!((lease.address, lease.prefix), (Ipv4Addr::new(10, 0, 2, 15), 24));
        assert_eq!(lease.router, Some(Ipv4Addr::new(10, 0, 2, 2)));
        assert_eq!(lease.dns, [Ipv4Addr::new(10, 0, 2, 3)]);
        assert_eq!(lease.seconds, 86400);
    }

    #[test]
    fn somebody_elses_answer_is_not_ours() {
        assert_eq!(read(&answer(5), 8, MAC), None);
        assert_eq!(read(&answer(5), 7, [0; 6]), None);
        assert_eq!(read(&message(7, MAC, "skerry", Ask::Any(None)), 7, MAC), None);
    }

    #[test]
    fn an_answer_cut_anywhere_is_no_trouble() {
        let whole = answer(2);
        for length in 0..whole.len() {
            let _any = read(&whole[..length], 7, MAC);
        }
    }

    #[test]
    fn the_address_we_had_is_the_dearest() {
        let bytes = message(7, MAC, "skerry", Ask::Any(Some(Ipv4Addr::new(10, 0, 2, 9))));
        assert!(split(&bytes[FIXED_BYTES + 4..]).contains(&(OPTION_REQUESTED, &[10, 0, 2, 9][..])));
    }

    #[test]
    fn a_request_names_address_and_server() {
        let (_, lease) = read(&answer(2), 7, MAC).unwrap();
        let bytes = message(7, MAC, "skerry", Ask::This(&lease));
        let options = split(&bytes[FIXED_BYTES + 4..]);
        assert!(options.contains(&(OPTION_KIND, &[3][..])));
        assert!(options.contains(&(OPTION_REQUESTED, &[10, 0, 2, 15][..])));
        assert!(options.contains(&(OPTION_SERVER, &[10, 0, 2, 2][..])));
        assert!(bytes.len() >= MESSAGE_BYTES_MIN);
    }
}
