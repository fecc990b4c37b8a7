//! The scenarios, one a page of the documentation.
//!
//! Start at [`SCENARIOS`]. The functions lie one theme a file; each applies a manifest and looks at what the page says one sees.

mod config;
mod jobs;
mod mistakes;
mod pods;
mod probes;
mod services;
mod storage;
mod workloads;

use crate::Scenario;

const ONE: Scenario = Scenario { name: "", shows: "", limits_memory: false, run: |_| (), again: None };

/// All of them; those that wait longest come first, so that the others run beside them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "cronjob",
        shows: "CronJob: prints the date each minute, and once more by hand",
        run: jobs::cron_job,
        ..ONE
    },
    Scenario {
        name: "deployment",
        shows: "Deployment: rolls out, scales, is updated and undone; an unready pod leaves the Service",
        run: workloads::deployment,
        again: Some(workloads::deployment_again),
        ..ONE
    },
    Scenario {
        name: "init-containers",
        shows: "Init containers wait for two Services, in order",
        run: pods::init_containers,
        ..ONE
    },
    Scenario {
        name: "liveness",
        shows: "Liveness by exec and HTTP: what fails is started again",
        run: probes::liveness,
        ..ONE
    },
    Scenario {
        name: "claims",
        shows: "Claims of the default class, deleted with their data; one that nothing fits; an emptyDir over its limit",
        run: storage::claims,
        ..ONE
    },
    Scenario {
        name: "ephemeral",
        shows: "Generic ephemeral volume: a claim that comes and goes with its pod",
        run: storage::ephemeral,
        ..ONE
    },
    Scenario {
        name: "nfs",
        shows: "NFS volume and claim: a server that does not answer is named, and holds up nobody else",
        run: storage::nfs,
        ..ONE
    },
    Scenario {
        name: "persistent-volume",
        shows: "PersistentVolume and claim by hand; what is used is protected",
        run: storage::persistent_volume,
        ..ONE
    },
    Scenario {
        name: "reclaimed",
        shows: "Volumes by hand: recycled and bound again, for one pod only, local to a node, read by many, deleted",
        run: storage::reclaimed,
        ..ONE
    },
    Scenario {
        name: "statefulset",
        shows: "StatefulSet with claims and a headless Service: order, names, identity, data",

        run: workloads::stateful_set,
        again: Some(workloads::stateful_set_again),
        ..ONE
    },
    Scenario {
        name: "probes",
        shows: "Readiness and liveness by TCP and gRPC; startup probe",
        run: probes::holding,
        ..ONE
    },
    Scenario {
        name: "my-nginx",
        shows: "Connecting applications: ClusterIP, NodePort, environment, DNS",
        run: services::my_nginx,
        again: Some(services::my_nginx_again),
        ..ONE
    },
    Scenario {
        name: "kube-system",
        shows: "DaemonSet that collects logs from hostPath /var/log",
        run: workloads::daemon_set,
        again: Some(workloads::daemon_set_again),
        ..ONE
    },
    Scenario {
        name: "failing-job",
        shows: "Job that fails and gives up at its back-off limit",
        run: jobs::failing,
        ..ONE
    },
    Scenario { name: "indexed-job", shows: "Job with indexes, three at a time", run: jobs::indexed, ..ONE },
    Scenario { name: "job", shows: "Job that computes pi", run: jobs::pi, ..ONE },
    Scenario {
        name: "sidecar",
        shows: "Sidecars in a Deployment and in a Job, which completes",
        run: pods::sidecar,
        ..ONE
    },
    Scenario {
        name: "configmap",
        shows: "ConfigMap as environment and as files, which follow a change",
        run: config::config_map,
        again: Some(config::config_map_again),
        ..ONE
    },
    Scenario {
        name: "secret",
        shows: "Secrets as files and environment, with dots in names, optional",
        run: config::secret,
        ..ONE
    },
    Scenario {
        name: "projected",
        shows: "Projected volumes: Secret, ConfigMap, fields, token",
        run: config::projected,
        ..ONE
    },
    Scenario {
        name: "downward-api",
        shows: "Downward API as environment and as files",
        run: config::downward_api,
        ..ONE
    },
    Scenario {
        name: "two-containers",
        shows: "Two containers share an emptyDir",
        run: pods::two_containers,
        again: Some(pods::two_containers_again),
        ..ONE
    },
    Scenario { name: "hostpath", shows: "hostPath by type; a wrong type is told", run: pods::host_path, ..ONE },
    Scenario { name: "lifecycle", shows: "postStart and preStop hooks", run: pods::lifecycle, ..ONE },
    Scenario {
        name: "logging",
        shows: "Logs: of a counter, of sidecars that stream files, followed, the last lines",
        run: pods::logging,
        ..ONE
    },
    Scenario { name: "termination", shows: "Termination messages", run: pods::termination, ..ONE },
    Scenario { name: "shell-demo", shows: "A shell in a running container; describe", run: pods::shell_demo, ..ONE },
    Scenario { name: "node-selector", shows: "A pod waits for a labelled node", run: pods::node_selector, ..ONE },
    Scenario {
        name: "security-context",
        shows: "Users, groups, fsGroup, no new privileges",
        run: pods::security_context,
        ..ONE
    },
    Scenario { name: "qos", shows: "Quality of service classes", run: pods::qos, ..ONE },
    Scenario { name: "too-large", shows: "A pod larger than any node stays Pending", run: pods::too_large, ..ONE },
    Scenario {
        name: "memory",
        shows: "Memory limits: what takes more is killed, exit code 137",
        limits_memory: true,
        run: pods::memory,
        ..ONE
    },
    Scenario { name: "mistakes", shows: "Bad input is refused, and named", run: mistakes::are_named, ..ONE },
];

/// Those that the environment variable `SKERRY_SCENARIOS` names, comma-separated; all of them unless it is set.
pub fn chosen() -> Vec<Scenario> {
    let Ok(names) = std::env::var("SKERRY_SCENARIOS") else { return SCENARIOS.to_vec() };
    let find =
        |name: &str| *SCENARIOS.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("no scenario {name}"));
    names.split(',').map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_has_a_name_of_its_own_and_says_what_it_shows() {
        let names: BTreeSet<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
        assert!(SCENARIOS.iter().all(|scenario| !scenario.shows.is_empty()));
    }
}
