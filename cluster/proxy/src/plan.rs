//! From Services and EndpointSlices to one nftables table.
//!
//! Start at [`plan`]. Each port of a Service is found by (address, protocol, port) in one map, so that a packet's cost does
//! not grow with the number of Services; the chain it finds there picks an endpoint.
//!
//! Invariants:
//! * the same view gives the same table, to the byte;
//! * an endpoint that is not ready gets nothing, unless all of them are terminating and some still serve (KEP-1669);
//! * a Service without endpoints refuses at once instead of keeping the caller waiting.
//!
//! Not here: IPv6, topology hints, removing stale conntrack entries of UDP.
//!
//! See <https://kubernetes.io/docs/reference/networking/virtual-ips/>.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use sys::net::link::Net;
use sys::net::nft::{Chain, Hook, HookKind, HookPoint, Part, Rule, Set, Statement, Table, Transport, Value, Verdict};

/// The name of the table.
pub const TABLE: &str = "skerry-services";

/// The bit of the packet mark that asks for this node's address on the way out; upstream's kube-proxy uses the same.
const MARK_MASQUERADE: u32 = 0x4000;

const PRIORITY_DNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SNAT: i32 = 100;

const BY_ADDRESS: &str = "service-ips";
const BY_NODE_PORT: &str = "service-nodeports";
const EMPTY: &str = "no-endpoint-services";
const EMPTY_NODE_PORT: &str = "no-endpoint-nodeports";
const CLUSTER_IPS: &str = "cluster-ips";
const REJECT: &str = "reject-it";
const DROP: &str = "drop-it";

/// What the rules are made from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Every Service of the cluster.
    pub services: &'a [Arc<Service>],
    /// Every EndpointSlice of the cluster.
    pub slices: &'a [Arc<EndpointSlice>],
    /// This node's name.
    pub node: &'a str,
    /// All pods of the cluster.
    pub pods: Net,
}

/// One port of one Service, as far as rules need it.
#[derive(Debug)]
struct Port {
    chain: String,
    transport: Transport,
    number: u16,
    node_port: Option<u16>,
    cluster_ips: Vec<Ipv4Addr>,
    external_ips: Vec<Ipv4Addr>,
    internal: Vec<(Ipv4Addr, u16)>,
    external: Vec<(Ipv4Addr, u16)>,
    any: bool,
    external_is_local: bool,
    sticky: bool,
}

/// The whole table.
pub fn plan(view: &View<'_>) -> Table {
    let mut ports: Vec<Port> = view.services.iter().flat_map(|service| ports_of(service, view)).collect();
    ports.sort_by(|left, right| left.chain.cmp(&right.chain));
    ports.dedup_by(|left, right| left.chain == right.chain);
    let mut found = Lookup::default();
    let mut chains = base_chains();
    for port in &ports {
        found.add(port);
        chains.extend(port_chains(port, view.pods));
    }
    Table { name: TABLE.into(), sets: found.into_sets(), chains }
}

/// The elements of the sets and maps, in order.
#[derive(Default)]
struct Lookup {
    by_address: BTreeMap<Vec<Value>, Verdict>,
    by_node_port: BTreeMap<Vec<Value>, Verdict>,
    empty: BTreeMap<Vec<Value>, Verdict>,
    empty_node_port: BTreeMap<Vec<Value>, Verdict>,
    cluster_ips: BTreeSet<Vec<Value>>,
}

impl Lookup {
    fn add(&mut self, port: &Port) {
        let transport = Value::Protocol(port.transport);
        let key = |address: &Ipv4Addr| vec![Value::Address(*address), transport, Value::Port(port.number)];
        // Nothing anywhere refuses; something, but not here, drops: the sender is to try another node.
        let refusal = || Verdict::Goto(if port.any { DROP } else { REJECT }.to_owned());
        for address in &port.cluster_ips {
            self.cluster_ips.insert(vec![Value::Address(*address)]);
            if port.internal.is_empty() {
                self.empty.entry(key(address)).or_insert_with(refusal);
            } else {
                self.by_address.entry(key(address)).or_insert_with(|| Verdict::Goto(port.chain.clone()));
            }
        }
        let outside = || Verdict::Goto(external_name(port));
        for address in &port.external_ips {
            if port.external.is_empty() {
                self.empty.entry(key(address)).or_insert_with(refusal);
            } else {
                self.by_address.entry(key(address)).or_insert_with(outside);
            }
        }
        if let Some(node_port) = port.node_port {
            let key = vec![transport, Value::Port(node_port)];
            if port.external.is_empty() {
                self.empty_node_port.entry(key).or_insert_with(refusal);
            } else {
                self.by_node_port.entry(key).or_insert_with(outside);
            }
        }
    }

