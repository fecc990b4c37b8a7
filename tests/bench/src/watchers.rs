//! What many watchers cost, and how long the last of them waits for an event.
//!
//! Start at [`watchers`].
//!
//! The shape: ConfigMaps of one namespace, watched by everybody; a client holds [`WATCHES_PER_CLIENT`] watches on one
//! connection, as the clients of Go do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::{Bytes, Clock, Monotonic};
use serde_json::json;
use sys::SystemClock;
use tokio::sync::mpsc;

use crate::connection::Lines;
use crate::processes::{self, Usage};
use crate::promise::{Figure, LAST_WATCHER, WATCHER};
use crate::server::Server;
use crate::{BenchError, Sample};

/// The watches that share a connection.
const WATCHES_PER_CLIENT: usize = 50;
const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=true";
/// Memory is looked at once everything has settled.
const SETTLE: Duration = Duration::from_secs(1);

/// What watchers cost.
#[derive(Clone, Debug)]
pub struct Watching {
    /// How many there were.
    pub watchers: usize,
    /// What the server's memory grew by.
    pub memory: Bytes,
    /// How long after its creation an object was seen by the last watcher.
    pub last: Sample,
}

/// Starts a control plane, `count` watchers, and then creates `events` objects one after the other.
pub async fn watchers(program: &Path, count: usize, events: usize) -> Result<Watching, BenchError> {
    let mut server = Server::new(program, false)?;
    server.start()?;
    let mut creator = server.connect().await?;
    tokio::time::sleep(SETTLE).await;
    let before = pss(&server)?;
    let (seen, mut sightings) = mpsc::unbounded_channel();
    for first in (0..count).step_by(WATCHES_PER_CLIENT) {
        let mut connection = server.connect().await?;
        for _ in first..count.min(first + WATCHES_PER_CLIENT) {
            tokio::spawn(report(connection.watch(WATCH).await?, seen.clone()));
        }
    }
    tokio::time::sleep(SETTLE).await;
    let memory = Bytes(pss(&server)?.0.saturating_sub(before.0));
    let (mut latencies, begun) = (Vec::new(), SystemClock.monotonic());
    for event in 0..events {
        let name: Arc<str> = format!("event-{event}").into();
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": &*name}});
        let created = SystemClock.monotonic();
        creator.post(CONFIGMAPS, &object).await?;
        let last = server.within(&format!("{name} at every watcher"), all(&mut sightings, &name, count)).await?;
        latencies.push(last.since(created));
    }
    let last = Sample::new(latencies, SystemClock.monotonic().since(begun));
    Ok(Watching { watchers: count, memory, last })
}

/// Tells of every line of a watch, and when it came. Ends with the watch.
async fn report(mut lines: Lines, seen: mpsc::UnboundedSender<(bytes::Bytes, Monotonic)>) {
    while let Ok(line) = lines.next().await {
        if seen.send((line, SystemClock.monotonic())).is_err() {
            return;
        }
    }
}

/// When the last of `count` watchers saw the object.
async fn all(
    sightings: &mut mpsc::UnboundedReceiver<(bytes::Bytes, Monotonic)>,
    name: &str,
    count: usize,
) -> Result<Monotonic, BenchError> {
    let wanted = format!("\"name\":\"{name}\"");
    let (mut left, mut last) = (count, Monotonic(0));
    while left > 0 {
        let ended = || BenchError::Broken { what: "the watches".to_owned(), detail: "they ended".to_owned() };
        let (line, at) = sightings.recv().await.ok_or_else(ended)?;
        if line.windows(wanted.len()).any(|part| part == wanted.as_bytes()) {
            (left, last) = (left - 1, last.max(at));
        }
    }
    Ok(last)
}

fn pss(server: &Server) -> Result<Bytes, BenchError> {
    Ok(Usage::of(&processes::of(server.program())?).pss)
}

impl Watching {
    /// The figures.
    pub fn figures(&self) -> Vec<Figure> {
        vec![
            WATCHER.is(self.memory.0 as f64 / 1024.0 / self.watchers as f64),
            LAST_WATCHER.is(self.last.p99.as_secs_f64() * 1000.0),
        ]
    }
}
