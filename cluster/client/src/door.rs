//! The trait that stands between a component and the API server.
//!
//! Start at [`Door`]. A call has the shape of an HTTP request, because that is what Kubernetes' API is; lists and watches
//! have a shape of their own, so that the in-process door hands out the server's bytes instead of a copy.

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// One request to the API, such as `PATCH /apis/apps/v1/namespaces/default/deployments/web/status`.
#[derive(Clone, Debug)]
pub struct Call {
    /// The HTTP method.
    pub method: http::Method,
    /// Path and query.
    pub path: String,
    /// `Content-Type` of `body`; empty where there is none.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

/// The answer to a [`Call`]: JSON.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: http::StatusCode,
    /// The object, the list, or a `Status`.
    pub body: Bytes,
}

/// All objects of one resource, in one namespace or in all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Collection {
    /// `""` for the core group.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// The plural, such as `pods`.
    pub resource: String,
    /// `None` for all namespaces and for what has none.
    pub namespace: Option<String>,
    /// A label selector, in the form of the query parameter; empty selects all.
    pub label_selector: String,
    /// A field selector, likewise.
    pub field_selector: String,
}

/// One object of a list.
#[derive(Clone, Debug)]
pub struct Item {
    /// The object's JSON, `apiVersion` and `kind` included.
    pub object: Bytes,
}

/// A whole collection at one moment.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The list's `resourceVersion`: where a watch goes on.
    pub resource_version: String,
    /// The objects.
    pub items: Vec<Item>,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It is new (or new to this selector).
    Added,
    /// It changed.
    Modified,
    /// It is gone (or gone from this selector).
    Deleted,
    /// Nothing happened; the object carries a `resourceVersion` to go on from.
    Bookmark,
}

/// One event of a watch.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The object's JSON.
    pub object: Bytes,
}

/// Why a call came to nothing. A `Status` from the server is no such error but a [`Reply`], except in a watch.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The server could not be reached, or went away in the middle.
    #[error("failed to reach the API server at {server}")]
    Unreachable {
        /// Who was asked.
        server: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server refused a list or a watch.
    #[error("the API server refused {what} with {code} {reason}: {message}")]
    Refused {
        /// The list or watch.
        what: String,
        /// The HTTP code; 410 means list again.
        code: u16,
        /// The `Status`' reason.
        reason: String,
        /// Its message.
        message: String,
    },
    /// The answer is not what the API promises.
    #[error("failed to understand the answer to {what}: {detail}")]
    Malformed {
        /// The request.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl DoorError {
    /// Whether the same call may succeed later.
    pub fn retry(&self) -> bool {
        match self {
            DoorError::Unreachable { .. } => true,
            DoorError::Refused { code, .. } => matches!(code, 409 | 410 | 429 | 500 | 503 | 504),
            DoorError::Malformed { .. } => false,
        }
    }
}

/// A way to the API server, for one identity.
pub trait Door: Send + Sync + 'static {
    /// Does one request.
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, DoorError>>;

    /// Reads a whole collection, consistently.
    fn list(&self, collection: &Collection) -> BoxFuture<'static, Result<Listing, DoorError>>;

    /// Follows a collection from a `resourceVersion` on. Ends with an error, 410 among them, or when the server closes.
    fn watch(
        &self,
        collection: &Collection,
        resource_version: &str,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Event, DoorError>>, DoorError>>;
}

impl Collection {
    /// Every object of a resource, in all namespaces.
    pub fn all(group: &str, version: &str, resource: &str) -> Collection {
        Collection {
            group: group.to_owned(),
            version: version.to_owned(),
            resource: resource.to_owned(),
            namespace: None,
            label_selector: String::new(),
            field_selector: String::new(),
        }
    }

    /// The path below the server's root, without a query.
    pub fn path(&self) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let Some(namespace) = &self.namespace {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(&self.resource);
        path
    }
}

impl fmt::Display for Collection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        assert_eq!(Collection::all("", "v1", "nodes").path(), "/api/v1/nodes");
        let mut pods = Collection::all("apps", "v1", "deployments");
        pods.namespace = Some("default".into());
        assert_eq!(pods.path(), "/apis/apps/v1/namespaces/default/deployments");
    }
}
