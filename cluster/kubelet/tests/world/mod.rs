//! A node in a test: the real kubelet on a fake runtime, a small API server in memory, and tokio's paused clock.
//!
//! Start at [`World::new`]. Time passes only in [`World::pass`], and then instantly.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Clock, Monotonic, Rng, Timestamp};
use bytes::Bytes;
use client::{Call, Collection, Door, DoorError, Event, EventKind, Item, Listing, Reply};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use kubelet::Options;
use runtime::fake::FakeRuntime;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

/// The clock of tokio, so that pausing one pauses the other.
pub struct TokioClock(tokio::time::Instant);

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_800_000_000).plus(self.0.elapsed())
    }
    fn monotonic(&self) -> Monotonic {
        Monotonic(1_000_000_000_000).plus(self.0.elapsed())
    }
}

/// Objects by path, who watches, and whether the server cannot be reached.
#[derive(Clone)]
pub struct Api(Arc<Mutex<Store>>, broadcast::Sender<(EventKind, String, Value)>, watch::Sender<bool>);

#[derive(Default)]
struct Store {
    revision: u64,
    objects: BTreeMap<String, Value>,
    log: Vec<(u64, EventKind, String, Value)>,
    writes: Vec<String>,
}

impl Api {
    fn new() -> Api {
        Api(Arc::default(), broadcast::channel(10_000).0, watch::Sender::new(false))
    }

    /// Cuts the wire, or mends it.
    pub fn cut(&self, cut: bool) {
        self.2.send_replace(cut);
    }

    fn reach(&self) -> Result<(), DoorError> {
        match *self.2.borrow() {
            true => Err(DoorError::Unreachable { server: "the test's".to_owned(), source: "the wire is cut".into() }),
            false => Ok(()),
        }
    }

    pub fn put(&self, path: &str, mut object: Value) {
        let mut store = self.0.lock().expect("a store");
        store.revision += 1;
        object["metadata"]["resourceVersion"] = store.revision.to_string().into();
        let there = store.objects.insert(path.to_owned(), object.clone()).is_some();
        let kind = if there { EventKind::Modified } else { EventKind::Added };
        let revision = store.revision;
        store.log.push((revision, kind, path.to_owned(), object.clone()));
        let _ = self.1.send((kind, path.to_owned(), object));
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().expect("a store").objects.get(path).cloned()
    }

    pub fn remove(&self, path: &str) {
        let mut store = self.0.lock().expect("a store");
        if let Some(mut object) = store.objects.remove(path) {
            store.revision += 1;
            object["metadata"]["resourceVersion"] = store.revision.to_string().into();
            let revision = store.revision;
            store.log.push((revision, EventKind::Deleted, path.to_owned(), object.clone()));
            let _ = self.1.send((EventKind::Deleted, path.to_owned(), object));
        }
    }

    /// Every write of a client so far.
    pub fn writes(&self) -> Vec<String> {
        self.0.lock().expect("a store").writes.clone()
    }

    pub fn all(&self, prefix: &str) -> Vec<Value> {
        let store = self.0.lock().expect("a store");
        store.objects.iter().filter(|(path, _)| path.starts_with(prefix)).map(|(_, object)| object.clone()).collect()
    }

