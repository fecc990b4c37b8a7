//! The rules of storage and of quotas: volumes, claims, classes, ResourceQuotas, LimitRanges.

use super::volumes;
use super::wrong::{IMMUTABLE, Wrong};
use crate::dig;
use crate::field::Path;
use crate::names;
use crate::quantity::Quantity;
use serde_json::{Map, Value};

const SPEC: Path<'static> = Path::new("spec");
const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const RECLAIM: [&str; 3] = ["Delete", "Recycle", "Retain"];

/// Fields of a volume's spec that are not its source.
const NOT_SOURCES: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeMode",
    "volumeAttributesClassName",
];

fn modes(spec: &Value, at: &Path, wrong: &mut Wrong) {
    let (given, at) = (dig::texts(spec, "accessModes"), at.child("accessModes"));
    for mode in &given {
        if !MODES.contains(mode) {
            wrong.not_supported(&at, *mode, &MODES);
        }
    }
    if given.contains(&"ReadWriteOncePod") && given.len() > 1 {
        wrong.forbidden(&at, "may not use ReadWriteOncePod with other access modes");
    }
}

pub(super) fn volume(object: &Value, wrong: &mut Wrong) {
    let spec = dig::get(object, "spec");
    if dig::list(spec, "accessModes").is_empty() {
        wrong.required(&SPEC.child("accessModes"), "");
    }
    modes(spec, &SPEC, wrong);
    let (capacity, at) = (dig::map(spec, "capacity"), SPEC.child("capacity"));
    if capacity.is_empty() {
        wrong.required(&at, "");
    } else if !capacity.contains_key("storage") || capacity.len() > 1 {
        wrong.not_supported(&at, dig::get(spec, "capacity").clone(), &["storage"]);
    }
    for (name, value) in capacity {
        if wrong.amount(value, &at.key(name)).is_some_and(|amount| amount.sign() <= 0) {
            wrong.invalid(&at.key(name), value.clone(), "must be greater than zero");
        }
    }
    wrong.one_of_if_set(spec, "persistentVolumeReclaimPolicy", &RECLAIM, &SPEC);
    wrong.one_of_if_set(spec, "volumeMode", &["Block", "Filesystem"], &SPEC);
    wrong.text(spec, "storageClassName", names::dns1123_subdomain, &SPEC);
    let sources: Vec<(&String, &Value)> = sources(spec).collect();
    if sources.is_empty() {
        wrong.required(&SPEC, "must specify a volume type");
    }
    for (index, (kind, source)) in sources.into_iter().enumerate() {
        let at = SPEC.child(kind);
        match kind.as_str() {
            _ if index > 0 => wrong.forbidden(&at, "may not specify more than 1 volume type"),
            "hostPath" => volumes::host_path(source, &at, wrong),
            "local" => {
                wrong.need_text(source, "path", &at);
                if !dig::has(spec, "nodeAffinity.required") {
                    wrong.required(&SPEC.child("nodeAffinity"), "Local volume requires node affinity");
                }
            }
            "csi" => {
                wrong.need_text(source, "driver", &at);
                wrong.need_text(source, "volumeHandle", &at);
            }
            _ => {}
        }
    }
    if dig::has(spec, "nodeAffinity.required") {
        let at = SPEC.child("nodeAffinity");
        super::pods::node_selector(dig::get(spec, "nodeAffinity.required"), &at.child("required"), wrong);
    }
}

fn sources(spec: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let fields = spec.as_object().into_iter().flatten();
    fields.filter(|(field, value)| !NOT_SOURCES.contains(&field.as_str()) && !value.is_null())
}

pub(super) fn volume_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    let of = |object| -> Map<String, Value> {
        sources(dig::get(object, "spec")).map(|(kind, source)| (kind.clone(), source.clone())).collect()
    };
    if of(new) != of(old) {
        let rule = "spec.persistentvolumesource is immutable after creation";
        wrong.forbidden(&SPEC.child("persistentvolumesource"), rule);
    }
    wrong.fixed(dig::get(new, "spec"), dig::get(old, "spec"), "volumeMode", &SPEC);
}

pub(super) fn claim(object: &Value, wrong: &mut Wrong) {
    claim_spec(dig::get(object, "spec"), &SPEC, wrong);
}

fn claim_spec(spec: &Value, at: &Path, wrong: &mut Wrong) {
    if dig::list(spec, "accessModes").is_empty() {
        wrong.required(&at.child("accessModes"), "at least 1 access mode is required");
    }
    wrong.selector(dig::get(spec, "selector"), &at.child("selector"));
    modes(spec, at, wrong);
    let at_requests = at.child("resources");
    match dig::map(spec, "resources.requests").get("storage") {
        None => wrong.required(&at_requests.key("storage"), ""),
        Some(amount) => {
            let at = at_requests.key("storage");
            if wrong.amount(amount, &at).is_some_and(Quantity::is_zero) {
                wrong.invalid(&at, amount.clone(), "must be greater than zero");
            }
        }
    }
    wrong.text(spec, "storageClassName", names::dns1123_subdomain, at);
    wrong.one_of_if_set(spec, "volumeMode", &["Block", "Filesystem"], at);
}

