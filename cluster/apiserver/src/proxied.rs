//! Requests that a kubelet, a pod or a Service answers.
//!
//! Start at [`answer`]: it says who is asked for what; the edge connects them.
//!
//! Not here: carrying bytes (`tunnel.rs`).

use api::{dig, meta};
use http::StatusCode;
use serde_json::Value;

use crate::server::{Ask, decoded};
use crate::{Api, Body, Failure, Proxied, Response, Security};

/// The kubelet's port where a node does not say.
const KUBELET_PORT: i64 = 10_250;

/// Says who answers instead of us.
pub(crate) fn answer(api: &Api, ask: &Ask) -> Result<Response, Failure> {
    let target = match (ask.kind.plural.as_ref(), ask.info.subresource.as_str()) {
        ("nodes", _) => node_proxy(api, ask)?,
        ("services", _) => service_proxy(api, ask)?,
        ("pods", "proxy") => pod_proxy(api, ask)?,
        _ => kubelet(api, ask)?,
    };
    Ok(Response { status: StatusCode::OK, content_type: "", headers: Vec::new(), body: Body::Proxied(target) })
}

/// Logs, exec, attach and port-forward: the kubelet has a path for each.
fn kubelet(api: &Api, ask: &Ask) -> Result<Proxied, Failure> {
    let pod = decoded(&api.entry(&ask.kind, &ask.info.namespace, &ask.info.name)?);
    let node = dig::text(&pod, "spec.nodeName");
    if node.is_empty() {
        return Err(Failure::bad_request(format!("pod {} does not have a host assigned", ask.info.name)));
    }
    let sub = ask.info.subresource.as_str();
    let (namespace, name) = (&ask.info.namespace, &ask.info.name);
    let path = match sub {
        "portforward" => {
            format!("/portForward/{namespace}/{name}{}", question(&passed(ask, &[("ports", "port"), ("port", "port")])))
        }
        "log" => {
            let container = container(&pod, ask)?;
            let same =
                ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
            let pairs: Vec<(&str, &str)> = same.iter().map(|key| (*key, *key)).collect();
            format!("/containerLogs/{namespace}/{name}/{container}{}", question(&passed(ask, &pairs)))
        }
        sub => {
            let container = container(&pod, ask)?;
            let mut pairs = passed(ask, &[("command", "command")]);
            for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
                if ask.query.flag(ours) {
                    pairs.push((theirs, "1".to_owned()));
                }
            }
            format!("/{sub}/{namespace}/{name}/{container}{}", question(&pairs))
        }
    };
    Ok(Proxied { address: kubelet_address(api, node)?, security: Security::Kubelet, path })
}

/// The container meant: the one named, the one annotated, or the only one.
fn container(pod: &Value, ask: &Ask) -> Result<String, Failure> {
    let lists = ["spec.containers", "spec.initContainers", "spec.ephemeralContainers"];
    let names: Vec<&str> =
        lists.iter().flat_map(|list| dig::list(pod, list)).map(|container| dig::text(container, "name")).collect();
    let asked = match ask.query.get("container") {
        "" => meta::annotation(pod, "kubectl.kubernetes.io/default-container").unwrap_or_default(),
        asked => asked,
    };
    let plain: Vec<&str> = dig::list(pod, "spec.containers").iter().map(|one| dig::text(one, "name")).collect();
    match (asked, plain.as_slice()) {
        ("", [only]) => Ok((*only).to_owned()),
        ("", _) => Err(Failure::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            ask.info.name,
            plain.join(" ")
        ))),
        (asked, _) if names.contains(&asked) => Ok(asked.to_owned()),
        (asked, _) => Err(Failure::bad_request(format!("container {asked} is not valid for pod {}", ask.info.name))),
    }
}

/// Address and port of a node's kubelet.
fn kubelet_address(api: &Api, node: &str) -> Result<String, Failure> {
    let object = api.object(&format!("nodes/{node}"));
    let object =
        object.ok_or_else(|| Failure::not_found(crate::status::Named { group: "", resource: "nodes" }, node))?;
    let addresses = dig::list(&object, "status.addresses");
    let of_type =
        |ty: &str| addresses.iter().find(|address| address["type"] == ty).map(|one| dig::text(one, "address"));
    let address = ["InternalIP", "ExternalIP", "Hostname"].iter().find_map(|ty| of_type(ty));
    let address = address.ok_or_else(|| Failure::internal(format!("node {node} has no address")))?;
    let port = dig::int(&object, "status.daemonEndpoints.kubeletEndpoint.Port").unwrap_or(KUBELET_PORT);
    Ok(format!("{address}:{port}"))
}

