//! The collector and the store together, over logs that grow and are rotated as the kubelet does it, while both are killed,
//! answers are lost and the end of the journal is torn off: every line is in the store, once, in order.
//!
//! `SKERRY_LOG_LINES` says how many lines are written (200,000 if nothing is said), `SKERRY_SEED` where chance begins.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Clock, Rng, Timestamp};
use bytes::Bytes;
use client::{Call, Client, Collection, Door, DoorError, Event, Listing, Reply};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{Method, StatusCode};
use sys::clock::SystemClock;
use telemetry::logs::wire::{Batch, Stored};
use telemetry::logs::{LogStore, Options, Query, Source, collect};

const PODS: usize = 20;
const FILE_BYTES: u64 = 64 << 10;
const FILES: usize = 5;

/// The store behind a door that sometimes loses what is said through it.
struct Lossy {
    store: Mutex<Option<LogStore>>,
    rng: Mutex<Rng>,
    /// One call in so many is not heard, and one in so many not answered.
    loses: u64,
}

impl Lossy {
    fn answer(&self, call: &Call) -> Result<Reply, DoorError> {
        let lost = |why: &str| DoorError::Unreachable { server: "test".into(), source: why.to_owned().into() };
        let chance = self.rng.lock().expect("no panics").below(self.loses);
        if chance == 0 {
            return Err(lost("not heard"));
        }
        let store = self.store.lock().expect("no panics");
        let store = store.as_ref().ok_or_else(|| lost("no server"))?;
        let body = if call.method == Method::POST {
            let batch = Batch::decode(&call.body).expect("a batch");
            let positions = store.ingest(batch, Timestamp::from_seconds(1_000_000)).expect("taken");
            serde_json::to_vec(&Stored { positions })
        } else {
            assert_eq!(call.path, "/apis/telemetry.skerry.dev/v1/positions/node");
            serde_json::to_vec(&store.known("node"))
        };
        if chance == 1 {
            return Err(lost("not answered"));
        }
        Ok(Reply { status: StatusCode::OK, body: Bytes::from(body.expect("JSON")) })
    }
}

struct TestDoor(Arc<Lossy>);

impl Door for TestDoor {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, DoorError>> {
        std::future::ready(self.0.answer(&call)).boxed()
    }

    fn list(&self, collection: &Collection) -> BoxFuture<'static, Result<Listing, DoorError>> {
        unreachable!("the collector lists no {collection}")
    }

    fn watch(
        &self,
        collection: &Collection,
        _: &str,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Event, DoorError>>, DoorError>> {
        unreachable!("the collector watches no {collection}")
    }
}

/// Logs that grow.
struct Logs {
    folder: PathBuf,
    written: Vec<usize>,
    turns: i64,
}

impl Logs {
    fn new(folder: &Path) -> Logs {
        let logs = Logs { folder: folder.to_owned(), written: vec![0; PODS], turns: 0 };
        (0..PODS).for_each(|pod| fs::create_dir_all(logs.live(pod).parent().expect("a folder")).expect("made"));
        logs
    }

    fn live(&self, pod: usize) -> PathBuf {
        self.folder.join(format!("ns_pod-{pod}_uid/app/0.log"))
    }

    fn append(&mut self, pod: usize, lines: usize) {
        let mut file = File::options().create(true).append(true).open(self.live(pod)).expect("a log");
        let mut text = String::new();
        for number in self.written[pod]..self.written[pod] + lines {
            let time = Timestamp(number as i128 * 1_000_000 + 1).rfc3339_nanos();
            text.push_str(&format!("{time} stdout F pod-{pod} {number} {}\n", "x".repeat(number % 90)));
        }
        self.written[pod] += lines;
        file.write_all(text.as_bytes()).expect("written");
    }

    fn rotate(&mut self, pod: usize) -> bool {
        self.turns += 1;
        kubelet::logs::rotate(&self.live(pod), FILE_BYTES, FILES, Timestamp::from_seconds(self.turns)).expect("rotated")
    }

    fn bytes(&self, pod: usize) -> u64 {
        fs::metadata(self.live(pod)).map_or(0, |about| about.len())
    }
}

fn collector(folder: &Path, door: &Arc<Lossy>) -> tokio::task::JoinHandle<()> {
    collector_with(folder, Vec::new(), door)
}

