//! From Services and EndpointSlices to one nftables table.
//!
//! Start at [`plan`]. Each port of a Service is found by (address, protocol, port) in one map, so that a packet's cost does
//! not grow with the number of Services; the chain it finds there picks an endpoint.
//!
//! Invariants:
//! * the same view gives the same table, to the byte;
//! * an endpoint that is not ready gets nothing, unless all of them are terminating and some still serve (KEP-1669);
//! * a Service without endpoints refuses at once instead of keeping the caller waiting;
//! * the table says which plan it is, in the name of a chain, so that a process that finds it knows.
//!
//! Not here: IPv6, topology hints, connections that lead to endpoints that are gone (`stale.rs`).
//!
//! See <https://kubernetes.io/docs/reference/networking/virtual-ips/>.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

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
/// What the name of the chain begins with that says which plan this is.
const MARK: &str = "plan-";

/// How long a client stays with its endpoint if the Service does not say; upstream's default of three hours.
const AFFINITY_SECONDS: i32 = 10_800;

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
    /// The machine is about to go down: what asks at its node ports is to ask another node. What is under way ends in peace.
    pub leaving: bool,
}

/// An address and a port of an endpoint.
pub type Backend = (Ipv4Addr, u16);

/// What is to be in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The rules.
    pub table: Table,
    /// Where UDP leads, which keeps no connections that could end.
    pub udp: Udp,
}

/// The endpoints of UDP ports, by how they are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Udp {
    /// By a Service's address and port.
    pub by_address: BTreeMap<Backend, BTreeSet<Backend>>,
    /// By a port of any node.
    pub by_node_port: BTreeMap<u16, BTreeSet<Backend>>,
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
    /// Endpoints anywhere.
    all: Vec<Backend>,
    /// Endpoints of this node.
    here: Vec<Backend>,
    internal_is_local: bool,
    external_is_local: bool,
    /// For how long a client stays with its endpoint.
    sticky: Option<Duration>,
}

impl Port {
    fn internal(&self) -> &[Backend] {
        if self.internal_is_local { &self.here } else { &self.all }
    }
    fn external(&self) -> &[Backend] {
        if self.external_is_local { &self.here } else { &self.all }
    }
    fn is_external(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty()
    }
}

/// The whole plan.
pub fn plan(view: &View<'_>) -> Plan {
    let by_service = slices_by_service(view.slices);
    let mut ports: Vec<Port> =
        view.services.iter().flat_map(|service| ports_of(service, &by_service, view.node)).collect();
    ports.sort_by(|left, right| left.chain.cmp(&right.chain));
    ports.dedup_by(|left, right| left.chain == right.chain);
    let mut found = Lookup::default();
    let (mut chains, mut sets) = (base_chains(), Vec::new());
    for port in &ports {
        found.add(port, view.leaving);
        let made = port_chains(port, view.pods);
        sets.extend(made.iter().filter_map(|chain| affinity_set(port, chain)));
        chains.extend(made);
    }
    let mut udp = Udp::default();
    ports.iter().filter(|port| port.transport == Transport::Udp).for_each(|port| udp.add(port));
    sets.splice(0..0, found.into_sets());
    let mut table = Table { name: TABLE.into(), sets, chains };
    table.chains.push(Chain {
        name: format!("{MARK}{:016x}", base::fnv1a(table.to_string().bytes())),
        hook: None,
        rules: Vec::new(),
    });
    Plan { table, udp }
}

impl Plan {
    /// The chain whose being there says that the kernel has this very plan.
    pub fn mark(&self) -> &str {
        self.table.chains.last().map_or("", |chain| &chain.name)
    }
}

