//! The table of kinds: which columns, and who computes the cells.
//!
//! Start at [`ROWS`], sorted by group as `KINDS` is.

use super::{Cells, Column, others, pods, services, storage, workloads};
use crate::kinds::Kind;

/// One kind's columns.
pub(super) struct Row {
    group: &'static str,
    plural: &'static str,
    pub(super) columns: &'static [Column<'static>],
    pub(super) cells: Cells,
}

const fn column(name: &'static str, ty: &'static str, description: &'static str) -> Column<'static> {
    Column { name, ty, format: "", description, priority: 0 }
}
const fn text(name: &'static str, description: &'static str) -> Column<'static> {
    column(name, "string", description)
}
const fn number(name: &'static str, description: &'static str) -> Column<'static> {
    column(name, "integer", description)
}
const fn yes(name: &'static str, description: &'static str) -> Column<'static> {
    column(name, "boolean", description)
}
const fn wide(name: &'static str, description: &'static str) -> Column<'static> {
    Column { priority: 1, ..text(name, description) }
}
const fn row(group: &'static str, plural: &'static str, columns: &'static [Column<'static>], cells: Cells) -> Row {
    Row { group, plural, columns, cells }
}

pub(super) const NAME: Column<'static> =
    Column { format: "name", ..text("Name", "The object's name, unique among its kind and namespace.") };