/// With logs of the node's own.
fn collector_with(folder: &Path, files: Vec<(String, PathBuf)>, door: &Arc<Lossy>) -> tokio::task::JoinHandle<()> {
    let options = collect::Options {
        node: "node".to_owned(),
        pods: folder.to_owned(),
        kernel: None,
        boot: "boot".to_owned(),
        files,
        listen: None,
    };
    let door = door.clone();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    tokio::spawn(async move {
        let connect = || Ok(Client::new(Arc::new(TestDoor(door.clone()))));
        collect::run(options, connect, clock).await.expect("it listens nowhere");
    })
}

/// Every line of every pod, as `pod-N NUMBER` in the order of time, and the gaps.
fn stored(store: &LogStore) -> (BTreeMap<String, Vec<usize>>, Vec<u64>) {
    let (mut lines, mut gaps) = (BTreeMap::<String, Vec<usize>>::new(), Vec::new());
    let mut query = Query::default();
    loop {
        let page = store.query(query.clone());
        for entry in page.entries {
            if let Source::Gap(missing) = entry.source {
                gaps.push(missing);
                continue;
            }
            let mut words = entry.text.split(' ');
            let (pod, number) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            lines.entry(pod.to_owned()).or_default().push(number.parse().expect("a number"));
        }
        query.after = page.more;
        if query.after.is_none() {
            return (lines, gaps);
        }
    }
}

fn variable(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().map_or(or, |text| text.parse().expect("a number"))
}

#[tokio::test(start_paused = true)]
async fn every_line_is_stored_once_whatever_is_killed() {
    let (lines, seed) = (variable("SKERRY_LOG_LINES", 200_000) as usize, variable("SKERRY_SEED", 7));
    let folder = tempfile::tempdir().expect("a folder");
    let (pods, place) = (folder.path().join("pods"), folder.path().join("store"));
    let (mut logs, mut rng) = (Logs::new(&pods), Rng::new(seed));
    let open = || Some(LogStore::open(Options::new(&place)).expect("the store opens"));
    let door = Arc::new(Lossy { store: Mutex::new(open()), rng: Mutex::new(rng.fork()), loses: 25 });
    let mut running = collector(&pods, &door);
    let (mut rotations, mut deaths, mut torn) = (0, 0, 0_u64);
    let mut durable = journal(&place);
    while logs.written.iter().sum::<usize>() < lines {
        for pod in 0..PODS {
            let count = 1 + rng.below(100) as usize;
            logs.append(pod, count);
            rotations += u32::from(logs.bytes(pod) > FILE_BYTES && logs.rotate(pod));
        }
        match rng.below(12) {
            0 => {
                deaths += 1;
                running.abort();
                running = collector(&pods, &door);
            }
            1 => {
                deaths += 1;
                let mut store = door.store.lock().expect("no panics");
                drop(store.take());
                torn += tear(&place, durable, &mut rng);
                *store = open();
                durable = journal(&place);
            }
            2 => {
                door.store.lock().expect("no panics").as_ref().expect("open").flush().expect("flushed");
                durable = journal(&place);
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(rng.below(3000))).await;
    }
    let wanted: BTreeMap<String, Vec<usize>> =
        (0..PODS).map(|pod| (format!("pod-{pod}"), (0..logs.written[pod]).collect())).collect();
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let known = door.store.lock().expect("no panics").as_ref().expect("open").known("node");
        let ends: u64 = known.streams.iter().map(|(_, position)| position.end).sum();
        let total: u64 = logs.written.iter().enumerate().map(|(pod, count)| bytes_of(pod, *count)).sum();
        if ends == total {
            break;
        }
    }
    running.abort();
    let (found, gaps) = stored(door.store.lock().expect("no panics").as_ref().expect("open"));
    for (pod, numbers) in &wanted {
        assert!(found.get(pod) == Some(numbers), "seed {seed}: not every line of {pod} is there once");
    }
    assert!(gaps.is_empty(), "seed {seed}: {gaps:?}");
    assert!(rotations > 10 && deaths > 5 && torn > 0, "{rotations} rotations, {deaths} deaths, {torn} bytes torn off");
}

fn bytes_of(pod: usize, count: usize) -> u64 {
    let head = "1970-01-01T00:00:00.000000000Z stdout F ".len();
    (0..count).map(|number| (head + format!("pod-{pod} {number} ").len() + number % 90 + 1) as u64).sum()
}

/// Which file the journal is, and its size.
fn journal(place: &Path) -> (u64, u64) {
    let about = fs::metadata(place.join("journal")).expect("a journal");
    (about.ino(), about.len())
}

