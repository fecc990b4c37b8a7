//! What the server itself changes in an object on its way in: status, generation, the fields a client may not set.
//!
//! Start at [`prepare_create`] and [`prepare_update`], called after defaulting and before validation. When a new object
//! has got its uid, [`finish_create`] adds what follows from that.
//!
//! Invariants:
//! * a client never writes the status through the object, nor the object through the status;
//! * the generation grows by one exactly when what the user asks for changes, see [`GENERATIONS`].
//!
//! Not here: name, uid, creationTimestamp and resourceVersion of a new object (`apiserver` and the store stamp them),
//! addresses and ports (the allocator), the generation of an object whose deletion begins (`apiserver`).

mod kinds;

use crate::check;
use crate::dig;
use crate::kinds::Kind;
use crate::meta;
use crate::schema::{Presence, Ty, TypeRef};
use serde_json::{Map, Value, json};

/// Metadata that only the server writes.
const SERVER_FIELDS: [&str; 5] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"];

/// Built-in kinds with a generation, by group and plural, and the fields whose change raises it. Custom resources all
/// have one; any field outside metadata and status raises it.
const GENERATIONS: &[(&str, &str, &[&str])] = &[
    ("", "pods", &["spec"]),
    ("", "podtemplates", &["template"]),
    ("", "replicationcontrollers", &["spec"]),
    ("apps", "deployments", &["spec", "metadata.annotations"]),
    ("apps", "replicasets", &["spec"]),
    ("apps", "statefulsets", &["spec"]),
    ("apps", "daemonsets", &["spec"]),
    ("batch", "jobs", &["spec"]),
    ("batch", "cronjobs", &["spec"]),
    ("policy", "poddisruptionbudgets", &["spec"]),
    ("networking.k8s.io", "ingresses", &["spec"]),
    ("networking.k8s.io", "ingressclasses", &["spec"]),
    ("networking.k8s.io", "networkpolicies", &["spec"]),
    ("discovery.k8s.io", "endpointslices", &["addressType", "endpoints", "ports", "metadata.labels"]),
    ("scheduling.k8s.io", "priorityclasses", &[]),
    ("apiextensions.k8s.io", "customresourcedefinitions", &["spec"]),
    ("flowcontrol.apiserver.k8s.io", "flowschemas", &["spec"]),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", &["spec"]),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", &["webhooks"]),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", &["webhooks"]),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", &["spec"]),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", &["spec"]),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies", &["spec"]),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings", &["spec"]),
];

/// Readies a new object: what a client cannot set is dropped, the status is emptied, the generation starts at 1.
pub fn prepare_create(kind: &Kind, object: &mut Value) {
    let metadata = meta::metadata_mut(object);
    for field in SERVER_FIELDS {
        metadata.remove(field);
    }
    metadata.remove("resourceVersion");
    metadata.remove("generation");
    if has_generation(kind) {
        metadata.insert("generation".to_owned(), json!(1));
    }
    if has_status(kind) && !keeps_first_status(kind) {
        empty_status(kind, object);
    }
    kinds::create(kind, object);
}

/// Adds to a new object what follows from its uid: a Job selects its pods by it.
pub fn finish_create(kind: &Kind, object: &mut Value) {
    kinds::finish(kind, object);
}

