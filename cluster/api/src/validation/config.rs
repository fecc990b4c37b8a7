//! The rules of what holds data and identities: ConfigMaps, Secrets, Namespaces, Nodes, Leases, Events.

use super::wrong::{IMMUTABLE, Wrong};
use crate::dig;
use crate::field::Path;
use crate::meta;
use crate::names;
use base64::Engine;
use serde_json::Value;

/// A Secret or ConfigMap holds at most this much.
pub const DATA_BYTES_MAX: usize = 1024 * 1024;
const WHEN_IMMUTABLE: &str = "field is immutable when `immutable` is set";
const REDACTED: &str = "<secret contents redacted>";
const SPEC: Path<'static> = Path::new("spec");

pub(super) fn config_map(object: &Value, wrong: &mut Wrong) {
    let (data, binary) = (dig::map(object, "data"), dig::map(object, "binaryData"));
    let mut bytes = 0;
    for (key, value) in data {
        let at = Path::new("data");
        wrong.all(&at.key(key), key.as_str(), names::config_key(key));
        if binary.contains_key(key) {
            wrong.invalid(&at.key(key), key.as_str(), "duplicate of key present in binaryData");
        }
        bytes += value.as_str().map_or(0, str::len);
    }
    for (key, value) in binary {
        wrong.all(&Path::new("binaryData").key(key), key.as_str(), names::config_key(key));
        bytes += decoded_len(value);
    }
    if bytes > DATA_BYTES_MAX {
        wrong.too_long(&Path::new(""), DATA_BYTES_MAX);
    }
}

/// How many bytes a base64 text stands for.
fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or("").trim_end_matches('=');
    text.len() * 3 / 4
}

/// What is marked immutable stays so, and as it is.
fn held(new: &Value, old: &Value, fields: &[&str], wrong: &mut Wrong) {
    if !dig::flag(old, "immutable") {
        return;
    }
    if !dig::flag(new, "immutable") {
        wrong.forbidden(&Path::new("immutable"), WHEN_IMMUTABLE);
    }
    for field in fields {
        if !dig::same(dig::get(new, field), dig::get(old, field)) {
            wrong.forbidden(&Path::new(field), WHEN_IMMUTABLE);
        }
    }
}

pub(super) fn config_map_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    held(new, old, &["data", "binaryData"], wrong);
}

pub(super) fn secret(object: &Value, wrong: &mut Wrong) {
    let (data, at) = (dig::map(object, "data"), Path::new("data"));
    for key in data.keys() {
        wrong.all(&at.key(key), key.as_str(), names::config_key(key));
    }
    if data.values().map(decoded_len).sum::<usize>() > DATA_BYTES_MAX {
        wrong.too_long(&at, DATA_BYTES_MAX);
    }
    let need = |key: &str, wrong: &mut Wrong| {
        if !data.contains_key(key) {
            wrong.required(&at.key(key), "");
        }
    };
    let need_json = |key: &str, wrong: &mut Wrong| match data.get(key).and_then(Value::as_str) {
        None => wrong.required(&at.key(key), ""),
        Some(text) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
            if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
                wrong.invalid(&at.key(key), REDACTED, error.to_string());
            }
        }
    };
    match dig::text(object, "type") {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if meta::annotation(object, key).unwrap_or("").is_empty() {
                wrong.required(&Path::new("metadata.annotations").key(key), "");
            }
        }
        "kubernetes.io/dockercfg" => need_json(".dockercfg", wrong),
        "kubernetes.io/dockerconfigjson" => need_json(".dockerconfigjson", wrong),
        "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => {
            need("username", wrong);
            need("password", wrong);
        }
        "kubernetes.io/ssh-auth" => need("ssh-privatekey", wrong),
        "kubernetes.io/tls" => {
            need("tls.crt", wrong);
            need("tls.key", wrong);
        }
        _ => {}
    }
}

pub(super) fn secret_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    if dig::text(new, "type") != dig::text(old, "type") {
        wrong.invalid(&Path::new("type"), dig::text(new, "type"), IMMUTABLE);
    }
    held(new, old, &["data"], wrong);
}

