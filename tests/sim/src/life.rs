//! One life of a cluster.
//!
//! Start at [`run`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use apiserver::TOLERATION_SECONDS;
use base::{Clock, ManualClock, Rng, Timestamp};
use client::Kind;
use controllers::NODE_MONITOR_GRACE_PERIOD;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use crate::checks::{Ledger, Watched, settled};
use crate::dispatcher::Dispatcher;
use crate::manager::Manager;
use crate::nodes::{Nodes, list};
use crate::server::Server;
use crate::user;

/// Rounds in which things go wrong.
const WILD_ROUNDS: u32 = 120;
/// Rounds in which nothing does, at most; a cluster that has not settled by then never will.
const CALM_ROUNDS: u32 = 500;
/// Rounds without a change after which a cluster has settled.
const QUIET_ROUNDS: u32 = 30;
/// Of a thousand events, so many break their watch, and as many come twice.
const EVENT_FAULTS: u64 = 30;

/// How a life went.
pub struct Report {
    /// Where chance began.
    pub seed: u64,
    /// What broke, in sentences; empty is well.
    pub broken: Vec<String>,
    /// The last revision, which two runs of a seed must share.
    pub revision: u64,
    /// Events heard.
    pub events: u64,
    /// Crashes of the controllers, the scheduler, and the server, and faults of the disk.
    pub crashes: [u32; 4],
    /// Rounds until it had settled.
    pub calm_rounds: u32,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [managers, schedulers, servers, faults] = self.crashes;
        write!(
            out,
            "seed {}: revision {}, {} events, {managers} controller, {schedulers} scheduler and {servers} server crashes, \
             {faults} disk faults, settled after {} rounds",
            self.seed, self.revision, self.events, self.calm_rounds
        )?;
        for each in &self.broken {
            write!(out, "\n  BROKEN: {each}")?;
        }
        Ok(())
    }
}

/// Lives the life that belongs to `seed`.
pub fn run(seed: u64) -> Report {
    let mut life = Life::start(seed);
    for _ in 0..WILD_ROUNDS {
        life.trouble();
        life.round(EVENT_FAULTS);
    }
    life.nodes.heal();
    let (mut calm_rounds, mut quiet, mut is_calm) = (0, 0, false);
    while quiet < QUIET_ROUNDS && calm_rounds < CALM_ROUNDS {
        calm_rounds += 1;
        is_calm = is_calm || user::calm_down(&life.server);
        let done = life.round(0);
        // The scheduler looks at pods without a place again each minute: that is no unrest, as long as nothing comes of it.
        quiet = if is_calm && done == 0 && life.manager.is_idle() { quiet + 1 } else { 0 };
    }
    life.end(calm_rounds, quiet >= QUIET_ROUNDS)
}

struct Life {
    seed: u64,
    rng: Rng,
    clock: Arc<ManualClock>,
    server: Server,
    nodes: Nodes,
    manager: Manager,
    dispatcher: Dispatcher,
    watched: Watched,
    ledger: Ledger,
    crashes: [u32; 2],
    /// What controllers, scheduler and nodes did in the last round.
    done: [usize; 3],
}

