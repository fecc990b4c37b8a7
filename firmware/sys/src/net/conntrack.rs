//! The connections that the kernel tracks, as far as a changed Service concerns them.
//!
//! Start at [`tracked`]; [`forget`] makes the next packet of a connection be looked at as if it were the first.
//!
//! Not here: which ones are stale (`proxy`), IPv6.
//!
//! The numbers are those of `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use std::io;
use std::net::Ipv4Addr;

use super::netlink::{Body, DUMP, Message, Protocol, Socket, attributes};
use super::nft::Transport;

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const FAMILY_IPV4: u8 = 2;
const HEADER_BYTES: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Direction {
    /// From where.
    pub source: (Ipv4Addr, u16),
    /// To where.
    pub destination: (Ipv4Addr, u16),
}

/// A connection, as its first packet was sent and as answers are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// Its transport.
    pub transport: Transport,
    /// As it was asked for.
    pub asked: Direction,
    /// How the answers come: from where it was sent to in truth.
    pub answered: Direction,
}

/// All IPv4 connections of one transport.
pub fn tracked(transport: Transport) -> io::Result<Vec<Connection>> {
    let body = Body::with(&[FAMILY_IPV4, 0, 0, 0]);
    let dump = Message { kind: SUBSYSTEM << 8 | GET, flags: DUMP, body };
    let answers = Socket::open(Protocol::Netfilter)?.request(dump)?;
    Ok(answers.iter().filter_map(|answer| read(&answer.body, transport)).collect())
}

/// Forgets a connection. Its being gone already is no error.
pub fn forget(connection: &Connection) -> io::Result<()> {
    let body = Body::with(&[FAMILY_IPV4, 0, 0, 0]).nest(CTA_TUPLE_ORIG, tuple(connection.transport, &connection.asked));
    match Socket::open(Protocol::Netfilter)?.request(Message { kind: SUBSYSTEM << 8 | DELETE, flags: 0, body }) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn tuple(transport: Transport, direction: &Direction) -> Body {
    let ((source, source_port), (destination, destination_port)) = (direction.source, direction.destination);
    let ip = Body::new().attr(CTA_IP_V4_SRC, &source.octets()).attr(CTA_IP_V4_DST, &destination.octets());
    let ports = Body::new()
        .attr(CTA_PROTO_NUM, &[transport.number()])
        .attr(CTA_PROTO_SRC_PORT, &source_port.to_be_bytes())
        .attr(CTA_PROTO_DST_PORT, &destination_port.to_be_bytes());
    Body::new().nest(CTA_TUPLE_IP, ip).nest(CTA_TUPLE_PROTO, ports)
}

fn read(body: &[u8], transport: Transport) -> Option<Connection> {
    let parts = attributes(body.get(HEADER_BYTES..)?);
    let direction = |wanted: u16| {
        let (_, payload) = parts.iter().find(|(kind, _)| *kind == wanted)?;
        read_tuple(payload, transport)
    };
    Some(Connection { transport, asked: direction(CTA_TUPLE_ORIG)?, answered: direction(CTA_TUPLE_REPLY)? })
}

/// `None` for another transport too.
fn read_tuple(bytes: &[u8], transport: Transport) -> Option<Direction> {
    let parts = attributes(bytes);
    let part = |wanted: u16| parts.iter().find(|(kind, _)| *kind == wanted).map(|(_, payload)| attributes(payload));
    let (ip, ports) = (part(CTA_TUPLE_IP)?, part(CTA_TUPLE_PROTO)?);
    fn find<'a>(list: &[(u16, &'a [u8])], wanted: u16) -> Option<&'a [u8]> {
        list.iter().find(|(kind, _)| *kind == wanted).map(|(_, payload)| *payload)
    }
    let address = |kind| find(&ip, kind)?.try_into().ok().map(|bytes: [u8; 4]| Ipv4Addr::from(bytes));
    let port = |kind| find(&ports, kind)?.try_into().ok().map(u16::from_be_bytes);
    if find(&ports, CTA_PROTO_NUM)? != [transport.number()] {
        return None;
    }
    Some(Direction {
        source: (address(CTA_IP_V4_SRC)?, port(CTA_PROTO_SRC_PORT)?),
        destination: (address(CTA_IP_V4_DST)?, port(CTA_PROTO_DST_PORT)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::link::Links;
    use crate::net::nft::{Chain, Hook, HookKind, HookPoint, Rule, Statement, Table, apply};
    use std::net::UdpSocket;

    #[test]
    fn a_connection_is_seen_and_forgotten() {
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
            let mut links = Links::open().expect("links");
            let loopback = links.find("lo").expect("links").expect("a loopback");
            links.up(loopback.index).expect("up");
            let there = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            let port = there.local_addr().expect("an address").port();
            let redirect = vec![Statement::Port(9), Statement::DnatRandom(vec![(Ipv4Addr::LOCALHOST, port)])];
            let hook = Some(Hook { kind: HookKind::Nat, at: HookPoint::Output, priority: -100 });
            let chain = Chain { name: "output".into(), hook, rules: vec![Rule(redirect)] };
            apply(&Table { name: "t".into(), sets: Vec::new(), chains: vec![chain] }).expect("a table");
            let here = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            here.send_to(b"x", "127.0.0.1:9").expect("sent");

            let of_port_9 = || {
                let all = tracked(Transport::Udp).expect("a dump");
                all.into_iter().find(|each| each.asked.destination == (Ipv4Addr::LOCALHOST, 9))
            };
            let found = of_port_9().expect("the connection is tracked");
            assert_eq!(found.answered.source, (Ipv4Addr::LOCALHOST, port));
            assert_eq!(found.asked.source.1, here.local_addr().expect("an address").port());
            assert!(tracked(Transport::Tcp).expect("a dump").is_empty());
            forget(&found).expect("forgotten");
            assert_eq!(of_port_9(), None);
            forget(&found).expect("forgetting twice is no error");
        })
        .join()
        .expect("the thread ends well");
    }
}
