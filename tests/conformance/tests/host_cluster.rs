//! The documentation's workloads on a real cluster on this machine, asked by a real kubectl.
//!
//! Needs root (network namespaces) and, the first time, Debian's archive for the test images.

mod made;

use conformance::Cluster;
use workloads::{Break, check_again, chosen, run_all};

/// Most of what a scenario does is waiting.
const SIDE_BY_SIDE: usize = 8;
/// A pod may use up its grace of 30 seconds before it goes, and a namespace goes after its pods.
const GONE_SECONDS: u32 = 60;

#[test]
fn the_documentations_workloads_run() {
    let mut cluster = Cluster::start(&made::skerry(), Some(&made::test_images()));
    // Limits of memory are tested in the booted image: machines like this one may have cgroup v1.
    let mut here = chosen();
    here.retain(|scenario| !scenario.limits_memory);
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
