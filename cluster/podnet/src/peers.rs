//! The ways to other nodes' pods: one route a node, by its address on a link that both share.
//!
//! Start at [`plan`], which says where each node's pods are, and at [`changes`], which says what the kernel lacks of that.
//!
//! Invariants:
//! * a node whose pods cannot be reached is named, with the reason, and never left out silently;
//! * only routes marked as ours are replaced or removed; where somebody else routes a node's pods, his way is taken.
//!
//! Not here: nodes that are behind a router (their pods need a route that the administrator makes), tunnels, IPv6.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use sys::net::link::{Link, Net, Route, RouteOwner};

use crate::plan::HOST_LINK;

/// How our routes are marked. The number is nobody's in `rtnetlink.h`; `ip route` shows it as `proto 92`.
pub const OWNER: RouteOwner = RouteOwner(92);

/// Another node, as its Node says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its name.
    pub node: String,
    /// Its pods.
    pub pods: Net,
    /// Its own address; `None` if it has told of none.
    pub address: Option<Ipv4Addr>,
}

/// What the ways are found from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// All other nodes.
    pub peers: &'a [Peer],
    /// This node's pods.
    pub node_pods: Net,
    /// All pods of the cluster.
    pub cluster_pods: Net,
    /// This node's address, as its Node says.
    pub own: Option<Ipv4Addr>,
    /// The kernel's links.
    pub links: &'a [Link],
    /// Their addresses, by the link's index.
    pub addresses: &'a [(u32, Net)],
    /// The kernel's routes.
    pub routes: &'a [(RouteOwner, Route)],
}

/// How a node's pods are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The node.
    pub node: String,
    /// Its pods.
    pub to: Net,
    /// Its address.
    pub via: Ipv4Addr,
    /// The link's name.
    pub link: String,
    /// The link's index.
    pub index: u32,
}

/// A node whose pods are out of reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The node.
    pub node: String,
    /// Its pods.
    pub to: Net,
    /// Why.
    pub why: Why,
}

/// Why a node's pods are out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has told of no IPv4 address.
    NoAddress,
    /// None of this node's links that are up leads to its address without a router.
    NotOnLink(Ipv4Addr),
    /// Its address is this node's own: one of the two is wrong.
    OwnAddress(Ipv4Addr),
    /// Its pods' addresses are not the cluster's, or also another node's.
    Range,
}

/// All ways, by node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The routes there should be.
    pub ways: Vec<Way>,
    /// Nodes whose pods somebody else's route leads to, with the node's address.
    pub given: Vec<(String, Option<Ipv4Addr>)>,
    /// Nodes out of reach.
    pub blocked: Vec<Blocked>,
    /// The largest packet on the link of this node's address, where that is known.
    pub mtu: Option<u32>,
}

/// What is to be done in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// There is no route to these pods yet.
    Add(Way),
    /// Our route leads elsewhere; it is replaced in one step.
    Replace(Way),
    /// Nobody needs this route of ours any more.
    Remove(Route),
}

/// Finds the way to each node's pods.
pub fn plan(view: &View<'_>) -> Plan {
    let mut peers: Vec<&Peer> = view.peers.iter().collect();
    peers.sort();
    let mut found = Plan { mtu: own_mtu(view), ..Plan::default() };
    let mut taken = vec![view.node_pods];
    for peer in peers {
        let others = |(owner, route): &&(RouteOwner, Route)| *owner != OWNER && route.to == Some(peer.pods);
        let is_given = view.routes.iter().any(|route| others(&route));
        match way(view, peer, &taken) {
            Err(Why::NoAddress | Why::NotOnLink(_)) | Ok(_) if is_given => {
                found.given.push((peer.node.clone(), peer.address));
            }
            Ok(way) => found.ways.push(way),
            Err(why) => found.blocked.push(Blocked { node: peer.node.clone(), to: peer.pods, why }),
        }
        taken.push(peer.pods);
    }
    found
}