    fn into_sets(self) -> Vec<Set> {
        let map = |name: &str, key: Vec<Part>, elements: BTreeMap<Vec<Value>, Verdict>| Set {
            name: name.into(),
            key,
            elements: elements.into_iter().map(|(values, verdict)| (values, Some(verdict))).collect(),
            verdicts: true,
        };
        vec![
            map(BY_ADDRESS, address_key(), self.by_address),
            map(BY_NODE_PORT, port_key(), self.by_node_port),
            map(EMPTY, address_key(), self.empty),
            map(EMPTY_NODE_PORT, port_key(), self.empty_node_port),
            Set {
                name: CLUSTER_IPS.into(),
                key: vec![Part::Destination],
                elements: self.cluster_ips.into_iter().map(|values| (values, None)).collect(),
                verdicts: false,
            },
        ]
    }
}

fn address_key() -> Vec<Part> {
    vec![Part::Destination, Part::Protocol, Part::Port]
}

fn port_key() -> Vec<Part> {
    vec![Part::Protocol, Part::Port]
}

fn external_name(port: &Port) -> String {
    format!("ext-{}", port.chain)
}

fn base_chains() -> Vec<Chain> {
    let find = vec![
        Rule(vec![Statement::VerdictOf(address_key(), BY_ADDRESS.into())]),
        Rule(vec![Statement::DestinationIsLocal, Statement::VerdictOf(port_key(), BY_NODE_PORT.into())]),
    ];
    // A packet that still has a cluster address here found no port: the address is not a machine's.
    let refuse = vec![
        Rule(vec![Statement::VerdictOf(address_key(), EMPTY.into())]),
        Rule(vec![Statement::DestinationIsLocal, Statement::VerdictOf(port_key(), EMPTY_NODE_PORT.into())]),
        Rule(vec![Statement::InSet(vec![Part::Destination], CLUSTER_IPS.into()), Statement::Reject]),
    ];
    let masquerade = vec![Rule(vec![Statement::Marked(MARK_MASQUERADE), Statement::Masquerade])];
    let hooked = |name: &str, kind, at, priority, rules| Chain {
        name: name.into(),
        hook: Some(Hook { kind, at, priority }),
        rules,
    };
    vec![
        hooked("nat-prerouting", HookKind::Nat, HookPoint::Prerouting, PRIORITY_DNAT, find.clone()),
        hooked("nat-output", HookKind::Nat, HookPoint::Output, PRIORITY_DNAT, find),
        hooked("nat-postrouting", HookKind::Nat, HookPoint::Postrouting, PRIORITY_SNAT, masquerade),
        hooked("filter-input", HookKind::Filter, HookPoint::Input, PRIORITY_FILTER, refuse.clone()),
        hooked("filter-forward", HookKind::Filter, HookPoint::Forward, PRIORITY_FILTER, refuse.clone()),
        hooked("filter-output", HookKind::Filter, HookPoint::Output, PRIORITY_FILTER, refuse),
        Chain { name: REJECT.into(), hook: None, rules: vec![Rule(vec![Statement::Reject])] },
        Chain { name: DROP.into(), hook: None, rules: vec![Rule(vec![Statement::Verdict(Verdict::Drop)])] },
    ]
}

fn port_chains(port: &Port, pods: Net) -> Vec<Chain> {
    let pick = |to: &[(Ipv4Addr, u16)]| {
        Rule(vec![if port.sticky { Statement::DnatBySource(to.to_vec()) } else { Statement::DnatRandom(to.to_vec()) }])
    };
    let mark = Statement::Mark(MARK_MASQUERADE);
    let mut chains = Vec::new();
    if !port.internal.is_empty() {
        let from_elsewhere = Rule(vec![Statement::SourceIn(pods, false), mark.clone()]);
        chains.push(Chain { name: port.chain.clone(), hook: None, rules: vec![from_elsewhere, pick(&port.internal)] });
    }
    if !port.external.is_empty() && (port.node_port.is_some() || !port.external_ips.is_empty()) {
        let mut rules = Vec::new();
        if !port.external_is_local {
            rules.push(Rule(vec![mark]));
        } else if !port.internal.is_empty() {
            // What comes from a pod is not outside traffic: the policy does not bind it.
            let inside = Statement::Verdict(Verdict::Goto(port.chain.clone()));
            rules.push(Rule(vec![Statement::SourceIn(pods, true), inside]));
        }
        rules.push(pick(&port.external));
        chains.push(Chain { name: external_name(port), hook: None, rules });
    }
    chains
}

