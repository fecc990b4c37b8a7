//! The requests, and who makes them when.
//!
//! Start at [`compare`].
//!
//! The shape of the load: ConfigMaps with 256 bytes of data, `clients` clients, each in a closed loop on a connection of
//! its own. A LIST returns [`LISTED`] objects selected by a label.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::Clock;
use bytes::Bytes;
use client::Kubeconfig;
use http::Method;
use serde_json::{Value, json};

use crate::connection::JSON;
use crate::table::{Sample, Table};
use crate::{BenchError, Connection};

/// How many objects a LIST returns.
const LISTED: usize = 1000;
/// Holds what is listed, read and changed.
const NAMESPACE: &str = "skerry-bench";
/// Holds what is created and deleted: a quick server makes more of it, and must not list among more for that.
const CREATED: &str = "skerry-bench-created";
const MERGE: &str = "application/merge-patch+json";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// POST of a new object.
    Create,
    /// GET of an object.
    Get,
    /// GET of a thousand by label.
    List,
    /// PUT of an object.
    Update,
    /// PATCH with a merge patch.
    Patch,
    /// DELETE of an object.
    Delete,
}

impl Verb {
    /// All, in the order in which they make sense.
    pub const ALL: [Verb; 6] = [Verb::Create, Verb::Get, Verb::List, Verb::Update, Verb::Patch, Verb::Delete];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
        }
    }
}

/// How much load, for how long.
#[derive(Clone, Debug)]
pub struct Load {
    /// Clients at once.
    pub clients: usize,
    /// How long each verb is measured in a round.
    pub time: Duration,
    /// How long it runs before that.
    pub warm_up: Duration,
    /// Rounds; the median counts.
    pub rounds: usize,
    /// The names of the verbs to measure; all of them if there are none.
    pub verbs: Vec<String>,
}

struct Server {
    clients: Vec<Connection>,
    /// Objects ever created, which is also the next one's number; those below `deleted` are gone.
    created: Arc<AtomicUsize>,
    deleted: Arc<AtomicUsize>,
}

/// Drives all servers in turns.
pub async fn compare(servers: &[Kubeconfig], load: &Load, clock: Arc<dyn Clock>) -> Result<Table, BenchError> {
    let mut ready = Vec::new();
    for access in servers {
        ready.push(Server::prepare(access, load.clients).await?);
    }
    let verbs: Vec<Verb> = Verb::ALL.into_iter().filter(|verb| load.measures(*verb)).collect();
    let mut samples: Vec<Vec<Vec<Sample>>> = vec![vec![Vec::new(); ready.len()]; verbs.len()];
    for _ in 0..load.rounds {
        for (row, verb) in verbs.iter().copied().enumerate() {
            for (column, server) in ready.iter().enumerate() {
                server.run(verb, load.warm_up, &clock).await?;
                samples[row][column].push(server.run(verb, load.time, &clock).await?);
            }
        }
    }
    let medians = samples.into_iter().map(|row| row.into_iter().map(Sample::median).collect());
    Ok(Table { clients: load.clients, rows: verbs.into_iter().zip(medians).collect() })
}

impl Load {
    fn measures(&self, verb: Verb) -> bool {
        self.verbs.is_empty() || self.verbs.iter().any(|name| name == verb.name())
    }
}

impl Server {
    async fn prepare(access: &Kubeconfig, clients: usize) -> Result<Server, BenchError> {
        let mut connections = Vec::new();
        for _ in 0..clients {
            connections.push(Connection::open(access).await?);
        }
        let mut first = Connection::open(access).await?;
        for namespace in [NAMESPACE, CREATED] {
            empty(&mut first, namespace).await?;
        }
        for number in 0..LISTED {
            let body = object(NAMESPACE, &format!("listed-{number}"), "listed", 0);
            first.call(Method::POST, &collection(NAMESPACE), JSON, body).await?;
        }
        Ok(Server { clients: connections, created: Arc::default(), deleted: Arc::default() })
    }

