//! The rules of what leads to pods: Services, endpoints, Ingresses, NetworkPolicies.

use super::wrong::Wrong;
use crate::dig;
use crate::field::Path;
use crate::names;
use serde_json::{Value, json};

const SPEC: Path<'static> = Path::new("spec");
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const SLICE_ENDPOINTS_MAX: usize = 1000;
const SLICE_ADDRESSES_MAX: usize = 100;
const SLICE_PORTS_MAX: usize = 20_000;
const AFFINITY_SECONDS_MAX: i64 = 86_400;

pub(super) fn service(object: &Value, wrong: &mut Wrong) {
    let spec = dig::get(object, "spec");
    let kind = dig::text(spec, "type");
    let headless = dig::text(spec, "clusterIP") == "None";
    let ports = dig::list(spec, "ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        wrong.required(&SPEC.child("ports"), "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let rule = format!("may not be set to 'None' for {kind} services");
            wrong.invalid(&SPEC.child("clusterIPs").index(0), "None", rule);
        }
        "ExternalName" => {
            if dig::has(spec, "clusterIP") && !dig::text(spec, "clusterIP").is_empty() {
                wrong.forbidden(&SPEC.child("clusterIPs").index(0), "may not be set for ExternalName services");
            }
            let name = dig::text(spec, "externalName");
            match name {
                "" => wrong.required(&SPEC.child("externalName"), ""),
                name => {
                    let bare = name.strip_suffix('.').unwrap_or(name);
                    wrong.all(&SPEC.child("externalName"), name, names::dns1123_subdomain(bare));
                }
            }
        }
        _ => {}
    }
    service_ports(kind, ports, wrong);
    if !dig::map(spec, "selector").is_empty() {
        super::meta::labels(dig::get(spec, "selector"), &SPEC.child("selector"), &mut wrong.0);
    }
    wrong.one_of(spec, "sessionAffinity", &["ClientIP", "None"], &SPEC);
    if dig::text(spec, "sessionAffinity") == "ClientIP" {
        let at = Path::new("spec.sessionAffinityConfig.clientIP");
        let seconds = dig::int(spec, "sessionAffinityConfig.clientIP.timeoutSeconds").unwrap_or(0);
        if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) {
            let rule = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
            wrong.invalid(&at.child("timeoutSeconds"), seconds, rule);
        }
    }
    wrong.one_of(spec, "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &SPEC);
    addresses(spec, wrong);
    policies(spec, kind, wrong);
}

