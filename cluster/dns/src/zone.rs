//! The cluster's names as a value.
//!
//! Start at [`Zone::new`].
//!
//! Invariants:
//! * names are lower case, absolute, without the last dot;
//! * every name that has a descendant exists.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// How long an answer may be kept, in seconds. CoreDNS says 5 too unless told otherwise: a Service that moves should be
/// seen soon.
const TTL_SECONDS: u32 = 5;

/// What a name has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An address.
    A(Ipv4Addr),
    /// A port at another name.
    Srv {
        /// The port.
        port: u16,
        /// The name.
        target: String,
    },
    /// The name of an address.
    Ptr(String),
    /// Another name, to be asked for instead.
    Cname(String),
    /// A text.
    Txt(String),
    /// Who answers for the zone, and how long "no" may be kept.
    Soa,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// What it has.
    pub data: Data,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
}

/// All records of the cluster's domain, and the reverse ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    domain: String,
    records: BTreeMap<String, BTreeSet<Data>>,
    exists: BTreeSet<String>,
}

impl Zone {
    /// The zone of `domain` (such as `cluster.local`) for these objects.
    pub fn new(domain: &str, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Zone {
        let mut zone = Zone { domain: domain.to_ascii_lowercase(), ..Zone::default() };
        zone.add(format!("dns-version.{domain}"), Data::Txt("1.1.0".into()));
        let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
            let labels = slice.metadata.labels.as_ref();
            let service = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
            if let (Some(service), Some(namespace)) = (service, &slice.metadata.namespace) {
                by_service.entry((namespace, service)).or_default().push(slice);
            }
        }
        for service in services {
            let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
            let name = service.metadata.name.as_deref().unwrap_or_default();
            let slices = by_service.get(&(namespace, name)).map(Vec::as_slice).unwrap_or_default();
            zone.add_service(service, &format!("{name}.{namespace}.svc.{domain}"), slices);
        }
        zone
    }

    /// The domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The records of a name.
    pub fn records(&self, name: &str) -> impl Iterator<Item = Record> {
        let found = self.records.get(name).into_iter().flatten();
        found.map(|data| Record { name: name.to_owned(), data: data.clone(), ttl: TTL_SECONDS })
    }

    /// Whether there is such a name, with records of whatever type or below which others are.
    pub fn exists(&self, name: &str) -> bool {
        self.exists.contains(name)
    }

    /// The record that goes with a "no".
    pub fn soa(&self) -> Record {
        Record { name: self.domain.clone(), data: Data::Soa, ttl: TTL_SECONDS }
    }

    fn add(&mut self, name: String, data: Data) {
        let name = name.to_ascii_lowercase();
        let mut rest = name.as_str();
        while !rest.is_empty() && self.exists.insert(rest.to_owned()) {
            rest = rest.split_once('.').map_or("", |(_, rest)| rest);
        }
        self.records.entry(name).or_default().insert(data);
    }

    fn add_service(&mut self, service: &Service, name: &str, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        if spec.type_.as_deref() == Some("ExternalName") {
            if let Some(target) = &spec.external_name {
                self.add(name.to_owned(), Data::Cname(target.trim_end_matches('.').to_ascii_lowercase()));
            }
            return;
        }
        let given = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let cluster_ips: BTreeSet<Ipv4Addr> = given.filter_map(|text| text.parse().ok()).collect();
        for address in &cluster_ips {
            self.add(name.to_owned(), Data::A(*address));
            self.add(reverse(*address), Data::Ptr(name.to_owned()));
            for port in spec.ports.iter().flatten() {
                let port_name = port.name.as_deref().unwrap_or_default();
                self.add_port(name, port_name, port.protocol.as_deref(), port.port, name);
            }
        }
        if cluster_ips.is_empty() {
            slices.iter().for_each(|slice| self.add_headless(name, slice));
        }
    }

    fn add_headless(&mut self, name: &str, slice: &EndpointSlice) {
        // The controller marks endpoints of `publishNotReadyAddresses` as ready; there is no second rule here.
        let ready = |endpoint: &&Endpoint| endpoint.conditions.as_ref().is_none_or(|is| is.ready.unwrap_or(true));
        for endpoint in slice.endpoints.iter().flatten().filter(ready) {
            for address in endpoint.addresses.iter().filter_map(|text| text.parse::<Ipv4Addr>().ok()) {
                let host = endpoint.hostname.clone().unwrap_or_else(|| address.to_string().replace('.', "-"));
                let own_name = format!("{host}.{name}");
                self.add(name.to_owned(), Data::A(address));
                self.add(own_name.clone(), Data::A(address));
                if endpoint.hostname.is_some() {
                    self.add(reverse(address), Data::Ptr(own_name.clone()));
                }
                for port in slice.ports.iter().flatten() {
                    let port_name = port.name.as_deref().unwrap_or_default();
                    self.add_port(name, port_name, port.protocol.as_deref(), port.port.unwrap_or_default(), &own_name);
                }
            }
        }
    }

    fn add_port(&mut self, name: &str, port_name: &str, protocol: Option<&str>, number: i32, target: &str) {
        let Ok(port) = u16::try_from(number) else { return };
        if !port_name.is_empty() && port > 0 {
            let protocol = protocol.unwrap_or("TCP");
            self.add(format!("_{port_name}._{protocol}.{name}"), Data::Srv { port, target: target.to_owned() });
        }
    }
}

/// The name under which an address is asked back.
pub(crate) fn reverse(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}
