//! What a link needs next: pure, so that every cable that is pulled and every server that is away is a line of a test.
//!
//! Start at [`step`], then [`answered`].
//!
//! Invariants:
//! * it never ends: a link, a cable, a server that comes later is found;
//! * an address is kept until another one is had: taking it away because a server does not answer would only cut the board
//!   off from those who still know it, and nobody was given it in between, as far as anybody can tell.
//!
//! Not here: doing any of it (`network`).

use std::time::Duration;

/// So often a link is looked at while the board waits for it.
const LOOK_SOON: Duration = Duration::from_millis(100);
/// And later, when nobody waits any more.
const LOOK: Duration = Duration::from_secs(1);
/// Until then.
const SOON: Duration = Duration::from_secs(30);
/// Asked in vain so often, there is a pause between.
const TRIES_AT_ONCE: u32 = 3;
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A shorter lease is renewed no more often than this.
const RENEW_MIN: Duration = Duration::from_secs(1);

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is not there, or not yet: USB chips take seconds.
    Absent,
    /// It is there, and nobody is at the other end.
    Unplugged,
    /// It needs an address, and was refused or not heard so many times.
    Asking {
        /// How many.
        tries: u32,
        /// When it asks again, on the clock that [`step`] is given.
        again_at: Duration,
    },
    /// It has an address.
    Settled {
        /// How often the cable had been plugged and pulled by then: when that changes, it may lead elsewhere.
        carrier_changes: u32,
        /// When it asks for more time; never for an address of its own.
        renew_at: Option<Duration>,
    },
}

/// What the kernel says of a link that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether somebody is at the other end.
    pub carrier: bool,
    /// How often that changed.
    pub carrier_changes: u32,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing for so long.
    Wait(Duration),
    /// Get an address: ask for one, or take the one given.
    Ask,
}

/// What to do with a link in `state` of which the kernel says `seen`. `fixed`: its address is given, so nobody must be there.
pub fn step(state: State, seen: Option<Seen>, fixed: bool, now: Duration) -> (State, Step) {
    let look = Step::Wait(if now < SOON { LOOK_SOON } else { LOOK });
    let Some(seen) = seen else { return (State::Absent, look) };
    let reaches = seen.carrier || fixed;
    match state {
        State::Settled { carrier_changes, renew_at } => {
            let moved = carrier_changes != seen.carrier_changes;
            if reaches && (moved || renew_at.is_some_and(|at| at <= now)) { (state, Step::Ask) } else { (state, look) }
        }
        _ if !reaches => (State::Unplugged, look),
        State::Asking { again_at, .. } if again_at > now => (state, Step::Wait((again_at - now).min(LOOK))),
        State::Asking { .. } => (state, Step::Ask),
        State::Absent | State::Unplugged => (State::Asking { tries: 0, again_at: now }, Step::Ask),
    }
}

/// The state after asking in `state`: `granted` is for how many seconds, or none for ever; or nobody answered.
pub fn answered(state: State, granted: Option<Option<u32>>, carrier_changes: u32, now: Duration) -> State {
    match (granted, state) {
        (Some(seconds), _) => {
            let renew_at = seconds.map(|seconds| now + (Duration::from_secs(seconds.into()) / 2).max(RENEW_MIN));
            State::Settled { carrier_changes, renew_at }
        }
        (None, State::Asking { tries, .. }) => {
            let pause = (tries + 1).checked_sub(TRIES_AT_ONCE).map_or(Duration::ZERO, |more| {
                Duration::from_secs(1).saturating_mul(2u32.saturating_pow(more)).min(PAUSE_MAX)
            });
            State::Asking { tries: tries.saturating_add(1), again_at: now + pause }
        }
        (None, _) => State::Asking { tries: 1, again_at: now },
    }
}