impl Life {
    fn start(seed: u64) -> Life {
        let mut rng = Rng::new(seed);
        let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1_795_464_000)));
        let server = Server::start(&clock, &mut rng, TOLERATION_SECONDS);
        let mut nodes = Nodes::start(1 + rng.below(4) as usize);
        nodes.report(&server, &clock);
        Life {
            seed,
            rng,
            clock,
            server,
            nodes,
            manager: Manager::start(NODE_MONITOR_GRACE_PERIOD),
            dispatcher: Dispatcher::start(),
            watched: Watched::default(),
            ledger: Ledger::default(),
            crashes: [0; 2],
            done: [0; 3],
        }
    }

    /// What may happen between two rounds.
    fn trouble(&mut self) {
        let rng = &mut self.rng;
        if rng.chance(1, 2) {
            user::step(&self.server, &self.nodes, rng);
        }
        for _ in 0..rng.below(3) {
            self.ledger.write(&self.server, rng);
        }
        if rng.chance(1, 30) {
            self.manager = Manager::start(NODE_MONITOR_GRACE_PERIOD);
            self.crashes[0] += 1;
        }
        if rng.chance(1, 30) {
            self.dispatcher = Dispatcher::start();
            self.crashes[1] += 1;
        }
        if rng.chance(1, 15) {
            self.nodes.trouble(&self.server, rng);
        }
        if rng.chance(1, 25) {
            self.server.hurt(rng);
        }
        if rng.chance(1, 60) {
            self.start_server();
        }
        if self.rng.chance(1, 60) {
            self.jump();
        }
    }

    fn start_server(&mut self) {
        self.server.start_again(&mut self.rng);
        self.manager.feeds.cut();
        self.dispatcher.feeds.cut();
        self.watched.broken.extend(self.ledger.check(&self.server));
    }

    /// The calendar jumps, by up to an hour either way; the stopwatch does not.
    fn jump(&mut self) {
        let by = i128::from(self.rng.below(7200)) - 3600;
        let now = Timestamp(self.clock.now().0 + by * 1_000_000_000);
        self.clock.jump_to(now);
        if by < 0 {
            self.watched.set_back(&now.rfc3339());
        }
    }

    /// Everybody does something; `faults` of a thousand events go wrong. Returns how much was done.
    fn round(&mut self, faults: u64) -> usize {
        let calm = faults == 0;
        let (server, clock, rng) = (&self.server, &*self.clock, &mut self.rng);
        self.manager.feeds.feed(server, rng, faults, &mut self.watched);
        let controllers = self.manager.step(server, clock, rng, calm);
        self.dispatcher.feeds.feed(server, rng, faults, &mut self.watched);
        let scheduler = self.dispatcher.step(server, clock, rng, calm);
        let nodes = self.nodes.step(server, clock, rng, calm);
        self.done = [controllers, scheduler, nodes];
        if let (Some(pods), Some(jobs)) = (list(server, Pod::RESOURCE), list(server, Job::RESOURCE)) {
            self.watched.look(&self.nodes, &pods, &jobs);
        }
        clock.advance(match calm {
            true => Duration::from_secs(5),
            false if rng.chance(1, 10) => Duration::from_secs(5 + rng.below(35)),
            false => Duration::from_millis(200 + rng.below(2000)),
        });
        if calm || rng.chance(1, 4) {
            self.nodes.report(server, clock);
        }
        server.tick();
        if server.is_dark() && (calm || rng.chance(1, 2)) {
            self.start_server();
        }
        self.done.iter().sum()
    }

    fn end(mut self, calm_rounds: u32, has_settled: bool) -> Report {
        let mut broken = std::mem::take(&mut self.watched.broken);
        if !has_settled {
            let recent = self.manager.recent.iter().cloned().collect::<Vec<_>>().join("; ");
            let (idle, done) = ([self.manager.is_idle(), self.dispatcher.is_idle(&self.clock)], self.done);
            broken.push(format!(
                "the cluster has not settled after {CALM_ROUNDS} calm rounds; done by controllers, scheduler and nodes in the last: \
                 {done:?}; controllers and scheduler idle: {idle:?}; last writes: {recent}"
            ));
        }
        broken.extend(settled(&self.server, &self.nodes));
        broken.extend(self.ledger.check(&self.server));
        // One fault makes the same sentence again and again.
        broken.dedup();
        let [managers, schedulers] = self.crashes;
        Report {
            seed: self.seed,
            broken,
            revision: self.server.revision(),
            events: self.watched.events,
            crashes: [managers, schedulers, self.server.crashes, self.server.faults],
            calm_rounds,
        }
    }
}
