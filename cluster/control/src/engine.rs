//! Runs one reconciler, a step at a time.
//!
//! Start at [`Engine::next`]: it gives a [`Turn`], whose writes the caller applies and reports by [`Engine::wrote`], and
//! ends by [`Engine::finish`]. `run.rs` does so with tokio; the simulator crashes it between any two writes.
//!
//! Invariants:
//! * a turn is given only when every cache the reconciler reads has its first list;
//! * and only when those caches have seen what earlier turns wrote for the key, or [`PATIENCE`] is over.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Monotonic, Timestamp};
use client::{Cache, Caches, Change, Collection, Listener, Resource};

use crate::queue::Queue;
use crate::{Done, Failure, Key, Outcome, Reconciler, Verb, View, Write};

/// How long a key waits for the caches to see what was written for it. Longer than any watch takes to recover.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One reconciler with its queue.
pub struct Engine {
    reconciler: Box<dyn Reconciler>,
    caches: Arc<Caches>,
    reads: BTreeMap<Collection, Arc<Cache>>,
    resources: Vec<Resource>,
    inbox: Arc<Mutex<VecDeque<(Collection, Change)>>>,
    listener: Arc<Listener>,
    queue: Queue,
    expected: BTreeMap<Key, Vec<(Expected, Monotonic)>>,
    parked: BTreeMap<Key, Monotonic>,
    failures: BTreeMap<Key, Failure>,
}

/// What the caches must have seen before a key is looked at again.
enum Expected {
    Revision(Collection, u64),
    Gone(Collection, String, String, String),
}

/// What a reconciler decided about a key.
#[derive(Debug)]
pub struct Turn {
    /// The key; the caller's until [`Engine::finish`].
    pub key: Key,
    /// What is to be written.
    pub outcome: Outcome,
}

