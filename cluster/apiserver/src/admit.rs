//! What the server adds to or refuses in an object because of other objects.
//!
//! Start at [`create`] and [`update`]: a list of plugins by upstream's names, each a function of the object and of what
//! it looks up.
//!
//! Invariant: runs after defaults and before validation, so what is added here is validated too.
//!
//! Not here: allocation (`allocate.rs`), rules that need the object alone (`api::validation`).

use api::field::Path;
use api::kinds::Kind;
use api::{FieldError, dig, meta};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::status::{Named, resource_of};
use crate::{Api, Failure, User, admit_node, admit_pod, rbac};

/// Signs any client of the API server.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Admits a new object.
pub(crate) fn create(api: &Api, kind: &Kind, object: &mut Value, user: &User) -> Result<(), Failure> {
    namespace_lifecycle(api, kind, object)?;
    admit_node::create(kind, object, user)?;
    match (kind.group.as_ref(), kind.plural.as_ref()) {
        ("", "pods") => admit_pod::create(api, kind, object)?,
        ("", "namespaces") => namespace(object),
        ("", "nodes") => taint_nodes_by_condition(object),
        ("", "persistentvolumeclaims") => {
            default_storage_class(api, object);
            protect_in_use(object, "kubernetes.io/pvc-protection");
        }
        ("", "persistentvolumes") => protect_in_use(object, "kubernetes.io/pv-protection"),
        ("networking.k8s.io", "ingresses") => default_ingress_class(api, object),
        ("certificates.k8s.io", "certificatesigningrequests") => certificate_request(kind, object, user)?,
        ("rbac.authorization.k8s.io", _) => escalation(api, kind, object, user)?,
        _ => {}
    }
    Ok(())
}

