//! The cells of what leads to pods.

use super::words::{age, labels, name, or_none, selector, some_of, text, text_or};
use crate::dig;
use base::Timestamp;
use serde_json::{Value, json};

/// More addresses, ports or hosts than this are only counted.
const SHOWN: usize = 3;

pub(super) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let cluster_ip = dig::texts(object, "spec.clusterIPs").first().copied().unwrap_or("");
    let ports: Vec<String> = dig::list(object, "spec.ports").iter().map(service_port).collect();
    vec![
        name(object),
        text(object, "spec.type"),
        json!(or_none(cluster_ip.to_owned())),
        json!(external_ip(object)),
        json!(or_none(ports.join(","))),
        age(object, now),
        labels(object, "spec.selector"),
    ]
}

fn service_port(port: &Value) -> String {
    let (number, protocol) = (dig::int(port, "port").unwrap_or(0), dig::text(port, "protocol"));
    match dig::int(port, "nodePort").unwrap_or(0) {
        0 => format!("{number}/{protocol}"),
        node => format!("{number}:{node}/{protocol}"),
    }
}

fn external_ip(object: &Value) -> String {
    let mut addresses = balancer_addresses(object);
    let own = dig::texts(object, "spec.externalIPs").into_iter().map(str::to_owned);
    match dig::text(object, "spec.type") {
        "ClusterIP" | "NodePort" => or_none(own.collect::<Vec<_>>().join(",")),
        "LoadBalancer" => {
            addresses.extend(own);
            if addresses.is_empty() { "<pending>".to_owned() } else { addresses.join(",") }
        }
        "ExternalName" => dig::text(object, "spec.externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// Where a load balancer answers: addresses or names, sorted, each once.
fn balancer_addresses(object: &Value) -> Vec<String> {
    let address = |point: &Value| match dig::text(point, "ip") {
        "" => dig::text(point, "hostname").to_owned(),
        ip => ip.to_owned(),
    };
    let mut found: Vec<String> = dig::list(object, "status.loadBalancer.ingress").iter().map(address).collect();
    found.retain(|address| !address.is_empty());
    found.sort();
    found.dedup();
    found
}

pub(super) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut found = Vec::new();
    for subset in dig::list(object, "subsets") {
        let ips = || dig::list(subset, "addresses").iter().map(|address| dig::text(address, "ip"));
        let ports = dig::list(subset, "ports");
        if ports.is_empty() {
            found.extend(ips().map(str::to_owned));
        }
        for port in ports {
            let number = dig::int(port, "port").unwrap_or(0);
            found.extend(
                ips().map(|ip| if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }),
            );
        }
    }
    vec![name(object), json!(or_none(some_of(&found, SHOWN, ","))), age(object, now)]
}

pub(super) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let unset = |text: String| if text.is_empty() { "<unset>".to_owned() } else { text };
    let port = |port: &Value| match (dig::int(port, "port"), dig::text(port, "name")) {
        (Some(number), _) => number.to_string(),
        (None, "") => "*".to_owned(),
        (None, name) => name.to_owned(),
    };
    let ports: Vec<String> = dig::list(object, "ports").iter().map(port).collect();
    let addresses = dig::list(object, "endpoints").iter().flat_map(|one| dig::texts(one, "addresses"));
    let addresses: Vec<String> = addresses.map(str::to_owned).collect();
    vec![
        name(object),
        text(object, "addressType"),
        json!(unset(some_of(&ports, SHOWN, ","))),
        json!(unset(some_of(&addresses, SHOWN, ","))),
        age(object, now),
    ]
}

pub(super) fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
    let hosts = dig::list(object, "spec.rules").iter().map(|rule| dig::text(rule, "host").to_owned());
    let hosts: Vec<String> = hosts.filter(|host| !host.is_empty()).collect();
    let hosts = if hosts.is_empty() { "*".to_owned() } else { some_of(&hosts, SHOWN, ",") };
    let ports = if dig::list(object, "spec.tls").is_empty() { "80" } else { "80, 443" };
    vec![
        name(object),
        text_or(object, "spec.ingressClassName", "<none>"),
        json!(hosts),
        json!(balancer_addresses(object).join(",")),
        json!(ports),
        age(object, now),
    ]
}

pub(super) fn ingress_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = dig::get(object, "spec.parameters");
    let text_of = |field: &str| dig::text(parameters, field);
    let parameters = match (text_of("kind"), text_of("apiGroup")) {
        ("", _) => "<none>".to_owned(),
        (kind, "") => format!("{kind}/{}", text_of("name")),
        (kind, group) => format!("{kind}.{group}/{}", text_of("name")),
    };
    vec![name(object), text(object, "spec.controller"), json!(parameters), age(object, now)]
}

pub(super) fn network_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), selector(object, "spec.podSelector"), age(object, now)]
}

pub(super) fn ip_address(object: &Value, _now: Timestamp) -> Vec<Value> {
    let part = |field: &str| dig::text(dig::get(object, "spec.parentRef"), field);
    let resource =
        [part("resource"), part("group")].iter().filter(|one| !one.is_empty()).copied().collect::<Vec<_>>().join(".");
    let place = [resource.as_str(), part("namespace"), part("name")];
    let parent: Vec<&str> = place.into_iter().filter(|one| !one.is_empty()).collect();
    vec![name(object), json!(or_none(parent.join("/")))]
}

pub(super) fn service_cidr(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(dig::texts(object, "spec.cidrs").join(",")), age(object, now)]
}
