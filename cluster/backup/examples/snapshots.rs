//! What snapshots cost the writers of a large store: `cargo run --release -p backup --example snapshots -- [OBJECTS]`.
//!
//! Start at [`main`]. Eight writers in closed loops, without snapshots and then with one after the other being read.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backup::{FileWriter, Meta, check, open_stream, restore, snapshot};
use base::Timestamp;
use bytes::Bytes;
use store::{Durability, Local, Options, Precondition, Put, Range, Store, Write, annex, sqlite};

const WRITERS: usize = 8;
const VALUE_BYTES: usize = 2_000;
const TIME: Duration = Duration::from_secs(5);
const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn main() {
    let objects = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(50_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(measure(objects));
}

async fn measure(objects: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(sqlite(&folder.path().join("state.db"), annex(), Options::default()).await.expect("a store"));
    for from in (0..objects).step_by(1_000) {
        futures::future::join_all((from..objects.min(from + 1_000)).map(|number| store.write(put(number)))).await;
    }
    println!("{objects} objects of {VALUE_BYTES} bytes; {} KiB", memory_kib());
    tell("without snapshots", &write(&store, objects).await);
    let stop = Arc::new(AtomicBool::new(false));
    let taking = tokio::task::spawn_blocking({
        let (store, stop) = (store.clone(), stop.clone());
        move || take_until(&store, &stop)
    });
    tell("with snapshots", &write(&store, objects).await);
    stop.store(true, Ordering::Relaxed);
    let (count, longest, bytes) = taking.await.expect("it ends");
    println!("{count} snapshots of {bytes} bytes; pointers copied in at most {longest:?}; {} KiB", memory_kib());
    file(&store, folder.path()).await;
}

fn put(number: usize) -> Write {
    // About as compressible as objects are.
    let text = format!("{{\"name\":\"{number}\",\"hash\":\"{:x}\"}}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let value = Bytes::from(text.repeat(VALUE_BYTES / text.len()));
    let (precondition, durability) = (Precondition::Any, Durability::Durable);
    Write::Put(Put { key: format!("pods/default/{number:08}"), value, stamp_at: None, precondition, durability })
}

async fn write(store: &Arc<Local>, objects: usize) -> Vec<Duration> {
    let end = Instant::now() + TIME;
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut took = Vec::new();
            for turn in 0.. {
                let begun = Instant::now();
                if begun > end {
                    break;
                }
                store.write(put((turn * WRITERS + writer) * 7_919 % objects)).await.expect("it is written");
                took.push(begun.elapsed());
            }
            took
        })
    });
    let mut all = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        all.extend(writer.await.expect("no writer fails"));
    }
    all.sort_unstable();
    all
}

fn tell(what: &str, took: &[Duration]) {
    let part = |parts: usize| took[(took.len() - 1) * parts / 1_000];
    println!("{what}: {} writes, p50 {:?}, p99 {:?}, longest {:?}", took.len(), part(500), part(990), part(1_000));
}

/// Snapshots, one after the other.
fn take_until(store: &Local, stop: &AtomicBool) -> (usize, Duration, usize) {
    let (mut count, mut longest, mut bytes) = (0, Duration::ZERO, 0);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let page = store.list(&Range::default()).expect("now can be listed");
        longest = longest.max(begun.elapsed());
        bytes = snapshot(page, Vec::new(), &meta(0)).map(|frame| frame.len()).sum();
        count += 1;
    }
    (count, longest, bytes)
}

fn meta(revision: u64) -> Meta {
    Meta { cluster: "figures".into(), version: "figures".into(), revision, time: NOW.rfc3339() }
}

/// A file of it, and what it takes to check and restore that.
async fn file(store: &Local, folder: &std::path::Path) {
    let page = store.list(&Range::default()).expect("now can be listed");
    let meta = meta(page.revision.0);
    let stream: Vec<u8> = snapshot(page, Vec::new(), &meta).flatten().collect();
    let (begun, path) = (Instant::now(), folder.join("file"));
    let (_, mut records) = open_stream(&stream[..]).expect("it is one");
    let mut writer = FileWriter::create(&path, &meta, None).expect("a file");
    while let Some(record) = records.next().expect("it is whole") {
        writer.record(&record).expect("it is written");
    }
    let bytes = writer.finish().expect("it is written");
    println!("a file of {bytes} bytes, written in {:?}", begun.elapsed());
    let begun = Instant::now();
    let checked = check(&path, None).expect("it is right");
    println!("checked in {:?}", begun.elapsed());
    let (begun, data) = (Instant::now(), folder.join("data"));
    std::fs::create_dir(&data).expect("a folder");
    restore(&checked, &data, &Default::default(), NOW).await.expect("it is restored");
    println!("restored in {:?}", begun.elapsed());
}

fn memory_kib() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).unwrap_or_default().to_owned()
}
