//! The collector: reads the logs of one node and sends them to the store, for ever.
//!
//! Start at [`run`]. It keeps nothing: where it is, the store knows. After any trouble it asks the store again and goes on
//! from there.
//!
//! Invariants:
//! * memory holds one batch, and a name for each log there is;
//! * a log that cannot be read keeps no other one waiting;
//! * a batch is smaller than what the store takes, whatever there is to read;
//! * nothing is written to this node's disk, but how far logs are read that the kubelet holds for it (`kubelet::logs`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::exposition::{Exposition, Family};
use base::{Clock, Timestamp, chain};
use bytes::Bytes;
use client::{Client, ClientError, DoorError};
use http::Method;
use tokio::net::TcpListener;

use super::files;
use super::follow::{CHUNK_BYTES_MAX, Follower};
use super::kernel::Kernel;
use super::wire::{BATCH_BYTES_MAX, Batch, Chunk, Content, Known, Position, Stored, Stream};
use crate::scrape;

/// How often the files are looked at while nothing is written.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After trouble, at first and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// A batch is sent when it has so many bytes.
const BATCH_BYTES: usize = 512 << 10;
// The node's own files may pass it by a chunk, and then one of a container is read all the same, so that those do not wait.
const _: () = assert!(BATCH_BYTES + 2 * CHUNK_BYTES_MAX < BATCH_BYTES_MAX);
/// Beside the log of a container that is gone lies a file `RUN.held`: the kubelet keeps the log until that says a number which is
/// the log's length, for five minutes at most.
const HELD: &str = "held";
/// The run of a log of the node's own whose files say where they begin. No inode has this number.
const OWN_RUN: &str = "0";
/// The store has so long to answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// What a collector is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node it runs on.
    pub node: String,
    /// Where the kubelet keeps the logs of pods.
    pub pods: PathBuf,
    /// The kernel's log, if it is wanted.
    pub kernel: Option<PathBuf>,
    /// This boot's id.
    pub boot: String,
    /// Further logs of the node, as what to call them and where they are. A file `PATH.1` is the one before.
    pub files: Vec<(String, PathBuf)>,
    /// Where to serve `/metrics`; nowhere if there is none.
    pub listen: Option<SocketAddr>,
}

/// What was done since the start.
#[derive(Default)]
struct Counts {
    batches: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
}

impl Counts {
    fn told(&self, node: &str) -> Exposition {
        let mut told = Exposition::default();
        for (name, help, count) in [
            ("skerry_log_collector_batches_total", "Batches that the log store took.", &self.batches),
            ("skerry_log_collector_bytes_total", "Bytes of logs that the log store took.", &self.bytes),
            ("skerry_log_collector_failures_total", "Times that collecting was begun anew.", &self.failures),
        ] {
            told.add(Family { name, help }, &[("node", node)], count.load(Ordering::Relaxed) as f64);
        }
        told
    }
}

/// Why a round came to nothing.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("failed to read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to connect")]
    Connect(#[source] DoorError),
    #[error("failed to speak to the log store")]
    Call(#[source] ClientError),
    #[error("the log store did not answer in time")]
    Slow,
    #[error("the log store's answer cannot be understood: {0}")]
    Answer(String),
}

/// Collects for ever; fails only if it cannot listen. `connect` is asked for a new connection after each trouble, so that a
/// renewed token is read.
pub async fn run(
    options: Options,
    connect: impl Fn() -> Result<Client, DoorError>,
    clock: Arc<dyn Clock>,
) -> io::Result<()> {
    let counts = Arc::new(Counts::default());
    if let Some(address) = options.listen {
        let (counts, node) = (counts.clone(), options.node.clone());
        tokio::spawn(scrape::serve(TcpListener::bind(address).await?, move || counts.told(&node)));
    }
    let mut wait = WAIT.0;
    loop {
        let before = counts.batches.load(Ordering::Relaxed);
        let error = match connect() {
            Ok(client) => match Collector::start(&options, client, &clock, &counts).await {
                Ok(mut collector) => collector.follow().await,
                Err(error) => error,
            },
            Err(error) => Trouble::Connect(error),
        };
        tracing::warn!("{}", chain(&error));
        counts.failures.fetch_add(1, Ordering::Relaxed);
        let sent = counts.batches.load(Ordering::Relaxed) > before;
        wait = if sent { WAIT.0 } else { (wait * 2).min(WAIT.1) };
        tokio::time::sleep(wait).await;
    }
}

struct Collector<'a> {
    options: &'a Options,
    client: Client,
    clock: &'a Arc<dyn Clock>,
    counts: &'a Counts,
    known: BTreeMap<Stream, Position>,
    followers: BTreeMap<Stream, Follower>,
    kernel: Option<Kernel>,
    /// Where the next round begins, so that a log that never ends does not keep the others waiting.
    turn: usize,
    /// Whether it was said that logs cannot be let go of.
    cannot_let_go: bool,
    /// What could not be read at the last look: it was said once.
    unreadable: BTreeSet<PathBuf>,
}

