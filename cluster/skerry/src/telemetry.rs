//! Telemetry's verbs: `skerry logs` for people, `skerry collect-logs` and `skerry collect-metrics` for the pods of DaemonSets.
//!
//! Start at [`print_logs`], [`collect_logs`] and [`collect_metrics`].
//!
//! Not here: the stores (`telemetry`), the server's role (`server.rs`).

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::telemetry::logs::collect;
use ::telemetry::metrics::collect as measure;
use base::{Clock, Timestamp};
use bytes::Bytes;
use clap::Args;
use client::{Client, ClientError, DoorError, Kubeconfig, KubeconfigError};
use http::Method;
use serde_json::Value;
use sys::clock::SystemClock;

/// Where a pod finds who it is.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How often `--follow` asks for more.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);

/// Options of `skerry logs`.
#[derive(Clone, Debug, Default, Args)]
pub struct Logs {
    /// Who to ask, and as whom [default: $KUBECONFIG].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Only this namespace.
    #[arg(short, long, default_value = "", value_name = "NAME")]
    pub namespace: String,
    /// Only this pod.
    #[arg(short, long, default_value = "", value_name = "NAME")]
    pub pod: String,
    /// Only this container; for a node's own log `kernel` or `skerry`.
    #[arg(short, long, default_value = "", value_name = "NAME")]
    pub container: String,
    /// Only this node.
    #[arg(long, default_value = "", value_name = "NAME")]
    pub node: String,
    /// Only the nodes' own logs.
    #[arg(long)]
    pub of_nodes: bool,
    /// Not before: a time such as 2026-11-25T02:00:00Z, or so long ago, such as 10m.
    #[arg(long, default_value = "", value_name = "TIME")]
    pub since: String,
    /// Before, likewise.
    #[arg(long, default_value = "", value_name = "TIME")]
    pub until: String,
    /// Only lines in which this regular expression is found.
    #[arg(long, default_value = "", value_name = "PATTERN")]
    pub grep: String,
    /// Only the last so many lines.
    #[arg(long, value_name = "LINES")]
    pub tail: Option<usize>,
    /// Go on with what comes.
    #[arg(short, long)]
    pub follow: bool,
    /// The text alone, without time and name.
    #[arg(long)]
    pub plain: bool,
}

