//! A backup while fifty clients write: it is a prefix of what was acknowledged, and a blank folder becomes that cluster.
//!
//! Needs root (a network namespace).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backup::{Checked, Record, check};
use bench::connection::JSON;
use bench::server::Server;
use bench::{Connection, namespace};
use client::Kubeconfig;
use http::Method;
use serde_json::{Value, json};

const CLIENTS: usize = 50;
/// Each client writes to so many objects in turn.
const NAMES: usize = 5;
const BACKUPS: usize = 4;
const KEPT: usize = 2;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MERGE: &str = "application/merge-patch+json";

/// What was acknowledged, by revision: an object's name, and what was written to it.
type Journal = BTreeMap<u64, (String, String)>;

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_skerry-to-measure"))
}

#[test]
fn a_backup_under_load_restores_to_a_prefix_of_what_was_acknowledged() {
    // This thread's namespace is that of everything below.
    namespace::enter().expect("root may make a network namespace");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Server::new(&program(), false).expect("a server");
        server.start().expect("it starts");
        server.connect().await.expect("it is ready");
        let config = server.data().join("admin.kubeconfig");
        let journal = back_up_under_load(&config, folder.path()).await;
        let files = files(folder.path());
        assert_eq!(files.len(), KEPT, "the old ones went: {files:?}");
        for file in &files {
            is_prefix(&check(file, None).expect("it is right"), &journal);
        }
        let newest = files.last().expect("there are two");
        refuses_what_is_wrong(&server.data(), newest, folder.path());
        a_full_disk_is_told_and_left_as_it_was(&config, folder.path());
        an_encrypted_backup_needs_its_key(&config, folder.path());
        let config = Kubeconfig::read(&config).expect("a kubeconfig");
        server.kill();
        a_blank_folder_becomes_it(newest, &config).await;
        a_server_restores_before_its_first_start(newest, folder.path());
    });
}

/// Writes, and backs up meanwhile.
async fn back_up_under_load(config: &Path, folder: &Path) -> Journal {
    let access = Kubeconfig::read(config).expect("a kubeconfig");
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let connection = Connection::open(&access).await.expect("a connection");
        clients.spawn(write(connection, client, stop.clone()));
    }
    for _ in 0..BACKUPS {
        let (config, folder) = (config.to_owned(), folder.to_owned());
        let done = tokio::task::spawn_blocking(move || back_up(&config, &folder)).await.expect("it runs");
        assert!(done.status.success(), "{}", said(&done));
        assert!(said(&done).contains("restored and compared"), "{}", said(&done));
        // Files of one second at one revision would be one file.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut journal = Journal::new();
    while let Some(written) = clients.join_next().await {
        journal.extend(written.expect("no client fails"));
    }
    assert!(journal.len() > CLIENTS * NAMES, "{} writes are no load", journal.len());
    journal
}

fn back_up(config: &Path, folder: &Path) -> Output {
    let mut command = Command::new(program());
    command.args(["backup", "--keep", &KEPT.to_string(), "--keep-age", "1d", "--to"]).arg(folder);
    command.arg("--scratch").arg(folder).arg("--kubeconfig").arg(config);
    command.output().expect("it runs")
}

fn said(output: &Output) -> String {
    [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat()
}

/// One client in a closed loop.
async fn write(mut connection: Connection, client: usize, stop: Arc<AtomicBool>) -> Journal {
    let mut journal = Journal::new();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (name, text) = (format!("client-{client}-{}", turn % NAMES), format!("{client}-{turn}"));
        let mut object = json!({"metadata": {"name": name}, "data": {"text": text}});
        let answer = if turn < NAMES {
            connection.post(MAPS, &object).await
        } else {
            object["metadata"] = json!({});
            connection.call(Method::PATCH, &format!("{MAPS}/{name}"), MERGE, object.to_string().into()).await
        };
        let answer: Value = serde_json::from_slice(&answer.expect("it is written")).expect("JSON");
        journal.insert(revision(&answer), (name, text));
    }
    journal
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a revision")
}

/// The newest comes last.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// Every stored object: its key, its revision, its bytes.
fn objects(file: &Checked) -> BTreeMap<String, (u64, Value)> {
    let mut records = file.records().expect("it can be read");
    let next = || records.next().expect("it can be read");
    let object = |record| match record {
        Record::Object { key, revision, value } => {
            Some((key, (revision, serde_json::from_slice(&value).expect("objects are JSON"))))
        }
        _ => None,
    };
    std::iter::from_fn(next).filter_map(object).collect()
}

fn is_prefix(file: &Checked, journal: &Journal) {
    let mut wanted = BTreeMap::new();
    for (revision, (name, text)) in journal.range(..=file.meta.revision) {
        wanted.insert(format!("configmaps/default/{name}"), (*revision, text.clone()));
    }
    let found = objects(file).into_iter().filter(|(key, _)| key.starts_with("configmaps/default/client-"));
    let found = found.map(|(key, (revision, object))| {
        let text = object["data"]["text"].as_str().unwrap_or_default().to_owned();
        (key, (revision, text))
    });
    assert_eq!(found.collect::<BTreeMap<_, _>>(), wanted, "at revision {}", file.meta.revision);
    assert!(!wanted.is_empty() && wanted.len() <= CLIENTS * NAMES);
}

