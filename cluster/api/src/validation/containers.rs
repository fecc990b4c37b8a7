//! The rules of containers: names, images, ports, environment, mounts, probes, resources.
//!
//! Start at [`all`].

use super::volumes::file_path;
use super::wrong::Wrong;
use crate::dig;
use crate::field::Path;
use crate::names;
use crate::quantity::Quantity;
use serde_json::{Value, json};

/// Ids of users and groups.
pub(super) const ID_MAX: i64 = i32::MAX as i64;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// Fields of a pod that its containers can be told.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// What an ephemeral container cannot have.
const NOT_EPHEMERAL: [&str; 6] = ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// All containers of a pod's spec.
pub(super) fn all(spec: &Value, at: &Path, wrong: &mut Wrong) {
    let volumes = dig::list(spec, "volumes");
    if dig::list(spec, "containers").is_empty() {
        wrong.required(&at.child("containers"), "");
    }
    let mut taken: Vec<&str> = Vec::new();
    let host_network = dig::flag(spec, "hostNetwork");
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        let at = at.child(list);
        for (index, container) in dig::list(spec, list).iter().enumerate() {
            let at = at.index(index);
            let name = dig::text(container, "name");
            one(container, host_network, volumes, &at, wrong);
            match list {
                "initContainers" => init(container, &at, wrong),
                "ephemeralContainers" => ephemeral(container, &at, wrong),
                _ => {}
            }
            if !name.is_empty() && taken.contains(&name) {
                wrong.duplicate(&at.child("name"), name);
            }
            taken.push(name);
        }
    }
    host_ports(spec, at, wrong);
}

fn one(container: &Value, host_network: bool, volumes: &[Value], at: &Path, wrong: &mut Wrong) {
    wrong.name(container, "name", names::dns1123_label, at);
    wrong.need_text(container, "image", at);
    let image = dig::text(container, "image");
    if image.trim() != image {
        wrong.invalid(&at.child("image"), image, "must not have leading or trailing whitespace");
    }
    let pull = ["Always", "IfNotPresent", "Never"];
    wrong.one_of(container, "imagePullPolicy", &pull, at);
    let policies = ["FallbackToLogsOnError", "File"];
    wrong.one_of_if_set(container, "terminationMessagePolicy", &policies, at);
    ports(container, host_network, &at.child("ports"), wrong);
    environment(container, volumes, at, wrong);
    mounts(container, volumes, at, wrong);
    for field in PROBES {
        probe(container, field, at, wrong);
    }
    for hook in ["postStart", "preStop"] {
        let lifecycle = dig::get(container, "lifecycle");
        if dig::has(lifecycle, hook) {
            handler(dig::get(lifecycle, hook), &at.child("lifecycle").child(hook), wrong);
        }
    }
    resources(dig::get(container, "resources"), &at.child("resources"), wrong);
    security(dig::get(container, "securityContext"), &at.child("securityContext"), wrong);
}

fn init(container: &Value, at: &Path, wrong: &mut Wrong) {
    if dig::text(container, "restartPolicy") == "Always" {
        return;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if dig::has(container, field) {
            wrong.forbidden(&at.child(field), "may not be set for init containers without restartPolicy=Always");
        }
    }
}

fn ephemeral(container: &Value, at: &Path, wrong: &mut Wrong) {
    for field in NOT_EPHEMERAL {
        if !dig::is_zero(dig::get(container, field)) {
            wrong.forbidden(&at.child(field), "cannot be set for an Ephemeral Container");
        }
    }
}

fn ports(container: &Value, host_network: bool, at: &Path, wrong: &mut Wrong) {
    let mut taken: Vec<&str> = Vec::new();
    for (index, port) in dig::list(container, "ports").iter().enumerate() {
        let at = at.index(index);
        let name = dig::text(port, "name");
        if !name.is_empty() {
            let found = names::port_name(name);
            if found.is_empty() && taken.contains(&name) {
                wrong.duplicate(&at.child("name"), name);
            }
            wrong.all(&at.child("name"), name, found);
            taken.push(name);
        }
        let (number, host) = (dig::int(port, "containerPort").unwrap_or(0), dig::int(port, "hostPort").unwrap_or(0));
        match number {
            0 => wrong.required(&at.child("containerPort"), ""),
            number => wrong.all(&at.child("containerPort"), number, names::port_number(number)),
        }
        if host != 0 {
            wrong.all(&at.child("hostPort"), host, names::port_number(host));
            if host_network && host != number {
                wrong.invalid(&at.child("containerPort"), number, "must match `hostPort` when `hostNetwork` is true");
            }
        }
        wrong.one_of(port, "protocol", &PROTOCOLS, &at);
    }
}