/// What people are told of the way from one state to the next, beside the address itself.
pub fn told(before: State, after: State) -> Option<&'static str> {
    match (before, after) {
        (State::Absent, State::Absent) | (State::Unplugged, State::Unplugged) => None,
        // Cables take seconds to be noticed after a link was switched on.
        (State::Absent, State::Unplugged) => None,
        (_, State::Absent) => Some("is gone; waiting for it"),
        (_, State::Unplugged) => Some("has nobody at its other end; waiting for the cable"),
        (_, State::Asking { tries: TRIES_AT_ONCE, .. }) => Some("is given no address by anybody; asking on"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: Option<Seen> = Some(Seen { carrier: true, carrier_changes: 1 });
    const PULLED: Option<Seen> = Some(Seen { carrier: false, carrier_changes: 2 });
    const BACK: Option<Seen> = Some(Seen { carrier: true, carrier_changes: 3 });
    const ASKING: State = State::Asking { tries: 0, again_at: s(9) };
    const SETTLED: State = State::Settled { carrier_changes: 1, renew_at: Some(s(100)) };
    const OWN: State = State::Settled { carrier_changes: 1, renew_at: None };

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// One step with DHCP at second `now`: the state after it, and whether it asks.
    fn check(state: State, seen: Option<Seen>, now: u64, expected: State, asks: bool) {
        let (after, what) = step(state, seen, false, s(now));
        assert_eq!((after, what == Step::Ask), (expected, asks), "{state:?} {seen:?}");
    }

    #[test]
    fn a_link_that_comes_late_is_asked_on() {
        check(State::Absent, None, 1000, State::Absent, false);
        check(State::Absent, PULLED, 1000, State::Unplugged, false);
        check(State::Unplugged, THERE, 9, ASKING, true);
        check(State::Absent, THERE, 9, ASKING, true);
    }

    #[test]
    fn an_address_is_kept_while_the_cable_is_out_and_asked_for_again_when_it_is_back() {
        check(SETTLED, PULLED, 5, SETTLED, false);
        check(SETTLED, PULLED, 200, SETTLED, false);
        check(SETTLED, BACK, 5, SETTLED, true);
        check(SETTLED, None, 5, State::Absent, false);
    }

    #[test]
    fn a_lease_is_renewed_at_half_its_time() {
        assert_eq!(answered(ASKING, Some(Some(200)), 1, s(0)), SETTLED);
        check(SETTLED, THERE, 99, SETTLED, false);
        check(SETTLED, THERE, 100, SETTLED, true);
        assert_eq!(
            answered(ASKING, Some(Some(1)), 1, s(0)),
            State::Settled { carrier_changes: 1, renew_at: Some(s(1)) }
        );
        assert_eq!(answered(ASKING, Some(None), 1, s(0)), OWN);
        check(OWN, THERE, 1 << 40, OWN, false);
    }

    #[test]
    fn a_server_that_is_away_is_asked_for_ever_with_longer_pauses() {
        let (mut state, mut now, mut pauses) = (SETTLED, s(1000), Vec::new());
        for _ in 0..12 {
            state = answered(state, None, 1, now);
            let State::Asking { again_at, .. } = state else { panic!("{state:?}") };
            pauses.push((again_at - now).as_secs());
            now = again_at;
            assert_eq!(step(state, THERE, false, now), (state, Step::Ask));
        }
        assert_eq!(pauses, [0, 0, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30]);
    }

    #[test]
    fn a_cable_pulled_while_asking_is_waited_for() {
        check(ASKING, PULLED, 20, State::Unplugged, false);
        check(ASKING, THERE, 8, ASKING, false);
    }

    #[test]
    fn an_address_of_its_own_needs_nobody_at_the_other_end() {
        assert_eq!(step(State::Absent, PULLED, true, s(9)), (ASKING, Step::Ask));
        // What the kernel forgot with the cable is set again.
        assert_eq!(step(OWN, PULLED, true, s(9)), (OWN, Step::Ask));
    }

    #[test]
    fn waiting_is_told_once() {
        assert!(told(SETTLED, State::Absent).is_some() && told(State::Absent, State::Absent).is_none());
        assert!(told(ASKING, State::Unplugged).is_some() && told(State::Unplugged, State::Unplugged).is_none());
        let tried = |tries| State::Asking { tries, again_at: s(0) };
        let told: Vec<u32> = (1..20).filter(|tries| told(tried(tries - 1), tried(*tries)).is_some()).collect();
        assert_eq!(told, [3]);
    }
}
