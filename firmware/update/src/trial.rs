//! Whether a slot on trial has proved itself: no check that passed before the switch may fail after it.
//!
//! Start at [`verdict`].

use std::time::Duration;

use bundle::message::Check;
use slots::Cause;

/// The check that PID 1 makes itself: the address in the image that answers when what the image is for works.
pub const API: &str = "api";

/// What is to be done with the slot we run from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// It works, and was not on trial.
    Healthy,
    /// It works: confirm it.
    Confirm,
    /// It had its time.
    GiveUp(Cause),
}

/// What a trial is judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The checks that passed before the switch.
    pub before: Vec<String>,
    /// It must prove itself within so long.
    pub within: Duration,
}

impl Default for Terms {
    /// Of a trial that nobody wrote down: the API answers within ten minutes, as a slow board with a full cluster does.
    fn default() -> Terms {
        Terms { before: vec![API.to_owned()], within: Duration::from_secs(600) }
    }
}

/// Judges a slot after it ran for `ran`. Only one on trial is ever given up: behind the other one there is nothing.
pub fn verdict(on_trial: bool, terms: &Terms, now: &[Check], ran: Duration) -> Verdict {
    let passes = |name: &str| now.iter().any(|check| check.name == name && check.passes);
    if !on_trial {
        return if passes(API) { Verdict::Healthy } else { Verdict::Wait };
    }
    let missing: Vec<&str> = terms.before.iter().map(String::as_str).filter(|name| !passes(name)).collect();
    match missing.as_slice() {
        [] => Verdict::Confirm,
        _ if ran < terms.within => Verdict::Wait,
        missing => Verdict::GiveUp(cause(missing, now)),
    }
}

/// Without the API nothing else can be known; what was looked at and fails is unhealthy; what nobody looked at is late.
fn cause(missing: &[&str], now: &[Check]) -> Cause {
    if missing.contains(&API) {
        Cause::ApiNeverReady
    } else if missing.iter().any(|name| now.iter().any(|check| check.name == *name)) {
        Cause::Unhealthy
    } else {
        Cause::Deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `before` names checks; `now` too, with `-` behind those that fail.
    fn check(on_trial: bool, before: &str, now: &str, ran_s: u64, expected: Verdict) {
        let terms =
            Terms { before: before.split_whitespace().map(str::to_owned).collect(), within: Duration::from_secs(60) };
        let one = |word: &str| Check { name: word.trim_end_matches('-').into(), passes: !word.ends_with('-') };
        let now: Vec<Check> = now.split_whitespace().map(one).collect();
        assert_eq!(verdict(on_trial, &terms, &now, Duration::from_secs(ran_s)), expected, "{before} | {now:?}");
    }

    #[test]
    fn a_trial_is_confirmed_once_all_that_passed_before_passes() {
        check(true, "api node", "api", 1, Verdict::Wait);
        check(true, "api node", "api node- extra-", 1, Verdict::Wait);
        check(true, "api node", "api node extra-", 1, Verdict::Confirm);
        check(true, "api node", "api node", 1000, Verdict::Confirm);
    }

    #[test]
    fn what_failed_before_the_switch_is_not_asked_of_the_new_image() {
        check(true, "node", "api- node", 1, Verdict::Confirm);
        check(true, "", "", 1, Verdict::Confirm);
    }

    #[test]
    fn a_trial_that_has_had_its_time_is_given_up_by_cause() {
        check(true, "api", "api-", 59, Verdict::Wait);
        check(true, "api", "api-", 60, Verdict::GiveUp(Cause::ApiNeverReady));
        check(true, "api node", "", 60, Verdict::GiveUp(Cause::ApiNeverReady));
        check(true, "api node", "api node-", 60, Verdict::GiveUp(Cause::Unhealthy));
        check(true, "api node", "api", 60, Verdict::GiveUp(Cause::Deadline));
    }

    #[test]
    fn a_slot_that_worked_before_is_never_given_up() {
        check(false, "api", "api-", 1 << 20, Verdict::Wait);
        check(false, "api", "api", 1, Verdict::Healthy);
    }
}