impl Udp {
    fn add(&mut self, port: &Port) {
        // Whichever policy let a client in, an endpoint of the Service may answer it.
        let backends: BTreeSet<Backend> = port.all.iter().chain(&port.here).copied().collect();
        for address in port.cluster_ips.iter().chain(&port.external_ips) {
            self.by_address.entry((*address, port.number)).or_default().extend(&backends);
        }
        if let Some(node_port) = port.node_port {
            self.by_node_port.entry(node_port).or_default().extend(&backends);
        }
    }
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
    fn add(&mut self, port: &Port, leaving: bool) {
        let transport = Value::Protocol(port.transport);
        let key = |address: &Ipv4Addr| vec![Value::Address(*address), transport, Value::Port(port.number)];
        // Nothing anywhere refuses; something, but not here, drops: the sender is to try another node.
        let refusal = || Verdict::Goto(if port.all.is_empty() { REJECT } else { DROP }.to_owned());
        for address in &port.cluster_ips {
            self.cluster_ips.insert(vec![Value::Address(*address)]);
            if port.internal().is_empty() {
                self.empty.entry(key(address)).or_insert_with(refusal);
            } else {
                self.by_address.entry(key(address)).or_insert_with(|| Verdict::Goto(port.chain.clone()));
            }
        }
        // With a local policy the cluster's own still get through where strangers do not: both maps have the port then.
        let outside = || Verdict::Goto(external_name(port));
        let (is_closed, is_open) = (port.external().is_empty(), !port.all.is_empty());
        for address in &port.external_ips {
            if is_closed {
                self.empty.entry(key(address)).or_insert_with(refusal);
            }
            if is_open {
                self.by_address.entry(key(address)).or_insert_with(outside);
            }
        }
        if let Some(node_port) = port.node_port {
            let key = vec![transport, Value::Port(node_port)];
            if leaving {
                self.empty_node_port.insert(key, Verdict::Goto(REJECT.to_owned()));
                return;
            }
            if is_closed {
                self.empty_node_port.entry(key.clone()).or_insert_with(refusal);
            }
            if is_open {
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
            forgets_after: None,
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
                forgets_after: None,
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

/// The chain of a Service's endpoints anywhere, where the one of its own address leads to this node's only.
fn cluster_name(port: &Port) -> String {
    if port.internal_is_local { format!("all-{}", port.chain) } else { port.chain.clone() }
}

fn backend_name(port: &Port, (address, number): &Backend) -> String {
    format!("ep-{}/{address}/{number}", port.chain)
}

/// The set of clients that stay with one endpoint. Its time is in its name, because a set keeps the time it was made with.
fn affinity_name(port: &Port, time: Duration, (address, number): &Backend) -> String {
    format!("affinity-{}/{address}/{number}/{}s", port.chain, time.as_secs())
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
    let chain = |name: String, rules: Vec<Rule>| Chain { name, hook: None, rules };
    let inside = |name: String, to: &[Backend]| {
        let from_elsewhere = Rule(vec![Statement::SourceIn(pods, false), Statement::Mark(MARK_MASQUERADE)]);
        chain(name, std::iter::once(from_elsewhere).chain(pick(port, to)).collect())
    };
    let mut chains = Vec::new();
    if !port.internal().is_empty() {
        chains.push(inside(port.chain.clone(), port.internal()));
    }
    if port.is_external() && !port.all.is_empty() {
        chains.push(chain(external_name(port), external_rules(port, pods)));
        if port.external_is_local && port.internal_is_local {
            chains.push(inside(cluster_name(port), &port.all));
        }
    }
    if port.sticky.is_some() {
        let used = BTreeSet::from_iter(port.all.iter().chain(&port.here));
        chains.extend(used.into_iter().map(|backend| chain(backend_name(port, backend), backend_rules(port, backend))));
    }
    chains
}

/// What comes by a node port or an external address.
fn external_rules(port: &Port, pods: Net) -> Vec<Rule> {
    let mark = Statement::Mark(MARK_MASQUERADE);
    if !port.external_is_local {
        return std::iter::once(Rule(vec![mark])).chain(pick(port, &port.all)).collect();
    }
    // What comes from a pod or from this node is not outside traffic: the policy does not bind it.
    let inside = || Statement::Verdict(Verdict::Goto(cluster_name(port)));
    let from_pods = Rule(vec![Statement::SourceIn(pods, true), inside()]);
    let from_here = Rule(vec![Statement::SourceIsLocal, mark, inside()]);
    [from_pods, from_here].into_iter().chain(pick(port, &port.here)).collect()
}

/// Sends a connection to one of these: to the one where its client was before, if it is to stay there, or else to any.
fn pick(port: &Port, to: &[Backend]) -> Vec<Rule> {
    let Some(time) = port.sticky else {
        return if to.is_empty() { Vec::new() } else { vec![Rule(vec![Statement::DnatRandom(to.to_vec())])] };
    };
    let known = |backend: &Backend| {
        let set = affinity_name(port, time, backend);
        let there = Statement::Verdict(Verdict::Goto(backend_name(port, backend)));
        Rule(vec![Statement::InSet(vec![Part::Source], set), there])
    };
    let any = Statement::GotoRandom(to.iter().map(|backend| backend_name(port, backend)).collect());
    let any = (!to.is_empty()).then(|| Rule(vec![any]));
    to.iter().map(known).chain(any).collect()
}

/// Remembers the client, and sends it to this endpoint.
fn backend_rules(port: &Port, backend: &Backend) -> Vec<Rule> {
    let remember = port.sticky.map(|time| Rule(vec![Statement::Remember(affinity_name(port, time, backend))]));
    remember.into_iter().chain([Rule(vec![Statement::DnatRandom(vec![*backend])])]).collect()
}

/// The set that an endpoint's chain remembers its clients in; `None` for other chains.
fn affinity_set(port: &Port, chain: &Chain) -> Option<Set> {
    let name = chain.rules.iter().flat_map(|rule| &rule.0).find_map(|statement| match statement {
        Statement::Remember(set) => Some(set.clone()),
        _ => None,
    })?;
    let (key, elements) = (vec![Part::Source], Vec::new());
    Some(Set { name, key, elements, verdicts: false, forgets_after: port.sticky })
}

/// Slices by the namespace and name of their Service.
pub(crate) type Slices<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

pub(crate) fn slices_by_service(slices: &[Arc<EndpointSlice>]) -> Slices<'_> {
    let mut found = Slices::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name"));
        if let (Some(namespace), Some(service)) = (&slice.metadata.namespace, label) {
            found.entry((namespace, service)).or_default().push(slice);
        }
    }
    found
}

fn ports_of(service: &Service, slices: &Slices<'_>, node: &str) -> Vec<Port> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let cluster_ips = addresses(spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip));
    if spec.type_.as_deref() == Some("ExternalName") || cluster_ips.is_empty() {
        return Vec::new(); // Headless ones too: DNS alone serves them.
    }
    let external_ips = external_addresses(service);
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    let (namespace, own) = (name(&service.metadata.namespace), name(&service.metadata.name));
    let slices = slices.get(&(namespace.as_str(), own.as_str())).map(Vec::as_slice).unwrap_or_default();
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let make = |port: &ServicePort| -> Option<Port> {
        let transport = transport(port.protocol.as_deref())?;
        Some(Port {
            chain: chain_name(service, port, transport),
            transport,
            number: u16::try_from(port.port).ok()?,
            node_port: port.node_port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0),
            cluster_ips: cluster_ips.clone(),
            external_ips: external_ips.clone(),
            all: endpoints(slices, port, None),
            here: endpoints(slices, port, Some(node)),
            internal_is_local: local(&spec.internal_traffic_policy),
            external_is_local: local(&spec.external_traffic_policy),
            sticky: (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| affinity_time(service)),
        })
    };
    spec.ports.iter().flatten().filter_map(make).collect()
}

fn affinity_time(service: &Service) -> Duration {
    let config = service.spec.as_ref().and_then(|spec| spec.session_affinity_config.as_ref());
    let seconds = config.and_then(|config| config.client_ip.as_ref()).and_then(|client| client.timeout_seconds);
    Duration::from_secs(seconds.filter(|seconds| *seconds > 0).unwrap_or(AFFINITY_SECONDS).unsigned_abs().into())
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
        planned_of_one(spec, endpoints, false)
    }

