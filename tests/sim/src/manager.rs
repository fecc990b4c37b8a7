//! The controllers, which can crash between any two writes.
//!
//! Start at [`Manager`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, ManualClock, Rng};
use client::Door;
use control::{Engine, Failure, Key, Outcome, Write, perform, run::resources};

use crate::feed::Feeds;
use crate::server::Server;

/// Writes remembered.
const RECENT_MAX: usize = 12;

/// A turn that is being applied, write after write.
struct Work {
    engine: usize,
    key: Key,
    writes: VecDeque<Write>,
    outcome: Outcome,
}

/// All controllers in one process.
pub struct Manager {
    engines: Vec<Engine>,
    /// What they read.
    pub feeds: Feeds,
    work: Vec<Work>,
    known_resources: bool,
    /// The last writes, to be told when a cluster does not settle.
    pub recent: VecDeque<String>,
}

/// A write, by whatever component; the error of a server that is away counts as unknown.
pub fn write(server: &Server, write: &Write) -> Result<control::Done, Failure> {
    let door: Arc<dyn Door> = server.door.clone();
    server.drive(perform(&door, write)).unwrap_or_else(|| {
        let (what, message) = (write.to_string(), "the power went".to_owned());
        Err(Failure { what, code: 0, reason: String::new(), message })
    })
}

impl Manager {
    /// Starts with empty caches, and so much patience with silent nodes.
    pub fn start(node_monitor_grace_period: Duration) -> Manager {
        let feeds = Feeds::start();
        let all = controllers::all(controllers::Options {
            root_ca: "a certificate".to_owned(),
            signer: None,
            server: "https://10.0.0.1:6443".to_owned(),
            node_monitor_grace_period,
            terminated_pod_gc_threshold: controllers::TERMINATED_POD_GC_THRESHOLD,
        });
        let engines = all.into_iter().map(|each| Engine::new(each, feeds.caches.clone(), || {})).collect();
        Manager { engines, feeds, work: Vec::new(), known_resources: false, recent: VecDeque::new() }
    }

    /// Learns what the server serves, as the real loop does by and by.
    fn discover(&mut self, server: &Server) {
        let door: Arc<dyn Door> = server.door.clone();
        let Some(Ok(found)) = server.drive(resources(&door)) else { return };
        self.known_resources = true;
        for engine in &mut self.engines {
            if engine.reconciler().about().everything {
                engine.set_resources(found.clone());
            }
        }
    }

    /// Lets some controllers decide, and applies some writes. Returns how many writes were made.
    pub fn step(&mut self, server: &Server, clock: &ManualClock, rng: &mut Rng, hurry: bool) -> usize {
        if !self.known_resources {
            self.discover(server);
        }
        for index in 0..self.engines.len() {
            if !hurry && rng.chance(1, 3) {
                continue;
            }
            let turns_max = if hurry { usize::MAX } else { 1 };
            for _ in 0..turns_max {
                let Some(turn) = self.engines[index].next(clock.now(), clock.monotonic()) else { break };
                let mut outcome = turn.outcome;
                let writes = std::mem::take(&mut outcome.writes).into();
                self.work.push(Work { engine: index, key: turn.key, writes, outcome });
            }
        }
        let mut made = 0;
        let mut rest = Vec::new();
        for mut work in std::mem::take(&mut self.work) {
            let budget = if hurry { usize::MAX } else { rng.below(4) as usize };
            if self.apply(&mut work, budget, server, clock, &mut made) {
                rest.push(work);
            }
        }
        self.work = rest;
        made
    }

    /// Applies up to `budget` writes; whether some are left.
    fn apply(
        &mut self,
        work: &mut Work,
        budget: usize,
        server: &Server,
        clock: &ManualClock,
        made: &mut usize,
    ) -> bool {
        let engine = &mut self.engines[work.engine];
        for _ in 0..budget {
            let Some(next) = work.writes.pop_front() else { break };
            *made += 1;
            self.recent.truncate(RECENT_MAX);
            self.recent.push_front(format!("{}: {next}", engine.reconciler().about().name));
            match write(server, &next) {
                Ok(done) => engine.wrote(&work.key, &next, &done, clock.monotonic()),
                Err(failure) => {
                    self.recent.push_front(failure.to_string());
                    engine.finish(&work.key, None, Err(failure), clock.monotonic());
                    return false;
                }
            }
        }
        if work.writes.is_empty() {
            engine.finish(&work.key, work.outcome.requeue_after, Ok(()), clock.monotonic());
        }
        !work.writes.is_empty()
    }

    /// Whether nothing is to be done before time passes.
    pub fn is_idle(&self) -> bool {
        self.work.is_empty() && self.engines.iter().all(Engine::is_idle)
    }
}
