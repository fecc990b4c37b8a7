//! Calls that speak in objects instead of bytes.
//!
//! Start at [`Client`]. It adds nothing to a [`Door`] but types and errors that carry the server's `Status`.
//!
//! Not here: reading what changes (`cache.rs`); nobody should poll.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::{Call, Door, DoorError, Kind, Reply, Resource};

/// Merge patch.
pub const MERGE_PATCH: &str = "application/merge-patch+json";
/// Strategic merge patch.
pub const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
/// JSON patch.
pub const JSON_PATCH: &str = "application/json-patch+json";
/// Server-side apply; the path must carry `fieldManager`.
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";
/// A plain object.
pub const JSON: &str = "application/json";

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server said no.
    #[error("the API server refused {method} {path} with {code} {reason}: {message}")]
    Status {
        /// The method.
        method: Method,
        /// The path.
        path: String,
        /// The HTTP code.
        code: u16,
        /// The `Status`' reason, such as `AlreadyExists`.
        reason: String,
        /// Its message.
        message: String,
    },
    /// The server could not be asked.
    #[error("failed to {method} {path}")]
    Door {
        /// The method.
        method: Method,
        /// The path.
        path: String,
        /// Why not.
        source: DoorError,
    },
    /// The answer has another shape.
    #[error("failed to understand the answer to {method} {path}")]
    Decode {
        /// The method.
        method: Method,
        /// The path.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl ClientError {
    /// The HTTP code, if the server answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            ClientError::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The `Status`' reason, or `""`.
    pub fn reason(&self) -> &str {
        match self {
            ClientError::Status { reason, .. } => reason,
            _ => "",
        }
    }

    /// The object is not there.
    pub fn not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// There is one of that name already.
    pub fn already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }

    /// Somebody else changed it first.
    pub fn conflict(&self) -> bool {
        self.code() == Some(409) && !self.already_exists()
    }

    /// Whether the same call may succeed later.
    pub fn retry(&self) -> bool {
        match self {
            ClientError::Status { code, .. } => matches!(code, 409 | 429 | 500 | 502 | 503 | 504),
            ClientError::Door { source, .. } => source.retry(),
            ClientError::Decode { .. } => false,
        }
    }
}

/// What to delete, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Only if it has this uid.
    pub uid: Option<String>,
    /// Only in this version.
    pub resource_version: Option<String>,
    /// `Background`, `Foreground` or `Orphan`; otherwise the kind's default.
    pub propagation: Option<&'static str>,
    /// Seconds; 0 removes a pod at once.
    pub grace_period: Option<i64>,
}

impl DeleteOptions {
    /// The body of a DELETE.
    pub fn body(&self) -> Bytes {
        let mut body = serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if self.uid.is_some() || self.resource_version.is_some() {
            let mut held = serde_json::Map::new();
            held.extend(self.uid.clone().map(|uid| ("uid".to_owned(), uid.into())));
            held.extend(self.resource_version.clone().map(|version| ("resourceVersion".to_owned(), version.into())));
            body["preconditions"] = held.into();
        }
        if let Some(policy) = self.propagation {
            body["propagationPolicy"] = policy.into();
        }
        if let Some(seconds) = self.grace_period {
            body["gracePeriodSeconds"] = seconds.into();
        }
        Bytes::from(body.to_string())
    }
}

/// Typed calls over a door.
#[derive(Clone)]
pub struct Client(Arc<dyn Door>);

impl Client {
    /// Speaks through `door`.
    pub fn new(door: Arc<dyn Door>) -> Client {
        Client(door)
    }

    /// The door.
    pub fn door(&self) -> &Arc<dyn Door> {
        &self.0
    }

    /// Any call; an answer of 400 and more becomes an error.
    pub async fn call(
        &self,
        method: Method,
        path: String,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let call = Call { method: method.clone(), path: path.clone(), content_type, body };
        match self.0.call(call).await {
            Ok(reply) => accepted(method, path, reply),
            Err(source) => Err(ClientError::Door { method, path, source }),
        }
    }

