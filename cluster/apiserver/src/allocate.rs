//! ClusterIPs and NodePorts, those of health checks among them: each given to one Service at a time.
//!
//! Start at [`Allocator::admit`]. What is taken is read from the stored Services at start, so nothing can leak for longer
//! than a process lives.
//!
//! Invariants:
//! * an address or port is taken before its Service is written, and given back if it is not;
//! * what a Service has it keeps until it changes type or is deleted.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::field::{FieldError, Path};
use api::kinds::Kind;
use api::{dig, meta};
use serde_json::{Value, json};
use store::{Range, Store};

use crate::Failure;
use crate::server::decoded;

/// The lowest addresses are left to Services that ask for one by number, as upstream does.
const STATIC_BAND: u32 = 256;
/// The same for ports.
const STATIC_PORTS: u16 = 86;

/// What is taken.
pub(crate) struct Allocator {
    network: u32,
    size: u32,
    ports: (u16, u16),
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    addresses: BTreeSet<u32>,
    /// Port and protocol: the same number serves TCP and UDP.
    ports: BTreeSet<(u16, String)>,
    next_address: u32,
    next_port: u16,
}

/// What a Service has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Has {
    addresses: BTreeSet<u32>,
    ports: BTreeSet<(u16, String)>,
}

/// What was taken for a write that has not happened yet: given back unless the write is kept.
#[must_use]
pub(crate) struct Held {
    taken: Arc<Mutex<Taken>>,
    if_dropped: Has,
    if_kept: Has,
}

impl Held {
    /// The write happened.
    pub(crate) fn keep(mut self) {
        self.if_dropped = std::mem::take(&mut self.if_kept);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.taken).give_back(&self.if_dropped);
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Taken {
    fn give_back(&mut self, has: &Has) {
        self.addresses.retain(|address| !has.addresses.contains(address));
        self.ports.retain(|port| !has.ports.contains(port));
    }
}

impl Allocator {
    /// Nothing is taken yet.
    pub(crate) fn new((network, prefix): (Ipv4Addr, u8), ports: (u16, u16)) -> Allocator {
        let size = 1u32.checked_shl(32 - u32::from(prefix)).unwrap_or(u32::MAX);
        Allocator { network: u32::from(network), size, ports, taken: Arc::default() }
    }

    /// Takes what the stored Services have.
    pub(crate) fn repair(&self, store: &dyn Store) {
        let range = Range { prefix: "services/".to_owned(), ..Range::default() };
        let mut taken = lock(&self.taken);
        for entry in store.list(&range).map(|page| page.entries).unwrap_or_default() {
            let has = has(&decoded(&entry));
            taken.addresses.extend(has.addresses);
            taken.ports.extend(has.ports);
        }
    }

    /// Gives a Service that is about to be written what it needs and does not have.
    pub(crate) fn admit(&self, kind: &Kind, object: &mut Value, old: Option<&Value>) -> Result<Held, Failure> {
        let mut held = Held { taken: self.taken.clone(), if_dropped: Has::default(), if_kept: Has::default() };
        if kind.plural != "services" || !kind.group.is_empty() {
            return Ok(held);
        }
        if let Some(old) = old {
            inherit(object, old);
        }
        let had = old.map(has).unwrap_or_default();
        let refused = |error: FieldError| Failure::invalid(kind, meta::name(object), &[error]);
        let mut service = object.clone();
        self.address(&mut service, &had, &mut held).map_err(refused)?;
        self.node_ports(&mut service, &had, &mut held).map_err(refused)?;
        self.health_check_port(&mut service, &had, &mut held).map_err(refused)?;
        let has = has(&service);
        held.if_kept.addresses = &had.addresses - &has.addresses;
        held.if_kept.ports = &had.ports - &has.ports;
        *object = service;
        Ok(held)
    }

    /// A Service is gone.
    pub(crate) fn release(&self, kind: &Kind, object: &Value) {
        if kind.plural == "services" && kind.group.is_empty() {
            lock(&self.taken).give_back(&has(object));
        }
    }

    fn address(&self, service: &mut Value, had: &Has, held: &mut Held) -> Result<(), FieldError> {
        let spec = dig::map_mut(service, "spec");
        if spec.get("type").and_then(Value::as_str) == Some("ExternalName") {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(field);
            }
            return Ok(());
        }
        let first = spec.get("clusterIPs").and_then(|ips| ips[0].as_str()).unwrap_or_default();
        let asked = match spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default() {
            "" => first.to_owned(),
            asked => asked.to_owned(),
        };
        let given = match asked.as_str() {
            "None" => asked,
            "" => Ipv4Addr::from(self.next_address(held)?).to_string(),
            asked => {
                self.take_address(asked, had, held)?;
                asked.to_owned()
            }
        };
        spec.insert("clusterIPs".to_owned(), json!([given]));
        spec.insert("clusterIP".to_owned(), given.into());
        spec.insert("ipFamilies".to_owned(), json!(["IPv4"]));
        spec.entry("ipFamilyPolicy").or_insert_with(|| "SingleStack".into());
        Ok(())
    }

