//! All caches of a process: one a collection, shared by everybody who reads it.
//!
//! Start at [`Caches::open`].
//!
//! Not here: how a cache is filled (`run.rs`, or the simulator).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Cache, Collection, Kind};

/// The caches of a process.
pub struct Caches {
    open: Mutex<BTreeMap<Collection, Arc<Cache>>>,
    fill: Box<dyn Fn(Arc<Cache>) + Send + Sync>,
}

impl Caches {
    /// No caches yet; `fill` is called with each new one and sees to it that it gets filled.
    pub fn new(fill: impl Fn(Arc<Cache>) + Send + Sync + 'static) -> Arc<Caches> {
        Arc::new(Caches { open: Mutex::default(), fill: Box::new(fill) })
    }

    /// The cache of a collection, made if need be.
    pub fn open(&self, collection: &Collection) -> Arc<Cache> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cache) = open.get(collection) {
            return cache.clone();
        }
        let cache = Arc::new(Cache::new(collection.clone()));
        open.insert(collection.clone(), cache.clone());
        drop(open);
        (self.fill)(cache.clone());
        cache
    }

    /// The cache of all objects of a kind.
    pub fn of<T: Kind>(&self) -> Arc<Cache> {
        self.open(&T::RESOURCE.all())
    }

    /// The cache of a collection, if somebody opened it.
    pub fn find(&self, collection: &Collection) -> Option<Arc<Cache>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(collection).cloned()
    }

    /// Forgets a collection: its resource is no longer served. Its reflector ends when nobody holds the cache.
    pub fn close(&self, collection: &Collection) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(collection);
    }

    /// All that are open.
    pub fn all(&self) -> Vec<Arc<Cache>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