impl Engine {
    /// Opens the caches it reads and listens to them; `wake` is called when there may be something to do.
    pub fn new(
        reconciler: Box<dyn Reconciler>,
        caches: Arc<Caches>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Engine {
        let inbox: Arc<Mutex<VecDeque<_>>> = Arc::default();
        let letters = inbox.clone();
        let listener: Arc<Listener> = Arc::new(move |collection: &Collection, change: &Change| {
            letters.lock().unwrap_or_else(PoisonError::into_inner).push_back((collection.clone(), change.clone()));
            wake();
        });
        let mut engine = Engine {
            caches,
            reads: BTreeMap::new(),
            resources: Vec::new(),
            inbox,
            listener,
            queue: Queue::default(),
            expected: BTreeMap::new(),
            parked: BTreeMap::new(),
            failures: BTreeMap::new(),
            reconciler,
        };
        for resource in engine.reconciler.about().reads {
            engine.read(resource);
        }
        engine
    }

    /// The reconciler.
    pub fn reconciler(&self) -> &dyn Reconciler {
        &*self.reconciler
    }

    /// Tells a controller that reads everything what there is. Called again when that changes.
    pub fn set_resources(&mut self, resources: Vec<Resource>) {
        for gone in self.resources.iter().filter(|known| !resources.contains(known)) {
            self.reads.remove(&gone.all());
            self.caches.close(&gone.all());
        }
        for resource in &resources {
            self.read(resource);
        }
        self.resources = resources;
    }

    fn read(&mut self, resource: &Resource) {
        let collection = resource.all();
        let cache = self.caches.open(&collection);
        // A resource that went and came back has another cache than the one known here.
        if self.reads.get(&collection).is_some_and(|known| Arc::ptr_eq(known, &cache)) {
            return;
        }
        cache.subscribe(&self.listener);
        // Whoever was there before us is told of like news; an entry told twice does no harm.
        for entry in cache.entries(None) {
            (self.listener)(&collection, &Change::Object { old: None, new: Some(entry) });
        }
        self.reads.insert(collection, cache);
    }

    /// Wants a key looked at.
    pub fn add(&mut self, key: Key) {
        self.queue.add(key);
    }

    /// The next decision; `None` when there is nothing to do before [`Engine::due`].
    pub fn next(&mut self, now: Timestamp, at: Monotonic) -> Option<Turn> {
        self.take_letters(at);
        if self.reads.values().any(|cache| !cache.synced()) || (self.about_everything() && self.resources.is_empty()) {
            return None;
        }
        while let Some(key) = self.queue.pop(at) {
            if self.must_wait(&key, at) {
                self.queue.done(&key);
                continue;
            }
            let decided = catch_unwind(AssertUnwindSafe(|| {
                let view = View::new(&self.caches)
                    .with_resources(&self.resources)
                    .with_failure(self.failures.get(&key))
                    .standing_at(at);
                self.reconciler.reconcile(&view, &key, now)
            }));
            match decided {
                Ok(outcome) => return Some(Turn { key, outcome }),
                Err(_) => {
                    let controller = self.reconciler.about().name;
                    let wait = self.queue.failed(&key, at);
                    tracing::error!(controller, %key, ?wait, "a reconciler panicked; the key comes back later");
                }
            }
        }
        None
    }

    /// When to call [`Engine::next`] again although no cache changed.
    pub fn due(&self) -> Option<Monotonic> {
        let parked = self.parked.values().min().copied();
        self.queue.due().into_iter().chain(parked).min()
    }

    /// Whether nothing is ready or being worked on; keys may still be due later.
    pub fn is_idle(&self) -> bool {
        self.queue.is_idle() && self.inbox.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Remembers what a write has to look like in the caches before the key is looked at again.
    pub fn wrote(&mut self, key: &Key, write: &Write, done: &Done, at: Monotonic) {
        let collection = write.resource.all();
        if done.held_back || !self.reads.contains_key(&collection) {
            return;
        }
        let expected = match write.verb {
            Verb::Delete => Expected::Gone(collection, write.namespace.clone(), write.name.clone(), write.uid.clone()),
            _ if done.revision == 0 => return,
            _ => Expected::Revision(collection, done.revision),
        };
        self.expected.entry(key.clone()).or_default().push((expected, at.plus(PATIENCE)));
    }

    /// Ends a turn; `result` is the first write that failed.
    pub fn finish(&mut self, key: &Key, requeue_after: Option<Duration>, result: Result<(), Failure>, at: Monotonic) {
        match result {
            Ok(()) => {
                self.queue.succeeded(key);
                self.failures.remove(key);
                if let Some(wait) = requeue_after {
                    self.queue.add_at(key.clone(), at.plus(wait));
                }
                self.queue.done(key);
            }
            Err(failure) => {
                let wait = self.queue.failed(key, at);
                let controller = self.reconciler.about().name;
                // Neither says that anything is wrong: caches lag, and namespaces are emptied under their controllers.
                let expected =
                    failure.reason == "Conflict" || failure.message.contains("because it is being terminated");
                if expected {
                    tracing::debug!(controller, %key, ?wait, %failure, "the key comes back later");
                } else {
                    tracing::warn!(controller, %key, ?wait, %failure, "the key comes back later");
                }
                self.failures.insert(key.clone(), failure);
            }
        }
    }

    fn about_everything(&self) -> bool {
        self.reconciler.about().everything
    }

    fn take_letters(&mut self, at: Monotonic) {
        let letters = std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        let overdue = self.parked.values().any(|until| *until <= at);
        if !letters.is_empty() || overdue {
            for key in std::mem::take(&mut self.parked).into_keys() {
                self.queue.add(key);
            }
        }
        let view = View::new(&self.caches).with_resources(&self.resources);
        for (collection, change) in letters {
            let Change::Object { old, new } = change else { continue };
            for entry in old.iter().chain(new.iter()) {
                for key in self.reconciler.keys(&view, &collection, entry) {
                    self.queue.add(key);
                }
            }
        }
    }

    /// Whether the caches have not seen yet what was written for the key; it is then parked.
    fn must_wait(&mut self, key: &Key, at: Monotonic) -> bool {
        let Some(expected) = self.expected.get_mut(key) else { return false };
        expected.retain(|(expected, until)| *until > at && !expected.is_seen(&self.reads));
        let until = expected.iter().map(|(_, until)| *until).max();
        match until {
            Some(until) => {
                self.parked.insert(key.clone(), until);
                true
            }
            None => {
                self.expected.remove(key);
                false
            }
        }
    }
}

impl Expected {
    fn is_seen(&self, reads: &BTreeMap<Collection, Arc<Cache>>) -> bool {
        match self {
            Expected::Revision(collection, revision) => {
                reads.get(collection).is_none_or(|cache| cache.revision() >= *revision)
            }
            Expected::Gone(collection, namespace, name, uid) => reads.get(collection).is_none_or(|cache| {
                cache.entry(namespace, name).is_none_or(|entry| entry.meta.uid != *uid || entry.meta.deleting)
            }),
        }
    }
}
