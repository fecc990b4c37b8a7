//! The controllers, one a file, each a pure reconcile.
//!
//! Start at [`all`]; run them with `control::run::run`.
//!
//! Invariants:
//! * controllers never call each other: they meet in objects;
//! * the same view and moment always give the same writes, in the same order.
//!
//! Not here: queues, caches, applying writes (`control`), where pods go (`scheduler`).
#![forbid(unsafe_code)]

mod binding;
mod bootstrap;
mod certificates;
mod clusterdns;
mod cron;
mod cronjob;
mod daemonset;
mod definitions;
mod deployment;
mod disruption;
mod endpoints;
mod ephemeral;
mod gc;
mod job;
mod jobpolicy;
mod namespace;
mod node;
mod placement;
mod podgc;
mod pods;
mod protection;
mod provision;
mod quota;
mod reclaim;
mod replicaset;
mod revisions;
mod serviceaccount;
mod statefulset;
mod taints;
mod terminated;
#[cfg(test)]
mod testing;
mod times;
mod zones;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use control::Reconciler;
use pki::Pki;

/// What the controllers are told when they start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The certificates of the cluster's authority, in PEM, for `kube-root-ca.crt`.
    pub root_ca: String,
    /// Signs certificates; without it requests wait.
    pub signer: Option<Signer>,
    /// A node that is silent for so long is not known to be ready, and its pods are to leave.
    pub node_monitor_grace_period: Duration,
    /// So many pods that are over stay; with 0 all do.
    pub terminated_pod_gc_threshold: usize,
    /// Where machines that join find the API server, such as `https://10.0.0.1:6443`.
    pub server: String,
}

/// [`Options::node_monitor_grace_period`] at the edge, where few nodes stand for many: four missed reports (upstream waits
/// for 50 s since v1.32, 40 s before).
pub const NODE_MONITOR_GRACE_PERIOD: Duration = Duration::from_secs(20);

/// [`Options::terminated_pod_gc_threshold`] at the edge, where each costs memory (upstream keeps 12,500).
pub const TERMINATED_POD_GC_THRESHOLD: usize = 1_000;

/// Who signs certificates.
#[derive(Clone)]
pub struct Signer(pub Arc<Pki>);

impl fmt::Debug for Signer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Signer")
    }
}

/// The pods' network; each node gives out the addresses of its own /24.
const CLUSTER_NETWORK: (std::net::Ipv4Addr, u8) = (std::net::Ipv4Addr::new(10, 42, 0, 0), 16);

/// Every controller of the cluster.
pub fn all(options: Options) -> Vec<Box<dyn Reconciler>> {
    let info = bootstrap::ClusterInfo { ca_pem: options.root_ca.clone(), server: options.server };
    let signing = options.signer.map(|signer| Box::new(certificates::Signing { signer }) as Box<dyn Reconciler>);
    let mut all: Vec<Box<dyn Reconciler>> = vec![
        Box::new(deployment::Deployments),
        Box::new(replicaset::ReplicaSets),
        Box::new(replicaset::ReplicationControllers),
        Box::new(job::Jobs),
        Box::new(cronjob::CronJobs),
        Box::new(daemonset::DaemonSets),
        Box::new(statefulset::StatefulSets),
        Box::new(endpoints::Slices),
        Box::new(endpoints::Endpoints),
        Box::new(definitions::Definitions),
        Box::new(quota::Quotas),
        Box::new(namespace::Namespaces),
        Box::new(serviceaccount::DefaultAccounts),
        Box::new(serviceaccount::RootCa { pem: options.root_ca }),
        Box::new(info),
        Box::new(bootstrap::Cleaner),
        Box::new(clusterdns::Announcer),
        Box::new(node::Lifecycle::new(CLUSTER_NETWORK, options.node_monitor_grace_period)),
        Box::new(taints::Evictions::default()),
        Box::new(podgc::PodGc::default()),
        Box::new(terminated::Terminated::new(options.terminated_pod_gc_threshold)),
        Box::new(disruption::Budgets),
        Box::new(ephemeral::Ephemeral),
        Box::new(binding::Binder),
        Box::new(protection::Claims),
        Box::new(protection::Volumes),
        Box::new(gc::Collector),
    ];
    all.extend(signing);
    all
}
