//! The API server's own door: no sockets, no TLS, the store's bytes as they are.
//!
//! Start at [`open`].
//!
//! Invariant: what a component may do here is what it might do with a certificate of the same name; calls, lists and
//! watches are authorised like everybody's.

use std::sync::Arc;

use api::kinds::KindRef;
use bytes::Bytes;
use client::{Call, Collection, Door, DoorError, Event, EventKind, Item, Listing, Reply};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::HeaderValue;

use crate::path::{Info, Only, Route};
use crate::read::Window;
use crate::render::Form;
use crate::select::Selection;
use crate::watch::{Seen, Start, bookmark};
use crate::{Api, Body, Credentials, Failure, User, authorise};

/// A way to `api` for one of this process' components.
pub fn open(api: &Arc<Api>, user: User) -> Arc<dyn Door> {
    let agent = agent(&user);
    Arc::new(InProcess { api: api.clone(), user: Arc::new(user), agent })
}

struct InProcess {
    api: Arc<Api>,
    user: Arc<User>,
    /// What the component calls itself; the managers of fields are named so.
    agent: HeaderValue,
}

/// The component's name, as upstream's component says it.
fn agent(user: &User) -> HeaderValue {
    let name = user.name.strip_prefix("system:").unwrap_or(&user.name);
    let name = match name.split(':').next().unwrap_or_default() {
        "node" => "kubelet",
        "apiserver" => "kube-apiserver",
        "serviceaccount" => name.rsplit(':').next().unwrap_or_default(),
        _ => name,
    };
    HeaderValue::from_str(&format!("{name}/{}", api::VERSION)).unwrap_or(HeaderValue::from_static("unknown"))
}

impl Door for InProcess {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, DoorError>> {
        let (api, user, agent) = (self.api.clone(), self.user.clone(), self.agent.clone());
        Box::pin(async move {
            let what = format!("{} {}", call.method, call.path);
            let malformed = |detail: String| DoorError::Malformed { what: what.clone(), detail };
            let request = http::Request::builder().method(call.method).uri(call.path);
            let mut request = request.header(http::header::USER_AGENT, agent);
            if !call.content_type.is_empty() {
                request = request.header(http::header::CONTENT_TYPE, call.content_type);
            }
            let request = request.body(call.body).map_err(|error| malformed(error.to_string()))?;
            let response = api.handle(request, Credentials::User(user)).await;
            match response.body {
                Body::Whole(body) => Ok(Reply { status: response.status, body }),
                Body::Stream { .. } | Body::Proxied(_) => {
                    Err(malformed("a call has one answer; watches and proxies have roads of their own".to_owned()))
                }
            }
        })
    }

    fn list(&self, collection: &Collection) -> BoxFuture<'static, Result<Listing, DoorError>> {
        let listed = self.list_now(collection).map_err(|failure| refused(collection, failure));
        Box::pin(std::future::ready(listed))
    }

    fn watch(
        &self,
        collection: &Collection,
        resource_version: &str,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Event, DoorError>>, DoorError>> {
        let watch = self.watch_now(collection, resource_version).map_err(|failure| refused(collection, failure));
        Box::pin(std::future::ready(watch))
    }
}

impl InProcess {
    fn list_now(&self, collection: &Collection) -> Result<Listing, Failure> {
        let (kind, selection) = self.selection(collection, "list")?;
        let listed = self.api.page(&selection, &Window::default())?;
        let form = Form::plain(kind);
        let items = listed
            .entries
            .into_iter()
            .map(|entry| Item { object: shown(&form, entry.value, entry.revision.0) })
            .collect();
        let resource_version = listed.metadata["resourceVersion"].as_str().unwrap_or_default().to_owned();
        Ok(Listing { resource_version, items })
    }

    fn watch_now(
        &self,
        collection: &Collection,
        resource_version: &str,
    ) -> Result<BoxStream<'static, Result<Event, DoorError>>, Failure> {
        let (kind, selection) = self.selection(collection, "watch")?;
        let start = Start { version: resource_version.to_owned(), bookmarks: true, initial: false };
        let (form, collection) = (Form::plain(kind), collection.clone());
        let seen = self.api.seen(&selection, &start)?;
        Ok(seen
            .map(move |seen| match seen {
                Ok(Seen::Object { event, object, revision }) => {
                    let kind = match event {
                        "ADDED" => EventKind::Added,
                        "MODIFIED" => EventKind::Modified,
                        _ => EventKind::Deleted,
                    };
                    Ok(Event { kind, object: shown(&form, object, revision.0) })
                }
                Ok(Seen::Bookmark { revision, initial_end }) => {
                    let object = bookmark(&form, revision, initial_end);
                    Ok(Event { kind: EventKind::Bookmark, object: Bytes::from(object.to_string()) })
                }
                Err(failure) => Err(refused(&collection, failure)),
            })
            .boxed())
    }

    fn selection(&self, collection: &Collection, verb: &'static str) -> Result<(KindRef, Selection), Failure> {
        let Collection { group, version, resource, namespace, label_selector, field_selector } = collection;
        let kind = self.api.kinds.find(group, version, resource).ok_or_else(Failure::no_such_path)?;
        let namespace = namespace.as_deref().unwrap_or_default();
        let route = Route::Resource(Info {
            verb,
            group: group.clone(),
            version: version.clone(),
            namespace: namespace.to_owned(),
            resource: resource.clone(),
            only: Only::of(field_selector),
            ..Info::default()
        });
        authorise::check(&self.api, &self.user, &route)?;
        let selection = Selection::of(&kind, namespace, "", label_selector, field_selector)?;
        Ok((kind, selection))
    }
}

/// The object in the version the component asked for.
fn shown(form: &Form, object: Bytes, revision: u64) -> Bytes {
    if form.splices(revision) {
        return object;
    }
    let stored = serde_json::from_slice(&object).unwrap_or_default();
    Bytes::from(form.tree(stored).to_string())
}

fn refused(collection: &Collection, failure: Failure) -> DoorError {
    DoorError::Refused {
        what: collection.path(),
        code: failure.code,
        reason: failure.reason.to_owned(),
        message: failure.message,
    }
}
