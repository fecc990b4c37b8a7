//! Logs of real pods in the cluster's store, while the collector and the server are killed with -9: every line once, after
//! the pods are gone too.
//!
//! `SKERRY_LOG_LINES` says how many lines the pods write together: 40,000 if nothing is said; with a million the kubelet
//! rotates the files as well. Needs root and, the first time, Debian's archive for the test images.

mod made;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use conformance::Cluster;
use workloads::lines::{Lines, each_once, number};

const PODS: usize = 20;
/// Long enough that three quarters of a million lines are more than twenty files hold.
const PAD: usize = 300;
const LIMIT: Duration = Duration::from_secs(600);
/// So many lines are more than the twenty files hold, each of which is rotated at 10 MiB.
const ROTATED_LINES: usize = 800_000;
/// The kubelet looks each half minute whether a log is too large, so that it, and what writes, must be left alone for longer.
const ROTATES_WITHIN: Duration = Duration::from_secs(40);

#[test]
fn every_line_of_twenty_pods_is_stored_once() {
    let lines = std::env::var("SKERRY_LOG_LINES").ok().map_or(40_000, |text| text.parse().expect("a number")) / PODS;
    let mut cluster = Cluster::start(&made::skerry(), Some(&made::test_images()));
    let is_rotated = lines * PODS > ROTATED_LINES;
    let (pause_seconds, server_lives) = if is_rotated { (35, ROTATES_WITHIN) } else { (3, Duration::ZERO) };
    let written = Lines { count: lines, pad: PAD, pause_seconds };
    let (pad, script) = (written.padding(), written.script());
    let mut collector = collect(&cluster);
    let begun = Instant::now();
    for pod in 0..PODS {
        let name = format!("writer-{pod}");
        let words = ["run", &name, "--image=busybox:1.28", "--restart=Never", "--command", "--", "sh", "-c", &script];
        let (ok, text) = cluster.kubectl_words(&words);
        assert!(ok, "{text}");
    }
    let (mut kills, mut server_kills, mut started, mut rotated) = (0, 0, Instant::now(), BTreeSet::new());
    while cluster.must("get pods -o jsonpath={.items[*].status.phase}").split(' ').any(|phase| phase != "Succeeded") {
        assert!(begun.elapsed() < LIMIT, "the pods do not end");
        drop(collector);
        if kills % 2 == 1 && started.elapsed() >= server_lives {
            cluster.kill_server();
            cluster.run_server();
            cluster.wait_for_server();
            (server_kills, started) = (server_kills + 1, Instant::now());
        }
        kills += 1;
        rotated.extend(rotated_pods(&cluster));
        collector = collect(&cluster);
        std::thread::sleep(Duration::from_secs(2));
    }
    rotated.extend(rotated_pods(&cluster));
    println!("{} logs were rotated", rotated.len());
    assert_eq!(rotated.len(), if is_rotated { PODS } else { 0 }, "{rotated:?}");
    cluster.must("delete pods --all --grace-period=1");
    let mut before = 0;
    let found = loop {
        let found = stored(&cluster);
        let total: usize = found.values().map(Vec::len).sum();
        if total >= lines * PODS && total == before {
            break found;
        }
        assert!(begun.elapsed() < LIMIT, "only {total} lines are stored\n{}", cluster.last_lines());
        before = total;
        std::thread::sleep(Duration::from_secs(2));
    };
    drop(collector);
    println!(
        "{} lines, {kills} deaths of the collector, {server_kills} of the server, {:?}",
        lines * PODS,
        begun.elapsed()
    );
    for pod in 0..PODS {
        let name = format!("writer-{pod}");
        assert_eq!(each_once(&found[&name], lines), Ok(()), "every line of {name} is there once, in order");
    }
    assert!(kills > 2 && server_kills > 0, "{kills} deaths of the collector, {server_kills} of the server");
    let grep = cluster.skerry("logs --pod writer-3 --namespace default --grep ^line.7.x --plain");
    assert_eq!(grep, format!("line 7 {pad}\n"));
    assert_eq!(cluster.skerry("logs --pod writer-3 --namespace kube-system"), "");
    a_pod_that_came_and_went_while_nobody_collected_is_there(&cluster);
}

/// The folders of pods of which a log was rotated.
fn rotated_pods(cluster: &Cluster) -> BTreeSet<OsString> {
    let inside = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_rotated = |folder: &Path| {
        let mut files = inside(folder).flat_map(|container| inside(&container.path()).collect::<Vec<_>>());
        files.any(|file| file.file_name().to_string_lossy().contains(".log."))
    };
    let pods = inside(&cluster.data().join("log/pods")).filter(|pod| is_rotated(&pod.path()));
    pods.map(|pod| pod.file_name()).collect()
}

/// The node holds its log.
fn a_pod_that_came_and_went_while_nobody_collected_is_there(cluster: &Cluster) {
    cluster.must("run brief --image=busybox:1.28 --restart=Never --command -- seq 1 100");
    cluster.must_become("--for=jsonpath={.status.phase}=Succeeded pod/brief", 60);
    cluster.must("delete pod brief --grace-period=1");
    assert_eq!(cluster.skerry("logs --pod brief --plain"), "");
    let collector = collect(cluster);
    let wanted: String = (1..=100).map(|number| format!("{number}\n")).collect();
    cluster.wait("the log of a pod that is gone", LIMIT, |_| {
        cluster.skerry("logs --namespace default --pod brief --plain") == wanted
    });
    // It is stored, so the node need not hold it for its five minutes.
    let pods = cluster.data().join("log/pods");
    let begun = Instant::now();
    cluster.wait("the node lets go of a log that was read", LIMIT, |_| {
        let mut names = std::fs::read_dir(&pods).expect("listed").flatten().map(|entry| entry.file_name());
        !names.any(|name| name.to_string_lossy().starts_with("default_brief_"))
    });
    println!("a log that was read was let go of after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(120), "it was held as if nobody had read it");
    drop(collector);
}

/// A collector; dropping it is kill -9.
struct Collector(Child);

impl Drop for Collector {
    fn drop(&mut self) {
        // One that has ended by itself is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn collect(cluster: &Cluster) -> Collector {
    let log = File::options().create(true).append(true).open(cluster.data().join("collector.log")).expect("a log");
    let mut command = cluster.command("collect-logs --node-name node --kernel=");
    command.arg("--pods").arg(cluster.data().join("log/pods"));
    Collector(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("the collector starts"))
}

/// The numbers of each pod's lines, in the order of time.
fn stored(cluster: &Cluster) -> BTreeMap<String, Vec<usize>> {
    let mut found: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for line in cluster.skerry("logs --namespace default --grep ^line").lines() {
        let (_, rest) = line.split_once(' ').expect("a time");
        let (name, text) = rest.split_once(' ').expect("a pod and a text");
        let pod = name.split('/').nth(1).expect("a pod").to_owned();
        found.entry(pod).or_default().push(number(text).expect("a number"));
    }
    found
}
