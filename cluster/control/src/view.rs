//! What a reconciler sees: the caches, and what went wrong last time.
//!
//! Start at [`View`].

use std::sync::Arc;

use base::Monotonic;
use client::{Cache, Caches, Collection, Entry, Kind, Resource, Selector};

use crate::Failure;

/// What a reconciler sees.
pub struct View<'a> {
    caches: &'a Caches,
    resources: &'a [Resource],
    failure: Option<&'a Failure>,
    at: Monotonic,
}

impl<'a> View<'a> {
    /// A view of these caches.
    pub fn new(caches: &'a Caches) -> View<'a> {
        View { caches, resources: &[], failure: None, at: Monotonic(0) }
    }

    /// The same, knowing every resource the server has.
    pub fn with_resources(self, resources: &'a [Resource]) -> View<'a> {
        View { resources, ..self }
    }

    /// The same, knowing why the key's last pass failed.
    pub fn with_failure(self, failure: Option<&'a Failure>) -> View<'a> {
        View { failure, ..self }
    }

    /// The same, at this moment of the stopwatch.
    pub fn standing_at(self, at: Monotonic) -> View<'a> {
        View { at, ..self }
    }

    /// The moment by the stopwatch, for what must not depend on a calendar that may jump.
    pub fn at(&self) -> Monotonic {
        self.at
    }

    /// Why the last pass over this key failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure
    }

    /// Every resource the server has, for controllers that read everything.
    pub fn resources(&self) -> &[Resource] {
        self.resources
    }

    /// The cache of a resource, if it is open and its list is in.
    pub fn cache(&self, resource: &Resource) -> Option<Arc<Cache>> {
        self.caches.find(&resource.all()).filter(|cache| cache.synced())
    }

    /// The same of a collection.
    pub fn cache_of(&self, collection: &Collection) -> Option<Arc<Cache>> {
        self.caches.find(collection).filter(|cache| cache.synced())
    }

    /// All caches that are open and have their lists.
    pub fn caches(&self) -> impl Iterator<Item = Arc<Cache>> {
        self.caches.all().into_iter().filter(|cache| cache.synced())
    }

    /// The resource whose objects, all of them, are a collection.
    pub fn resource(&self, collection: &Collection) -> Option<&'a Resource> {
        self.resources.iter().find(|resource| resource.all() == *collection)
    }

    /// One object.
    pub fn get<T: Kind>(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.cache(T::RESOURCE)?.get(namespace, name)
    }

    /// All objects of a namespace, or of all namespaces.
    pub fn list<T: Kind>(&self, namespace: Option<&str>) -> Vec<Arc<T>> {
        self.cache(T::RESOURCE).map(|cache| cache.list(namespace)).unwrap_or_default()
    }

    /// The objects of a namespace that a selector selects.
    pub fn select<T: Kind>(&self, namespace: &str, selector: &Selector) -> Vec<Arc<T>> {
        self.cache(T::RESOURCE).map(|cache| cache.select(Some(namespace), selector)).unwrap_or_default()
    }

    /// The objects that name this uid among their owners.
    pub fn owned<T: Kind>(&self, owner_uid: &str) -> Vec<Arc<T>> {
        self.cache(T::RESOURCE).map(|cache| cache.owned(owner_uid)).unwrap_or_default()
    }

    /// The objects of any resource, undecoded.
    pub fn entries(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Entry>> {
        self.cache(resource).map(|cache| cache.entries(namespace)).unwrap_or_default()
    }
}
