//! The wire between components and the server: it breaks when the server does.
//!
//! Start at [`Link`].

use std::sync::{Arc, Mutex, PoisonError};

use client::{Call, Collection, Door, DoorError, Event, Listing, Reply};
use futures::future::{BoxFuture, ready};
use futures::stream::BoxStream;

/// A door to whatever server there is at the moment.
#[derive(Default)]
pub struct Link(Mutex<Option<Arc<dyn Door>>>);

impl Link {
    /// There is a server.
    pub fn connect(&self, door: Arc<dyn Door>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(door);
    }

    /// There is none.
    pub fn disconnect(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether there is one.
    pub fn is_connected(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn door(&self) -> Result<Arc<dyn Door>, DoorError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(broken)
    }
}

/// The error of a broken wire.
pub fn broken() -> DoorError {
    DoorError::Unreachable { server: "the simulated server".to_owned(), source: "the wire is cut".into() }
}

impl Door for Link {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, DoorError>> {
        match self.door() {
            Ok(door) => door.call(call),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn list(&self, collection: &Collection) -> BoxFuture<'static, Result<Listing, DoorError>> {
        match self.door() {
            Ok(door) => door.list(collection),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn watch(
        &self,
        collection: &Collection,
        resource_version: &str,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Event, DoorError>>, DoorError>> {
        match self.door() {
            Ok(door) => door.watch(collection, resource_version),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }
}