/// A power cut: of what came since the last flush the end is lost. The answer is how much.
fn tear(place: &Path, durable: (u64, u64), rng: &mut Rng) -> u64 {
    let (inode, whole) = journal(place);
    let loose = whole - durable.1.min(whole);
    if loose == 0 || inode != durable.0 {
        return 0;
    }
    let torn = rng.below(loose);
    let file = File::options().write(true).open(place.join("journal")).expect("a journal");
    file.set_len(whole - torn).expect("cut");
    torn
}

#[tokio::test(start_paused = true)]
async fn what_was_removed_before_it_was_read_is_one_gap_of_so_many_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (pods, place) = (folder.path().join("pods"), folder.path().join("store"));
    let mut logs = Logs::new(&pods);
    let store = LogStore::open(Options::new(&place)).expect("the store opens");
    let rng = Mutex::new(Rng::new(1));
    let door = Arc::new(Lossy { store: Mutex::new(Some(store)), rng, loses: u64::MAX });
    logs.append(0, 10);
    let running = collector(&pods, &door);
    tokio::time::sleep(Duration::from_secs(5)).await;
    running.abort();
    // While nobody reads, more is written than the files hold.
    for _ in 0..10 {
        logs.append(0, 1000);
        assert!(logs.rotate(0));
    }
    logs.append(0, 10);
    let first =
        fs::read_dir(pods.join("ns_pod-0_uid/app")).expect("a folder").flatten().map(|entry| entry.path()).min();
    let live = logs.live(0);
    let oldest = kubelet::logs::files(&live).into_iter().next().expect("a rotated file");
    assert!(first.is_some_and(|first| first == live), "the live file sorts first");
    let text = fs::read_to_string(oldest).expect("readable");
    let number: usize = text.split(' ').nth(4).expect("a number").parse().expect("a number");
    let running = collector(&pods, &door);
    tokio::time::sleep(Duration::from_secs(20)).await;
    running.abort();
    let (lines, gaps) = stored(door.store.lock().expect("no panics").as_ref().expect("open"));
    assert_eq!(gaps, [bytes_of(0, number) - bytes_of(0, 10)]);
    let wanted: Vec<usize> = (0..10).chain(number..10_020).collect();
    assert!(lines["pod-0"] == wanted, "the rest is there");
}

/// A store that loses nothing.
fn faithful(place: &Path) -> Arc<Lossy> {
    let store = LogStore::open(Options::new(place)).expect("the store opens");
    Arc::new(Lossy { store: Mutex::new(Some(store)), rng: Mutex::new(Rng::new(1)), loses: u64::MAX })
}

/// Numbered lines of a node's own log, as they lie in a file; who says so writes how much of the log was before it.
fn write_own(path: &Path, says_start: bool, numbers: std::ops::Range<u64>) {
    let line = |number: u64| format!("node {number:04}\n");
    let before = numbers.start * line(0).len() as u64;
    let first = if says_start { base::log_file::first_line(before) } else { String::new() };
    fs::write(path, numbers.map(line).fold(first, |text, line| text + &line)).expect("written");
}

#[tokio::test(start_paused = true)]
async fn a_log_of_the_node_that_is_rotated_twice_unread_leaves_a_gap() {
    let folder = tempfile::tempdir().expect("a folder");
    let (pods, path) = (folder.path().join("pods"), folder.path().join("skerry.log"));
    fs::create_dir(&pods).expect("made");
    let (older, door) = (folder.path().join("skerry.log.1"), faithful(&folder.path().join("store")));
    let collect = async || {
        let running = collector_with(&pods, vec![("skerry".to_owned(), path.clone())], &door);
        tokio::time::sleep(Duration::from_secs(5)).await;
        running.abort();
        stored(door.store.lock().expect("no panics").as_ref().expect("open"))
    };
    write_own(&path, true, 0..10);
    assert_eq!(collect().await, (BTreeMap::from([("node".to_owned(), (0..10).collect())]), vec![]));
    // One turn loses nothing.
    write_own(&older, true, 0..20);
    write_own(&path, true, 20..30);
    assert_eq!(collect().await, (BTreeMap::from([("node".to_owned(), (0..30).collect())]), vec![]));
    write_own(&older, true, 50..60);
    write_own(&path, true, 60..65);
    let (lines, gaps) = collect().await;
    assert_eq!(lines["node"], (0..30).chain(50..65).collect::<Vec<usize>>());
    assert_eq!(gaps, [20 * "node 0000\n".len() as u64]);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_does_not_say_where_its_files_begin_is_read_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (pods, path) = (folder.path().join("pods"), folder.path().join("other.log"));
    fs::create_dir(&pods).expect("made");
    let door = faithful(&folder.path().join("store"));
    write_own(&path, false, 0..10);
    let running = collector_with(&pods, vec![("other".to_owned(), path.clone())], &door);
    tokio::time::sleep(Duration::from_secs(5)).await;
    fs::rename(&path, folder.path().join("other.log.1")).expect("renamed");
    write_own(&path, false, 10..20);
    tokio::time::sleep(Duration::from_secs(5)).await;
    running.abort();
    let (mut lines, gaps) = stored(door.store.lock().expect("no panics").as_ref().expect("open"));
    let mut numbers = lines.remove("node").expect("lines");
    // Lines without a time of their own have that of their arrival, which this test's store gives to all alike.
    numbers.sort_unstable();
    assert_eq!((numbers, gaps), ((0..20).collect(), vec![]));
}

