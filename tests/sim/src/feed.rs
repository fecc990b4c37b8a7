//! Caches of one component that are fed late, twice, or by a broken watch.
//!
//! Start at [`Feeds`].

use std::sync::{Arc, Mutex, PoisonError};

use base::Rng;
use client::reflector::{Reflector, Step};
use client::{Cache, Caches, Door, Event};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};

use crate::checks::Watched;
use crate::link::broken;
use crate::server::Server;

/// The caches of one component, and the watches that feed them.
pub struct Feeds {
    /// The caches.
    pub caches: Arc<Caches>,
    feeds: Vec<Feed>,
    fresh: Arc<Mutex<Vec<Arc<Cache>>>>,
}

/// One cache and the watch that feeds it.
struct Feed {
    reflector: Reflector,
    events: Option<BoxStream<'static, Result<Event, client::DoorError>>>,
    last: Option<Event>,
}

impl Feeds {
    /// No caches yet.
    pub fn start() -> Feeds {
        let fresh: Arc<Mutex<Vec<Arc<Cache>>>> = Arc::default();
        let opened = fresh.clone();
        let caches = Caches::new(move |cache| opened.lock().unwrap_or_else(PoisonError::into_inner).push(cache));
        Feeds { caches, feeds: Vec::new(), fresh }
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

    /// The server crashed: every open watch breaks.
    pub fn cut(&mut self) {
        for feed in &mut self.feeds {
            if feed.events.take().is_some() {
                feed.reflector.heard(Some(Err(broken())));
            }
        }
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
                    let listed = server.drive(server.door.list(&collection)).unwrap_or_else(|| Err(broken()));
                    if let Ok(listing) = &listed {
                        watched.listed(&collection, &listing.resource_version);
                    }
                    self.reflector.listed(listed);
                }
                Step::Watch(from) => match server.drive(server.door.watch(&collection, &from)) {
                    Some(Ok(events)) => {
                        self.events = Some(events);
                        self.reflector.opened(Ok(()));
                    }
                    Some(Err(error)) => self.reflector.opened(Err(error)),
                    None => self.reflector.opened(Err(broken())),
                },
                Step::Hear if server.is_dark() => return,
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
