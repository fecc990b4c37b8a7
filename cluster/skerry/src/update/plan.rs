//! What a node does next about an update: from what it sees to what it shows and does. Pure.
//!
//! Start at [`plan`].
//!
//! Invariants:
//! * nothing is evicted while a pod is in the way that may not be taken away: as `kubectl drain`, all or nothing;
//! * the switch comes alone, in a round in which nothing was left to evict.

use std::time::Duration;

use bundle::Digest;
use bundle::message::{Drain, Failed, REFUSED, State, Status, Wanted};

/// The Node's condition about updates: true when the last one failed.
pub const CONDITION: &str = "skerry.dev/UpdateFailed";
/// On a Node that was cordoned for an update: the bundle's digest. It claims a turn, too.
pub const CORDONED: &str = "skerry.dev/cordoned-for-update";
/// On such a Node that somebody had cordoned before: `true`. Nobody but them opens it.
pub const CORDONED_BEFORE: &str = "skerry.dev/cordoned-before-update";

/// What is seen of the Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cordon {
    /// No new pods are put here.
    pub unschedulable: bool,
    /// The digest that we cordoned it for.
    pub ours: Option<String>,
    /// Somebody else had done so before us.
    pub before: bool,
}

impl Cordon {
    /// Whether somebody else keeps pods away from here, whatever we do.
    pub fn is_theirs(&self) -> bool {
        self.unschedulable && (self.ours.is_none() || self.before)
    }
}

/// What is seen of a pod on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The kind of its controller; nobody replaces it without one.
    pub controller: Option<String>,
    /// It is one of a file on the node.
    pub mirror: bool,
    /// All of its containers have ended for good.
    pub finished: bool,
    /// It is being deleted.
    pub leaving: bool,
    /// It keeps data in an emptyDir volume.
    pub empty_dir: bool,
    /// It is ready.
    pub ready: bool,
    /// It holds the update socket.
    pub updates: bool,
    /// How many boards may be away at a time, where it says so.
    pub at_a_time: Option<usize>,
    /// Why it could not be evicted last.
    pub refused: Option<String>,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Keep new pods away, for this digest, and claim a turn.
    Cordon(String),
    /// Give the turn back, and let new pods come again unless somebody else keeps them away.
    Uncordon,
    /// Evict a pod: namespace, name.
    Evict(String, String),
    /// Switch, which restarts the machine.
    Activate,
}

/// What the Node's condition is to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The last update failed.
    pub failed: bool,
    /// One word.
    pub reason: String,
    /// The same for people.
    pub message: String,
}

/// What is to be shown and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The condition; what is shown stays where there is none.
    pub shown: Option<Shown>,
    /// To be done in this order.
    pub steps: Vec<Step>,
}

/// What may become of a pod.
enum Fate {
    Stays,
    Leaves,
    Evicted,
    InTheWay(&'static str),
}

/// What the node does next. `draining` is how long it has tried to get its pods away.
pub fn plan(status: &Status, cordon: &Cordon, pods: &[Pod], draining: Duration) -> Plan {
    let refused = status.failed.as_ref().is_some_and(|failed| failed.cause == REFUSED);
    // What waits for its bytes may wait for ever; what was refused was offered after it.
    let over = |wanted: &&Wanted| !(refused && wanted.state == State::Waiting);
    let Some(wanted) = status.wanted.as_ref().filter(over) else { return settled(status, cordon) };
    let version = told(wanted);
    let shown = |reason: &str, message: String| Some(shown(false, reason, message));
    match wanted.state {
        State::Waiting => {
            let message = format!("{version} is wanted, and its bytes have not come since the machine started");
            Plan { shown: shown("Waiting", message), steps: uncordon(cordon) }
        }
        State::Staging { .. } => {
            Plan { shown: shown("Staging", format!("{version} is checked and written")), steps: uncordon(cordon) }
        }
        State::Staged => drain(wanted, cordon, pods, draining),
        State::Trial => Plan { shown: shown("Trial", format!("{version} is on trial")), steps: vec![] },
    }
}

/// Nothing is wanted: the node is as it was, and says how the last update ended.
fn settled(status: &Status, cordon: &Cordon) -> Plan {
    let runs = format!("{} runs", named(&status.version, "the board's image", status.digest));
    let said = match &status.failed {
        Some(Failed { digest, version, cause, told }) => {
            let what = named(version, "a bundle", Some(*digest));
            let end = if cause == REFUSED { "is refused" } else { "was given up and is not tried again" };
            shown(true, reason(cause), format!("{what} {end}: {told}; {runs}"))
        }
        None => shown(false, "Confirmed", runs),
    };
    // A board that boots the other slot is judged before anything is said of it.
    if !status.confirmed {
        return Plan::default();
    }
    Plan { shown: Some(said), steps: uncordon(cordon) }
}

/// The ledger's word for a cause, as Kubernetes writes reasons.
pub fn reason(cause: &str) -> &'static str {
    match cause {
        "panic" => "KernelPanic",
        "init" => "InitCrash",
        "api" => "APINeverReady",
        "watchdog" => "Watchdog",
        "unhealthy" => "ChecksFailed",
        "unreadable" => "Unreadable",
        "deadline" => "DeadlineExceeded",
        "tries" => "TriesUsedUp",
        "asked" => "RolledBack",
        REFUSED => "Refused",
        _ => "Failed",
    }
}

