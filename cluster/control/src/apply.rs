//! Applies one write through a door.
//!
//! Start at [`perform`]. It awaits nothing but the door, so that the simulator can drive it too.

use std::sync::Arc;

use bytes::Bytes;
use client::{Client, ClientError, Collection, Door};
use http::Method;
use serde::Deserialize as _;
use serde_json::json;

use crate::{Guard, Verb, Write};

/// A write that is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The object's name, which a create may have left to the server.
    pub name: String,
    /// The version written; 0 if nothing was (it was gone already, or there already).
    pub revision: u64,
    /// A guard did not hold, so nothing was tried.
    pub held_back: bool,
}

/// A write that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to {what}: {message}")]
pub struct Failure {
    /// The write.
    pub what: String,
    /// The HTTP code, or 0.
    pub code: u16,
    /// The `Status`' reason, or `""`.
    pub reason: String,
    /// What the server said.
    pub message: String,
}

/// Applies a write.
pub async fn perform(door: &Arc<dyn Door>, write: &Write) -> Result<Done, Failure> {
    let client = Client::new(door.clone());
    let fail = |error: ClientError| Failure {
        what: write.to_string(),
        code: error.code().unwrap_or_default(),
        reason: error.reason().to_owned(),
        message: match &error {
            ClientError::Status { message, .. } => message.clone(),
            other => base::chain(other).to_string(),
        },
    };
    for guard in &write.guards {
        if !holds(&client, guard).await.map_err(fail)? {
            return Ok(Done { held_back: true, ..Done::default() });
        }
    }
    let (method, path) = write.target();
    let content_type = match write.verb {
        Verb::Patch(content_type) => content_type,
        _ => client::typed::JSON,
    };
    match client.call(method, path, content_type, write.body.clone()).await {
        Ok(body) => Ok(read(&body, write)),
        Err(error) if content(write, &error) => Ok(Done { name: write.name.clone(), ..Done::default() }),
        Err(error) => Err(fail(error)),
    }
}

/// Whether a refusal means that there is nothing left to do.
fn content(write: &Write, error: &ClientError) -> bool {
    match write.verb {
        Verb::Create => write.may_exist && error.already_exists(),
        // A delete is bound to a uid: another object of that name is not the one that was meant.
        Verb::Delete => error.not_found() || error.conflict(),
        // What went in the meantime needs no update; its key comes back by the event.
        Verb::Update | Verb::Patch(_) => error.not_found(),
    }
}

async fn holds(client: &Client, guard: &Guard) -> Result<bool, ClientError> {
    match guard {
        Guard::Absent { resource, namespace, name, uid } => {
            let path = resource.path(namespace, name, "");
            match client.call(Method::GET, path, "", Bytes::new()).await {
                Ok(body) => Ok(!uid.is_empty() && metadata(&body)["uid"].as_str() != Some(uid)),
                Err(error) if error.not_found() => Ok(true),
                Err(error) => Err(error),
            }
        }
        Guard::Present { resource, namespace, name, uid } => {
            let path = resource.path(namespace, name, "");
            match client.call(Method::GET, path, "", Bytes::new()).await {
                Ok(body) => {
                    let found = metadata(&body);
                    Ok(found["uid"].as_str() == Some(uid) && found["deletionTimestamp"].is_null())
                }
                Err(error) if error.not_found() => Ok(false),
                Err(error) => Err(error),
            }
        }
        Guard::Empty(collection) => is_empty(client, collection).await,
        Guard::Allowed { user, groups, verb, group, resource, subresource } => {
            let attributes = json!({"verb": verb, "group": group, "resource": resource, "subresource": subresource});
            let review = json!({"spec": {"user": user, "groups": groups, "resourceAttributes": attributes}});
            let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned();
            let body = client.call(Method::POST, path, client::typed::JSON, Bytes::from(review.to_string())).await?;
            let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            Ok(answer["status"]["allowed"] == true)
        }
    }
}

async fn is_empty(client: &Client, collection: &Collection) -> Result<bool, ClientError> {
    match client.call(Method::GET, format!("{}?limit=1", collection.path()), "", Bytes::new()).await {
        Ok(body) => {
            let list: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            Ok(list["items"].as_array().is_some_and(Vec::is_empty))
        }
        // The resource is not served any more, or cannot be listed.
        Err(error) if matches!(error.code(), Some(404 | 405)) => Ok(true),
        Err(error) => Err(error),
    }
}

fn read(body: &Bytes, write: &Write) -> Done {
    let metadata = metadata(body);
    let revision = metadata["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
    Done { name: metadata["name"].as_str().unwrap_or(&write.name).to_owned(), revision, held_back: false }
}

fn metadata(body: &Bytes) -> serde_json::Value {
    let whole = serde_json::Value::deserialize(&mut serde_json::Deserializer::from_slice(body)).unwrap_or_default();
    whole.get("metadata").cloned().unwrap_or_default()
}
