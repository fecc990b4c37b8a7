//! A real keeper and real processes.
//!
//! Each test starts a keeper of its own in a folder of its own, and tells it to quit.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use keeper::{Attach, Client, ClientError, PidNamespace, Reply, Request, Spawn, Status, Streams, start_detached};

struct Kept {
    folder: tempfile::TempDir,
    client: Client,
}

impl Drop for Kept {
    fn drop(&mut self) {
        for status in self.client.list().unwrap_or_default() {
            let _ = self.client.call(&Request::Signal { id: status.id, signal: 9 }, &[]);
        }
        let _ = self.client.call(&Request::Quit, &[]);
    }
}

fn keeper() -> Kept {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("keeper.sock");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_keeper"));
    start_detached(&program, &[] as &[OsString], &socket, None).expect("a keeper");
    Kept { client: Client::connect(&socket).expect("connected"), folder }
}

impl Kept {
    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn shell(&self, id: &str, script: &str, change: impl FnOnce(&mut Spawn)) -> Status {
        let mut spawn = Spawn {
            id: id.into(),
            args: ["sh", "-c", script].map(String::from).to_vec(),
            env: vec!["PATH=/usr/bin:/bin".into()],
            log: self.path("log"),
            ..Spawn::default()
        };
        change(&mut spawn);
        let shell = File::open("/bin/sh").expect("a shell");
        process(self.client.call(&Request::Spawn(spawn), &[shell.as_fd()]))
    }

    fn wait(&self, id: &str) -> Status {
        process(self.client.call(&Request::Wait { id: id.into() }, &[]))
    }

    /// The log without its stamps.
    fn log(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join(name)).expect("a log");
        text.lines().map(|line| line.split_once(' ').expect("a stamp").1.to_owned()).collect()
    }
}

fn process(reply: Result<Reply, ClientError>) -> Status {
    match reply {
        Ok(Reply::Process(status)) => status,
        other => panic!("not a process: {other:?}"),
    }
}

#[test]
fn output_is_logged_before_the_end_is_told() {
    let kept = keeper();
    kept.shell("a", "echo one; echo two >&2; sleep 0.01; printf three; exit 7", |_| ());
    let exit = kept.wait("a").exit.expect("an end");
    assert_eq!((exit.code, exit.signal), (7, 0));
    assert_eq!(kept.log("log"), ["stdout F one", "stderr F two", "stdout F three"]);
}

#[test]
fn a_signal_is_an_exit_code_too() {
    let kept = keeper();
    let status = kept.shell("a", "exec sleep 1000", |spawn| spawn.exit_file = kept.path("exit"));
    assert!(status.exit.is_none() && status.start_ticks > 0);
    kept.client.call(&Request::Signal { id: "a".into(), signal: 9 }, &[]).expect("sent");
    let exit = kept.wait("a").exit.expect("an end");
    assert_eq!((exit.code, exit.signal), (137, 9));
    let text = fs::read_to_string(kept.path("exit")).expect("an exit file");
    assert!(text.starts_with("{\"code\":137,\"signal\":9,"), "{text}");
    kept.client.call(&Request::Signal { id: "a".into(), signal: 9 }, &[]).expect("nothing left to signal is no error");
}

#[test]
fn the_next_caller_finds_what_the_last_one_started() {
    let kept = keeper();
    kept.shell("a", "read line; echo got $line", |spawn| {
        spawn.streams = Streams::Held { stdin: true, stdin_once: true };
    });
    let again = Client::connect(&kept.folder.path().join("keeper.sock")).expect("connected");
    assert_eq!(again.list().expect("a list").len(), 1);
    let (reader, mut writer) = io::pipe().expect("a pipe");
    let attach = Attach { id: "a".into(), stdin: true, ..Attach::default() };
    again.call(&Request::Attach(attach), &[reader.as_fd()]).expect("attached");
    drop(reader);
    writer.write_all(b"words\n").expect("typed");
    assert_eq!(kept.wait("a").exit.expect("an end").code, 0);
    assert_eq!(kept.log("log"), ["stdout F got words"]);
}

#[test]
fn an_attached_reader_sees_output_and_its_end() {
    let kept = keeper();
    kept.shell("a", "cat", |spawn| spawn.streams = Streams::Held { stdin: true, stdin_once: true });
    let (stdin, mut typing) = io::pipe().expect("a pipe");
    let (mut reading, stdout) = io::pipe().expect("a pipe");
    let attach = Attach { id: "a".into(), stdin: true, stdout: true, stderr: false };
    kept.client.call(&Request::Attach(attach), &[stdin.as_fd(), stdout.as_fd()]).expect("attached");
    drop((stdin, stdout));
    typing.write_all(b"hello\n").expect("typed");
    drop(typing);
    let mut text = String::new();
    reading.read_to_string(&mut text).expect("read to the end");
    assert_eq!(text, "hello\n");
    assert_eq!(kept.wait("a").exit.expect("an end").code, 0);
}