impl<'a> Collector<'a> {
    async fn start(
        options: &'a Options,
        client: Client,
        clock: &'a Arc<dyn Clock>,
        counts: &'a Counts,
    ) -> Result<Collector<'a>, Trouble> {
        let path = format!("/apis/{}/v1/positions/{}", crate::GROUP, options.node);
        let known: Known = answer(&client, Method::GET, path, Bytes::new()).await?;
        let known = known.streams.into_iter().collect();
        let mut collector = Collector {
            options,
            client,
            clock,
            counts,
            known,
            followers: BTreeMap::new(),
            kernel: None,
            turn: 0,
            cannot_let_go: false,
            unreadable: BTreeSet::new(),
        };
        collector.open_kernel();
        Ok(collector)
    }

    fn open_kernel(&mut self) {
        let Some(path) = &self.options.kernel else { return };
        match Kernel::open(path, &self.options.node, &self.options.boot) {
            Ok(mut kernel) => {
                kernel.heard(self.known.get(kernel.stream()).copied().unwrap_or_default());
                self.kernel = Some(kernel);
            }
            // Its pod may not be allowed to; the other logs are collected all the same.
            Err(error) => {
                tracing::warn!("the kernel's log is not collected: failed to open {}: {error}", path.display())
            }
        }
    }

    async fn follow(&mut self) -> Trouble {
        loop {
            let batch = match self.round() {
                Ok(batch) => batch,
                Err(error) => return error,
            };
            if batch.chunks.is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            if let Err(error) = self.send(batch).await {
                return error;
            }
        }
    }

    /// What is new, up to a batch.
    fn round(&mut self) -> Result<Batch, Trouble> {
        let (mut batch, mut bytes) = (Batch::default(), 0);
        self.read_kernel(&mut batch, &mut bytes);
        self.read_files(&mut batch, &mut bytes);
        let folders = folders(&self.options.pods)?;
        let living: BTreeSet<&Path> = folders.iter().map(|(_, folder)| folder.as_path()).collect();
        self.unreadable.retain(|path| !path.starts_with(&self.options.pods) || living.contains(path.as_path()));
        self.followers.retain(|stream, follower| {
            stream.pod.is_empty() && follower.was_there()
                || living.contains(folder_of(&self.options.pods, stream).as_path())
        });
        let count = folders.len();
        for step in 0..count {
            let (stream, folder) = &folders[(self.turn + step) % count];
            let read = self.read(stream, folder, &mut batch, &mut bytes);
            self.say(folder, read);
            if bytes >= BATCH_BYTES {
                self.turn = (self.turn + step + 1) % count;
                break;
            }
        }
        Ok(batch)
    }

    /// Says what cannot be read, once until it can be read again. Only that log waits: each round tries it anew.
    fn say(&mut self, path: &Path, read: io::Result<()>) {
        match read {
            Ok(()) => _ = self.unreadable.remove(path),
            Err(source) if self.unreadable.insert(path.to_owned()) => {
                tracing::warn!("{}", chain(&Trouble::Read { path: path.to_owned(), source }));
            }
            Err(_) => {}
        }
    }

    fn read_kernel(&mut self, batch: &mut Batch, bytes: &mut usize) {
        let Some(kernel) = &mut self.kernel else { return };
        let booted = Timestamp(self.clock.now().0 - i128::from(self.clock.monotonic().0));
        let read = kernel.next(booted).map(|chunk| {
            *bytes += chunk.as_ref().map_or(0, size);
            batch.chunks.extend(chunk);
        });
        if let Some(path) = &self.options.kernel {
            self.say(path, read);
        }
    }

    /// Reads on in the node's own files, as far as the batch has room.
    fn read_files(&mut self, batch: &mut Batch, bytes: &mut usize) {
        for (name, path) in &self.options.files {
            let read = self.read_file(name, path, batch, bytes);
            self.say(path, read);
        }
    }

    /// Those files that say where in their log they begin are one stream. Others are a stream each, named by its inode, so that
    /// renaming changes nothing.
    fn read_file(&mut self, name: &str, path: &Path, batch: &mut Batch, bytes: &mut usize) -> io::Result<()> {
        // It is being rotated: the next round will see.
        let Some(found) = files::own(path)? else { return Ok(()) };
        let (whole, apart): (Vec<_>, Vec<_>) = found.into_iter().partition(|file| file.says_start);
        let mut streams: Vec<(String, Vec<_>)> =
            apart.into_iter().map(|file| (file.piece.inode.to_string(), vec![file.piece])).collect();
        if !whole.is_empty() {
            streams.push((OWN_RUN.to_owned(), whole.into_iter().map(|file| file.piece).collect()));
        }
        for (run, pieces) in streams {
            if *bytes >= BATCH_BYTES {
                break;
            }
            let (node, container) = (self.options.node.clone(), name.to_owned());
            let stream = Stream { node, container, run, ..Stream::default() };
            let chunk = self.follower(stream).next(&pieces)?;
            *bytes += chunk.as_ref().map_or(0, size);
            batch.chunks.extend(chunk);
        }
        Ok(())
    }

    fn follower(&mut self, stream: Stream) -> &mut Follower {
        let known = self.known.remove(&stream);
        self.followers.entry(stream).or_insert_with_key(|stream| Follower::new(stream.clone(), known))
    }

    /// Reads on in each run of a container, until the batch is full. A run that cannot be read is passed over, and told last.
    fn read(&mut self, stream: &Stream, folder: &Path, batch: &mut Batch, bytes: &mut usize) -> io::Result<()> {
        let runs = match files::read(folder) {
            Ok(Some(runs)) => runs,
            // It changes, or it is gone: the next round will see.
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut done = Ok(());
        for (run, pieces) in runs {
            let stream = Stream { node: self.options.node.clone(), run, ..stream.clone() };
            let mark = folder.join(format!("{}.{HELD}", stream.run));
            let follower = self.follower(stream);
            match follower.next(&pieces) {
                Ok(Some(chunk)) => {
                    *bytes += size(&chunk);
                    batch.chunks.push(chunk);
                }
                Ok(None) => {
                    let stored = follower.stored();
                    self.let_go(&mark, stored);
                }
                Err(error) => done = Err(error),
            }
            if *bytes >= BATCH_BYTES {
                break;
            }
        }
        done
    }

    /// Tells the kubelet that a log which it holds for us is stored up to here, where it has not been told so.
    fn let_go(&mut self, mark: &Path, stored: u64) {
        let stored = stored.to_string();
        if fs::read_to_string(mark).is_ok_and(|told| told != stored)
            && let Err(error) = File::options()
                .write(true)
                .truncate(true)
                .open(mark)
                .and_then(|mut file| file.write_all(stored.as_bytes()))
            && !self.cannot_let_go
        {
            self.cannot_let_go = true;
            tracing::warn!(
                "logs of finished pods are held for five minutes, as what is read cannot be said in {}: {error}",
                mark.display()
            );
        }
    }

    async fn send(&mut self, batch: Batch) -> Result<(), Trouble> {
        let path = format!("/apis/{}/v1/logs", crate::GROUP);
        let stored: Stored = answer(&self.client, Method::POST, path, Bytes::from(batch.encode())).await?;
        if stored.positions.len() != batch.chunks.len() {
            return Err(Trouble::Answer("it speaks of other chunks than were sent".to_owned()));
        }
        self.counts.batches.fetch_add(1, Ordering::Relaxed);
        let bytes: usize = batch.chunks.iter().map(size).sum();
        self.counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        for (chunk, position) in batch.chunks.iter().zip(stored.positions) {
            if let Some(follower) = self.followers.get_mut(&chunk.stream) {
                follower.heard(position);
            } else if let Some(kernel) = self.kernel.as_mut().filter(|kernel| *kernel.stream() == chunk.stream)
                && !kernel.heard(position)
            {
                self.known.insert(chunk.stream.clone(), position);
                self.open_kernel();
            }
        }
        Ok(())
    }
}

