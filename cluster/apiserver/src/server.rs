//! The server itself: what all requests share, and the road each of them takes.
//!
//! Start at [`Api::handle`].

use std::sync::Arc;

use bytes::Bytes;
use client::{Call, Collection, DoorError, Event, Listing, Reply};
use futures::stream::BoxStream;
use store::Store;

use crate::{Credentials, Failure, Response, Settings, User};

/// The API server's core: no sockets, no timers.
pub struct Api {
    #[expect(dead_code, reason = "read by the verbs")]
    store: Arc<dyn Store>,
    #[expect(dead_code, reason = "read by the verbs")]
    settings: Settings,
}

impl Api {
    /// A server over a store that was opened with [`crate::annotate`].
    pub fn open(store: Arc<dyn Store>, settings: Settings) -> Arc<Api> {
        Arc::new(Api { store, settings })
    }

    /// Writes what every cluster has from the start, where it is missing. Until then the server is not ready.
    pub async fn bootstrap(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Does one request.
    pub async fn handle(&self, request: http::Request<Bytes>, credentials: Credentials) -> Response {
        let _ = (request, credentials);
        Response::text(http::StatusCode::NOT_IMPLEMENTED, "the verbs are not served yet")
    }

    pub(crate) async fn call(&self, call: Call, user: Arc<User>) -> Result<Reply, DoorError> {
        let _ = (call, user);
        Ok(Reply { status: http::StatusCode::NOT_IMPLEMENTED, body: Bytes::new() })
    }

    pub(crate) fn list_collection(&self, collection: &Collection, _user: &User) -> Result<Listing, DoorError> {
        Err(refused(collection, Failure::internal("lists are not served yet")))
    }

    pub(crate) fn watch_collection(
        self: &Arc<Self>,
        collection: &Collection,
        _resource_version: &str,
        _user: &User,
    ) -> Result<BoxStream<'static, Result<Event, DoorError>>, DoorError> {
        Err(refused(collection, Failure::internal("watches are not served yet")))
    }
}

fn refused(collection: &Collection, failure: Failure) -> DoorError {
    DoorError::Refused {
        what: collection.path(),
        code: failure.code,
        reason: failure.reason.to_owned(),
        message: failure.message,
    }
}