/// A claim's spec is settled, but for growing, and for being bound.
pub(super) fn claim_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    let mut sides = [dig::get(new, "spec").clone(), dig::get(old, "spec").clone()];
    let unbound = dig::text(old, "spec.volumeName").is_empty();
    let unclassed = !dig::has(old, "spec.storageClassName");
    for side in &mut sides {
        dig::remove(side, "resources.requests");
        dig::remove(side, "volumeAttributesClassName");
        if unbound {
            dig::remove(side, "volumeName");
        }
        if unclassed {
            dig::remove(side, "storageClassName");
        }
    }
    if !dig::same(&sides[0], &sides[1]) {
        let rule =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        wrong.forbidden(&SPEC, rule);
    }
    let amount = |object, path: &str| dig::map(object, path).get("storage").and_then(|it| Quantity::from_json(it).ok());
    let (now, was) = (amount(new, "spec.resources.requests"), amount(old, "spec.resources.requests"));
    let at = Path::new("spec.resources.requests.storage");
    match (now, was, amount(old, "status.capacity")) {
        (Some(now), Some(was), capacity) if now < was && capacity.is_none_or(|capacity| now < capacity) => {
            wrong.forbidden(&at, "field can not be less than status.capacity");
        }
        _ => {}
    }
}

pub(super) fn class(object: &Value, wrong: &mut Wrong) {
    let provisioner = dig::text(object, "provisioner");
    let at = Path::new("provisioner");
    match provisioner {
        "" => wrong.required(&at, ""),
        name => wrong.all(&at, name, names::qualified_name(&name.to_lowercase())),
    }
    wrong.one_of_if_set(object, "reclaimPolicy", &["Delete", "Retain"], &Path::ROOT);
    match dig::text(object, "volumeBindingMode") {
        "" => wrong.required(&Path::new("volumeBindingMode"), ""),
        _ => wrong.one_of(object, "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], &Path::ROOT),
    }
}

pub(super) fn class_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        if !dig::same(dig::get(new, field), dig::get(old, field)) {
            wrong.forbidden(&Path::new(field), format!("updates to {field} are forbidden."));
        }
    }
    if dig::get(new, "volumeBindingMode") != dig::get(old, "volumeBindingMode") {
        wrong.invalid(&Path::new("volumeBindingMode"), dig::get(new, "volumeBindingMode").clone(), IMMUTABLE);
    }
}

/// Resources a quota can count without naming a group.
const COUNTED: [&str; 16] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
];
const COUNTED_TOO: [&str; 4] = ["services", "services.loadbalancers", "services.nodeports", "storage"];
const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

pub(super) fn quota(object: &Value, wrong: &mut Wrong) {
    let at = SPEC.child("hard");
    for (name, value) in dig::map(object, "spec.hard") {
        let found = names::qualified_name(name);
        let standard = COUNTED.contains(&name.as_str()) || COUNTED_TOO.contains(&name.as_str());
        let pages = name.starts_with("hugepages-")
            || name.starts_with("requests.hugepages-")
            || name.starts_with("limits.hugepages-");
        if found.is_empty() && !name.contains('/') && !standard && !pages {
            wrong.invalid(&at.key(name), name.as_str(), "must be a standard resource for quota");
        }
        wrong.all(&at.key(name), name.as_str(), found);
        wrong.amount(value, &at.key(name));
    }
    let at = SPEC.child("scopes");
    for scope in dig::texts(object, "spec.scopes") {
        if !SCOPES.contains(&scope) {
            wrong.invalid(&at, scope, "unsupported scope");
        }
    }
}

pub(super) fn quota_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    wrong.fixed(dig::get(new, "spec"), dig::get(old, "spec"), "scopes", &SPEC);
}

pub(super) fn limit_range(object: &Value, wrong: &mut Wrong) {
    let (at, mut taken) = (SPEC.child("limits"), Vec::new());
    for (index, item) in dig::list(object, "spec.limits").iter().enumerate() {
        let at = at.index(index);
        let kind = dig::text(item, "type");
        if kind.is_empty() {
            wrong.required(&at.child("type"), "");
        }
        if taken.contains(&kind) {
            wrong.duplicate(&at.child("type"), kind);
        }
        taken.push(kind);
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if !dig::map(item, field).is_empty() {
                    wrong.forbidden(&at.child(field), "may not be specified when `type` is 'Pod'");
                }
            }
        }
        limits(item, &at, wrong);
    }
}

/// Each of the first is at most each of the second, where both are given.
const ORDER: [(&str, &str, &str, &str); 5] = [
    ("min", "max", "min value", "max value"),
    ("min", "defaultRequest", "min value", "default request value"),
    ("min", "default", "min value", "default value"),
    ("defaultRequest", "max", "default request value", "max value"),
    ("default", "max", "default value", "max value"),
];

fn limits(item: &Value, at: &Path, wrong: &mut Wrong) {
    for (low, high, low_name, high_name) in ORDER {
        for (name, value) in dig::map(item, low) {
            let other = dig::map(item, high).get(name).and_then(|it| Quantity::from_json(it).ok());
            let (Ok(value), Some(other)) = (Quantity::from_json(value), other) else { continue };
            if value > other {
                // Upstream blames the lower bound, except where a default exceeds the maximum.
                let blamed = if low == "min" && high != "max" { high } else { low };
                let at = at.child(blamed);
                let shown = if blamed == low { value } else { other };
                let rule = format!("{low_name} {value} is greater than {high_name} {other}");
                wrong.invalid(&at.key(name), shown.to_string(), rule);
            }
        }
    }
    let (at, none) = (at.child("default"), Map::new());
    let defaults = item.get("default").and_then(Value::as_object).unwrap_or(&none);
    for (name, request) in dig::map(item, "defaultRequest") {
        let limit = defaults.get(name).and_then(|it| Quantity::from_json(it).ok());
        if let (Ok(request), Some(limit)) = (Quantity::from_json(request), limit)
            && request > limit
        {
            let rule = format!("default request value {request} is greater than default limit value {limit}");
            wrong.invalid(&at.key(name), request.to_string(), rule);
        }
    }
}