/// Options of `skerry collect-logs`.
#[derive(Clone, Debug, Args)]
pub struct CollectLogs {
    /// This node's name [default: $NODE_NAME].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Where the kubelet keeps the logs of pods.
    #[arg(long, value_name = "FOLDER", default_value = "/var/log/pods")]
    pub pods: PathBuf,
    /// The kernel's log; none if it is empty.
    #[arg(long, value_name = "FILE", default_value = "/dev/kmsg")]
    pub kernel: String,
    /// Another log of the node, and what to call it. FILE.1 is the one before.
    #[arg(long, value_name = "NAME=FILE", value_parser = named)]
    pub log: Vec<(String, PathBuf)>,
    /// Where to serve what the collector counts as /metrics, for Prometheus.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Who to send to, and as whom [default: as this pod's ServiceAccount].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// Options of `skerry collect-metrics`.
#[derive(Clone, Debug, Args)]
pub struct CollectMetrics {
    /// This node's name [default: $NODE_NAME].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Where the kernel tells about the board.
    #[arg(long, value_name = "FOLDER", default_value = "/sys")]
    pub sys: PathBuf,
    /// Seconds from one round to the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    pub every: u64,
    /// Where to serve what was measured last as /metrics, for Prometheus.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Who to ask and to send to, and as whom [default: as this pod's ServiceAccount].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// Why a verb of telemetry came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The runtime cannot be started.
    #[error("failed to start")]
    Threads(#[source] io::Error),
    /// No kubeconfig was named.
    #[error("no cluster to ask: give --kubeconfig or set KUBECONFIG")]
    NoCluster,
    /// The kubeconfig is not usable.
    #[error("failed to read who to ask")]
    Kubeconfig(#[source] KubeconfigError),
    /// It names no server that can be asked.
    #[error("failed to use the kubeconfig")]
    Door(#[source] DoorError),
    /// The collector is not told where it is.
    #[error("no node to collect from: give --node-name or set NODE_NAME")]
    NoNode,
    /// A file that every pod has is missing.
    #[error("failed to read {path}: not in a pod with a ServiceAccount, and no --kubeconfig")]
    Account {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A time that is none.
    #[error("{0:?} is neither a time such as 2026-11-25T02:00:00Z nor a length such as 90s, 10m, 2h, 1d")]
    Time(String),
    /// The server said no.
    #[error("failed to ask for logs")]
    Ask(#[source] ClientError),
    /// The answer is not what it should be.
    #[error("failed to understand the answer: {0}")]
    Answer(String),
    /// The port for Prometheus.
    #[error("failed to listen at {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Nobody reads our output.
    #[error("failed to print")]
    Print(#[source] io::Error),
}

/// `skerry logs`.
pub fn print_logs(options: Logs) -> Result<(), TelemetryError> {
    block_on(async move {
        let client = client(options.kubeconfig.as_deref())?;
        let path = path(&options, SystemClock.now())?;
        print(&client, &path, &options).await
    })
}

/// `skerry collect-logs`: for ever.
pub fn collect_logs(options: CollectLogs) -> Result<(), TelemetryError> {
    crate::server::logging();
    block_on(async move {
        let node = node_name(options.node_name.clone())?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let kernel = Some(PathBuf::from(&options.kernel)).filter(|path| !path.as_os_str().is_empty());
        let (pods, files) = (options.pods.clone(), options.log.clone());
        let listen = options.listen;
        let what = collect::Options { node, pods, kernel, boot: boot.trim().to_owned(), files, listen };
        let connect = connect(options.kubeconfig)?;
        listened(collect::run(what, connect, Arc::new(SystemClock)).await, listen)
    })
}

/// `skerry collect-metrics`: for ever.
pub fn collect_metrics(options: CollectMetrics) -> Result<(), TelemetryError> {
    crate::server::logging();
    block_on(async move {
        let node = node_name(options.node_name)?;
        let every = Duration::from_secs(options.every);
        let connect = connect(options.kubeconfig)?;
        let what = measure::Options { node, sys: options.sys, every, listen: options.listen };
        listened(measure::run(what, connect, Arc::new(SystemClock)).await, options.listen)
    })
}

/// A collector ends only because it cannot listen.
fn listened(done: io::Result<()>, address: Option<SocketAddr>) -> Result<(), TelemetryError> {
    match (done, address) {
        (Err(source), Some(address)) => Err(TelemetryError::Listen { address, source }),
        _ => Ok(()),
    }
}

fn node_name(given: Option<String>) -> Result<String, TelemetryError> {
    given.or_else(|| std::env::var("NODE_NAME").ok()).ok_or(TelemetryError::NoNode)
}

/// Makes connections. What is wrong from the start is said at once; what goes wrong later is tried again.
fn connect(kubeconfig: Option<PathBuf>) -> Result<impl Fn() -> Result<Client, DoorError>, TelemetryError> {
    sender(kubeconfig.as_deref())?;
    Ok(move || {
        let connected = sender(kubeconfig.as_deref());
        connected.map_err(|error| DoorError::Unreachable { server: "the cluster".to_owned(), source: Box::new(error) })
    })
}

fn block_on(work: impl Future<Output = Result<(), TelemetryError>>) -> Result<(), TelemetryError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(TelemetryError::Threads)?;
    runtime.block_on(work)
}

fn sender(kubeconfig: Option<&Path>) -> Result<Client, TelemetryError> {
    if kubeconfig.is_some() {
        return client(kubeconfig);
    }
    let read = |name: &str| {
        let path = Path::new(ACCOUNT).join(name);
        std::fs::read_to_string(&path).map_err(|source| TelemetryError::Account { path, source })
    };
    let host = std::env::var("KUBERNETES_SERVICE_HOST").unwrap_or_default();
    let port = std::env::var("KUBERNETES_SERVICE_PORT").unwrap_or_default();
    let token = Some(read("token")?.trim().to_owned());
    let config = Kubeconfig { server: format!("https://{host}:{port}"), ca_pem: read("ca.crt")?, client: None, token };
    Ok(Client::new(client::https::open(&config).map_err(TelemetryError::Door)?))
}

fn client(kubeconfig: Option<&Path>) -> Result<Client, TelemetryError> {
    let named = kubeconfig.map(Path::to_owned).or_else(|| std::env::var_os("KUBECONFIG").map(PathBuf::from));
    let config = Kubeconfig::read(&named.ok_or(TelemetryError::NoCluster)?).map_err(TelemetryError::Kubeconfig)?;
    Ok(Client::new(client::https::open(&config).map_err(TelemetryError::Door)?))
}

/// What to ask for, without where to go on.
fn path(options: &Logs, now: Timestamp) -> Result<String, TelemetryError> {
    let group = ::telemetry::GROUP;
    let mut path = match options.namespace.as_str() {
        "" => format!("/apis/{group}/v1/logs?"),
        namespace => format!("/apis/{group}/v1/namespaces/{}/logs?", escape(namespace)),
    };
    let pairs = [
        ("pod", options.pod.clone()),
        ("container", options.container.clone()),
        ("node", options.node.clone()),
        ("ofNodes", if options.of_nodes { "true".to_owned() } else { String::new() }),
        ("sinceTime", time(&options.since, now)?),
        ("untilTime", time(&options.until, now)?),
        ("grep", options.grep.clone()),
    ];
    for (key, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        path.push_str(&format!("{key}={}&", escape(value)));
    }
    Ok(path)
}

/// A time as it is, or so long before now.
fn time(text: &str, now: Timestamp) -> Result<String, TelemetryError> {
    let wrong = || TelemetryError::Time(text.to_owned());
    if text.is_empty() || text.parse::<Timestamp>().is_ok() {
        return Ok(text.to_owned());
    }
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let seconds: i64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Timestamp(now.0 - i128::from(seconds * i64::from(count)) * 1_000_000_000).rfc3339_nanos())
}

fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

async fn print(client: &Client, path: &str, options: &Logs) -> Result<(), TelemetryError> {
    let mut place = String::new();
    let mut tail = options.tail;
    loop {
        let mut asked = format!("{path}continue={place}");
        if let Some(lines) = tail.take() {
            asked.push_str(&format!("&tailLines={lines}"));
        }
        let answer = client.call(Method::GET, asked, "", Bytes::new()).await.map_err(TelemetryError::Ask)?;
        let page: Value = serde_json::from_slice(&answer).map_err(|error| TelemetryError::Answer(error.to_string()))?;
        match show(&page, options.plain, &mut io::stdout().lock()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            done => done.map_err(TelemetryError::Print)?,
        }
        match (page["metadata"]["continue"].as_str().unwrap_or_default(), page["last"].as_str().unwrap_or_default()) {
            ("", _) if !options.follow => return Ok(()),
            ("", last) => {
                if !last.is_empty() {
                    place = last.to_owned();
                }
                tokio::time::sleep(FOLLOW_EVERY).await;
            }
            (more, _) => place = more.to_owned(),
        }
    }
}

fn show(page: &Value, plain: bool, out: &mut impl Write) -> io::Result<()> {
    let text = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    for item in page["items"].as_array().into_iter().flatten() {
        if !plain {
            let name = match text(item, "pod").as_str() {
                "" => text(item, "node"),
                pod => format!("{}/{pod}", text(item, "namespace")),
            };
            write!(out, "{} {name}/{} ", text(item, "time"), text(item, "container"))?;
        }
        writeln!(out, "{}", text(item, "text"))?;
    }
    out.flush()
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), PathBuf::from(path))),
        _ => Err("not of the form NAME=FILE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(100_000);

    fn check_time(text: &str, expected: Option<&str>) {
        assert_eq!(time(text, NOW).ok().as_deref(), expected, "{text}");
    }

    #[test]
    fn times_are_moments_or_lengths() {
        check_time("", Some(""));
        check_time("2026-11-25T02:00:00Z", Some("2026-11-25T02:00:00Z"));
        check_time("40s", Some("1970-01-02T03:46:00.000000000Z"));
        check_time("1d", Some("1970-01-01T03:46:40.000000000Z"));
        check_time("yesterday", None);
        check_time("m", None);
        check_time("5", None);
        check_time("5é", None);
    }

    #[test]
    fn what_is_asked_for_is_escaped() {
        let options = Logs { namespace: "a".into(), pod: "web-0".into(), grep: "a b&c".into(), ..Logs::default() };
        let path = path(&options, NOW).expect("a path");
        assert_eq!(path, "/apis/telemetry.skerry.dev/v1/namespaces/a/logs?pod=web-0&grep=a%20b%26c&");
    }

    #[test]
    fn lines_are_shown_with_their_names() {
        let page = serde_json::json!({"items": [
            {"time": "T", "namespace": "a", "pod": "p", "container": "c", "text": "x"},
            {"time": "T", "node": "n", "namespace": "", "pod": "", "container": "kernel", "text": "y"},
        ]});
        let shown = |plain| {
            let mut out = Vec::new();
            show(&page, plain, &mut out).expect("memory");
            String::from_utf8(out).expect("text")
        };
        assert_eq!(shown(false), "T a/p/c x\nT n/kernel y\n");
        assert_eq!(shown(true), "x\ny\n");
    }
}