    fn planned_of_one(spec: Json, endpoints: &str, leaving: bool) -> String {
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
        plan(&View { services: &services, slices: &slices, node: "a", pods, leaving }).table.to_string()
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
    fn a_machine_that_leaves_refuses_at_its_node_ports_only() {
        let text = planned_of_one(node_port("Cluster"), "10.42.1.3@b", true);
        let refused =
            "no-endpoint-nodeports {\n    type inet_proto . inet_service : verdict\n    tcp . 30080 : goto reject-it";
        assert!(text.contains(refused) && !text.contains("tcp . 30080 : goto ext-svc"), "{text}");
        assert!(text.contains("10.43.0.9 . tcp . 80 : goto svc-default/web/tcp/80"), "{text}");
    }

    #[test]
    fn a_local_policy_drops_where_only_others_have_endpoints() {
        let drop =
            "no-endpoint-nodeports {\n    type inet_proto . inet_service : verdict\n    tcp . 30080 : goto drop-it";
        check(node_port("Local"), "10.42.1.3@b", &[drop], &[]);
        check(node_port("Cluster"), "10.42.1.3@b", &[], &["goto drop-it"]);
    }

    #[test]
    fn a_local_policy_binds_neither_pods_nor_the_node_itself() {
        let own = "\
  chain ext-svc-default/web/tcp/80 {
    ip saddr 10.42.0.0/16 goto svc-default/web/tcp/80
    fib saddr type local meta mark set meta mark | 0x4000 goto svc-default/web/tcp/80
  }";
        check(node_port("Local"), "10.42.1.3@b", &["tcp . 30080 : goto ext-svc", own], &[]);
        let mut spec = node_port("Local");
        spec["internalTrafficPolicy"] = "Local".into();
        let all = "  chain all-svc-default/web/tcp/80 {\n    ip saddr != 10.42.0.0/16";
        check(spec, "10.42.1.3@b", &["goto all-svc-default/web/tcp/80", all], &["chain svc-default"]);
    }

