//! The time from other machines of the cluster, for a board that has no clock of its own and reaches nobody who tells the time.
//!
//! Start at [`Timekeeper`]: an agent asks the server ([`Timekeeper::ask`]), the server hears from its agents' Leases, which
//! carry each one's time ([`Timekeeper::heed`]); [`decide`] and [`Heard`] are the pure parts. PID 1 of the board never lets the clock stand before the last time
//! that it knows of, and asks NTP servers where there are any (`firmware/init`); this is for what is between the two.
//!
//! Invariants:
//! * who keeps the clock right otherwise (NTP, as the kernel notes it) is not interfered with;
//! * the clock is never set before what it was at the start of this program and the time that has passed since: who misled it by
//!   a time of the future can take that back, and nothing else;
//! * a server moves an agent to no time at which its own certificate is not good (`client::told`);
//! * agents move the server forward only, by no more than [`AHEAD_MAX`] in all, and not before half of those that are heard
//!   agree: one that lies breaks no cluster of three, and none lets certificates run out that are renewed in time.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Clock, Monotonic, Timestamp, chain};
use client::{Caches, Kubeconfig, told};
use k8s_openapi::api::coordination::v1::Lease;

/// While the server does not say, and once it has.
const PAUSE: Duration = Duration::from_secs(15);
const PAUSE_LONG: Duration = Duration::from_secs(600);
/// A clock that is so near is left alone: the server says whole seconds, and all that Kubernetes compares allows for more.
const NEAR: i128 = 5 * 1_000_000_000;

/// The agents may have gone on for so long while their server was off. Certificates are renewed long before their last month.
const AHEAD_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Leases that say nothing new for so long are of nodes that are silent.
const HEARD_FOR: Duration = Duration::from_secs(20);
/// Between two looks at Leases.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Where nodes have their Leases.
const LEASES: &str = "kube-node-lease";

/// Sets the clock by other machines.
pub(crate) struct Timekeeper {
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
    /// That is no time for this machine: before its start, or too far ahead.
    Refuse,
}

fn decide(now: Timestamp, good: &RangeInclusive<Timestamp>, behind: i128) -> Decision {
    let told = Timestamp(now.0 + behind);
    match (behind.abs() <= NEAR, good.contains(&told)) {
        (true, _) => Decision::Stay,
        (false, true) => Decision::Set(told),
        (false, false) => Decision::Refuse,
    }
}

/// By how much this clock is behind those of nodes, as their Leases say when they are renewed.
#[derive(Default)]
struct Heard(BTreeMap<String, Said>);

/// What one node says.
struct Said {
    /// In its Lease.
    renewed: Timestamp,
    /// When that was heard, and by how much we were behind then. What was there before us may be of any age.
    fresh: Option<(Monotonic, i128)>,
    /// Whether it knows the time from NTP.
    is_kept: bool,
}

impl Heard {
    /// A node's Lease as it is now.
    fn hear(&mut self, node: &str, renewed: Timestamp, is_kept: bool, clock: &dyn Clock) {
        let fresh = match self.0.get(node) {
            Some(before) if before.renewed == renewed => return,
            Some(_) => Some((clock.monotonic(), renewed.0 - clock.now().0)),
            None => None,
        };
        self.0.insert(node.to_owned(), Said { renewed, fresh, is_kept });
    }

    /// What half of the nodes say at least: of those that know the time from NTP, or of all where none does.
    fn behind(&self, now: Monotonic) -> Option<i128> {
        let of = |kept: bool| -> Vec<i128> {
            let said = self.0.values().filter(|said| said.is_kept || !kept).filter_map(|said| said.fresh);
            let mut all: Vec<i128> =
                said.filter(|(at, _)| now.since(*at) <= HEARD_FOR).map(|(_, behind)| behind).collect();
            all.sort_unstable();
            all
        };
        let said = Some(of(true)).filter(|kept| !kept.is_empty()).unwrap_or_else(|| of(false));
        said.get(said.len().checked_sub(1)? / 2).copied()
    }

    /// The clock was set: what was heard before says nothing any more.
    fn forget(&mut self) {
        self.0.values_mut().for_each(|said| said.fresh = None);
    }
}

impl Timekeeper {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Timekeeper {
        let started = (clock.now(), clock.monotonic());
        Timekeeper { clock, started, said: Mutex::default() }
    }

    /// Asks for ever.
    pub(crate) async fn role(&self, server: &str, ca_pem: &str) {
        loop {
            let pause = if self.ask(server, ca_pem).await { PAUSE_LONG } else { PAUSE };
            tokio::time::sleep(pause).await;
        }
    }

