//! What the kubelet counts, in Prometheus' text form: its own state, what pods use, and the same as cAdvisor would tell it.
//!
//! Start at [`own`], [`resource`] and [`cadvisor`]. Names and labels are upstream's (v1.36), where upstream has them.
//!
//! Invariant: containers that do not run are not told, so that one which was started again is one series.
//!
//! Not here: measuring (`runtime`, `machine.rs`), serving (`server.rs`).

use base::exposition::{Exposition, Family};
use runtime::{ContainerState, ContainerStatus, Stats};

use crate::Machine;
use crate::machine::Usage;
use crate::pod::PodInfo;

/// A container and what it uses.
pub(crate) type Measured = (ContainerStatus, std::sync::Arc<PodInfo>, Stats);

const fn family(name: &'static str, help: &'static str) -> Family {
    Family { name, help }
}

const CPU: Family = family("container_cpu_usage_seconds_total", "Cumulative CPU time used by the container.");
const MEMORY: Family = family("container_memory_working_set_bytes", "Current working set of the container.");
const STARTED: Family = family("container_start_time_seconds", "Start time of the container since 1970.");

/// `/metrics`: the kubelet itself.
pub(crate) fn own(node: &str, sandboxes: usize, containers: &[ContainerStatus]) -> Exposition {
    let mut told = Exposition::default();
    let pods = family("kubelet_running_pods", "Number of pods that have a running pod sandbox.");
    told.add(pods, &[], sandboxes as f64);
    let running = family("kubelet_running_containers", "Number of containers, by state.");
    for (state, is_in) in STATES {
        let count = containers.iter().filter(|one| is_in(&one.state)).count();
        told.add(running, &[("container_state", state)], count as f64);
    }
    told.add(family("kubelet_node_name", "The node's name. The value is always 1."), &[("node", node)], 1.0);
    told.add(
        family("kubernetes_build_info", "The version. The value is always 1."),
        &[("git_version", api::VERSION)],
        1.0,
    );
    told
}

type IsIn = fn(&ContainerState) -> bool;

/// The states of containers, by the CRI's names.
const STATES: [(&str, IsIn); 4] = [
    ("created", |state| matches!(state, ContainerState::Created)),
    ("exited", |state| matches!(state, ContainerState::Exited { .. })),
    ("running", |state| matches!(state, ContainerState::Running { .. })),
    ("unknown", |state| matches!(state, ContainerState::Unknown)),
];

/// `/metrics/resource`: what metrics-server reads.
pub(crate) fn resource(all: &[Measured], failed: bool, machine: &Usage, millis: i64) -> Exposition {
    let (mut told, at) = (Exposition::default(), Some(millis));
    for (container, pod, stats) in all.iter().filter(|(container, ..)| runs(container)) {
        let labels = [("container", &*container.name), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
        told.add_at(CPU, &labels, stats.cpu.as_secs_f64(), at);
        told.add(STARTED, &labels, started(container));
        if let Some(bytes) = stats.memory_working_set {
            told.add_at(MEMORY, &labels, bytes.0 as f64, at);
        }
    }
    let cpu = family("node_cpu_usage_seconds_total", "Cumulative CPU time used by the node.");
    told.add_at(cpu, &[], machine.cpu.as_secs_f64(), at);
    let memory = family("node_memory_working_set_bytes", "Current working set of the node.");
    told.add_at(memory, &[], machine.memory_working_set as f64, at);
    let error = family("resource_scrape_error", "1 if a container could not be measured, 0 otherwise.");
    told.add(error, &[], f64::from(u8::from(failed)));
    told
}

/// `/metrics/cadvisor`: what most dashboards read. The whole node is the container `/`.
pub(crate) fn cadvisor(all: &[Measured], usage: &Usage, machine: &Machine) -> Exposition {
    let mut told = Exposition::default();
    for (container, pod, stats) in all.iter().filter(|(container, ..)| runs(container)) {
        let of_pod = [("namespace", &*pod.namespace), ("pod", &*pod.name)];
        let image = container.image.as_str();
        let labels =
            [&[("container", &*container.name), ("id", &*container.id.0), ("image", image)][..], &of_pod].concat();
        of_container(&mut told, &labels, started(container), stats);
        if let Some((received, sent)) = stats.network {
            // All containers of a pod see the same links.
            network(&mut told, &[&of_pod[..], &[("interface", "eth0")]].concat(), received.0, sent.0);
        }
    }
    told.add(CPU, &[("id", "/"), ("cpu", "total")], usage.cpu.as_secs_f64());
    told.add(MEMORY, &[("id", "/")], usage.memory_working_set as f64);
    if let Some((link, received, sent)) = &usage.link {
        network(&mut told, &[("id", "/"), ("interface", link)], *received, *sent);
    }
    if let Some((free, size)) = usage.disk {
        let used = family("container_fs_usage_bytes", "Number of bytes used on the file system.");
        told.add(used, &[("id", "/")], size.saturating_sub(free) as f64);
        told.add(
            family("container_fs_limit_bytes", "Number of bytes that can be used on it."),
            &[("id", "/")],
            size as f64,
        );
    }
    told.add(family("machine_cpu_cores", "Number of processors."), &[], machine.cpus as f64);
    told.add(family("machine_memory_bytes", "Amount of memory installed."), &[], machine.memory.0 as f64);
    told
}

fn of_container(told: &mut Exposition, labels: &[(&str, &str)], started: f64, stats: &Stats) {
    told.add(CPU, &[labels, &[("cpu", "total")]].concat(), stats.cpu.as_secs_f64());
    told.add(STARTED, labels, started);
    told.add(family("container_processes", "Number of processes inside the container."), labels, stats.pids as f64);
    if let Some(bytes) = stats.memory_working_set {
        told.add(MEMORY, labels, bytes.0 as f64);
    }
    if let Some((read, written)) = stats.disk {
        told.add(family("container_fs_reads_bytes_total", "Cumulative count of bytes read."), labels, read.0 as f64);
        told.add(
            family("container_fs_writes_bytes_total", "Cumulative count of bytes written."),
            labels,
            written.0 as f64,
        );
    }
}

fn network(told: &mut Exposition, labels: &[(&str, &str)], received: u64, sent: u64) {
    let receive = family("container_network_receive_bytes_total", "Cumulative count of bytes received.");
    told.add(receive, labels, received as f64);
    told.add(family("container_network_transmit_bytes_total", "Cumulative count of bytes sent."), labels, sent as f64);
}

fn runs(container: &ContainerStatus) -> bool {
    matches!(container.state, ContainerState::Running { .. })
}

fn started(container: &ContainerStatus) -> f64 {
    match container.state {
        ContainerState::Running { started_at, .. } => started_at.seconds() as f64,
        _ => container.created_at.seconds() as f64,
    }
}
