//! Snapshots of a store that is written to, and what is restored of them.
//!
//! Start at [`a_snapshot_is_every_acknowledged_write_up_to_its_revision`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use backup::{
    BackupError, Checked, FileWriter, Key, Meta, Record, RecordReader, check, first_revision, restore, snapshot,
};
use base::{Rng, Timestamp};
use bytes::Bytes;
use store::{
    Delete, Durability, Local, Options, Precondition, Put, Range, Revision, Store, StoreError, Write, annex, sqlite,
};

const WRITERS: u64 = 8;
const SNAPSHOTS: usize = 20;
const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// What a key holds: revision and value.
type Objects = BTreeMap<String, (u64, Bytes)>;
/// Every write that was acknowledged, by revision.
type Journal = Arc<Mutex<BTreeMap<u64, (String, Option<Bytes>)>>>;

async fn open(path: &Path) -> Local {
    sqlite(path, annex(), Options::default()).await.expect("the store opens")
}

/// Writes until told to stop, and keeps a journal.
async fn write(store: Arc<Local>, journal: Journal, stop: Arc<AtomicBool>, mut rng: Rng) {
    while !stop.load(Ordering::Relaxed) {
        // Keys are shared: writers write over each other's.
        let key = format!("pods/{}", rng.below(40));
        let durability = if rng.chance(1, 5) { Durability::Lazy } else { Durability::Durable };
        let (write, value) = if rng.chance(1, 5) {
            (Write::Delete(Delete { key: key.clone(), precondition: Precondition::Any, tombstone: None }), None)
        } else {
            let value = Bytes::from(format!("{:0width$}", rng.next_u64(), width = 30 + rng.below(3_000) as usize));
            let (key, precondition) = (key.clone(), Precondition::Any);
            let put = Put { key, value: value.clone(), stamp_at: None, precondition, durability };
            (Write::Put(put), Some(value))
        };
        match store.write(write).await {
            Ok(entry) => drop(journal.lock().expect("nobody panicked").insert(entry.revision.0, (key, value))),
            // Nothing there to delete.
            Err(StoreError::Conflict { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A snapshot as a server takes it.
fn take(store: &Local, keys: &[(String, Bytes)]) -> (Meta, Vec<u8>) {
    let page = store.list(&Range::default()).expect("now can be listed");
    let text = |text: &str| text.to_owned();
    let meta = Meta { cluster: text("4711"), version: text("v1"), revision: page.revision.0, time: NOW.rfc3339() };
    let bytes = snapshot(page, keys.to_vec(), &meta).flatten().collect();
    (meta, bytes)
}

fn records(meta: &Meta, stream: &[u8]) -> Vec<Record> {
    let mut reader = RecordReader::new(&stream[meta.lines().len()..]);
    std::iter::from_fn(|| reader.next().expect("the stream is whole")).collect()
}

fn objects(records: &[Record]) -> Objects {
    let object = |record: &Record| match record {
        Record::Object { key, revision, value } => Some((key.clone(), (*revision, value.clone()))),
        _ => None,
    };
    records.iter().filter_map(object).collect()
}

/// What all writes up to a revision make.
fn prefix(journal: &Journal, revision: u64) -> Objects {
    let mut objects = Objects::new();
    for (at, (key, value)) in journal.lock().expect("nobody panicked").range(..=revision) {
        match value {
            Some(value) => drop(objects.insert(key.clone(), (*at, value.clone()))),
            None => drop(objects.remove(key)),
        }
    }
    objects
}

fn file(path: &Path, meta: &Meta, records: &[Record]) -> Checked {
    let mut writer = FileWriter::create(path, meta, None).expect("the file can be made");
    records.iter().for_each(|record| writer.record(record).expect("the disk takes it"));
    writer.finish().expect("the disk takes it");
    check(path, None).expect("what was written is right")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_every_acknowledged_write_up_to_its_revision() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(open(&folder.path().join("state.db")).await);
    let (journal, stop) = (Journal::default(), Arc::new(AtomicBool::new(false)));
    let writers = (0..WRITERS).map(|writer| write(store.clone(), journal.clone(), stop.clone(), Rng::new(writer)));
    let writers: Vec<_> = writers.map(tokio::spawn).collect();
    let mut taken = Vec::new();
    while taken.len() < SNAPSHOTS {
        let before = store.revision();
        taken.push(take(&store, &[]));
        // The next one is another's, however quick this machine is.
        while store.revision().0 < before.0 + 20 {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("no writer fails");
    }
    for (meta, stream) in &taken {
        assert_eq!(objects(&records(meta, stream)), prefix(&journal, meta.revision), "at {}", meta.revision);
    }
    let (meta, stream) = &taken[SNAPSHOTS / 2];
    assert!(!records(meta, stream).is_empty());
    restored_is(&folder.path().join("blank"), meta, &records(meta, stream), &prefix(&journal, meta.revision)).await;
}

/// Restores, and compares with what was written.
async fn restored_is(data: &Path, meta: &Meta, records: &[Record], wanted: &Objects) {
    std::fs::create_dir(data).expect("a folder");
    let checked = file(&data.with_extension("backup"), meta, records);
    restore(&checked, data, &BTreeMap::new(), NOW).await.expect("it can be restored");
    let store = open(&data.join("db/state.db")).await;
    let page = store.list(&Range::default()).expect("now can be listed");
    let found = page.entries.iter().map(|entry| (entry.key.to_string(), (entry.revision.0, entry.value.clone())));
    assert_eq!(&found.collect::<Objects>(), wanted);
    let fence = first_revision(meta, NOW);
    assert!(store.revision() > fence);
    for asked in [meta.revision, meta.revision + 1_000_000, fence.0] {
        let refused = store.watch("", Revision(asked)).err();
        assert!(matches!(refused, Some(StoreError::Compacted { .. })), "{asked}: {refused:?}");
    }
    assert!(store.watch("", store.revision()).is_ok());
}

fn sample(folder: &Path) -> (Meta, Vec<Record>) {
    let volume = folder.join("web");
    std::fs::create_dir(&volume).expect("a folder");
    std::fs::write(volume.join("index.html"), "hello").expect("a file");
    let text = |text: &str| text.to_owned();
    let meta = Meta { cluster: text("4711"), version: text("v1"), revision: 9, time: NOW.rfc3339() };
    let records = vec![
        Record::Object { key: text("pods/a"), revision: 3, value: Bytes::from("{\"a\":1}") },
        Record::Object { key: text("pods/b"), revision: 9, value: Bytes::from("{\"b\":1}") },
        Record::File { path: text("ca.key"), bytes: Bytes::from("secret") },
    ];
    (meta, records)
}

#[tokio::test]
async fn keys_and_chosen_volumes_come_back_and_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let (meta, records) = sample(folder.path());
    let path = folder.path().join("one.backup");
    let mut writer = FileWriter::create(&path, &meta, None).expect("the file can be made");
    records.iter().for_each(|record| writer.record(record).expect("the disk takes it"));
    writer.volume("/volumes/web", &folder.path().join("web")).expect("the volume can be read");
    writer.finish().expect("the disk takes it");
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    let (data, checked) = (folder.path().join("data"), check(&path, None).expect("it is right"));
    std::fs::create_dir(&data).expect("a folder");
    let contents = checked.contents().expect("it can be read");
    assert!(checked.must_hold(&contents, "/volumes/web").is_ok());
    let error = checked.must_hold(&contents, "/volumes/x").expect_err("there is no such volume");
    let said = format!("{} holds no volume \"/volumes/x\", it holds /volumes/web", path.display());
    assert_eq!(error.to_string(), said);
    let right = BTreeMap::from([("/volumes/web".to_owned(), folder.path().join("back"))]);
    restore(&checked, &data, &right, NOW).await.expect("it can be restored");
    assert_eq!(std::fs::read(folder.path().join("back/index.html")).expect("it is there"), b"hello");
    assert_eq!(std::fs::read(data.join("pki/ca.key")).expect("it is there"), b"secret");
    assert_eq!(
        (mode(&data.join("pki/ca.key")), mode(&data.join("pki")), mode(&data.join("db"))),
        (0o600, 0o700, 0o700)
    );
}

#[tokio::test]
async fn names_that_lead_out_of_the_folder_are_refused() {
    for name in ["../ca.key", "/etc/passwd", "a/../../b", "", "."] {
        let folder = tempfile::tempdir().expect("a folder");
        let (meta, _) = sample(folder.path());
        let records = [Record::File { path: name.to_owned(), bytes: Bytes::from("x") }];
        let (data, checked) = (folder.path().join("data"), file(&folder.path().join("f"), &meta, &records));
        std::fs::create_dir(&data).expect("a folder");
        let error = restore(&checked, &data, &BTreeMap::new(), NOW).await;
        assert!(matches!(error, Err(BackupError::Damaged { .. })), "{name:?}: {error:?}");
        assert!(!data.join("pki").exists());
    }
}

/// Whether `check` takes this as a file.
fn verdict(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    std::fs::write(path, bytes).expect("the file can be written");
    check(path, None).map(drop)
}

#[test]
fn every_cut_and_every_changed_bit_of_a_file_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (meta, records) = sample(folder.path());
    let path = folder.path().join("whole");
    file(&path, &meta, &records);
    let (bytes, path) = (std::fs::read(&path).expect("it is there"), folder.path().join("changed"));
    assert!(verdict(&path, &bytes).is_ok());
    for length in 0..bytes.len() {
        let error = verdict(&path, &bytes[..length]).expect_err("cut short");
        let is_told = matches!(error, BackupError::Damaged { .. } | BackupError::Foreign { .. });
        assert!(is_told && error.to_string().contains("changed"), "cut to {length}: {error}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(verdict(&path, &changed).is_err(), "bit {bit}");
    }
    assert!(matches!(verdict(&path, &[&bytes[..], b"x"].concat()), Err(BackupError::Damaged { .. })));
}

#[tokio::test]
async fn an_encrypted_file_is_read_with_its_key_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let (meta, records) = sample(folder.path());
    let path = folder.path().join("sealed");
    let key = |name: &str, byte: u8| {
        let path = folder.path().join(name);
        std::fs::write(&path, [byte; 32]).expect("written");
        Key::read(&path).expect("a key")
    };
    let (right, wrong) = (key("right", 1), key("wrong", 2));
    let mut writer = FileWriter::create(&path, &meta, Some(&right)).expect("the file can be made");
    records.iter().for_each(|record| writer.record(record).expect("the disk takes it"));
    writer.finish().expect("the disk takes it");
    assert!(matches!(check(&path, None), Err(BackupError::NoKey { .. })));
    assert!(matches!(check(&path, Some(&wrong)), Err(BackupError::WrongKey { .. })));
    let checked = check(&path, Some(&right)).expect("it is right");
    assert_eq!(checked.contents().expect("it can be read").keys, [("ca.key".to_owned(), Bytes::from("secret"))]);
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    restore(&checked, &data, &BTreeMap::new(), NOW).await.expect("it can be restored");
    assert_eq!(std::fs::read(data.join("pki/ca.key")).expect("it is there"), b"secret");
    let bytes = std::fs::read(&path).expect("it is there");
    assert!(bytes.starts_with(b"skerry-backup 2\n") && !bytes.windows(6).any(|window| window == b"secret"));
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        std::fs::write(&path, changed).expect("written");
        assert!(check(&path, Some(&right)).is_err(), "byte {at}");
    }
}

#[test]
fn what_is_no_backup_or_too_new_is_told_as_what_it_is() {
    use sha2::{Digest, Sha256};
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    let told = |bytes: &[u8]| {
        let error = verdict(&path, bytes).expect_err("it is none").to_string();
        error.replace(&path.display().to_string(), "FILE")
    };
    assert_eq!(told(b""), "FILE is no backup made by Skerry");
    assert_eq!(told(b"PK\x03\x04 some archive of somebody's"), "FILE is no backup made by Skerry");
    let newer = b"skerry-backup 3\n{}\nwho knows".to_vec();
    let newer = [&newer[..], Sha256::digest(&newer).as_slice()].concat();
    assert_eq!(told(&newer), "FILE is a backup in format 3, and this release reads formats up to 2");
    let error = check(&folder.path().join("none"), None).expect_err("it is not there");
    assert!(error.to_string().starts_with("failed to open "), "{error}");
}