#[test]
fn a_renamed_log_is_left_alone() {
    let kept = keeper();
    kept.shell("a", "echo one; read go; echo two", |spawn| {
        spawn.streams = Streams::Held { stdin: true, stdin_once: false };
    });
    let (stdin, mut typing) = io::pipe().expect("a pipe");
    let (mut reading, stdout) = io::pipe().expect("a pipe");
    let attach = Attach { id: "a".into(), stdin: true, stdout: true, stderr: false };
    kept.client.call(&Request::Attach(attach), &[stdin.as_fd(), stdout.as_fd()]).expect("attached");
    drop(stdout);
    while fs::metadata(kept.path("log")).expect("a log").len() == 0 {
        std::thread::yield_now();
    }
    fs::rename(kept.path("log"), kept.path("old")).expect("renamed");
    kept.client.call(&Request::Reopen { id: "a".into() }, &[]).expect("reopened");
    typing.write_all(b"\n").expect("typed");
    let mut rest = String::new();
    reading.read_to_string(&mut rest).expect("read");
    kept.wait("a");
    assert_eq!((kept.log("old"), kept.log("log")), (vec!["stdout F one".into()], vec!["stdout F two".into()]));
}

#[test]
fn handed_streams_go_past_the_keeper() {
    let kept = keeper();
    let (mut reading, stdout) = io::pipe().expect("a pipe");
    let shell = File::open("/bin/sh").expect("a shell");
    let spawn = Spawn {
        id: "e".into(),
        args: ["sh", "-c", "echo $$"].map(String::from).to_vec(),
        pid_namespace: PidNamespace::New,
        streams: Streams::Handed { stdin: false, stdout: true, stderr: false },
        ..Spawn::default()
    };
    let fds: [BorrowedFd<'_>; 2] = [shell.as_fd(), stdout.as_fd()];
    process(kept.client.call(&Request::Spawn(spawn), &fds));
    drop(stdout);
    let mut text = String::new();
    reading.read_to_string(&mut text).expect("read");
    assert_eq!(text, "1\n");
    kept.wait("e");
    kept.client.call(&Request::Forget { id: "e".into() }, &[]).expect("forgotten");
    assert!(kept.client.list().expect("a list").is_empty());
}

#[test]
fn orphans_are_buried() {
    let kept = keeper();
    let id = kept.shell("a", "sh -c 'sh -c \"exit 0\" & exit 0' & wait; echo done", |_| ()).pid;
    kept.wait("a");
    let Ok(Reply::Hello { pid }) = kept.client.call(&Request::Hello, &[]) else { panic!("no hello") };
    let children = || fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    // The orphan may outlive its parent by a moment; a zombie that nobody buries stays for ever.
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !children().trim().is_empty() {
        assert!(std::time::Instant::now() < limit, "of {id}: {} are left", children());
        std::thread::yield_now();
    }
}

#[test]
fn what_cannot_be_started_is_refused_with_the_cause() {
    let kept = keeper();
    let file = File::open("/etc/passwd").expect("a file");
    let spawn = Spawn { id: "a".into(), args: vec!["passwd".into()], ..Spawn::default() };
    let answer = kept.client.call(&Request::Spawn(spawn), &[file.as_fd()]);
    let Err(ClientError::Refused { why, errno }) = answer else { panic!("{answer:?}") };
    assert_eq!((why.as_str(), errno), ("failed to start passwd: Permission denied (os error 13)", 13));
    assert!(kept.client.list().expect("a list").is_empty());
}

#[test]
fn it_needs_little_memory() {
    let kept = keeper();
    for number in 0..20 {
        kept.shell(&format!("p{number}"), "exec sleep 1000", |_| ());
    }
    let Ok(Reply::Hello { pid }) = kept.client.call(&Request::Hello, &[]) else { panic!("no hello") };
    let rollup = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup")).expect("its memory");
    let kib: u64 = rollup
        .lines()
        .filter(|line| line.starts_with("Private_Dirty:") || line.starts_with("Private_Clean:"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    println!("private memory with 20 processes: {kib} KiB");
    // An unoptimised build has a large text of its own; what ships shares its text with `skerry`.
    assert!(kib < 4096, "{kib} KiB");
}
