//! The rules of pods and of the templates that pods are made from.
//!
//! Start at [`create`], [`spec`] and [`update`].

use super::containers::{self, ID_MAX};
use super::volumes;
use super::wrong::{Wrong, is_empty_selector};
use crate::dig;
use crate::field::Path;
use crate::names;
use serde_json::{Value, json};

const SPEC: Path<'static> = Path::new("spec");
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                         `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` \
                         (allow it to be set to 1 if it was previously negative)";

pub(super) fn create(pod: &Value, wrong: &mut Wrong) {
    spec(dig::get(pod, "spec"), &SPEC, wrong);
    if !dig::list(pod, "spec.ephemeralContainers").is_empty() {
        wrong.forbidden(&SPEC.child("ephemeralContainers"), "cannot be set on create");
    }
}

/// The spec of a pod or of a template.
pub(super) fn spec(spec: &Value, at: &Path, wrong: &mut Wrong) {
    volumes::all(spec, &at.child("volumes"), wrong);
    containers::all(spec, at, wrong);
    wrong.one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], at);
    wrong.one_of(spec, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], at);
    dns(spec, at, wrong);
    if !dig::map(spec, "nodeSelector").is_empty() {
        super::meta::labels(dig::get(spec, "nodeSelector"), &at.child("nodeSelector"), &mut wrong.0);
    }
    security(spec, at, wrong);
    placement(spec, at, wrong);
    wrong.text(spec, "serviceAccountName", names::dns1123_subdomain, at);
    wrong.text(spec, "nodeName", names::dns1123_subdomain, at);
    wrong.text(spec, "hostname", names::dns1123_label, at);
    wrong.text(spec, "subdomain", names::dns1123_label, at);
    wrong.text(spec, "runtimeClassName", names::dns1123_subdomain, at);
    wrong.in_range(spec, "activeDeadlineSeconds", 1, ID_MAX, at);
    wrong.text(spec, "priorityClassName", names::dns1123_subdomain, at);
    if dig::has(spec, "os") {
        wrong.one_of(dig::get(spec, "os"), "name", &["linux", "windows"], &at.child("os"));
    }
    let at_secrets = at.child("imagePullSecrets");
    for (index, secret) in dig::list(spec, "imagePullSecrets").iter().enumerate() {
        wrong.need_text(secret, "name", &at_secrets.index(index));
    }
    let at_aliases = at.child("hostAliases");
    for (index, alias) in dig::list(spec, "hostAliases").iter().enumerate() {
        let at = at_aliases.index(index);
        let ip = dig::text(alias, "ip");
        wrong.all(&at.child("ip"), ip, names::ip(ip));
        for name in dig::texts(alias, "hostnames") {
            wrong.all(&at.child("hostnames"), name, names::dns1123_subdomain(name));
        }
    }
    if dig::has(spec, "resources") {
        containers::resources(dig::get(spec, "resources"), &at.child("resources"), wrong);
    }
}

fn dns(spec: &Value, at: &Path, wrong: &mut Wrong) {
    let config = dig::get(spec, "dnsConfig");
    let servers = dig::texts(config, "nameservers");
    if dig::text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            wrong.required(&at.child("dnsConfig"), "must provide `dnsConfig` when `dnsPolicy` is None");
        } else if servers.is_empty() {
            let at = at.child("dnsConfig");
            wrong.required(
                &at.child("nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
        }
    }
    let at = at.child("dnsConfig");
    let at_servers = at.child("nameservers");
    if servers.len() > NAMESERVERS_MAX {
        wrong.invalid(&at_servers, json!(servers), format!("must not have more than {NAMESERVERS_MAX} nameservers"));
    }
    for (index, server) in servers.into_iter().enumerate() {
        wrong.all(&at_servers.index(index), server, names::ip(server));
    }
    let searches = dig::texts(config, "searches");
    if searches.len() > SEARCHES_MAX {
        wrong.invalid(
            &at.child("searches"),
            json!(searches),
            format!("must not have more than {SEARCHES_MAX} search paths"),
        );
    }
    let at_options = at.child("options");
    for (index, option) in dig::list(config, "options").iter().enumerate() {
        if dig::text(option, "name").is_empty() {
            wrong.required(&at_options.index(index), "must not be empty");
        }
    }
}

