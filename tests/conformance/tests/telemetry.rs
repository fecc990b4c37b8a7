//! The collectors as their manifests run them, in pods: `kubectl top`, series, logs of a pod that is gone, Prometheus' text;
//! and the web page, which shows them to the account of its manifest.
//!
//! Needs root and, the first time, Debian's archive for the test images.

mod made;

use std::fs;
use std::path::Path;
use std::time::Duration;

use conformance::{Cluster, manifest};

const LIMIT: Duration = Duration::from_secs(60);

/// A manifest of ours with some of its words replaced.
fn apply(cluster: &Cluster, name: &str, words: &[(&str, &str)]) {
    manifest::apply(cluster, &format!("cluster/telemetry/manifests/{name}"), words, &cluster.data());
}

#[test]
fn collectors_run_as_their_manifests_say() {
    let cluster = Cluster::start(&made::skerry(), Some(&made::test_images()));
    let (pods, own) = (cluster.data().join("log/pods"), cluster.data().join("own"));
    let paths = [
        ("path: /var/log/pods,", format!("path: {},", pods.display())),
        ("path: /var/log/skerry,", format!("path: {},", own.display())),
    ];
    apply(&cluster, "logs.yaml", &paths.each_ref().map(|(from, to)| (*from, to.as_str())));
    apply(&cluster, "metrics.yaml", &[("--every=15", "--every=1")]);
    cluster.must(
        "run busy --image=busybox:1.28 --labels=app=busy --command -- sh -c 'echo here I am; while :; do :; done'",
    );
    cluster.must("run quiet --image=busybox:1.28 --command -- sleep 100000");
    for name in ["skerry-logs", "skerry-metrics"] {
        cluster.must(&format!("rollout status daemonset/{name} -n kube-system --timeout=60s"));
    }
    cluster.must_become("--for=condition=Ready pod/busy pod/quiet", 60);
    top(&cluster);
    scraped(&cluster);
    viewed(&cluster);
    logged(&cluster, &own);
}

fn top(cluster: &Cluster) {
    cluster.wait("kubectl top to know the pods", LIMIT, |cluster| {
        let (ok, text) = cluster.kubectl("top pods --no-headers");
        ok && text.lines().count() == 2
    });
    cluster.wait("the busy pod to be seen at work", LIMIT, |cluster| {
        let cpu = cluster.must("top pods -l app=busy --no-headers");
        let milli = cpu.split_whitespace().nth(1).and_then(|cpu| cpu.strip_suffix('m')?.parse::<u32>().ok());
        cpu.starts_with("busy ") && milli.is_some_and(|milli| milli > 100)
    });
    let quiet = cluster.must("top pod quiet --no-headers");
    let words: Vec<&str> = quiet.split_whitespace().collect();
    assert!(words.len() == 3 && words[0] == "quiet" && words[2].ends_with("Mi"), "{quiet}");
    let milli = words[1].strip_suffix('m').and_then(|cpu| cpu.parse::<u32>().ok());
    assert!(milli.is_some_and(|milli| milli < 50), "{quiet}");
    let node = cluster.must("top nodes --no-headers");
    assert!(node.starts_with("node ") && node.matches('%').count() == 2 && !node.contains("unknown"), "{node}");
    assert!(cluster.must("top pods -A --containers").contains("collector"));
    assert!(cluster.must("api-resources --api-group=metrics.k8s.io").contains("PodMetrics"));
    cluster.refused("get --raw /apis/metrics.k8s.io/v1beta1/namespaces/default/pods/none", "not found");
    let series = |of: &str| {
        let path = "/apis/telemetry.skerry.dev/v1/namespaces/default/series";
        cluster.must(&format!("get --raw {path}?name={of}_*&pod=quiet"))
    };
    for of in ["container", "pod"] {
        let series = series(of);
        for name in ["cpu_usage_seconds_total", "memory_working_set_bytes", "fs_writes_bytes_total"] {
            assert!(series.contains(&format!("{of}_{name}")), "{of}_{name}: {series}");
        }
    }
}

/// What Prometheus reads.
fn scraped(cluster: &Cluster) {
    let pod = cluster.must("get pods -n kube-system -l app=skerry-metrics -o jsonpath={.items[0].metadata.name}");
    let text = cluster.must(&format!("get --raw /api/v1/namespaces/kube-system/pods/{pod}:9101/proxy/metrics"));
    for wanted in [
        "# TYPE container_cpu_usage_seconds_total counter\n",
        "node_memory_working_set_bytes{node=\"node\"} ",
        "node_filesystem_used_bytes{node=\"node\"} ",
        "pod_network_receive_bytes_total{node=\"node\",namespace=\"default\",pod=\"quiet\"} ",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

/// The web page, and what its account may ask the API for; `cargo test -p dashboard` asks every path the page knows.
fn viewed(cluster: &Cluster) {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster/dashboard/manifests/viewer.yaml");
    cluster.must(&format!("apply -f {}", manifest.display()));
    let token = cluster.must("create token skerry-dashboard -n kube-system --duration=24h");
    let admin = fs::read_to_string(cluster.data().join("admin.kubeconfig")).expect("the administrator's file");
    // A certificate would be believed before any token.
    let lines = admin.lines().filter(|line| !line.contains("client-certificate-data"));
    let lines = lines.map(|line| match line.split_once("client-key-data:") {
        Some((indent, _)) => format!("{indent}token: {}", token.trim()),
        None => line.to_owned(),
    });
    let file = cluster.data().join("viewer.kubeconfig");
    fs::write(&file, lines.collect::<Vec<_>>().join("\n")).expect("written");
    let viewer = |words: &str| cluster.kubectl(&format!("{words} --kubeconfig={}", file.display()));
    for (words, wanted) in [
        ("auth whoami", "system:serviceaccount:kube-system:skerry-dashboard"),
        ("get --raw /dashboard/", "<title>Skerry</title>"),
        ("get nodes", "node "),
        ("top nodes", "node "),
        ("logs busy", "here I am"),
        ("get --raw /apis/telemetry.skerry.dev/v1/series?name=node_*&step=60", "node_cpu_usage_seconds_total"),
    ] {
        let (ok, text) = viewer(words);
        assert!(ok && text.contains(wanted), "{words}: {text}");
    }
    for words in ["get secrets -A", "delete pod busy", "get --raw /api/v1/nodes/node/proxy/metrics"] {
        let (ok, text) = viewer(words);
        assert!(!ok && text.contains("forbidden"), "{words}: {text}");
    }
}

/// Logs by the DaemonSet: a pod's after it is gone, and a file of the node.
fn logged(cluster: &Cluster, own: &Path) {
    fs::write(own.join("skerry.log"), "2026-11-25T02:00:00.000000Z  INFO the board's own\n").expect("written");
    cluster.must("delete pod busy --grace-period=1");
    cluster.wait("the logs to arrive", LIMIT, |_| {
        cluster.skerry("logs -n default --pod busy --plain") == "here I am\n"
            && cluster.skerry("logs --of-nodes --container skerry")
                == "2026-11-25T02:00:00.000000000Z node/skerry 2026-11-25T02:00:00.000000Z  INFO the board's own\n"
    });
    assert!(!cluster.skerry("logs --of-nodes --container kernel --tail 1").is_empty(), "the kernel's log is collected");
    let (ok, text) = cluster.kubectl("get --raw /apis/telemetry.skerry.dev/v1/logs --as=nobody");
    assert!(!ok && text.contains("forbidden"), "{text}");
}
