//! The stores behind the API server: group `telemetry.skerry.dev`.
//!
//! Start at [`Telemetry::new`]. Collectors `create` `logs` and `samples` and `get` the `positions` of their node; people
//! `list` `logs` and `series`, of one namespace or of all. What somebody may is what RBAC says about these names.
//!
//! Invariant: a request that waits for the disk waits on a thread of its own.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::kinds::{Kind, Verbs};
use apiserver::extension::kind;
use apiserver::{Asked, Extension, Failure, Response};
use base::exposition::{Exposition, Family};
use base::{Clock, Timestamp, chain};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::StatusCode;
use regex_lite::RegexBuilder;
use serde_json::{Value, json};

use crate::logs::wire::{Batch, Stored};
use crate::logs::{Entry, LogStore, Options, Page, Query, Source, StoreError};
use crate::metrics::wire::{Round, label};
use crate::metrics::{self, MetricStore};

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
    metric_options: metrics::Options,
    metrics: OnceLock<Arc<MetricStore>>,
    clock: Arc<dyn Clock>,
    counts: Arc<Counts>,
}

/// What was taken since the start.
#[derive(Default)]
struct Counts {
    log_bytes: AtomicU64,
    rounds: AtomicU64,
}

const LOG_BYTES: Family = Family { name: "skerry_log_store_bytes", help: "Bytes of the log store's segments." };
const LOG_SEGMENTS: Family = Family { name: "skerry_log_store_segments", help: "Segments of the log store." };
const LOG_RECEIVED: Family = Family {
    name: "skerry_log_store_received_bytes_total",
    help: "Packed bytes that the log store was sent and took.",
};
const METRIC_BYTES: Family =
    Family { name: "skerry_metric_store_bytes", help: "Bytes of the metric store's segments." };
const METRIC_NODES: Family =
    Family { name: "skerry_metric_store_nodes", help: "Nodes that the metric store has heard of since the start." };
const METRIC_ROUNDS: Family =
    Family { name: "skerry_metric_store_rounds_total", help: "Rounds of measurements that the metric store took." };

impl Telemetry {
    /// Stores below a folder. [`Telemetry::run`] opens them; until then requests are told to come again.
    pub fn new(folder: &Path, clock: Arc<dyn Clock>) -> Telemetry {
        let (options, metric_options) =
            (Options::new(&folder.join("logs")), metrics::Options::new(&folder.join("metrics")));
        let (logs, metrics, counts) = (OnceLock::new(), OnceLock::new(), Arc::default());
        Telemetry { options, logs, metric_options, metrics, clock, counts }
    }

    /// Opens the stores, then makes durable what came and removes what is old, for ever. A store that cannot be opened takes
    /// nothing with it: the server runs without.
    pub async fn run(&self) -> Result<(), StoreError> {
        if self.metrics.get().is_none() {
            let options = self.metric_options.clone();
            let opened = opening(&options.folder.clone(), move || MetricStore::open(options)).await?;
            let _ = self.metrics.set(Arc::new(opened));
        }
        if self.logs.get().is_none() {
            let options = self.options.clone();
            let opened = opening(&options.folder.clone(), move || Ok(LogStore::open(options))).await??;
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

    /// Writes what only memory has, before the server stops.
    pub fn close(&self) {
        let logs = self.logs.get().map(|logs| logs.flush());
        if let Some(Err(error)) = logs {
            tracing::warn!("{}", chain(&error));
        }
        let metrics = self.metrics.get().map(|metrics| metrics.flush());
        if let Some(Err(error)) = metrics {
            tracing::warn!("the newest metrics were not written: {error}");
        }
    }

    pub(crate) fn metrics(&self) -> Result<Arc<MetricStore>, Failure> {
        self.metrics
            .get()
            .cloned()
            .ok_or_else(|| Failure::unavailable("the metric store is not open yet").retry_after(1))
    }

    fn samples(&self, asked: Asked) -> Result<BoxFuture<'static, Result<Response, Failure>>, Failure> {
        let (metrics, counts) = (self.metrics()?, self.counts.clone());
        Ok(blocking(move || {
            let round = Round::decode(&asked.body).map_err(|error| Failure::bad_request(error.to_string()))?;
            // What could not be written is lost, and the next block will tell the same.
            metrics.ingest(round).map_err(|error| Failure::unavailable(error.to_string()))?;
            counts.rounds.fetch_add(1, Ordering::Relaxed);
            Ok(json_of(&json!({})))
        }))
    }

    fn series(&self, asked: Asked) -> Result<BoxFuture<'static, Result<Response, Failure>>, Failure> {
        let metrics = self.metrics()?;
        let (since, until) = (time(&asked, "sinceTime")?, time(&asked, "untilTime")?);
        let millis = |time: Option<i64>, or: i64| time.map_or(or, |nanos| nanos / 1_000_000);
        let (since, until) = (millis(since, i64::MIN), millis(until, i64::MAX));
        let step = match asked.get("step") {
            "" => 0,
            text => text.parse::<u32>().map_err(|_| wrong(&asked, "step"))?,
        };
        Ok(blocking(move || {
            let found = metrics.series(since, until, i64::from(step) * 1000, |series| is_wanted(&asked, series));
            let items: Vec<Value> =
                found.into_iter().map(|(series, samples)| json!({"series": series, "samples": samples})).collect();
            Ok(json_of(&json!({
                "kind": "SeriesList", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": items,
            })))
        }))
    }

    fn logs(&self) -> Result<Arc<LogStore>, Failure> {
        self.logs.get().cloned().ok_or_else(|| Failure::unavailable("the log store is not open yet").retry_after(1))
    }

