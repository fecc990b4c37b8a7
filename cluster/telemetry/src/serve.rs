//! The stores behind the API server: group `telemetry.skerry.dev`.
//!
//! Start at [`Telemetry::new`]. Collectors `create` `logs` and `get` the `positions` of their node; people `list` `logs`, of
//! one namespace or of all. What somebody may is what RBAC says about these names.
//!
//! Invariant: a request that waits for the disk waits on a thread of its own.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::kinds::{Kind, Verbs};
use apiserver::extension::kind;
use apiserver::{Asked, Extension, Failure, Response};
use base::{Clock, Timestamp, chain};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::StatusCode;
use regex_lite::RegexBuilder;
use serde_json::{Value, json};

use crate::logs::wire::{Batch, Stored};
use crate::logs::{Entry, LogStore, Options, Page, Query, Source, StoreError};

/// Our API group.
pub const GROUP: &str = "telemetry.skerry.dev";
const VERSION: &str = "v1";
/// What came is durable after so long: ten times a minute at most, however many nodes there are.
const FLUSH_EVERY: Duration = Duration::from_secs(6);
/// How often old segments are looked for, where nothing is written.
const EXPIRE_EVERY: u32 = 600;
/// A pattern's program; larger ones are refused.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// The stores of this server.
pub struct Telemetry {
    options: Options,
    logs: OnceLock<Arc<LogStore>>,
    clock: Arc<dyn Clock>,
}

impl Telemetry {
    /// Stores below a folder. [`Telemetry::run`] opens them; until then requests are told to come again.
    pub fn new(folder: &Path, clock: Arc<dyn Clock>) -> Telemetry {
        Telemetry { options: Options::new(&folder.join("logs")), logs: OnceLock::new(), clock }
    }

    /// Opens the stores, then makes durable what came and removes what is old, for ever. A store that cannot be opened takes
    /// nothing with it: the server runs without.
    pub async fn run(&self) -> Result<(), StoreError> {
        let options = self.options.clone();
        if self.logs.get().is_none() {
            // A panic while it is opened is this role's, and tried again like an error.
            let opened = tokio::task::spawn_blocking(move || LogStore::open(options)).await;
            let opened = opened
                .map_err(|error| StoreError::Open { path: self.options.folder.clone(), source: error.into() })??;
            let _ = self.logs.set(Arc::new(opened));
        }
        let mut turn = 0_u32;
        loop {
            tokio::time::sleep(FLUSH_EVERY).await;
            turn = turn.wrapping_add(1);
            self.keep(turn.is_multiple_of(EXPIRE_EVERY)).await;
        }
    }

    async fn keep(&self, expire: bool) {
        let (Some(logs), now) = (self.logs.get().cloned(), self.clock.now()) else { return };
        let done = tokio::task::spawn_blocking(move || {
            if expire {
                logs.expire(now);
            }
            logs.flush()
        });
        if let Ok(Err(error)) = done.await {
            tracing::warn!("{}", chain(&error));
        }
    }

    fn logs(&self) -> Result<Arc<LogStore>, Failure> {
        self.logs.get().cloned().ok_or_else(|| Failure::unavailable("the log store is not open yet").retry_after(1))
    }

    fn list(&self, asked: &Asked) -> Result<BoxFuture<'static, Result<Response, Failure>>, Failure> {
        let (query, logs) = (query(asked)?, self.logs()?);
        Ok(blocking(move || Ok(json_of(&page(&logs.query(query))))))
    }

    fn create(&self, asked: Asked) -> Result<BoxFuture<'static, Result<Response, Failure>>, Failure> {
        let (logs, now) = (self.logs()?, self.clock.now());
        Ok(blocking(move || {
            let batch = Batch::decode(&asked.body).map_err(|error| Failure::bad_request(error.to_string()))?;
            let positions = logs.ingest(batch, now).map_err(|error| Failure::unavailable(chain(&error).to_string()))?;
            Ok(json_of(&json!(Stored { positions })))
        }))
    }
}