fn way(view: &View<'_>, peer: &Peer, taken: &[Net]) -> Result<Way, Why> {
    let is_ours = view.cluster_pods.contains(peer.pods.address) && peer.pods.prefix > view.cluster_pods.prefix;
    if !is_ours || taken.iter().any(|net| overlap(net, &peer.pods)) {
        return Err(Why::Range);
    }
    let via = peer.address.ok_or(Why::NoAddress)?;
    if view.own == Some(via) || view.addresses.iter().any(|(_, net)| net.address == IpAddr::V4(via)) {
        return Err(Why::OwnAddress(via));
    }
    let link = link_to(view, via).ok_or(Why::NotOnLink(via))?;
    Ok(Way { node: peer.node.clone(), to: peer.pods, via, link: link.name.clone(), index: link.index })
}

fn overlap(one: &Net, other: &Net) -> bool {
    one.contains(other.address) || other.contains(one.address)
}

/// The link that leads to an address without a router: the one of the node's own address if several do, then the one whose
/// net is the smallest.
fn link_to<'a>(view: &View<'a>, to: Ipv4Addr) -> Option<&'a Link> {
    let leads = |net: &Net| net.prefix < 32 && net.contains(IpAddr::V4(to));
    let candidates = view.addresses.iter().filter(|(_, net)| leads(net)).filter_map(|(index, net)| {
        let link = view.links.iter().find(|link| link.index == *index && link.up && link.name != HOST_LINK)?;
        let is_own = view.own.is_some_and(|own| net.address == IpAddr::V4(own));
        Some(((is_own, net.prefix, std::cmp::Reverse(link.index)), link))
    });
    candidates.max_by_key(|(rank, _)| *rank).map(|(_, link)| link)
}

fn own_mtu(view: &View<'_>) -> Option<u32> {
    let own = IpAddr::V4(view.own?);
    let (index, _) = view.addresses.iter().find(|(_, net)| net.address == own)?;
    let link = view.links.iter().find(|link| link.index == *index && link.name != HOST_LINK)?;
    Some(link.mtu).filter(|mtu| *mtu > 0)
}

/// What the kernel lacks of a plan, and what it has too much.
pub fn changes(plan: &Plan, routes: &[(RouteOwner, Route)]) -> Vec<Change> {
    let ours: Vec<&Route> = routes.iter().filter(|(owner, _)| *owner == OWNER).map(|(_, route)| route).collect();
    let wanted: BTreeSet<Net> = plan.ways.iter().map(|way| way.to).collect();
    let gone = ours.iter().filter(|route| route.to.is_none_or(|to| !wanted.contains(&to)));
    let mut changes: Vec<Change> = gone.map(|route| Change::Remove((*route).clone())).collect();
    for way in &plan.ways {
        let mut present = ours.iter().filter(|route| route.to == Some(way.to));
        match present.next() {
            None => changes.push(Change::Add(way.clone())),
            Some(first) if **first == way.route() || present.any(|route| **route == way.route()) => {}
            Some(_) => changes.push(Change::Replace(way.clone())),
        }
    }
    changes
}

impl Way {
    /// The route that it is.
    pub fn route(&self) -> Route {
        Route { to: Some(self.to), via: Some(IpAddr::V4(self.via)), link: self.index, source: None }
    }
}

impl Plan {
    /// Addresses of nodes that know the way back to this node's pods, so that nothing is to be rewritten between them.
    pub fn direct(&self) -> BTreeSet<Ipv4Addr> {
        let given = self.given.iter().filter_map(|(_, address)| *address);
        self.ways.iter().map(|way| way.via).chain(given).collect()
    }

