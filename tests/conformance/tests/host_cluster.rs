//! The documentation's workloads on a real cluster on this machine, asked by a real kubectl.
//!
//! `SKERRY_SCENARIOS` names the scenarios to run, comma-separated; all of them unless it is set.
//!
//! Needs root (network namespaces) and, the first time, Debian's archive for the test images.

mod made;

use conformance::Cluster;
use workloads::{Break, SCENARIOS, Scenario, check_again, run_all};

/// Most of what a scenario does is waiting.
const SIDE_BY_SIDE: usize = 8;
/// A pod may use up its grace of 30 seconds before it goes, and a namespace goes after its pods.
const GONE_SECONDS: u32 = 60;

#[test]
fn the_documentations_workloads_run() {
    let mut cluster = Cluster::start(&made::skerry(), Some(&made::test_images()));
    // Limits of memory are tested in the booted image: machines like this one may have cgroup v1.
    let here = SCENARIOS.iter().filter(|scenario| !scenario.limits_memory && is_wanted(scenario.name));
    let here: Vec<Scenario> = here.copied().collect();
    assert!(!here.is_empty(), "SKERRY_SCENARIOS names none that there is");
    let report = run_all(&cluster, &here, SIDE_BY_SIDE);
    println!("{report}");
    assert!(report.holds(), "{report}\n{}", cluster.last_lines());
    cluster.must("create configmap acknowledged --from-literal=a=b");
    cluster.kill_server();
    cluster.run_server();
    cluster.wait_for_server();
    cluster.must("get configmap acknowledged");
    let again = check_again(&cluster, &report, Break::ServerKilled, SIDE_BY_SIDE);
    println!("after kill -9 of the server:\n{again}");
    assert!(again.holds(), "{again}\n{}", cluster.last_lines());
    cluster.wait("deleted namespaces to go", cluster.limit(GONE_SECONDS), |cluster| {
        let left = cluster.must("get namespaces -o jsonpath={.items[*].metadata.name}");
        !report.deleted().any(|name| left.split(' ').any(|left| left == name))
    });
}

fn is_wanted(name: &str) -> bool {
    std::env::var("SKERRY_SCENARIOS").map_or(true, |names| names.split(',').any(|wanted| wanted == name))
}