/// No two containers can have the same port of the host.
fn host_ports(spec: &Value, at: &Path, wrong: &mut Wrong) {
    let mut taken: Vec<(i64, &str, &str)> = Vec::new();
    let at = at.child("containers");
    for (index, container) in dig::list(spec, "containers").iter().enumerate() {
        let at = at.index(index);
        let at = at.child("ports");
        for (index, port) in dig::list(container, "ports").iter().enumerate() {
            let host = dig::int(port, "hostPort").unwrap_or(0);
            let key = (host, dig::text(port, "protocol"), dig::text(port, "hostIP"));
            if host != 0 && taken.contains(&key) {
                let shown = format!("{}/{}/{host}", key.1, key.2);
                wrong.duplicate(&at.index(index).child("hostPort"), shown);
            }
            taken.push(key);
        }
    }
}

fn environment(container: &Value, volumes: &[Value], at: &Path, wrong: &mut Wrong) {
    let at_env = at.child("env");
    for (index, variable) in dig::list(container, "env").iter().enumerate() {
        let at = at_env.index(index);
        wrong.name(variable, "name", names::env_name, &at);
        if dig::has(variable, "valueFrom") {
            env_source(variable, volumes, &at.child("valueFrom"), wrong);
        }
    }
    let at_from = at.child("envFrom");
    for (index, from) in dig::list(container, "envFrom").iter().enumerate() {
        let at = at_from.index(index);
        wrong.text(from, "prefix", names::env_name, &at);
        let given: Vec<&str> = ["configMapRef", "secretRef"].into_iter().filter(|one| dig::has(from, one)).collect();
        match given[..] {
            [] => wrong.invalid(&at, "", "must specify one of: `configMapRef` or `secretRef`"),
            [one] => wrong.need_text(dig::get(from, one), "name", &at.child(one)),
            _ => wrong.invalid(&at, "", "may not have more than one field specified at a time"),
        }
    }
}

fn env_source(variable: &Value, volumes: &[Value], at: &Path, wrong: &mut Wrong) {
    let source = dig::get(variable, "valueFrom");
    let kinds = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let given: Vec<&str> = kinds.into_iter().filter(|one| dig::has(source, one)).collect();
    for one in &given {
        let (reference, at) = (dig::get(source, one), at.child(one));
        match *one {
            "fieldRef" => field_reference(reference, &ENV_FIELDS, &at, wrong),
            "resourceFieldRef" => wrong.need_text(reference, "resource", &at),
            "fileKeyRef" => file_key_reference(reference, volumes, &at, wrong),
            _ => {
                wrong.need_text(reference, "name", &at);
                wrong.name(reference, "key", names::config_key, &at);
            }
        }
    }
    if given.is_empty() {
        let rule = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        wrong.invalid(at, "", rule);
    } else if !dig::text(variable, "value").is_empty() {
        wrong.invalid(at, "", "may not be specified when `value` is not empty");
    } else if given.len() > 1 {
        wrong.invalid(at, "", "may not have more than one field specified at a time");
    }
}

/// A variable of a file that another container of the pod wrote, so it lies in an emptyDir.
fn file_key_reference(reference: &Value, volumes: &[Value], at: &Path, wrong: &mut Wrong) {
    wrong.need_text(reference, "key", at);
    wrong.need_text(reference, "path", at);
    file_path(dig::text(reference, "path"), &at.child("path"), wrong);
    wrong.need_text(reference, "volumeName", at);
    let name = dig::text(reference, "volumeName");
    match volumes.iter().find(|volume| dig::text(volume, "name") == name) {
        _ if name.is_empty() => {}
        None => wrong.not_found(&at.child("volumeName"), name),
        Some(volume) if dig::has(volume, "emptyDir") => {}
        Some(_) => wrong.invalid(&at.child("volumeName"), name, "referenced volume must be of type emptyDir"),
    }
}

