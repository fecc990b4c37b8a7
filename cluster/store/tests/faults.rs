//! Runs the store on a file system that fails, at every single operation in turn.
//!
//! Start at [`check`]. A script of writes is played once for each operation it makes on the file system, and that operation
//! fails: by an error, by a full disk, or by the power going, after which the disk has only what was synced.
//!
//! Invariants tested:
//! * after an error the store recovers by itself, and at the end has everything;
//! * after a cut it has the state after some step of the script, not before the last acknowledged durable one;
//! * no revision is given out that was seen before.
//!
//! Not here: death of the process alone (`kill.rs`).

mod fault_fs;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use store::{Delete, Durability, Local, Options, Precondition, Put, Range, Revision, Store, StoreError, Write, sqlite};

use fault_fs::{Fault, FaultFs, Kept};

/// A store that has not recovered after so many tries of 2 ms will not.
const TRIES_MAX: usize = 2_000;

/// What is done: the verb, the key, and how long the value is. A step's value is its number.
const SCRIPT: [(&str, &str, usize); 15] = [
    ("put", "a", 100),
    ("put", "b", 9_000),
    ("lazy", "l", 50),
    ("put", "a", 300),
    ("delete", "b", 0),
    ("lazy", "l", 60),
    ("lazy", "m", 60),
    ("put", "c", 5_000),
    ("reopen", "", 0),
    ("put", "a", 20),
    ("lazy", "l", 5_000),
    ("put", "d", 100),
    ("delete", "a", 0),
    ("put", "c", 1),
    ("lazy", "l", 1),
];

#[test]
fn it_recovers_from_an_error_at_any_operation() {
    check(Fault::Error, &[Kept::All]);
}

#[test]
fn it_recovers_from_a_disk_that_is_full_for_a_while() {
    check(Fault::Full(3), &[Kept::All]);
}

#[test]
fn it_keeps_its_word_when_the_power_goes_at_any_operation() {
    check(Fault::Cut, &[Kept::None, Kept::All]);
}

#[test]
fn it_keeps_its_word_when_the_disk_wrote_in_any_order() {
    check(Fault::Cut, &[1, 2, 3, 4].map(Kept::Some));
}

#[test]
fn it_keeps_its_word_when_the_power_goes_soon_after_an_error() {
    // What a failed fsync left unwritten looks written until then.
    for later in [8, 16, 28] {
        check(Fault::ErrorThenCut(later), &[Kept::None]);
    }
}

#[test]
fn a_full_disk_leaves_reads_going_and_takes_writes_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fs = FaultFs::mount(folder.path());
    in_runtime(async {
        let store = open(&folder.path().join("state.db"), NEVER).await.expect("an empty disk takes a store");
        write(&store, 0, NEVER).await.expect("there is room");
        fs.arm(0, Fault::Full(u64::MAX));
        let error = write(&store, 1, NEVER).await.expect_err("there is no room");
        assert!(error.to_string().contains("state.db"), "{error}");
        let error = write(&store, 2, NEVER).await.expect_err("there is no room, not even for lazy ones");
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
        assert!(store.get("a").is_some() && store.get("b").is_none(), "reads go on");
        fs.power_on(Kept::All);
        write(&store, 1, &|| true).await.expect("there is room again");
        store.close().await.expect("it can be closed");
    });
}

/// Plays the script with a fault at each of its operations.
#[track_caller]
fn check(fault: Fault, kept: &[Kept]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fs = FaultFs::mount(folder.path());
    let path = folder.path().join("state.db");
    fs.arm(u64::MAX, Fault::Cut);
    let outcome = in_runtime(play(&path, NEVER));
    assert_eq!((outcome.certain, outcome.failure), (SCRIPT.len(), None), "without a fault all goes well");
    let operations = fs.operations();
    assert!(operations > 100, "the file system is asked");
    for at in 0..operations {
        for kept in kept {
            fs.clear();
            fs.arm(at, fault);
            let outcome = in_runtime(play(&path, &|| fault != Fault::Cut && !fs.is_cut()));
            fs.power_on(*kept);
            let verdict = in_runtime(inspect(&path, &outcome));
            verdict.unwrap_or_else(|what| panic!("{fault:?} at {at} of {operations}, {kept:?} kept: {what}"));
        }
    }
    println!("{operations} operations");
}

fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// How far the script came.
#[derive(Debug, Default)]
struct Outcome {
    /// So many steps were certainly kept.
    certain: usize,
    /// So many steps may have been kept.
    tried: usize,
    /// The newest revision that anybody saw.
    seen: Revision,
    failure: Option<String>,
}