    /// Reads an object.
    pub async fn get<T: Kind>(&self, namespace: &str, name: &str) -> Result<T, ClientError> {
        let path = T::RESOURCE.path(namespace, name, "");
        decode(self.call(Method::GET, path.clone(), "", Bytes::new()).await?, Method::GET, path)
    }

    /// Creates an object; the answer is what became of it.
    pub async fn create<T: Kind>(&self, object: &T) -> Result<T, ClientError> {
        let path = T::RESOURCE.within(object.namespace()).path();
        decode(self.call(Method::POST, path.clone(), JSON, object.encode()).await?, Method::POST, path)
    }

    /// Replaces an object; only in the version it carries, if it carries one.
    pub async fn update<T: Kind>(&self, object: &T) -> Result<T, ClientError> {
        self.put(object, "").await
    }

    /// Replaces an object's status.
    pub async fn update_status<T: Kind>(&self, object: &T) -> Result<T, ClientError> {
        self.put(object, "status").await
    }

    /// Patches an object, or a subresource of it.
    pub async fn patch<T: Kind>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        content_type: &'static str,
        patch: &Value,
    ) -> Result<T, ClientError> {
        let path = T::RESOURCE.path(namespace, name, subresource);
        let body = Bytes::from(patch.to_string());
        decode(self.call(Method::PATCH, path.clone(), content_type, body).await?, Method::PATCH, path)
    }

    /// Deletes an object of any resource.
    pub async fn delete(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), ClientError> {
        self.call(Method::DELETE, resource.path(namespace, name, ""), JSON, options.body()).await.map(drop)
    }

    async fn put<T: Kind>(&self, object: &T, subresource: &str) -> Result<T, ClientError> {
        let path = T::RESOURCE.path(object.namespace(), object.name(), subresource);
        decode(self.call(Method::PUT, path.clone(), JSON, object.encode()).await?, Method::PUT, path)
    }
}

/// The body of a reply that is no refusal.
pub fn accepted(method: Method, path: String, reply: Reply) -> Result<Bytes, ClientError> {
    if reply.status.as_u16() < StatusCode::BAD_REQUEST.as_u16() {
        return Ok(reply.body);
    }
    let told: Refusal = serde_json::from_slice(&reply.body).unwrap_or_default();
    let message = told.message.unwrap_or_else(|| String::from_utf8_lossy(&reply.body).chars().take(300).collect());
    Err(ClientError::Status {
        method,
        path,
        code: reply.status.as_u16(),
        reason: told.reason.unwrap_or_default(),
        message,
    })
}

#[derive(Default, Deserialize)]
struct Refusal {
    reason: Option<String>,
    message: Option<String>,
}

fn decode<T: Kind>(body: Bytes, method: Method, path: String) -> Result<T, ClientError> {
    T::decode(&body).map_err(|source| ClientError::Decode { method, path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_the_servers_words() {
        let body =
            Bytes::from_static(br#"{"kind":"Status","reason":"AlreadyExists","message":"pods \"a\" already exists"}"#);
        let error = accepted(Method::POST, "/api/v1/pods".into(), Reply { status: StatusCode::CONFLICT, body });
        let error = error.expect_err("a refusal");
        assert!(error.already_exists() && !error.conflict());
        assert_eq!(
            error.to_string(),
            "the API server refused POST /api/v1/pods with 409 AlreadyExists: pods \"a\" already exists"
        );
    }

    #[test]
    fn delete_options_say_what_must_hold() {
        let options =
            DeleteOptions { uid: Some("u".into()), propagation: Some("Background"), ..DeleteOptions::default() };
        let body: Value = serde_json::from_slice(&options.body()).expect("JSON");
        assert_eq!(body["preconditions"]["uid"], "u");
        assert_eq!(body["propagationPolicy"], "Background");
    }
}