/// A field of the pod: one of `known`, or a label or annotation by key.
pub(super) fn field_reference(reference: &Value, known: &[&str], at: &Path, wrong: &mut Wrong) {
    let path = dig::text(reference, "fieldPath");
    if dig::text(reference, "apiVersion").is_empty() {
        wrong.required(&at.child("apiVersion"), "");
        return;
    }
    if path.is_empty() {
        wrong.required(&at.child("fieldPath"), "");
        return;
    }
    let subscript = path.strip_suffix("']").and_then(|rest| rest.split_once("['"));
    match subscript {
        Some(("metadata.labels" | "metadata.annotations", key)) => {
            wrong.all(&at.child("fieldPath"), path, names::qualified_name(&key.to_lowercase()));
        }
        Some(_) => wrong.invalid(&at.child("fieldPath"), path, "does not support subscript"),
        None if known.contains(&path) => {}
        None if ENV_FIELDS.contains(&path) || path.starts_with("metadata.") => {
            wrong.not_supported(&at.child("fieldPath"), path, known);
        }
        None => {
            let rule = format!("error converting fieldPath: field label not supported: {path}");
            wrong.invalid(&at.child("fieldPath"), path, rule);
        }
    }
}

fn mounts(container: &Value, volumes: &[Value], at: &Path, wrong: &mut Wrong) {
    let at = at.child("volumeMounts");
    let mut taken: Vec<&str> = Vec::new();
    for (index, mount) in dig::list(container, "volumeMounts").iter().enumerate() {
        let at = at.index(index);
        let (name, path) = (dig::text(mount, "name"), dig::text(mount, "mountPath"));
        wrong.need_text(mount, "name", &at);
        if !volumes.iter().any(|volume| dig::text(volume, "name") == name) {
            wrong.not_found(&at.child("name"), name);
        }
        wrong.need_text(mount, "mountPath", &at);
        if taken.contains(&path) {
            wrong.invalid(&at.child("mountPath"), path, "must be unique");
        }
        taken.push(path);
        for field in ["subPath", "subPathExpr"] {
            relative_path(dig::text(mount, field), &at.child(field), wrong);
        }
        if dig::has(mount, "subPath") && dig::has(mount, "subPathExpr") {
            wrong.invalid(
                &at.child("subPathExpr"),
                dig::text(mount, "subPathExpr"),
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        let propagations = ["Bidirectional", "HostToContainer", "None"];
        wrong.one_of_if_set(mount, "mountPropagation", &propagations, &at);
    }
}

/// A path below something: not absolute, never up.
pub(super) fn relative_path(path: &str, at: &Path, wrong: &mut Wrong) {
    if path.starts_with('/') {
        wrong.invalid(at, path, "must be a relative path");
    }
    if path.split('/').any(|step| step == "..") {
        wrong.invalid(at, path, "must not contain '..'");
    }
}

fn probe(container: &Value, field: &str, at: &Path, wrong: &mut Wrong) {
    let probe = dig::get(container, field);
    if probe.is_null() {
        return;
    }
    let at = at.child(field);
    handler(probe, &at, wrong);
    for number in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        wrong.not_negative(probe, number, &at);
    }
    if let Some(grace) = dig::int(probe, "terminationGracePeriodSeconds") {
        let at = at.child("terminationGracePeriodSeconds");
        if field == "readinessProbe" {
            wrong.invalid(&at, grace, "must not be set for readinessProbes");
        } else if grace <= 0 {
            wrong.invalid(&at, grace, "must be greater than 0");
        }
    }
    let successes = dig::int(probe, "successThreshold").unwrap_or(1);
    if field != "readinessProbe" && successes != 1 {
        wrong.invalid(&at.child("successThreshold"), successes, "must be 1");
    }
}

/// What a probe or hook does: exactly one thing.
fn handler(handler: &Value, at: &Path, wrong: &mut Wrong) {
    let kinds = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let given: Vec<&str> = kinds.into_iter().filter(|one| dig::has(handler, one)).collect();
    if given.is_empty() {
        wrong.required(at, "must specify a handler type");
    }
    for (index, one) in given.into_iter().enumerate() {
        let (action, at) = (dig::get(handler, one), at.child(one));
        if index > 0 {
            wrong.forbidden(&at, "may not specify more than 1 handler type");
            continue;
        }
        match one {
            "exec" if dig::list(action, "command").is_empty() => wrong.required(&at.child("command"), ""),
            "httpGet" => {
                wrong.need_text(action, "path", &at);
                wrong.port(dig::get(action, "port"), true, &at.child("port"));
                wrong.one_of(action, "scheme", &["HTTP", "HTTPS"], &at);
                let at = at.child("httpHeaders");
                for (index, header) in dig::list(action, "httpHeaders").iter().enumerate() {
                    let name = dig::text(header, "name");
                    wrong.all(&at.index(index).child("name"), name, names::http_header(name));
                }
            }
            "tcpSocket" => wrong.port(dig::get(action, "port"), true, &at.child("port")),
            "grpc" => wrong.port(dig::get(action, "port"), false, &at.child("port")),
            _ => {}
        }
    }
}

/// Requests and limits of a container, or of a whole pod.
pub(super) fn resources(resources: &Value, at: &Path, wrong: &mut Wrong) {
    let (requests, limits) = (dig::map(resources, "requests"), dig::map(resources, "limits"));
    for (side, amounts) in [("limits", limits), ("requests", requests)] {
        let at = at.child(side);
        for (name, value) in amounts {
            resource_name(name, &at, wrong);
            let quantity = wrong.amount(value, &at.key(name));
            if is_extended(name) && quantity.is_some_and(|quantity| !quantity.is_whole()) {
                wrong.invalid(&at.key(name), value.clone(), "must be an integer");
            }
        }
    }
    let at = at.child("requests");
    for (name, value) in requests {
        let limit = limits.get(name).and_then(|limit| Quantity::from_json(limit).ok());
        let Ok(request) = Quantity::from_json(value) else { continue };
        let fixed = is_extended(name) || name.starts_with("hugepages-");
        match limit {
            None if fixed => wrong.required(&at, "Limit must be set for non overcommitable resources"),
            Some(limit) if fixed && request != limit => {
                wrong.invalid(&at, request.to_string(), format!("must be equal to {name} limit of {limit}"));
            }
            Some(limit) if request > limit => {
                wrong.invalid(
                    &at,
                    request.to_string(),
                    format!("must be less than or equal to {name} limit of {limit}"),
                );
            }
            _ => {}
        }
    }
}

/// A resource that some device or operator counts, not the kernel.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.starts_with("kubernetes.io/")
}

