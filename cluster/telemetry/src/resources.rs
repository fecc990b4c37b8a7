//! `metrics.k8s.io` behind the API server: `kubectl top`.
//!
//! Start at [`Resources`].
//!
//! Not here: what is in the answers (`metrics::resource`).

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use api::kinds::{Kind, Verbs};
use apiserver::extension::kind;
use apiserver::{Asked, Extension, Failure, Response};
use base::{Clock, chain};
use bytes::Bytes;
use client::{Collection, Door};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::StatusCode;
use serde_json::{Value, json};

use crate::Telemetry;
use crate::metrics::resource::{self, GROUP, VERSION};

/// The newest values, as Kubernetes' API for them has it.
pub struct Resources {
    telemetry: Arc<Telemetry>,
    clock: Arc<dyn Clock>,
    /// Where labels are looked up: our own values have none.
    door: OnceLock<Arc<dyn Door>>,
}

impl Resources {
    /// Of these stores.
    pub fn new(telemetry: Arc<Telemetry>, clock: Arc<dyn Clock>) -> Resources {
        Resources { telemetry, clock, door: OnceLock::new() }
    }

    /// Where to look labels up; without it, who selects by labels is told to come again.
    pub fn ask(&self, door: Arc<dyn Door>) {
        let _ = self.door.set(door);
    }

    fn all(&self, asked: &Asked) -> Result<Vec<Value>, Failure> {
        let latest = self.telemetry.metrics()?.latest();
        let now_ms = (self.clock.now().0 / 1_000_000) as i64;
        Ok(match asked.resource.as_str() {
            "nodes" => resource::nodes(&latest, now_ms),
            _ => resource::pods(&latest, &asked.namespace, now_ms),
        })
    }

    fn list(&self, asked: &Asked) -> BoxFuture<'static, Result<Response, Failure>> {
        let all = self.all(asked);
        let kind = if asked.resource == "nodes" { "NodeMetricsList" } else { "PodMetricsList" };
        let selector = asked.get("labelSelector").to_owned();
        let door = self.door.get().cloned();
        let mut collection = Collection::all("", "v1", &asked.resource);
        collection.namespace = Some(asked.namespace.clone()).filter(|namespace| !namespace.is_empty());
        async move {
            let mut all = all?;
            if !selector.is_empty() {
                let door = door.ok_or_else(|| Failure::unavailable("labels cannot be looked up yet"))?;
                collection.label_selector = selector;
                let chosen = chosen(&*door, &collection).await?;
                all.retain(|one| chosen.contains(&name(one)));
            }
            let list = json!({"kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": all});
            Ok(Response::json(StatusCode::OK, Bytes::from(list.to_string())))
        }
        .boxed()
    }

    fn get(&self, asked: &Asked) -> Result<Response, Failure> {
        let found = self.all(asked)?.into_iter().find(|one| one["metadata"]["name"] == asked.name.as_str());
        let found = found.ok_or_else(|| Failure::no_such_object(GROUP, &asked.resource, &asked.name))?;
        Ok(Response::json(StatusCode::OK, Bytes::from(found.to_string())))
    }
}

impl Extension for Resources {
    fn kinds(&self) -> Vec<Kind> {
        let (verbs, version) = (Verbs::GET.and(Verbs::LIST), (GROUP, VERSION));
        let usage = json!({"type": "object", "additionalProperties": {
            "anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true,
        }});
        let text = json!({"type": "string"});
        let node = json!({"type": "object", "properties": {"timestamp": text, "window": text, "usage": usage}});
        let container = json!({"type": "object", "properties": {"name": text, "usage": usage}});
        let containers = json!({"type": "array", "items": container});
        let pod =
            json!({"type": "object", "properties": {"timestamp": text, "window": text, "containers": containers}});
        vec![
            kind(version, "NodeMetrics", "nodes", false, verbs, &node),
            kind(version, "PodMetrics", "pods", true, verbs, &pod),
        ]
    }

    fn answer(&self, asked: Asked) -> BoxFuture<'static, Result<Response, Failure>> {
        let placed = match asked.resource.as_str() {
            "nodes" => asked.namespace.is_empty(),
            _ => !asked.namespace.is_empty() || asked.verb == "list",
        };
        let known = matches!(asked.resource.as_str(), "nodes" | "pods") && placed && asked.subresource.is_empty();
        match asked.verb {
            _ if !known || asked.version != VERSION => std::future::ready(Err(Failure::no_such_path())).boxed(),
            "list" => self.list(&asked),
            "get" => std::future::ready(self.get(&asked)).boxed(),
            _ => std::future::ready(Err(Failure::method_not_allowed())).boxed(),
        }
    }
}

/// Namespace and name of every object that the collection's selector chooses.
async fn chosen(door: &dyn Door, collection: &Collection) -> Result<BTreeSet<(String, String)>, Failure> {
    let listing = door.list(collection).await.map_err(|error| match error {
        client::DoorError::Refused { code: 400, message, .. } => Failure::bad_request(message),
        other => Failure::internal(chain(&other)),
    })?;
    let objects = listing.items.iter().filter_map(|item| serde_json::from_slice::<Value>(&item.object).ok());
    Ok(objects.map(|object| name(&object)).collect())
}

fn name(object: &Value) -> (String, String) {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}