fn service_ports(kind: &str, ports: &[Value], wrong: &mut Wrong) {
    let at = SPEC.child("ports");
    let (mut taken_names, mut taken, mut taken_nodes) = (Vec::new(), Vec::new(), Vec::new());
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        let (name, number) = (dig::text(port, "name"), dig::int(port, "port").unwrap_or(0));
        let protocol = dig::text(port, "protocol");
        if name.is_empty() && ports.len() > 1 {
            wrong.required(&at.child("name"), "");
        } else if !name.is_empty() {
            wrong.all(&at.child("name"), name, names::dns1123_label(name));
            if taken_names.contains(&name) {
                wrong.duplicate(&at.child("name"), name);
            }
            taken_names.push(name);
        }
        wrong.all(&at.child("port"), number, names::port_number(number));
        wrong.one_of(port, "protocol", &PROTOCOLS, &at);
        let target = dig::get(port, "targetPort");
        if !target.is_null() {
            wrong.port(target, true, &at.child("targetPort"));
        }
        if taken.contains(&(number, protocol)) {
            wrong.duplicate(&at, json!({"port": number, "protocol": protocol}));
        }
        taken.push((number, protocol));
        let node = dig::int(port, "nodePort").unwrap_or(0);
        if node != 0 {
            if kind == "ClusterIP" {
                wrong.forbidden(&at.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
            wrong.all(&at.child("nodePort"), node, names::port_number(node));
            if taken_nodes.contains(&(node, protocol)) {
                wrong.duplicate(&at.child("nodePort"), node);
            }
            taken_nodes.push((node, protocol));
        }
    }
}

fn addresses(spec: &Value, wrong: &mut Wrong) {
    let at = SPEC.child("clusterIPs");
    let mut given = dig::texts(spec, "clusterIPs");
    if given.is_empty() && !dig::text(spec, "clusterIP").is_empty() {
        given.push(dig::text(spec, "clusterIP"));
    }
    for (index, address) in given.iter().enumerate() {
        if *address != "None" && !names::ip(address).is_empty() {
            wrong.all(&at.index(index), *address, names::ip(address));
        }
    }
    if given.first().is_some_and(|first| dig::text(spec, "clusterIP") != *first) {
        wrong.invalid(&at.index(0), given[0], "first value must match `clusterIP`");
    }
    let at = SPEC.child("externalIPs");
    for (index, address) in dig::texts(spec, "externalIPs").into_iter().enumerate() {
        wrong.all(&at.index(index), address, names::ip(address));
        let local = address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified());
        if local {
            wrong.invalid(&at.index(index), address, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
        }
    }
    let at = SPEC.child("loadBalancerSourceRanges");
    for (index, range) in dig::texts(spec, "loadBalancerSourceRanges").into_iter().enumerate() {
        wrong.all(&at.index(index), range, names::cidr(range.trim()));
    }
}

fn policies(spec: &Value, kind: &str, wrong: &mut Wrong) {
    wrong.one_of_if_set(spec, "externalTrafficPolicy", &["Cluster", "Local"], &SPEC);
    wrong.one_of_if_set(spec, "internalTrafficPolicy", &["Cluster", "Local"], &SPEC);
    let families = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    wrong.one_of_if_set(spec, "ipFamilyPolicy", &families, &SPEC);
    let at = SPEC.child("ipFamilies");
    for (index, family) in dig::texts(spec, "ipFamilies").into_iter().enumerate() {
        if !["IPv4", "IPv6"].contains(&family) {
            wrong.not_supported(&at.index(index), family, &["IPv4", "IPv6"]);
        }
    }
    let reachable = matches!(kind, "LoadBalancer" | "NodePort") || !dig::list(spec, "externalIPs").is_empty();
    if dig::has(spec, "externalTrafficPolicy") && !reachable {
        let policy = dig::text(spec, "externalTrafficPolicy");
        wrong.invalid(
            &SPEC.child("externalTrafficPolicy"),
            policy,
            "may only be set for externally-accessible services",
        );
    }
    let port = dig::int(spec, "healthCheckNodePort").unwrap_or(0);
    let at = SPEC.child("healthCheckNodePort");
    match kind == "LoadBalancer" && dig::text(spec, "externalTrafficPolicy") == "Local" {
        true => wrong.all(&at, port, if port == 0 { Vec::new() } else { names::port_number(port) }),
        false if port != 0 => wrong.invalid(
            &at,
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
        false => {}
    }
    if kind != "LoadBalancer" {
        for field in ["loadBalancerClass", "allocateLoadBalancerNodePorts"] {
            if dig::has(spec, field) {
                wrong.forbidden(&SPEC.child(field), "may only be used when `type` is 'LoadBalancer'");
            }
        }
    }
}

pub(super) fn service_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    let kind = |object| dig::text(object, "spec.type");
    let has_address = |object| matches!(kind(object), "ClusterIP" | "NodePort" | "LoadBalancer");
    let address = |object| dig::text(object, "spec.clusterIP");
    if has_address(new) && has_address(old) && !address(old).is_empty() && address(new) != address(old) {
        let shown = dig::get(new, "spec.clusterIPs").clone();
        wrong.invalid(&SPEC.child("clusterIPs").index(0), shown, "may not change once set");
    }
    let health = |object| dig::int(object, "spec.healthCheckNodePort").unwrap_or(0);
    if health(new) != 0 && health(old) != 0 && health(new) != health(old) {
        wrong.invalid(&SPEC.child("healthCheckNodePort"), health(new), "field is immutable");
    }
    if kind(new) == "LoadBalancer" && kind(old) == "LoadBalancer" {
        let field = "loadBalancerClass";
        if dig::text(new, "spec.loadBalancerClass") != dig::text(old, "spec.loadBalancerClass") {
            let class = dig::get(new, "spec.loadBalancerClass").clone();
            wrong.invalid(&SPEC.child(field), class, "may not change once set");
        }
    }
}

pub(super) fn endpoints(object: &Value, wrong: &mut Wrong) {
    let at = Path::new("subsets");
    for (index, subset) in dig::list(object, "subsets").iter().enumerate() {
        let at = at.index(index);
        let (ready, not) = (dig::list(subset, "addresses"), dig::list(subset, "notReadyAddresses"));
        if ready.is_empty() && not.is_empty() {
            wrong.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for (field, list) in [("addresses", ready), ("notReadyAddresses", not)] {
            let at = at.child(field);
            for (index, address) in list.iter().enumerate() {
                wrong.name(address, "ip", names::ip, &at.index(index));
            }
        }
        let ports = dig::list(subset, "ports");
        let at = at.child("ports");
        for (index, port) in ports.iter().enumerate() {
            let at = at.index(index);
            if ports.len() > 1 {
                wrong.need_text(port, "name", &at);
            }
            let number = dig::int(port, "port").unwrap_or(0);
            wrong.all(&at.child("port"), number, names::port_number(number));
            wrong.one_of(port, "protocol", &PROTOCOLS, &at);
        }
    }
}

pub(super) fn slice(object: &Value, wrong: &mut Wrong) {
    let kind = dig::text(object, "addressType");
    wrong.one_of(object, "addressType", &["FQDN", "IPv4", "IPv6"], &Path::ROOT);
    let (endpoints, at) = (dig::list(object, "endpoints"), Path::new("endpoints"));
    if endpoints.len() > SLICE_ENDPOINTS_MAX {
        return wrong.too_many(&at, endpoints.len(), SLICE_ENDPOINTS_MAX);
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let at = at.index(index);
        let (at, addresses) = (at.child("addresses"), dig::texts(endpoint, "addresses"));
        if addresses.is_empty() {
            wrong.required(&at, "must contain at least 1 address");
        } else if addresses.len() > SLICE_ADDRESSES_MAX {
            wrong.too_many(&at, addresses.len(), SLICE_ADDRESSES_MAX);
        }
        for (index, address) in addresses.into_iter().enumerate() {
            let at = at.index(index);
            match (kind, address.parse::<std::net::IpAddr>()) {
                ("FQDN", _) => wrong.all(&at, address, names::dns1123_subdomain(address)),
                ("IPv4", Ok(ip)) if ip.is_ipv4() => {}
                ("IPv6", Ok(ip)) if ip.is_ipv6() => {}
                ("IPv4", Ok(_)) => wrong.invalid(&at, address, "must be an IPv4 address"),
                ("IPv6", Ok(_)) => wrong.invalid(&at, address, "must be an IPv6 address"),
                (_, Err(_)) => wrong.all(&at, address, names::ip(address)),
                _ => {}
            }
        }
    }
    let (ports, at) = (dig::list(object, "ports"), Path::new("ports"));
    if ports.len() > SLICE_PORTS_MAX {
        return wrong.too_many(&at, ports.len(), SLICE_PORTS_MAX);
    }
    let mut taken = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        let name = dig::text(port, "name");
        wrong.text(port, "name", names::dns1123_label, &at);
        if taken.contains(&name) {
            wrong.duplicate(&at.child("name"), name);
        }
        taken.push(name);
        wrong.one_of(port, "protocol", &PROTOCOLS, &at);
    }
}

pub(super) fn slice_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    wrong.fixed(new, old, "addressType", &Path::ROOT);
}