#[tokio::test(start_paused = true)]
async fn the_kubelet_is_told_when_a_log_that_it_holds_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let (pods, mut logs) = (folder.path().join("pods"), Logs::new(&folder.path().join("pods")));
    let door = faithful(&folder.path().join("store"));
    logs.append(0, 1000);
    logs.append(1, 1000);
    assert!(logs.rotate(0));
    logs.append(0, 10);
    // The container of one is gone.
    assert!(!kubelet::logs::is_read(&logs.live(0)), "nobody has read it");
    let running = collector(&pods, &door);
    tokio::time::sleep(Duration::from_secs(20)).await;
    running.abort();
    assert!(kubelet::logs::is_read(&logs.live(0)));
    let mark = logs.live(1).with_extension("held");
    assert!(!mark.exists(), "nothing is written for a log that nobody holds");
}

/// One bad block of a card once ended the collecting of a whole node.
#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_read_keeps_no_other_one_waiting() {
    let folder = tempfile::tempdir().expect("a folder");
    let (pods, mut logs) = (folder.path().join("pods"), Logs::new(&folder.path().join("pods")));
    let (path, bad) = (folder.path().join("skerry.log"), folder.path().join("bad.log"));
    let door = faithful(&folder.path().join("store"));
    // What is no file can be opened, but reading it fails.
    [logs.live(0), bad.clone()].iter().for_each(|path| fs::create_dir(path).expect("made"));
    logs.append(1, 1000);
    fs::write(logs.live(0).with_file_name("1.log"), fs::read(logs.live(1)).expect("readable")).expect("written");
    write_own(&path, true, 0..10);
    let files = vec![("bad".to_owned(), bad), ("skerry".to_owned(), path)];
    let running = collector_with(&pods, files, &door);
    tokio::time::sleep(Duration::from_secs(20)).await;
    running.abort();
    let known = door.store.lock().expect("no panics").as_ref().expect("open").known("node");
    let mut ends: Vec<(String, String, u64)> =
        known.streams.into_iter().map(|(stream, position)| (stream.pod, stream.run, position.end)).collect();
    let whole = |pod: &str, run: &str, end| (pod.to_owned(), run.to_owned(), end);
    let bytes = bytes_of(1, 1000);
    let wanted = [whole("", "0", 100), whole("pod-0", "1", bytes), whole("pod-1", "0", bytes)];
    ends.sort();
    assert_eq!(ends, wanted);
}

/// A container that had ended often, with much to say each time, once made batches that no store takes.
#[tokio::test(start_paused = true)]
async fn many_long_runs_of_a_container_are_sent_in_batches_that_the_store_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (pods, mut logs) = (folder.path().join("pods"), Logs::new(&folder.path().join("pods")));
    let door = faithful(&folder.path().join("store"));
    logs.append(0, 3000);
    for run in 1..12 {
        fs::copy(logs.live(0), logs.live(0).with_file_name(format!("{run}.log"))).expect("copied");
    }
    assert!(logs.bytes(0) > 200 << 10, "{} bytes", logs.bytes(0));
    let running = collector(&pods, &door);
    tokio::time::sleep(Duration::from_secs(20)).await;
    running.abort();
    let known = door.store.lock().expect("no panics").as_ref().expect("open").known("node");
    let ends: Vec<u64> = known.streams.iter().map(|(_, position)| position.end).collect();
    assert_eq!(ends, [logs.bytes(0); 12]);
}