fn node_proxy(api: &Api, ask: &Ask) -> Result<Proxied, Failure> {
    let name = ask.info.name.split(':').next().unwrap_or_default();
    Ok(Proxied { address: kubelet_address(api, name)?, security: Security::Kubelet, path: rest(ask) })
}

fn pod_proxy(api: &Api, ask: &Ask) -> Result<Proxied, Failure> {
    let (security, name, port) = parts(&ask.info.name);
    let pod = decoded(&api.entry(&ask.kind, &ask.info.namespace, name)?);
    let address = dig::text(&pod, "status.podIP");
    if address.is_empty() {
        return Err(Failure::unavailable(format!("pod {name} has no address yet")));
    }
    let first = dig::list(&pod, "spec.containers").iter().flat_map(|one| dig::list(one, "ports")).next();
    let port = match port {
        "" => first.and_then(|port| dig::int(port, "containerPort")).unwrap_or(80).to_string(),
        port => port.to_owned(),
    };
    Ok(Proxied { address: format!("{address}:{port}"), security, path: rest(ask) })
}

fn service_proxy(api: &Api, ask: &Ask) -> Result<Proxied, Failure> {
    let (security, name, port) = parts(&ask.info.name);
    let service = decoded(&api.entry(&ask.kind, &ask.info.namespace, name)?);
    let ports = dig::list(&service, "spec.ports");
    let wanted = ports.iter().find(|one| {
        port.is_empty()
            || dig::text(one, "name") == port
            || dig::int(one, "port").is_some_and(|number| number.to_string() == port)
    });
    let wanted =
        wanted.ok_or_else(|| Failure::unavailable(format!("no service port {port:?} found for service {name:?}")))?;
    let slices = api.objects(&format!("endpointslices.discovery.k8s.io/{}/", ask.info.namespace));
    let ours = slices.iter().filter(|slice| meta::label(slice, "kubernetes.io/service-name") == Some(name));
    for slice in ours {
        let port = dig::list(slice, "ports").iter().find(|one| dig::text(one, "name") == dig::text(wanted, "name"));
        let ready = dig::list(slice, "endpoints").iter().find(|one| one["conditions"]["ready"] != false);
        if let (Some(port), Some(address)) =
            (port.and_then(|port| dig::int(port, "port")), ready.and_then(|one| one["addresses"][0].as_str()))
        {
            return Ok(Proxied { address: format!("{address}:{port}"), security, path: rest(ask) });
        }
    }
    Err(Failure::unavailable(format!("no endpoints available for service {name:?}")))
}

/// `https:name:port` taken apart; scheme and port may be missing.
fn parts(name: &str) -> (Security, &str, &str) {
    let steps: Vec<&str> = name.split(':').collect();
    match steps.as_slice() {
        [scheme, name, port] => (if *scheme == "https" { Security::Unverified } else { Security::Plain }, name, port),
        [name, port] => (Security::Plain, name, port),
        _ => (Security::Plain, name, ""),
    }
}

/// What is asked of the one behind us: the rest of the path, and the query as it came.
fn rest(ask: &Ask) -> String {
    let path = if ask.info.rest.is_empty() { "/" } else { ask.info.rest.as_str() };
    format!("{path}{}", question(&ask.query.all()))
}

/// The values of these keys, under the names the kubelet knows.
fn passed<'a>(ask: &Ask, keys: &[(&str, &'a str)]) -> Vec<(&'a str, String)> {
    keys.iter().flat_map(|(ours, theirs)| ask.query.values(ours).map(|value| (*theirs, value.to_owned()))).collect()
}

fn question(pairs: &[(&str, String)]) -> String {
    let encoded: Vec<String> = pairs.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    if encoded.is_empty() { String::new() } else { format!("?{}", encoded.join("&")) }
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_carry_scheme_and_port() {
        assert_eq!(parts("web"), (Security::Plain, "web", ""));
        assert_eq!(parts("web:8080"), (Security::Plain, "web", "8080"));
        assert_eq!(parts("https:web:"), (Security::Unverified, "web", ""));
    }

    #[test]
    fn queries_are_encoded_again() {
        assert_eq!(question(&[("command", "a b&c".into()), ("tty", "1".into())]), "?command=a%20b%26c&tty=1");
        assert_eq!(question(&[]), "");
    }
}