    /// Whether the pods of a node are within reach.
    pub fn reaches(&self, node: &str) -> bool {
        self.ways.iter().any(|way| way.node == node) || self.given.iter().any(|(given, _)| given == node)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} via {} dev {}", self.to, self.via, self.link)
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} of node {}: {}", self.to, self.node, self.why)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NoAddress => write!(out, "it has no InternalIP of IPv4"),
            Why::NotOnLink(address) => {
                write!(out, "its address {address} is on no link of this node, and there is no route to its pods")
            }
            Why::OwnAddress(address) => write!(out, "its address {address} is this node's own"),
            Why::Range => write!(out, "its podCIDR is not within the cluster's, or is also another node's"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ways.iter().try_for_each(|way| writeln!(out, "{}: {way}", way.node))?;
        self.given.iter().try_for_each(|(node, _)| writeln!(out, "{node}: by a route that is there"))?;
        self.blocked.iter().try_for_each(|blocked| writeln!(out, "out of reach: {blocked}"))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let net = |to: &Option<Net>| to.map_or("default".to_owned(), |net| net.to_string());
        match self {
            Change::Add(way) => write!(out, "add {way}"),
            Change::Replace(way) => write!(out, "replace {way}"),
            Change::Remove(route) => write!(out, "remove {}", net(&route.to)),
        }
    }
}

// --- What is remembered ---------------------------------------------------------------------------------------------

/// Nodes as they lie on the disk, a line each, so that a node that starts without a server finds the others.
pub(crate) fn write(peers: &[Peer]) -> String {
    let address = |peer: &Peer| peer.address.map_or("-".to_owned(), |address| address.to_string());
    peers.iter().map(|peer| format!("{} {} {}\n", peer.node, peer.pods, address(peer))).collect()
}

/// Reads them back; a line that makes no sense is left out, for the server will tell anyhow.
pub(crate) fn read(text: &str) -> Vec<Peer> {
    text.lines().filter_map(read_line).collect()
}

fn read_line(line: &str) -> Option<Peer> {
    let [node, pods, address] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
    Some(Peer { node: node.to_owned(), pods: parse_net(pods)?, address: address.parse().ok() })
}

