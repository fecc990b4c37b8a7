//! What single kinds need beside the general rule.
//!
//! Start at [`create`], [`finish`] and [`update`].

use crate::dig;
use crate::kinds::Kind;
use crate::meta;
use crate::quantity::Quantity;
use base64::Engine;
use serde_json::{Map, Value, json};

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(super) fn create(kind: &Kind, object: &mut Value) {
    match (kind.group.as_ref(), kind.plural.as_ref()) {
        ("", "pods") => {
            // A pod cannot ask to be gone before it was asked to go.
            if dig::int(object, "spec.terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
                dig::put(object, "spec.terminationGracePeriodSeconds", json!(1));
            }
            dig::put(object, "status", json!({"phase": "Pending", "qosClass": qos_class(object)}));
        }
        ("", "namespaces") => namespace(object),
        ("", "persistentvolumes") => dig::put(object, "status.phase", json!("Pending")),
        ("", "persistentvolumeclaims") => claim(object),
        ("apps", "daemonsets") => set_template_generation(object, 1),
        ("apiextensions.k8s.io", "customresourcedefinitions") => note_storage_version(object),
        _ => {}
    }
}

pub(super) fn finish(kind: &Kind, object: &mut Value) {
    if kind.group == "batch" && kind.plural == "jobs" {
        select_by_uid(object);
    }
}

pub(super) fn update(kind: &Kind, new: &mut Value, old: &Value, subresource: Option<&str>) {
    match (kind.group.as_ref(), kind.plural.as_ref(), subresource) {
        ("", "namespaces", None) => dig::put(new, "spec.finalizers", dig::get(old, "spec.finalizers").clone()),
        ("", "pods", Some("status")) if dig::has(old, "status.qosClass") => {
            dig::put(new, "status.qosClass", dig::get(old, "status.qosClass").clone());
        }
        ("certificates.k8s.io", "certificatesigningrequests", _) => dig::put(new, "spec", old["spec"].clone()),
        ("", "persistentvolumeclaims", None) => normalise_source(new),
        ("apps", "daemonsets", None) => {
            let last = meta::annotation(old, TEMPLATE_GENERATION).and_then(|text| text.parse().ok()).unwrap_or(1);
            let changed = !dig::same(dig::get(new, "spec.template"), dig::get(old, "spec.template"));
            set_template_generation(new, last + i64::from(changed));
        }
        ("apiextensions.k8s.io", "customresourcedefinitions", None) => note_storage_version(new),
        _ => {}
    }
}

/// Keeps `old` but for the resources of the containers that both have.
pub(super) fn only_resources(new: &mut Value, old: &Value) {
    let mut kept = old.clone();
    for list in ["spec.containers", "spec.initContainers"] {
        for container in dig::items_mut(&mut kept, list) {
            let wanted = dig::list(new, list).iter().find(|one| one["name"] == container["name"]);
            if let Some(wanted) = wanted {
                dig::put(container, "resources", wanted["resources"].clone());
                dig::put(container, "resizePolicy", wanted["resizePolicy"].clone());
            }
        }
    }
    *new = kept;
}

/// How much a pod is promised, which decides who goes first when memory runs out.
fn qos_class(pod: &Value) -> &'static str {
    let whole = dig::get(pod, "spec.resources");
    let parts: Vec<&Value> = match whole {
        Value::Null => ["spec.containers", "spec.initContainers"]
            .iter()
            .flat_map(|list| dig::list(pod, list))
            .map(|container| dig::get(container, "resources"))
            .collect(),
        whole => vec![whole],
    };
    let amount = |part: &Value, side: &str, resource: &str| {
        let found = dig::map(part, side).get(resource).and_then(|value| Quantity::from_json(value).ok());
        found.filter(|quantity| !quantity.is_zero())
    };
    let resources = ["cpu", "memory"];
    let asks = |part: &&Value| {
        resources.iter().any(|one| amount(part, "requests", one).is_some() || amount(part, "limits", one).is_some())
    };
    let is_guaranteed = |part: &&Value| {
        resources.iter().all(|one| {
            let limit = amount(part, "limits", one);
            limit.is_some() && amount(part, "requests", one).is_none_or(|request| Some(request) == limit)
        })
    };
    match () {
        () if !parts.iter().any(asks) => "BestEffort",
        () if parts.iter().all(is_guaranteed) => "Guaranteed",
        () => "Burstable",
    }
}

/// A namespace stays until its content is gone.
fn namespace(object: &mut Value) {
    let mut finalizers: Vec<Value> = dig::list(object, "spec.finalizers").to_vec();
    if !finalizers.contains(&json!("kubernetes")) {
        finalizers.push(json!("kubernetes"));
    }
    dig::put(object, "spec.finalizers", Value::Array(finalizers));
    dig::put(object, "status", json!({"phase": "Active"}));
}

/// `stringData` is for writing only: it ends up in `data`.
pub(super) fn fold_string_data(secret: &mut Value) {
    let Some(Value::Object(plain)) = dig::remove(secret, "stringData") else { return };
    if plain.is_empty() {
        return;
    }
    let data = dig::map_mut(secret, "data");
    for (key, value) in plain {
        let bytes = value.as_str().unwrap_or("").as_bytes();
        data.insert(key, json!(base64::engine::general_purpose::STANDARD.encode(bytes)));
    }
}

fn claim(object: &mut Value) {
    dig::put(object, "status", json!({"phase": "Pending"}));
    normalise_source(object);
}

/// The old and the new field for a claim's source say the same, unless the source lies in another namespace.
fn normalise_source(claim: &mut Value) {
    let (old, new) = (dig::get(claim, "spec.dataSource").clone(), dig::get(claim, "spec.dataSourceRef").clone());
    match (old.is_null(), new.is_null()) {
        (false, true) => dig::put(claim, "spec.dataSourceRef", old),
        (true, false) if dig::text(&new, "namespace").is_empty() => dig::put(claim, "spec.dataSource", new),
        _ => {}
    }
}

fn set_template_generation(object: &mut Value, generation: i64) {
    dig::map_mut(object, "metadata.annotations").insert(TEMPLATE_GENERATION.to_owned(), json!(generation.to_string()));
}

/// Every version that was ever the storage version is remembered until somebody says that nothing is stored in it.
fn note_storage_version(definition: &mut Value) {
    let versions = dig::list(definition, "spec.versions");
    let storage = versions.iter().find(|version| dig::flag(version, "storage")).map(|version| version["name"].clone());
    let mut stored = dig::list(definition, "status.storedVersions").to_vec();
    if let Some(storage) = storage
        && !stored.contains(&storage)
    {
        stored.push(storage);
        dig::put(definition, "status.storedVersions", Value::Array(stored));
    }
}

/// Unless told otherwise a Job selects its pods by its own uid, and its pods carry that uid and its name.
fn select_by_uid(job: &mut Value) {
    if dig::flag(job, "spec.manualSelector") {
        return;
    }
    let (uid, name) = (meta::uid(job).to_owned(), meta::name(job).to_owned());
    let labels = dig::map_mut(job, "spec.template.metadata.labels");
    for (key, value) in [
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        labels.entry(key).or_insert_with(|| json!(value));
    }
    let mut selector = dig::get(job, "spec.selector").as_object().cloned().unwrap_or_else(Map::new);
    let matched = selector.entry("matchLabels").or_insert_with(|| json!({}));
    if let Value::Object(matched) = matched {
        matched.entry("batch.kubernetes.io/controller-uid").or_insert_with(|| json!(uid));
    }
    dig::put(job, "spec.selector", Value::Object(selector));
}
