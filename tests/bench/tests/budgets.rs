//! Starting, running pods and idling cost about what we promise, even in a debug build on a busy machine: limits here are
//! many times those of README.md, so that what fails is a mistake and not the weather.
//!
//! Needs root (network namespaces) and, the first time, Debian's archive for the test images.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base::Bytes;
use bench::{idle, median, namespace, pods, start, telemetry};
use images::debian::{Cache, Lock};
use images::{Architecture, build};

const START_MAX: Duration = Duration::from_secs(5);
const NODE_READY_MAX: Duration = Duration::from_secs(10);
const POD_MAX: Duration = Duration::from_secs(5);
/// Debug builds are larger, and so is what of them lies in memory.
const MEMORY_MAX: Bytes = Bytes(128 << 20);
/// The promise is 60 in ten minutes; right behind the last pod's start a few more are under way.
const SYNCS_MAX: usize = 6;
const WRITTEN_MAX: Bytes = Bytes(1 << 20);
/// Collectors of a debug build; the promise is 24 MiB.
const COLLECT_MEMORY_MAX: Bytes = Bytes(64 << 20);
/// Of one core, in a debug build.
const CPU_SHARE_MAX: f64 = 0.25;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn busybox() -> PathBuf {
    let folder = top().join("build/images");
    std::fs::create_dir_all(&folder).expect("a folder");
    let archive = folder.join("bench.tar");
    if !archive.exists() {
        let lock = Lock::read(&top().join("tests/images/packages.lock")).expect("the lock");
        let cache = Cache::new(&top().join("build/cache/debian"));
        build(&lock, &cache, Architecture::here(), |name| name.contains("busybox"), &archive)
            .expect("the image is made");
    }
    archive
}

#[test]
fn a_server_starts_runs_pods_and_idles_within_its_budget() {
    let (program, archive) = (PathBuf::from(env!("CARGO_BIN_EXE_skerry-to-measure")), busybox());
    // This thread's namespace is that of everything below.
    namespace::enter().expect("root may make a network namespace");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        starts_in_time(&program).await;
        let mut cluster = pods::Cluster::start(&program, &archive).await.expect("a cluster");
        runs_pods_in_time(&mut cluster).await;
        idles(&mut cluster).await;
        collects(&mut cluster).await;
    });
}

async fn starts_in_time(program: &Path) {
    let starts = start::starts(program, 1).await.expect("it starts");
    for start in starts.first.iter().chain(&starts.again) {
        assert!(start.readyz < START_MAX && start.node_ready < NODE_READY_MAX, "{starts:?}");
    }
}

async fn runs_pods_in_time(cluster: &mut pods::Cluster) {
    let latencies = pods::latencies(cluster, 3).await.expect("pods run");
    assert!(median(latencies.clone()) < POD_MAX, "{latencies:?}");
}

async fn idles(cluster: &mut pods::Cluster) {
    let settle = Duration::from_secs(3);
    let idle = idle::idle(cluster, 2, settle, Duration::from_secs(8)).await.expect("it idles");
    assert!(idle.processes >= 2, "the server and its keeper are found: {idle:?}");
    assert!(Bytes(idle.pss.0 + idle.in_memory_files.0) < MEMORY_MAX, "{idle:?}");
    assert!(idle.syncs <= SYNCS_MAX && idle.written < WRITTEN_MAX, "{idle:?}");
    assert!(idle.cpu.as_secs_f64() < CPU_SHARE_MAX * idle.period.as_secs_f64(), "{idle:?}");
}

async fn collects(cluster: &mut pods::Cluster) {
    let (settle, period) = (Duration::from_secs(1), Duration::from_secs(4));
    let collecting = telemetry::telemetry(cluster, 2, settle, period).await.expect("it collects");
    assert!(collecting.collectors.iter().all(|used| used.pss.0 > 0), "both are found: {collecting:?}");
    assert!(collecting.with.pss.0 < collecting.without.pss.0 + COLLECT_MEMORY_MAX.0, "{collecting:?}");
    assert!(collecting.with.cpu_percent < 100.0 * CPU_SHARE_MAX, "{collecting:?}");
}