/// Readies `new` to take the place of `old`: by a write to the object itself, or to the named subresource.
pub fn prepare_update(kind: &Kind, new: &mut Value, old: &Value, subresource: Option<&str>) {
    // Who manages what is noted of every write, whatever else it may not change.
    let managers = subresource.and_then(|_| dig::remove(new, "metadata.managedFields"));
    match subresource {
        Some("status") => only_status(kind, new, old),
        Some("approval") => only(new, old, &["status.conditions"]),
        Some("ephemeralcontainers") => only(new, old, &["spec.ephemeralContainers"]),
        Some("resize") => kinds::only_resources(new, old),
        // Binding a pod is one write of its node and of the condition that says so.
        Some("binding") => {}
        _ if has_status(kind) => dig::put(new, "status", old["status"].clone()),
        _ => {}
    }
    if subresource.is_some() {
        dig::put(new, "metadata.managedFields", managers.unwrap_or_default());
    }
    for field in SERVER_FIELDS.iter().chain(&["generation"]) {
        let kept = dig::get(&old["metadata"], field).clone();
        dig::put(new, &format!("metadata.{field}"), kept);
    }
    kinds::update(kind, new, old, subresource);
    if !matches!(subresource, Some("status" | "binding")) && is_new_generation(kind, new, old) {
        dig::put(new, "metadata.generation", json!(meta::generation(old) + 1));
    }
}

/// Brings an object into the form in which it is kept, before anybody notes whose its fields are: what is for writing only
/// becomes what it stands for.
pub fn settle(kind: &Kind, object: &mut Value) {
    if kind.group.is_empty() && kind.plural == "secrets" {
        kinds::fold_string_data(object);
    }
}

/// The fields that a write cannot change, by the names that lead to them: whoever writes them does not become their
/// manager (upstream's `GetResetFields`).
pub fn reset_fields(kind: &Kind, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
    match subresource {
        None if has_status(kind) => &[&["status"]],
        Some("finalize") => &[&["status"]],
        Some("status") if is_custom(kind) => &[&["metadata"], &["spec"]],
        Some("status") if kind.plural == "deployments" => &[&["spec"], &["metadata", "labels"]],
        Some("status") if kind.plural == "pods" => {
            &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]]
        }
        Some("status" | "approval") => &[&["spec"]],
        Some("ephemeralcontainers" | "resize") => &[&["metadata"], &["status"]],
        _ => &[],
    }
}

fn is_custom(kind: &Kind) -> bool {
    matches!(kind.ty, TypeRef::Own(_))
}

fn generation_fields(kind: &Kind) -> Option<&'static [&'static str]> {
    let row = GENERATIONS.iter().find(|(group, plural, _)| *plural == kind.plural && *group == kind.group);
    row.map(|(_, _, fields)| *fields)
}

fn has_generation(kind: &Kind) -> bool {
    is_custom(kind) || generation_fields(kind).is_some()
}

fn is_new_generation(kind: &Kind, new: &Value, old: &Value) -> bool {
    if is_custom(kind) {
        let mut asked = [new.clone(), old.clone()];
        for side in &mut asked {
            dig::remove(side, "metadata");
            if has_status(kind) {
                dig::remove(side, "status");
            }
        }
        return asked[0] != asked[1];
    }
    let fields = generation_fields(kind).unwrap_or(&[]);
    fields.iter().any(|field| !dig::same(dig::get(new, field), dig::get(old, field)))
}

fn has_status(kind: &Kind) -> bool {
    kind.subresource("status").is_some()
}

/// A kubelet brings its node's first status along.
fn keeps_first_status(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "nodes"
}

/// Leaves the status that a Go server would write for an empty one.
fn empty_status(kind: &Kind, object: &mut Value) {
    dig::remove(object, "status");
    let Some(field) = kind.schema().field("status") else { return };
    if let (Ty::Object(ty), Presence::Always) = (&field.ty, field.presence) {
        let mut empty = Value::Object(Map::new());
        check::structure_as(ty, &mut empty, check::Mode::Whole);
        dig::put(object, "status", empty);
    }
}

/// Keeps `old` but for these fields of `new`.
fn only(new: &mut Value, old: &Value, fields: &[&str]) {
    let mut kept = old.clone();
    for field in fields {
        dig::put(&mut kept, field, dig::get(new, field).clone());
    }
    dig::put(&mut kept, "metadata.resourceVersion", dig::get(new, "metadata.resourceVersion").clone());
    *new = kept;
}