    /// All clients do one verb for a time.
    async fn run(&self, verb: Verb, time: Duration, clock: &Arc<dyn Clock>) -> Result<Sample, BenchError> {
        let begun = clock.monotonic();
        let end = begun.plus(time);
        let mut tasks = tokio::task::JoinSet::new();
        for (index, connection) in self.clients.iter().cloned().enumerate() {
            let (created, deleted, clock) = (self.created.clone(), self.deleted.clone(), clock.clone());
            tasks.spawn(async move {
                let mut client = Client { connection, created, deleted, turn: index };
                let mut latencies = Vec::new();
                loop {
                    let start = clock.monotonic();
                    if start >= end || !client.once(verb).await? {
                        return Ok::<_, BenchError>(latencies);
                    }
                    latencies.push(clock.monotonic().since(start));
                }
            });
        }
        let mut all = Vec::new();
        while let Some(done) = tasks.join_next().await {
            let broken = |error: tokio::task::JoinError| BenchError::Broken {
                what: verb.name().into(),
                detail: error.to_string(),
            };
            all.extend(done.map_err(broken)??);
        }
        Ok(Sample::new(all, clock.monotonic().since(begun)))
    }
}

struct Client {
    connection: Connection,
    created: Arc<AtomicUsize>,
    deleted: Arc<AtomicUsize>,
    turn: usize,
}

impl Client {
    /// One request; false if there is nothing left to do it to.
    async fn once(&mut self, verb: Verb) -> Result<bool, BenchError> {
        self.turn += 1;
        match verb {
            Verb::Create => {
                let number = self.created.fetch_add(1, Ordering::Relaxed);
                let body = object(CREATED, &format!("object-{number}"), "object", 0);
                self.connection.call(Method::POST, &collection(CREATED), JSON, body).await?;
            }
            Verb::List => {
                let path = format!("{}?labelSelector=kind%3Dlisted", collection(NAMESPACE));
                self.connection.call(Method::GET, &path, JSON, Bytes::new()).await?;
            }
            Verb::Delete => {
                let number = self.deleted.fetch_add(1, Ordering::Relaxed);
                if number >= self.created.load(Ordering::Relaxed) {
                    self.deleted.fetch_sub(1, Ordering::Relaxed);
                    return Ok(false);
                }
                let path = format!("{}/object-{number}", collection(CREATED));
                self.connection.call(Method::DELETE, &path, JSON, Bytes::new()).await?;
            }
            Verb::Get | Verb::Update | Verb::Patch => {
                let name = format!("listed-{}", self.turn * 7919 % LISTED);
                let path = format!("{}/{name}", collection(NAMESPACE));
                let (method, content, body) = match verb {
                    Verb::Get => (Method::GET, JSON, Bytes::new()),
                    Verb::Update => (Method::PUT, JSON, object(NAMESPACE, &name, "listed", self.turn)),
                    _ => (Method::PATCH, MERGE, json!({"data": {"turn": self.turn.to_string()}}).to_string().into()),
                };
                self.connection.call(method, &path, content, body).await?;
            }
        }
        Ok(true)
    }
}

/// An empty namespace: made, or emptied of what an earlier run left.
async fn empty(connection: &mut Connection, name: &str) -> Result<(), BenchError> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    match connection.post("/api/v1/namespaces", &namespace).await {
        Err(BenchError::Answer { status: http::StatusCode::CONFLICT, .. }) => {
            connection.call(Method::DELETE, &collection(name), JSON, Bytes::new()).await.map(drop)
        }
        answer => answer.map(drop),
    }
}

fn collection(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

fn object(namespace: &str, name: &str, kind: &str, turn: usize) -> Bytes {
    let object: Value = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kind": kind}},
        "data": {"payload": "x".repeat(256), "turn": turn.to_string()},
    });
    object.to_string().into()
}
