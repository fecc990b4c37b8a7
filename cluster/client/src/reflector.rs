//! Keeps a cache like the server, one step at a time.
//!
//! Start at [`Reflector::next`]: it says what to do, and one of [`Reflector::listed`], [`Reflector::opened`],
//! [`Reflector::heard`] is told how it went. `run.rs` does this with a door and tokio, the simulator with its own hands.
//!
//! Invariants:
//! * a watch goes on exactly where the cache stands, so a broken connection loses nothing;
//! * only 410 (the server has forgotten that revision) costs a new list;
//! * failures are answered by waiting longer each time, up to [`WAIT_MAX`]; success forgets them.

use std::sync::Arc;
use std::time::Duration;

use crate::{Cache, DoorError, Event, Listing};

/// The first wait after a failure.
pub const WAIT_MIN: Duration = Duration::from_millis(50);
/// The longest: a server that comes back is found within this time.
pub const WAIT_MAX: Duration = Duration::from_secs(5);

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// List the collection.
    List,
    /// Watch it from here.
    Watch(String),
    /// Read the next event of the open watch.
    Hear,
    /// Do nothing for so long.
    Wait(Duration),
}

enum State {
    /// The cache stands nowhere, or at a revision the server has forgotten.
    Unlisted,
    /// The cache stands at a revision and nothing is open.
    Listed,
    /// Events are coming.
    Watching,
}

/// The progress of one cache.
pub struct Reflector {
    cache: Arc<Cache>,
    state: State,
    failures: u32,
    wait: bool,
}

impl Reflector {
    /// Begins with a list.
    pub fn new(cache: Arc<Cache>) -> Reflector {
        Reflector { cache, state: State::Unlisted, failures: 0, wait: false }
    }

    /// The cache it keeps.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// What to do next. After a `Wait` the next answer is something else.
    pub fn next(&mut self) -> Step {
        if std::mem::take(&mut self.wait) {
            let wait = WAIT_MIN.saturating_mul(1 << (self.failures.saturating_sub(1)).min(10));
            return Step::Wait(wait.min(WAIT_MAX));
        }
        match self.state {
            State::Unlisted => Step::List,
            State::Listed => Step::Watch(self.cache.resource_version()),
            State::Watching => Step::Hear,
        }
    }

    /// How [`Step::List`] went.
    pub fn listed(&mut self, result: Result<Listing, DoorError>) {
        match result {
            Ok(listing) => {
                self.cache.replace(&listing);
                self.state = State::Listed;
            }
            Err(error) => self.failed(&error),
        }
    }

    /// How [`Step::Watch`] went.
    pub fn opened(&mut self, result: Result<(), DoorError>) {
        match result {
            Ok(()) => self.state = State::Watching,
            Err(error) => self.failed(&error),
        }
    }

    /// What [`Step::Hear`] heard; `None` is the end of the watch, which is no failure.
    pub fn heard(&mut self, event: Option<Result<Event, DoorError>>) {
        match event {
            Some(Ok(event)) => {
                self.failures = 0;
                self.cache.apply(&event);
            }
            Some(Err(error)) => self.failed(&error),
            None => {
                // A server that closes every watch at once must not be asked in a tight loop.
                self.state = State::Listed;
                self.wait = true;
            }
        }
    }

    fn failed(&mut self, error: &DoorError) {
        let forgotten = matches!(error, DoorError::Refused { code: 410, .. });
        let stands = !self.cache.resource_version().is_empty();
        // What the server sends and nobody can read would be sent again: list instead.
        let unreadable = matches!(error, DoorError::Malformed { .. });
        self.state = if stands && !forgotten && !unreadable { State::Listed } else { State::Unlisted };
        self.wait = !forgotten || self.failures > 0;
        self.failures += 1;
        // A server may be away for days, and a log is no place to count its seconds.
        let (collection, times) = (self.cache.collection(), self.failures);
        if self.wait && times.is_power_of_two() {
            tracing::warn!(%collection, times, error = %base::chain(error), "will list or watch again");
        } else if self.wait {
            tracing::debug!(%collection, times, error = %base::chain(error), "will list or watch again");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Collection, EventKind};

    fn refused(code: u16) -> DoorError {
        DoorError::Refused { what: "pods".into(), code, reason: String::new(), message: String::new() }
    }

    fn listing(revision: u64) -> Listing {
        Listing { resource_version: revision.to_string(), items: Vec::new() }
    }

    fn watching_at(revision: u64) -> Reflector {
        let mut reflector = Reflector::new(Arc::new(Cache::new(Collection::all("", "v1", "pods"))));
        assert_eq!(reflector.next(), Step::List);
        reflector.listed(Ok(listing(revision)));
        assert_eq!(reflector.next(), Step::Watch(revision.to_string()));
        reflector.opened(Ok(()));
        reflector
    }

    #[test]
    fn a_broken_watch_goes_on_where_it_stood() {
        let mut reflector = watching_at(5);
        let object = Bytes::from_static(br#"{"metadata":{"name":"a","resourceVersion":"8"}}"#);
        reflector.heard(Some(Ok(Event { kind: EventKind::Added, object })));
        reflector.heard(Some(Err(refused(500))));
        assert_eq!(reflector.next(), Step::Wait(WAIT_MIN));
        assert_eq!(reflector.next(), Step::Watch("8".into()));
    }

    #[test]
    fn a_forgotten_revision_is_answered_by_a_list_at_once() {
        let mut reflector = watching_at(5);
        reflector.heard(Some(Err(refused(410))));
        assert_eq!(reflector.next(), Step::List);
    }

    #[test]
    fn a_server_that_keeps_failing_is_asked_less_and_less() {
        let mut reflector = watching_at(5);
        let waits: Vec<Step> = (0..9)
            .map(|_| {
                reflector.opened(Err(refused(503)));
                reflector.next()
            })
            .collect();
        assert_eq!(waits[1], Step::Wait(WAIT_MIN * 2));
        assert_eq!(waits[8], Step::Wait(WAIT_MAX));
    }

    #[test]
    fn a_bookmark_moves_the_revision_alone() {
        let mut reflector = watching_at(5);
        let object = Bytes::from_static(br#"{"metadata":{"resourceVersion":"9"}}"#);
        reflector.heard(Some(Ok(Event { kind: EventKind::Bookmark, object })));
        assert_eq!((reflector.cache().revision(), reflector.cache().len()), (9, 0));
    }
}
