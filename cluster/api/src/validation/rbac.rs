//! The rules of roles and bindings.

use super::wrong::Wrong;
use crate::dig;
use crate::field::Path;
use crate::names;
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";
const SUBJECTS: [&str; 3] = ["Group", "ServiceAccount", "User"];

pub(super) fn role(object: &Value, wrong: &mut Wrong) {
    rules(object, true, wrong);
}

pub(super) fn cluster_role(object: &Value, wrong: &mut Wrong) {
    rules(object, false, wrong);
    let at = Path::new("aggregationRule.clusterRoleSelectors");
    for (index, selector) in dig::list(object, "aggregationRule.clusterRoleSelectors").iter().enumerate() {
        wrong.selector(selector, &at.index(index));
    }
}

fn rules(object: &Value, namespaced: bool, wrong: &mut Wrong) {
    let at = Path::new("rules");
    for (index, rule) in dig::list(object, "rules").iter().enumerate() {
        let at = at.index(index);
        let is_empty = |field: &str| dig::list(rule, field).is_empty();
        if is_empty("verbs") {
            wrong.required(&at.child("verbs"), "verbs must contain at least one value");
        }
        if !is_empty("nonResourceURLs") {
            let urls = dig::get(rule, "nonResourceURLs").clone();
            if namespaced {
                let rule = "namespaced rules cannot apply to non-resource URLs";
                wrong.invalid(&at.child("nonResourceURLs"), urls.clone(), rule);
            }
            if !is_empty("apiGroups") || !is_empty("resources") || !is_empty("resourceNames") {
                let rule = "rules cannot apply to both regular resources and non-resource URLs";
                wrong.invalid(&at.child("nonResourceURLs"), urls, rule);
            }
            continue;
        }
        if is_empty("apiGroups") {
            wrong.required(&at.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if is_empty("resources") {
            wrong.required(&at.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

pub(super) fn role_binding(object: &Value, wrong: &mut Wrong) {
    binding(object, &["ClusterRole", "Role"], wrong);
}

pub(super) fn cluster_role_binding(object: &Value, wrong: &mut Wrong) {
    binding(object, &["ClusterRole"], wrong);
}

fn binding(object: &Value, roles: &[&str], wrong: &mut Wrong) {
    let (reference, at) = (dig::get(object, "roleRef"), Path::new("roleRef"));
    let group = dig::text(reference, "apiGroup");
    if group != GROUP {
        wrong.not_supported(&at.child("apiGroup"), group, &[GROUP]);
    }
    let kind = dig::text(reference, "kind");
    if !roles.contains(&kind) {
        wrong.not_supported(&at.child("kind"), kind, roles);
    }
    wrong.name(reference, "name", |name| names::path_segment(name, false), &at);
    let at = Path::new("subjects");
    for (index, subject) in dig::list(object, "subjects").iter().enumerate() {
        self::subject(subject, &at.index(index), wrong);
    }
}

fn subject(subject: &Value, at: &Path, wrong: &mut Wrong) {
    wrong.need_text(subject, "name", at);
    let group = dig::text(subject, "apiGroup");
    match dig::text(subject, "kind") {
        "ServiceAccount" => {
            wrong.text(subject, "name", names::dns1123_subdomain, at);
            if !group.is_empty() {
                wrong.not_supported(&at.child("apiGroup"), group, &[""]);
            }
            wrong.need_text(subject, "namespace", at);
        }
        "User" | "Group" if group != GROUP => wrong.not_supported(&at.child("apiGroup"), group, &[GROUP]),
        "User" | "Group" => {}
        other => wrong.not_supported(&at.child("kind"), other, &SUBJECTS),
    }
}

pub(super) fn binding_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    if !dig::same(dig::get(new, "roleRef"), dig::get(old, "roleRef")) {
        wrong.invalid(&Path::new("roleRef"), dig::get(new, "roleRef").clone(), "cannot change roleRef");
    }
}
