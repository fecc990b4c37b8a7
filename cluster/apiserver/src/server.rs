//! The server itself: what all requests share, and the road each of them takes.
//!
//! Start at [`Api::handle`]: authenticate, find what is meant, authorise, do it, answer.
//!
//! Not here: the verbs (`read.rs`, `watch.rs`, `write.rs`, `delete.rs`), what lies below objects (`subresource.rs`).

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::kinds::{Kind, KindRef};
use base::exposition::Exposition;
use base::{Rng, Timestamp};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;
use store::{Entry, Store};
use tokio::sync::Semaphore;

use crate::accept::{self, Wanted};
use crate::allocate::Allocator;
use crate::documents::Documents;
use crate::extension::Extensions;
use crate::frames::Frames;
use crate::kinds::Kinds;
use crate::metrics::Metrics;
use crate::path::{Info, Route};
use crate::query::Query;
use crate::quota::Quotas;
use crate::rbac::Rules;
use crate::status::resource_of;
use crate::{Asked, Credentials, Failure, Response, Settings, User, render};

/// The API server's core: no sockets, no timers.
pub struct Api {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) settings: Settings,
    pub(crate) kinds: Kinds,
    pub(crate) rules: Rules,
    pub(crate) allocator: Allocator,
    pub(crate) quotas: Quotas,
    pub(crate) frames: Frames,
    pub(crate) documents: Documents,
    pub(crate) metrics: Metrics,
    extensions: Extensions,
    /// Who may take a snapshot now.
    pub(crate) snapshots: Arc<Semaphore>,
    rng: Mutex<Rng>,
    advertise: Mutex<(Ipv4Addr, u16)>,
    ready: AtomicBool,
}

/// A request for resources on its way through the verbs.
pub(crate) struct Ask {
    pub info: Info,
    pub kind: KindRef,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub user: Arc<User>,
    pub wanted: Wanted,
}

impl Api {
    /// A server over a store that was opened with [`crate::annotate`].
    pub fn open(store: Arc<dyn Store>, settings: Settings) -> Arc<Api> {
        let rng = Mutex::new(Rng::new(settings.seed));
        let allocator = Allocator::new(settings.service_cidr, settings.node_ports);
        let (extensions, extended) = Extensions::new(&settings.extensions);
        let kinds = Kinds::with(extended.into_iter().map(KindRef::from).collect());
        kinds.reload(&*store);
        Arc::new(Api {
            store,
            kinds,
            rules: Rules::default(),
            allocator,
            quotas: Quotas::default(),
            frames: Frames::default(),
            documents: Documents::default(),
            metrics: Metrics::default(),
            extensions,
            snapshots: Arc::new(Semaphore::new(crate::snapshot::AT_ONCE_MAX)),
            rng,
            advertise: Mutex::new(settings.advertise),
            ready: AtomicBool::new(false),
            settings,
        })
    }