/// An IPv4 net in its usual form, such as `10.42.1.0/24`.
pub fn parse_net(text: &str) -> Option<Net> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
    (prefix <= 32).then_some(Net { address: IpAddr::V4(address), prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Net {
        parse_net(text).expect("a net")
    }

    /// `b 10.42.1.0/24 192.168.7.3, c …`
    fn peers(text: &str) -> Vec<Peer> {
        read(&text.replace(", ", "\n"))
    }

    /// `92 10.42.1.0/24 192.168.7.3 2, …`: owner, net, gateway, link.
    fn routes(text: &str) -> Vec<(RouteOwner, Route)> {
        let route = |line: &str| {
            let [owner, to, via, link] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
            let via = Some(IpAddr::V4(via.parse().ok()?));
            let route = Route { to: Some(net(to)), via, link: link.parse().ok()?, source: None };
            Some((RouteOwner(owner.parse().ok()?), route))
        };
        text.split(", ").filter_map(route).collect()
    }

    /// Node a is 192.168.7.2/24 on eth0 (2) and 10.9.0.2/16 on eth1 (3), which is down; wlan0 (4) is 192.168.7.99/24.
    fn planned(peers: &[Peer], routes: &[(RouteOwner, Route)]) -> Plan {
        let link = |index, name: &str, up, mtu| Link {
            index,
            name: name.into(),
            mac: None,
            up,
            carrier: up,
            carrier_changes: 0,
            mtu,
        };
        let links = [
            link(1, "lo", true, 65536),
            link(2, "eth0", true, 1450),
            link(3, "eth1", false, 1500),
            link(4, "wlan0", true, 1500),
            link(5, HOST_LINK, true, 1500),
        ];
        let addresses = [
            (1, net("127.0.0.1/8")),
            (2, net("192.168.7.2/24")),
            (3, net("10.9.0.2/16")),
            (4, net("192.168.7.99/24")),
            (5, net("10.42.0.1/32")),
        ];
        let (node_pods, cluster_pods) = (net("10.42.0.0/24"), net("10.42.0.0/16"));
        let own = Some(Ipv4Addr::new(192, 168, 7, 2));
        plan(&View { peers, node_pods, cluster_pods, own, links: &links, addresses: &addresses, routes })
    }

    #[track_caller]
    fn check(others: &str, known: &str, want_plan: &str, want_changes: &str) {
        let (others, known) = (peers(others), routes(known));
        let plan = planned(&others, &known);
        assert_eq!(plan.to_string().trim_end(), want_plan);
        let changes: Vec<String> = changes(&plan, &known).iter().map(ToString::to_string).collect();
        assert_eq!(changes.join(", "), want_changes);
    }

    const B: &str = "b: 10.42.1.0/24 via 192.168.7.3 dev eth0";

    #[test]
    fn a_node_on_the_link_gets_a_route() {
        check("b 10.42.1.0/24 192.168.7.3", "", B, "add 10.42.1.0/24 via 192.168.7.3 dev eth0");
    }

    #[test]
    fn is_quiet_when_all_is_there() {
        check("b 10.42.1.0/24 192.168.7.3", "92 10.42.1.0/24 192.168.7.3 2", B, "");
        check("", "", "", "");
    }

    #[test]
    fn a_node_that_moved_is_followed_in_one_step() {
        let change = "replace 10.42.1.0/24 via 192.168.7.3 dev eth0";
        check("b 10.42.1.0/24 192.168.7.3", "92 10.42.1.0/24 192.168.7.9 2", B, change);
        check("b 10.42.1.0/24 192.168.7.3", "92 10.42.1.0/24 192.168.7.3 4", B, change);
    }

    #[test]
    fn a_node_that_left_takes_its_route_along() {
        check("", "92 10.42.1.0/24 192.168.7.3 2", "", "remove 10.42.1.0/24");
    }

    #[test]
    fn a_node_behind_a_router_is_named() {
        let why = "its address 10.1.0.4 is on no link of this node, and there is no route to its pods";
        let told = format!("out of reach: 10.42.2.0/24 of node c: {why}");
        check("c 10.42.2.0/24 10.1.0.4", "92 10.42.2.0/24 192.168.7.4 2", &told, "remove 10.42.2.0/24");
        // A link that is down leads nowhere.
        check("c 10.42.2.0/24 10.9.0.4", "", &told.replace("10.1.0.4", "10.9.0.4"), "");
    }

    #[test]
    fn routes_of_others_are_taken_as_they_are() {
        let static_route = "4 10.42.2.0/24 192.168.7.1 2";
        check("c 10.42.2.0/24 10.1.0.4", static_route, "c: by a route that is there", "");
        check("c 10.42.2.0/24 192.168.7.4", static_route, "c: by a route that is there", "");
        check("", static_route, "", "");
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        let range = "its podCIDR is not within the cluster's, or is also another node's";
        for pods in ["10.42.0.128/25", "10.1.0.0/24", "0.0.0.0/0", "10.42.0.0/16"] {
            check(&format!("b {pods} 192.168.7.3"), "", &format!("out of reach: {pods} of node b: {range}"), "");
        }
        let twice = format!("{B}\nout of reach: 10.42.1.0/24 of node c: {range}");
        check(
            "b 10.42.1.0/24 192.168.7.3, c 10.42.1.0/24 192.168.7.4",
            "",
            &twice,
            "add 10.42.1.0/24 via 192.168.7.3 dev eth0",
        );
        let own = "out of reach: 10.42.1.0/24 of node b: its address 192.168.7.2 is this node's own";
        check("b 10.42.1.0/24 192.168.7.2", "", own, "");
        check("b 10.42.1.0/24 -", "", "out of reach: 10.42.1.0/24 of node b: it has no InternalIP of IPv4", "");
    }

    #[test]
    fn pods_are_as_wide_as_the_nodes_link() {
        assert_eq!(planned(&[], &[]).mtu, Some(1450));
    }

    #[test]
    fn peers_read_back_as_written() {
        let all = peers("b 10.42.1.0/24 192.168.7.3, c 10.42.2.0/24 -");
        assert_eq!(read(&write(&all)), all);
        assert_eq!(read("b 10.42.1.0/24\n\nc x y\n"), Vec::new());
    }
}