    fn take_address(&self, asked: &str, had: &Has, held: &mut Held) -> Result<(), FieldError> {
        let spec = Path::new("spec");
        let path = spec.child("clusterIPs");
        let invalid =
            |why: &str| FieldError::invalid(&path, json!([asked]), format!("failed to allocate IP {asked}: {why}"));
        let address = asked
            .parse::<Ipv4Addr>()
            .map(u32::from)
            .map_err(|_| FieldError::invalid(&path.index(0), asked, "must be a valid IPv4 address"))?;
        if had.addresses.contains(&address) {
            return Ok(());
        }
        if address <= self.network || address >= self.network + (self.size - 1) {
            let network = Ipv4Addr::from(self.network);
            let prefix = 32 - self.size.trailing_zeros();
            return Err(invalid(&format!(
                "the provided IP is not in the valid range. The range of valid IPs is {network}/{prefix}"
            )));
        }
        if !lock(&self.taken).addresses.insert(address) {
            return Err(invalid("provided IP is already allocated"));
        }
        held.if_dropped.addresses.insert(address);
        Ok(())
    }

    fn next_address(&self, held: &mut Held) -> Result<u32, FieldError> {
        let mut taken = lock(&self.taken);
        let band = STATIC_BAND.min(self.size / 16);
        let usable = self.size.saturating_sub(2);
        for step in 0..usable {
            // Behind the static band first, round and round; then inside it.
            let offset = (band + taken.next_address + step) % usable;
            let address = self.network + 1 + offset;
            if taken.addresses.insert(address) {
                taken.next_address = (taken.next_address + step + 1) % usable;
                held.if_dropped.addresses.insert(address);
                return Ok(address);
            }
        }
        Err(FieldError::internal(
            &Path::new("spec").child("clusterIPs"),
            "failed to allocate a serviceIP: range is full",
        ))
    }

    fn node_ports(&self, service: &mut Value, had: &Has, held: &mut Held) -> Result<(), FieldError> {
        let ty = dig::text(service, "spec.type").to_owned();
        let wanted = match ty.as_str() {
            "NodePort" => true,
            "LoadBalancer" => dig::get(service, "spec.allocateLoadBalancerNodePorts") != &Value::Bool(false),
            _ => false,
        };
        let may_have = matches!(ty.as_str(), "NodePort" | "LoadBalancer");
        let spec = Path::new("spec");
        let path = spec.child("ports");
        for (index, port) in dig::items_mut(service, "spec.ports").iter_mut().enumerate() {
            let protocol = match dig::text(port, "protocol") {
                "" => "TCP",
                protocol => protocol,
            };
            let protocol = protocol.to_owned();
            match dig::int(port, "nodePort").unwrap_or(0) {
                0 if wanted => {
                    let given = self.next_port(&protocol, &path.index(index).child("nodePort"), held)?;
                    dig::put(port, "nodePort", given.into());
                }
                0 => {}
                // A ClusterIP Service has none; validation says so where a client insists.
                _ if !may_have => {}
                asked => self.take_port(asked, &protocol, &path.index(index).child("nodePort"), had, held)?,
            }
        }
        Ok(())
    }

    /// The port at which every node tells balancers whether it has endpoints of the Service.
    fn health_check_port(&self, service: &mut Value, had: &Has, held: &mut Held) -> Result<(), FieldError> {
        if !checks_health(service) {
            return Ok(());
        }
        let spec = Path::new("spec");
        let path = spec.child("healthCheckNodePort");
        match dig::int(service, "spec.healthCheckNodePort").unwrap_or(0) {
            0 => {
                let given = self.next_port("TCP", &path, held)?;
                dig::put(service, "spec.healthCheckNodePort", given.into());
                Ok(())
            }
            asked => self.take_port(asked, "TCP", &path, had, held),
        }
    }

    fn take_port(
        &self,
        asked: i64,
        protocol: &str,
        path: &Path<'_>,
        had: &Has,
        held: &mut Held,
    ) -> Result<(), FieldError> {
        let (low, high) = self.ports;
        let number = u16::try_from(asked).ok().filter(|number| (low..=high).contains(number));
        let Some(number) = number else {
            let why = format!("provided port is not in the valid range. The range of valid ports is {low}-{high}");
            return Err(FieldError::invalid(path, asked, why));
        };
        let port = (number, protocol.to_owned());
        if had.ports.contains(&port) {
            return Ok(());
        }
        if !lock(&self.taken).ports.insert(port.clone()) {
            return Err(FieldError::invalid(path, asked, "provided port is already allocated"));
        }
        held.if_dropped.ports.insert(port);
        Ok(())
    }