    #[test]
    fn a_client_stays_with_its_endpoint_for_a_time() {
        let mut spec = node_port("Cluster");
        spec["sessionAffinity"] = "ClientIP".into();
        let own = "\
  chain svc-default/web/tcp/80 {
    ip saddr != 10.42.0.0/16 meta mark set meta mark | 0x4000
    ip saddr @affinity-svc-default/web/tcp/80/10.42.0.2/8080/10800s goto ep-svc-default/web/tcp/80/10.42.0.2/8080
    numgen random mod 1 vmap { 0 : goto ep-svc-default/web/tcp/80/10.42.0.2/8080 }
  }";
        let endpoint = "\
  chain ep-svc-default/web/tcp/80/10.42.0.2/8080 {
    update @affinity-svc-default/web/tcp/80/10.42.0.2/8080/10800s { ip saddr }
    dnat ip to numgen random mod 1 map { 0 : 10.42.0.2 . 8080 }
  }";
        let set = "10.42.0.2/8080/10800s {\n    type ipv4_addr\n    flags dynamic, timeout; timeout 10800s\n  }";
        check(spec.clone(), "10.42.0.2@a", &[own, endpoint, set], &[]);
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 60}});
        check(spec, "10.42.0.2@a", &["timeout 60s", "8080/60s { ip saddr }"], &["10800"]);
    }

    #[test]
    fn the_table_says_which_plan_it_is() {
        let plan = |endpoints: &str| planned(cluster_ip(), endpoints);
        let mark = |text: String| text.lines().find(|line| line.contains("chain plan-")).map(str::to_owned);
        assert_eq!(mark(plan("10.42.0.2@a")), mark(plan("10.42.0.2@a")));
        assert!(mark(plan("10.42.0.2@a")) != mark(plan("10.42.0.3@a")));
    }

    #[test]
    fn headless_and_external_names_make_no_rules() {
        check(json!({"clusterIP": "None", "ports": [{"port": 80}]}), "10.42.0.2@a", &[], &["10.42.0.2"]);
        check(json!({"type": "ExternalName", "externalName": "example.com"}), "10.42.0.2@a", &[], &["10.42.0.2"]);
    }
}
