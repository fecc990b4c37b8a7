//! The rules of a pod's volumes.
//!
//! Start at [`all`].

use super::containers::{field_reference, relative_path};
use super::wrong::Wrong;
use crate::dig;
use crate::field::Path;
use crate::names;
use crate::quantity::Quantity;
use serde_json::Value;

const MODE_RULE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
/// A token must live a while, and its end must fit what signs it.
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATH_TYPES: [&str; 7] =
    ["BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

pub(super) fn all(spec: &Value, at: &Path, wrong: &mut Wrong) {
    let mut taken: Vec<&str> = Vec::new();
    for (index, volume) in dig::list(spec, "volumes").iter().enumerate() {
        let at = at.index(index);
        let name = dig::text(volume, "name");
        source(volume, &at, wrong);
        wrong.need_text(volume, "name", &at);
        if !name.is_empty() {
            let found = names::dns1123_label(name);
            if found.is_empty() && taken.contains(&name) {
                wrong.duplicate(&at.child("name"), name);
            }
            wrong.all(&at.child("name"), name, found);
        }
        taken.push(name);
    }
}

fn source(volume: &Value, at: &Path, wrong: &mut Wrong) {
    let mut given = 0;
    for (kind, value) in volume.as_object().into_iter().flatten() {
        if kind == "name" || value.is_null() {
            continue;
        }
        given += 1;
        let at = at.child(kind);
        if given > 1 {
            wrong.forbidden(&at, "may not specify more than 1 volume type");
            continue;
        }
        one_source(kind, value, &at, wrong);
    }
    if given == 0 {
        wrong.required(at, "must specify a volume type");
    }
}

fn one_source(kind: &str, value: &Value, at: &Path, wrong: &mut Wrong) {
    match kind {
        "emptyDir" => {
            let limit = Quantity::from_json(dig::get(value, "sizeLimit"));
            if limit.is_ok_and(|limit| limit.sign() < 0) {
                wrong.forbidden(&at.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
        }
        "hostPath" => host_path(value, at, wrong),
        "secret" => {
            wrong.need_text(value, "secretName", at);
            files(value, at, wrong);
        }
        "configMap" => {
            wrong.need_text(value, "name", at);
            files(value, at, wrong);
        }
        "downwardAPI" => {
            mode(value, "defaultMode", at, wrong);
            downward(value, at, wrong);
        }
        "projected" => projected(value, at, wrong),
        "persistentVolumeClaim" => wrong.need_text(value, "claimName", at),
        "nfs" => {
            wrong.need_text(value, "server", at);
            wrong.need_text(value, "path", at);
            let path = dig::text(value, "path");
            if !path.is_empty() && !path.starts_with('/') {
                wrong.invalid(&at.child("path"), path, "must be an absolute path");
            }
        }
        "csi" => wrong.need_text(value, "driver", at),
        "ephemeral" if !dig::has(value, "volumeClaimTemplate") => wrong.required(&at.child("volumeClaimTemplate"), ""),
        _ => {}
    }
}

/// A path on the host, in a pod's or a persistent volume.
pub(super) fn host_path(value: &Value, at: &Path, wrong: &mut Wrong) {
    wrong.need_text(value, "path", at);
    let path = dig::text(value, "path");
    if path.split('/').any(|step| step == "..") {
        wrong.invalid(&at.child("path"), path, "must not contain '..'");
    }
    wrong.one_of_if_set(value, "type", &HOST_PATH_TYPES, at);
}

fn mode(value: &Value, field: &str, at: &Path, wrong: &mut Wrong) {
    if let Some(mode) = dig::int(value, field).filter(|mode| !(0..=0o777).contains(mode)) {
        wrong.invalid(&at.child(field), mode, MODE_RULE);
    }
}

/// A path inside a volume that the kubelet fills: relative, and not where the kubelet keeps its own.
pub(super) fn file_path(path: &str, at: &Path, wrong: &mut Wrong) {
    relative_path(path, at, wrong);
    if path.starts_with("..") && !path.split('/').any(|step| step == "..") {
        wrong.invalid(at, path, "must not start with '..'");
    }
}

/// Keys that become files.
fn files(value: &Value, at: &Path, wrong: &mut Wrong) {
    mode(value, "defaultMode", at, wrong);
    let at = at.child("items");
    for (index, item) in dig::list(value, "items").iter().enumerate() {
        let at = at.index(index);
        wrong.need_text(item, "key", &at);
        wrong.need_text(item, "path", &at);
        file_path(dig::text(item, "path"), &at.child("path"), wrong);
        mode(item, "mode", &at, wrong);
    }
}

fn downward(value: &Value, at: &Path, wrong: &mut Wrong) {
    let at = at.child("items");
    for (index, item) in dig::list(value, "items").iter().enumerate() {
        let at = at.index(index);
        wrong.need_text(item, "path", &at);
        file_path(dig::text(item, "path"), &at.child("path"), wrong);
        mode(item, "mode", &at, wrong);
        match (dig::has(item, "fieldRef"), dig::has(item, "resourceFieldRef")) {
            (true, true) => {
                wrong.invalid(&at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
            }
            (true, false) => field_reference(dig::get(item, "fieldRef"), &FILE_FIELDS, &at.child("fieldRef"), wrong),
            (false, true) => {
                let reference = dig::get(item, "resourceFieldRef");
                let at = at.child("resourceFieldRef");
                wrong.need_text(reference, "containerName", &at);
                wrong.need_text(reference, "resource", &at);
            }
            (false, false) => wrong.required(&at, "one of fieldRef and resourceFieldRef is required"),
        }
    }
}

fn projected(value: &Value, at: &Path, wrong: &mut Wrong) {
    mode(value, "defaultMode", at, wrong);
    let at = at.child("sources");
    for (index, source) in dig::list(value, "sources").iter().enumerate() {
        let at = at.index(index);
        let kinds =
            ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
        let given: Vec<&str> = kinds.into_iter().filter(|kind| dig::has(source, kind)).collect();
        for (order, kind) in given.into_iter().enumerate() {
            let (source, at) = (dig::get(source, kind), at.child(kind));
            match kind {
                _ if order > 0 => wrong.forbidden(&at, "may not specify more than 1 volume type per source"),
                "secret" | "configMap" => {
                    wrong.need_text(source, "name", &at);
                    files(source, &at, wrong);
                }
                "downwardAPI" => downward(source, &at, wrong),
                "serviceAccountToken" => token(source, &at, wrong),
                _ => {}
            }
        }
    }
}

fn token(source: &Value, at: &Path, wrong: &mut Wrong) {
    if let Some(seconds) = dig::int(source, "expirationSeconds") {
        let at = at.child("expirationSeconds");
        if seconds < TOKEN_SECONDS_MIN {
            wrong.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
        } else if seconds > TOKEN_SECONDS_MAX {
            wrong.invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
    wrong.need_text(source, "path", at);
    file_path(dig::text(source, "path"), &at.child("path"), wrong);
}