    fn next_port(&self, protocol: &str, path: &Path<'_>, held: &mut Held) -> Result<u16, FieldError> {
        let mut taken = lock(&self.taken);
        let (low, high) = self.ports;
        let count = high - low + 1;
        let band = STATIC_PORTS.min(count / 16);
        for step in 0..count {
            let number = low + (band + taken.next_port + step) % count;
            // A number nobody uses for any protocol: two Services never share one by chance.
            if taken.ports.range((number, String::new())..=(number, "\u{7f}".to_owned())).next().is_none() {
                taken.ports.insert((number, protocol.to_owned()));
                taken.next_port = (taken.next_port + step + 1) % count;
                held.if_dropped.ports.insert((number, protocol.to_owned()));
                return Ok(number);
            }
        }
        Err(FieldError::internal(path, "failed to allocate a nodePort: range is full"))
    }
}

fn has(service: &Value) -> Has {
    let addresses = dig::texts(service, "spec.clusterIPs").into_iter().chain([dig::text(service, "spec.clusterIP")]);
    let ports = dig::list(service, "spec.ports").iter().filter_map(|port| {
        let number = u16::try_from(dig::int(port, "nodePort")?).ok().filter(|number| *number > 0)?;
        let protocol = dig::text(port, "protocol");
        Some((number, if protocol.is_empty() { "TCP" } else { protocol }.to_owned()))
    });
    let health = checks_health(service).then(|| dig::int(service, "spec.healthCheckNodePort")).flatten();
    let health = health.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    let ports = ports.chain(health.map(|number| (number, "TCP".to_owned())));
    Has {
        addresses: addresses.filter_map(|text| text.parse::<Ipv4Addr>().ok()).map(u32::from).collect(),
        ports: ports.collect(),
    }
}

/// Whether every node has a port for the Service at which it tells whether it has endpoints.
fn checks_health(service: &Value) -> bool {
    dig::text(service, "spec.type") == "LoadBalancer" && dig::text(service, "spec.externalTrafficPolicy") == "Local"
}

/// The port of health checks stays, and goes where it is not needed any more, unless the client wrote a new one.
fn inherit_health(service: &mut Value, old: &Value) {
    let at = "spec.healthCheckNodePort";
    let before = dig::int(old, at).unwrap_or(0);
    match (checks_health(service), dig::int(service, at).unwrap_or(0)) {
        (true, 0) if before > 0 => dig::put(service, at, before.into()),
        (false, now) if now == before => drop(dig::remove(service, at)),
        _ => {}
    }
}