/// Each refusal says why, and changes nothing.
fn refuses_what_is_wrong(data: &Path, file: &Path, folder: &Path) {
    let bytes = std::fs::read(file).expect("it is there");
    let wrong = folder.join("wrong");
    let check = |bytes: &[u8], data: &Path, why: &str| {
        std::fs::write(&wrong, bytes).expect("it can be written");
        let before = data.exists().then(|| files(data));
        let done = restore(&wrong, data);
        assert!(!done.status.success() && said(&done).contains(why), "{} does not say {why}", said(&done));
        assert_eq!(data.exists().then(|| files(data)), before, "nothing changed");
    };
    let blank = folder.join("blank");
    check(&bytes[..bytes.len() / 2], &blank, "is damaged or cut short");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    check(&flipped, &blank, "is damaged or cut short");
    check(b"not a backup at all", &blank, "is no backup made by Skerry");
    check(&bytes, data, "is not blank, it holds admin.kubeconfig; nothing was changed");
    std::fs::remove_file(&wrong).expect("it is there");
}

fn an_encrypted_backup_needs_its_key(config: &Path, folder: &Path) {
    let (to, key, data) = (folder.join("sealed"), folder.join("key"), folder.join("opened"));
    std::fs::create_dir(&to).expect("a folder");
    std::fs::write(&key, [7; 32]).expect("it can be written");
    let run = |words: &[&Path]| Command::new(program()).args(words).output().expect("it runs");
    let backup = ["backup", "--to", "--scratch", "--kubeconfig", "--key-file"].map(Path::new);
    let done = run(&[backup[0], backup[1], &to, backup[2], folder, backup[3], config, backup[4], &key]);
    assert!(done.status.success(), "{}", said(&done));
    let file = files(&to).pop().expect("a file");
    let refused = said(&restore(&file, &data));
    assert!(refused.contains("is encrypted, and no key was given") && !data.exists(), "{refused}");
    let done = run(&[Path::new("restore"), backup[4], &key, Path::new("--data-dir"), &data, &file]);
    assert!(done.status.success() && data.join("db/state.db").exists(), "{}", said(&done));
}

/// On a file system of 8 KiB, in a mount namespace of its own.
fn a_full_disk_is_told_and_left_as_it_was(config: &Path, folder: &Path) {
    let small = folder.join("small");
    std::fs::create_dir(&small).expect("a folder");
    let script = "mount -t tmpfs -o size=8k tmpfs $1 && $2 backup --kubeconfig $3 --to $1 --scratch $4; ls -A $1";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).args([&small, &program(), config, folder]);
    let done = command.output().expect("it runs");
    let said = said(&done);
    assert!(said.contains("No space left on device") && said.contains("failed to make a backup in"), "{said}");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "", "nothing is left there");
    std::fs::remove_dir(&small).expect("it is there");
}

fn restore(file: &Path, data: &Path) -> Output {
    Command::new(program()).arg("restore").arg("--data-dir").arg(data).arg(file).output().expect("it runs")
}

/// Restores, starts a server on it, and compares object by object with what the file holds. The kubeconfig is that of the
/// cluster that was backed up.
async fn a_blank_folder_becomes_it(file: &Path, config: &Kubeconfig) {
    let mut server = Server::new(&program(), false).expect("a server");
    let done = restore(file, &server.data());
    assert!(done.status.success(), "{}", said(&done));
    server.start().expect("it starts");
    server.connect().await.expect("it is ready");
    let mut connection = Connection::open(config).await.expect("the old kubeconfig is still valid");
    let checked = check(file, None).expect("it is right");
    for (key, (_, object)) in objects(&checked).iter().filter(|(key, _)| key.starts_with("configmaps/default/client-"))
    {
        let name = key.rsplit('/').next().expect("keys have names");
        let served = connection.get(&format!("{MAPS}/{name}")).await.expect("it is there");
        assert_eq!(&serde_json::from_slice::<Value>(&served).expect("JSON"), object, "{key}");
    }
    let list: Value = serde_json::from_slice(&connection.get(MAPS).await.expect("a list")).expect("JSON");
    assert!(revision(&list) > checked.meta.revision + 1_000_000, "revisions go on far behind");
    let watch = format!("{MAPS}?watch=true&resourceVersion={}", checked.meta.revision);
    let refused = match connection.watch(&watch).await {
        Err(error) => error.to_string(),
        Ok(mut lines) => String::from_utf8_lossy(&lines.next().await.expect("an event")).into_owned(),
    };
    assert!(refused.contains("410"), "a client that goes on where it was must list again: {refused}");
    connection.call(Method::DELETE, &format!("{MAPS}/client-0-0"), JSON, "{}".into()).await.expect("it takes writes");
}

/// Once: a file that is given again at the second start is not looked at.
fn a_server_restores_before_its_first_start(file: &Path, folder: &Path) {
    let (data, port) = (folder.join("data"), "127.0.0.1:6444");
    // What it says until it serves, or ends.
    let serve = |file: &Path| {
        let mut command = Command::new(program());
        command.args(["server", "--no-node", "--listen", port, "--data-dir"]).arg(&data).arg("--restore").arg(file);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
        let mut said = String::new();
        for line in BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok) {
            said.push_str(&line);
            if line.contains("serving Kubernetes") {
                break;
            }
        }
        child.kill().expect("it is ours to kill");
        child.wait().expect("it ends");
        said
    };
    let wrong = folder.join("none");
    let refused = serve(&wrong);
    assert!(refused.contains("failed to restore a backup before the first start"), "{refused}");
    assert!(!data.exists(), "no other cluster was made instead");
    let first = serve(file);
    assert!(first.contains("restored cluster") && first.contains("serving Kubernetes"), "{first}");
    let second = serve(&wrong);
    assert!(!second.contains("restored cluster") && second.contains("serving Kubernetes"), "{second}");
}
