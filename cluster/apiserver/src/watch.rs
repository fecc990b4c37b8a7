//! Watching: what happens to a selection, from a revision on.
//!
//! Start at [`Api::watch`], which makes frames of bytes, or [`Api::seen`], which the in-process door reads.
//!
//! Invariants:
//! * an object that comes into the selection is ADDED, one that leaves it is DELETED, whatever happened to it;
//! * every event carries the revision to go on from; after an error nothing follows.

use std::sync::Arc;
use std::time::Duration;

use api::proto;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::StatusCode;
use serde_json::{Value, json};
use store::{Entry, Event, Revision};

use crate::accept::{Format, Shape};
use crate::read::{Window, revision_of};
use crate::render::Form;
use crate::select::Selection;
use crate::server::{Ask, decoded};
use crate::{Api, Body, Failure, Response, frames, render};

/// A watch whose client names no time ends after this; upstream picks between 30 and 60 minutes.
const WATCH_TIME: Duration = Duration::from_secs(45 * 60);

/// One event of a watch.
#[derive(Clone)]
pub(crate) enum Seen {
    /// Something happened to an object.
    Object {
        /// `ADDED`, `MODIFIED` or `DELETED`.
        event: &'static str,
        /// The object as stored.
        object: Bytes,
        /// When.
        revision: Revision,
    },
    /// Nothing happened up to this revision.
    Bookmark {
        /// The revision.
        revision: Revision,
        /// The objects there were at the start have all been sent.
        initial_end: bool,
    },
}

/// Where a watch begins and what it tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    pub version: String,
    pub bookmarks: bool,
    pub initial: bool,
}

impl Api {
    pub(crate) fn watch(self: &Arc<Self>, ask: &Ask) -> Result<Response, Failure> {
        let start = Start {
            version: ask.query.get("resourceVersion").to_owned(),
            bookmarks: ask.query.flag("allowWatchBookmarks"),
            initial: ask.query.flag("sendInitialEvents"),
        };
        if start.initial && ask.query.get("resourceVersionMatch") != "NotOlderThan" {
            return Err(Failure::unprocessable(
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires \
                 setting resourceVersionMatch to NotOlderThan",
            ));
        }
        let timeout = ask.query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let form = ask.form();
        let content_type = match form.wanted.format {
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => render_type(&form),
        };
        let mut framer = Framer { api: self.clone(), form, headings: true };
        let frames = self.seen(&ask.selection()?, &start)?.map(move |seen| framer.frame(seen)).boxed();
        let body = Body::Stream { frames, timeout: Some(timeout.unwrap_or(WATCH_TIME)) };
        Ok(Response { status: StatusCode::OK, content_type, headers: Vec::new(), body })
    }

    /// The events of a selection.
    pub(crate) fn seen(
        &self,
        selection: &Selection,
        start: &Start,
    ) -> Result<BoxStream<'static, Result<Seen, Failure>>, Failure> {
        let asked = revision_of(&start.version)?;
        let (initial, after) = match asked {
            Some(asked) if !start.initial => (Vec::new(), asked),
            _ => {
                let window = Window { version: start.version.clone(), ..Window::default() };
                let listed = self.page(selection, &window)?;
                let revision = listed.metadata["resourceVersion"].as_str().and_then(|text| text.parse().ok());
                (listed.entries, Revision(revision.unwrap_or_default()))
            }
        };
        let watch = self
            .store
            .watch(selection.exact.as_deref().unwrap_or(&selection.prefix), after)
            .map_err(|error| Failure::store(&error))?;
        let end = start.initial.then_some(Seen::Bookmark { revision: after, initial_end: true });
        let first = initial.into_iter().map(added).chain(end).map(Ok);
        let (selection, bookmarks) = (Arc::new(selection.clone()), start.bookmarks);
        // After an error comes the end: the second state says that it was told.
        let later = stream::unfold(Some(watch), move |watch| {
            let selection = selection.clone();
            async move {
                let mut watch = watch?;
                loop {
                    match watch.next().await? {
                        Err(error) => return Some((Err(Failure::store(&error)), None)),
                        Ok(event) => {
                            if let Some(seen) = transition(&selection, event, bookmarks) {
                                return Some((Ok(seen), Some(watch)));
                            }
                        }
                    }
                }
            }
        });
        Ok(stream::iter(first).chain(later).boxed())
    }
}

