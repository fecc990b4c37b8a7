//! The Node object: what this machine is, what it can give, and how it is.
//!
//! Start at [`node`] for the object as registered, [`conditions`] for its state.
//!
//! Invariants:
//! * the same machine gives the same object; only heartbeats differ;
//! * a condition's `lastTransitionTime` moves only with its `status`.
//!
//! Not here: sending it (`run`), deciding what an unready node means (`controllers`).

use std::collections::BTreeMap;

use base::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use runtime::ImageStatus;

use crate::Options;
use crate::options::PORT;
use crate::pod::api_time;

/// Images shown in the status; upstream's limit.
const IMAGES_MAX: usize = 50;
/// Names shown of one image.
const IMAGE_NAMES_MAX: usize = 5;

/// How this machine is, as far as conditions tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the node is not ready, if it is not.
    pub trouble: Option<String>,
    /// Little memory is left.
    pub memory_pressure: bool,
    /// Little disk is left.
    pub disk_pressure: bool,
    /// Few process ids are left.
    pub pid_pressure: bool,
    /// What the runtime lacks.
    pub shortcomings: Vec<String>,
}

/// The Node as it is registered.
pub fn node(options: &Options, images: &[ImageStatus], health: &Health, now: Timestamp) -> Node {
    let machine = &options.machine;
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), options.node_name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), machine.architecture.clone()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), machine.architecture.clone()),
    ]);
    labels.extend(options.labels.clone());
    let local_volumes = options.local_volumes.display().to_string();
    Node {
        metadata: ObjectMeta {
            name: Some(options.node_name.clone()),
            labels: Some(labels),
            annotations: Some(BTreeMap::from([(claims::LOCAL_FOLDER.to_owned(), local_volumes)])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!options.taints.is_empty()).then(|| options.taints.clone()),
            ..NodeSpec::default()
        }),
        status: Some(status(options, images, health, &[], now)),
    }
}

/// The node's status. `before` are the conditions the API shows.
pub fn status(
    options: &Options,
    images: &[ImageStatus],
    health: &Health,
    before: &[NodeCondition],
    now: Timestamp,
) -> NodeStatus {
    let machine = &options.machine;
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let mut addresses: Vec<NodeAddress> =
        options.own_addresses().iter().map(|ip| address("InternalIP", ip.to_string())).collect();
    addresses.push(address("Hostname", options.node_name.clone()));
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(resources(options, 0, 0)),
        allocatable: Some(resources(options, options.reserved_cpu_milli, options.reserved_memory.0)),
        conditions: Some(conditions(health, before, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: options.listen.map_or(i32::from(PORT), |listen| i32::from(listen.port())),
            }),
        }),
        images: Some(shown_images(images)),
        node_info: Some(NodeSystemInfo {
            architecture: machine.architecture.clone(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: options.runtime_version.clone(),
            kernel_version: machine.kernel_version.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: api::VERSION.to_owned(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

fn resources(options: &Options, reserved_cpu_milli: u64, reserved_memory: u64) -> BTreeMap<String, Quantity> {
    let machine = &options.machine;
    let cpu = (machine.cpus * 1000).saturating_sub(reserved_cpu_milli);
    let cpu = if cpu.is_multiple_of(1000) { (cpu / 1000).to_string() } else { format!("{cpu}m") };
    let memory = machine.memory.0.saturating_sub(reserved_memory) / 1024;
    BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpu)),
        ("memory".to_owned(), Quantity(format!("{memory}Ki"))),
        ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", machine.storage.0 / 1024))),
        ("pods".to_owned(), Quantity(options.pods_max.to_string())),
        ("hugepages-1Gi".to_owned(), Quantity("0".to_owned())),
        ("hugepages-2Mi".to_owned(), Quantity("0".to_owned())),
    ])
}

/// What the node can give, in thousandths of each unit.
pub fn allocatable_milli(options: &Options) -> BTreeMap<String, i128> {
    let all = resources(options, options.reserved_cpu_milli, options.reserved_memory.0);
    all.into_iter().filter_map(|(name, quantity)| Some((name, crate::quantity::milli(&quantity)?))).collect()
}

fn shown_images(images: &[ImageStatus]) -> Vec<ContainerImage> {
    let mut images: Vec<&ImageStatus> = images.iter().collect();
    images.sort_by(|one, other| other.size.cmp(&one.size).then_with(|| one.id.cmp(&other.id)));
    let shown = images.into_iter().take(IMAGES_MAX).map(|image| ContainerImage {
        names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(IMAGE_NAMES_MAX).cloned().collect()),
        size_bytes: Some(image.size.0 as i64),
    });
    shown.collect()
}

