//! What the links and rules of a node's pods should be, as values.
//!
//! Start at [`pod_link`] for one pod and at [`table`] for the node's rules.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use sys::net::link::{Mac, Net};
use sys::net::nft::{Chain, Hook, HookKind, HookPoint, Part, Rule, Set, Statement, Table, Value, Verdict};

use crate::lease::Leases;

/// The node's own link among its pods: it leads nowhere and carries the gateway's address.
pub const HOST_LINK: &str = "skerry0";

/// The name of the nftables table of pods.
pub const TABLE: &str = "skerry-pods";

/// Every pod's gateway, as Calico and others do it: an address that needs no place in any net.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Before the proxy's chains, so that a host port wins over a node port.
const PRIORITY_DNAT: i32 = -110;
const PRIORITY_SNAT: i32 = 90;

/// What a node's pod network is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node's pods.
    pub node_pods: Net,
    /// All pods of the cluster.
    pub cluster_pods: Net,
    /// All Services.
    pub services: Net,
    /// Where leases are kept.
    pub directory: PathBuf,
    /// The largest packet on a pod's link, in bytes, as long as the link of the node's own address is not known.
    pub mtu: u32,
}

/// One pod's link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// Its name on the node: at most 15 bytes, made from the address.
    pub host_name: String,
    /// Its hardware address on the node.
    pub host_mac: Mac,
    /// Its hardware address in the pod.
    pub pod_mac: Mac,
    /// The pod's address.
    pub address: Net,
}

/// The link of the pod that has `address`.
pub fn pod_link(address: Ipv4Addr) -> PodLink {
    let [a, b, c, d] = address.octets();
    PodLink {
        host_name: format!("sk{a:02x}{b:02x}{c:02x}{d:02x}"),
        host_mac: [0x0a, 0x57, a, b, c, d],
        pod_mac: [0x0a, 0x58, a, b, c, d],
        address: Net::host(IpAddr::V4(address)),
    }
}

/// The node's rules for its pods: ports of the host, the way out of the cluster, and the way back to oneself. `nodes` are
/// the addresses of nodes that know the way to this one's pods.
pub fn table(options: &Options, leases: &Leases, nodes: &BTreeSet<Ipv4Addr>) -> Table {
    let nodes = nodes.iter().map(|address| (vec![Value::Address(*address)], None)).collect();
    let hairpin = leases.all().keys().map(|address| (vec![Value::Address(*address); 2], None)).collect();
    let both = vec![Part::Source, Part::Destination];
    let ports = port_rules(leases);
    let to_a_node = vec![
        Statement::SourceIn(options.node_pods, true),
        Statement::InSet(vec![Part::Destination], "nodes".into()),
        Statement::Verdict(Verdict::Return),
    ];
    let leaving = vec![
        Statement::SourceIn(options.node_pods, true),
        Statement::DestinationIn(options.cluster_pods, false),
        Statement::DestinationIn(options.services, false),
        Statement::Masquerade,
    ];
    let to_oneself = vec![Statement::InSet(both.clone(), "hairpin".into()), Statement::Masquerade];
    let ways_out = vec![Rule(to_oneself), Rule(to_a_node), Rule(leaving)];
    Table {
        name: TABLE.into(),
        sets: vec![
            Set { name: "hairpin".into(), key: both, elements: hairpin, verdicts: false, forgets_after: None },
            Set {
                name: "nodes".into(),
                key: vec![Part::Destination],
                elements: nodes,
                verdicts: false,
                forgets_after: None,
            },
        ],
        chains: vec![
            chain("prerouting", HookPoint::Prerouting, PRIORITY_DNAT, ports.clone()),
            chain("output", HookPoint::Output, PRIORITY_DNAT, ports),
            chain("postrouting", HookPoint::Postrouting, PRIORITY_SNAT, ways_out),
        ],
    }
}

fn port_rules(leases: &Leases) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (address, lease) in leases.all() {
        for port in &lease.ports {
            let outside = match port.host_ip {
                Some(host_ip) => Statement::DestinationIn(Net::host(IpAddr::V4(host_ip)), true),
                None => Statement::DestinationIsLocal,
            };
            rules.push(Rule(vec![
                outside,
                Statement::Transport(port.transport),
                Statement::Port(port.host_port),
                Statement::DnatRandom(vec![(*address, port.container_port)]),
            ]));
        }
    }
    rules
}

fn chain(name: &str, at: HookPoint, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), hook: Some(Hook { kind: HookKind::Nat, at, priority }), rules }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{HostPort, Lease};
    use sys::net::nft::Transport;

    fn net(address: [u8; 4], prefix: u8) -> Net {
        Net { address: IpAddr::from(address), prefix }
    }

    #[test]
    fn a_link_is_named_after_its_address() {
        let link = pod_link(Ipv4Addr::new(10, 42, 0, 7));
        assert_eq!(link.host_name, "sk0a2a0007");
        assert!(link.host_name.len() <= 15);
    }

    #[test]
    fn the_rules_read_as_expected() {
        let options = Options {
            node_pods: net([10, 42, 0, 0], 24),
            cluster_pods: net([10, 42, 0, 0], 16),
            services: net([10, 43, 0, 0], 16),
            directory: PathBuf::new(),
            mtu: 1500,
        };
        let mut leases = Leases::new(Ipv4Addr::new(10, 42, 0, 0), 24);
        let port = HostPort { transport: Transport::Tcp, host_port: 8080, container_port: 80, host_ip: None };
        leases.take(Lease { sandbox: "web".into(), ports: vec![port] });
        let expected = "\
table ip skerry-pods {
  set hairpin {
    type ipv4_addr . ipv4_addr
    10.42.0.2 . 10.42.0.2
  }
  set nodes {
    type ipv4_addr
    192.168.7.3
  }
  chain prerouting {
    type nat hook prerouting priority -110; policy accept;
    fib daddr type local meta l4proto tcp th dport 8080 dnat ip to numgen random mod 1 map { 0 : 10.42.0.2 . 80 }
  }
  chain output {
    type nat hook output priority -110; policy accept;
    fib daddr type local meta l4proto tcp th dport 8080 dnat ip to numgen random mod 1 map { 0 : 10.42.0.2 . 80 }
  }
  chain postrouting {
    type nat hook postrouting priority 90; policy accept;
    ip saddr . ip daddr @hairpin masquerade
    ip saddr 10.42.0.0/24 ip daddr @nodes return
    ip saddr 10.42.0.0/24 ip daddr != 10.42.0.0/16 ip daddr != 10.43.0.0/16 masquerade
  }
}
";
        let nodes = BTreeSet::from([Ipv4Addr::new(192, 168, 7, 3)]);
        assert_eq!(table(&options, &leases, &nodes).to_string(), expected);
    }
}
