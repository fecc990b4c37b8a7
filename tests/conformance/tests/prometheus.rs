//! Debian's Prometheus reads a cluster of two nodes, as the manifests beside the collectors' say: every target is up, and
//! nothing it is told makes it or its linter frown.
//!
//! Debian builds its Prometheus without the discovery of Kubernetes, so the test lists the targets in files as that discovery would,
//! with its labels; everything else of the configuration stays.
//!
//! Needs root and, the first time, Debian's archive for Prometheus and the test images.

mod made;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use conformance::{Machine, Site, manifest};
use images::Architecture;
use images::debian::{Cache, Lock};
use serde_json::{Value, json};

const LISTEN: &str = "127.0.0.1:9090";
/// What Prometheus must find: the job, and how many targets it has with two nodes.
const JOBS: [(&str, usize); 5] = [
    ("kubernetes-apiservers", 1),
    ("kubernetes-nodes", 2),
    ("kubernetes-nodes-cadvisor", 2),
    ("kubernetes-nodes-resource", 2),
    // Two collectors on each node.
    ("kubernetes-pods", 4),
];
/// Where a pod finds who it is.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A container that ends and is started again, so that a node knows more runs than series it may tell.
const RESTARTING: &str = "run restarting --image=busybox:1.28 --command -- sh -c 'sleep 1'";