/// What an update does not say stays as it was: the address, and the node port of each port.
fn inherit(service: &mut Value, old: &Value) {
    inherit_health(service, old);
    let external = |service: &Value| dig::text(service, "spec.type") == "ExternalName";
    if external(service) {
        return;
    }
    if !external(old)
        && dig::text(service, "spec.clusterIP").is_empty()
        && dig::list(service, "spec.clusterIPs").is_empty()
    {
        for field in ["spec.clusterIP", "spec.clusterIPs"] {
            dig::put(service, field, dig::get(old, field).clone());
        }
    }
    if !matches!(dig::text(service, "spec.type"), "NodePort" | "LoadBalancer") {
        // A Service that stops being one gives its ports back, unless the client wrote new ones.
        let olds: Vec<i64> =
            dig::list(old, "spec.ports").iter().filter_map(|port| dig::int(port, "nodePort")).collect();
        for port in dig::items_mut(service, "spec.ports") {
            if dig::int(port, "nodePort").is_some_and(|number| olds.contains(&number)) {
                dig::remove(port, "nodePort");
            }
        }
        return;
    }
    let olds = dig::list(old, "spec.ports").to_vec();
    let key = |port: &Value| (dig::int(port, "port"), dig::text(port, "protocol").to_owned());
    for port in dig::items_mut(service, "spec.ports") {
        if dig::int(port, "nodePort").unwrap_or(0) == 0
            && let Some(before) = olds.iter().find(|before| key(before) == key(port))
        {
            dig::put(port, "nodePort", dig::get(before, "nodePort").clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind() -> &'static Kind {
        api::kinds::find("", "v1", "services").expect("services are built in")
    }

    fn allocator() -> Allocator {
        Allocator::new((Ipv4Addr::new(10, 43, 0, 0), 16), (30_000, 32_767))
    }

    fn admitted(allocator: &Allocator, mut service: Value, old: Option<&Value>) -> Result<Value, Failure> {
        let held = allocator.admit(kind(), &mut service, old)?;
        held.keep();
        Ok(service)
    }

    fn service(ty: &str, ip: &str) -> Value {
        let mut service =
            json!({"metadata": {"name": "s"}, "spec": {"type": ty, "ports": [{"port": 80, "protocol": "TCP"}]}});
        if !ip.is_empty() {
            service["spec"]["clusterIP"] = ip.into();
        }
        service
    }

    #[test]
    fn each_service_has_its_own_address_and_port() {
        let allocator = allocator();
        let one = admitted(&allocator, service("NodePort", ""), None).expect("an address");
        let two = admitted(&allocator, service("NodePort", ""), None).expect("an address");
        assert_eq!((&one["spec"]["clusterIP"], &two["spec"]["clusterIP"]), (&json!("10.43.1.1"), &json!("10.43.1.2")));
        assert_ne!(one["spec"]["ports"][0]["nodePort"], two["spec"]["ports"][0]["nodePort"]);
        assert_eq!(one["spec"]["clusterIPs"], json!(["10.43.1.1"]));
    }

    #[test]
    fn headless_and_external_services_take_nothing() {
        let allocator = allocator();
        assert_eq!(
            admitted(&allocator, service("ClusterIP", "None"), None).expect("headless")["spec"]["clusterIPs"],
            json!(["None"])
        );
        assert!(
            admitted(&allocator, service("ExternalName", ""), None).expect("external")["spec"]
                .get("clusterIP")
                .is_none()
        );
    }

    #[test]
    fn what_is_taken_is_refused_until_it_is_given_back() {
        let allocator = allocator();
        let one = admitted(&allocator, service("ClusterIP", "10.43.0.9"), None).expect("free");
        let error = admitted(&allocator, service("ClusterIP", "10.43.0.9"), None).expect_err("taken");
        assert!(error.message.contains("provided IP is already allocated"), "{error}");
        allocator.release(kind(), &one);
        admitted(&allocator, service("ClusterIP", "10.43.0.9"), None).expect("free again");
        let error = admitted(&allocator, service("ClusterIP", "10.44.0.9"), None).expect_err("foreign");
        assert!(error.message.contains("10.43.0.0/16"), "{error}");
    }

    #[test]
    fn a_local_policy_has_a_port_for_health_checks() {
        let balanced = |policy: &str| {
            let mut service = service("LoadBalancer", "");
            service["spec"]["externalTrafficPolicy"] = policy.into();
            service
        };
        let (allocator, at) = (allocator(), "spec.healthCheckNodePort");
        assert_eq!(dig::int(&admitted(&allocator, balanced("Cluster"), None).expect("no port"), at), None);
        let old = admitted(&allocator, balanced("Local"), None).expect("a port");
        let port = dig::int(&old, at).expect("a port");
        assert_ne!(Some(port), dig::int(&dig::list(&old, "spec.ports")[0], "nodePort"));
        let same = admitted(&allocator, balanced("Local"), Some(&old)).expect("the same");
        assert_eq!(dig::int(&same, at), Some(port));
        let mut other = balanced("Local");
        dig::put(&mut other, at, port.into());
        let error = admitted(&allocator, other.clone(), None).expect_err("taken");
        assert!(error.message.contains("spec.healthCheckNodePort"), "{error}");
        let mut without = same.clone();
        without["spec"]["externalTrafficPolicy"] = "Cluster".into();
        let without = admitted(&allocator, without, Some(&same)).expect("given back");
        assert_eq!(dig::int(&without, at), None);
        admitted(&allocator, other, None).expect("free again");
    }

    #[test]
    fn an_unhappy_write_gives_back() {
        let allocator = allocator();
        let mut service = service("ClusterIP", "10.43.0.9");
        drop(allocator.admit(kind(), &mut service, None).expect("free"));
        admitted(&allocator, service, None).expect("free again");
    }

    #[test]
    fn updates_keep_what_they_do_not_mention() {
        let allocator = allocator();
        let old = admitted(&allocator, service("NodePort", ""), None).expect("an address");
        let new = admitted(&allocator, service("NodePort", ""), Some(&old)).expect("the same");
        assert_eq!(new, old);
        let plain = admitted(&allocator, service("ClusterIP", ""), Some(&old)).expect("the same address");
        assert_eq!(plain["spec"]["clusterIP"], old["spec"]["clusterIP"]);
        assert!(lock(&allocator.taken).ports.is_empty());
    }
}
