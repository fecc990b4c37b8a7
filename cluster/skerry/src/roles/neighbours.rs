//! Which other nodes may have an image: what `oci` asks before, or instead of, a registry.
//!
//! Start at [`finder`].
//!
//! Invariant: nothing is waited for; nodes that are not known yet are not asked.
//!
//! Not here: asking (`oci`), answering (`kubelet`).

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use client::Caches;
use k8s_openapi::api::core::v1::Node;
use kubelet::Live;
use oci::{Finder, Identity, Peer, Reference};

/// Finds other nodes by their Node objects.
pub(super) fn finder(own: &str, caches: &Caches, identity: Live<Option<Identity>>) -> Finder {
    let (own, nodes) = (own.to_owned(), caches.of::<Node>());
    Arc::new(move |name| {
        let identity = identity.borrow().clone()?;
        Some((likeliest(&nodes.list::<Node>(None), &own, name), identity))
    })
}

/// Nodes that say that they have the image first; a Node names only so many, and says so a little late. Those that are ready
/// before those that are not. Otherwise each node has an order of its own, so that not all ask the same one.
fn likeliest(nodes: &[Arc<Node>], own: &str, name: &Reference) -> Vec<Peer> {
    let mut found: Vec<(bool, bool, u64, Peer)> = Vec::new();
    for node in nodes {
        let Some(peer) = peer(node).filter(|peer| peer.node != own) else { continue };
        let order = BuildHasherDefault::<DefaultHasher>::default().hash_one((own, &peer.node));
        found.push((!lists(node, name), !is_ready(node), order, peer));
    }
    found.sort_by(|one, other| (one.0, one.1, one.2).cmp(&(other.0, other.1, other.2)));
    found.into_iter().map(|(.., peer)| peer).collect()
}

fn peer(node: &Node) -> Option<Peer> {
    let status = node.status.as_ref()?;
    let mut internal = status.addresses.iter().flatten().filter(|address| address.type_ == "InternalIP");
    let address: IpAddr = internal.find_map(|address| address.address.parse().ok())?;
    let endpoint = status.daemon_endpoints.as_ref().and_then(|endpoints| endpoints.kubelet_endpoint.as_ref());
    let port = endpoint.and_then(|endpoint| u16::try_from(endpoint.port).ok()).unwrap_or(kubelet::options::PORT);
    Some(Peer { node: node.metadata.name.clone()?, address: SocketAddr::new(address, port) })
}

fn lists(node: &Node, name: &Reference) -> bool {
    let wanted = name.digest.as_ref().map(|digest| name.with_digest(digest)).or(name.tagged());
    let images = node.status.iter().flat_map(|status| status.images.iter().flatten());
    images.flat_map(|image| image.names.iter().flatten()).any(|name| Some(name) == wanted.as_ref())
}

fn is_ready(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, address: &str, ready: &str, images: &[&str]) -> Arc<Node> {
        let node = json!({
            "metadata": {"name": name},
            "status": {
                "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}],
                "conditions": [{"type": "Ready", "status": ready}],
                "images": [{"names": images}],
            },
        });
        Arc::new(serde_json::from_value(node).expect("a node"))
    }

    #[test]
    fn who_has_it_is_asked_first_and_who_is_not_ready_last() {
        let nodes = [
            node("away", "10.0.0.1", "Unknown", &[]),
            node("here", "10.0.0.2", "True", &["docker.io/library/a:1"]),
            node("ready", "10.0.0.3", "True", &["docker.io/library/a:2"]),
            node("holder", "10.0.0.4", "True", &["docker.io/library/a:1"]),
            node("nowhere", "", "True", &["docker.io/library/a:1"]),
        ];
        let found = likeliest(&nodes, "here", &"a:1".parse().expect("a name"));
        let names: Vec<&str> = found.iter().map(|peer| peer.node.as_str()).collect();
        assert_eq!(names, ["holder", "ready", "away"]);
        assert_eq!(found[0].address.to_string(), "10.0.0.4:10250");
    }
}
