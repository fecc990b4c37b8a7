//! Which defaults belong to which type.
//!
//! Start at [`ROWS`]: a type, its plain defaults (field and JSON, the field a dotted path), and the function that knows
//! the rest, which runs after them.

use super::{others, pods, workloads};
use crate::dig;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::LazyLock;

type Plain = &'static [(&'static str, &'static str)];
type Rest = fn(&mut Value);

/// Nothing but the plain defaults.
fn no_more(_: &mut Value) {}

const FILE_MODE: Plain = &[("defaultMode", "420")];
const SERVICE_PORT: Plain = &[("port", "443")];
const WEBHOOK: Plain = &[
    ("failurePolicy", "\"Fail\""),
    ("matchPolicy", "\"Equivalent\""),
    ("namespaceSelector", "{}"),
    ("objectSelector", "{}"),
    ("timeoutSeconds", "10"),
];
const MATCH_RESOURCES: Plain =
    &[("matchPolicy", "\"Equivalent\""), ("namespaceSelector", "{}"), ("objectSelector", "{}")];
const CONTAINER: Plain =
    &[("terminationMessagePath", "\"/dev/termination-log\""), ("terminationMessagePolicy", "\"File\"")];

/// Types under `io.k8s.api.`, unless the name starts with `io.`.
const ROWS: &[(&str, Plain, Rest)] = &[
    // core
    ("core.v1.Pod", &[], pods::pod),
    (
        "core.v1.PodSpec",
        &[
            ("dnsPolicy", "\"ClusterFirst\""),
            ("restartPolicy", "\"Always\""),
            ("securityContext", "{}"),
            ("terminationGracePeriodSeconds", "30"),
            ("schedulerName", "\"default-scheduler\""),
        ],
        pods::host_ports,
    ),
    ("core.v1.Container", CONTAINER, pods::pull_policy),
    ("core.v1.EphemeralContainer", CONTAINER, pods::pull_policy),
    ("core.v1.ContainerPort", &[("protocol", "\"TCP\"")], no_more),
    (
        "core.v1.Probe",
        &[("timeoutSeconds", "1"), ("periodSeconds", "10"), ("successThreshold", "1"), ("failureThreshold", "3")],
        no_more,
    ),
    ("core.v1.HTTPGetAction", &[("path", "\"/\""), ("scheme", "\"HTTP\"")], no_more),
    ("core.v1.ObjectFieldSelector", &[("apiVersion", "\"v1\"")], no_more),
    ("core.v1.Volume", &[], pods::volume),
    ("core.v1.SecretVolumeSource", FILE_MODE, no_more),
    ("core.v1.ConfigMapVolumeSource", FILE_MODE, no_more),
    ("core.v1.DownwardAPIVolumeSource", FILE_MODE, no_more),
    ("core.v1.ProjectedVolumeSource", FILE_MODE, no_more),
    ("core.v1.ServiceAccountTokenProjection", &[("expirationSeconds", "3600")], no_more),
    ("core.v1.HostPathVolumeSource", &[("type", "\"\"")], no_more),
    ("core.v1.ReplicationController", &[("spec.replicas", "1")], workloads::replication_controller),
    ("core.v1.Service", &[], others::service),
    ("core.v1.EndpointPort", &[("protocol", "\"TCP\"")], no_more),
    ("core.v1.Namespace", &[], others::namespace),
    ("core.v1.NamespaceStatus", &[("phase", "\"Active\"")], no_more),
    ("core.v1.NodeStatus", &[], others::node_status),
    ("core.v1.Secret", &[("type", "\"Opaque\"")], no_more),
    ("core.v1.LimitRangeItem", &[], others::limit_range_item),
    (
        "core.v1.PersistentVolume",
        &[
            ("status.phase", "\"Pending\""),
            ("spec.persistentVolumeReclaimPolicy", "\"Retain\""),
            ("spec.volumeMode", "\"Filesystem\""),
        ],
        no_more,
    ),
    ("core.v1.PersistentVolumeClaim", &[("status.phase", "\"Pending\"")], no_more),
    ("core.v1.PersistentVolumeClaimSpec", &[("volumeMode", "\"Filesystem\"")], no_more),
    // apps and batch
    (
        "apps.v1.Deployment",
        &[
            ("spec.replicas", "1"),
            ("spec.strategy.type", "\"RollingUpdate\""),
            ("spec.revisionHistoryLimit", "10"),
            ("spec.progressDeadlineSeconds", "600"),
        ],
        workloads::deployment,
    ),
    ("apps.v1.ReplicaSet", &[("spec.replicas", "1")], no_more),
    (
        "apps.v1.DaemonSet",
        &[("spec.updateStrategy.type", "\"RollingUpdate\""), ("spec.revisionHistoryLimit", "10")],
        workloads::daemon_set,
    ),
    (
        "apps.v1.StatefulSet",
        &[
            ("spec.podManagementPolicy", "\"OrderedReady\""),
            ("spec.updateStrategy.type", "\"RollingUpdate\""),
            ("spec.persistentVolumeClaimRetentionPolicy.whenDeleted", "\"Retain\""),
            ("spec.persistentVolumeClaimRetentionPolicy.whenScaled", "\"Retain\""),
            ("spec.replicas", "1"),
            ("spec.revisionHistoryLimit", "10"),
        ],
        workloads::stateful_set,
    ),
    (
        "batch.v1.Job",
        &[("spec.completionMode", "\"NonIndexed\""), ("spec.suspend", "false"), ("spec.manualSelector", "false")],
        workloads::job,
    ),
    ("batch.v1.PodFailurePolicyOnPodConditionsPattern", &[("status", "\"True\"")], no_more),
    (
        "batch.v1.CronJob",
        &[
            ("spec.concurrencyPolicy", "\"Allow\""),
            ("spec.suspend", "false"),
            ("spec.successfulJobsHistoryLimit", "3"),
            ("spec.failedJobsHistoryLimit", "1"),
        ],
        no_more,
    ),
    // autoscaling
    ("autoscaling.v1.HorizontalPodAutoscaler", &[("spec.minReplicas", "1")], others::autoscaler_v1),
    ("autoscaling.v2.HorizontalPodAutoscaler", &[("spec.minReplicas", "1")], others::autoscaler_v2),
    // networking and discovery
    ("networking.v1.NetworkPolicy", &[], others::network_policy),
    ("networking.v1.NetworkPolicyPort", &[("protocol", "\"TCP\"")], no_more),
    ("networking.v1.IngressClassParametersReference", &[("scope", "\"Cluster\"")], no_more),
    ("discovery.v1.EndpointPort", &[("name", "\"\""), ("protocol", "\"TCP\"")], no_more),
    // rbac
    ("rbac.v1.RoleRef", &[("apiGroup", "\"rbac.authorization.k8s.io\"")], no_more),
    ("rbac.v1.Subject", &[], others::subject),
    // storage and scheduling
    ("storage.v1.StorageClass", &[("reclaimPolicy", "\"Delete\""), ("volumeBindingMode", "\"Immediate\"")], no_more),
    (
        "storage.v1.CSIDriver",
        &[
            ("spec.attachRequired", "true"),
            ("spec.podInfoOnMount", "false"),
            ("spec.storageCapacity", "false"),
            ("spec.fsGroupPolicy", "\"ReadWriteOnceWithFSType\""),
            ("spec.volumeLifecycleModes", "[\"Persistent\"]"),
            ("spec.requiresRepublish", "false"),
            ("spec.seLinuxMount", "false"),
        ],
        no_more,
    ),
    ("scheduling.v1.PriorityClass", &[("preemptionPolicy", "\"PreemptLowerPriority\"")], no_more),
    // authentication
    ("authentication.v1.TokenRequestSpec", &[("expirationSeconds", "3600")], no_more),
    // flow control
    ("flowcontrol.v1.FlowSchemaSpec", &[("matchingPrecedence", "1000")], no_more),
    (
        "flowcontrol.v1.LimitedPriorityLevelConfiguration",
        &[("nominalConcurrencyShares", "30"), ("lendablePercent", "0")],
        no_more,
    ),
    (
        "flowcontrol.v1.ExemptPriorityLevelConfiguration",
        &[("nominalConcurrencyShares", "0"), ("lendablePercent", "0")],
        no_more,
    ),
    (
        "flowcontrol.v1.QueuingConfiguration",
        &[("handSize", "8"), ("queues", "64"), ("queueLengthLimit", "50")],
        no_more,
    ),
    // admission
    ("admissionregistration.v1.ValidatingWebhook", WEBHOOK, no_more),
    ("admissionregistration.v1.MutatingWebhook", WEBHOOK, others::mutating_webhook),
    ("admissionregistration.v1.RuleWithOperations", &[("scope", "\"*\"")], no_more),
    ("admissionregistration.v1.NamedRuleWithOperations", &[("scope", "\"*\"")], no_more),
    ("admissionregistration.v1.ServiceReference", SERVICE_PORT, no_more),
    ("admissionregistration.v1.ValidatingAdmissionPolicySpec", &[("failurePolicy", "\"Fail\"")], no_more),
    ("admissionregistration.v1.MutatingAdmissionPolicySpec", &[("failurePolicy", "\"Fail\"")], no_more),
    ("admissionregistration.v1.MatchResources", MATCH_RESOURCES, no_more),
    ("admissionregistration.v1.ParamRef", &[("parameterNotFoundAction", "\"Deny\"")], no_more),
    // dynamic resources
    ("resource.v1.ExactDeviceRequest", &[("allocationMode", "\"ExactCount\"")], others::device_count),
    ("resource.v1.DeviceSubRequest", &[("allocationMode", "\"ExactCount\"")], others::device_count),
    // extensions of the API
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionSpec",
        &[("conversion.strategy", "\"None\"")],
        others::definition,
    ),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.ServiceReference", SERVICE_PORT, no_more),
    ("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.ServiceReference", SERVICE_PORT, no_more),
];

