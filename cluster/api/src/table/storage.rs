//! The cells of storage.

use super::words::{age, either_or, name, text, text_or};
use crate::dig;
use crate::meta;
use base::Timestamp;
use serde_json::{Value, json};

/// Access modes in the short form, in upstream's order.
const MODES: [(&str, &str); 4] =
    [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];

fn modes(object: &Value, path: &str) -> String {
    let given = dig::texts(object, path);
    MODES.iter().filter(|(mode, _)| given.contains(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn phase(object: &Value) -> Value {
    if meta::is_terminating(object) { json!("Terminating") } else { text(object, "status.phase") }
}

/// The class of a volume or claim: the old annotation wins over the field.
fn class(object: &Value) -> Value {
    match meta::annotation(object, "volume.beta.kubernetes.io/storage-class") {
        Some(class) => json!(class),
        None => text(object, "spec.storageClassName"),
    }
}

pub(super) fn volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match (dig::text(object, "spec.claimRef.namespace"), dig::text(object, "spec.claimRef.name")) {
        ("", "") => String::new(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![
        name(object),
        either_or(object, "spec.capacity.storage", ""),
        json!(modes(object, "spec.accessModes")),
        text(object, "spec.persistentVolumeReclaimPolicy"),
        phase(object),
        json!(claim),
        class(object),
        text_or(object, "spec.volumeAttributesClassName", "<unset>"),
        text(object, "status.reason"),
        age(object, now),
        text_or(object, "spec.volumeMode", "<unset>"),
    ]
}

pub(super) fn claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let bound = !dig::text(object, "spec.volumeName").is_empty();
    let when_bound = |value: Value| if bound { value } else { json!("") };
    vec![
        name(object),
        phase(object),
        text(object, "spec.volumeName"),
        when_bound(either_or(object, "status.capacity.storage", "0")),
        when_bound(json!(modes(object, "status.accessModes"))),
        class(object),
        text_or(object, "spec.volumeAttributesClassName", "<unset>"),
        age(object, now),
        text_or(object, "spec.volumeMode", "<unset>"),
    ]
}

pub(super) fn storage_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let is_default =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
            .iter()
            .any(|key| meta::annotation(object, key) == Some("true"));
    let mark = if is_default { " (default)" } else { "" };
    vec![
        json!(format!("{}{mark}", meta::name(object))),
        text(object, "provisioner"),
        text_or(object, "reclaimPolicy", "Delete"),
        text_or(object, "volumeBindingMode", "Immediate"),
        json!(dig::flag(object, "allowVolumeExpansion")),
        age(object, now),
    ]
}

pub(super) fn attachment(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(object, "spec.attacher"),
        text(object, "spec.source.persistentVolumeName"),
        text(object, "spec.nodeName"),
        json!(dig::flag(object, "status.attached")),
        age(object, now),
    ]
}

pub(super) fn driver(object: &Value, now: Timestamp) -> Vec<Value> {
    let tokens: Vec<&str> =
        dig::list(object, "spec.tokenRequests").iter().map(|token| dig::text(token, "audience")).collect();
    let unset = |text: String| if text.is_empty() { "<unset>".to_owned() } else { text };
    vec![
        name(object),
        json!(dig::get(object, "spec.attachRequired").as_bool().unwrap_or(true)),
        json!(dig::flag(object, "spec.podInfoOnMount")),
        json!(dig::flag(object, "spec.storageCapacity")),
        json!(unset(tokens.join(","))),
        json!(dig::flag(object, "spec.requiresRepublish")),
        json!(unset(dig::texts(object, "spec.volumeLifecycleModes").join(","))),
        age(object, now),
    ]
}

pub(super) fn csi_node(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(dig::list(object, "spec.drivers").len()), age(object, now)]
}

pub(super) fn capacity(object: &Value, _now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "storageClassName"), either_or(object, "capacity", "<unset>")]
}

pub(super) fn attributes_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "driverName"), age(object, now)]
}
