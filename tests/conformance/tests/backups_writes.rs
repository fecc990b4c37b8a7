//! Backups taken while fifty clients write: what is restored is a prefix of what each of them was told is durable.
//!
//! Start at [`what_is_restored_is_a_prefix_of_every_clients_writes`]. Needs no root.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use client::{Client, Kubeconfig};
use conformance::Plain;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use workloads::writes::{name, prefix};

const CLIENTS: usize = 50;
const BACKUPS: usize = 3;
/// A write takes milliseconds, and on a busy machine somewhat more.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Of a page of objects, so many are in a value: enough that a snapshot is no single breath.
const VALUE_BYTES: usize = 400;

/// How many writes each client was told are done.
type Acknowledged = Arc<Vec<AtomicUsize>>;

/// A backup, and how many writes of each client were acknowledged before it was begun and after it was done.
struct Taken {
    file: PathBuf,
    before: Vec<usize>,
    after: Vec<usize>,
}

#[test]
fn what_is_restored_is_a_prefix_of_every_clients_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Plain::start(Path::new(env!("CARGO_BIN_EXE_skerry-under-test")), &[]);
    let (done, stop) =
        (Acknowledged::new((0..CLIENTS).map(|_| AtomicUsize::new(0)).collect()), Arc::new(AtomicBool::new(false)));
    let clients = run_clients(&server, done.clone(), stop.clone());
    let taken: Vec<Taken> =
        (0..BACKUPS).map(|number| take(&server, &folder.path().join(number.to_string()), &done)).collect();
    stop.store(true, Ordering::Relaxed);
    clients.join().expect("no client was refused anything");
    for taken in &taken {
        holds(taken);
    }
    println!("{} writes acknowledged, {BACKUPS} backups restored", counts(&done).iter().sum::<usize>());
}

/// Each client writes one object after the other, with its number, as soon as it is told that the last one is there.
fn run_clients(server: &Plain, done: Acknowledged, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let config = Kubeconfig::read(&server.kubeconfig()).expect("the server wrote one");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let write = |client| tokio::spawn(write(config.clone(), client, done.clone(), stop.clone()));
            for client in (0..CLIENTS).map(write).collect::<Vec<_>>() {
                client.await.expect("no client fails");
            }
        });
    })
}

async fn write(config: Kubeconfig, client: usize, done: Acknowledged, stop: Arc<AtomicBool>) {
    let api = Client::new(client::https::open(&config).expect("a way to the server"));
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let metadata = ObjectMeta {
            name: Some(name(client, number)),
            namespace: Some("default".to_owned()),
            ..ObjectMeta::default()
        };
        let data = Some(BTreeMap::from([("value".to_owned(), "x".repeat(VALUE_BYTES))]));
        let object = ConfigMap { metadata, data, ..ConfigMap::default() };
        api.create(&object).await.unwrap_or_else(|error| panic!("client {client} was refused {number}: {error}"));
        done[client].store(number + 1, Ordering::SeqCst);
    }
}

fn counts(done: &Acknowledged) -> Vec<usize> {
    done.iter().map(|count| count.load(Ordering::SeqCst)).collect()
}

/// What each client was told of, once that is more of each than it was.
fn more_than(was: &[usize], done: &Acknowledged) -> Vec<usize> {
    let began = Instant::now();
    loop {
        let now = counts(done);
        if was.iter().zip(&now).all(|(was, now)| now > was) {
            return now;
        }
        assert!(began.elapsed() < TOLD_WITHIN, "some clients were told of nothing more: {was:?}, then {now:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Takes a backup, once every client has been told of something more.
fn take(server: &Plain, folder: &Path, done: &Acknowledged) -> Taken {
    std::fs::create_dir(folder).expect("a folder");
    let before = more_than(&counts(done), done);
    let mut command = Command::new(env!("CARGO_BIN_EXE_skerry-under-test"));
    command
        .arg("backup")
        .arg("--to")
        .arg(folder)
        .arg("--scratch")
        .arg(folder)
        .arg("--kubeconfig")
        .arg(server.kubeconfig());
    let output = command.output().expect("it runs");
    let after = counts(done);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = std::fs::read_dir(folder).expect("the folder is there").flatten().map(|entry| entry.path());
    let file = files.max().expect("a backup was made");
    Taken { file, before, after }
}

/// A server that begins with the file has of each client all that was acknowledged before, without a gap, and nothing that it
/// had not sent.
fn holds(taken: &Taken) {
    let file = taken.file.display().to_string();
    let restored = Plain::start(Path::new(env!("CARGO_BIN_EXE_skerry-under-test")), &["--restore", &file]);
    let (ok, listed) = restored.kubectl(&["get", "configmaps", "-o", "name", "--chunk-size=0"]);
    assert!(ok, "{listed}");
    prefix(&listed, &taken.before, &taken.after).unwrap_or_else(|wrong| panic!("{file}: {wrong}"));
    let were_told = taken.before.iter().filter(|count| **count > 0).count();
    assert_eq!(were_told, CLIENTS, "every client was told of something before");
}