/// Admits a new version of an object.
pub(crate) fn update(api: &Api, kind: &Kind, object: &mut Value, old: &Value, user: &User) -> Result<(), Failure> {
    match (kind.group.as_ref(), kind.plural.as_ref()) {
        ("", "namespaces") => namespace_label(object),
        ("", "pods") => admit_pod::update(object, old),
        ("", "persistentvolumes") => node_notes_only(kind, object, old, user)?,
        ("rbac.authorization.k8s.io", _) => {
            let parts = ["rules", "aggregationRule", "subjects", "roleRef"];
            if parts.iter().any(|part| object.get(part) != old.get(part)) {
                escalation(api, kind, object, user)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// NamespaceLifecycle: nothing is made in a namespace that is not there or about to go.
fn namespace_lifecycle(api: &Api, kind: &Kind, object: &Value) -> Result<(), Failure> {
    if !kind.namespaced {
        return Ok(());
    }
    let name = meta::namespace(object);
    let namespaces = Named { group: "", resource: "namespaces" };
    let Some(entry) = api.store.get(&format!("namespaces/{name}")) else {
        return Err(Failure::not_found(namespaces, name));
    };
    // The bytes say it cheaper than a tree would: only a namespace that goes has the key.
    let key = b"\"deletionTimestamp\":\"";
    if entry.value.windows(key.len()).any(|window| window == key) {
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut failure = Failure::forbidden(resource_of(kind), meta::name(object), &why);
        let message = format!("namespace {name} is being terminated");
        failure.details["causes"] =
            json!([{"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"}]);
        return Err(failure);
    }
    Ok(())
}

fn namespace(object: &mut Value) {
    namespace_label(object);
    if dig::list(object, "spec.finalizers").is_empty() {
        dig::put(object, "spec.finalizers", json!(["kubernetes"]));
    }
}

/// Every namespace carries its name as a label, for selectors.
fn namespace_label(object: &mut Value) {
    let name = meta::name(object).to_owned();
    if !name.is_empty() {
        dig::map_mut(object, "metadata.labels").insert("kubernetes.io/metadata.name".to_owned(), name.into());
    }
}

/// TaintNodesByCondition: a new node takes no pods before it was seen ready.
fn taint_nodes_by_condition(object: &mut Value) {
    const NOT_READY: &str = "node.kubernetes.io/not-ready";
    let mut taints = dig::list(object, "spec.taints").to_vec();
    if !taints.iter().any(|taint| taint["key"] == NOT_READY) {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        dig::put(object, "spec.taints", taints.into());
    }
}

/// DefaultStorageClass: a claim that names no class gets the newest default one.
fn default_storage_class(api: &Api, object: &mut Value) {
    if dig::has(object, "spec.storageClassName") || !dig::text(object, "spec.volumeName").is_empty() {
        return;
    }
    let prefix = "storageclasses.storage.k8s.io/";
    if let Some(name) = newest_default(api, prefix, "storageclass.kubernetes.io/is-default-class") {
        dig::put(object, "spec.storageClassName", name.into());
    }
}

/// NodeRestriction: a node that takes care of a volume may note on it how that went, and change nothing else.
fn node_notes_only(kind: &Kind, object: &Value, old: &Value, user: &User) -> Result<(), Failure> {
    let without_notes = |object: &Value| {
        let mut bare = object.clone();
        for path in ["metadata.annotations", "metadata.managedFields", "metadata.resourceVersion"] {
            dig::remove(&mut bare, path);
        }
        bare
    };
    let is_node = user.is_in("system:nodes") && !user.is_in(crate::user::MASTERS);
    if is_node && without_notes(object) != without_notes(old) {
        let why = "a node may change only the annotations of a volume it takes care of";
        return Err(Failure::forbidden(resource_of(kind), meta::name(object), why));
    }
    Ok(())
}

/// StorageObjectInUseProtection: what is used stays until it is used no more.
fn protect_in_use(object: &mut Value, finalizer: &str) {
    let mut finalizers = dig::list(object, "metadata.finalizers").to_vec();
    if !finalizers.iter().any(|each| each == finalizer) {
        finalizers.push(finalizer.into());
        dig::put(object, "metadata.finalizers", finalizers.into());
    }
}

/// DefaultIngressClass: the same for ingresses.
fn default_ingress_class(api: &Api, object: &mut Value) {
    let is_set =
        dig::has(object, "spec.ingressClassName") || meta::annotation(object, "kubernetes.io/ingress.class").is_some();
    if is_set {
        return;
    }
    let prefix = "ingressclasses.networking.k8s.io/";
    if let Some(name) = newest_default(api, prefix, "ingressclass.kubernetes.io/is-default-class") {
        dig::put(object, "spec.ingressClassName", name.into());
    }
}

fn newest_default(api: &Api, prefix: &str, annotation: &str) -> Option<String> {
    let classes = api.objects(prefix);
    let defaults = classes.iter().filter(|class| meta::annotation(class, annotation) == Some("true"));
    let newest = defaults.max_by_key(|class| dig::text(class, "metadata.creationTimestamp"));
    newest.map(|class| meta::name(class).to_owned())
}

/// A signing request says who made it, whatever its maker wrote. Nobody asks to be one of the masters.
fn certificate_request(kind: &Kind, object: &mut Value, user: &User) -> Result<(), Failure> {
    let name = meta::name(object).to_owned();
    let asked = STANDARD.decode(dig::text(object, "spec.request")).ok().and_then(|pem| String::from_utf8(pem).ok());
    let asked = asked.ok_or_else(|| "PEM block type must be CERTIFICATE REQUEST".to_owned());
    let asked = asked.and_then(|pem| pki::requested(&pem).map_err(|error| error.to_string()));
    match asked {
        Err(why) => {
            let bad = dig::get(object, "spec.request").clone();
            return Err(Failure::invalid(kind, &name, &[FieldError::invalid(&Path::new("spec.request"), bad, why)]));
        }
        Ok(asked)
            if asked.groups.iter().any(|group| group == crate::user::MASTERS)
                && dig::text(object, "spec.signerName") == CLIENT_SIGNER =>
        {
            let why = format!("use of {CLIENT_SIGNER} signer with {} group is not allowed", crate::user::MASTERS);
            return Err(Failure::forbidden(resource_of(kind), &name, &why));
        }
        Ok(_) => {}
    }
    dig::put(object, "spec.username", user.name.as_str().into());
    dig::put(object, "spec.groups", json!(user.groups));
    dig::put(object, "spec.uid", if user.uid.is_empty() { Value::Null } else { user.uid.as_str().into() });
    dig::put(object, "spec.extra", if user.extra.is_empty() { Value::Null } else { json!(user.extra) });
    Ok(())
}

/// CertificateApproval: who decides about a request may approve for its signer.
pub(crate) fn approval(api: &Api, kind: &Kind, name: &str, user: &User) -> Result<(), Failure> {
    let Some(request) = api.object(&kind.key("", name)) else { return Ok(()) };
    let signer = dig::text(&request, "spec.signerName");
    let domain = signer.split('/').next().unwrap_or_default();
    let may = |name: &str| {
        let wish = crate::authorise::Wish {
            verb: "approve",
            group: &kind.group,
            resource: "signers",
            name,
            ..Default::default()
        };
        crate::authorise::allows(api, user, &wish)
    };
    if may(signer) || may(&format!("{domain}/*")) {
        return Ok(());
    }
    let why = format!("user not permitted to approve requests with signerName {signer:?}");
    Err(Failure::forbidden(resource_of(kind), name, &why))
}

/// Nobody gives rights they do not have, unless they may `escalate` or `bind`.
fn escalation(api: &Api, kind: &Kind, object: &Value, user: &User) -> Result<(), Failure> {
    if user.is_in(crate::user::MASTERS) {
        return Ok(());
    }
    let (namespace, name) = (meta::namespace(object), meta::name(object));
    let binds = kind.plural.ends_with("bindings");
    let (verb, resource, named) = match binds {
        false => ("escalate", kind.plural.as_ref(), name),
        true if dig::text(object, "roleRef.kind") == "Role" => ("bind", "roles", dig::text(object, "roleRef.name")),
        true => ("bind", "clusterroles", dig::text(object, "roleRef.name")),
    };
    let wish =
        crate::authorise::Wish { verb, group: &kind.group, resource, namespace, name: named, ..Default::default() };
    if crate::authorise::allows(api, user, &wish) {
        return Ok(());
    }
    let rules = match binds {
        false => Some(rbac::rules_of(object)),
        true => rbac::referred(api, namespace, &object["roleRef"]).map(|rules| rules.to_vec()),
    };
    match rules {
        // What a missing role will allow is not known, so only those who may bind it may name it.
        None => Err(Failure::not_found(Named { group: &kind.group, resource }, named)),
        Some(rules) if rbac::covers(api, user, namespace, &rules) && !dig::has(object, "aggregationRule") => Ok(()),
        Some(_) => {
            let why = format!(
                "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held",
                user.name, user.groups
            );
            Err(Failure::forbidden(resource_of(kind), name, &why))
        }
    }
}