fn drain(wanted: &Wanted, cordon: &Cordon, pods: &[Pod], draining: Duration) -> Plan {
    let version = told(wanted);
    let limit = wanted.drain.within_s;
    if is_pausing(draining, limit) {
        let message = format!("{version} waits: pods did not leave within {limit} s, and it is tried again in as long");
        return Plan { shown: Some(shown(true, "DrainTimedOut", message)), steps: uncordon(cordon) };
    }
    let mut steps = Vec::new();
    let digest = wanted.digest.to_string();
    let is_ours = cordon.ours.as_deref() == Some(digest.as_str());
    // Other nodes see by it that this one is going away, also where somebody cordoned it before.
    if !cordon.unschedulable || !is_ours {
        steps.push(Step::Cordon(digest));
    }
    let fates: Vec<(&Pod, Fate)> = pods.iter().map(|pod| (pod, fate(pod, wanted.drain))).collect();
    let in_the_way: Vec<String> = fates.iter().filter_map(|(pod, fate)| in_the_way(pod, fate)).collect();
    if !in_the_way.is_empty() {
        let message = format!("{version} waits for pods that may not be evicted: {}", in_the_way.join(", "));
        return Plan { shown: Some(shown(false, "DrainBlocked", message)), steps };
    }
    let evicted = fates.iter().filter(|(_, fate)| matches!(fate, Fate::Evicted));
    let evictions = evicted.map(|(pod, _)| Step::Evict(pod.namespace.clone(), pod.name.clone()));
    steps.extend(evictions);
    let is_empty = fates.iter().all(|(_, fate)| matches!(fate, Fate::Stays));
    if is_empty && steps.is_empty() {
        let message = format!("{version} is next: the machine restarts");
        return Plan { shown: Some(shown(false, "Restarting", message)), steps: vec![Step::Activate] };
    }
    Plan { shown: Some(shown(false, "Draining", draining_message(&version, pods))), steps }
}

/// After the time for draining comes as long a pause in which the node takes pods.
fn is_pausing(draining: Duration, within_s: u32) -> bool {
    within_s > 0 && draining.as_secs() / u64::from(within_s) % 2 == 1
}

fn draining_message(version: &str, pods: &[Pod]) -> String {
    let refused =
        pods.iter().filter_map(|pod| Some(format!("{}/{}: {}", pod.namespace, pod.name, pod.refused.as_ref()?)));
    let refused: Vec<String> = refused.collect();
    match refused.as_slice() {
        [] => format!("{version} waits for pods to leave"),
        refused => format!("{version} waits for pods to leave; {}", refused.join("; ")),
    }
}

fn fate(pod: &Pod, drain: Drain) -> Fate {
    let by_daemon_set = pod.controller.as_deref() == Some("DaemonSet");
    match pod {
        _ if pod.mirror || by_daemon_set => Fate::Stays,
        _ if pod.leaving => Fate::Leaves,
        // Nothing of it runs any more.
        _ if pod.finished => Fate::Stays,
        _ if pod.controller.is_none() && !drain.bare_pods => Fate::InTheWay("has no controller"),
        _ if pod.empty_dir && !drain.empty_dir => Fate::InTheWay("has an emptyDir volume"),
        _ => Fate::Evicted,
    }
}

fn in_the_way(pod: &Pod, fate: &Fate) -> Option<String> {
    match fate {
        Fate::InTheWay(why) => Some(format!("{}/{} {why}", pod.namespace, pod.name)),
        _ => None,
    }
}

fn uncordon(cordon: &Cordon) -> Vec<Step> {
    if cordon.ours.is_some() { vec![Step::Uncordon] } else { vec![] }
}

