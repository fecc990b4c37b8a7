//! NodeRestriction: what a node may not write, although it may write the object.
//!
//! Start at [`create`], [`update`] and [`token`]; each lets everybody pass who is no node. The refusals are upstream's
//! (<https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction>, v1.36).
//!
//! Invariant: a machine that was taken over cannot draw pods, secrets or accounts of others to itself: its Node's taints and
//! the labels that administrators place workloads by are not its own to write.
//!
//! Not here: which objects a node may touch at all (`node.rs`).

use api::kinds::Kind;
use api::{dig, meta};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::status::{Named, resource_of};
use crate::{Failure, User};

/// Where labels are the administrator's.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes' own that a kubelet may set.
const OWN_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
];
/// Prefixes below which it may set any.
const OWN_PREFIXES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Signers of nodes.
const SIGNERS: [&str; 2] = ["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"];

/// The node that somebody is, if it is one.
pub(crate) fn node_of(user: &User) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|_| user.is_in("system:nodes"))
}

/// Refuses a new object that its node may not make.
pub(crate) fn create(kind: &Kind, object: &Value, user: &User) -> Result<(), Failure> {
    let Some(node) = node_of(user) else { return Ok(()) };
    let why = match (kind.group.as_ref(), kind.plural.as_ref()) {
        ("", "nodes") => new_node(object, node),
        ("", "pods") => new_pod(object, node),
        ("coordination.k8s.io", "leases") => (meta::name(object) != node)
            .then(|| "can only access lease with the same name as the requesting node".to_owned()),
        ("storage.k8s.io", "csinodes") => (meta::name(object) != node)
            .then(|| "can only access CSINode with the same name as the requesting node".to_owned()),
        ("certificates.k8s.io", "certificatesigningrequests") => request(object, user),
        _ => None,
    };
    refused(kind, object, why)
}

/// Refuses a new version of an object that its node may not make.
pub(crate) fn update(kind: &Kind, new: &Value, old: &Value, user: &User) -> Result<(), Failure> {
    let Some(node) = node_of(user) else { return Ok(()) };
    let why = match (kind.group.as_ref(), kind.plural.as_ref()) {
        ("", "nodes") => changed_node(new, old, node),
        ("", "pods") => (meta::labels(new) != meta::labels(old))
            .then(|| format!("node {node:?} cannot update labels through pod status")),
        _ => None,
    };
    refused(kind, new, why)
}

/// Refuses a node a token that is not bound to one of its pods.
pub(crate) fn token(user: &User, account: &str, bound: Option<(&str, &Value)>) -> Result<(), Failure> {
    let Some(node) = node_of(user) else { return Ok(()) };
    let why = match bound {
        Some(("Pod", pod)) if dig::text(pod, "spec.nodeName") == node => return Ok(()),
        Some(("Pod", _)) => "node requested token bound to a pod scheduled on a different node",
        _ => "node requested token not bound to a pod",
    };
    Err(Failure::forbidden(Named { group: "", resource: "serviceaccounts" }, account, why))
}

fn refused(kind: &Kind, object: &Value, why: Option<String>) -> Result<(), Failure> {
    why.map_or(Ok(()), |why| Err(Failure::forbidden(resource_of(kind), meta::name(object), &why)))
}

fn new_node(object: &Value, node: &str) -> Option<String> {
    let labels: Vec<&str> = meta::labels(object).keys().map(String::as_str).filter(|key| !may_set(key)).collect();
    match () {
        () if meta::name(object) != node => {
            Some(format!("node {node:?} is not allowed to modify node {:?}", meta::name(object)))
        }
        () if !meta::owner_references(object).is_empty() => {
            Some(format!("node {node:?} is not allowed to set ownerReferences"))
        }
        () if !labels.is_empty() => {
            Some(format!("node {node:?} is not allowed to set the following labels: {}", labels.join(", ")))
        }
        () => None,
    }
}

fn changed_node(new: &Value, old: &Value, node: &str) -> Option<String> {
    let (now, before) = (meta::labels(new), meta::labels(old));
    let touched = |key: &&String| now.get(*key) != before.get(*key) && !may_set(key);
    let mut labels: Vec<&String> = now.keys().chain(before.keys()).filter(touched).collect();
    labels.sort();
    labels.dedup();
    let owners = "metadata.ownerReferences";
    match () {
        () if dig::list(new, "spec.taints") != dig::list(old, "spec.taints") => {
            Some(format!("node {node:?} is not allowed to modify taints"))
        }
        () if dig::list(new, owners) != dig::list(old, owners) => {
            Some(format!("node {node:?} is not allowed to modify ownerReferences"))
        }
        () if !labels.is_empty() => {
            let labels: Vec<&str> = labels.into_iter().map(String::as_str).collect();
            Some(format!("is not allowed to modify labels: {}", labels.join(", ")))
        }
        () => None,
    }
}

/// Whether a node may set a label of this key: not one of the administrator's, nor one of Kubernetes' that is not a kubelet's.
fn may_set(key: &str) -> bool {
    let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
    let is_below =
        |domain: &str| prefix == domain || prefix.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    match () {
        () if is_below(RESTRICTED) => false,
        () if OWN_LABELS.contains(&key) || OWN_PREFIXES.iter().any(|own| is_below(own)) => true,
        () => !is_below("kubernetes.io") && !is_below("k8s.io"),
    }
}