fn ports_of(service: &Service, view: &View<'_>) -> Vec<Port> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let cluster_ips = addresses(spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip));
    if spec.type_.as_deref() == Some("ExternalName") || cluster_ips.is_empty() {
        return Vec::new(); // Headless ones too: DNS alone serves them.
    }
    let external_ips = external_addresses(service);
    let slices: Vec<&EndpointSlice> =
        view.slices.iter().map(Arc::as_ref).filter(|slice| belongs(slice, service)).collect();
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let external_is_local = local(&spec.external_traffic_policy);
    let make = |port: &ServicePort| -> Option<Port> {
        let transport = transport(port.protocol.as_deref())?;
        let all = endpoints(&slices, port, None);
        let here = || endpoints(&slices, port, Some(view.node));
        Some(Port {
            chain: chain_name(service, port, transport),
            transport,
            number: u16::try_from(port.port).ok()?,
            node_port: port.node_port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0),
            cluster_ips: cluster_ips.clone(),
            external_ips: external_ips.clone(),
            any: !all.is_empty(),
            internal: if local(&spec.internal_traffic_policy) { here() } else { all.clone() },
            external: if external_is_local { here() } else { all },
            external_is_local,
            sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
        })
    };
    spec.ports.iter().flatten().filter_map(make).collect()
}

fn external_addresses(service: &Service) -> Vec<Ipv4Addr> {
    let of_spec = service.spec.iter().flat_map(|spec| spec.external_ips.iter().flatten());
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    let of_balancer =
        ingress.filter(|each| each.ip_mode.as_deref() != Some("Proxy")).filter_map(|each| each.ip.as_ref());
    addresses(of_spec.chain(of_balancer))
}

fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<Ipv4Addr> {
    let found: BTreeSet<Ipv4Addr> = texts.filter_map(|text| text.parse().ok()).collect();
    found.into_iter().collect()
}

fn transport(name: Option<&str>) -> Option<Transport> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Transport::Tcp),
        "UDP" => Some(Transport::Udp),
        "SCTP" => Some(Transport::Sctp),
        _ => None,
    }
}

fn chain_name(service: &Service, port: &ServicePort, transport: Transport) -> String {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    format!("svc-{namespace}/{name}/{transport}/{}", port.port)
}

fn belongs(slice: &EndpointSlice, service: &Service) -> bool {
    let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name"));
    slice.address_type == "IPv4"
        && slice.metadata.namespace == service.metadata.namespace
        && label == service.metadata.name.as_ref()
}

/// Addresses and ports that may get traffic: the ready ones; or, if there are none, those that serve while they leave.
fn endpoints(slices: &[&EndpointSlice], port: &ServicePort, node: Option<&str>) -> Vec<(Ipv4Addr, u16)> {
    let ready = |endpoint: &Endpoint| endpoint.conditions.as_ref().is_none_or(|is| is.ready.unwrap_or(true));
    let leaving = |endpoint: &Endpoint| {
        let is = endpoint.conditions.as_ref();
        is.is_some_and(|is| is.serving.unwrap_or(false) && is.terminating.unwrap_or(false))
    };
    let found = select(slices, port, node, &ready);
    if found.is_empty() { select(slices, port, node, &leaving) } else { found }
}