/// The node's conditions.
pub fn conditions(health: &Health, before: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let pressure = |kind, holds, yes, no, yes_text, no_text| {
        let (reason, text) = if holds { (yes, yes_text) } else { (no, no_text) };
        (kind, holds, reason, String::from(text))
    };
    let mut all = vec![
        pressure(
            "MemoryPressure",
            health.memory_pressure,
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            "kubelet has insufficient memory available",
            "kubelet has sufficient memory available",
        ),
        pressure(
            "DiskPressure",
            health.disk_pressure,
            "KubeletHasDiskPressure",
            "KubeletHasNoDiskPressure",
            "kubelet has disk pressure",
            "kubelet has no disk pressure",
        ),
        pressure(
            "PIDPressure",
            health.pid_pressure,
            "KubeletHasInsufficientPID",
            "KubeletHasSufficientPID",
            "kubelet has insufficient PID available",
            "kubelet has sufficient PID available",
        ),
        match &health.trouble {
            None => ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
            Some(trouble) => ("Ready", false, "KubeletNotReady", trouble.clone()),
        },
    ];
    let lacks = health.shortcomings.join("; ");
    all.push(if health.shortcomings.is_empty() {
        ("RuntimeShortcomings", false, "RuntimeComplete", "the runtime has all it needs of this machine".to_owned())
    } else {
        ("RuntimeShortcomings", true, "RuntimeLacks", lacks)
    });
    all.into_iter()
        .map(|(kind, holds, reason, message)| {
            let status = if holds { "True" } else { "False" };
            let earlier = before.iter().find(|condition| condition.type_ == kind && condition.status == status);
            NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_heartbeat_time: Some(api_time(now)),
                last_transition_time: earlier
                    .and_then(|earlier| earlier.last_transition_time.clone())
                    .or_else(|| Some(api_time(now))),
            }
        })
        .collect()
}

/// Whether two statuses say the same, heartbeats aside.
pub fn is_same(one: &NodeStatus, other: &NodeStatus) -> bool {
    let quiet = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    quiet(one) == quiet(other)
}

/// So many free bytes are enough on any disk: a tenth of a large one holds many images more.
const ROOM_BYTES: u64 = 4 << 30;

/// Whether less than `percent` of a disk is free, and that is little.
pub fn is_short(free: u64, size: u64, percent: u64) -> bool {
    free < ROOM_BYTES && free < size / 100 * percent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_short_by_share_and_by_size() {
        const GIB: u64 = 1 << 30;
        for (free, size, expected) in
            [(GIB, 8 * GIB, false), (GIB / 2, 8 * GIB, true), (14 * GIB, 252 * GIB, false), (3 * GIB, 252 * GIB, true)]
        {
            assert_eq!(is_short(free, size, 10), expected, "{free} of {size}");
        }
    }
    use base::Bytes;
    use k8s_openapi::api::core::v1::Taint;
    use std::path::Path;

    fn options() -> Options {
        let mut options = Options::new("n1", Path::new("/d"), Path::new("/l"));
        options.machine.cpus = 4;
        options.machine.memory = Bytes(1 << 30);
        options.machine.architecture = "arm64".into();
        options.reserved_cpu_milli = 100;
        options.reserved_memory = Bytes(1 << 20);
        options
    }

    #[test]
    fn what_is_kept_back_is_not_allocatable() {
        let node = node(&options(), &[], &Health::default(), Timestamp::from_seconds(0));
        let status = node.status.expect("a status");
        let amount =
            |map: &Option<BTreeMap<String, Quantity>>, name: &str| map.as_ref().expect("a map")[name].0.clone();
        assert_eq!((amount(&status.capacity, "cpu"), amount(&status.allocatable, "cpu")), ("4".into(), "3900m".into()));
        assert_eq!(amount(&status.allocatable, "memory"), "1047552Ki");
        assert_eq!(amount(&status.capacity, "pods"), "110");
        assert_eq!(node.metadata.labels.expect("labels")["kubernetes.io/arch"], "arm64");
    }

    #[test]
    fn a_node_is_made_with_its_labels_and_taints() {
        let mut options = options();
        let made = |options: &Options| node(options, &[], &Health::default(), Timestamp::from_seconds(0));
        assert_eq!(made(&options).spec.expect("a spec").taints, None);
        options.labels = BTreeMap::from([("room".to_owned(), "kitchen".to_owned())]);
        options.taints = vec![Taint { key: "k".into(), effect: "NoSchedule".into(), ..Taint::default() }];
        let made = made(&options);
        assert_eq!(made.metadata.labels.expect("labels")["room"], "kitchen");
        assert_eq!(made.spec.expect("a spec").taints, Some(options.taints));
    }

    #[test]
    fn heartbeats_alone_change_nothing() {
        let at = |seconds, before: &[NodeCondition], health: &Health| {
            status(&options(), &[], health, before, Timestamp::from_seconds(seconds))
        };
        let first = at(0, &[], &Health::default());
        let before = first.conditions.clone().expect("conditions");
        let second = at(60, &before, &Health::default());
        assert!(is_same(&first, &second) && first != second);
        let sick = at(60, &before, &Health { trouble: Some("no runtime".into()), ..Health::default() });
        assert!(!is_same(&first, &sick));
    }

    #[test]
    fn shortcomings_are_a_condition() {
        let health = Health {
            shortcomings: vec!["no memory controller".into(), "no user namespaces".into()],
            ..Health::default()
        };
        let found = conditions(&health, &[], Timestamp::from_seconds(0));
        let condition = found.iter().find(|condition| condition.type_ == "RuntimeShortcomings").expect("a condition");
        assert_eq!(condition.message.as_deref(), Some("no memory controller; no user namespaces"));
    }
}
