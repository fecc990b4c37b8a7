//! What an object must obey beyond its schema: upstream's rules, in upstream's words.
//!
//! Start at [`create`] and [`update`]; [`RULES`] names who knows each kind. The functions expect an object that was
//! checked by its schema and defaulted, and give every broken rule, none when all is well.
//!
//! Invariant: nothing here looks at another object, the clock or the store.
//!
//! Custom resources obey the schema of their definition (`custom`).
//!
//! Not here: rules that need other objects (admission, see `apiserver`), structure and unknown fields (`check`).

mod config;
mod containers;
#[cfg(test)]
mod examples;
mod extensions;
mod meta;
mod pods;
mod rbac;
mod services;
mod storage;
mod volumes;
mod workloads;
mod wrong;

pub use config::DATA_BYTES_MAX;
pub use meta::{ANNOTATION_BYTES_MAX, name_rule};

use crate::custom;
use crate::field::{ErrorKind, FieldError};
use crate::kinds::Kind;
use serde_json::Value;
use wrong::Wrong;

/// Rules of an object by itself; they hold after an update as well.
type Whole = fn(&Value, &mut Wrong);
/// Rules of an object in the place of another.
type Change = fn(&Value, &Value, &mut Wrong);

/// A group, a plural, and the kind's rules.
type Row = (&'static str, &'static str, Whole, Change);

fn free(_: &Value, _: &Value, _: &mut Wrong) {}

const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";

/// Kinds with rules of their own. Pods are apart: a pod's rules for its spec do not apply again to an update.
const RULES: &[Row] = &[
    ("", "configmaps", config::config_map, config::config_map_update),
    ("", "secrets", config::secret, config::secret_update),
    ("", "namespaces", config::namespace, free),
    ("", "nodes", config::node, config::node_update),
    ("", "events", config::event, free),
    ("events.k8s.io", "events", config::event, free),
    ("", "services", services::service, services::service_update),
    ("", "endpoints", services::endpoints, free),
    ("", "persistentvolumes", storage::volume, storage::volume_update),
    ("", "persistentvolumeclaims", storage::claim, storage::claim_update),
    ("", "resourcequotas", storage::quota, storage::quota_update),
    ("", "limitranges", storage::limit_range, free),
    ("", "podtemplates", workloads::pod_template, free),
    ("", "replicationcontrollers", workloads::replication_controller, free),
    ("apps", "deployments", workloads::deployment, workloads::selector_fixed),
    ("apps", "replicasets", workloads::replica_set, workloads::selector_fixed),
    ("apps", "daemonsets", workloads::daemon_set, workloads::selector_fixed),
    ("apps", "statefulsets", workloads::stateful_set, workloads::stateful_set_update),
    ("apps", "controllerrevisions", workloads::revision, workloads::revision_update),
    ("batch", "jobs", workloads::job, workloads::job_update),
    ("batch", "cronjobs", workloads::cron_job, free),
    ("autoscaling", "horizontalpodautoscalers", workloads::autoscaler, free),
    ("policy", "poddisruptionbudgets", workloads::disruption_budget, free),
    ("discovery.k8s.io", "endpointslices", services::slice, services::slice_update),
    (NETWORKING, "ingresses", services::ingress, free),
    (NETWORKING, "ingressclasses", services::ingress_class, services::ingress_class_update),
    (NETWORKING, "networkpolicies", services::network_policy, free),
    (RBAC, "roles", rbac::role, free),
    (RBAC, "clusterroles", rbac::cluster_role, free),
    (RBAC, "rolebindings", rbac::role_binding, rbac::binding_update),
    (RBAC, "clusterrolebindings", rbac::cluster_role_binding, rbac::binding_update),
    ("storage.k8s.io", "storageclasses", storage::class, storage::class_update),
    ("scheduling.k8s.io", "priorityclasses", config::priority_class, config::priority_class_update),
    ("node.k8s.io", "runtimeclasses", config::runtime_class, config::runtime_class_update),
    ("coordination.k8s.io", "leases", config::lease, free),
    ("apiextensions.k8s.io", "customresourcedefinitions", extensions::definition, extensions::definition_update),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", extensions::webhooks, free),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", extensions::webhooks, free),
];

fn row(kind: &Kind) -> Option<&'static Row> {
    RULES.iter().find(|(group, plural, _, _)| *plural == kind.plural && *group == kind.group)
}

fn is_pod(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "pods"
}

/// What is wrong with a new object.
pub fn create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut wrong = Wrong(meta::create(kind, object));
    if is_pod(kind) {
        pods::create(object, &mut wrong);
    }
    if let Some((_, _, whole, _)) = row(kind) {
        whole(object, &mut wrong);
    }
    wrong.0.extend(custom_errors(kind, object, None));
    wrong.0
}

/// What is wrong with `new` in the place of `old`.
pub fn update(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut wrong = Wrong(meta::update(new, old));
    if is_pod(kind) {
        pods::update(new, old, &mut wrong);
    }
    if let Some((_, _, whole, change)) = row(kind) {
        whole(new, &mut wrong);
        change(new, old, &mut wrong);
    }
    wrong.0.extend(custom_errors(kind, new, Some(old)));
    wrong.0
}

/// What a definition's schema says against an object. What was as wrong before and has not changed is let pass, so that
/// a stricter schema does not lock the objects that there are.
fn custom_errors(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let Some(own) = &kind.own else { return Vec::new() };
    let mut errors = custom::check(&own.schema, new);
    if let Some(old) = old.filter(|_| !errors.is_empty()) {
        let known = custom::check(&own.schema, old);
        errors.retain(|error| !(has_value(error) && known.contains(error)));
    }
    errors
}

fn has_value(error: &FieldError) -> bool {
    matches!(error.kind, ErrorKind::Invalid | ErrorKind::NotSupported | ErrorKind::TypeInvalid | ErrorKind::Duplicate)
}

/// What is wrong with `new` as the outcome of a write to a subresource: such a write changes what the object itself may
/// not, so the kind's own rules do not apply.
pub fn subresource_update(kind: &Kind, subresource: &str, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut wrong = Wrong(meta::update(new, old));
    match subresource {
        "scale" => return update(kind, new, old),
        _ if kind.own.is_some() => wrong.0.extend(custom_errors(kind, new, Some(old))),
        "ephemeralcontainers" if is_pod(kind) => pods::ephemeral_update(new, old, &mut wrong),
        _ => {}
    }
    wrong.0
}

/// What is wrong with `new` as the outcome of a write to the status subresource.
pub fn status_update(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    subresource_update(kind, "status", new, old)
}
