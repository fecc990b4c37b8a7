//! What becomes of pods when nodes fall silent, by script and in simulated time.

use std::time::Duration;

use serde_json::json;
use sim::{Outage, Patience};

/// What Kubernetes 1.36 documents.
const UPSTREAMS: Patience = Patience { grace: Duration::from_secs(50), toleration_seconds: 300 };
/// What it had before.
const OLD: Patience = Patience { grace: Duration::from_secs(40), toleration_seconds: 300 };
const FOR_EVER: u32 = u32::MAX - 1;
/// How often a node reports: it may have done so just before it was lost.
const REPORT: u64 = 5;
/// What deciding, placing and starting take here, in seconds.
const WORK: u64 = 8;

/// Seconds from the loss of a node to the replacement of its pod, ready.
fn replaced_after(patience: Patience) -> u64 {
    let mut outage = Outage::start(3, patience);
    outage.silence(1, FOR_EVER);
    let is_replaced = |outage: &Outage| {
        let ready = outage.ready("web");
        ready.len() == 3 && ready.iter().all(|pod| pod.node != "node-1")
    };
    outage.pass_at_most(600, is_replaced)
}

#[track_caller]
fn check(patience: Patience) -> u64 {
    let seconds = replaced_after(patience);
    let least = patience.grace.as_secs() + patience.toleration_seconds as u64;
    assert!((least - REPORT..least + WORK).contains(&seconds), "{seconds} s with {patience:?}");
    seconds
}

#[test]
fn the_pods_of_a_lost_node_are_replaced_within_a_minute() {
    let seconds = check(Patience::OURS);
    println!("replaced after {seconds} s");
    assert!(seconds <= 60, "{seconds} s");
}

#[test]
fn with_upstreams_patience_it_takes_upstreams_time() {
    check(UPSTREAMS);
    check(OLD);
}

#[test]
fn each_kind_of_workload_does_as_upstreams() {
    let mut outage = Outage::start(3, Patience::OURS);
    let there = |outage: &Outage, app: &str| {
        let pods = outage.pods(app);
        pods.into_iter().find(|pod| pod.node == "node-1")
    };
    let db = there(&outage, "db").expect("a pod on each node");
    outage.job("work", 6);
    outage.pass_until(|outage| outage.pods("work").iter().filter(|pod| pod.node == "node-1").count() > 0);
    outage.silence(1, FOR_EVER);
    outage.pass(60);
    // Jobs move; some pods fail by chance and are tried again later.
    outage.pass_at_most(300, |outage| outage.succeeded("work") == 6);
    let stays = there(&outage, "log").expect("the DaemonSet's pod stays");
    assert!(!stays.leaving && !stays.ready);
    // Whether the pod really ended nobody knows, and its name must not run twice.
    let waits = there(&outage, "db").expect("the StatefulSet's pod stays");
    assert!(waits.leaving && waits.uid == db.uid);
    assert_eq!(outage.pods("db").len(), 3);
    // Somebody says that the node is off.
    outage.patch_node(
        1,
        json!({"spec": {"taints": [
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]}}),
    );
    outage.pass_until(|outage| outage.ready("db").len() == 3);
    // A Job is complete when the last of its pods is gone.
    outage.pass_until(|outage| outage.is_complete("work"));
    assert!(there(&outage, "db").is_none());
}

#[test]
fn pods_of_a_node_that_was_deleted_are_replaced() {
    let mut outage = Outage::start(3, Patience::OURS);
    outage.remove_node(2);
    outage.pass_until(|outage| outage.pods("log").len() == 2);
    outage.pass_until(|outage| outage.ready("web").len() == 3 && outage.ready("db").len() == 3);
}

#[test]
fn silence_of_all_nodes_moves_nobody() {
    let mut outage = Outage::start(4, Patience::OURS);
    let before = outage.uids();
    (0..4).for_each(|number| outage.silence(number, 3600));
    outage.pass(200);
    assert!(outage.pods("web").iter().all(|pod| !pod.leaving && !pod.ready), "they are not known to be well");
    let taints = outage.taints(0);
    assert_eq!(taints, ["node.kubernetes.io/unreachable:NoSchedule"]);
    outage.pass(200);
    // They come back one after the other, the last after a quarter of a minute.
    (0..4).for_each(|number| outage.silence(number, 5 * number as u32));
    outage.pass(120);
    assert_eq!(outage.uids(), before);
    assert_eq!(outage.ready("web").len(), 4);
    assert_eq!(outage.taints(3), Vec::<String>::new());
}

#[test]
fn a_node_that_stays_away_when_the_others_return_is_given_up() {
    let mut outage = Outage::start(4, Patience::OURS);
    (0..4).for_each(|number| outage.silence(number, 600));
    outage.pass(300);
    (0..3).for_each(|number| outage.silence(number, 0));
    let seconds = outage.pass_at_most(120, |outage| outage.ready("web").len() == 4);
    assert!(seconds >= 35, "it had its full time again: {seconds} s");
}

#[test]
fn most_of_a_zone_at_once_is_not_believed() {
    let mut outage = Outage::start(5, Patience::OURS);
    let before = outage.uids();
    (0..3).for_each(|number| outage.silence(number, 600));
    outage.pass(590);
    // Whoever was missed first had been alone.
    let leaving = outage.pods("web").iter().filter(|pod| pod.leaving).count();
    assert!(leaving <= 1, "{leaving} leave");
    outage.pass(60);
    let after = outage.uids();
    let kept = before.iter().filter(|uid| after.contains(uid)).count();
    assert!(kept + 2 >= before.len(), "{kept} of {}", before.len());
}

#[test]
fn a_clock_that_jumps_moves_nobody() {
    let mut outage = Outage::start(3, Patience::OURS);
    let before = outage.uids();
    for jump in [3600, -7200, 40 * 365 * 86_400] {
        outage.jump(jump);
        outage.pass(30);
        assert_eq!((outage.uids(), outage.ready("web").len()), (before.clone(), 3), "after {jump} s");
    }
    // Also not those of a node that is missed already, before their time.
    outage.silence(1, 30);
    outage.pass(26);
    assert_eq!(outage.taints(1).len(), 2);
    outage.jump(86_400);
    outage.pass(60);
    assert_eq!((outage.uids(), outage.ready("web").len()), (before, 3));
}

#[test]
fn a_loose_cable_moves_nobody() {
    let mut outage = Outage::start(3, Patience::OURS);
    let before = outage.uids();
    for silent in [10, 18, 26, 25, 12, 28, 19] {
        outage.silence(2, silent);
        outage.pass(u64::from(silent) + 8);
    }
    assert_eq!((outage.uids(), outage.ready("web").len()), (before, 3));
}