const AGE: Column<'static> = text("Age", "How long ago the object was created.");
const CONTAINERS: Column<'static> = wide("Containers", "Names of the template's containers.");
const IMAGES: Column<'static> = wide("Images", "Images of the template's containers.");
const SELECTOR: Column<'static> = wide("Selector", "Labels of the objects that are meant.");
const DESIRED: Column<'static> = number("Desired", "How many are wanted.");
const CURRENT: Column<'static> = number("Current", "How many exist.");
const READY_COUNT: Column<'static> = number("Ready", "How many are ready.");
const WEBHOOKS: &[Column<'static>] = &[NAME, number("Webhooks", "How many webhooks are configured."), AGE];
const PARAM_KIND: Column<'static> = text("ParamKind", "The kind of the policy's parameters.");
const BINDING: &[Column<'static>] = &[
    NAME,
    text("Role", "The role that is granted."),
    AGE,
    wide("Users", "Users who get the role."),
    wide("Groups", "Groups that get the role."),
    wide("ServiceAccounts", "Service accounts that get the role."),
];
const POLICY_BINDING: &[Column<'static>] =
    &[NAME, text("PolicyName", "The policy that is bound."), text("ParamRef", "The parameters it is bound with."), AGE];
const REPLICAS: &[Column<'static>] = &[NAME, DESIRED, CURRENT, READY_COUNT, AGE, CONTAINERS, IMAGES, SELECTOR];
const AUTOSCALER: &[Column<'static>] = &[
    NAME,
    text("Reference", "What is scaled."),
    text("Targets", "Measured and wanted values."),
    text("MinPods", "The fewest pods."),
    text("MaxPods", "The most pods."),
    text("Replicas", "How many pods there are."),
    AGE,
];
const EVENT: &[Column<'static>] = &[
    text("Last Seen", "How long ago it was seen last."),
    text("Type", "Normal or Warning."),
    text("Reason", "Why it happened, in one word."),
    text("Object", "What it is about."),
    wide("Subobject", "The part of the object it is about."),
    wide("Source", "Who reported it."),
    text("Message", "What happened."),
    wide("First Seen", "How long ago it was seen first."),
    wide("Count", "How often it was seen."),
    Column { format: "name", ..wide("Name", "The object's name, unique among its kind and namespace.") },
];

/// A kind without a row of its own.
pub(super) const CREATED: &[Column<'static>] = &[NAME, column("Created At", "date", "When the object was created.")];

const ADMISSION: &str = "admissionregistration.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const RESOURCE: &str = "resource.k8s.io";
const STORAGE: &str = "storage.k8s.io";

const ROWS: &[Row] = &[
    row(
        "",
        "pods",
        &[
            NAME,
            text("Ready", "How many of the containers are ready."),
            text("Status", "What the containers do."),
            text("Restarts", "How often containers restarted, and when last."),
            AGE,
            wide("IP", "The pod's address."),
            wide("Node", "The node the pod runs on."),
            wide("Nominated Node", "The node where room is being made."),
            wide("Readiness Gates", "How many of the readiness gates are passed."),
        ],
        pods::cells,
    ),
    row(
        "",
        "podtemplates",
        &[
            NAME,
            text("Containers", "Names of the template's containers."),
            text("Images", "Images of the template's containers."),
            text("Pod Labels", "Labels of the template."),
        ],
        workloads::pod_template,
    ),
    row("", "replicationcontrollers", REPLICAS, workloads::replication_controller),
    row(
        "",
        "services",
        &[
            NAME,
            text("Type", "How the service is reached."),
            text("Cluster-IP", "The address inside the cluster."),
            text("External-IP", "The addresses outside."),
            text("Port(s)", "The ports served."),
            AGE,
            SELECTOR,
        ],
        services::service,
    ),
    row("", "endpoints", &[NAME, text("Endpoints", "Where the service's pods answer."), AGE], services::endpoints),
    row(
        "",
        "nodes",
        &[
            NAME,
            text("Status", "Whether the node is ready and takes pods."),
            text("Roles", "What the node is for."),
            AGE,
            text("Version", "The kubelet's version."),
            wide("Internal-IP", "The address inside the cluster."),
            wide("External-IP", "The address outside."),
            wide("OS-Image", "The operating system."),
            wide("Kernel-Version", "The kernel."),
            wide("Container-Runtime", "The container runtime."),
        ],
        others::node,
    ),
    row("", "events", EVENT, others::event),
    row("events.k8s.io", "events", EVENT, others::event),
    row("", "namespaces", &[NAME, text("Status", "Active or Terminating."), AGE], others::namespace),
    row("", "configmaps", &[NAME, text("Data", "How many entries it holds."), AGE], others::config_map),
    row(
        "",
        "secrets",
        &[NAME, text("Type", "What the secret is for."), text("Data", "How many entries it holds."), AGE],
        others::secret,
    ),
    row(
        "",
        "serviceaccounts",
        &[NAME, text("Secrets", "How many secrets its pods may use."), AGE],
        others::service_account,
    ),
    row(
        "",
        "persistentvolumes",
        &[
            NAME,
            text("Capacity", "How much it holds."),
            text("Access Modes", "Who may mount it at once."),
            text("Reclaim Policy", "What happens to it when released."),
            text("Status", "Its phase."),
            text("Claim", "The claim it is bound to."),
            text("StorageClass", "The class it belongs to."),
            text("VolumeAttributesClass", "The class of its attributes."),
            text("Reason", "Why it is in its phase."),
            AGE,
            wide("VolumeMode", "File system or block device."),
        ],
        storage::volume,
    ),
    row(
        "",
        "persistentvolumeclaims",
        &[
            NAME,
            text("Status", "Its phase."),
            text("Volume", "The volume it is bound to."),
            text("Capacity", "How much it got."),
            text("Access Modes", "Who may mount it at once."),
            text("StorageClass", "The class it asks for."),
            text("VolumeAttributesClass", "The class of its attributes."),
            AGE,
            wide("VolumeMode", "File system or block device."),
        ],
        storage::claim,
    ),
    row(
        "",
        "resourcequotas",
        &[
            NAME,
            text("Request", "What is used and allowed."),
            text("Limit", "What is used and allowed of limits."),
            AGE,
        ],
        others::quota,
    ),
    row(
        "apps",
        "deployments",
        &[
            NAME,
            text("Ready", "How many pods are ready, of how many."),
            text("Up-to-date", "How many pods have the newest template."),
            text("Available", "How many pods have been ready long enough."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        workloads::deployment,
    ),
    row("apps", "replicasets", REPLICAS, workloads::replica_set),
    row(
        "apps",
        "statefulsets",
        &[NAME, text("Ready", "How many pods are ready, of how many."), AGE, CONTAINERS, IMAGES],
        workloads::stateful_set,
    ),
    row(
        "apps",
        "daemonsets",
        &[
            NAME,
            DESIRED,
            CURRENT,
            READY_COUNT,
            number("Up-to-date", "How many pods have the newest template."),
            number("Available", "How many pods have been ready long enough."),
            text("Node Selector", "Labels of the nodes that get a pod."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        workloads::daemon_set,
    ),
    row(
        "apps",
        "controllerrevisions",
        &[NAME, text("Controller", "Whose history it is."), number("Revision", "Its place in the history."), AGE],
        workloads::controller_revision,
    ),
    row(
        "batch",
        "jobs",
        &[
            NAME,
            text("Status", "How far the job is."),
            text("Completions", "How many pods succeeded, of how many."),
            text("Duration", "How long it ran."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        workloads::job,
    ),
    row(
        "batch",
        "cronjobs",
        &[
            NAME,
            text("Schedule", "When jobs start."),
            text("Timezone", "The schedule's time zone."),
            yes("Suspend", "Whether no jobs start for now."),
            number("Active", "How many jobs run."),
            text("Last Schedule", "How long ago a job started."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        workloads::cron_job,
    ),
    row("autoscaling", "horizontalpodautoscalers", AUTOSCALER, workloads::autoscaler),
    row(
        "policy",
        "poddisruptionbudgets",
        &[
            NAME,
            text("Min Available", "How many pods must stay."),
            text("Max Unavailable", "How many pods may be missing."),
            number("Allowed Disruptions", "How many pods may go now."),
            AGE,
        ],
        workloads::disruption_budget,
    ),
    row(
        "discovery.k8s.io",
        "endpointslices",
        &[
            NAME,
            text("AddressType", "What the addresses are."),
            text("Ports", "The ports served."),
            text("Endpoints", "The addresses."),
            AGE,
        ],
        services::endpoint_slice,
    ),
    row(
        NETWORKING,
        "ingresses",
        &[
            NAME,
            text("Class", "Who serves it."),
            text("Hosts", "The hosts it is for."),
            text("Address", "Where it answers."),
            text("Ports", "The ports it opens."),
            AGE,
        ],
        services::ingress,
    ),
    row(
        NETWORKING,
        "ingressclasses",
        &[
            NAME,
            text("Controller", "Who serves ingresses of this class."),
            text("Parameters", "Further settings."),
            AGE,
        ],
        services::ingress_class,
    ),
    row(
        NETWORKING,
        "networkpolicies",
        &[NAME, text("Pod-Selector", "The pods it guards."), AGE],
        services::network_policy,
    ),
    row(NETWORKING, "ipaddresses", &[NAME, text("ParentRef", "What the address is for.")], services::ip_address),
    row(NETWORKING, "servicecidrs", &[NAME, text("CIDRs", "The ranges."), AGE], services::service_cidr),
    row(RBAC, "rolebindings", BINDING, others::binding),
    row(RBAC, "clusterrolebindings", BINDING, others::binding),
    row(
        STORAGE,
        "storageclasses",
        &[
            NAME,
            text("Provisioner", "Who makes the volumes."),
            text("ReclaimPolicy", "What happens to released volumes."),
            text("VolumeBindingMode", "When claims are bound."),
            text("AllowVolumeExpansion", "Whether volumes can grow."),
            AGE,
        ],
        storage::storage_class,
    ),
    row(
        STORAGE,
        "volumeattachments",
        &[
            NAME,
            text("Attacher", "Who attaches it."),
            text("PV", "The volume."),
            text("Node", "The node."),
            yes("Attached", "Whether it is attached."),
            AGE,
        ],
        storage::attachment,
    ),
    row(
        STORAGE,
        "csidrivers",
        &[
            NAME,
            yes("AttachRequired", "Whether volumes must be attached."),
            yes("PodInfoOnMount", "Whether the driver is told of the pod."),
            yes("StorageCapacity", "Whether it publishes capacity."),
            text("TokenRequests", "Audiences of the tokens it wants."),
            yes("RequiresRepublish", "Whether it is called again and again."),
            text("Modes", "The lifecycles of its volumes."),
            AGE,
        ],
        storage::driver,
    ),
    row(STORAGE, "csinodes", &[NAME, number("Drivers", "How many drivers the node has."), AGE], storage::csi_node),
    row(
        STORAGE,
        "csistoragecapacities",
        &[NAME, text("StorageClassName", "The class it is for."), text("Capacity", "How much is left.")],
        storage::capacity,
    ),
    row(STORAGE, "volumeattributesclasses", &[NAME, text("DriverName", "The driver."), AGE], storage::attributes_class),
    row(
        "scheduling.k8s.io",
        "priorityclasses",
        &[
            NAME,
            number("Value", "Higher goes first."),
            yes("Global-Default", "Whether pods without a class get it."),
            AGE,
            text("PreemptionPolicy", "Whether it may push others out."),
        ],
        others::priority_class,
    ),
    row(
        "node.k8s.io",
        "runtimeclasses",
        &[NAME, text("Handler", "The runtime's configuration."), AGE],
        others::runtime_class,
    ),
    row("coordination.k8s.io", "leases", &[NAME, text("Holder", "Who holds it."), AGE], others::lease),
    row(
        "certificates.k8s.io",
        "certificatesigningrequests",
        &[
            NAME,
            AGE,
            text("SignerName", "Who is asked to sign."),
            text("Requestor", "Who asks."),
            text("RequestedDuration", "For how long."),
            text("Condition", "What became of it."),
        ],
        others::signing_request,
    ),
    row(ADMISSION, "validatingwebhookconfigurations", WEBHOOKS, others::webhooks),
    row(ADMISSION, "mutatingwebhookconfigurations", WEBHOOKS, others::webhooks),
    row(
        ADMISSION,
        "validatingadmissionpolicies",
        &[NAME, number("Validations", "How many rules it has."), PARAM_KIND, AGE],
        others::validating_policy,
    ),
    row(ADMISSION, "validatingadmissionpolicybindings", POLICY_BINDING, others::policy_binding),
    row(
        ADMISSION,
        "mutatingadmissionpolicies",
        &[NAME, number("Mutations", "How many changes it makes."), PARAM_KIND, AGE],
        others::mutating_policy,
    ),
    row(ADMISSION, "mutatingadmissionpolicybindings", POLICY_BINDING, others::policy_binding),
    row(
        FLOW,
        "flowschemas",
        &[
            NAME,
            text("PriorityLevel", "The level it leads to."),
            number("MatchingPrecedence", "Lower is asked first."),
            text("DistinguisherMethod", "What makes a flow."),
            AGE,
            text("MissingPL", "Whether its level is missing."),
        ],
        others::flow_schema,
    ),
    row(
        FLOW,
        "prioritylevelconfigurations",
        &[
            NAME,
            text("Type", "Exempt or limited."),
            text("NominalConcurrencyShares", "Its share."),
            text("Queues", "How many queues."),
            text("HandSize", "How many queues a flow may use."),
            text("QueueLengthLimit", "How long a queue may get."),
            AGE,
        ],
        others::priority_level,
    ),
    row(
        "apiregistration.k8s.io",
        "apiservices",
        &[NAME, text("Service", "Who serves it."), text("Available", "Whether it answers."), AGE],
        others::api_service,
    ),
    row(RESOURCE, "deviceclasses", &[NAME, AGE], others::plain),
    row(RESOURCE, "resourceclaimtemplates", &[NAME, AGE], others::plain),
    row(RESOURCE, "resourceclaims", &[NAME, text("State", "How far it is."), AGE], others::resource_claim),
    row(
        RESOURCE,
        "resourceslices",
        &[
            NAME,
            text("Node", "The node that has the devices."),
            text("Driver", "The driver."),
            text("Pool", "The pool."),
            AGE,
        ],
        others::resource_slice,
    ),
];

/// The row of a kind.
pub(super) fn find(kind: &Kind) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.plural == kind.plural && row.group == kind.group)
}
