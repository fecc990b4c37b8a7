//! Prints what the store does on this machine: `cargo run --release -p store --example figures [FOLDER]`.
//!
//! Start at [`main`]. The figures depend on the disk that FOLDER (the current one if not given) lies on.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use store::{
    Annotate, Durability, Event, Options, Precondition, Put, Range, Store, StoreError, Watch, Write, memory, sqlite,
};

const WRITERS: usize = 50;
const WRITE_TIME: Duration = Duration::from_secs(3);
const VALUE_BYTES: usize = 1_000;
const OBJECTS: usize = 10_000;
const WATCHERS: usize = 1_000;
const EVENTS: usize = 200;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let parent = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let folder = tempfile::tempdir_in(parent)?;
    // Before anything else: what others leave in the heap would hide what watchers cost.
    watchers().await?;
    for writers in [1, WRITERS] {
        writes(&folder.path().join(format!("{writers}.db")), writers).await?;
    }
    objects().await?;
    open(&folder.path().join("open.db")).await?;
    Ok(())
}

async fn writes(path: &Path, writers: usize) -> Result<(), StoreError> {
    let store = Arc::new(sqlite(path, annotate(), Options::default()).await?);
    let started = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            while started.elapsed() < WRITE_TIME {
                let began = Instant::now();
                store.write(put(&format!("configmaps/load/{writer}"), Durability::Durable)).await?;
                times.push(began.elapsed());
            }
            Ok::<_, StoreError>(times)
        })
    });
    let mut times = Vec::new();
    for task in join_all(tasks).await {
        times.extend(task.map_err(|_| StoreError::Closed)??);
    }
    times.sort_unstable();
    let rate = times.len() as f64 / WRITE_TIME.as_secs_f64();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1_000.0;
    println!("{writers:>5} writers, durable: {rate:.0} writes/s; {:.2} ms median, {:.2} ms p99", at(50), at(99));
    store.close().await
}

async fn objects() -> Result<(), StoreError> {
    let before = resident_kib();
    let store = memory(annotate());
    for number in 0..OBJECTS {
        store.write(put(&format!("pods/{number:05}"), Durability::Durable)).await?;
    }
    store.compact(store.revision());
    let kib = resident_kib().saturating_sub(before);
    println!(
        "{OBJECTS:>5} objects of {VALUE_BYTES} bytes: {kib} KiB resident, their bytes alone are {} KiB",
        OBJECTS * VALUE_BYTES / 1024
    );
    let began = Instant::now();
    let page = store.list(&Range { prefix: "pods/".into(), limit: 1_000, ..Range::default() })?;
    println!("{:>5} objects listed in {:.0} µs", page.entries.len(), began.elapsed().as_secs_f64() * 1e6);
    Ok(())
}

async fn open(path: &Path) -> Result<(), StoreError> {
    let store = sqlite(path, annotate(), Options::default()).await?;
    join_all((0..OBJECTS).map(|number| store.write(put(&format!("pods/{number:05}"), Durability::Lazy)))).await;
    store.close().await?;
    let began = Instant::now();
    sqlite(path, annotate(), Options::default()).await?;
    println!("{OBJECTS:>5} objects opened in {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

async fn watchers() -> Result<(), StoreError> {
    let store = Arc::new(memory(annotate()));
    let before = resident_kib();
    let watches = (0..WATCHERS).map(|_| store.watch("pods/", store.revision())).collect::<Result<Vec<Watch>, _>>()?;
    let bytes = resident_kib().saturating_sub(before) * 1024 / WATCHERS;
    let tasks: Vec<_> = watches.into_iter().map(|watch| tokio::spawn(read(watch))).collect();
    let began = Instant::now();
    for number in 0..EVENTS {
        store.write(put(&format!("pods/{number}"), Durability::Durable)).await?;
    }
    join_all(tasks).await;
    let rate = (WATCHERS * EVENTS) as f64 / began.elapsed().as_secs_f64();
    println!("{WATCHERS:>5} watchers: {rate:.0} events/s told in all, {bytes} bytes each");
    Ok(())
}

/// Reads until all events have come.
async fn read(mut watch: Watch) {
    let mut events = 0;
    while let Some(Ok(event)) = watch.next().await {
        events += usize::from(!matches!(event, Event::Progress(_)));
        if events == EVENTS {
            return;
        }
    }
}

fn put(key: &str, durability: Durability) -> Write {
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    Write::Put(Put { key: key.to_owned(), value, stamp_at: None, precondition: Precondition::Any, durability })
}

fn annotate() -> Annotate {
    Arc::new(|_, _| Arc::new(()))
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}