impl Extension for Telemetry {
    fn kinds(&self) -> Vec<Kind> {
        let free = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let version = (GROUP, VERSION);
        vec![
            kind(version, "Log", "logs", true, Verbs::CREATE.and(Verbs::LIST), &free),
            kind(version, "Position", "positions", false, Verbs::GET, &free),
        ]
    }

    fn answer(&self, asked: Asked) -> BoxFuture<'static, Result<Response, Failure>> {
        let whole = asked.version == VERSION && asked.subresource.is_empty();
        let answer = match (asked.resource.as_str(), asked.verb) {
            ("logs", "list") if whole => self.list(&asked),
            ("logs", "create") if whole && asked.name.is_empty() && asked.namespace.is_empty() => self.create(asked),
            ("positions", "get") if whole => {
                self.logs().map(|logs| ready(Ok(json_of(&json!(logs.known(&asked.name))))))
            }
            ("logs" | "positions", _) if whole => Err(Failure::method_not_allowed()),
            _ => Err(Failure::no_such_path()),
        };
        answer.unwrap_or_else(|failure| ready(Err(failure)))
    }
}

fn ready(answer: Result<Response, Failure>) -> BoxFuture<'static, Result<Response, Failure>> {
    std::future::ready(answer).boxed()
}

fn blocking(
    work: impl FnOnce() -> Result<Response, Failure> + Send + 'static,
) -> BoxFuture<'static, Result<Response, Failure>> {
    let done = tokio::task::spawn_blocking(work);
    async move { done.await.unwrap_or_else(|error| Err(Failure::internal(error))) }.boxed()
}

fn json_of(value: &Value) -> Response {
    Response::json(StatusCode::OK, Bytes::from(value.to_string()))
}

/// Reads what is asked for; what cannot be understood is named.
fn query(asked: &Asked) -> Result<Query, Failure> {
    let text = |key: &str| asked.get(key).to_owned();
    let wrong = |key: &str| Failure::bad_request(format!("invalid value for {key}: {:?}", asked.get(key)));
    let time = |key: &str| match asked.get(key) {
        "" => Ok(None),
        text => text.parse::<Timestamp>().map(|time| Some(crate::logs::cri::nanos(time))).map_err(|_| wrong(key)),
    };
    let number = |key: &str| match asked.get(key) {
        "" => Ok(None),
        text => text.parse::<usize>().map(Some).map_err(|_| wrong(key)),
    };
    let pattern = Some(asked.get("grep")).filter(|pattern| !pattern.is_empty()).map(|pattern| {
        let built = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
        built.map_err(|error| Failure::bad_request(format!("invalid value for grep: {error}")))
    });
    let after = Some(asked.get("continue")).filter(|place| !place.is_empty());
    let tail = number("tailLines")?;
    let every = Query::default();
    Ok(Query {
        namespace: asked.namespace.clone(),
        pod: text("pod"),
        container: text("container"),
        node: text("node"),
        of_nodes: asked.get("ofNodes") == "true",
        since: time("sinceTime")?.unwrap_or(every.since),
        until: time("untilTime")?.unwrap_or(every.until),
        pattern: pattern.transpose()?,
        limit: tail.or(number("limit")?).unwrap_or(every.limit),
        newest: tail.is_some(),
        after: after.map(|place| place.parse().map_err(|()| wrong("continue"))).transpose()?,
    })
}

fn page(page: &Page) -> Value {
    let items: Vec<Value> = page.entries.iter().map(item).collect();
    let place = |place: Option<crate::logs::Place>| place.map(|place| place.to_string()).unwrap_or_default();
    json!({
        "kind": "LogList", "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": {"continue": place(page.more)}, "last": place(page.last), "items": items,
    })
}

fn item(entry: &Entry) -> Value {
    let stream = &entry.stream;
    let mut item = json!({
        "time": entry.time.rfc3339_nanos(), "node": stream.node, "namespace": stream.namespace, "pod": stream.pod,
        "uid": stream.uid, "container": stream.container, "run": stream.run, "text": entry.text,
    });
    match entry.source {
        Source::Line(source) => item["stream"] = source.name().into(),
        Source::Gap(missing) => item["missing"] = missing.into(),
    }
    if entry.partial {
        item["partial"] = true.into();
    }
    item
}