pub(super) fn ingress(object: &Value, wrong: &mut Wrong) {
    let spec = dig::get(object, "spec");
    let rules = dig::list(spec, "rules");
    if rules.is_empty() && !dig::has(spec, "defaultBackend") {
        wrong.invalid(&SPEC, json!([]), "either `defaultBackend` or `rules` must be specified");
    }
    if dig::has(spec, "defaultBackend") {
        backend(dig::get(spec, "defaultBackend"), &SPEC.child("defaultBackend"), wrong);
    }
    let at = SPEC.child("rules");
    for (index, rule) in rules.iter().enumerate() {
        let at = at.index(index);
        host(dig::text(rule, "host"), &at.child("host"), wrong);
        if dig::has(rule, "http") {
            let at = at.child("http");
            paths(dig::list(rule, "http.paths"), &at.child("paths"), wrong);
        }
    }
    let at = SPEC.child("tls");
    for (index, tls) in dig::list(spec, "tls").iter().enumerate() {
        let at = at.index(index);
        let at = at.child("hosts");
        for (index, name) in dig::texts(tls, "hosts").into_iter().enumerate() {
            host(name, &at.index(index), wrong);
        }
    }
    wrong.text(spec, "ingressClassName", names::dns1123_subdomain, &SPEC);
}