    fn list(&self, asked: &Asked) -> Result<BoxFuture<'static, Result<Response, Failure>>, Failure> {
        let (query, logs) = (query(asked)?, self.logs()?);
        Ok(blocking(move || Ok(json_of(&page(&logs.query(query))))))
    }

    fn create(&self, asked: Asked) -> Result<BoxFuture<'static, Result<Response, Failure>>, Failure> {
        let (logs, now, counts) = (self.logs()?, self.clock.now(), self.counts.clone());
        Ok(blocking(move || {
            let batch = Batch::decode(&asked.body).map_err(|error| Failure::bad_request(error.to_string()))?;
            let positions = logs.ingest(batch, now).map_err(|error| Failure::unavailable(chain(&error).to_string()))?;
            counts.log_bytes.fetch_add(asked.body.len() as u64, Ordering::Relaxed);
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
            kind(version, "Sample", "samples", false, Verbs::CREATE, &free),
            kind(version, "Series", "series", true, Verbs::LIST, &free),
        ]
    }

    fn tell(&self, told: &mut Exposition) {
        if let Some(logs) = self.logs.get() {
            let (bytes, segments) = logs.size();
            told.add(LOG_BYTES, &[], bytes as f64);
            told.add(LOG_SEGMENTS, &[], segments as f64);
            told.add(LOG_RECEIVED, &[], self.counts.log_bytes.load(Ordering::Relaxed) as f64);
        }
        if let Some(metrics) = self.metrics.get() {
            told.add(METRIC_BYTES, &[], metrics.size() as f64);
            told.add(METRIC_NODES, &[], metrics.latest().len() as f64);
            told.add(METRIC_ROUNDS, &[], self.counts.rounds.load(Ordering::Relaxed) as f64);
        }
    }

    fn answer(&self, asked: Asked) -> BoxFuture<'static, Result<Response, Failure>> {
        let whole = asked.version == VERSION && asked.subresource.is_empty();
        let answer = match (asked.resource.as_str(), asked.verb) {
            ("logs", "list") if whole => self.list(&asked),
            ("logs", "create") if whole && asked.name.is_empty() && asked.namespace.is_empty() => self.create(asked),
            ("positions", "get") if whole => {
                self.logs().map(|logs| ready(Ok(json_of(&json!(logs.known(&asked.name))))))
            }
            ("samples", "create") if whole && asked.name.is_empty() => self.samples(asked),
            ("series", "list") if whole => self.series(asked),
            ("logs" | "positions" | "samples" | "series", _) if whole => Err(Failure::method_not_allowed()),
            _ => Err(Failure::no_such_path()),
        };
        answer.unwrap_or_else(|failure| ready(Err(failure)))
    }
}

/// Opens a store on a thread of its own. A panic there is the role's, and tried again like an error.
async fn opening<T: Send + 'static>(
    path: &Path,
    open: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let opened = tokio::task::spawn_blocking(open).await;
    let opened = opened.map_err(std::io::Error::from).and_then(|opened| opened);
    opened.map_err(|source| StoreError::Open { path: path.to_owned(), source })
}

/// Whether a request for series is about this one: its name is given or begins with what is given before a `*`.
fn is_wanted(asked: &Asked, series: &str) -> bool {
    let name = series.split('{').next().unwrap_or_default();
    let named = match (asked.get("name"), asked.get("name").strip_suffix('*')) {
        ("", _) => true,
        (_, Some(begin)) => name.starts_with(begin),
        (whole, None) => name == whole,
    };
    let fits = |key: &str, wanted: &str| wanted.is_empty() || label(series, key) == wanted;
    let labels = ["node", "pod", "container"].iter().all(|key| fits(key, asked.get(key)));
    named && labels && fits("namespace", &asked.namespace)
}

fn time(asked: &Asked, key: &str) -> Result<Option<i64>, Failure> {
    match asked.get(key) {
        "" => Ok(None),
        text => match text.parse::<Timestamp>() {
            Ok(time) => Ok(Some(crate::logs::cri::nanos(time))),
            Err(_) => Err(wrong(asked, key)),
        },
    }
}

fn wrong(asked: &Asked, key: &str) -> Failure {
    Failure::bad_request(format!("invalid value for {key}: {:?}", asked.get(key)))
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
    let wrong = |key: &str| wrong(asked, key);
    let number = |key: &str| match asked.get(key) {
        "" => Ok(None),
        text => text.parse::<usize>().map(Some).map_err(|_| wrong(key)),
    };
    let pattern = Some(asked.get("grep")).filter(|pattern| !pattern.is_empty()).map(|pattern| {
        let built = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
        built.map_err(|error| Failure::bad_request(format!("invalid value for grep: {error}")))
    });
    let after = Some(asked.get("continue")).filter(|mark| !mark.is_empty());
    let tail = number("tailLines")?;
    let every = Query::default();
    Ok(Query {
        namespace: asked.namespace.clone(),
        pod: text("pod"),
        container: text("container"),
        node: text("node"),
        of_nodes: asked.get("ofNodes") == "true",
        since: time(asked, "sinceTime")?.unwrap_or(every.since),
        until: time(asked, "untilTime")?.unwrap_or(every.until),
        pattern: pattern.transpose()?,
        limit: tail.or(number("limit")?).unwrap_or(every.limit),
        newest: tail.is_some(),
        after: after.map(|mark| mark.parse().map_err(|()| wrong("continue"))).transpose()?,
    })
}

fn page(page: &Page) -> Value {
    let items: Vec<Value> = page.entries.iter().map(item).collect();
    let mark = |mark: Option<crate::logs::Mark>| mark.map(|mark| mark.to_string()).unwrap_or_default();
    json!({
        "kind": "LogList", "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": {"continue": mark(page.more)}, "last": mark(page.last), "items": items,
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