    /// Sets the clock by the server if nobody else keeps it. False if the server does not answer.
    pub(crate) async fn ask(&self, server: &str, ca_pem: &str) -> bool {
        if sys::clock::is_synchronised() {
            return true;
        }
        let config = Kubeconfig { server: server.to_owned(), ca_pem: ca_pem.to_owned(), ..Kubeconfig::default() };
        match told::time(&config, &*self.clock).await {
            Ok(behind) => {
                self.follow(server, &(self.floor()..=Timestamp(i128::MAX)), behind);
                true
            }
            Err(error) => {
                self.say(&format!("the server does not tell the time: {}", chain(&error)), false);
                false
            }
        }
    }

    /// Hears the nodes' Leases for ever, but for that of the `own` node, and sets the clock if nobody else keeps it.
    pub(crate) async fn heed(&self, caches: &Caches, own: &str) {
        let leases = caches.of::<Lease>();
        leases.wait_synced().await;
        let (mut changed, mut heard) = (leases.changed(), Heard::default());
        while changed.changed().await.is_ok() {
            for lease in leases.list::<Lease>(Some(LEASES)) {
                let name = lease.metadata.name.as_deref().unwrap_or_default();
                let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
                let Some(renewed) = renewed.filter(|_| name != own) else { continue };
                let is_kept = lease.metadata.annotations.iter().flatten().any(|(key, _)| key == kubelet::CLOCK_KEPT);
                heard.hear(name, Timestamp(renewed.0.as_nanosecond()), is_kept, &*self.clock);
            }
            let behind = heard.behind(self.clock.monotonic()).filter(|behind| *behind > NEAR);
            if let Some(behind) = behind.filter(|_| !sys::clock::is_synchronised()) {
                self.follow("the agents", &(self.clock.now()..=self.floor().plus(AHEAD_MAX)), behind);
                heard.forget();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // The caches live as long as we hold them.
        std::future::pending::<()>().await;
    }

    fn follow(&self, who: &str, good: &RangeInclusive<Timestamp>, behind: i128) {
        let (seconds, way) = (behind.abs() / 1_000_000_000, if behind > 0 { "ahead" } else { "behind" });
        match decide(self.clock.now(), good, behind) {
            Decision::Stay => self.say(&format!("the clock agrees with that of {who}"), false),
            Decision::Refuse => {
                // Whole minutes: who is asked again soon says nearly the same.
                let minutes = seconds / 60;
                self.say(&format!("the clock of {who} is {minutes} minutes {way}, and is not followed"), true);
            }
            Decision::Set(time) => {
                let way = if behind > 0 { "forward" } else { "back" };
                let done = format!("the clock is set {way} by {seconds} s to the time of {who}, as NTP tells it none");
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
        assert_eq!(decide(at(1000), &(at(floor)..=at(10_000_000)), at(told).0 - at(1000).0), expected);
    }

    #[test]
    fn a_clock_that_is_behind_goes_forward() {
        check(1000, 9_000_000, Decision::Set(Timestamp::from_seconds(9_000_000)));
        check(1000, 1006, Decision::Set(Timestamp::from_seconds(1006)));
    }

    #[test]
    fn nobody_is_followed_too_far() {
        check(1000, 10_000_000, Decision::Set(Timestamp::from_seconds(10_000_000)));
        check(1000, 10_000_001, Decision::Refuse);
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

    /// By how many seconds a clock at 1000 s is behind nodes whose Leases say this at first, and then that: `500>1600 ntp`.
    #[track_caller]
    fn check_heard(leases: &str, later: u64, expected: Option<i128>) {
        let (clock, mut heard) = (base::ManualClock::at(Timestamp::from_seconds(1000)), Heard::default());
        for turn in 0..2 {
            for (node, lease) in leases.split(", ").enumerate() {
                let (times, is_kept) = lease.strip_suffix(" ntp").map_or((lease, false), |times| (times, true));
                let time = times.split('>').nth(turn).and_then(|time| time.parse().ok()).expect("a time");
                heard.hear(&format!("n{node}"), Timestamp::from_seconds(time), is_kept, &clock);
            }
        }
        clock.advance(Duration::from_secs(later));
        assert_eq!(heard.behind(clock.monotonic()).map(|behind| behind / 1_000_000_000), expected, "{leases}");
    }

    #[test]
    fn what_half_of_the_agents_say_counts() {
        check_heard("500>1600", 0, Some(600));
        check_heard("500>9000, 500>1000, 500>1001", 0, Some(1));
        check_heard("500>9000, 500>1000", 0, Some(0));
        check_heard("500>9000, 500>8000, 500>1001", 0, Some(7000));
    }

    #[test]
    fn who_knows_the_time_from_ntp_counts_alone() {
        check_heard("500>1001, 500>1002, 500>8000 ntp", 0, Some(7000));
        check_heard("500>1000 ntp, 500>8000, 500>8000", 0, Some(0));
    }

    #[test]
    fn an_old_lease_says_nothing() {
        check_heard("1600>1600", 0, None);
        check_heard("500>1600", 20, Some(600));
        check_heard("500>1600", 21, None);
    }
}