fn host(host: &str, at: &Path, wrong: &mut Wrong) {
    if host.is_empty() {
        return;
    }
    if host.parse::<std::net::IpAddr>().is_ok() {
        wrong.invalid(at, host, "must be a DNS name, not an IP address");
    }
    let found = if host.contains('*') { names::wildcard_subdomain(host) } else { names::dns1123_subdomain(host) };
    wrong.all(at, host, found);
}

fn paths(paths: &[Value], at: &Path, wrong: &mut Wrong) {
    if paths.is_empty() {
        wrong.required(at, "");
    }
    for (index, path) in paths.iter().enumerate() {
        let at = at.index(index);
        let text = dig::text(path, "path");
        match dig::text(path, "pathType") {
            "" => wrong.required(&at.child("pathType"), "pathType must be specified"),
            "Exact" | "Prefix" if !text.starts_with('/') => {
                wrong.invalid(&at.child("path"), text, "must be an absolute path");
            }
            "Exact" | "Prefix" => {
                for bad in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|bad| text.contains(bad)) {
                    wrong.invalid(&at.child("path"), text, format!("must not contain '{bad}'"));
                }
            }
            "ImplementationSpecific" if !text.is_empty() && !text.starts_with('/') => {
                wrong.invalid(&at.child("path"), text, "must be an absolute path");
            }
            "ImplementationSpecific" => {}
            other => wrong.not_supported(&at.child("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"]),
        }
        backend(dig::get(path, "backend"), &at.child("backend"), wrong);
    }
}

fn backend(backend: &Value, at: &Path, wrong: &mut Wrong) {
    let (has_service, has_resource) = (dig::has(backend, "service"), dig::has(backend, "resource"));
    if has_service && has_resource {
        return wrong.invalid(at, "", "cannot set both resource and service backends");
    }
    if has_resource {
        return;
    }
    if !has_service {
        return wrong.required(at, "resource or service backend is required");
    }
    let (service, at) = (dig::get(backend, "service"), at.child("service"));
    wrong.name(service, "name", names::dns1035_label, &at);
    let at = at.child("port");
    match (dig::text(service, "port.name"), dig::int(service, "port.number").unwrap_or(0)) {
        ("", 0) => wrong.required(&at, "port name or number is required"),
        ("", number) => wrong.all(&at.child("number"), number, names::port_number(number)),
        (name, 0) => wrong.all(&at.child("name"), name, names::port_name(name)),
        _ => wrong.invalid(&at, "", "cannot set both port name & port number"),
    }
}

pub(super) fn ingress_class(object: &Value, wrong: &mut Wrong) {
    let controller = dig::text(object, "spec.controller");
    let at = SPEC.child("controller");
    match controller.split_once('/') {
        _ if controller.is_empty() => wrong.required(&at, ""),
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            wrong.all(&at, domain, names::dns1123_subdomain(domain));
        }
        _ => wrong.invalid(&at, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
}

pub(super) fn ingress_class_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    wrong.fixed(dig::get(new, "spec"), dig::get(old, "spec"), "controller", &SPEC);
}

