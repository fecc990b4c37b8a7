//! Links, addresses, routes and neighbours.
//!
//! Start at [`Links`]. Creating what is there and removing what is gone succeed, so that a caller can repeat itself.
//!
//! See rtnetlink(7).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::netlink::{ACK, Body, CREATE, DUMP, EXCL, Message, Protocol, REPLACE, Socket, attributes};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_GETLINK: u16 = 18;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_CARRIER_CHANGES: u16 = 35;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 1 << 16;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
/// Behind every route that somebody else may have to the same place.
const LAST_RESORT: u32 = u32::MAX;
const NUD_PERMANENT: u16 = 0x80;

/// A hardware address.
pub type Mac = [u8; 6];

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, where it has one of six bytes.
    pub mac: Option<Mac>,
    /// Whether it is up.
    pub up: bool,
    /// Whether there is somebody at the other end of the cable, as far as the driver can tell.
    pub carrier: bool,
    /// How often that changed since the link is there.
    pub carrier_changes: u32,
    /// Its largest packet, in bytes.
    pub mtu: u32,
}

/// Addresses that share a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net {
    /// An address of it.
    pub address: IpAddr,
    /// The length of the prefix, in bits.
    pub prefix: u8,
}

impl Net {
    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let bits = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
                (u32::from(base) ^ u32::from(address)) & bits == 0
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let bits = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128))).unwrap_or(0);
                (u128::from(base) ^ u128::from(address)) & bits == 0
            }
            _ => false,
        }
    }

    /// The net of one address.
    pub fn host(address: IpAddr) -> Net {
        Net { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl std::fmt::Display for Net {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; `None` is the default route (of IPv4 unless the gateway says otherwise).
    pub to: Option<Net>,
    /// By whom.
    pub via: Option<IpAddr>,
    /// Out of which interface.
    pub link: u32,
    /// The source address to prefer.
    pub source: Option<IpAddr>,
}

/// Whose a route is, as the kernel remembers it for us (`rtm_protocol`). Numbers above 4 are programs'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteOwner(pub u8);

/// The links of the network namespace it was opened in.
#[derive(Debug)]
pub struct Links(Socket);

impl Links {
    /// Opens the door to the present namespace's links.
    pub fn open() -> io::Result<Links> {
        Socket::open(Protocol::Route).map(Links)
    }

    /// All links.
    pub fn list(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.0.request(Message { kind: RTM_GETLINK, flags: DUMP, body: Body::with(&[0; 16]) })?;
        Ok(answers.iter().filter_map(|answer| read_link(&answer.body)).collect())
    }

    /// The link of this name.
    pub fn find(&mut self, name: &str) -> io::Result<Option<Link>> {
        Ok(self.list()?.into_iter().find(|link| link.name == name))
    }

    /// The link of this index: cheaper than all of them.
    pub fn get(&mut self, index: u32) -> io::Result<Option<Link>> {
        match self.0.request(Message { kind: RTM_GETLINK, flags: 0, body: link_header(index, 0) }) {
            Ok(answers) => Ok(answers.iter().find_map(|answer| read_link(&answer.body))),
            Err(error) if names(&error, libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An interface that leads nowhere, to hang addresses on. Being there already is no error.
    ///
    /// It is a dummy link, or a bridge without ports where the kernel has no dummy driver: both carry addresses alike.
    pub fn add_dummy(&mut self, name: &str) -> io::Result<Link> {
        match self.add_of_kind(name, "dummy") {
            Err(error) if names(&error, libc::EOPNOTSUPP) => self.add_of_kind(name, "bridge")?,
            other => other?,
        }
        self.must_find(name)
    }

    /// A bridge: what is plugged into it (see [`Links::plug`]) is on one cable. Being there already is no error.
    pub fn add_bridge(&mut self, name: &str) -> io::Result<Link> {
        self.add_of_kind(name, "bridge")?;
        self.must_find(name)
    }

    /// Plugs a link into a bridge.
    pub fn plug(&mut self, index: u32, bridge: u32) -> io::Result<()> {
        let body = link_header(index, 0).u32_native(IFLA_MASTER, bridge);
        self.0.request(Message { kind: RTM_NEWLINK, flags: 0, body }).map(drop)
    }

    fn add_of_kind(&mut self, name: &str, kind: &str) -> io::Result<()> {
        let info = Body::new().text(IFLA_INFO_KIND, kind);
        let body = link_header(0, 0).text(IFLA_IFNAME, name).nest(IFLA_LINKINFO, info);
        allow(self.0.request(Message { kind: RTM_NEWLINK, flags: CREATE | EXCL, body }), libc::EEXIST)
    }

    /// A pair of links; `peer` appears in the namespace `inside` with the hardware address given.
    pub fn add_veth(
        &mut self,
        name: &str,
        mac: Mac,
        peer: &str,
        peer_mac: Mac,
        inside: BorrowedFd<'_>,
        mtu: u32,
    ) -> io::Result<Link> {
        let other = link_header(0, 0)
            .text(IFLA_IFNAME, peer)
            .attr(IFLA_ADDRESS, &peer_mac)
            .u32_native(IFLA_MTU, mtu)
            .u32_native(IFLA_NET_NS_FD, inside.as_raw_fd() as u32);
        let data = Body::new().nest(VETH_INFO_PEER, other);
        let info = Body::new().text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, data);
        let body = link_header(0, 0)
            .text(IFLA_IFNAME, name)
            .attr(IFLA_ADDRESS, &mac)
            .u32_native(IFLA_MTU, mtu)
            .nest(IFLA_LINKINFO, info);
        self.0.request(Message { kind: RTM_NEWLINK, flags: CREATE | EXCL, body })?;
        self.must_find(name)
    }

    /// Removes a link (and its peer). Being gone already is no error.
    pub fn remove(&mut self, name: &str) -> io::Result<()> {
        let body = link_header(0, 0).text(IFLA_IFNAME, name);
        allow(self.0.request(Message { kind: RTM_DELLINK, flags: 0, body }), libc::ENODEV)
    }

    /// Switches a link on.
    pub fn up(&mut self, index: u32) -> io::Result<()> {
        self.0.request(Message { kind: RTM_NEWLINK, flags: 0, body: link_header(index, IFF_UP) }).map(drop)
    }

    /// Gives a link an address. Having it already is no error.
    pub fn add_address(&mut self, index: u32, net: Net) -> io::Result<()> {
        let body = address_body(index, net);
        allow(self.0.request(Message { kind: RTM_NEWADDR, flags: CREATE | EXCL, body }), libc::EEXIST)
    }

    /// Takes an address from a link. Its being gone already is no error.
    pub fn remove_address(&mut self, index: u32, net: Net) -> io::Result<()> {
        let body = address_body(index, net);
        allow(self.0.request(Message { kind: RTM_DELADDR, flags: 0, body }), libc::EADDRNOTAVAIL)
    }

    /// All addresses, with the index of their link.
    pub fn addresses(&mut self) -> io::Result<Vec<(u32, Net)>> {
        let answers = self.0.request(Message { kind: RTM_GETADDR, flags: DUMP, body: Body::with(&[0; 8]) })?;
        Ok(answers.iter().filter_map(|answer| read_address(&answer.body)).collect())
    }

    /// Adds a route, or replaces the one to the same place.
    pub fn set_route(&mut self, route: &Route) -> io::Result<()> {
        let body = route_body(route, RTPROT_STATIC);
        self.0.request(Message { kind: RTM_NEWROUTE, flags: CREATE | REPLACE, body }).map(drop)
    }

    /// Removes a route. Its being gone already is no error.
    pub fn remove_route(&mut self, route: &Route) -> io::Result<()> {
        let body = route_body(route, RTPROT_STATIC);
        allow(self.0.request(Message { kind: RTM_DELROUTE, flags: 0, body }), libc::ESRCH)
    }

    /// Adds a route that is marked as its owner's; one to the same place is an error, whoever has it.
    pub fn add_route_of(&mut self, owner: RouteOwner, route: &Route) -> io::Result<()> {
        let body = route_body(route, owner.0);
        self.0.request(Message { kind: RTM_NEWROUTE, flags: CREATE | EXCL, body }).map(drop)
    }

    /// Puts a route of an owner in the place of the one to the same place, in one step.
    pub fn replace_route_of(&mut self, owner: RouteOwner, route: &Route) -> io::Result<()> {
        let body = route_body(route, owner.0);
        self.0.request(Message { kind: RTM_NEWROUTE, flags: CREATE | REPLACE, body }).map(drop)
    }

    /// Removes a route of an owner; another's to the same place stays. Its being gone already is no error.
    pub fn remove_route_of(&mut self, owner: RouteOwner, route: &Route) -> io::Result<()> {
        let body = route_body(route, owner.0);
        allow(self.0.request(Message { kind: RTM_DELROUTE, flags: 0, body }), libc::ESRCH)
    }

    /// Refuses what has no other way to this net, so that its sender knows at once. Being so already is no error.
    pub fn refuse(&mut self, owner: RouteOwner, net: Net) -> io::Result<()> {
        let body = refusal_body(owner, net);
        allow(self.0.request(Message { kind: RTM_NEWROUTE, flags: CREATE | EXCL, body }), libc::EEXIST)
    }

    /// Undoes [`Links::refuse`].
    pub fn refuse_no_more(&mut self, owner: RouteOwner, net: Net) -> io::Result<()> {
        let body = refusal_body(owner, net);
        allow(self.0.request(Message { kind: RTM_DELROUTE, flags: 0, body }), libc::ESRCH)
    }

    /// The unicast routes of the main table, default routes among them.
    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        Ok(self.owned_routes()?.into_iter().map(|(_, route)| route).collect())
    }

    /// The same, each with whose it is.
    pub fn owned_routes(&mut self) -> io::Result<Vec<(RouteOwner, Route)>> {
        let answers = self.0.request(Message { kind: RTM_GETROUTE, flags: DUMP, body: Body::with(&[0; 12]) })?;
        Ok(answers.iter().filter_map(|answer| read_route(&answer.body)).collect())
    }

    /// Says for ever which hardware address an IP address of this link has, so that nobody need ask.
    pub fn set_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> io::Result<()> {
        let mut header = vec![family(address), 0, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        header.extend_from_slice(&NUD_PERMANENT.to_ne_bytes());
        header.extend_from_slice(&[0, RTN_UNICAST]);
        let body = Body::with(&header).attr(NDA_DST, &octets(address)).attr(NDA_LLADDR, &mac);
        self.0.request(Message { kind: RTM_NEWNEIGH, flags: CREATE | REPLACE | ACK, body }).map(drop)
    }

    fn must_find(&mut self, name: &str) -> io::Result<Link> {
        self.find(name)?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("link {name} vanished")))
    }
}

/// Turns one expected refusal into success.
fn allow<T>(result: io::Result<T>, code: i32) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if names(&error, code) => Ok(()),
        Err(error) => Err(error),
    }
}

