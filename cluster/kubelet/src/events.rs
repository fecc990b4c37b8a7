//! Tells in Events what happened to pods and the node.
//!
//! Start at [`Events::pod`]. What repeats is counted in one Event, as upstream does.
//!
//! Invariants:
//! * telling never waits and never fails: a full queue drops the newest;
//! * one object gets at most [`BURST_MAX`] new Events at once, and one more every [`REFILL`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Monotonic, Rng};
use client::{Client, ClientError, Kind};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::mpsc;

use crate::pod::{PodInfo, Role, api_time};
use crate::step::Note;

/// New Events one object may cause at once.
pub const BURST_MAX: u32 = 25;
/// How often it may cause one more after that.
pub const REFILL: Duration = Duration::from_secs(300);
/// Events that wait to be written.
const QUEUE_MAX: usize = 1000;
/// Events remembered for counting.
const REMEMBERED_MAX: usize = 1000;
/// After this long the same thing is a new Event.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

struct Told {
    about: ObjectReference,
    warning: bool,
    reason: String,
    message: String,
}

/// Where events are told.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Told>,
    node_name: String,
}

impl Events {
    /// A queue, and the task that writes it into the API.
    pub fn new(
        client: Client,
        clock: Arc<dyn Clock>,
        rng: Rng,
        node_name: &str,
    ) -> (Events, impl Future<Output = ()> + use<>) {
        let (queue, told) = mpsc::channel(QUEUE_MAX);
        let writer = Writer {
            client,
            clock,
            rng,
            node_name: node_name.to_owned(),
            recent: BTreeMap::new(),
            budget: BTreeMap::new(),
        };
        (Events { queue, node_name: node_name.to_owned() }, writer.run(told))
    }

    /// Tells something about a pod.
    pub fn pod(&self, pod: &PodInfo, note: Note) {
        let field = note.container.as_deref().and_then(|name| pod.member(name)).map(|member| {
            let list = match member.role {
                Role::Init | Role::Sidecar => "initContainers",
                Role::App => "containers",
                Role::Ephemeral => "ephemeralContainers",
            };
            format!("spec.{list}{{{}}}", member.name())
        });
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(Pod::RESOURCE.kind.to_string()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            resource_version: pod.pod.metadata.resource_version.clone(),
            field_path: field,
        };
        self.tell(about, note.warning, note.reason, note.message);
    }

    /// Tells something about the node.
    pub fn node(&self, warning: bool, reason: &str, message: String) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.node_name.clone()),
            // Upstream gives the node's name as its uid, and `kubectl describe node` looks for that.
            uid: Some(self.node_name.clone()),
            ..ObjectReference::default()
        };
        self.tell(about, warning, reason, message);
    }

    fn tell(&self, about: ObjectReference, warning: bool, reason: &str, message: String) {
        let told = Told { about, warning, reason: reason.to_owned(), message };
        if self.queue.try_send(told).is_err() {
            tracing::warn!(reason, "too many events wait; one is dropped");
        }
    }
}

struct Writer {
    client: Client,
    clock: Arc<dyn Clock>,
    rng: Rng,
    node_name: String,
    recent: BTreeMap<String, (Event, Monotonic)>,
    budget: BTreeMap<String, (u32, Monotonic)>,
}

impl Writer {
    async fn run(mut self, mut told: mpsc::Receiver<Told>) {
        while let Some(one) = told.recv().await {
            if let Err(error) = self.write(one).await {
                tracing::debug!(error = %base::chain(&error), "an event is lost");
            }
        }
    }

    async fn write(&mut self, told: Told) -> Result<(), ClientError> {
        let now = self.clock.monotonic();
        let object = format!("{:?}/{:?}", told.about.uid, told.about.name);
        let key = format!("{object}/{:?}/{}/{}", told.about.field_path, told.reason, told.message);
        self.recent.retain(|_, (_, at)| now.since(*at) < REMEMBERED_FOR);
        if let Some((event, at)) = self.recent.get_mut(&key) {
            event.count = Some(event.count.unwrap_or(1) + 1);
            event.last_timestamp = Some(api_time(self.clock.now()));
            *at = now;
            let patch = serde_json::json!({"count": event.count, "lastTimestamp": event.last_timestamp});
            let (namespace, name) = (event.namespace().to_owned(), event.name().to_owned());
            let patched: Result<Event, ClientError> =
                self.client.patch(&namespace, &name, "", client::typed::MERGE_PATCH, &patch).await;
            match patched {
                Err(error) if error.not_found() => self.recent.remove(&key),
                other => return other.map(drop),
            };
        }
        if !self.may_tell(&object, now) {
            return Ok(());
        }
        let event = self.event(told);
        let made = self.client.create(&event).await?;
        if self.recent.len() < REMEMBERED_MAX {
            self.recent.insert(key, (made, now));
        }
        Ok(())
    }

    fn may_tell(&mut self, object: &str, now: Monotonic) -> bool {
        self.budget.retain(|_, (_, at)| now.since(*at) < REFILL * BURST_MAX);
        let (left, at) = self.budget.entry(object.to_owned()).or_insert((BURST_MAX, now));
        let refill = (now.since(*at).as_secs() / REFILL.as_secs()) as u32;
        if refill > 0 {
            *left = (*left + refill).min(BURST_MAX);
            *at = now;
        }
        let allowed = *left > 0;
        *left = left.saturating_sub(1);
        allowed
    }

    fn event(&mut self, told: Told) -> Event {
        let now = Some(api_time(self.clock.now()));
        let name = told.about.name.clone().unwrap_or_default();
        let namespace = told.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:016x}", self.rng.next_u64())),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: told.about,
            reason: Some(told.reason),
            message: Some(told.message.chars().take(1024).collect()),
            type_: Some(if told.warning { "Warning" } else { "Normal" }.to_owned()),
            count: Some(1),
            first_timestamp: now.clone(),
            last_timestamp: now,
            source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(self.node_name.clone()) }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node_name.clone()),
            ..Event::default()
        }
    }
}