pub(super) fn network_policy(object: &Value, wrong: &mut Wrong) {
    let spec = dig::get(object, "spec");
    wrong.selector(dig::get(spec, "podSelector"), &SPEC.child("podSelector"));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let at = SPEC.child(direction);
        for (index, rule) in dig::list(spec, direction).iter().enumerate() {
            let at = at.index(index);
            policy_ports(rule, &at.child("ports"), wrong);
            let at = at.child(peers);
            for (index, one) in dig::list(rule, peers).iter().enumerate() {
                peer(one, &at.index(index), wrong);
            }
        }
    }
    let (types, at) = (dig::texts(spec, "policyTypes"), SPEC.child("policyTypes"));
    if types.len() > 2 {
        wrong.invalid(&at, json!(types), "may not specify more than two policyTypes");
    }
    for (index, kind) in types.into_iter().enumerate() {
        if !["Egress", "Ingress"].contains(&kind) {
            wrong.not_supported(&at.index(index), kind, &["Egress", "Ingress"]);
        }
    }
}

fn policy_ports(rule: &Value, at: &Path, wrong: &mut Wrong) {
    for (index, port) in dig::list(rule, "ports").iter().enumerate() {
        let at = at.index(index);
        wrong.one_of_if_set(port, "protocol", &PROTOCOLS, &at);
        let (first, last) = (dig::get(port, "port"), dig::get(port, "endPort"));
        if !first.is_null() {
            wrong.port(first, true, &at.child("port"));
        }
        match (first.as_i64(), last.as_i64()) {
            (_, None) => {}
            (Some(first), Some(last)) if last < first => {
                wrong.invalid(&at.child("endPort"), last, "must be greater than or equal to `port`");
            }
            (Some(_), Some(last)) => wrong.all(&at.child("endPort"), last, names::port_number(last)),
            (None, Some(last)) if first.is_null() => {
                wrong.invalid(&at.child("endPort"), last, "must not be specified when `port` is not specified");
            }
            (None, Some(last)) => {
                wrong.invalid(&at.child("endPort"), last, "must not be specified when `port` is a string")
            }
        }
    }
}

fn peer(peer: &Value, at: &Path, wrong: &mut Wrong) {
    let mut given = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if dig::has(peer, field) {
            given += 1;
            wrong.selector(dig::get(peer, field), &at.child(field));
        }
    }
    if dig::has(peer, "ipBlock") {
        let at_block = at.child("ipBlock");
        let range = dig::text(peer, "ipBlock.cidr");
        wrong.name(dig::get(peer, "ipBlock"), "cidr", names::cidr, &at_block);
        let at_except = at_block.child("except");
        for (index, except) in dig::texts(peer, "ipBlock.except").into_iter().enumerate() {
            let at = at_except.index(index);
            match (network(range), network(except)) {
                (_, None) => wrong.all(&at, except, names::cidr(except)),
                (Some(outer), Some(inner)) if !lies_within(inner, outer) => {
                    wrong.invalid(&at, except, "must be a strict subset of `cidr`");
                }
                _ => {}
            }
        }
        if given > 0 {
            wrong.forbidden(at, "may not specify both ipBlock and another peer");
        }
        given += 1;
    }
    if given == 0 {
        wrong.required(at, "must specify a peer");
    }
}

/// First address as a number of 128 bits, length of the prefix in those bits, and whether it is v4.
fn network(text: &str) -> Option<(u128, u32, bool)> {
    let (address, length) = text.split_once('/')?;
    let length: u32 = length.parse().ok()?;
    match address.parse().ok()? {
        std::net::IpAddr::V4(ip) if length <= 32 => Some((u128::from(u32::from(ip)) << 96, length, true)),
        std::net::IpAddr::V6(ip) if length <= 128 => Some((u128::from(ip), length, false)),
        _ => None,
    }
}

fn lies_within(inner: (u128, u32, bool), outer: (u128, u32, bool)) -> bool {
    let same_prefix = (inner.0 ^ outer.0).leading_zeros() >= outer.1;
    inner.2 == outer.2 && inner.1 > outer.1 && same_prefix
}