fn resource_name(name: &str, at: &Path, wrong: &mut Wrong) {
    let found = names::qualified_name(name);
    let is_standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if found.is_empty() && !name.contains('/') && !is_standard {
        wrong.invalid(at, name, "must be a standard resource for containers");
    }
    wrong.all(at, name, found);
}

fn security(context: &Value, at: &Path, wrong: &mut Wrong) {
    for field in ["runAsUser", "runAsGroup"] {
        wrong.in_range(context, field, 0, ID_MAX, at);
    }
    wrong.one_of_if_set(context, "procMount", &["Default", "Unmasked"], at);
    let escalation = dig::get(context, "allowPrivilegeEscalation");
    if escalation == &json!(false) {
        if dig::flag(context, "privileged") {
            wrong.invalid(
                at,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        if dig::texts(context, "capabilities.add").contains(&"CAP_SYS_ADMIN") {
            let rule = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            wrong.invalid(at, context.clone(), rule);
        }
    }
    seccomp(dig::get(context, "seccompProfile"), &at.child("seccompProfile"), wrong);
}

/// Which system calls are allowed.
pub(super) fn seccomp(profile: &Value, at: &Path, wrong: &mut Wrong) {
    if profile.is_null() {
        return;
    }
    let has_file = dig::has(profile, "localhostProfile");
    match dig::text(profile, "type") {
        "Localhost" if !has_file => {
            wrong.required(&at.child("localhostProfile"), "must be set when seccomp type is Localhost");
        }
        "Localhost" => relative_path(dig::text(profile, "localhostProfile"), &at.child("localhostProfile"), wrong),
        "RuntimeDefault" | "Unconfined" if has_file => {
            let file = dig::text(profile, "localhostProfile");
            wrong.invalid(&at.child("localhostProfile"), file, "can only be set when seccomp type is Localhost");
        }
        "RuntimeDefault" | "Unconfined" => {}
        "" => wrong.required(&at.child("type"), "type is required when seccompProfile is set"),
        other => wrong.not_supported(&at.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}
