//! The requests, and who makes them when.
//!
//! Start at [`compare`].
//!
//! The shape of the load: ConfigMaps with 256 bytes of data, `clients` clients, each in a closed loop on a connection of
//! its own. A LIST returns [`LISTED`] objects selected by a label. A round goes in turns of at most [`TURN`], after each of
//! which what was created is deleted again: a quick server would fill up, and be measured among more objects than a slow one.

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
/// So long each verb is measured before the next has its turn.
const TURN: Duration = Duration::from_secs(5);
/// Longer than any server takes to delete what was created in a turn.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);
/// So many objects are looked up at a time to be deleted.
const PAGE: usize = 500;
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
        let mut taken: Vec<Vec<Taken>> = vec![vec![Taken::default(); ready.len()]; verbs.len()];
        for (turn, time) in turns(load.time).into_iter().enumerate() {
            for (row, verb) in verbs.iter().copied().enumerate() {
                for (column, server) in ready.iter().enumerate() {
                    if turn == 0 {
                        server.run(verb, load.warm_up, &clock).await?;
                    }
                    taken[row][column].add(server.run(verb, time, &clock).await?);
                }
            }
            for server in &ready {
                server.run(Verb::Delete, FOR_EVER, &clock).await?;
            }
        }
        for (row, row_taken) in taken.into_iter().enumerate() {
            for (column, taken) in row_taken.into_iter().enumerate() {
                samples[row][column].push(Sample::new(taken.latencies, taken.time));
            }
        }
    }
    let medians = samples.into_iter().map(|row| row.into_iter().map(Sample::median).collect());
    Ok(Table { clients: load.clients, rows: verbs.into_iter().zip(medians).collect() })
}

/// A time in parts of at most [`TURN`].
fn turns(time: Duration) -> Vec<Duration> {
    let count = time.as_nanos().div_ceil(TURN.as_nanos()).max(1) as u32;
    vec![time / count; count as usize]
}

/// What a server did of a verb in a round, so far.
#[derive(Clone, Default)]
struct Taken {
    latencies: Vec<Duration>,
    time: Duration,
}

impl Taken {
    fn add(&mut self, more: Taken) {
        self.latencies.extend(more.latencies);
        self.time += more.time;
    }
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
            empty(&mut first, &connections, namespace).await?;
        }
        for number in 0..LISTED {
            let body = object(NAMESPACE, &format!("listed-{number}"), "listed", 0);
            first.call(Method::POST, &collection(NAMESPACE), JSON, body).await?;
        }
        Ok(Server { clients: connections, created: Arc::default(), deleted: Arc::default() })
    }

    /// All clients do one verb for a time.
    async fn run(&self, verb: Verb, time: Duration, clock: &Arc<dyn Clock>) -> Result<Taken, BenchError> {
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
        let mut latencies = Vec::new();
        while let Some(done) = tasks.join_next().await {
            let broken = |error: tokio::task::JoinError| BenchError::Broken {
                what: verb.name().into(),
                detail: error.to_string(),
            };
            latencies.extend(done.map_err(broken)??);
        }
        Ok(Taken { latencies, time: clock.monotonic().since(begun) })
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

/// An empty namespace: made, or emptied of what an earlier run left. One by one: a server that deletes a large collection in
/// one request may take longer than it gives itself.
async fn empty(first: &mut Connection, clients: &[Connection], name: &str) -> Result<(), BenchError> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    match first.post("/api/v1/namespaces", &namespace).await {
        Err(BenchError::Answer { status: http::StatusCode::CONFLICT, .. }) => {}
        answer => return answer.map(drop),
    }
    loop {
        let names = names(first, name).await?;
        if names.is_empty() {
            return Ok(());
        }
        let part = names.len().div_ceil(clients.len());
        let deletes = clients.iter().cloned().zip(names.chunks(part)).map(|(mut client, names)| async move {
            for object in names {
                let path = format!("{}/{object}", collection(name));
                client.call(Method::DELETE, &path, JSON, Bytes::new()).await?;
            }
            Ok::<_, BenchError>(())
        });
        futures::future::try_join_all(deletes).await?;
    }
}

/// The names of the first objects of a namespace.
async fn names(connection: &mut Connection, namespace: &str) -> Result<Vec<String>, BenchError> {
    let path = format!("{}?limit={PAGE}", collection(namespace));
    let body = connection.get(&path).await?;
    let broken = |error: serde_json::Error| BenchError::Broken { what: path.clone(), detail: error.to_string() };
    let list: Value = serde_json::from_slice(&body).map_err(broken)?;
    let items = list["items"].as_array().into_iter().flatten();
    let names = items.filter_map(|item| item["metadata"]["name"].as_str());
    // A controller makes this one again and again.
    Ok(names.filter(|name| *name != "kube-root-ca.crt").map(str::to_owned).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seconds: u64, expected_ms: &[u64]) {
        let turns: Vec<u64> = turns(Duration::from_secs(seconds)).iter().map(|turn| turn.as_millis() as u64).collect();
        assert_eq!(turns, expected_ms);
    }

    #[test]
    fn no_turn_is_long_and_all_add_up() {
        check(1, &[1_000]);
        check(5, &[5_000]);
        check(8, &[4_000, 4_000]);
        check(15, &[5_000, 5_000, 5_000]);
    }
}
