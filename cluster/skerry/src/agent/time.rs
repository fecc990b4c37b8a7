//! The time from the server, for a board that has no clock of its own and reaches nobody who tells the time.
//!
//! Start at [`Timekeeper`]; [`decide`] is the pure part. PID 1 of the board never lets the clock stand before the last time
//! that it knows of, and asks NTP servers where there are any (`firmware/init`); this is for what is between the two.
//!
//! Invariants:
//! * who keeps the clock right otherwise (NTP, as the kernel notes it) is not interfered with;
//! * the clock is never set before what it was at the start of this agent and the time that has passed since: who misled it by
//!   a time of the future can take that back, and nothing else;
//! * a server moves it to no time at which its own certificate is not good (`client::told`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Clock, Monotonic, Timestamp, chain};
use client::{Kubeconfig, told};

/// While the server does not say, and once it has.
const PAUSE: Duration = Duration::from_secs(15);
const PAUSE_LONG: Duration = Duration::from_secs(600);
/// A clock that is so near is left alone: the server says whole seconds, and all that Kubernetes compares allows for more.
const NEAR: i128 = 5 * 1_000_000_000;

/// Sets the clock by the server.
pub(super) struct Timekeeper {
    clock: Arc<dyn Clock>,
    started: (Timestamp, Monotonic),
    /// What was said last, so that it is not repeated.
    said: Mutex<String>,
}

/// What becomes of the clock.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// It is near enough.
    Stay,
    /// It is set to this.
    Set(Timestamp),
    /// The server is further behind than this machine was when it started.
    Refuse,
}

fn decide(now: Timestamp, floor: Timestamp, behind: i128) -> Decision {
    let told = Timestamp(now.0 + behind);
    match (behind.abs() <= NEAR, told < floor) {
        (true, _) => Decision::Stay,
        (false, false) => Decision::Set(told),
        (false, true) => Decision::Refuse,
    }
}

impl Timekeeper {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Timekeeper {
        let started = (clock.now(), clock.monotonic());
        Timekeeper { clock, started, said: Mutex::default() }
    }

    /// Asks for ever.
    pub(super) async fn role(&self, server: &str, ca_pem: &str) {
        loop {
            let pause = if self.ask(server, ca_pem).await { PAUSE_LONG } else { PAUSE };
            tokio::time::sleep(pause).await;
        }
    }

    /// Sets the clock by the server if nobody else keeps it. False if the server does not answer.
    pub(super) async fn ask(&self, server: &str, ca_pem: &str) -> bool {
        if sys::clock::is_synchronised() {
            return true;
        }
        let config = Kubeconfig { server: server.to_owned(), ca_pem: ca_pem.to_owned(), ..Kubeconfig::default() };
        match told::time(&config, &*self.clock).await {
            Ok(behind) => {
                self.follow(server, behind);
                true
            }
            Err(error) => {
                self.say(&format!("the server does not tell the time: {}", chain(&error)), false);
                false
            }
        }
    }

    fn follow(&self, server: &str, behind: i128) {
        let seconds = behind.abs() / 1_000_000_000;
        match decide(self.clock.now(), self.floor(), behind) {
            Decision::Stay => self.say("the clock agrees with the server's", false),
            Decision::Refuse => {
                self.say(&format!("the clock of {server} is {seconds} s behind, and is not followed"), true);
            }
            Decision::Set(time) => {
                let way = if behind > 0 { "forward" } else { "back" };
                let done =
                    format!("the clock is set {way} by {seconds} s to the time of {server}, as NTP tells it none");
                match sys::clock::set(time) {
                    Ok(()) => self.say(&done, true),
                    Err(error) => self.say(&format!("the clock is {seconds} s off: {}", chain(&error)), true),
                }
            }
        }
    }

    /// What the clock would say if nobody had set it since the start.
    fn floor(&self) -> Timestamp {
        self.started.0.plus(self.clock.monotonic().since(self.started.1))
    }

    fn say(&self, what: &str, is_news: bool) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said == what {
            return;
        }
        what.clone_into(&mut said);
        if is_news {
            tracing::warn!("{what}");
        } else {
            tracing::debug!("{what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a clock at 1000 s, which would be at `floor` by itself, where the server is at `told`.
    fn check(floor: i64, told: i64, expected: Decision) {
        let at = Timestamp::from_seconds;
        assert_eq!(decide(at(1000), at(floor), at(told).0 - at(1000).0), expected);
    }

    #[test]
    fn a_clock_that_is_behind_goes_forward() {
        check(1000, 9_000_000, Decision::Set(Timestamp::from_seconds(9_000_000)));
        check(1000, 1006, Decision::Set(Timestamp::from_seconds(1006)));
    }
    #[test]
    fn a_clock_that_is_near_stays() {
        for told in [995, 1000, 1005] {
            check(1000, told, Decision::Stay);
        }
    }
    #[test]
    fn what_a_server_took_it_can_give_back_and_no_more() {
        check(900, 950, Decision::Set(Timestamp::from_seconds(950)));
        check(900, 900, Decision::Set(Timestamp::from_seconds(900)));
        check(900, 899, Decision::Refuse);
        check(1000, 900, Decision::Refuse);
    }

    #[test]
    fn the_floor_goes_with_the_time() {
        let clock = Arc::new(base::ManualClock::at(Timestamp::from_seconds(1000)));
        let keeper = Timekeeper::new(clock.clone());
        clock.advance(Duration::from_secs(10));
        clock.jump_to(Timestamp::from_seconds(5000));
        assert_eq!(keeper.floor(), Timestamp::from_seconds(1010));
    }
}
