//! The controllers, with caches that are fed late, twice, or by a broken watch, and that can crash between any two writes.
//!
//! Start at [`Manager`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use base::{Clock, ManualClock, Rng};
use client::reflector::{Reflector, Step};
use client::{Cache, Caches, Door, Event};
use control::{Done, Engine, Key, Outcome, Write, perform, run::resources};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};

use crate::checks::Watched;
use crate::link::broken;
use crate::server::Server;

/// Writes remembered.
const RECENT_MAX: usize = 12;

/// One cache and the watch that feeds it.
struct Feed {
    reflector: Reflector,
    events: Option<BoxStream<'static, Result<Event, client::DoorError>>>,
    last: Option<Event>,
}

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
    feeds: Vec<Feed>,
    fresh: Arc<Mutex<Vec<Arc<Cache>>>>,
    work: Vec<Work>,
    known_resources: bool,
    /// The last writes, to be told when a cluster does not settle.
    pub recent: VecDeque<String>,
}

impl Manager {
    /// Starts with empty caches.
    pub fn start() -> Manager {
        let fresh: Arc<Mutex<Vec<Arc<Cache>>>> = Arc::default();
        let opened = fresh.clone();
        let caches = Caches::new(move |cache| opened.lock().unwrap_or_else(PoisonError::into_inner).push(cache));
        let all = controllers::all(controllers::Options { root_ca: "a certificate".to_owned(), signer: None });
        let engines = all.into_iter().map(|each| Engine::new(each, caches.clone(), || {})).collect();
        Manager { engines, feeds: Vec::new(), fresh, work: Vec::new(), known_resources: false, recent: VecDeque::new() }
    }

    /// Learns what the server serves, as the real loop does by and by.
    pub fn discover(&mut self, server: &Server) {
        let door: Arc<dyn Door> = server.door.clone();
        let Ok(found) = server.drive(resources(&door)) else { return };
        self.known_resources = true;
        for engine in &mut self.engines {
            if engine.reconciler().about().everything {
                engine.set_resources(found.clone());
            }
        }
    }

    /// Feeds some caches; `faults` of a thousand events come twice or break their watch, and some feeds lag.
    pub fn feed(&mut self, server: &Server, rng: &mut Rng, faults: u64, watched: &mut Watched) {
        for cache in std::mem::take(&mut *self.fresh.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.feeds.push(Feed { reflector: Reflector::new(cache), events: None, last: None });
        }
        for feed in &mut self.feeds {
            if faults > 0 && rng.chance(1, 4) {
                continue;
            }
            feed.pump(server, rng, faults, watched);
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
        let door: Arc<dyn Door> = server.door.clone();
        let engine = &mut self.engines[work.engine];
        for _ in 0..budget {
            let Some(write) = work.writes.pop_front() else { break };
            *made += 1;
            self.recent.truncate(RECENT_MAX);
            self.recent.push_front(format!("{}: {write}", engine.reconciler().about().name));
            match server.drive(perform(&door, &write)) {
                Ok(done) => engine.wrote(&work.key, &write, &Done { ..done }, clock.monotonic()),
                Err(failure) => {
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

    /// The server crashed: every open watch breaks.
    pub fn cut(&mut self) {
        for feed in &mut self.feeds {
            if feed.events.take().is_some() {
                feed.reflector.heard(Some(Err(broken())));
            }
        }
    }

    /// Whether nothing is to be done before time passes.
    pub fn is_idle(&self) -> bool {
        self.work.is_empty() && self.engines.iter().all(Engine::is_idle)
    }
}

impl Feed {
    fn pump(&mut self, server: &Server, rng: &mut Rng, faults: u64, watched: &mut Watched) {
        let collection = self.reflector.cache().collection().clone();
        // Enough for what one round brings; a feed with more to say goes on in the next.
        for _ in 0..64 {
            match self.reflector.next() {
                Step::Wait(_) => return,
                Step::List => {
                    let listed = server.drive(server.door.list(&collection));
                    if let Ok(listing) = &listed {
                        watched.listed(&collection, &listing.resource_version);
                    }
                    self.reflector.listed(listed);
                }
                Step::Watch(from) => match server.drive(server.door.watch(&collection, &from)) {
                    Ok(events) => {
                        self.events = Some(events);
                        self.reflector.opened(Ok(()));
                    }
                    Err(error) => self.reflector.opened(Err(error)),
                },
                Step::Hear => {
                    let Some(heard) = self.events.as_mut().and_then(|events| events.next().now_or_never()) else {
                        return;
                    };
                    if let Some(Ok(event)) = &heard {
                        watched.event(&collection, event);
                        if rng.chance(faults, 1000) {
                            // The connection breaks with this event on the wire.
                            self.events = None;
                            self.reflector.heard(Some(Err(broken())));
                            continue;
                        }
                        if rng.chance(faults, 1000)
                            && let Some(last) = &self.last
                        {
                            self.reflector.cache().apply(last);
                        }
                        self.last = Some(event.clone());
                    }
                    self.reflector.heard(heard);
                }
            }
        }
    }
}