#[test]
fn debians_prometheus_reads_a_cluster_and_finds_no_fault() {
    let site = Site::start(&made::skerry(), Some(&made::test_images()), 1);
    let folder = tempfile::tempdir().expect("a folder");
    collect(&site, folder.path());
    site.must(RESTARTING);
    let programs = prometheus();
    let running = Prometheus::start(&site, &programs, folder.path());
    site.wait_until("every target is up", |site| JOBS.iter().all(|(job, count)| running.up(site, job) == *count));
    let restarts = "get pod restarting -o jsonpath={.status.containerStatuses[0].restartCount}";
    site.wait_until("a container was started again", |site| site.kubectl(restarts).1.parse().is_ok_and(|n: u32| n > 0));
    lints(&site, &programs);
    let samples = "count({__name__=~'container_.+',pod='restarting'})";
    site.wait_until("what containers use is there", |site| !running.query(site, samples).is_empty());
    for (job, count) in JOBS {
        assert_eq!(running.up(&site, job), count, "{job} is up yet\n{}", running.log());
    }
    let complaints: Vec<String> = running.complaints();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Runs both collectors on both nodes.
fn collect(site: &Site, folder: &Path) {
    // Both nodes are on one disk, and what is read there does not matter here.
    let logs = site.server.data.join("log/pods");
    let paths = [
        ("path: /var/log/pods,", format!("path: {},", logs.display())),
        ("path: /var/log/skerry,", format!("path: {},", folder.display())),
    ];
    let words = paths.each_ref().map(|(from, to)| (*from, to.as_str()));
    manifest::apply(site, "cluster/telemetry/manifests/logs.yaml", &words, folder);
    manifest::apply(site, "cluster/telemetry/manifests/metrics.yaml", &[("--every=15", "--every=1")], folder);
    for name in ["skerry-logs", "skerry-metrics"] {
        site.rolled_out(&format!("daemonset/{name} -n kube-system"), 60);
    }
}

/// Everything we serve as `/metrics` is what the strictest reader takes.
fn lints(site: &Site, programs: &Path) {
    let mut all = vec!["/metrics".to_owned()];
    for node in ["server", "agent-1"] {
        let of_node = |path| format!("/api/v1/nodes/{node}/proxy/{path}");
        all.extend(["metrics", "metrics/resource", "metrics/cadvisor"].map(of_node));
    }
    for (app, port) in [("skerry-logs", 9102), ("skerry-metrics", 9101)] {
        let names = format!("get pods -n kube-system -l app={app} -o jsonpath={{.items[*].metadata.name}}");
        let paths = site.must(&names);
        let of_pod = |pod: &str| format!("/api/v1/namespaces/kube-system/pods/{pod}:{port}/proxy/metrics");
        all.extend(paths.split(' ').map(of_pod));
    }
    for path in all {
        let text = site.must(&format!("get --raw {path}"));
        assert_eq!(base::exposition::check(&text), Ok(()), "{path}: {text}");
        let said = promtool(programs, &text);
        assert!(said.is_empty(), "promtool says of {path}: {said}");
    }
}

/// What `promtool check metrics` says of a text; nothing if it is good.
fn promtool(programs: &Path, text: &str) -> String {
    let mut file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
    std::io::Seek::rewind(&mut file).expect("from its begin");
    let said = Command::new(programs.join("promtool")).args(["check", "metrics"]).stdin(file).output();
    let said = said.expect("it runs");
    String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned()
}

/// What there is of a kind, in all namespaces.
fn items(site: &Site, kind: &str) -> Vec<Value> {
    let list: Value = serde_json::from_str(&site.must(&format!("get {kind} -A -o json"))).expect("JSON");
    list["items"].as_array().expect("a list").clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Endpoints as Prometheus would find them.
fn endpoints(site: &Site) -> Vec<Value> {
    let mut targets = Vec::new();
    for one in items(site, "endpoints") {
        for subset in one["subsets"].as_array().into_iter().flatten() {
            for port in subset["ports"].as_array().into_iter().flatten() {
                let addresses = subset["addresses"].as_array().into_iter().flatten();
                let places: Vec<String> =
                    addresses.map(|address| format!("{}:{}", text(&address["ip"]), port["port"])).collect();
                let labels = json!({
                    "__meta_kubernetes_namespace": one["metadata"]["namespace"],
                    "__meta_kubernetes_service_name": one["metadata"]["name"],
                    "__meta_kubernetes_endpoint_port_name": text(&port["name"]),
                });
                targets.push(json!({"targets": places, "labels": labels}));
            }
        }
    }
    targets
}

/// Nodes, at their kubelets' port.
fn nodes(site: &Site) -> Vec<Value> {
    let target = |node: Value| {
        let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
        let internal = addresses.into_iter().find(|address| address["type"] == "InternalIP").expect("an address");
        let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
        let place = format!("{}:{port}", text(&internal["address"]));
        let labels = json!({
            "instance": node["metadata"]["name"],
            "__meta_kubernetes_node_label_kubernetes_io_os": node["metadata"]["labels"]["kubernetes.io/os"],
        });
        json!({"targets": [place], "labels": labels})
    };
    items(site, "nodes").into_iter().map(target).collect()
}

/// Pods, each once: those that ask for it are asked at the port they name.
fn pods(site: &Site) -> Vec<Value> {
    let target = |pod: Value| {
        let notes = &pod["metadata"]["annotations"];
        let labels = json!({
            "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
            "__meta_kubernetes_pod_name": pod["metadata"]["name"],
            "__meta_kubernetes_pod_annotation_prometheus_io_scrape": text(&notes["prometheus.io/scrape"]),
            "__meta_kubernetes_pod_annotation_prometheus_io_port": text(&notes["prometheus.io/port"]),
        });
        json!({"targets": [text(&pod["status"]["podIP"])], "labels": labels})
    };
    items(site, "pods").into_iter().filter(|pod| !text(&pod["status"]["podIP"]).is_empty()).map(target).collect()
}

/// The folder of Debian's programs.
fn prometheus() -> PathBuf {
    let lock = Lock::read(&made::top().join("tests/images/packages.lock")).expect("the lock");
    let package = lock.find("prometheus", Architecture::here().name()).expect("the lock has it");
    let folder = made::top().join("build/prometheus").join(&package.sha256[..12]);
    if !folder.exists() {
        let partial = folder.with_extension("partial");
        Cache::new(&made::top().join("build/cache/debian")).unpack(package, &partial).expect("it is unpacked");
        fs::rename(&partial, &folder).expect("kept");
    }
    folder.join("usr/bin")
}

/// Prometheus, as it runs on the server's machine.
struct Prometheus<'a> {
    running: Child,
    programs: &'a Path,
    log: PathBuf,
}

impl<'a> Prometheus<'a> {
    fn start(site: &Site, programs: &'a Path, folder: &Path) -> Prometheus<'a> {
        manifest::apply(site, "cluster/telemetry/manifests/prometheus-access.yaml", &[], folder);
        let put = |name: &str, text: &str| fs::write(folder.join(name), text).expect("written");
        put("ca.crt", &site.must("get configmap kube-root-ca.crt -o jsonpath={.data.ca\\.crt}"));
        put("token", site.must("create token prometheus -n monitoring").trim());
        let mut words = vec![(ACCOUNT.to_owned(), folder.display().to_string())];
        words.push(("scrape_interval: 15s".to_owned(), "scrape_interval: 1s".to_owned()));
        for (role, targets) in [("endpoints", endpoints(site)), ("node", nodes(site)), ("pod", pods(site))] {
            let file = folder.join(format!("{role}.json"));
            fs::write(&file, Value::from(targets).to_string()).expect("written");
            let found = format!("kubernetes_sd_configs:\n  - role: {role}\n");
            words.push((found, format!("file_sd_configs:\n  - files: [{}]\n", file.display())));
        }
        let words: Vec<(&str, &str)> = words.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
        let config = manifest::written("cluster/telemetry/manifests/prometheus.yml", &words, folder);
        let log = folder.join("prometheus.log");
        let mut command = site.server.command(&programs.join("prometheus"));
        command.arg(format!("--config.file={}", config.display())).arg(format!("--web.listen-address={LISTEN}"));
        command.arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display())).arg("--log.level=debug");
        let out = File::create(&log).expect("a log");
        let spawned = command.stdin(Stdio::null()).stderr(out).stdout(Stdio::null()).spawn().expect("it starts");
        Prometheus { running: spawned, programs, log }
    }

    /// The lines of an instant query's answer.
    fn query(&self, site: &Site, query: &str) -> Vec<String> {
        let machine: &Machine = &site.server;
        let mut command = machine.command(&self.programs.join("promtool"));
        let said = command.args(["query", "instant", &format!("http://{LISTEN}"), query]).output().expect("it runs");
        String::from_utf8_lossy(&said.stdout).lines().map(str::to_owned).collect()
    }

    /// How many targets of a job are up.
    fn up(&self, site: &Site, job: &str) -> usize {
        let lines = self.query(site, &format!("up{{job=\"{job}\"}}"));
        lines.iter().filter(|line| line.contains("=> 1 @")).count()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it warned of.
    fn complaints(&self) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter(|line| ["level=warn", "level=error"].iter().any(|level| line.contains(level)));
        lines.map(str::to_owned).collect()
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.running.kill();
        let _ = self.running.wait();
        if std::thread::panicking() {
            let log = self.log();
            let telling = ["level=warn", "level=error", "Scrape failed"];
            let failed = log.lines().filter(|line| telling.iter().any(|words| line.contains(words)));
            eprintln!("--- prometheus\n{}", failed.take(20).collect::<Vec<_>>().join("\n"));
        }
    }
}
