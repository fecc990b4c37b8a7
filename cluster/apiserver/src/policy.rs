//! The roles and bindings every cluster starts with.
//!
//! Start at [`objects`]. The names and what they allow are those upstream documents
//! (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings>, v1.36).
//!
//! Invariant: a table; what a person edits is never written again, what is missing comes back at the next start.

use serde_json::{Value, json};

const API: &str = "rbac.authorization.k8s.io/v1";
const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const ALL: &str = "create delete deletecollection get list patch update watch";

/// Verbs; groups (`core` is the empty one); resources.
type Rule = (&'static str, &'static str, &'static str);

const VIEW: &[Rule] = &[
    (
        READ,
        "core",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status",
    ),
    (
        READ,
        "core",
        "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status",
    ),
    (READ, "core", "namespaces"),
    (READ, "discovery.k8s.io", "endpointslices"),
    (
        READ,
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
    ),
    (READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    (READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
    (READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
    (READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    (READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
];

const EDIT: &[Rule] = &[
    (READ, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
    ("impersonate", "core", "serviceaccounts"),
    (WRITE, "core", "pods pods/attach pods/exec pods/portforward pods/proxy pods/resize"),
    ("create", "core", "pods/eviction serviceaccounts/token"),
    (
        WRITE,
        "core",
        "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy",
    ),
    (
        WRITE,
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale",
    ),
    (WRITE, "autoscaling", "horizontalpodautoscalers"),
    (WRITE, "batch", "cronjobs jobs"),
    (WRITE, "networking.k8s.io", "ingresses networkpolicies"),
    (WRITE, "policy", "poddisruptionbudgets"),
    (ALL, "coordination.k8s.io", "leases"),
    (WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
];

const ADMIN: &[Rule] = &[
    ("create", "authorization.k8s.io", "localsubjectaccessreviews"),
    (ALL, "rbac.authorization.k8s.io", "rolebindings roles"),
];

const NODE_PROXIER: &[Rule] = &[
    ("list watch", "core", "endpoints services"),
    ("get list watch", "core", "nodes"),
    ("create patch update", "core events.k8s.io", "events"),
    ("list watch", "discovery.k8s.io", "endpointslices"),
    ("list watch", "networking.k8s.io", "networkpolicies servicecidrs"),
    ("list watch", "core", "pods namespaces"),
];

const SCHEDULER: &[Rule] = &[
    ("create patch update", "core events.k8s.io", "events"),
    ("create get list update watch", "coordination.k8s.io", "leases"),
    (READ, "core", "nodes namespaces"),
    ("delete get list watch", "core", "pods"),
    ("create", "core", "bindings pods/binding"),
    ("patch update", "core", "pods/status"),
    (READ, "core", "replicationcontrollers services persistentvolumes"),
    ("get list watch patch update", "core", "persistentvolumeclaims persistentvolumes"),
    (READ, "apps", "replicasets statefulsets"),
    (READ, "policy", "poddisruptionbudgets"),
    (READ, "scheduling.k8s.io", "priorityclasses podgroups workloads"),
    (READ, "storage.k8s.io", "csinodes csidrivers csistoragecapacities storageclasses volumeattachments"),
    (
        "get list watch patch update",
        "resource.k8s.io",
        "resourceclaims resourceclaims/status resourceclaims/binding deviceclasses resourceslices",
    ),
    ("create", "authentication.k8s.io", "tokenreviews"),
    ("create", "authorization.k8s.io", "subjectaccessreviews"),
];

const NODE: &[Rule] = &[
    ("create", "authentication.k8s.io", "tokenreviews"),
    ("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
    (READ, "core", "services"),
    ("create get list watch", "core", "nodes"),
    ("patch update", "core", "nodes nodes/status"),
    ("create patch update", "core", "events"),
    ("create delete get list watch", "core", "pods"),
    ("patch update", "core", "pods/status"),
    ("create", "core", "pods/eviction serviceaccounts/token"),
    (READ, "core", "configmaps secrets persistentvolumeclaims persistentvolumes"),
    ("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
    ("create delete get patch update", "coordination.k8s.io", "leases"),
    ("create delete get patch update", "storage.k8s.io", "csinodes"),
    (READ, "storage.k8s.io", "csidrivers volumeattachments"),
    (READ, "node.k8s.io", "runtimeclasses"),
];

/// The controllers of this process use one identity. Upstream gives each its own account and this user the right to make
/// their tokens, which is the same power by a longer road: garbage collection and namespaces must delete anything.
const CONTROLLER_MANAGER: &[Rule] = &[("*", "*", "*")];

/// Name, aggregates (label suffix) or nothing, label suffix or nothing, rules (those of others included).
type Role = (&'static str, &'static str, &'static str, &'static [&'static [Rule]]);

const ROLES: &[Role] = &[
    ("cluster-admin", "", "", &[&[("*", "*", "*")]]),
    ("admin", "aggregate-to-admin", "", &[ADMIN, EDIT, VIEW]),
    ("edit", "aggregate-to-edit", "aggregate-to-admin", &[EDIT, VIEW]),
    ("view", "aggregate-to-view", "aggregate-to-edit", &[VIEW]),
    ("system:aggregate-to-admin", "", "aggregate-to-admin", &[ADMIN]),
    ("system:aggregate-to-edit", "", "aggregate-to-edit", &[EDIT]),
    ("system:aggregate-to-view", "", "aggregate-to-view", &[VIEW]),
    (
        "system:basic-user",
        "",
        "",
        &[&[
            ("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            ("create", "authentication.k8s.io", "selfsubjectreviews"),
        ]],
    ),
    ("system:node", "", "", &[NODE]),
    ("system:node-proxier", "", "", &[NODE_PROXIER]),
    ("system:kube-scheduler", "", "", &[SCHEDULER]),
    ("system:kube-controller-manager", "", "", &[CONTROLLER_MANAGER]),
    (
        "system:kube-dns",
        "",
        "",
        &[&[
            ("list watch", "core", "endpoints services namespaces pods nodes"),
            ("list watch", "discovery.k8s.io", "endpointslices"),
        ]],
    ),
    (
        "system:auth-delegator",
        "",
        "",
        &[&[
            ("create", "authentication.k8s.io", "tokenreviews"),
            ("create", "authorization.k8s.io", "subjectaccessreviews"),
        ]],
    ),
    (
        "system:kubelet-api-admin",
        "",
        "",
        &[&[
            (READ, "core", "nodes"),
            ("proxy", "core", "nodes"),
            ("*", "core", "nodes/log nodes/metrics nodes/proxy nodes/stats"),
        ]],
    ),
    (
        "system:node-bootstrapper",
        "",
        "",
        &[&[("create get list watch", "certificates.k8s.io", "certificatesigningrequests")]],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "",
        "",
        &[&[("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")]],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "",
        "",
        &[&[("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")]],
    ),
    (
        "system:persistent-volume-provisioner",
        "",
        "",
        &[&[
            ("create delete get list watch", "core", "persistentvolumes"),
            ("get list update watch", "core", "persistentvolumeclaims"),
            (READ, "storage.k8s.io", "storageclasses"),
            ("create patch update", "core", "events"),
            (READ, "core", "nodes"),
        ]],
    ),
];

/// Role; paths.
const PATHS: &[(&str, &str)] = &[
    ("system:discovery", "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/"),
    ("system:public-info-viewer", "/healthz /livez /readyz /version /version/"),
    // Ours: the web page's files, which are the same for everybody. Its reader logs in with it.
    ("skerry-dashboard", "/dashboard /dashboard/*"),
    (
        "system:service-account-issuer-discovery",
        "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
    ),
    ("system:monitoring", "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*"),
];

/// Binding and role (one name), groups, users.
const BINDINGS: &[(&str, &str, &str)] = &[
    ("cluster-admin", "system:masters", ""),
    ("system:basic-user", "system:authenticated", ""),
    ("system:discovery", "system:authenticated", ""),
    ("system:public-info-viewer", "system:authenticated system:unauthenticated", ""),
    ("skerry-dashboard", "system:authenticated system:unauthenticated", ""),
    ("system:service-account-issuer-discovery", "system:serviceaccounts", ""),
    ("system:monitoring", "system:monitoring", ""),
    ("system:node-proxier", "", "system:kube-proxy"),
    ("system:kube-scheduler", "", "system:kube-scheduler"),
    ("system:kube-controller-manager", "", "system:kube-controller-manager"),
    ("system:kube-dns", "", "system:kube-dns"),
    ("system:node-bootstrapper", "system:bootstrappers", ""),
    ("system:certificates.k8s.io:certificatesigningrequests:nodeclient", "system:bootstrappers", ""),
    ("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes", ""),
];

/// Every default role and binding.
pub(crate) fn objects() -> Vec<Value> {
    let mut objects: Vec<Value> = ROLES.iter().map(role).collect();
    objects.extend(PATHS.iter().map(|(name, paths)| {
        let rule = json!({"verbs": ["get"], "nonResourceURLs": words(paths)});
        cluster_role(name, vec![rule])
    }));
    objects.extend(BINDINGS.iter().map(binding));
    objects.extend(cluster_info());
    objects
}

/// Everybody may read how to find and believe this cluster: it is signed, and a machine that joins has proved nothing yet.
/// The names are kubeadm's.
fn cluster_info() -> [Value; 2] {
    const NAME: &str = "kubeadm:bootstrap-signer-clusterinfo";
    let metadata = || {
        let mut metadata = metadata(NAME);
        metadata["namespace"] = "kube-public".into();
        metadata
    };
    let group = |name: &str| json!({"kind": "Group", "name": name, "apiGroup": "rbac.authorization.k8s.io"});
    [
        json!({
            "apiVersion": API, "kind": "Role", "metadata": metadata(),
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"]}],
        }),
        json!({
            "apiVersion": API, "kind": "RoleBinding", "metadata": metadata(),
            "subjects": [group("system:unauthenticated"), group("system:authenticated")],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME},
        }),
    ]
}

fn words(text: &str) -> Vec<&str> {
    text.split(' ').filter(|word| !word.is_empty()).map(|word| if word == "core" { "" } else { word }).collect()
}

fn role((name, aggregates, label, rules): &Role) -> Value {
    let mut told: Vec<Value> = rules
        .iter()
        .flat_map(|rules| rules.iter())
        .map(|(verbs, groups, resources)| {
            json!({"verbs": words(verbs), "apiGroups": words(groups), "resources": words(resources)})
        })
        .collect();
    if *name == "cluster-admin" {
        told.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    let mut role = cluster_role(name, told);
    if !label.is_empty() {
        role["metadata"]["labels"][format!("rbac.authorization.k8s.io/{label}")] = "true".into();
    }
    if !aggregates.is_empty() {
        let selector = json!({"matchLabels": {format!("rbac.authorization.k8s.io/{aggregates}"): "true"}});
        role["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
    }
    role
}

fn cluster_role(name: &str, rules: Vec<Value>) -> Value {
    json!({"apiVersion": API, "kind": "ClusterRole", "metadata": metadata(name), "rules": rules})
}

fn binding((name, groups, users): &(&str, &str, &str)) -> Value {
    let subject = |kind: &str, name: &str| json!({"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"});
    let groups = words(groups).into_iter().map(|group| subject("Group", group));
    let subjects: Vec<Value> = groups.chain(words(users).into_iter().map(|user| subject("User", user))).collect();
    json!({
        "apiVersion": API, "kind": "ClusterRoleBinding", "metadata": metadata(name), "subjects": subjects,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
    })
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binding_has_its_role() {
        let objects = objects();
        let named =
            |kind: &str, name: &str| objects.iter().any(|one| one["kind"] == kind && one["metadata"]["name"] == name);
        for (name, _, _) in BINDINGS {
            assert!(named("ClusterRole", name), "{name}");
        }
    }
}
