//! How many boards are away at a time, whatever replaced the pods that ask for the update. Pure.
//!
//! Start at [`pace`]. A DaemonSet's `maxUnavailable` paces what it replaces itself; it makes all pods at once when it is new, and
//! replaces those that were not Ready all at once. So each node also looks who else is away before it empties itself.
//!
//! Nobody decides for all: a node claims its turn by cordoning itself, and looks again. Whoever then sees too many others gives
//! the claim back and waits; two that claim in the same moment both do, so at no time more than `at_a_time` go on.

use base::fnv1a;

use super::plan::{Plan, Shown, Step};

/// On the pods that ask for updates: how many boards may be away at a time; one where it is not said.
pub const AT_A_TIME: &str = "skerry.dev/updates-at-a-time";

/// What is seen of the other nodes, and what was decided before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Those that are away: cordoned for an update, or not Ready.
    pub away: Vec<String>,
    /// So many may be away.
    pub at_a_time: usize,
}

/// Holds a plan back until it is this node's turn; whether it is. `claims`: the node is cordoned for this update already.
pub fn pace(plan: Plan, version: &str, has_turn: bool, claims: bool, others: &Others) -> (Plan, bool) {
    let goes = |step: &Step| matches!(step, Step::Cordon(_) | Step::Evict(..) | Step::Activate);
    if !plan.steps.iter().any(goes) {
        let gives_back = plan.steps.contains(&Step::Uncordon);
        return (plan, has_turn && !gives_back);
    }
    if has_turn {
        return (plan, true);
    }
    if others.away.len() >= others.at_a_time {
        let message = format!("version {version} waits its turn while others are away: {}", others.away.join(", "));
        let shown = Shown { failed: false, reason: "Queued".to_owned(), message };
        let steps = if claims { vec![Step::Uncordon] } else { vec![] };
        return (Plan { shown: Some(shown), steps }, false);
    }
    let claim: Vec<Step> = plan.steps.iter().filter(|step| matches!(step, Step::Cordon(_))).cloned().collect();
    // Seen by the others first: only the next look tells who claimed in the same moment.
    if claim.is_empty() { (plan, true) } else { (Plan { steps: claim, ..plan }, false) }
}

/// For how many seconds a node that gave its claim back stays quiet, so that those who met do not meet again.
pub fn quiet_seconds(node: &str) -> u64 {
    2 + fnv1a(node.bytes()) % 11
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(steps: &[Step]) -> Plan {
        Plan { shown: Some(Shown { reason: "Draining".into(), ..Shown::default() }), steps: steps.to_vec() }
    }

    fn cordon() -> Step {
        Step::Cordon("2".into())
    }

    fn evict() -> Step {
        Step::Evict("ns".into(), "web".into())
    }

    #[track_caller]
    fn check(steps: &[Step], has_turn: bool, claims: bool, away: &[&str], expected: (&str, &[Step], bool)) {
        let others = Others { away: away.iter().map(|name| (*name).to_owned()).collect(), at_a_time: 1 };
        let (plan, turn) = pace(plan(steps), "2", has_turn, claims, &others);
        let reason = plan.shown.map(|shown| shown.reason).unwrap_or_default();
        assert_eq!((reason.as_str(), plan.steps.as_slice(), turn), expected);
    }

    #[test]
    fn a_turn_is_claimed_seen_and_then_used() {
        check(&[cordon(), evict()], false, false, &[], ("Draining", &[cordon()], false));
        check(&[evict()], false, true, &[], ("Draining", &[evict()], true));
        check(&[Step::Activate], false, true, &[], ("Draining", &[Step::Activate], true));
    }

    #[test]
    fn whoever_is_not_alone_waits_and_gives_its_claim_back() {
        check(&[cordon(), evict()], false, false, &["b"], ("Queued", &[], false));
        check(&[evict()], false, true, &["b"], ("Queued", &[Step::Uncordon], false));
        check(&[Step::Activate], false, false, &["b"], ("Queued", &[], false));
    }

    #[test]
    fn a_turn_lasts_until_the_node_is_opened() {
        check(&[evict()], true, true, &["b"], ("Draining", &[evict()], true));
        check(&[], true, true, &["b"], ("Draining", &[], true));
        check(&[Step::Uncordon], true, true, &[], ("Draining", &[Step::Uncordon], false));
    }

    #[test]
    fn more_may_be_away_where_the_pods_say_so() {
        let others = Others { away: vec!["b".into()], at_a_time: 2 };
        assert!(pace(plan(&[evict()]), "2", false, true, &others).1);
        let told = pace(plan(&[evict()]), "2", false, true, &Others { at_a_time: 1, ..others }).0.shown.unwrap();
        assert_eq!(told.message, "version 2 waits its turn while others are away: b");
    }

    #[test]
    fn boards_are_quiet_for_different_times() {
        let all: std::collections::BTreeSet<u64> =
            ["skerry-1", "skerry-2", "skerry-3"].iter().map(|name| quiet_seconds(name)).collect();
        assert!(all.len() == 3 && all.iter().all(|seconds| (2..13).contains(seconds)), "{all:?}");
    }
}
