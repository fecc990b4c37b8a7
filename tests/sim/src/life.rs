//! One life of a cluster.
//!
//! Start at [`run`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base::{ManualClock, Rng, Timestamp};
use client::Kind;
use http::Method;
use k8s_openapi::api::core::v1::Pod;

use crate::checks::{Watched, settled};
use crate::manager::Manager;
use crate::nodes::{Nodes, call};
use crate::server::Server;
use crate::user;

/// Rounds in which things go wrong.
const WILD_ROUNDS: u32 = 120;
/// Rounds in which nothing does, at most; a cluster that has not settled by then never will.
const CALM_ROUNDS: u32 = 800;
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
    /// Crashes of the controllers and of the server.
    pub crashes: (u32, u32),
    /// Rounds until it had settled.
    pub calm_rounds: u32,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (managers, servers) = self.crashes;
        write!(
            out,
            "seed {}: revision {}, {} events, {managers} controller and {servers} server crashes, settled after {} rounds",
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
    let mut rng = Rng::new(seed);
    let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1_795_464_000)));
    let mut server = Server::start(&clock, &mut rng);
    let count = 1 + rng.below(4) as usize;
    let mut nodes = Nodes::start(&server, count);
    let (mut manager, mut watched, mut managers) = (Manager::start(), Watched::default(), 0);
    for _ in 0..WILD_ROUNDS {
        if rng.chance(1, 3) {
            user::step(&server, &mut rng);
        }
        round(&server, &mut manager, &mut nodes, &clock, &mut rng, &mut watched, EVENT_FAULTS);
        if rng.chance(1, 30) {
            manager = Manager::start();
            managers += 1;
        }
        if rng.chance(1, 60) {
            server.crash(&mut rng);
            manager.cut();
        }
    }
    let mut calm_rounds = 0;
    let (mut quiet, mut before) = (0, 0);
    while quiet < QUIET_ROUNDS && calm_rounds < CALM_ROUNDS {
        calm_rounds += 1;
        let writes = round(&server, &mut manager, &mut nodes, &clock, &mut rng, &mut watched, 0);
        let pods = nodes.running.len();
        quiet = if writes == 0 && manager.is_idle() && pods == before { quiet + 1 } else { 0 };
        before = pods;
    }
    if quiet < QUIET_ROUNDS {
        let recent: Vec<String> = manager.recent.into_iter().collect();
        let recent = recent.join("; ");
        watched
            .broken
            .push(format!("the cluster has not settled after {CALM_ROUNDS} calm rounds; last writes: {recent}"));
    }
    watched.broken.extend(settled(&server, &nodes));
    Report {
        seed,
        broken: watched.broken,
        revision: server.revision(),
        events: watched.events,
        crashes: (managers, server.crashes),
        calm_rounds,
    }
}

fn round(
    server: &Server,
    manager: &mut Manager,
    nodes: &mut Nodes,
    clock: &ManualClock,
    rng: &mut Rng,
    watched: &mut Watched,
    faults: u64,
) -> usize {
    let calm = faults == 0;
    manager.feed(server, rng, faults, watched);
    let writes = manager.step(server, clock, rng, calm);
    nodes.step(server, clock, rng);
    watched.nodes(nodes);
    let pods = call(server, Method::GET, Pod::RESOURCE.all().path(), None).unwrap_or_default();
    watched.bound(nodes, pods["items"].as_array().map(Vec::as_slice).unwrap_or_default());
    clock.advance(Duration::from_millis(if calm { 5000 } else { 200 + rng.below(2000) }));
    if calm || rng.chance(1, 4) {
        nodes.report(server, clock);
    }
    server.tick();
    writes
}