fn security(spec: &Value, at: &Path, wrong: &mut Wrong) {
    let context = dig::get(spec, "securityContext");
    let at_context = at.child("securityContext");
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        wrong.in_range(context, field, 0, ID_MAX, &at_context);
    }
    let groups = at_context.child("supplementalGroups");
    for (index, group) in dig::list(context, "supplementalGroups").iter().enumerate() {
        let id = group.as_i64().unwrap_or(-1);
        wrong.all(&groups.index(index), id, names::range(id, 0, ID_MAX));
    }
    wrong.one_of_if_set(context, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], &at_context);
    containers::seccomp(dig::get(context, "seccompProfile"), &at_context.child("seccompProfile"), wrong);
    let at_sysctls = at_context.child("sysctls");
    for (index, sysctl) in dig::list(context, "sysctls").iter().enumerate() {
        wrong.need_text(sysctl, "name", &at_sysctls.index(index));
    }
    if dig::flag(spec, "shareProcessNamespace") && dig::flag(spec, "hostPID") {
        let rule = "ShareProcessNamespace and HostPID cannot both be enabled";
        wrong.invalid(&at.child("shareProcessNamespace"), true, rule);
    }
}

fn placement(spec: &Value, at: &Path, wrong: &mut Wrong) {
    tolerations(spec, &at.child("tolerations"), wrong);
    affinity(dig::get(spec, "affinity"), &at.child("affinity"), wrong);
    let at_gates = at.child("readinessGates");
    for (index, gate) in dig::list(spec, "readinessGates").iter().enumerate() {
        let condition = dig::text(gate, "conditionType");
        wrong.all(&at_gates.index(index).child("conditionType"), condition, names::qualified_name(condition));
    }
    let (at_gates, mut taken) = (at.child("schedulingGates"), Vec::new());
    for (index, gate) in dig::list(spec, "schedulingGates").iter().enumerate() {
        let name = dig::text(gate, "name");
        wrong.all(&at_gates.index(index), name, names::qualified_name(name));
        if taken.contains(&name) {
            wrong.duplicate(&at_gates.index(index), name);
        }
        taken.push(name);
    }
    if !taken.is_empty() && !dig::text(spec, "nodeName").is_empty() {
        wrong.forbidden(&at.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
    spreading(spec, &at.child("topologySpreadConstraints"), wrong);
}

fn tolerations(spec: &Value, at: &Path, wrong: &mut Wrong) {
    for (index, toleration) in dig::list(spec, "tolerations").iter().enumerate() {
        let at = at.index(index);
        wrong.text(toleration, "key", names::qualified_name, &at);
        let operator = dig::text(toleration, "operator");
        if dig::text(toleration, "key").is_empty() && operator != "Exists" {
            let rule = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            wrong.invalid(&at.child("operator"), operator, rule);
        }
        let effect = dig::text(toleration, "effect");
        if dig::has(toleration, "tolerationSeconds") && effect != "NoExecute" {
            wrong.invalid(&at.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "" | "Equal" => wrong.text(toleration, "value", names::label_value, &at),
            "Exists" if !dig::text(toleration, "value").is_empty() => {
                wrong.invalid(
                    &at.child("operator"),
                    dig::text(toleration, "value"),
                    "value must be empty when `operator` is 'Exists'",
                );
            }
            "Exists" | "Lt" | "Gt" => {}
            other => wrong.not_supported(&at.child("operator"), other, &["Equal", "Exists"]),
        }
        wrong.one_of_if_set(toleration, "effect", &EFFECTS, &at);
    }
}

fn affinity(affinity: &Value, at: &Path, wrong: &mut Wrong) {
    let node = at.child("nodeAffinity");
    let required = dig::get(affinity, "nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution");
    if !required.is_null() {
        let at = node.child("requiredDuringSchedulingIgnoredDuringExecution");
        node_selector(required, &at, wrong);
    }
    let at_preferred = node.child("preferredDuringSchedulingIgnoredDuringExecution");
    let preferred = dig::list(affinity, "nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution");
    for (index, term) in preferred.iter().enumerate() {
        let at = at_preferred.index(index);
        weight(term, &at, wrong);
        node_term(dig::get(term, "preference"), &at.child("preference"), wrong);
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        let (terms, at) = (dig::get(affinity, side), at.child(side));
        let at_required = at.child("requiredDuringSchedulingIgnoredDuringExecution");
        for (index, term) in dig::list(terms, "requiredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
            pod_term(term, &at_required.index(index), wrong);
        }
        let at_preferred = at.child("preferredDuringSchedulingIgnoredDuringExecution");
        for (index, term) in dig::list(terms, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
            let at = at_preferred.index(index);
            weight(term, &at, wrong);
            pod_term(dig::get(term, "podAffinityTerm"), &at.child("podAffinityTerm"), wrong);
        }
    }
}

fn weight(term: &Value, at: &Path, wrong: &mut Wrong) {
    let weight = dig::int(term, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        wrong.invalid(&at.child("weight"), weight, "must be in the range 1-100");
    }
}

/// Terms of which one must hold.
pub(super) fn node_selector(selector: &Value, at: &Path, wrong: &mut Wrong) {
    let at = at.child("nodeSelectorTerms");
    let terms = dig::list(selector, "nodeSelectorTerms");
    if terms.is_empty() {
        wrong.required(&at, "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        node_term(term, &at.index(index), wrong);
    }
}

fn node_term(term: &Value, at: &Path, wrong: &mut Wrong) {
    for list in ["matchExpressions", "matchFields"] {
        let at = at.child(list);
        for (index, expression) in dig::list(term, list).iter().enumerate() {
            let (at, values) = (at.index(index), dig::list(expression, "values"));
            match dig::text(expression, "operator") {
                "In" | "NotIn" if values.is_empty() => {
                    wrong.required(&at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    let rule = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    wrong.forbidden(&at.child("values"), rule);
                }
                "Gt" | "Lt" if values.len() != 1 => {
                    let rule = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    wrong.required(&at.child("values"), rule);
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                other => wrong.invalid(&at.child("operator"), other, "not a valid selector operator"),
            }
            let key = dig::text(expression, "key");
            if list == "matchExpressions" {
                wrong.all(&at.child("key"), key, names::qualified_name(key));
            }
        }
    }
}

fn pod_term(term: &Value, at: &Path, wrong: &mut Wrong) {
    for field in ["labelSelector", "namespaceSelector"] {
        wrong.selector(dig::get(term, field), &at.child(field));
    }
    let key = dig::text(term, "topologyKey");
    if key.is_empty() {
        wrong.required(&at.child("topologyKey"), "can not be empty");
    }
    wrong.all(&at.child("topologyKey"), key, names::qualified_name(key));
}

fn spreading(spec: &Value, at: &Path, wrong: &mut Wrong) {
    let mut taken = Vec::new();
    for (index, constraint) in dig::list(spec, "topologySpreadConstraints").iter().enumerate() {
        let at = at.index(index);
        let skew = dig::int(constraint, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            wrong.invalid(&at.child("maxSkew"), skew, "must be greater than zero");
        }
        let key = dig::text(constraint, "topologyKey");
        if key.is_empty() {
            wrong.required(&at.child("topologyKey"), "can not be empty");
        }
        wrong.one_of(constraint, "whenUnsatisfiable", &["DoNotSchedule", "ScheduleAnyway"], &at);
        let pair = (key, dig::text(constraint, "whenUnsatisfiable"));
        if taken.contains(&pair) {
            wrong.duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), format!("{{{}, {}}}", pair.0, pair.1));
        }
        taken.push(pair);
        wrong.selector(dig::get(constraint, "labelSelector"), &at.child("labelSelector"));
        if dig::has(constraint, "minDomains") && pair.1 != "DoNotSchedule" {
            let rule = "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway";
            wrong.invalid(&at.child("minDomains"), dig::get(constraint, "minDomains").clone(), rule);
        }
        if is_empty_selector(dig::get(constraint, "labelSelector"))
            && !dig::list(constraint, "matchLabelKeys").is_empty()
        {
            wrong.forbidden(&at.child("matchLabelKeys"), "must not be specified when labelSelector is not set");
        }
    }
}

/// A template: its labels and its spec.
pub(super) fn template(template: &Value, at: &Path, wrong: &mut Wrong) {
    let metadata = at.child("metadata");
    super::meta::labels(dig::get(template, "metadata.labels"), &metadata.child("labels"), &mut wrong.0);
    spec(dig::get(template, "spec"), &at.child("spec"), wrong);
    if !dig::list(template, "spec.ephemeralContainers").is_empty() {
        let spec = at.child("spec");
        wrong.forbidden(&spec.child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// A pod in the place of another: hardly anything but images can change.
pub(super) fn update(new: &Value, old: &Value, wrong: &mut Wrong) {
    let (new_spec, old_spec) = (dig::get(new, "spec"), dig::get(old, "spec"));
    let count = |spec: &Value, list: &str| dig::list(spec, list).len();
    for (list, what) in [("containers", "containers"), ("initContainers", "init containers")] {
        if count(new_spec, list) != count(old_spec, list) {
            wrong.forbidden(&SPEC.child(list), format!("pod updates may not add or remove {what}"));
            return;
        }
        let at = SPEC.child(list);
        for (index, container) in dig::list(new_spec, list).iter().enumerate() {
            if dig::text(container, "image").is_empty() {
                wrong.required(&at.index(index).child("image"), "");
            }
        }
    }
    deadline(new_spec, old_spec, wrong);
    added_tolerations(new_spec, old_spec, wrong);
    removed_gates(new_spec, old_spec, wrong);
    let changed = changed_fields(new_spec, old_spec);
    if !changed.is_empty() {
        let rule = format!("pod updates may not change fields other than {UPDATABLE}\nchanged: {}", changed.join(", "));
        wrong.forbidden(&SPEC, rule);
    }
}

/// A deadline can be set and shortened.
fn deadline(new: &Value, old: &Value, wrong: &mut Wrong) {
    let field = "activeDeadlineSeconds";
    let at = SPEC.child(field);
    match (dig::int(new, field), dig::int(old, field)) {
        (Some(new), _) if !(0..=ID_MAX).contains(&new) => wrong.all(&at, new, names::range(new, 0, ID_MAX)),
        (Some(new), Some(old)) if new > old => {
            wrong.invalid(&at, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => wrong.invalid(&at, Value::Null, "must not update from a positive integer to nil value"),
        _ => {}
    }
}

fn added_tolerations(new: &Value, old: &Value, wrong: &mut Wrong) {
    let bare = |toleration: &Value| {
        let mut bare = toleration.clone();
        dig::remove(&mut bare, "tolerationSeconds");
        bare
    };
    let kept: Vec<Value> = dig::list(new, "tolerations").iter().map(bare).collect();
    if dig::list(old, "tolerations").iter().any(|one| !kept.contains(&bare(one))) {
        let rule = "existing toleration can not be modified except its tolerationSeconds";
        wrong.forbidden(&SPEC.child("tolerations"), rule);
    }
}

fn removed_gates(new: &Value, old: &Value, wrong: &mut Wrong) {
    let known: Vec<&str> = dig::list(old, "schedulingGates").iter().map(|gate| dig::text(gate, "name")).collect();
    let at = SPEC.child("schedulingGates");
    for (index, gate) in dig::list(new, "schedulingGates").iter().enumerate() {
        let name = dig::text(gate, "name");
        if !known.contains(&name) {
            let rule = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            wrong.forbidden(&at.index(index), rule);
        }
    }
}

/// The fields of the spec that differ and must not.
fn changed_fields(new: &Value, old: &Value) -> Vec<String> {
    let mut sides = [new.clone(), old.clone()];
    // A gated pod has not been looked at by a scheduler: where it may go can still be narrowed.
    let gated = !dig::list(old, "schedulingGates").is_empty();
    for side in &mut sides {
        for list in ["containers", "initContainers"] {
            for container in dig::items_mut(side, list) {
                dig::remove(container, "image");
            }
        }
        for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
            dig::remove(side, field);
        }
        if gated {
            dig::remove(side, "nodeSelector");
            dig::remove(side, "affinity");
        }
    }
    let was_negative = dig::int(old, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0);
    if was_negative && dig::int(new, "terminationGracePeriodSeconds") == Some(1) {
        sides.iter_mut().for_each(|side| drop(dig::remove(side, "terminationGracePeriodSeconds")));
    }
    let [new, old] = &sides;
    let mut fields: Vec<String> =
        [new, old].iter().flat_map(|side| side.as_object()).flat_map(|it| it.keys().cloned()).collect();
    fields.sort();
    fields.dedup();
    fields.retain(|field| !dig::same(dig::get(new, field), dig::get(old, field)));
    fields
}

/// New ephemeral containers are added; those there stay.
pub(super) fn ephemeral_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    let at = SPEC.child("ephemeralContainers");
    spec(dig::get(new, "spec"), &SPEC, wrong);
    for container in dig::list(old, "spec.ephemeralContainers") {
        let name = dig::text(container, "name");
        let kept = dig::list(new, "spec.ephemeralContainers").iter().find(|one| dig::text(one, "name") == name);
        match kept {
            None => wrong.forbidden(&at, format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(kept) if !dig::same(kept, container) => {
                wrong.forbidden(&at, format!("existing ephemeral containers {name:?} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}
