//! The API server's own door: no sockets, no TLS, the store's bytes as they are.
//!
//! Start at [`open`].

use std::sync::Arc;

use bytes::Bytes;
use client::{Call, Collection, Door, DoorError, Event, Listing, Reply};
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::{Api, User};

/// A way to `api` for one of this process' components.
pub fn open(api: &Arc<Api>, user: User) -> Arc<dyn Door> {
    Arc::new(InProcess { api: api.clone(), user: Arc::new(user) })
}

struct InProcess {
    api: Arc<Api>,
    user: Arc<User>,
}

impl Door for InProcess {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, DoorError>> {
        let (api, user) = (self.api.clone(), self.user.clone());
        Box::pin(async move { api.call(call, user).await })
    }

    fn list(&self, collection: &Collection) -> BoxFuture<'static, Result<Listing, DoorError>> {
        let (api, user, collection) = (self.api.clone(), self.user.clone(), collection.clone());
        Box::pin(async move { api.list_collection(&collection, &user) })
    }

    fn watch(
        &self,
        collection: &Collection,
        resource_version: &str,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Event, DoorError>>, DoorError>> {
        let (api, user, collection) = (self.api.clone(), self.user.clone(), collection.clone());
        let resource_version = resource_version.to_owned();
        Box::pin(async move { api.watch_collection(&collection, &resource_version, &user) })
    }
}

/// A reply of nothing, for what has no body.
pub(crate) const EMPTY: Bytes = Bytes::new();