/// A status write changes the status; of a built-in kind also metadata, because kubelets annotate their nodes so. It
/// never changes owners: old kubelets garble them.
fn only_status(kind: &Kind, new: &mut Value, old: &Value) {
    let metadata = new["metadata"].clone();
    only(new, old, &["status"]);
    if !is_custom(kind) {
        dig::put(new, "metadata", metadata);
        dig::put(new, "metadata.ownerReferences", dig::get(old, "metadata.ownerReferences").clone());
        if kind.group == "apps" && kind.plural == "deployments" {
            dig::put(new, "metadata.labels", dig::get(old, "metadata.labels").clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds as all_kinds;

    fn kind(api_version: &str, kind: &str) -> &'static Kind {
        let (group, version) = all_kinds::split_api_version(api_version);
        all_kinds::find_kind(group, version, kind).unwrap_or_else(|| panic!("no kind {kind}"))
    }

    fn read(text: &str) -> Value {
        serde_json::from_str(&text.replace('\'', "\"")).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn created(version: &str, name: &str, given: &str, path: &str, want: &str) {
        let mut object = read(given);
        settle(kind(version, name), &mut object);
        prepare_create(kind(version, name), &mut object);
        dig::put(&mut object, "metadata.uid", json!("u"));
        finish_create(kind(version, name), &mut object);
        assert_eq!(dig::get(&object, path).to_string().replace('"', "'"), want, "{path} of {object}");
    }

    #[test]
    fn new_objects_start_afresh() {
        let labels = "{'batch.kubernetes.io/controller-uid':'u','batch.kubernetes.io/job-name':'j','controller-uid':'u','job-name':'j'}";
        for (version, name, given, path, want) in [
            ("apps/v1", "Deployment", "{'spec':{},'status':{'replicas':3}}", "status", "{}"),
            (
                "apps/v1",
                "Deployment",
                "{'metadata':{'generation':7,'deletionTimestamp':'x'}}",
                "metadata",
                "{'generation':1,'uid':'u'}",
            ),
            ("v1", "ConfigMap", "{'metadata':{'generation':7}}", "metadata.generation", "null"),
            ("v1", "Node", "{'status':{'phase':'x'}}", "status", "{'phase':'x'}"),
            ("v1", "Pod", "{'spec':{'containers':[{}]}}", "status", "{'phase':'Pending','qosClass':'BestEffort'}"),
            (
                "v1",
                "Pod",
                "{'spec':{'containers':[{'resources':{'limits':{'cpu':'1','memory':'1Gi'},'requests':{'cpu':'1','memory':'1Gi'}}}]}}",
                "status.qosClass",
                "'Guaranteed'",
            ),
            (
                "v1",
                "Pod",
                "{'spec':{'containers':[{'resources':{'requests':{'cpu':'1'}}},{}]}}",
                "status.qosClass",
                "'Burstable'",
            ),
            ("v1", "Namespace", "{'spec':{}}", "spec.finalizers", "['kubernetes']"),
            ("v1", "Namespace", "{}", "status", "{'phase':'Active'}"),
            ("v1", "Secret", "{'stringData':{'a':'hi'}}", "data", "{'a':'aGk='}"),
            ("v1", "Secret", "{'stringData':{'a':'hi'}}", "stringData", "null"),
            ("v1", "PersistentVolumeClaim", "{'spec':{}}", "status", "{'phase':'Pending'}"),
            ("apps/v1", "DaemonSet", "{}", "metadata.annotations", "{'deprecated.daemonset.template.generation':'1'}"),
            (
                "batch/v1",
                "Job",
                "{'metadata':{'name':'j'},'spec':{'template':{'metadata':{'labels':{}}}}}",
                "spec.template.metadata.labels",
                labels,
            ),
            (
                "batch/v1",
                "Job",
                "{'metadata':{'name':'j'},'spec':{}}",
                "spec.selector",
                "{'matchLabels':{'batch.kubernetes.io/controller-uid':'u'}}",
            ),
            (
                "batch/v1",
                "Job",
                "{'metadata':{'name':'j'},'spec':{'manualSelector':true,'selector':{}}}",
                "spec.selector",
                "{}",
            ),
        ] {
            created(version, name, given, path, want);
        }
    }

    fn updated(version: &str, name: &str, subresource: Option<&str>, old: &str, new: &str, want: &str) {
        let mut object = read(new);
        prepare_update(kind(version, name), &mut object, &read(old), subresource);
        assert_eq!(object.to_string().replace('"', "'"), want, "{old} -> {new}");
    }

    #[test]
    fn status_and_spec_are_written_apart() {
        let old = "{'metadata':{'generation':1,'uid':'u'},'spec':{'replicas':1},'status':{'replicas':1}}";
        let new = "{'metadata':{'generation':9,'labels':{'a':'b'}},'spec':{'replicas':2},'status':{'replicas':2}}";
        updated(
            "apps/v1",
            "ReplicaSet",
            None,
            old,
            new,
            "{'metadata':{'generation':2,'labels':{'a':'b'},'uid':'u'},'spec':{'replicas':2},'status':{'replicas':1}}",
        );
        updated(
            "apps/v1",
            "ReplicaSet",
            Some("status"),
            old,
            new,
            "{'metadata':{'generation':1,'labels':{'a':'b'},'uid':'u'},'spec':{'replicas':1},'status':{'replicas':2}}",
        );
        updated(
            "apps/v1",
            "Deployment",
            Some("status"),
            old,
            new,
            "{'metadata':{'generation':1,'uid':'u'},'spec':{'replicas':1},'status':{'replicas':2}}",
        );
        updated(
            "apps/v1",
            "Deployment",
            None,
            old,
            "{'metadata':{'annotations':{'a':'b'}},'spec':{'replicas':1}}",
            "{'metadata':{'annotations':{'a':'b'},'generation':2,'uid':'u'},'spec':{'replicas':1},'status':{'replicas':1}}",
        );
        updated(
            "v1",
            "ConfigMap",
            None,
            "{'metadata':{},'data':{'a':'1'}}",
            "{'metadata':{},'data':{'a':'2'}}",
            "{'data':{'a':'2'},'metadata':{}}",
        );
    }

    #[test]
    fn subresources_change_only_their_own() {
        updated(
            "v1",
            "Pod",
            Some("binding"),
            "{'metadata':{'generation':1},'spec':{},'status':{'phase':'Pending'}}",
            "{'metadata':{},'spec':{'nodeName':'b'},'status':{'conditions':[],'phase':'Pending'}}",
            "{'metadata':{'generation':1},'spec':{'nodeName':'b'},'status':{'conditions':[],'phase':'Pending'}}",
        );
        updated(
            "v1",
            "Pod",
            Some("ephemeralcontainers"),
            "{'metadata':{'generation':1},'spec':{'nodeName':'a'}}",
            "{'metadata':{'labels':{'x':'y'}},'spec':{'nodeName':'b','ephemeralContainers':[{'name':'d'}]}}",
            "{'metadata':{'generation':2},'spec':{'ephemeralContainers':[{'name':'d'}],'nodeName':'a'}}",
        );
        updated(
            "v1",
            "Namespace",
            Some("finalize"),
            "{'spec':{'finalizers':['kubernetes']},'status':{'phase':'Terminating'}}",
            "{'metadata':{},'spec':{}}",
            "{'metadata':{},'spec':{},'status':{'phase':'Terminating'}}",
        );
        updated(
            "v1",
            "Namespace",
            None,
            "{'metadata':{},'spec':{'finalizers':['kubernetes']}}",
            "{'metadata':{},'spec':{}}",
            "{'metadata':{},'spec':{'finalizers':['kubernetes']}}",
        );
    }
}