fn size(chunk: &Chunk) -> usize {
    match &chunk.content {
        Content::Bytes(bytes) | Content::Lines(bytes) => bytes.len(),
        Content::Gap => 0,
    }
}

async fn answer<T: serde::de::DeserializeOwned>(
    client: &Client,
    method: Method,
    path: String,
    body: Bytes,
) -> Result<T, Trouble> {
    let call = client.call(method, path, "application/octet-stream", body);
    let body = tokio::time::timeout(ANSWER_MAX, call).await.map_err(|_| Trouble::Slow)?.map_err(Trouble::Call)?;
    serde_json::from_slice(&body).map_err(|error| Trouble::Answer(error.to_string()))
}

/// Every container's folder, `NAMESPACE_POD_UID/CONTAINER`, with what its name says.
fn folders(pods: &Path) -> Result<Vec<(Stream, PathBuf)>, Trouble> {
    let failed = |source| Trouble::Read { path: pods.to_owned(), source };
    let mut found = Vec::new();
    for pod in fs::read_dir(pods).map_err(failed)? {
        let pod = pod.map_err(failed)?;
        let Some(named) = pod.file_name().to_str().and_then(pod_of) else { continue };
        // A pod that is going takes its folder with it.
        for container in fs::read_dir(pod.path()).into_iter().flatten().flatten() {
            if let (Some(name), true) = (container.file_name().to_str(), container.path().is_dir()) {
                found.push((Stream { container: name.to_owned(), ..named.clone() }, container.path()));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn pod_of(folder: &str) -> Option<Stream> {
    let mut parts = folder.split('_').map(str::to_owned);
    let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && !pod.is_empty()).then(|| Stream { namespace, pod, uid, ..Stream::default() })
}

fn folder_of(pods: &Path, stream: &Stream) -> PathBuf {
    pods.join(format!("{}_{}_{}", stream.namespace, stream.pod, stream.uid)).join(&stream.container)
}