fn told(wanted: &Wanted) -> String {
    format!("version {}", wanted.version)
}

/// An image by its version, or as `usual` where nobody knows one, and by its digest.
fn named(version: &str, usual: &str, digest: Option<Digest>) -> String {
    let name = if version.is_empty() { usual.to_owned() } else { format!("version {version}") };
    digest.map_or(name.clone(), |digest| format!("{name} ({digest})"))
}

fn shown(failed: bool, reason: &str, message: String) -> Shown {
    Shown { failed, reason: reason.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod by its name and marks: `d` of a DaemonSet, `b` bare, `e` with an emptyDir, `-` leaving, `.` finished, `m` mirror,
    /// `!` refused.
    fn pod(word: &str) -> Pod {
        let (name, marks) = word.split_once(':').unwrap_or((word, ""));
        let has = |mark| marks.contains(mark);
        let controller = if has('d') { "DaemonSet" } else { "ReplicaSet" };
        Pod {
            namespace: "ns".into(),
            name: name.into(),
            controller: Some(controller.to_owned()).filter(|_| !has('b')),
            mirror: has('m'),
            finished: has('.'),
            leaving: has('-'),
            empty_dir: has('e'),
            refused: has('!').then(|| "the budget says no".to_owned()),
            ..Pod::default()
        }
    }

    fn words(plan: &Plan) -> String {
        let step = |step: &Step| match step {
            Step::Cordon(_) => "cordon".to_owned(),
            Step::Uncordon => "uncordon".to_owned(),
            Step::Evict(_, name) => format!("evict {name}"),
            Step::Activate => "activate".to_owned(),
        };
        let reason = plan.shown.as_ref().map_or("-", |shown| shown.reason.as_str());
        let steps: Vec<String> = plan.steps.iter().map(step).collect();
        format!("{reason}: {}", steps.join(", "))
    }

    fn cordon(text: &str) -> Cordon {
        let ours = match text {
            "ours" => Some(Digest::of(b"2").to_string()),
            "older" => Some(Digest::of(b"1").to_string()),
            _ => None,
        };
        Cordon { unschedulable: text != "open", ours, before: false }
    }

    fn staged(drain: Drain) -> Status {
        let wanted = Wanted { digest: Digest::of(b"2"), version: "2".into(), drain, state: State::Staged };
        Status { confirmed: true, version: "1".into(), wanted: Some(wanted), ..Status::default() }
    }

    #[track_caller]
    fn check_with(drain: Drain, after: u64, node: &str, pods: &str, expected: &str) {
        let pods: Vec<Pod> = pods.split_whitespace().map(pod).collect();
        assert_eq!(words(&plan(&staged(drain), &cordon(node), &pods, Duration::from_secs(after))), expected);
    }

    #[track_caller]
    fn check(node: &str, pods: &str, expected: &str) {
        check_with(Drain::default(), 0, node, pods, expected);
    }

    #[test]
    fn a_node_is_cordoned_then_drained_then_switched() {
        check("open", "web log:d", "Draining: cordon, evict web");
        check("ours", "web log:d", "Draining: evict web");
        check("ours", "web:- log:d", "Draining: ");
        check("ours", "job:. log:d static:mb", "Restarting: activate");
        check("open", "", "Draining: cordon");
    }

    #[test]
    fn somebody_elses_cordon_is_theirs() {
        check("theirs", "", "Draining: cordon");
        check("ours", "", "Restarting: activate");
        check("older", "", "Draining: cordon");
        let done = Status { confirmed: true, ..Status::default() };
        assert_eq!(words(&plan(&done, &cordon("theirs"), &[], Duration::ZERO)), "Confirmed: ");
        assert_eq!(words(&plan(&done, &cordon("ours"), &[], Duration::ZERO)), "Confirmed: uncordon");
    }

    #[test]
    fn who_cordoned_first_is_remembered() {
        let is_theirs = |unschedulable, ours: Option<&str>, before| {
            Cordon { unschedulable, ours: ours.map(str::to_owned), before }.is_theirs()
        };
        assert_eq!([is_theirs(true, None, false), is_theirs(true, Some("1"), true)], [true, true]);
        assert_eq!([is_theirs(false, None, false), is_theirs(true, Some("1"), false)], [false, false]);
        // Opened by hand since then.
        assert!(!is_theirs(false, Some("1"), true));
    }

    #[test]
    fn pods_that_nothing_replaces_are_taken_as_the_manifest_says() {
        check("ours", "web one:b", "DrainBlocked: ");
        check("ours", "web cache:e", "DrainBlocked: ");
        let all = Drain { bare_pods: true, empty_dir: true, within_s: 0 };
        check_with(all, 0, "ours", "web one:b cache:e", "Draining: evict web, evict one, evict cache");
    }

    #[test]
    fn an_attempt_has_its_time_and_then_a_pause() {
        let within = Drain { within_s: 60, ..Drain::default() };
        check_with(within, 59, "ours", "web:!", "Draining: evict web");
        check_with(within, 60, "ours", "web:!", "DrainTimedOut: uncordon");
        check_with(within, 119, "open", "web:!", "DrainTimedOut: ");
        check_with(within, 120, "open", "web:!", "Draining: cordon, evict web");
        check_with(Drain::default(), 1 << 30, "ours", "web:!", "Draining: evict web");
    }

    #[test]
    fn who_keeps_a_pod_is_named() {
        let plan = plan(&staged(Drain::default()), &cordon("ours"), &[pod("web:!")], Duration::ZERO);
        let message = plan.shown.unwrap().message;
        assert_eq!(message, "version 2 waits for pods to leave; ns/web: the budget says no");
    }

    #[test]
    fn every_other_state_leaves_the_pods_alone() {
        for (state, expected) in [
            (State::Waiting, "Waiting: uncordon"),
            (State::Staging { done: 1, of: 2 }, "Staging: uncordon"),
            (State::Trial, "Trial: "),
        ] {
            let mut status = staged(Drain::default());
            status.wanted.as_mut().unwrap().state = state;
            assert_eq!(words(&plan(&status, &cordon("ours"), &[pod("web")], Duration::ZERO)), expected);
        }
    }

    #[test]
    fn a_failure_is_named_and_the_node_opened() {
        let failed = |cause: &str| Failed {
            digest: Digest::of(b"2"),
            version: "2".into(),
            cause: cause.into(),
            told: "it fell".into(),
        };
        for (cause, expected) in [
            ("panic", "KernelPanic: uncordon"),
            ("init", "InitCrash: uncordon"),
            ("api", "APINeverReady: uncordon"),
            ("watchdog", "Watchdog: uncordon"),
            ("unhealthy", "ChecksFailed: uncordon"),
            (REFUSED, "Refused: uncordon"),
        ] {
            let status =
                Status { confirmed: true, version: "1".into(), failed: Some(failed(cause)), ..Status::default() };
            let plan = plan(&status, &cordon("ours"), &[], Duration::ZERO);
            assert_eq!(words(&plan), expected);
            let shown = plan.shown.unwrap();
            assert!(shown.failed && shown.message.contains("it fell"), "{shown:?}");
        }
    }

    #[track_caller]
    fn check_told(version: &str, cause: &str, expected: &str) {
        let digest = Digest::of(b"2");
        let failed = Failed { digest, version: version.into(), cause: cause.into(), told: "it fell".into() };
        let runs = Some(Digest::of(b"1"));
        let status =
            Status { confirmed: true, version: "1".into(), digest: runs, failed: Some(failed), ..Status::default() };
        let message = plan(&status, &cordon("open"), &[], Duration::ZERO).shown.unwrap().message;
        let message = message.replace(&digest.to_string(), "TWO").replace(&Digest::of(b"1").to_string(), "ONE");
        assert_eq!(message, expected);
    }

    #[test]
    fn it_is_said_what_failed_and_why_and_what_runs() {
        check_told("2", "panic", "version 2 (TWO) was given up and is not tried again: it fell; version 1 (ONE) runs");
        check_told("2", REFUSED, "version 2 (TWO) is refused: it fell; version 1 (ONE) runs");
        check_told("", REFUSED, "a bundle (TWO) is refused: it fell; version 1 (ONE) runs");
    }

    #[test]
    fn what_is_refused_is_said_before_what_waits_and_after_what_goes_on() {
        let refused =
            Failed { digest: Digest::of(b"3"), version: "3".into(), cause: REFUSED.into(), told: "it fell".into() };
        for (state, expected) in [(State::Waiting, "Refused: uncordon"), (State::Trial, "Trial: ")] {
            let mut status = Status { failed: Some(refused.clone()), ..staged(Drain::default()) };
            status.wanted.as_mut().unwrap().state = state;
            assert_eq!(words(&plan(&status, &cordon("ours"), &[], Duration::ZERO)), expected);
        }
    }

    #[test]
    fn a_trial_that_nobody_asked_for_is_not_judged_here() {
        assert_eq!(plan(&Status::default(), &cordon("ours"), &[], Duration::ZERO), Plan::default());
    }
}