    /// Writes what every cluster has from the start, where it is missing. Until then the server is not ready.
    pub async fn bootstrap(self: &Arc<Self>) -> Result<(), Failure> {
        self.allocator.repair(&*self.store);
        crate::bootstrap::run(self).await?;
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// Tells clients and pods that this server is found at another address from now on.
    pub async fn moved(self: &Arc<Self>, address: Ipv4Addr) -> Result<(), Failure> {
        self.advertise.lock().unwrap_or_else(PoisonError::into_inner).0 = address;
        // One of them names it.
        self.documents.forget();
        crate::bootstrap::moved(self).await
    }

    /// Under which address clients are told to find this server now.
    pub(crate) fn advertise(&self) -> (Ipv4Addr, u16) {
        *self.advertise.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether [`Api::bootstrap`] is done.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// What this server and its extensions count.
    pub(crate) fn exposition(&self) -> Exposition {
        let mut told = Exposition::default();
        self.metrics.tell(&mut told);
        self.extensions.tell(&mut told);
        told
    }

    /// Does one request.
    pub async fn handle(self: &Arc<Self>, request: http::Request<Bytes>, credentials: Credentials) -> Response {
        let (parts, body) = request.into_parts();
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let route = Route::of(&parts.method, parts.uri.path(), &query);
        let pretty = query.flag("pretty");
        let answer = self.answer(route, query, parts.headers, body, credentials).await;
        let response = answer.unwrap_or_else(|failure| render::failure(&failure));
        self.metrics.count(&parts.method, response.status);
        if pretty { render::pretty(response) } else { response }
    }

    async fn answer(
        self: &Arc<Self>,
        route: Route,
        query: Query,
        headers: HeaderMap,
        body: Bytes,
        credentials: Credentials,
    ) -> Result<Response, Failure> {
        let user = crate::authenticate::user(self, &headers, credentials)?;
        let user = crate::authorise::impersonated(self, &headers, user)?;
        crate::authorise::check(self, &user, &route)?;
        match route {
            Route::Other { path, verb } => crate::other::answer(self, &path, verb, &query, &headers).await,
            Route::Resource(info) if let Some(other) = self.extensions.of(&info.group) => {
                other.answer(Asked::of(info, &query, body)).await
            }
            Route::Resource(info) => {
                let kind = self.kinds.find(&info.group, &info.version, &info.resource);
                let kind = kind.ok_or_else(Failure::no_such_path)?;
                let wanted = Wanted::of(text(&headers, header::ACCEPT.as_str()), kind.own.is_none())?;
                let warning = match &kind.own {
                    Some(own) => Some(own.warning.clone()).filter(|warning| !warning.is_empty()),
                    None => crate::idle::warning(&kind, info.verb),
                };
                let mut response = self.verb(Ask { info, kind, query, headers, body, user, wanted }).await?;
                render::warn(&mut response, warning.as_slice());
                Ok(response)
            }
        }
    }

    async fn verb(self: &Arc<Self>, ask: Ask) -> Result<Response, Failure> {
        let info = &ask.info;
        // A cluster's object has no namespace in its path, and the other way round; only reading everywhere is both.
        let misplaced = match ask.kind.namespaced {
            true => info.namespace.is_empty() && !(info.name.is_empty() && matches!(info.verb, "list" | "watch")),
            false => !info.namespace.is_empty() && info.resource != "namespaces",
        };
        if misplaced && !(info.verb == "create" && info.name.is_empty() && !ask.kind.is_stored()) {
            return Err(if ask.kind.namespaced && info.name.is_empty() {
                Failure::method_not_allowed()
            } else {
                Failure::no_such_path()
            });
        }
        if !info.subresource.is_empty() {
            return crate::subresource::answer(self, &ask).await;
        }
        if !ask.kind.is_stored() {
            return crate::review::answer(self, &ask).await;
        }
        if !ask.kind.verbs.allows(info.verb) {
            return Err(Failure::method_not_allowed());
        }
        match info.verb {
            "get" => self.get(&ask),
            "list" => self.list(&ask),
            "watch" => self.watch(&ask),
            "create" if info.name.is_empty() => self.create(&ask).await,
            "update" if !info.name.is_empty() => self.update(&ask, None).await,
            "patch" if !info.name.is_empty() => self.patch(&ask, None).await,
            "delete" => self.delete(&ask).await,
            "deletecollection" => self.delete_collection(&ask).await,
            _ => Err(Failure::method_not_allowed()),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.settings.clock.now()
    }

    pub(crate) fn rng(&self) -> MutexGuard<'_, Rng> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stored object, undecoded.
    pub(crate) fn entry(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Entry, Failure> {
        let entry = self.store.get(&kind.key(namespace, name));
        entry.ok_or_else(|| Failure::not_found(resource_of(kind), name))
    }

    /// A stored object of a built-in resource; `None` where there is none.
    pub(crate) fn object(&self, key: &str) -> Option<Value> {
        self.store.get(key).map(|entry| decoded(&entry))
    }

    /// All stored objects whose keys begin so.
    pub(crate) fn objects(&self, prefix: &str) -> Vec<Value> {
        let range = store::Range { prefix: prefix.to_owned(), ..store::Range::default() };
        // Only a revision of the past can be missing, and none was asked for.
        self.store.list(&range).map(|page| page.entries.iter().map(decoded).collect()).unwrap_or_default()
    }
}

/// The tree of a stored object. What cannot be read (a damaged file that still passed its checks) is an empty object.
pub(crate) fn decoded(entry: &Entry) -> Value {
    serde_json::from_slice(&entry.value).unwrap_or_else(|error| {
        tracing::error!("failed to read stored object {}: {error}", entry.key);
        Value::Object(serde_json::Map::new())
    })
}

/// A header as text, or nothing.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The shape of an answer that says only that it went well.
pub(crate) fn success(status: StatusCode, details: Value) -> Value {
    let mut object = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
    });
    if details.is_null() {
        object["code"] = status.as_u16().into();
    } else {
        object["details"] = details;
    }
    object
}

/// What a component of this process wants its answers in.
pub(crate) const PLAIN: Wanted = accept::JSON;