/// Whether to try again what failed.
type Patience<'a> = &'a dyn Fn() -> bool;

const NEVER: Patience<'static> = &|| false;

/// Plays the script.
async fn play(path: &Path, patient: Patience<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut store = match open(path, patient).await {
        Ok(store) => store,
        Err(error) => return Outcome { failure: Some(error.to_string()), ..outcome },
    };
    for (number, step) in SCRIPT.iter().enumerate() {
        outcome.tried = number + 1;
        let done = match step.0 {
            "reopen" => reopen(&mut store, path, patient).await,
            _ => write(&store, number, patient).await,
        };
        match done {
            Ok(revision) => outcome.seen = outcome.seen.max(revision.unwrap_or_default()),
            Err(error) => {
                outcome.failure = Some(format!("step {number}: {error}"));
                break;
            }
        }
        if step.0 != "lazy" {
            outcome.certain = number + 1;
        }
    }
    if store.close().await.is_ok() && outcome.failure.is_none() {
        outcome.certain = SCRIPT.len();
    }
    outcome
}

async fn open(path: &Path, patient: Patience<'_>) -> Result<Local, StoreError> {
    let options = Options { wal_pages_max: 12, ..Options::default() };
    for _ in 0..TRIES_MAX {
        match sqlite(path, store::annex(), options.clone()).await {
            Err(_) if patient() => tokio::time::sleep(Duration::from_millis(2)).await,
            other => return other,
        }
    }
    sqlite(path, store::annex(), options).await
}

async fn reopen(store: &mut Local, path: &Path, patient: Patience<'_>) -> Result<Option<Revision>, StoreError> {
    let closed = store.close().await;
    if !patient() {
        closed?;
    }
    *store = open(path, patient).await?;
    Ok(None)
}

async fn write(store: &Local, number: usize, patient: Patience<'_>) -> Result<Option<Revision>, StoreError> {
    for _ in 0..TRIES_MAX {
        match store.write(step(number)).await {
            Ok(entry) => return Ok(Some(entry.revision)),
            // An earlier try of which nobody knew turned out to have happened.
            Err(StoreError::Conflict { current: None, .. }) if patient() => return Ok(None),
            Err(error) if patient() && error.retry() => tokio::time::sleep(Duration::from_millis(2)).await,
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::ReadOnly { reason: "it does not recover".to_owned() })
}

fn step(number: usize) -> Write {
    let (verb, key, length) = SCRIPT[number];
    let (key, precondition) = (key.to_owned(), Precondition::Any);
    if verb == "delete" {
        return Write::Delete(Delete { key, precondition, tombstone: None });
    }
    let durability = if verb == "lazy" { Durability::Lazy } else { Durability::Durable };
    Write::Put(Put { key, value: value(number, length), stamp_at: None, precondition, durability })
}

fn value(number: usize, length: usize) -> Bytes {
    Bytes::from(format!("{number:<length$}"))
}

/// What there is after so many steps.
fn state_after(steps: usize) -> BTreeMap<String, Bytes> {
    let mut state = BTreeMap::new();
    for (number, (verb, key, length)) in SCRIPT[..steps].iter().enumerate() {
        match *verb {
            "put" | "lazy" => drop(state.insert((*key).to_owned(), value(number, *length))),
            "delete" => drop(state.remove(*key)),
            _ => {}
        }
    }
    state
}

/// Opens what is left and compares it with what was promised.
async fn inspect(path: &Path, outcome: &Outcome) -> Result<(), String> {
    let store = open(path, NEVER).await.map_err(|error| error.to_string())?;
    let page = store.list(&Range::default()).map_err(|error| error.to_string())?;
    let found: BTreeMap<String, Bytes> =
        page.entries.into_iter().map(|entry| (entry.key.to_string(), entry.value)).collect();
    if !(outcome.certain..=outcome.tried).any(|steps| state_after(steps) == found) {
        return Err(format!("{outcome:?}, but there is {:?}", summary(&found)));
    }
    let next = store.write(step(0)).await.map_err(|error| error.to_string())?.revision;
    if next <= outcome.seen {
        return Err(format!("revision {next} was given out again: {outcome:?}"));
    }
    store.close().await.map_err(|error| error.to_string())
}

fn summary(found: &BTreeMap<String, Bytes>) -> BTreeMap<&str, String> {
    found.iter().map(|(key, value)| (key.as_str(), String::from_utf8_lossy(value).trim().to_owned())).collect()
}
