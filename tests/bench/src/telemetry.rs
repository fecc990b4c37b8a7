//! What collecting logs and metrics costs: both collectors, and what the stores add to the server.
//!
//! Start at [`telemetry`]. All our processes are looked at twice, without collectors and with them; the difference is what
//! collecting costs, whichever process pays.
//!
//! Invariant: a collector that delivers nothing is an error, not a small figure.
//!
//! Not here: the DaemonSets (`tests/conformance`): the same program with the same options, outside a pod.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base::{Bytes, Clock};
use serde_json::Value;
use sys::{Doing, SystemClock};

use crate::BenchError;
use crate::pods::Cluster;
use crate::processes::{self, Usage};
use crate::promise::{COLLECT_CPU, COLLECT_MEMORY, Figure};

/// A line a second, until the pod ends.
const WRITER: &str =
    "i=0; while :; do i=$((i+1)); echo line $i of a pod that says a little once a second; sleep 1; done";
const TOP: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";
const LOGS: &str = "/apis/telemetry.skerry.dev/v1/namespaces/default/logs";
const MIB: f64 = 1_048_576.0;

/// What all our processes used in one period.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// At its end.
    pub pss: Bytes,
    /// Of one core, in percent.
    pub cpu_percent: f64,
}

/// What collecting costs.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// Server, keeper and helpers alone.
    pub without: Used,
    /// They and both collectors.
    pub with: Used,
    /// What of that is the collectors': logs, then metrics.
    pub collectors: [Used; 2],
}

/// The collectors; they end when it is dropped.
struct Collectors([Child; 2]);

impl Drop for Collectors {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended by itself is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs `pods` pods that write a line a second each, and looks on for a period without collectors and for one with them.
pub async fn telemetry(
    cluster: &mut Cluster,
    pods: usize,
    settle: Duration,
    period: Duration,
) -> Result<Telemetry, BenchError> {
    for number in 0..pods {
        cluster.run_pod_with(&format!("writer-{number}"), &["sh", "-c", WRITER]).await?;
    }
    tokio::time::sleep(settle).await;
    let ours = processes::of(cluster.server.program())?;
    let without = used(&[&ours], period).await[0];
    let collectors = start(cluster)?;
    arrives(cluster, pods).await?;
    tokio::time::sleep(settle).await;
    let ours = processes::of(cluster.server.program())?;
    let [logs, metrics] = collectors.0.each_ref().map(|child| [child.id()]);
    let with = used(&[&ours, &logs, &metrics], period).await;
    arrives(cluster, pods).await?;
    Ok(Telemetry { without, with: with[0], collectors: [with[1], with[2]] })
}

fn start(cluster: &Cluster) -> Result<Collectors, BenchError> {
    let (program, data) = (cluster.server.program(), cluster.server.data());
    let collector = |words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words).args(["--node-name", "node", "--kubeconfig"]).arg(data.join("admin.kubeconfig"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let mut logs = collector(&["collect-logs"]);
    logs.arg("--pods").arg(data.join("log/pods"));
    let mut metrics = collector(&["collect-metrics", "--every=15", "--listen=127.0.0.1:9101"]);
    let logs = logs.spawn().doing_to("start", program)?;
    Ok(Collectors([logs, metrics.spawn().doing_to("start", program)?]))
}

/// Waits until the stores have lines and values of every pod.
async fn arrives(cluster: &Cluster, pods: usize) -> Result<(), BenchError> {
    let items = |answer: &[u8]| {
        let list: Value = serde_json::from_slice(answer).unwrap_or_default();
        list["items"].as_array().map_or(0, Vec::len)
    };
    for pod in 0..pods {
        let (mut connection, path) = (cluster.connection.clone(), format!("{LOGS}?pod=writer-{pod}&tailLines=1"));
        let arrived = async || connection.get(&path).await.ok().filter(|answer| items(answer) == 1);
        cluster.server.wait(&format!("lines of writer-{pod} in the store"), arrived).await?;
    }
    let mut connection = cluster.connection.clone();
    let measured = |answer: &[u8]| {
        let list: Value = serde_json::from_slice(answer).unwrap_or_default();
        let names = list["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str());
        names.filter(|name| name.starts_with("writer-")).count()
    };
    let arrived = async || connection.get(TOP).await.ok().filter(|answer| measured(answer) == pods);
    cluster.server.wait("values of every pod in the store", arrived).await?;
    Ok(())
}

/// What groups of processes use in a period from now on.
async fn used(groups: &[&[u32]], period: Duration) -> Vec<Used> {
    let look = || groups.iter().map(|group| Usage::of(group)).collect::<Vec<_>>();
    let (begun, before) = (SystemClock.monotonic(), look());
    tokio::time::sleep(period).await;
    let (after, seconds) = (look(), SystemClock.monotonic().since(begun).as_secs_f64());
    let share = |before: &Usage, after: &Usage| Used {
        pss: after.pss,
        cpu_percent: 100.0 * after.cpu.saturating_sub(before.cpu).as_secs_f64() / seconds,
    };
    before.iter().zip(&after).map(|(before, after)| share(before, after)).collect()
}

impl Telemetry {
    /// The figures.
    pub fn figures(&self) -> Vec<Figure> {
        vec![
            COLLECT_MEMORY.is((self.with.pss.0 as f64 - self.without.pss.0 as f64) / MIB),
            COLLECT_CPU.is(self.with.cpu_percent - self.without.cpu_percent),
        ]
    }
}
