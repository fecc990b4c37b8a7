//! Kills a process that writes, hundreds of times, and looks at what is left.
//!
//! Start at [`no_kill_loses_an_acknowledged_write_or_repeats_a_revision`]. The writing process is this test binary again,
//! running [`writer`]: it says what it found when it opened the store, and then each write that is acknowledged to it. The
//! next one's findings are compared with what the ones before it said.
//!
//! Invariants tested:
//! * every durable write that was acknowledged is there, or a later one to its key;
//! * what is missing is a suffix of history: of what was acknowledged up to the newest revision there, nothing is missing;
//! * a revision is larger than every one that was seen before the kill.
//!
//! Not here: the power going while the disk writes (`faults.rs`); what a process wrote survives its death.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use base::Rng;
use bytes::Bytes;
use store::{Delete, Durability, Options, Precondition, Put, Range, Store, StoreError, Write, sqlite};

const KILLS: u64 = 240;
const WRITERS: u64 = 8;
/// Even a machine with much else to do opens a small store within this.
const OPENING_MAX: Duration = Duration::from_secs(30);
const WRITER_PATH: &str = "STORE_KILL_TEST_PATH";

#[test]
fn no_kill_loses_an_acknowledged_write_or_repeats_a_revision() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut rng = Rng::new(1);
    let mut history = History::default();
    for kill in 0..KILLS {
        let life = match kill % 4 {
            0 => Life::FromStart(Duration::from_micros(rng.below(80_000))),
            _ => Life::FromOpening(Duration::from_micros(rng.below(30_000))),
        };
        let said = run_and_kill(&folder.path().join("state.db"), life, kill);
        history.take(&said).unwrap_or_else(|what| panic!("after kill {kill}: {what}"));
    }
    assert!(history.lives > KILLS / 2, "only {} of {KILLS} got as far as writing", history.lives);
    assert!(history.durable > KILLS, "only {} durable writes were acknowledged", history.durable);
    println!("{} lives, {} durable and {} lazy writes", history.lives, history.durable, history.lazy);
}

/// How long a writer lives.
enum Life {
    /// So long, whether it has opened the store by then or not.
    FromStart(Duration),
    /// Until it has opened the store, and then so long.
    FromOpening(Duration),
}

/// Starts a writer, lets it live for `life`, kills it; what it said.
fn run_and_kill(path: &Path, life: Life, seed: u64) -> Vec<String> {
    let program = std::env::current_exe().expect("a test knows its binary");
    let mut child = Command::new(program)
        .args(["writer", "--exact", "--nocapture", "--quiet"])
        .env(WRITER_PATH, path)
        .env("STORE_KILL_TEST_SEED", seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test binary can be started again");
    let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let (opened, is_open) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        for line in stdout.lines().map_while(Result::ok) {
            if line.starts_with("opened") {
                // Nobody waits for it when the writer is killed at its start.
                let _ = opened.send(());
            }
            said.push(line);
        }
        said
    });
    match life {
        Life::FromStart(life) => std::thread::sleep(life),
        Life::FromOpening(life) => {
            is_open.recv_timeout(OPENING_MAX).expect("the writer opens the store");
            std::thread::sleep(life);
        }
    }
    child.kill().expect("the writer can be killed");
    child.wait().expect("the writer can be waited for");
    reader.join().expect("what it said can be read")
}

/// What is known from what the writers said.
#[derive(Default)]
struct History {
    /// For each key what is certain: revision, and the value or none if deleted.
    durable_last: BTreeMap<String, (u64, Option<u64>)>,
    /// All that was acknowledged since the last opening, by revision.
    recent: BTreeMap<u64, (String, Option<u64>)>,
    /// What may have been deleted without anybody being told.
    deleting: BTreeSet<String>,
    seen_max: u64,
    lives: u64,
    durable: u64,
    lazy: u64,
}

impl History {
    /// Compares what a writer found with what is known, then learns what was acknowledged to it.
    fn take(&mut self, said: &[String]) -> Result<(), String> {
        let mut found = BTreeMap::new();
        for line in said {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().expect("a number");
            match words[..] {
                ["found", key, _, _, "."] => drop(found.insert(key.to_owned(), (number(3), number(2)))),
                ["opened", _, "."] => self.opened(std::mem::take(&mut found), number(1))?,
                ["durable" | "lazy", key, _, _, "."] => self.wrote(words[0], key, Some(number(2)), number(3))?,
                ["deleting", key, "."] => drop(self.deleting.insert(key.to_owned())),
                ["deleted", key, _, "."] => self.wrote("durable", key, None, number(2))?,
                ["failed", ..] => return Err(line.clone()),
                // The harness's own lines, and the one that the kill cut off.
                _ => {}
            }
        }
        Ok(())
    }