fn added(entry: Entry) -> Seen {
    Seen::Object { event: "ADDED", object: entry.value, revision: entry.revision }
}

/// What a store's event means to those who watch a selection.
fn transition(selection: &Selection, event: Event, bookmarks: bool) -> Option<Seen> {
    match event {
        Event::Progress(revision) => bookmarks.then_some(Seen::Bookmark { revision, initial_end: false }),
        Event::Delete { entry, previous } => selection.selects(&previous).then(|| Seen::Object {
            event: "DELETED",
            object: entry.value,
            revision: entry.revision,
        }),
        Event::Put { entry, previous } => {
            let before = previous.filter(|previous| selection.selects(previous));
            match (before, selection.selects(&entry)) {
                (None, false) => None,
                (None, true) => Some(added(entry)),
                (Some(_), true) => {
                    Some(Seen::Object { event: "MODIFIED", object: entry.value, revision: entry.revision })
                }
                (Some(before), false) => {
                    // What leaves is shown as it last was, with the revision at which it left.
                    let mut object = decoded(&before);
                    object["metadata"]["resourceVersion"] = entry.revision.to_string().into();
                    let object = Bytes::from(object.to_string());
                    Some(Seen::Object { event: "DELETED", object, revision: entry.revision })
                }
            }
        }
    }
}

/// A bookmark's object.
pub(crate) fn bookmark(form: &Form, revision: Revision, initial_end: bool) -> Value {
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if initial_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    json!({"kind": form.kind.kind, "apiVersion": form.kind.api_version(), "metadata": metadata})
}

fn render_type(form: &Form) -> &'static str {
    match form.wanted.format {
        Format::Yaml => "application/yaml;stream=watch",
        _ => crate::response::JSON,
    }
}

/// Makes the bytes of events, one after the other.
struct Framer {
    api: Arc<Api>,
    form: Form,
    /// The next table still has to say its columns.
    headings: bool,
}

impl Framer {
    fn frame(&mut self, seen: Result<Seen, Failure>) -> Bytes {
        match seen {
            Ok(Seen::Object { event, object, revision }) if self.form.splices(revision.0) => {
                self.api.frames.spliced(revision.0, event, &object)
            }
            Ok(Seen::Object { event, object, .. }) => self.tree(event, &object),
            Ok(Seen::Bookmark { revision, initial_end }) => {
                let object = bookmark(&self.form, revision, initial_end);
                match self.form.wanted.shape {
                    Shape::Table => {
                        let metadata = object["metadata"].clone();
                        let table = self.form.table(vec![object], metadata, false, self.api.now());
                        self.encode("BOOKMARK", &table)
                    }
                    _ => self.encode("BOOKMARK", &self.form.tree(object)),
                }
            }
            Err(failure) => self.encode("ERROR", &failure.status()),
        }
    }

    fn tree(&mut self, event: &str, object: &Bytes) -> Bytes {
        let stored: Value = serde_json::from_slice(object).unwrap_or_default();
        let shown = self.form.tree(stored);
        if self.form.wanted.shape != Shape::Table {
            return self.encode(event, &shown);
        }
        let metadata = json!({"resourceVersion": api::meta::resource_version(&shown)});
        let headings = std::mem::replace(&mut self.headings, false);
        let table = self.form.table(vec![shown], metadata, headings, self.api.now());
        self.encode(event, &table)
    }

    fn encode(&self, event: &str, object: &Value) -> Bytes {
        match self.form.wanted.format {
            Format::Json => frames::frame(event, object.to_string().as_bytes()),
            Format::Yaml => {
                let event = json!({"type": event, "object": object});
                Bytes::from(format!("---\n{}", crate::yaml::text(&event)))
            }
            Format::Protobuf => match proto::encode_watch_event(event, object) {
                Ok(bytes) => Bytes::from(bytes),
                Err(error) => {
                    tracing::error!("failed to encode a watch event of {}: {error}", self.form.kind.kind);
                    Bytes::new()
                }
            },
        }
    }
}

impl Form {
    /// For those who read events as stored.
    pub(crate) fn plain(kind: api::kinds::KindRef) -> Form {
        Form { kind, wanted: crate::server::PLAIN, include: render::Include::Metadata }
    }
}
