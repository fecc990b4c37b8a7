//! What nodes may do: what a kubelet needs, for itself and the pods bound to it.
//!
//! Start at [`allows`].
//!
//! Invariants:
//! * a node writes only its own Node, Lease, CSINode, what belongs to its own pods, and notes on volumes it takes care of;
//! * a node reads only the pods bound to it, and only those Secrets, ConfigMaps and claims that one of them mentions, or owns.
//!
//! A node's service proxy, DNS and pod network speak as the node does: it holds the only key of its machine, and who has that
//! has all of the machine. So a node also reads what these need of the cluster: Services, their endpoints, and Nodes.
//!
//! Not here: what a node may write into its own objects (`admit_node.rs`).

use api::dig;
use store::Range;

use crate::authorise::Wish;
use crate::{Api, User, admit_node};

/// What every node may read.
const READS: [(&str, &str); 10] = [
    ("", "services"),
    ("", "endpoints"),
    ("", "nodes"),
    ("", "namespaces"),
    ("", "persistentvolumes"),
    ("discovery.k8s.io", "endpointslices"),
    ("node.k8s.io", "runtimeclasses"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "volumeattachments"),
];

/// What every node may create.
const CREATES: [(&str, &str); 8] = [
    ("", "events"),
    ("events.k8s.io", "events"),
    ("", "nodes"),
    ("", "pods"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("certificates.k8s.io", "certificatesigningrequests"),
    ("storage.k8s.io", "csinodes"),
];

/// Whether a node may do this; nobody but nodes is allowed anything here.
pub(crate) fn allows(api: &Api, user: &User, wish: &Wish<'_>) -> bool {
    let Some(node) = admit_node::node_of(user) else { return false };
    let what = (wish.group, wish.resource);
    match wish.verb {
        "get" | "list" | "watch" => {
            READS.contains(&what)
                || (what == ("", "pods") && (wish.on_node == node || owns_pod(api, node, wish)))
                || (what == ("certificates.k8s.io", "certificatesigningrequests") && wish.verb != "list")
                || (what == ("coordination.k8s.io", "leases") && wish.name == node)
                || (matches!(what, ("", "secrets" | "configmaps" | "persistentvolumeclaims"))
                    && mentions(api, node, wish))
                || (what == ("", "persistentvolumeclaims") && owns_claim(api, node, wish))
        }
        "create" if what == ("coordination.k8s.io", "leases") => wish.namespace == "kube-node-lease",
        "create" if what == ("", "serviceaccounts") => wish.subresource == "token" && mentions(api, node, wish),
        "create" if wish.subresource == "eviction" => owns_pod(api, node, wish),
        "create" => wish.subresource.is_empty() && CREATES.contains(&what),
        "update" | "patch" | "delete" => match what {
            ("", "pods") => owns_pod(api, node, wish),
            ("", "persistentvolumes") => wish.verb == "patch" && takes_care(api, node, wish),
            ("" | "events.k8s.io", "events") => wish.verb != "delete",
            ("", "nodes") => wish.verb != "delete" && wish.name == node,
            ("storage.k8s.io", "csinodes") | ("coordination.k8s.io", "leases") => wish.name == node,
            _ => false,
        },
        _ => false,
    }
}

/// A pod bound to the node, or none: a kubelet must see that a pod of its is gone. Creating is asked for apart from this.
fn owns_pod(api: &Api, node: &str, wish: &Wish<'_>) -> bool {
    let pod = api.object(&format!("pods/{}/{}", wish.namespace, wish.name));
    let is_one = !wish.name.is_empty() && !wish.namespace.is_empty();
    is_one && pod.is_none_or(|pod| dig::text(&pod, "spec.nodeName") == node)
}

/// The claim of an ephemeral volume of a pod bound to the node: the pod names the volume only.
fn owns_claim(api: &Api, node: &str, wish: &Wish<'_>) -> bool {
    let claim = api.object(&format!("persistentvolumeclaims/{}/{}", wish.namespace, wish.name));
    let owner = claim.as_ref().and_then(api::meta::controller).filter(|owner| owner.kind == "Pod");
    let pod = owner.and_then(|owner| {
        let pod = api.object(&format!("pods/{}/{}", wish.namespace, owner.name))?;
        (api::meta::uid(&pod) == owner.uid).then_some(pod)
    });
    pod.is_some_and(|pod| dig::text(&pod, "spec.nodeName") == node)
}

/// The volume controller asked the node to remove what a released volume holds; admission lets it change annotations only.
fn takes_care(api: &Api, node: &str, wish: &Wish<'_>) -> bool {
    let volume = api.object(&format!("persistentvolumes/{}", wish.name));
    let caretaker = volume.as_ref().and_then(|volume| api::meta::annotation(volume, "skerry.dev/caretaker"));
    wish.subresource.is_empty() && caretaker == Some(node)
}

/// A pod bound to the node mentions the object's name. Looking for the quoted name in the pod's bytes allows a little
/// more than following every field that can name an object, and cannot forget one.
fn mentions(api: &Api, node: &str, wish: &Wish<'_>) -> bool {
    if wish.name.is_empty() || wish.namespace.is_empty() {
        return false;
    }
    let range = Range { prefix: format!("pods/{}/", wish.namespace), ..Range::default() };
    let quoted = format!("\"{}\"", wish.name);
    let bound = format!("\"nodeName\":\"{node}\"");
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let pods = api.store.list(&range).map(|page| page.entries).unwrap_or_default();
    pods.iter().any(|pod| has(&pod.value, &bound) && has(&pod.value, &quoted))
}
