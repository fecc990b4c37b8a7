//! A small world for table tests: objects in caches, and one helper to ask a controller about them.
//!
//! Start at [`World`].

use std::sync::Arc;

use base::{Monotonic, Timestamp};
use bytes::Bytes;
use client::{Caches, Event, EventKind, Kind, Listing, Resource};
use control::{Failure, Key, Outcome, Reconciler, View};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// When everything happens, unless a test moves it: 2026-11-23T20:00:00Z.
pub const NOW: Timestamp = Timestamp::from_seconds(1_795_464_000);

pub struct World {
    pub caches: Arc<Caches>,
    pub now: Timestamp,
    pub at: Monotonic,
    pub resources: Vec<Resource>,
    revision: u64,
    failure: Option<Failure>,
}

impl Default for World {
    fn default() -> World {
        World {
            caches: Caches::new(|_| {}),
            now: NOW,
            at: Monotonic(1),
            resources: Vec::new(),
            revision: 1,
            failure: None,
        }
    }
}

impl World {
    /// Puts an object into its cache.
    pub fn add<T: Kind>(&mut self, object: &str) {
        let object: Value = serde_json::from_str(object).expect("JSON");
        self.put(T::RESOURCE, object);
    }

    pub fn put(&mut self, resource: &Resource, mut object: Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] =
                format!("uid-{}", object["metadata"]["name"].as_str().unwrap_or_default()).into();
        }
        let object = Bytes::from(object.to_string());
        self.cache(resource).apply(&Event { kind: EventKind::Added, object });
    }

    fn cache(&self, resource: &Resource) -> Arc<client::Cache> {
        let cache = self.caches.open(&resource.all());
        if !cache.synced() {
            cache.replace(&Listing { resource_version: "1".into(), items: Vec::new() });
        }
        cache
    }

    /// A pod of an owner; see the marks where they are used.
    pub fn pod(&mut self, name: &str, owner_uid: &str, owner_kind: &str, owner_name: &str, marks: &str) {
        let has = |mark: char| marks.contains(mark);
        let labels = if has('*') { json!({"app": "other"}) } else { json!({"app": "web"}) };
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}"), "labels": labels,
                "creationTimestamp": "2026-11-23T19:00:00Z"},
            "spec": {"containers": [], "nodeName": "node"},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": if has('!') { "False" } else { "True" }, "lastTransitionTime": "2026-11-23T19:30:00Z"}]},
        });
        if !has('?') {
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": owner_kind, "name": owner_name, "uid": owner_uid, "controller": true}]);
        }
        if has('-') {
            pod["metadata"]["deletionTimestamp"] = "2026-11-23T19:59:00Z".into();
        }
        self.put(Pod::RESOURCE, pod);
    }

    /// The last pass over the key failed.
    pub fn fail(&mut self, message: &str) {
        self.failure =
            Some(Failure { what: String::new(), code: 403, reason: "Forbidden".into(), message: message.into() });
    }

    /// Asks a controller.
    pub fn reconcile(&self, reconciler: &dyn Reconciler, namespace: &str, name: &str) -> Outcome {
        for resource in reconciler.about().reads {
            self.cache(resource);
        }
        let view = View::new(&self.caches)
            .with_failure(self.failure.as_ref())
            .with_resources(&self.resources)
            .standing_at(self.at);
        reconciler.reconcile(&view, &Key::new(namespace, name), self.now)
    }
}

/// The body of the first write of this form.
pub fn body(outcome: &Outcome, write: &str) -> Value {
    let found = outcome.writes.iter().find(|each| each.to_string() == write);
    let lines: Vec<String> = outcome.writes.iter().map(ToString::to_string).collect();
    let found = found.unwrap_or_else(|| panic!("no {write:?} in {lines:?}"));
    serde_json::from_slice(&found.body).expect("JSON")
}

/// The writes as text.
pub fn lines(outcome: &Outcome) -> Vec<String> {
    outcome.writes.iter().map(ToString::to_string).collect()
}
