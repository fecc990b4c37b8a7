//! Tells the cluster where its DNS is: the Service `kube-system/kube-dns`, and one EndpointSlice for each node.
//!
//! Start at [`Announcer`]. Every node answers for its own pods, at the first address of its range; the Service's traffic
//! stays on the node, so that DNS works as long as the node does.
//!
//! Invariant: a slice belongs to its Node and goes with it.
//!
//! Not here: answering (`dns`), which addresses a node has for its pods (`node.rs`).

use std::net::Ipv4Addr;

use base::Timestamp;
use client::{Collection, Entry, Kind, Resource};
use control::{About, Key, Outcome, Reconciler, View, Write};
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kube-dns";
/// The Service's address: the tenth of the services' network, which kubelets tell their pods.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);

/// Announces DNS.
pub struct Announcer;

impl Reconciler for Announcer {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Namespace::RESOURCE, Node::RESOURCE, Service::RESOURCE, EndpointSlice::RESOURCE];
        let writes = &["services.kube-dns", "endpointslices.kube-dns"];
        About { name: "cluster-dns-controller", reads: READS, writes, everything: false }
    }

    fn keys(&self, _: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        let name = entry.meta.name.as_str();
        let node = match collection.resource.as_str() {
            "nodes" => Some(name),
            "endpointslices" if entry.meta.namespace == NAMESPACE => name.strip_prefix("kube-dns-"),
            "namespaces" if name == NAMESPACE => Some(""),
            "services" if (entry.meta.namespace.as_str(), name) == (NAMESPACE, SERVICE) => Some(""),
            _ => None,
        };
        node.map(|node| Key::new("", node)).into_iter().collect()
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Outcome {
        if key.name.is_empty() {
            return ensured::<Service>(view, SERVICE, &service(), "/spec/ports");
        }
        let Some(node) = view.get::<Node>("", &key.name).filter(|node| !node.deleting()) else {
            return Outcome::none();
        };
        let range = node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()).unwrap_or_default();
        let Some(gateway) = gateway(&range) else { return Outcome::none() };
        let slice = slice(&node, gateway);
        ensured::<EndpointSlice>(view, &format!("{SERVICE}-{}", key.name), &slice, "/endpoints")
    }
}

/// Makes the object if it is not there, and keeps this part of it as it should be.
fn ensured<T: Kind>(view: &View<'_>, name: &str, wanted: &Value, part: &str) -> Outcome {
    let Ok(object) = T::decode(wanted.to_string().as_bytes()) else { return Outcome::none() };
    let Some(known) = view.get::<T>(NAMESPACE, name) else { return Write::create(&object).or_exists().into() };
    let known_value: Value = serde_json::from_slice(&known.encode()).unwrap_or_default();
    let wanted_part = wanted.pointer(part).cloned().unwrap_or_default();
    if known_value.pointer(part) == Some(&wanted_part) {
        return Outcome::none();
    }
    let mut patch = json!({});
    api::dig::put(&mut patch, &part[1..].replace('/', "."), wanted_part);
    Write::patch(&*known, "", patch).into()
}

/// The first address of a node's range.
fn gateway(range: &str) -> Option<Ipv4Addr> {
    let base: Ipv4Addr = range.split_once('/')?.0.parse().ok()?;
    Some(Ipv4Addr::from(u32::from(base) + 1))
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": SERVICE, "namespace": NAMESPACE,
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": ADDRESS, "clusterIPs": [ADDRESS], "type": "ClusterIP", "internalTrafficPolicy": "Local",
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    })
}

fn slice(node: &Node, gateway: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{SERVICE}-{}", node.name()), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": SERVICE,
                       "endpointslice.kubernetes.io/managed-by": "dns.skerry.dev"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node.name(), "uid": node.uid()}],
        },
        "addressType": "IPv4",
        "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}],
        "endpoints": [{"addresses": [gateway], "nodeName": node.name(),
                       "conditions": {"ready": true, "serving": true, "terminating": false}}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, body, lines};

    #[test]
    fn each_node_that_has_a_range_answers() {
        let mut world = World::default();
        world.put(Node::RESOURCE, json!({"metadata": {"name": "a"}}));
        assert!(lines(&world.reconcile(&Announcer, "", "a")).is_empty());
        world.put(Node::RESOURCE, json!({"metadata": {"name": "a"}, "spec": {"podCIDR": "10.42.3.0/24"}}));
        let outcome = world.reconcile(&Announcer, "", "a");
        let made = body(&outcome, "create endpointslices.discovery.k8s.io kube-system/kube-dns-a");
        assert_eq!(made["endpoints"][0]["addresses"][0], "10.42.3.1");
        world.put(EndpointSlice::RESOURCE, made);
        assert!(lines(&world.reconcile(&Announcer, "", "a")).is_empty());
    }

    #[test]
    fn a_node_that_got_another_range_answers_there() {
        let mut world = World::default();
        let mut known = slice(&Node::default(), Ipv4Addr::new(10, 42, 9, 1));
        known["metadata"]["name"] = "kube-dns-a".into();
        world.put(EndpointSlice::RESOURCE, known);
        world.put(Node::RESOURCE, json!({"metadata": {"name": "a"}, "spec": {"podCIDR": "10.42.3.0/24"}}));
        let outcome = world.reconcile(&Announcer, "", "a");
        let patch = body(&outcome, "patch endpointslices.discovery.k8s.io kube-system/kube-dns-a");
        assert_eq!(patch["endpoints"][0]["addresses"][0], "10.42.3.1");
    }

    #[test]
    fn the_service_is_made_once() {
        let mut world = World::default();
        let made = body(&world.reconcile(&Announcer, "", ""), "create services kube-system/kube-dns");
        assert_eq!(made["spec"]["clusterIP"], "10.43.0.10");
        world.put(Service::RESOURCE, made);
        assert!(lines(&world.reconcile(&Announcer, "", "")).is_empty());
    }
}