    fn answer(&self, call: &Call) -> Reply {
        let reply = |status: u16, body: Value| Reply {
            status: http::StatusCode::from_u16(status).expect("a code"),
            body: Bytes::from(body.to_string()),
        };
        let missing = || reply(404, json!({"kind": "Status", "reason": "NotFound", "code": 404}));
        let path = call.path.trim_end_matches("/status").to_owned();
        let body: Value = serde_json::from_slice(&call.body).unwrap_or(Value::Null);
        if call.method != http::Method::GET {
            self.0.lock().expect("a store").writes.push(format!("{} {}", call.method, call.path));
        }
        match call.method.as_str() {
            "GET" => self.get(&path).map_or_else(missing, |object| reply(200, object)),
            "POST" if path.ends_with("/token") => reply(201, json!({"status": {"token": "a.b.c"}})),
            "POST" if path.ends_with("/tokenreviews") => {
                let user = json!({"username": "scraper", "groups": ["system:authenticated"]});
                let good = body["spec"]["token"] == "good";
                reply(201, json!({"status": {"authenticated": good, "user": user}}))
            }
            "POST" if path.ends_with("/subjectaccessreviews") => {
                let wish = &body["spec"]["resourceAttributes"];
                let may =
                    body["spec"]["user"] == "scraper" && wish["subresource"] == "metrics" && wish["verb"] == "get";
                reply(201, json!({"status": {"allowed": may}}))
            }
            "POST" => {
                let target = format!("{path}/{}", body["metadata"]["name"].as_str().expect("a name"));
                if self.get(&target).is_some() {
                    return reply(409, json!({"kind": "Status", "reason": "AlreadyExists", "code": 409}));
                }
                self.put(&target, body);
                self.get(&target).map_or_else(missing, |object| reply(201, object))
            }
            "PATCH" => {
                let Some(mut object) = self.get(&path) else { return missing() };
                let strategic = call.content_type.contains("strategic");
                let before = object.clone();
                merge(&mut object, &body, strategic);
                if object != before {
                    self.put(&path, object);
                }
                self.get(&path).map_or_else(missing, |object| reply(200, object))
            }
            "DELETE" => {
                let Some(object) = self.get(&path) else { return missing() };
                let wanted = body.pointer("/preconditions/uid");
                if wanted.is_some() && wanted != object.pointer("/metadata/uid") {
                    return reply(409, json!({"kind": "Status", "reason": "Conflict", "code": 409}));
                }
                self.remove(&path);
                reply(200, object)
            }
            _ => missing(),
        }
    }
}

/// A merge patch; with `strategic`, conditions merge by type.
fn merge(object: &mut Value, patch: &Value, strategic: bool) {
    let Some(fields) = patch.as_object() else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (name, value) in fields {
        match value {
            Value::Null => drop(object.as_object_mut().expect("an object").remove(name)),
            Value::Array(list) if strategic && name == "conditions" => {
                let mut all = object[name].as_array().cloned().unwrap_or_default();
                for entry in list {
                    match all.iter_mut().find(|known| known["type"] == entry["type"]) {
                        Some(known) => merge(known, entry, strategic),
                        None => all.push(entry.clone()),
                    }
                }
                object[name] = all.into();
            }
            Value::Array(list) => {
                object[name] = list.iter().filter(|entry| entry.get("$patch").is_none()).cloned().collect();
            }
            value => merge(&mut object[name], value, strategic),
        }
    }
}

fn chosen(collection: &Collection, path: &str, object: &Value) -> bool {
    let (before, after) = match &collection.namespace {
        Some(_) => (collection.path(), String::new()),
        None => {
            let base = collection.path();
            let (root, plural) = base.rsplit_once('/').expect("a path");
            (root.to_owned(), format!("/{plural}/"))
        }
    };
    let kind =
        path.starts_with(&before) && path.contains(&after) && path.contains(&format!("/{}/", collection.resource));
    let fields = collection.field_selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let (field, wanted) = term.split_once('=').expect("a term");
        object.pointer(&format!("/{}", field.replace('.', "/"))).and_then(Value::as_str) == Some(wanted)
    });
    kind && fields
}

impl Door for Api {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, DoorError>> {
        let reply = self.reach().map(|()| self.answer(&call));
        async move { reply }.boxed()
    }

    fn list(&self, collection: &Collection) -> BoxFuture<'static, Result<Listing, DoorError>> {
        if let Err(error) = self.reach() {
            return async move { Err(error) }.boxed();
        }
        let store = self.0.lock().expect("a store");
        let found = store.objects.iter().filter(|(path, object)| chosen(collection, path, object));
        let items = found.map(|(_, object)| Item { object: Bytes::from(object.to_string()) }).collect();
        let listing = Listing { resource_version: store.revision.to_string(), items };
        async move { Ok(listing) }.boxed()
    }

    fn watch(
        &self,
        collection: &Collection,
        resource_version: &str,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Event, DoorError>>, DoorError>> {
        if let Err(error) = self.reach() {
            return async move { Err(error) }.boxed();
        }
        let mut wire = self.2.subscribe();
        let store = self.0.lock().expect("a store");
        let from: u64 = resource_version.parse().expect("a revision");
        let old: Vec<_> = store.log.iter().filter(|(revision, ..)| *revision > from).cloned().collect();
        let live = self.1.subscribe();
        drop(store);
        let old = futures::stream::iter(old.into_iter().map(|(_, kind, path, object)| (kind, path, object)));
        let live =
            futures::stream::unfold(live, |mut live| async move { live.recv().await.ok().map(|event| (event, live)) });
        let collection = collection.clone();
        let events = old.chain(live).filter_map(move |(kind, path, object)| {
            let chosen = chosen(&collection, &path, &object);
            async move { chosen.then(|| Ok(Event { kind, object: Bytes::from(object.to_string()) })) }
        });
        let events = events.take_until(async move { drop(wire.wait_for(|cut| *cut).await) });
        async move { Ok(events.boxed()) }.boxed()
    }
}

