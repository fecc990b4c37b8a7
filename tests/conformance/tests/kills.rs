//! kill -9 of the server, of the keeper, of both and of all: pods go on, and so do their logs.
//!
//! Needs root (network namespaces) and, the first time, Debian's archive for the test images.

mod made;

use std::fs;
use std::time::{Duration, Instant};

use conformance::Cluster;

const LIMIT: Duration = Duration::from_secs(60);

/// Counts, slowly enough that a reader keeps up.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";

#[test]
fn pods_outlive_whatever_is_killed() {
    let mut cluster = Cluster::start(&made::skerry(), Some(&made::test_images()));
    cluster.must(&format!("run count --image=busybox:1.28 --command -- sh -c '{COUNT}'"));
    cluster.must("run quiet --image=busybox:1.28 --command -- sleep 100000");
    cluster.must_become("--for=condition=Ready pod/count pod/quiet", 60);
    let same = "get pod count quiet -o jsonpath={.items[*].status.containerStatuses[*]['containerID','restartCount']}";
    let before = cluster.must(same);
    for killed in [&["server"][..], &["keeper"], &["server", "keeper"]] {
        let written = log_is_whole(&cluster);
        kill(&mut cluster, killed);
        cluster.wait("the log to go on", LIMIT, |_| log_is_whole(&cluster) > written);
        assert_eq!(cluster.must("exec quiet -- echo here"), "here\n", "after the death of {killed:?}");
        assert_eq!(cluster.must(same), before, "after the death of {killed:?}");
    }
    // Nobody holds the outputs any more, so what writes may end; what does not is adopted.
    kill(&mut cluster, &["server", "supervisor", "keeper"]);
    let quiet = "get pod quiet -o jsonpath={.status.containerStatuses[0].restartCount}{.status.phase}";
    cluster.wait("exec to work", LIMIT, |cluster| cluster.kubectl("exec quiet -- echo here").0);
    assert_eq!(cluster.must(quiet), "0Running");
}

/// Kills these at once; a server is started again.
fn kill(cluster: &mut Cluster, whom: &[&str]) {
    let all = [("keeper", "--held"), ("supervisor", "--detach")];
    let wanted = all.iter().filter(|(name, _)| whom.contains(name)).map(|(_, word)| *word);
    let others: Vec<u32> = wanted.flat_map(|word| running(cluster, word)).collect();
    assert_eq!(others.len(), whom.iter().filter(|name| **name != "server").count(), "{whom:?} run");
    if whom.contains(&"server") {
        cluster.kill_server();
    }
    let pids: Vec<String> = others.iter().map(u32::to_string).collect();
    if !pids.is_empty() {
        let status = std::process::Command::new("kill").arg("-9").args(&pids).status();
        assert!(status.expect("kill is installed").success(), "{whom:?} are killed");
    }
    let begun = Instant::now();
    while pids.iter().any(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())) {
        assert!(begun.elapsed() < LIMIT, "{whom:?} do not die");
        std::thread::yield_now();
    }
    if whom.contains(&"server") {
        cluster.run_server();
        cluster.wait_for_server();
    }
}

/// The keeper's processes of this cluster that were started with `word`.
fn running(cluster: &Cluster, word: &str) -> Vec<u32> {
    let socket = cluster.data().join("keeper/keeper.sock").to_string_lossy().into_owned();
    let is_ours = |pid: &u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&str> = line.split('\0').collect();
        words.contains(&socket.as_str()) && words.contains(&word)
    };
    let all =
        fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.filter(is_ours).collect()
}

/// Every number is in the log, once and in order; the answer is how many.
#[track_caller]
fn log_is_whole(cluster: &Cluster) -> usize {
    let (ok, log) = cluster.kubectl("logs count");
    if !ok {
        // The server is not back yet.
        return 0;
    }
    for (index, line) in log.lines().enumerate() {
        assert_eq!(line, (index + 1).to_string());
    }
    log.lines().count()
}