fn names(error: &io::Error, code: i32) -> bool {
    match error.raw_os_error() {
        Some(raw) => raw == code,
        None => error.to_string().starts_with(&io::Error::from_raw_os_error(code).to_string()),
    }
}

fn link_header(index: u32, up: u32) -> Body {
    let mut header = vec![0u8; 4];
    header.extend_from_slice(&index.to_ne_bytes());
    header.extend_from_slice(&up.to_ne_bytes());
    header.extend_from_slice(&up.to_ne_bytes());
    Body::with(&header)
}

fn address_body(index: u32, net: Net) -> Body {
    let mut header = vec![family(net.address), net.prefix, 0, SCOPE_UNIVERSE];
    header.extend_from_slice(&index.to_ne_bytes());
    Body::with(&header).attr(IFA_LOCAL, &octets(net.address)).attr(IFA_ADDRESS, &octets(net.address))
}

fn refusal_body(owner: RouteOwner, net: Net) -> Body {
    let family = family(net.address);
    let header = [family, net.prefix, 0, 0, RT_TABLE_MAIN, owner.0, SCOPE_UNIVERSE, RTN_UNREACHABLE, 0, 0, 0, 0];
    Body::with(&header).attr(RTA_DST, &octets(net.address)).u32_native(RTA_PRIORITY, LAST_RESORT)
}