/// A node.
pub struct World {
    pub api: Api,
    pub runtime: FakeRuntime,
    pub clock: Arc<TokioClock>,
    pub dir: tempfile::TempDir,
    kubelet: Option<tokio::task::JoinHandle<()>>,
}

impl World {
    /// A node called `n1` with the image `busybox`, its kubelet running.
    pub fn new() -> World {
        let clock = Arc::new(TokioClock(tokio::time::Instant::now()));
        let runtime = FakeRuntime::new(clock.clone());
        runtime.add_image("busybox");
        let mut world =
            World { api: Api::new(), runtime, clock, dir: tempfile::tempdir().expect("a folder"), kubelet: None };
        world.start();
        world
    }

    pub fn start(&mut self) {
        self.start_with(|_| ());
    }

    /// Starts a kubelet with other options.
    pub fn start_with(&mut self, change: impl FnOnce(&mut Options)) {
        let mut options = Options::new("n1", &self.dir.path().join("kubelet"), &self.dir.path().join("log"));
        options.addresses = kubelet::fixed(vec!["192.168.1.2".parse().expect("an address")]);
        options.machine.cpus = 2;
        options.checkpoints = Some(self.dir.path().join("kubelet/checkpoints"));
        change(&mut options);
        let (api, runtime, clock) = (self.api.clone(), self.runtime.clone(), self.clock.clone());
        self.kubelet = Some(tokio::spawn(async move {
            let ended = kubelet::run(options, Arc::new(api), Arc::new(runtime), clock, Rng::new(1)).await;
            ended.expect("a kubelet that runs");
        }));
    }

    /// Ends the kubelet as a crash would.
    pub async fn stop(&mut self) {
        if let Some(kubelet) = self.kubelet.take() {
            kubelet.abort();
            let _ = kubelet.await;
        }
    }

    /// Lets time pass.
    pub async fn pass(&self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.runtime.tick();
        }
    }

    /// Creates a pod bound to this node.
    pub fn pod(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = "n1".into();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1},
            "spec": spec,
        });
        self.api.put(&path(name), object);
    }

    /// Marks a pod as deleted, as the API server does.
    pub fn delete(&self, name: &str, grace: i64) {
        let mut object = self.api.get(&path(name)).expect("a pod");
        object["metadata"]["deletionTimestamp"] = self.clock.now().rfc3339().into();
        object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        self.api.put(&path(name), object);
    }

    pub fn status(&self, name: &str) -> Value {
        self.api.get(&path(name)).map(|object| object["status"].clone()).unwrap_or(Value::Null)
    }

    /// A pod in one line: `Running app=running,ready#0`.
    pub fn line(&self, name: &str) -> String {
        let status = self.status(name);
        if status.is_null() {
            return "none".to_owned();
        }
        let mut line = status["phase"].as_str().unwrap_or("-").to_owned();
        for list in ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
            for container in status[list].as_array().into_iter().flatten() {
                let state = &container["state"];
                let word = if state["running"].is_object() {
                    "running".to_owned()
                } else if let Some(reason) = state["waiting"]["reason"].as_str() {
                    reason.to_owned()
                } else {
                    format!(
                        "{}:{}",
                        state["terminated"]["reason"].as_str().unwrap_or("?"),
                        state["terminated"]["exitCode"]
                    )
                };
                let ready = if container["ready"] == true { ",ready" } else { "" };
                line += &format!(
                    " {}={word}{ready}#{}",
                    container["name"].as_str().unwrap_or("?"),
                    container["restartCount"]
                );
            }
        }
        line
    }

    /// The reasons of all events so far, in order of their names' making.
    pub fn events(&self) -> Vec<String> {
        let events = self.api.all("/api/v1/namespaces/default/events/");
        let about_pods = events.into_iter().filter(|event| event["involvedObject"]["kind"] == "Pod");
        about_pods
            .map(|event| {
                format!("{}: {}", event["reason"].as_str().unwrap_or("?"), event["message"].as_str().unwrap_or("?"))
            })
            .collect()
    }
}

pub fn path(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{name}")
}
