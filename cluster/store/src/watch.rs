//! Tells watchers what happened.
//!
//! Start at [`Watchers::tell`] (the store's side) and [`Events`] (the watcher's side). Between them is a queue for each
//! watcher, of pointers to changes that all watchers share.
//!
//! Invariants:
//! * a watcher gets every change to its keys behind the revision it asked for, once and in order, or an error and the end;
//! * a queue holds at most what happened before the watch began and [`Watchers::changes_max`] changes since;
//! * telling costs what is told: watchers of other prefixes are not touched.
//!
//! Not here: finding what happened before the watch began (`state.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use futures::Stream;

use crate::history::Change;
use crate::{Event, Revision, StoreError};

/// Who watches what.
pub(crate) struct Watchers {
    by_prefix: BTreeMap<Arc<str>, Vec<Arc<Queue>>>,
    /// How many prefixes there are of each length, so that only those are looked up.
    lengths: BTreeMap<usize, usize>,
    changes_max: usize,
}

/// The queue of one watcher.
pub(crate) struct Queue(Mutex<Lane>);

struct Lane {
    items: VecDeque<Item>,
    /// How many of the items were there from the start.
    backlog: usize,
    /// The newest revision the watcher has been (or is about to be) told.
    told: Revision,
    end: Option<StoreError>,
    ended: bool,
    waker: Option<Waker>,
}

enum Item {
    Change(Arc<Change>),
    Progress(Revision),
}

impl Watchers {
    /// Nobody yet; each may lag by `changes_max`.
    pub(crate) fn new(changes_max: usize) -> Watchers {
        Watchers { by_prefix: BTreeMap::new(), lengths: BTreeMap::new(), changes_max }
    }

    /// Adds a watcher of `prefix` that is first told `backlog`, then that it has caught up with `visible`.
    pub(crate) fn add<'a>(
        &mut self,
        prefix: &str,
        backlog: impl Iterator<Item = &'a Arc<Change>>,
        visible: Revision,
    ) -> (Arc<str>, Arc<Queue>) {
        let queue = Arc::new(Queue::new(backlog, visible));
        let prefix = match self.by_prefix.get_key_value(prefix) {
            Some((known, _)) => known.clone(),
            None => self.add_prefix(prefix),
        };
        self.by_prefix.entry(prefix.clone()).or_default().push(queue.clone());
        (prefix, queue)
    }

    /// Tells everybody whom it concerns. Gives back whom to wake once the locks are free.
    pub(crate) fn tell(&mut self, change: &Arc<Change>) -> Vec<Waker> {
        let key = &*change.entry.key;
        let mut wakers = Vec::new();
        for length in self.lengths.keys().take_while(|length| **length <= key.len()) {
            let Some(watchers) = key.get(..*length).and_then(|prefix| self.by_prefix.get_mut(prefix)) else { continue };
            watchers.retain(|queue| {
                let mut lane = queue.lane();
                let fits = lane.push(change, self.changes_max);
                wakers.extend(lane.waker.take());
                fits
            });
        }
        wakers
    }

    /// Tells everybody who has nothing to read that nothing else happened up to `visible`.
    pub(crate) fn progress(&mut self, visible: Revision) -> Vec<Waker> {
        let queues = self.by_prefix.values().flatten();
        queues.filter_map(|queue| queue.lane().progress(visible)).collect()
    }

    /// Ends all watches.
    pub(crate) fn end(&mut self, error: &StoreError) -> Vec<Waker> {
        self.lengths.clear();
        let queues = std::mem::take(&mut self.by_prefix).into_values().flatten();
        queues.filter_map(|queue| queue.lane().finish(error.clone())).collect()
    }

    fn remove(&mut self, prefix: &str, queue: &Arc<Queue>) {
        let Some(watchers) = self.by_prefix.get_mut(prefix) else { return };
        watchers.retain(|each| !Arc::ptr_eq(each, queue));
        if watchers.is_empty() {
            self.by_prefix.remove(prefix);
            if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                *count -= 1;
            }
            self.lengths.retain(|_, count| *count > 0);
        }
    }

    fn add_prefix(&mut self, prefix: &str) -> Arc<str> {
        *self.lengths.entry(prefix.len()).or_default() += 1;
        Arc::from(prefix)
    }
}

impl Queue {
    fn new<'a>(backlog: impl Iterator<Item = &'a Arc<Change>>, visible: Revision) -> Queue {
        let mut items: VecDeque<Item> = backlog.map(|change| Item::Change(change.clone())).collect();
        items.push_back(Item::Progress(visible));
        let backlog = items.len();
        Queue(Mutex::new(Lane { items, backlog, told: visible, end: None, ended: false, waker: None }))
    }

    fn lane(&self) -> MutexGuard<'_, Lane> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// Adds `change`; when the watcher is too far behind, forgets everything and ends instead.
    fn push(&mut self, change: &Arc<Change>, changes_max: usize) -> bool {
        if self.items.len() - self.backlog >= changes_max {
            self.items = VecDeque::new();
            self.backlog = 0;
            self.end = Some(StoreError::Slow);
            return false;
        }
        assert!(change.entry.revision > self.told, "watchers are told in order");
        self.told = change.entry.revision;
        self.items.push_back(Item::Change(change.clone()));
        true
    }

    fn progress(&mut self, visible: Revision) -> Option<Waker> {
        if !self.items.is_empty() || self.told >= visible {
            return None;
        }
        self.told = visible;
        self.items.push_back(Item::Progress(visible));
        self.waker.take()
    }

    fn finish(&mut self, error: StoreError) -> Option<Waker> {
        self.end = Some(error);
        self.waker.take()
    }

    fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front();
        self.backlog = self.backlog.saturating_sub(1);
        if self.items.is_empty() {
            // A watcher that has caught up holds no buffer: there may be thousands of them.
            self.items = VecDeque::new();
        }
        item
    }
}

/// Where watchers sign off. The store's other half implements it, so that a watch does not keep a store alive.
pub(crate) trait Registry: Send + Sync {
    /// Calls `with` on the watchers, if the store is still there.
    fn watchers(&self, with: &mut dyn FnMut(&mut Watchers));
}

/// What a watcher reads from.
pub(crate) struct Events<R: Registry> {
    pub(crate) prefix: Arc<str>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) registry: Weak<R>,
}

impl<R: Registry> Stream for Events<R> {
    type Item = Result<Event, StoreError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut lane = self.queue.lane();
        match lane.pop() {
            Some(Item::Change(change)) => Poll::Ready(Some(Ok(change.event()))),
            Some(Item::Progress(revision)) => Poll::Ready(Some(Ok(Event::Progress(revision)))),
            None if lane.ended => Poll::Ready(None),
            None => match lane.end.take() {
                Some(error) => {
                    lane.ended = true;
                    Poll::Ready(Some(Err(error)))
                }
                None => {
                    lane.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            },
        }
    }
}

impl<R: Registry> Drop for Events<R> {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.watchers(&mut |watchers| watchers.remove(&self.prefix, &self.queue));
        }
    }
}