fn route_body(route: &Route, owner: u8) -> Body {
    let to = route.to.or_else(|| route.via.map(|via| Net { address: unspecified(via), prefix: 0 }));
    let family = to.map_or(AF_INET, |net| family(net.address));
    let scope = if route.via.is_some() || family == AF_INET6 { SCOPE_UNIVERSE } else { SCOPE_LINK };
    let prefix = to.map_or(0, |net| net.prefix);
    let mut body = Body::with(&[family, prefix, 0, 0, RT_TABLE_MAIN, owner, scope, RTN_UNICAST, 0, 0, 0, 0]);
    if let Some(net) = to.filter(|net| net.prefix > 0) {
        body = body.attr(RTA_DST, &octets(net.address));
    }
    if let Some(via) = route.via {
        body = body.attr(RTA_GATEWAY, &octets(via));
    }
    if let Some(source) = route.source {
        body = body.attr(RTA_PREFSRC, &octets(source));
    }
    body.u32_native(RTA_OIF, route.link)
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::from([0u8; 4]),
        IpAddr::V6(_) => IpAddr::from([0u8; 16]),
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

fn native_u32(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn read_link(body: &[u8]) -> Option<Link> {
    let index = native_u32(body.get(4..)?)?;
    let flags = native_u32(body.get(8..)?)?;
    let (up, carrier) = (flags & IFF_UP != 0, flags & IFF_LOWER_UP != 0);
    let mut link = Link { index, name: String::new(), mac: None, up, carrier, carrier_changes: 0, mtu: 0 };
    for (kind, payload) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = String::from_utf8_lossy(payload).trim_end_matches('\0').to_owned(),
            IFLA_ADDRESS => link.mac = payload.try_into().ok(),
            IFLA_MTU => link.mtu = native_u32(payload)?,
            IFLA_CARRIER_CHANGES => link.carrier_changes = native_u32(payload)?,
            _ => {}
        }
    }
    Some(link)
}

fn read_address(body: &[u8]) -> Option<(u32, Net)> {
    let prefix = *body.get(1)?;
    let index = native_u32(body.get(4..)?)?;
    let list = attributes(body.get(8..)?);
    let of = |wanted: u16| list.iter().find(|(kind, _)| *kind == wanted).and_then(|(_, payload)| ip(payload));
    Some((index, Net { address: of(IFA_LOCAL).or_else(|| of(IFA_ADDRESS))?, prefix }))
}

fn read_route(body: &[u8]) -> Option<(RouteOwner, Route)> {
    let (prefix, table, owner, kind) = (*body.get(1)?, *body.get(4)?, *body.get(5)?, *body.get(7)?);
    if table != RT_TABLE_MAIN || kind != RTN_UNICAST {
        return None;
    }
    let mut route = Route { to: None, via: None, link: 0, source: None };
    for (kind, payload) in attributes(body.get(12..)?) {
        match kind {
            RTA_DST => route.to = ip(payload).map(|address| Net { address, prefix }),
            RTA_GATEWAY => route.via = ip(payload),
            RTA_PREFSRC => route.source = ip(payload),
            RTA_OIF => route.link = native_u32(payload)?,
            _ => {}
        }
    }
    Some((RouteOwner(owner), route))
}
