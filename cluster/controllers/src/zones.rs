//! Whether the pods of a node that is not ready are to be moved, or whether it is rather the network that fails.
//!
//! Start at [`Zones::moves`]. As upstream, what counts is how many nodes of a zone are not ready at once: when no node of
//! the cluster is ready, the server is what was cut off, and nobody's pods move; when most of a small zone is not ready,
//! no further node's pods move; otherwise one node after the other, with a pause between them.
//!
//! Invariants:
//! * nothing here reads the calendar: pauses are measured by the stopwatch;
//! * after the whole cluster was silent each node gets its full time again to be heard.
//!
//! Not here: what not ready means (`node.rs`), how long pods stay then (`taints.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::Monotonic;
use client::Kind;
use k8s_openapi::api::core::v1::Node;

use crate::node::is_ready;

/// Between two nodes of a zone whose pods are moved (upstream's `--node-eviction-rate` of 0.1 a second).
pub const PAUSE: Duration = Duration::from_secs(10);
/// The same while most of a large zone is not ready (`--secondary-node-eviction-rate`).
pub const PAUSE_LONG: Duration = Duration::from_secs(100);
/// A zone of more nodes than this is large (`--large-cluster-size-threshold`).
const LARGE_ZONE: usize = 50;
/// So many of a hundred nodes are "most of a zone" (`--unhealthy-zone-threshold`), if they are more than two.
const UNHEALTHY_PERCENT: usize = 55;

/// What is to be done about the pods of a node that is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// They move.
    Now,
    /// They may move after so long.
    Later(Duration),
    /// Nothing new: so many nodes are not ready that moving helps nobody.
    Hold,
    /// The whole cluster is silent: what was begun is taken back.
    TakeBack,
}

/// How many nodes of a zone are ready, and how many are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    ready: usize,
    not_ready: usize,
}

/// What is remembered of the zones.
#[derive(Debug, Default)]
pub struct Zones {
    /// The last node of each zone whose pods were moved, and when.
    moved: BTreeMap<String, (String, Monotonic)>,
    all_silent: bool,
    heard_again_at: Option<Monotonic>,
}

impl Zones {
    /// Whether pods of `node`, which is not ready, are to be moved; `Now` counts as done. `grace` is what a node that was
    /// silent with all others has to be heard again.
    pub fn moves(&mut self, nodes: &[Arc<Node>], node: &Node, grace: Duration, at: Monotonic) -> Moves {
        let counts = count(nodes);
        let was_silent = std::mem::replace(&mut self.all_silent, counts.values().all(|count| count.ready == 0));
        if self.all_silent {
            return Moves::TakeBack;
        }
        if was_silent {
            self.heard_again_at = Some(at);
        }
        let zone = zone(node);
        let Some(pause) = pause(counts.get(&zone).copied().unwrap_or_default()) else { return Moves::Hold };
        let left = |since: Option<Monotonic>, pause: Duration| {
            since.map_or(Duration::ZERO, |since| pause.saturating_sub(at.since(since)))
        };
        // Whoever asks again could not write it down the first time.
        let moved = self.moved.get(&zone).filter(|(name, _)| name != node.name());
        let wait = left(moved.map(|(_, at)| *at), pause).max(left(self.heard_again_at, grace));
        if !wait.is_zero() {
            return Moves::Later(wait);
        }
        self.moved.insert(zone, (node.name().to_owned(), at));
        Moves::Now
    }
}

fn count(nodes: &[Arc<Node>]) -> BTreeMap<String, Count> {
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    for node in nodes {
        let count = counts.entry(zone(node)).or_default();
        match is_ready(node) {
            true => count.ready += 1,
            false => count.not_ready += 1,
        }
    }
    counts
}

/// Between two nodes of a zone; `None` where none may follow.
fn pause(count: Count) -> Option<Duration> {
    let all = count.ready + count.not_ready;
    // A zone without any ready node is no worse than its power supply: the others take over.
    let partly = count.ready > 0 && count.not_ready > 2 && count.not_ready * 100 >= all * UNHEALTHY_PERCENT;
    match (partly, all > LARGE_ZONE) {
        (false, _) => Some(PAUSE),
        (true, true) => Some(PAUSE_LONG),
        (true, false) => None,
    }
}

fn zone(node: &Node) -> String {
    let labels = node.metadata.labels.as_ref();
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).cloned().unwrap_or_default();
    format!("{}/{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(20);

    /// Nodes by letter: `a` is ready, `a!` is not; behind `/` the zone.
    fn nodes(text: &str) -> Vec<Arc<Node>> {
        let node = |word: &str| {
            let (name, zone) = word.split_once('/').unwrap_or((word, ""));
            let ready = if name.ends_with('!') { "Unknown" } else { "True" };
            let node = serde_json::json!({
                "metadata": {"name": name.trim_end_matches('!'), "labels": {"topology.kubernetes.io/zone": zone}},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            });
            Arc::new(serde_json::from_value(node).expect("a node"))
        };
        text.split_whitespace().map(node).collect()
    }

    /// Asks about the first node of each picture, so many seconds after the first.
    #[track_caller]
    fn check(pictures: &[(u64, &str, Moves)]) {
        let mut zones = Zones::default();
        for (after, text, wanted) in pictures {
            let (nodes, at) = (nodes(text), Monotonic(1).plus(Duration::from_secs(*after)));
            assert_eq!(zones.moves(&nodes, &nodes[0], GRACE, at), *wanted, "after {after} s: {text}");
        }
    }

    fn later(seconds: u64) -> Moves {
        Moves::Later(Duration::from_secs(seconds))
    }

    #[test]
    fn one_node_of_three_moves() {
        check(&[(0, "a! b c", Moves::Now)]);
    }
    #[test]
    fn two_of_three_move_one_after_the_other() {
        check(&[(0, "a! b! c", Moves::Now), (4, "b! a! c", later(6)), (10, "b! a! c", Moves::Now)]);
    }
    #[test]
    fn most_of_a_small_zone_holds() {
        check(&[(0, "a! b! c! d e", Moves::Hold), (60, "a! b! c d e", Moves::Now)]);
    }
    #[test]
    fn half_of_a_zone_moves() {
        check(&[(0, "a! b! c! d e f", Moves::Now)]);
    }
    #[test]
    fn most_of_a_large_zone_moves_slowly() {
        let large = format!("{} {}", "x! ".repeat(30), "y ".repeat(22));
        check(&[(0, &large, Moves::Now), (50, &format!("other! {large}"), later(50))]);
    }
    #[test]
    fn a_zone_without_power_moves() {
        check(&[(0, "a!/1 b!/1 c!/1 d/2", Moves::Now)]);
    }
    #[test]
    fn nobody_moves_when_all_are_silent() {
        check(&[(0, "a!", Moves::TakeBack), (3600, "a! b!/2", Moves::TakeBack)]);
    }
    #[test]
    fn after_the_silence_of_all_each_has_its_time_again() {
        check(&[
            (0, "a! b! c!", Moves::TakeBack),
            (100, "a! b! c", later(20)),
            (115, "a! b c", later(5)),
            (120, "a! b c", Moves::Now),
        ]);
    }
}