fn new_pod(object: &Value, node: &str) -> Option<String> {
    let why = match () {
        () if meta::annotation(object, "kubernetes.io/config.mirror").is_none() => {
            "pod does not have \"kubernetes.io/config.mirror\" annotation, can only create mirror pods"
        }
        () if dig::text(object, "spec.nodeName") != node => "can only create pods with spec.nodeName set to itself",
        () if !dig::text(object, "spec.serviceAccountName").is_empty() => {
            "can not create pods that reference a service account"
        }
        () if refers(object) => "can not create pods that reference secrets, configmaps or persistentvolumeclaims",
        () => return None,
    };
    Some(format!("node {node:?} {why}"))
}

/// Whether a field anywhere in the pod names a Secret, a ConfigMap or a claim.
fn refers(object: &Value) -> bool {
    const FIELDS: [&str; 9] = [
        "secret",
        "secretRef",
        "secretKeyRef",
        "configMap",
        "configMapRef",
        "configMapKeyRef",
        "persistentVolumeClaim",
        "imagePullSecrets",
        "serviceAccountToken",
    ];
    match object {
        Value::Object(map) => map.iter().any(|(key, value)| FIELDS.contains(&key.as_str()) || refers(value)),
        Value::Array(list) => list.iter().any(refers),
        _ => false,
    }
}

/// A node asks for a certificate for itself alone.
fn request(object: &Value, user: &User) -> Option<String> {
    if !SIGNERS.contains(&dig::text(object, "spec.signerName")) {
        return None;
    }
    let pem = STANDARD.decode(dig::text(object, "spec.request")).ok().and_then(|pem| String::from_utf8(pem).ok());
    let name = pem.and_then(|pem| pki::requested(&pem).ok()).map(|asked| asked.name);
    (name.as_ref() != Some(&user.name)).then(|| format!("can only create a node CSR with CN={}", user.name))
}

#[cfg(test)]
mod tests {
    use api::kinds::find;
    use serde_json::json;

    use super::*;

    fn user() -> User {
        User::new("system:node:one", ["system:nodes"])
    }

    /// What node `one` is told when it makes this.
    fn made(group: &str, plural: &str, object: Value) -> String {
        let kind = find(group, "v1", plural).expect("a kind");
        create(kind, &object, &user()).err().map(|failure| failure.message).unwrap_or_default()
    }

    /// What node `one` is told when it changes its Node from this to that.
    fn changed(old: Value, new: Value) -> String {
        let kind = find("", "v1", "nodes").expect("a kind");
        update(kind, &new, &old, &user()).err().map(|failure| failure.message).unwrap_or_default()
    }

    fn labels(key: &str) -> Value {
        json!({"metadata": {"name": "one", "labels": {key: "x"}}})
    }

    #[test]
    fn a_node_makes_its_own_node_and_no_other() {
        assert_eq!(made("", "nodes", json!({"metadata": {"name": "one"}})), "");
        assert!(
            made("", "nodes", json!({"metadata": {"name": "two"}})).contains("is not allowed to modify node \"two\"")
        );
        let kind = find("", "v1", "nodes").expect("a kind");
        assert!(create(kind, &json!({"metadata": {"name": "two"}}), &User::new("admin", [])).is_ok());
    }

    #[test]
    fn some_labels_are_the_administrators() {
        for key in ["kubernetes.io/hostname", "site.example/row", "row", "x.node.kubernetes.io/y", "skerry.dev/x"] {
            assert_eq!(made("", "nodes", labels(key)), "", "{key}");
        }
        for key in ["x.node-restriction.kubernetes.io/y", "node-role.kubernetes.io/control-plane", "k8s.io/x"] {
            assert!(made("", "nodes", labels(key)).ends_with(&format!("set the following labels: {key}")), "{key}");
            assert!(changed(json!({"metadata": {}}), labels(key)).ends_with(&format!("modify labels: {key}")), "{key}");
            assert!(changed(labels(key), json!({"metadata": {}})).ends_with(&format!("modify labels: {key}")), "{key}");
            assert_eq!(changed(labels(key), labels(key)), "", "{key}");
        }
    }

    #[test]
    fn taints_are_the_administrators() {
        let tainted = json!({"metadata": {}, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
        assert!(changed(tainted.clone(), json!({"metadata": {}})).contains("is not allowed to modify taints"));
        assert_eq!(changed(tainted.clone(), tainted), "");
    }

    #[test]
    fn a_node_makes_mirror_pods_alone() {
        let mirror = json!({"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"}});
        let pod = |spec: Value| made("", "pods", json!({"metadata": mirror, "spec": spec}));
        assert!(
            made("", "pods", json!({"metadata": {}, "spec": {"nodeName": "one"}})).contains("only create mirror pods")
        );
        assert_eq!(pod(json!({"nodeName": "one"})), "");
        assert!(pod(json!({"nodeName": "two"})).contains("spec.nodeName set to itself"));
        assert!(pod(json!({"nodeName": "one", "serviceAccountName": "a"})).contains("reference a service account"));
        let volume = json!({"nodeName": "one", "volumes": [{"name": "v", "secret": {"secretName": "s"}}]});
        assert!(pod(volume).contains("reference secrets"));
    }

    #[test]
    fn a_token_is_for_a_pod_of_the_node() {
        let told = |bound| token(&user(), "a", bound).err().map(|failure| failure.message).unwrap_or_default();
        let (own, other) = (json!({"spec": {"nodeName": "one"}}), json!({"spec": {"nodeName": "two"}}));
        assert_eq!(told(Some(("Pod", &own))), "");
        assert!(told(Some(("Pod", &other))).contains("on a different node"));
        assert!(told(None).contains("not bound to a pod"));
        assert!(token(&User::new("admin", []), "a", None).is_ok());
    }
}