/// What is defaulted in one type.
pub(super) struct Row {
    plain: Vec<(&'static str, Value)>,
    rest: Rest,
}

static BY_TYPE: LazyLock<BTreeMap<&'static str, Row>> = LazyLock::new(|| {
    let parsed = |json: &str| serde_json::from_str(json).expect("the table holds JSON; a test reads every row");
    let row = |plain: Plain, rest| Row { plain: plain.iter().map(|(at, json)| (*at, parsed(json))).collect(), rest };
    ROWS.iter().map(|(name, plain, rest)| (*name, row(plain, *rest))).collect()
});

/// The row of a type, by its full name.
pub(super) fn row(name: &str) -> Option<&'static Row> {
    BY_TYPE.get(name.strip_prefix("io.k8s.api.").unwrap_or(name))
}

impl Row {
    pub(super) fn apply(&self, value: &mut Value) {
        for (path, default) in &self.plain {
            set(value, path, default);
        }
        (self.rest)(value);
    }
}

/// Puts `default` at `path` unless something is there. An empty text or a 0 counts as nothing where the default is
/// none itself, as it does in Go's plain fields.
pub(super) fn set(value: &mut Value, path: &str, default: &Value) {
    let there = dig::get(value, path);
    let go_zero = match there {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Number(_) => dig::is_zero(there) && ZERO_IS_UNSET.contains(&path),
        _ => false,
    };
    if go_zero {
        dig::put(value, path, default.clone());
    }
}

/// Number fields without a pointer in Go: their zero is absence.
const ZERO_IS_UNSET: [&str; 7] = [
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
    "handSize",
    "queues",
    "queueLengthLimit",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_names_a_type_and_its_fields() {
        for (name, plain, _) in ROWS {
            let full = if name.starts_with("io.") { (*name).to_owned() } else { format!("io.k8s.api.{name}") };
            let ty = crate::schema::find(&full).unwrap_or_else(|| panic!("no type {full}"));
            for (path, json) in *plain {
                let field = path.split('.').next().expect("a path has a first step");
                assert!(ty.field(field).is_some(), "{full} has no field {field}");
                assert!(serde_json::from_str::<Value>(json).is_ok(), "{full}.{path} = {json}");
            }
        }
        assert_eq!(BY_TYPE.len(), ROWS.len(), "no type twice");
    }
}