    fn opened(&mut self, found: BTreeMap<String, (u64, u64)>, visible: u64) -> Result<(), String> {
        self.lives += 1;
        if visible <= self.seen_max && self.lives > 1 {
            return Err(format!("it opened at revision {visible}, but {} had been seen", self.seen_max));
        }
        for (key, (revision, value)) in &self.durable_last {
            let there = found.get(key);
            let later = there.map_or(self.deleting.contains(key), |(there, _)| there > revision);
            if !(later || there.map(|(_, value)| *value) == *value) {
                return Err(format!("{key} was {value:?} at {revision} for certain, but is {there:?}"));
            }
        }
        let newest = found.values().map(|(revision, _)| *revision).max().unwrap_or_default();
        for (revision, (key, value)) in self.recent.range(..=newest) {
            let there = found.get(key);
            let later = there.map_or(self.deleting.contains(key), |(there, _)| there > revision)
                || self.recent.range(revision + 1..).any(|(_, (other, _))| other == key);
            if !(later || there.map(|(_, value)| *value) == *value) {
                return Err(format!("{newest} is there, but {key} of {revision} is {there:?}, not {value:?}"));
            }
        }
        self.recent.clear();
        self.deleting.clear();
        // What was found has been committed again by the opening: from now on it is certain.
        self.durable_last = found.into_iter().map(|(key, (revision, value))| (key, (revision, Some(value)))).collect();
        self.seen_max = self.seen_max.max(visible);
        Ok(())
    }

    fn wrote(&mut self, how: &str, key: &str, value: Option<u64>, revision: u64) -> Result<(), String> {
        if self.recent.contains_key(&revision) {
            return Err(format!("revision {revision} was given out twice"));
        }
        if how == "durable" {
            self.durable += 1;
            self.durable_last.insert(key.to_owned(), (revision, value));
            self.deleting.remove(key);
        } else {
            self.lazy += 1;
        }
        self.seen_max = self.seen_max.max(revision);
        self.recent.insert(revision, (key.to_owned(), value));
        Ok(())
    }
}

/// Not a test by itself: the process that is killed.
#[test]
fn writer() {
    let Some(path) = std::env::var_os(WRITER_PATH) else { return };
    let seed = std::env::var("STORE_KILL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if let Err(error) = write_until_killed(Path::new(&path), seed).await {
            say(&format!("failed {error}"));
        }
    });
}

async fn write_until_killed(path: &Path, seed: u64) -> Result<(), StoreError> {
    // Small enough that the history, and short enough that the lazy timer, come into play as well.
    let options = Options { history_changes_max: 50, lazy_age_max: Duration::from_millis(10), ..Options::default() };
    let store = Arc::new(sqlite(path, Arc::new(|_, _| Arc::new(())), options).await?);
    for entry in store.list(&Range::default())?.entries {
        let value = String::from_utf8_lossy(&entry.value[..entry.value.len().min(20)]).trim().to_owned();
        say(&format!("found {} {value} {} .", entry.key, entry.revision));
    }
    say(&format!("opened {} .", store.revision()));
    let writers = (0..WRITERS).map(|number| {
        let (store, rng) = (store.clone(), Rng::new(seed * WRITERS + number));
        tokio::spawn(async move { write_for_ever(&*store, number, rng).await })
    });
    for ended in futures::future::join_all(writers.collect::<Vec<_>>()).await {
        ended.expect("a writer does not panic")?;
    }
    Ok(())
}

async fn write_for_ever(store: &dyn Store, writer: u64, mut rng: Rng) -> Result<(), StoreError> {
    loop {
        let lazy = rng.chance(1, 4);
        let key = format!("{}/{writer}/{}", if lazy { "leases" } else { "pods" }, rng.below(5));
        if !lazy && rng.chance(1, 8) && store.get(&key).is_some() {
            say(&format!("deleting {key} ."));
            let write = Delete { key: key.clone(), precondition: Precondition::Any, tombstone: None };
            let revision = store.write(Write::Delete(write)).await?.revision;
            say(&format!("deleted {key} {revision} ."));
            continue;
        }
        let number = rng.next_u64() >> 8;
        // Now and then one that takes more than a page.
        let width = if rng.chance(1, 10) { 9_000 } else { 600 };
        let value = Bytes::from(format!("{number:<width$}"));
        let durability = if lazy { Durability::Lazy } else { Durability::Durable };
        let put = Put { key: key.clone(), value, stamp_at: None, precondition: Precondition::Any, durability };
        let revision = store.write(Write::Put(put)).await?.revision;
        say(&format!("{} {key} {number} {revision} .", if lazy { "lazy" } else { "durable" }));
        tokio::task::yield_now().await;
    }
}

/// One line, in one piece, at once: what is said was true before it is said.
fn say(line: &str) {
    let line = format!("\n{line}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent listens");
}