fn select(
    slices: &[&EndpointSlice],
    port: &ServicePort,
    node: Option<&str>,
    wanted: &dyn Fn(&Endpoint) -> bool,
) -> Vec<(Ipv4Addr, u16)> {
    let mut found = BTreeSet::new();
    for slice in slices {
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        let same = slice.ports.iter().flatten().find(|each| name(&each.name) == name(&port.name));
        let Some(number) = same.and_then(|each| each.port).and_then(|number| u16::try_from(number).ok()) else {
            continue;
        };
        let here = |endpoint: &&Endpoint| node.is_none() || endpoint.node_name.as_deref() == node;
        for endpoint in slice.endpoints.iter().flatten().filter(here).filter(|endpoint| wanted(endpoint)) {
            found.extend(
                endpoint.addresses.first().and_then(|address| address.parse().ok()).map(|address| (address, number)),
            );
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    /// Plans for one Service `web` of `spec` with endpoints written as `10.42.0.2@node`, `!` for unready, `~` for
    /// leaving but serving.
    fn planned(spec: Json, endpoints: &str) -> String {
        let service = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
        let endpoint = |text: &str| {
            let (ready, serving) = (!text.starts_with(['!', '~']), !text.starts_with('!'));
            let (address, node) = text.trim_start_matches(['!', '~']).split_once('@').expect("address@node");
            json!({"addresses": [address], "nodeName": node,
                   "conditions": {"ready": ready, "serving": serving, "terminating": text.starts_with('~')}})
        };
        let slice = json!({
            "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": endpoints.split_whitespace().map(endpoint).collect::<Vec<_>>(),
        });
        let services = [Arc::new(serde_json::from_value(service).expect("a Service"))];
        let slices = [Arc::new(serde_json::from_value(slice).expect("an EndpointSlice"))];
        let pods = Net { address: [10, 42, 0, 0].into(), prefix: 16 };
        plan(&View { services: &services, slices: &slices, node: "a", pods }).to_string()
    }

    #[track_caller]
    fn check(spec: Json, endpoints: &str, has: &[&str], has_not: &[&str]) {
        let text = planned(spec, endpoints);
        for line in has {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
        for line in has_not {
            assert!(!text.contains(line), "{line:?} is in\n{text}");
        }
    }

    fn cluster_ip() -> Json {
        json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"], "ports": [{"port": 80, "protocol": "TCP"}]})
    }

    fn node_port(policy: &str) -> Json {
        let mut spec = cluster_ip();
        spec["type"] = "NodePort".into();
        spec["externalTrafficPolicy"] = policy.into();
        spec["ports"][0]["nodePort"] = 30080.into();
        spec
    }

    #[test]
    fn a_cluster_ip_leads_to_its_ready_endpoints() {
        let found = "10.43.0.9 . tcp . 80 : goto svc-default/web/tcp/80";
        let pick = "numgen random mod 2 map { 0 : 10.42.0.2 . 8080, 1 : 10.42.1.3 . 8080 }";
        check(cluster_ip(), "10.42.0.2@a !10.42.0.9@a 10.42.1.3@b", &[found, pick], &["10.42.0.9", "ext-"]);
    }

    #[test]
    fn no_endpoint_refuses_at_once() {
        check(cluster_ip(), "!10.42.0.2@a", &["10.43.0.9 . tcp . 80 : goto reject-it"], &["dnat"]);
    }

    #[test]
    fn the_last_that_leave_still_serve() {
        check(cluster_ip(), "~10.42.0.2@a", &["0 : 10.42.0.2 . 8080"], &[]);
        check(cluster_ip(), "~10.42.0.2@a 10.42.0.3@a", &["0 : 10.42.0.3 . 8080"], &["10.42.0.2"]);
    }

    #[test]
    fn a_node_port_masquerades_unless_the_policy_is_local() {
        let cluster = "chain ext-svc-default/web/tcp/80 {\n    meta mark set meta mark | 0x4000";
        check(node_port("Cluster"), "10.42.1.3@b", &["tcp . 30080 : goto ext-svc", cluster], &[]);
        let inside = "chain ext-svc-default/web/tcp/80 {\n    ip saddr 10.42.0.0/16 goto svc-default/web/tcp/80";
        check(node_port("Local"), "10.42.0.2@a 10.42.1.3@b", &[inside, "mod 1 map { 0 : 10.42.0.2 . 8080 }"], &[]);
    }

    #[test]
    fn a_local_policy_drops_where_only_others_have_endpoints() {
        check(node_port("Local"), "10.42.1.3@b", &["tcp . 30080 : goto drop-it"], &["ext-"]);
    }

    #[test]
    fn affinity_picks_by_source() {
        let mut spec = cluster_ip();
        spec["sessionAffinity"] = "ClientIP".into();
        check(spec, "10.42.0.2@a", &["jhash ip saddr mod 1"], &["numgen"]);
    }

    #[test]
    fn headless_and_external_names_make_no_rules() {
        check(json!({"clusterIP": "None", "ports": [{"port": 80}]}), "10.42.0.2@a", &[], &["10.42.0.2"]);
        check(json!({"type": "ExternalName", "externalName": "example.com"}), "10.42.0.2@a", &[], &["10.42.0.2"]);
    }
}
