//! The rows of the table of kinds, as upstream's v1.36 discovery prints them.
//!
//! Start at [`GROUPS`]: groups in discovery's order, then one row a kind, sorted by plural as discovery sorts.
//! A row's last word lists subresources; what each of those speaks and allows is in [`subresource`].
//!
//! Not here: looking rows up (`kinds.rs`).

use super::{Kind, Subresource, Verbs};
use crate::schema::{Text, Type, TypeRef, find_ref};

/// Group, version, the prefix of its types' OpenAPI names, rows.
type Group = (&'static str, &'static str, &'static str, &'static [Row]);

/// Plural, kind, short names, categories, scope, verbs, subresources.
type Row = (&'static str, &'static str, &'static str, &'static str, Scope, Verbs, &'static str);

#[derive(Clone, Copy, PartialEq)]
enum Scope {
    Cluster,
    Namespace,
}

use Scope::{Cluster, Namespace};

const ALL: Verbs = Verbs::ALL;
const CREATE: Verbs = Verbs::CREATE;
const READ: Verbs = Verbs::GET.and(Verbs::LIST);
const ONE_BY_ONE: Verbs = Verbs::ALL.without(Verbs::DELETE_COLLECTION);

#[rustfmt::skip] // One row a line: this is a table.
const GROUPS: &[Group] = &[
    ("", "v1", "io.k8s.api.core.v1.", &[
        ("bindings", "Binding", "", "", Namespace, CREATE, ""),
        ("componentstatuses", "ComponentStatus", "cs", "", Cluster, READ, ""),
        ("configmaps", "ConfigMap", "cm", "", Namespace, ALL, ""),
        ("endpoints", "Endpoints", "ep", "", Namespace, ALL, ""),
        ("events", "Event", "ev", "", Namespace, ALL, ""),
        ("limitranges", "LimitRange", "limits", "", Namespace, ALL, ""),
        ("namespaces", "Namespace", "ns", "", Cluster, ONE_BY_ONE, "finalize status"),
        ("nodes", "Node", "no", "", Cluster, ALL, "proxy status"),
        ("persistentvolumeclaims", "PersistentVolumeClaim", "pvc", "", Namespace, ALL, "status"),
        ("persistentvolumes", "PersistentVolume", "pv", "", Cluster, ALL, "status"),
        ("pods", "Pod", "po", "all", Namespace, ALL, "attach binding ephemeralcontainers eviction exec log portforward proxy resize status"),
        ("podtemplates", "PodTemplate", "", "", Namespace, ALL, ""),
        ("replicationcontrollers", "ReplicationController", "rc", "all", Namespace, ALL, "scale status"),
        ("resourcequotas", "ResourceQuota", "quota", "", Namespace, ALL, "status"),
        ("secrets", "Secret", "", "", Namespace, ALL, ""),
        ("serviceaccounts", "ServiceAccount", "sa", "", Namespace, ALL, "token"),
        ("services", "Service", "svc", "all", Namespace, ALL, "proxy status"),
    ]),
    ("apiregistration.k8s.io", "v1", "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.", &[
        ("apiservices", "APIService", "", "api-extensions", Cluster, ALL, "status"),
    ]),
    ("apps", "v1", "io.k8s.api.apps.v1.", &[
        ("controllerrevisions", "ControllerRevision", "", "", Namespace, ALL, ""),
        ("daemonsets", "DaemonSet", "ds", "all", Namespace, ALL, "status"),
        ("deployments", "Deployment", "deploy", "all", Namespace, ALL, "scale status"),
        ("replicasets", "ReplicaSet", "rs", "all", Namespace, ALL, "scale status"),
        ("statefulsets", "StatefulSet", "sts", "all", Namespace, ALL, "scale status"),
    ]),
    ("events.k8s.io", "v1", "io.k8s.api.events.v1.", &[
        ("events", "Event", "ev", "", Namespace, ALL, ""),
    ]),
    ("authentication.k8s.io", "v1", "io.k8s.api.authentication.v1.", &[
        ("selfsubjectreviews", "SelfSubjectReview", "", "", Cluster, CREATE, ""),
        ("tokenreviews", "TokenReview", "", "", Cluster, CREATE, ""),
    ]),
    ("authorization.k8s.io", "v1", "io.k8s.api.authorization.v1.", &[
        ("localsubjectaccessreviews", "LocalSubjectAccessReview", "", "", Namespace, CREATE, ""),
        ("selfsubjectaccessreviews", "SelfSubjectAccessReview", "", "", Cluster, CREATE, ""),
        ("selfsubjectrulesreviews", "SelfSubjectRulesReview", "", "", Cluster, CREATE, ""),
        ("subjectaccessreviews", "SubjectAccessReview", "", "", Cluster, CREATE, ""),
    ]),
    ("autoscaling", "v2", "io.k8s.api.autoscaling.v2.", &[
        ("horizontalpodautoscalers", "HorizontalPodAutoscaler", "hpa", "all", Namespace, ALL, "status"),
    ]),
    ("autoscaling", "v1", "io.k8s.api.autoscaling.v1.", &[
        ("horizontalpodautoscalers", "HorizontalPodAutoscaler", "hpa", "all", Namespace, ALL, "status"),
    ]),
    ("batch", "v1", "io.k8s.api.batch.v1.", &[
        ("cronjobs", "CronJob", "cj", "all", Namespace, ALL, "status"),
        ("jobs", "Job", "", "all", Namespace, ALL, "status"),
    ]),
    ("certificates.k8s.io", "v1", "io.k8s.api.certificates.v1.", &[
        ("certificatesigningrequests", "CertificateSigningRequest", "csr", "", Cluster, ALL, "approval status"),
    ]),
    ("networking.k8s.io", "v1", "io.k8s.api.networking.v1.", &[
        ("ingressclasses", "IngressClass", "", "", Cluster, ALL, ""),
        ("ingresses", "Ingress", "ing", "", Namespace, ALL, "status"),
        ("ipaddresses", "IPAddress", "ip", "", Cluster, ALL, ""),
        ("networkpolicies", "NetworkPolicy", "netpol", "", Namespace, ALL, ""),
        ("servicecidrs", "ServiceCIDR", "", "", Cluster, ALL, "status"),
    ]),
    ("policy", "v1", "io.k8s.api.policy.v1.", &[
        ("poddisruptionbudgets", "PodDisruptionBudget", "pdb", "", Namespace, ALL, "status"),
    ]),
    ("rbac.authorization.k8s.io", "v1", "io.k8s.api.rbac.v1.", &[
        ("clusterrolebindings", "ClusterRoleBinding", "", "", Cluster, ALL, ""),
        ("clusterroles", "ClusterRole", "", "", Cluster, ALL, ""),
        ("rolebindings", "RoleBinding", "", "", Namespace, ALL, ""),
        ("roles", "Role", "", "", Namespace, ALL, ""),
    ]),
    ("storage.k8s.io", "v1", "io.k8s.api.storage.v1.", &[
        ("csidrivers", "CSIDriver", "", "", Cluster, ALL, ""),
        ("csinodes", "CSINode", "", "", Cluster, ALL, ""),
        ("csistoragecapacities", "CSIStorageCapacity", "", "", Namespace, ALL, ""),
        ("storageclasses", "StorageClass", "sc", "", Cluster, ALL, ""),
        ("volumeattachments", "VolumeAttachment", "", "", Cluster, ALL, "status"),
        ("volumeattributesclasses", "VolumeAttributesClass", "vac", "", Cluster, ALL, ""),
    ]),
    ("admissionregistration.k8s.io", "v1", "io.k8s.api.admissionregistration.v1.", &[
        ("mutatingadmissionpolicies", "MutatingAdmissionPolicy", "", "api-extensions", Cluster, ALL, ""),
        ("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", "", "api-extensions", Cluster, ALL, ""),
        ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", "", "api-extensions", Cluster, ALL, ""),
        ("validatingadmissionpolicies", "ValidatingAdmissionPolicy", "", "api-extensions", Cluster, ALL, "status"),
        ("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", "", "api-extensions", Cluster, ALL, ""),
        ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", "", "api-extensions", Cluster, ALL, ""),
    ]),
    ("apiextensions.k8s.io", "v1", "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.", &[
        ("customresourcedefinitions", "CustomResourceDefinition", "crd crds", "api-extensions", Cluster, ALL, "status"),
    ]),
    ("scheduling.k8s.io", "v1", "io.k8s.api.scheduling.v1.", &[
        ("priorityclasses", "PriorityClass", "pc", "", Cluster, ALL, ""),
    ]),
    ("coordination.k8s.io", "v1", "io.k8s.api.coordination.v1.", &[
        ("leases", "Lease", "", "", Namespace, ALL, ""),
    ]),
    ("node.k8s.io", "v1", "io.k8s.api.node.v1.", &[
        ("runtimeclasses", "RuntimeClass", "", "", Cluster, ALL, ""),
    ]),
    ("discovery.k8s.io", "v1", "io.k8s.api.discovery.v1.", &[
        ("endpointslices", "EndpointSlice", "", "", Namespace, ALL, ""),
    ]),
    ("resource.k8s.io", "v1", "io.k8s.api.resource.v1.", &[
        ("deviceclasses", "DeviceClass", "", "", Cluster, ALL, ""),
        ("resourceclaims", "ResourceClaim", "", "", Namespace, ALL, "status"),
        ("resourceclaimtemplates", "ResourceClaimTemplate", "", "", Namespace, ALL, ""),
        ("resourceslices", "ResourceSlice", "", "", Cluster, ALL, ""),
    ]),
    ("flowcontrol.apiserver.k8s.io", "v1", "io.k8s.api.flowcontrol.v1.", &[
        ("flowschemas", "FlowSchema", "", "", Cluster, ALL, "status"),
        ("prioritylevelconfigurations", "PriorityLevelConfiguration", "", "", Cluster, ALL, "status"),
    ]),
];

/// What a subresource speaks, where it is not the kind of its object, and what it allows.
fn subresource(plural: &str, name: &str) -> (Option<(&'static str, &'static str, &'static str)>, Verbs) {
    const CHANGE: Verbs = Verbs::GET.and(Verbs::PATCH).and(Verbs::UPDATE);
    const CONNECT: Verbs = Verbs::CREATE.and(Verbs::GET);
    const PROXY: Verbs = CHANGE.and(Verbs::CREATE).and(Verbs::DELETE);
    match (plural, name) {
        ("pods", "attach") => (Some(("", "v1", "PodAttachOptions")), CONNECT),
        ("pods", "binding") => (Some(("", "v1", "Binding")), CREATE),
        ("pods", "eviction") => (Some(("policy", "v1", "Eviction")), CREATE),
        ("pods", "exec") => (Some(("", "v1", "PodExecOptions")), CONNECT),
        ("pods", "log") => (None, Verbs::GET),
        ("pods", "portforward") => (Some(("", "v1", "PodPortForwardOptions")), CONNECT),
        ("pods", "proxy") => (Some(("", "v1", "PodProxyOptions")), PROXY),
        ("services", "proxy") => (Some(("", "v1", "ServiceProxyOptions")), PROXY),
        ("nodes", "proxy") => (Some(("", "v1", "NodeProxyOptions")), PROXY),
        ("serviceaccounts", "token") => (Some(("authentication.k8s.io", "v1", "TokenRequest")), CREATE),
        ("namespaces", "finalize") => (None, Verbs::UPDATE),
        (_, "scale") => (Some(("autoscaling", "v1", "Scale")), CHANGE),
        _ => (None, CHANGE),
    }
}

/// Where objects are stored, if not in their own group and version.
fn storage(group: &'static str, version: &'static str) -> (&'static str, &'static str) {
    match (group, version) {
        ("events.k8s.io", _) => ("", "v1"),
        ("autoscaling", _) => ("autoscaling", "v2"),
        same => same,
    }
}

/// The table, as values.
pub(super) fn build() -> Vec<Kind> {
    GROUPS
        .iter()
        .flat_map(|(group, version, types, rows)| rows.iter().map(|row| kind(group, version, types, row)))
        .collect()
}

fn kind(group: &'static str, version: &'static str, types: &str, row: &Row) -> Kind {
    let &(plural, name, short_names, categories, scope, verbs, subresources) = row;
    let words = |text: &'static str| text.split_whitespace().map(Text::Borrowed).collect();
    let (storage_group, storage_version) = storage(group, version);
    Kind {
        group: group.into(),
        version: version.into(),
        kind: name.into(),
        plural: plural.into(),
        singular: name.to_ascii_lowercase().into(),
        list_kind: if verbs.has(Verbs::LIST) { format!("{name}List").into() } else { "".into() },
        short_names: words(short_names),
        categories: words(categories),
        namespaced: scope == Namespace,
        verbs,
        subresources: subresources.split_whitespace().map(|sub| below(group, version, name, plural, sub)).collect(),
        storage_group: storage_group.into(),
        storage_version: storage_version.into(),
        ty: find_ref(&format!("{types}{name}")).unwrap_or_else(|| TypeRef::from(Type::default())),
        own: None,
    }
}

fn below(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    name: &'static str,
) -> Subresource {
    let (speaks, verbs) = subresource(plural, name);
    let (group, version, kind) = speaks.unwrap_or((group, version, kind));
    Subresource { name: name.into(), group: group.into(), version: version.into(), kind: kind.into(), verbs }
}

#[cfg(test)]
mod tests {
    use super::super::KINDS;

    #[test]
    fn every_group_is_whole() {
        let count = |group: &str| KINDS.iter().filter(|kind| kind.group == group).count();
        for (group, kinds) in [
            ("", 17),
            ("admissionregistration.k8s.io", 6),
            ("apps", 5),
            ("authentication.k8s.io", 2),
            ("authorization.k8s.io", 4),
            ("autoscaling", 2),
            ("batch", 2),
            ("networking.k8s.io", 5),
            ("rbac.authorization.k8s.io", 4),
            ("resource.k8s.io", 4),
            ("storage.k8s.io", 6),
        ] {
            assert_eq!(count(group), kinds, "kinds of {group:?}");
        }
        assert_eq!(KINDS.len(), 68);
    }

    #[test]
    fn every_row_has_a_type() {
        for kind in KINDS.iter() {
            assert!(kind.ty.name.ends_with(kind.kind.as_ref()), "no type for {} {}", kind.api_version(), kind.kind);
        }
    }
}
