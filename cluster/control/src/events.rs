//! What controllers tell people: Kubernetes Events, counted instead of repeated.
//!
//! Start at [`Recorder::record`], which turns a note into the write to make.
//!
//! Invariants:
//! * the same note about the same object is one Event with a count;
//! * an object that is much talked about is talked about less: [`BURST`] at once, then one per [`REFILL`];
//! * at most [`KNOWN_MAX`] notes are remembered; forgetting one costs a second Event.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use base::Timestamp;
use bytes::Bytes;
use client::{Kind, Resource};
use serde_json::json;

use crate::{Verb, Write};

/// Notes about one object that are recorded without delay.
pub const BURST: u32 = 25;
/// After that, one note is recorded in each such time.
pub const REFILL: Duration = Duration::from_secs(300);
/// Notes and objects remembered.
pub const KNOWN_MAX: usize = 2048;

const EVENTS: Resource = Resource::new("", "v1", "events", "Event", true);

/// Which object a note is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Regarding {
    /// Such as `apps/v1`.
    pub api_version: String,
    /// Such as `ReplicaSet`.
    pub kind: String,
    /// `""` for what lives in no namespace; its Events go to `default`.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The uid.
    pub uid: String,
    /// The version seen.
    pub resource_version: String,
}

impl Regarding {
    /// About this object.
    pub fn object<T: Kind>(object: &T) -> Regarding {
        Regarding {
            api_version: T::RESOURCE.api_version(),
            kind: T::RESOURCE.kind.to_string(),
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            uid: object.uid().to_owned(),
            resource_version: object.metadata().resource_version.clone().unwrap_or_default(),
        }
    }
}

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// About what.
    pub regarding: Regarding,
    /// Whether it is a warning.
    pub warning: bool,
    /// One word, such as `SuccessfulCreate`.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

impl Note {
    /// Something went as it should.
    pub fn normal(regarding: &Regarding, reason: &'static str, message: impl Into<String>) -> Note {
        Note { regarding: regarding.clone(), warning: false, reason, message: message.into() }
    }

    /// Something did not.
    pub fn warning(regarding: &Regarding, reason: &'static str, message: impl Into<String>) -> Note {
        Note { warning: true, ..Note::normal(regarding, reason, message) }
    }
}

/// Who tells, and what was told before.
pub struct Recorder {
    component: String,
    known: BTreeMap<(String, &'static str, String), Told>,
    order: VecDeque<(String, &'static str, String)>,
    tokens: BTreeMap<String, (u32, Timestamp)>,
}

struct Told {
    name: String,
    count: u32,
}

impl Recorder {
    /// Tells in the name of `component`.
    pub fn new(component: &str) -> Recorder {
        Recorder {
            component: component.to_owned(),
            known: BTreeMap::new(),
            order: VecDeque::new(),
            tokens: BTreeMap::new(),
        }
    }

    /// The write that records the note; `None` if this object is talked about too much.
    pub fn record(&mut self, note: &Note, now: Timestamp) -> Option<Write> {
        if !self.may_tell(&note.regarding.uid, now) {
            return None;
        }
        let id = (note.regarding.uid.clone(), note.reason, note.message.clone());
        if let Some(told) = self.known.get_mut(&id) {
            told.count += 1;
            let body = json!({"count": told.count, "lastTimestamp": now.rfc3339()});
            let name = told.name.clone();
            return Some(self.write(Verb::Patch(client::typed::MERGE_PATCH), note, name, body));
        }
        let name = format!("{}.{:x}", note.regarding.name, now.0 as u64 ^ (self.order.len() as u64) << 52);
        let body = self.event(note, &name, now);
        if self.order.len() >= KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.known.insert(id.clone(), Told { name: name.clone(), count: 1 });
        self.order.push_back(id);
        Some(self.write(Verb::Create, note, name, body))
    }

    fn event(&self, note: &Note, name: &str, now: Timestamp) -> serde_json::Value {
        let about = &note.regarding;
        let mut involved = json!({"apiVersion": about.api_version, "kind": about.kind, "name": about.name});
        for (field, value) in
            [("namespace", &about.namespace), ("uid", &about.uid), ("resourceVersion", &about.resource_version)]
        {
            if !value.is_empty() {
                involved[field] = value.as_str().into();
            }
        }
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace(note)},
            "involvedObject": involved,
            "type": if note.warning { "Warning" } else { "Normal" },
            "reason": note.reason,
            "message": note.message,
            "source": {"component": self.component},
            "reportingComponent": self.component,
            "firstTimestamp": now.rfc3339(), "lastTimestamp": now.rfc3339(), "count": 1,
        })
    }

    fn write(&self, verb: Verb, note: &Note, name: String, body: serde_json::Value) -> Write {
        Write {
            verb,
            resource: EVENTS,
            namespace: namespace(note),
            name,
            subresource: "",
            uid: String::new(),
            body: Bytes::from(body.to_string()),
            guards: Vec::new(),
            announce: None,
            may_exist: true,
        }
    }

    fn may_tell(&mut self, uid: &str, now: Timestamp) -> bool {
        if self.tokens.len() >= KNOWN_MAX {
            self.tokens.retain(|_, (_, since)| now.since(*since) < REFILL);
        }
        let (tokens, since) = self.tokens.entry(uid.to_owned()).or_insert((BURST, now));
        let refilled = (now.since(*since).as_secs() / REFILL.as_secs()) as u32;
        if refilled > 0 {
            (*tokens, *since) = ((*tokens + refilled).min(BURST), now);
        }
        let may = *tokens > 0;
        *tokens = tokens.saturating_sub(1);
        may
    }
}

fn namespace(note: &Note) -> String {
    if note.regarding.namespace.is_empty() { "default".to_owned() } else { note.regarding.namespace.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        Note::normal(&Regarding { name: "web".into(), uid: "u".into(), ..Regarding::default() }, "Scaled", message)
    }

    #[test]
    fn the_same_note_is_counted() {
        let mut recorder = Recorder::new("test");
        let first = recorder.record(&note("a"), Timestamp::from_seconds(1)).expect("told");
        let second = recorder.record(&note("a"), Timestamp::from_seconds(2)).expect("told");
        assert_eq!((first.verb, &first.name), (Verb::Create, &second.name));
        assert!(std::str::from_utf8(&second.body).expect("text").contains("\"count\":2"));
    }

    #[test]
    fn an_object_is_not_talked_about_without_end() {
        let mut recorder = Recorder::new("test");
        let now = Timestamp::from_seconds(1);
        let told = (0..100).filter(|index| recorder.record(&note(&index.to_string()), now).is_some()).count();
        assert_eq!(told, BURST as usize);
        assert!(recorder.record(&note("later"), now.plus(REFILL)).is_some());
    }
}