pub(super) fn namespace(object: &Value, wrong: &mut Wrong) {
    let at = SPEC.child("finalizers");
    for (index, finalizer) in dig::texts(object, "spec.finalizers").into_iter().enumerate() {
        let found = names::qualified_name(finalizer);
        if found.is_empty() && !finalizer.contains('/') && finalizer != "kubernetes" {
            let rule = "name is neither a standard finalizer name nor is it fully qualified";
            wrong.invalid(&at.index(index), finalizer, rule);
        }
        wrong.all(&at.index(index), finalizer, found);
    }
}

pub(super) fn node(object: &Value, wrong: &mut Wrong) {
    let (at, mut taken) = (SPEC.child("taints"), Vec::new());
    for (index, taint) in dig::list(object, "spec.taints").iter().enumerate() {
        let at = at.index(index);
        let key = dig::text(taint, "key");
        wrong.all(&at.child("key"), key, names::qualified_name(key));
        wrong.text(taint, "value", names::label_value, &at);
        wrong.one_of(taint, "effect", &["NoExecute", "NoSchedule", "PreferNoSchedule"], &at);
        let pair = (key, dig::text(taint, "effect"));
        if taken.contains(&pair) {
            let rule = "taints must be unique by key and effect pair";
            let mut shown = crate::field::FieldError::duplicate(&at, taint.clone());
            shown.detail = rule.to_owned();
            wrong.0.push(shown);
        }
        taken.push(pair);
    }
    let at = SPEC.child("podCIDRs");
    for (index, range) in dig::texts(object, "spec.podCIDRs").into_iter().enumerate() {
        wrong.all(&at.index(index), range, names::cidr(range));
    }
}

/// A node's ranges and provider are set once.
pub(super) fn node_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    let was = dig::list(old, "spec.podCIDRs");
    if !was.is_empty() && dig::list(new, "spec.podCIDRs") != was {
        wrong.forbidden(&SPEC.child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    }
    let provider = |object| dig::text(object, "spec.providerID");
    if !provider(old).is_empty() && provider(new) != provider(old) {
        wrong.forbidden(&SPEC.child("providerID"), "node updates may not change providerID except from \"\" to valid");
    }
}

pub(super) fn lease(object: &Value, wrong: &mut Wrong) {
    let spec = dig::get(object, "spec");
    if let Some(seconds) = dig::int(spec, "leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        wrong.invalid(&SPEC.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    wrong.not_negative(spec, "leaseTransitions", &SPEC);
}

/// An event lives beside what it is about; what has no namespace is told of in `default`.
pub(super) fn event(object: &Value, wrong: &mut Wrong) {
    let field = if dig::has(object, "regarding") { "regarding" } else { "involvedObject" };
    let (own, subject) = (meta::namespace(object), dig::text(dig::get(object, field), "namespace"));
    let at = Path::new("involvedObject.namespace");
    match subject {
        "" if !matches!(own, "default" | "kube-system") => {
            wrong.invalid(&at, subject, "does not match event.namespace");
        }
        "" => {}
        subject if subject != own => wrong.invalid(&at, subject, "does not match event.namespace"),
        _ => {}
    }
}

pub(super) fn priority_class(object: &Value, wrong: &mut Wrong) {
    const USER_MAX: i64 = 1_000_000_000;
    let system = [("system-node-critical", 2 * USER_MAX + 1000), ("system-cluster-critical", 2 * USER_MAX)];
    let (name, value) = (meta::name(object), dig::int(object, "value").unwrap_or(0));
    let known = system.contains(&(name, value));
    if name.starts_with("system-") && !known {
        let rule = "priority class names with 'system-' prefix are reserved for system use only";
        wrong.forbidden(&Path::new("metadata.name"), rule);
    }
    if value > USER_MAX && !known {
        wrong.forbidden(&Path::new("value"), format!("maximum allowed value of a user defined priority is {USER_MAX}"));
    }
    wrong.one_of_if_set(object, "preemptionPolicy", &["Never", "PreemptLowerPriority"], &Path::ROOT);
}

pub(super) fn priority_class_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    if dig::int(new, "value") != dig::int(old, "value") {
        wrong.forbidden(&Path::new("value"), "may not be changed in an update.");
    }
    wrong.fixed(new, old, "preemptionPolicy", &Path::ROOT);
}

pub(super) fn runtime_class(object: &Value, wrong: &mut Wrong) {
    wrong.name(object, "handler", names::dns1123_label, &Path::ROOT);
}

pub(super) fn runtime_class_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    wrong.fixed(new, old, "handler", &Path::ROOT);
}
