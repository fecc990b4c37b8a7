//! A real keeper and real processes.
//!
//! Each test starts a keeper of its own in a folder of its own, and tells it to quit.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use keeper::{
    Attach, Client, ClientError, PidNamespace, Reply, Request, Spawn, Status, Streams, UNKNOWN, start_detached,
};

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
    fn pid(&self) -> u32 {
        match self.client.call(&Request::Hello, &[]) {
            Ok(Reply::Hello { pid }) => pid,
            other => panic!("no hello: {other:?}"),
        }
    }

    /// Kills the keeper; the next one answers at the same socket.
    fn kill_keeper(&mut self) {
        let pid = self.pid();
        kill(pid);
        self.client = Client::connect(&self.folder.path().join("keeper.sock")).expect("connected");
        assert_ne!(self.pid(), pid, "another keeper answers");
    }

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

fn kill(pid: u32) {
    let pidfd = sys::process::pidfd_open(pid).expect("it runs");
    sys::process::send_signal(&pidfd, 9).expect("killed");
    sys::process::wait_gone(&pidfd);
}

fn parent_of(pid: u32) -> u32 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    line.trim().parse().expect("a pid")
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

/// Counts as fast as a shell can, while keepers die.
const COUNT: &str = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo line $i; done; printf 'no newline'; exit 7";

#[track_caller]
fn all_lines_are_there(log: &[String]) {
    for (index, line) in log.iter().take(30_000).enumerate() {
        assert_eq!(*line, format!("stdout F line {}", index + 1));
    }
    assert_eq!(log[30_000..], ["stdout F no newline"]);
}

#[test]
fn a_keeper_that_is_killed_costs_no_line() {
    let mut kept = keeper();
    kept.shell("a", COUNT, |_| ());
    let mut deaths = 0;
    while kept.client.list().expect("a list")[0].exit.is_none() {
        kept.kill_keeper();
        deaths += 1;
    }
    assert_eq!(kept.wait("a").exit.expect("an end").code, 7, "the supervisor knows the code");
    assert!(deaths > 1, "{deaths} keepers died while it wrote");
    all_lines_are_there(&kept.log("log"));
}

#[test]
fn a_begun_line_and_an_open_stdin_outlive_a_keeper() {
    let mut kept = keeper();
    kept.shell("a", "printf 'one '; read line; echo $line; read line; echo $line >&2", |spawn| {
        spawn.streams = Streams::Held { stdin: true, stdin_once: false };
    });
    for word in ["two\n", "three\n"] {
        kept.kill_keeper();
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let attach = Attach { id: "a".into(), stdin: true, ..Attach::default() };
        kept.client.call(&Request::Attach(attach), &[reader.as_fd()]).expect("attached");
        writer.write_all(word.as_bytes()).expect("typed");
        drop((reader, writer));
        // Read by the process, not only by the keeper, before the next death.
        while !kept.log("log").concat().contains(word.trim()) && kept.client.list().expect("a list")[0].exit.is_none() {
            std::thread::yield_now();
        }
    }
    assert_eq!(kept.wait("a").exit.expect("an end").code, 0);
    assert_eq!(kept.log("log"), ["stdout F one two", "stderr F three"]);
}

#[test]
fn an_end_that_no_keeper_saw_is_known() {
    let mut kept = keeper();
    let status = kept.shell("a", "exec sleep 1000", |spawn| spawn.exit_file = kept.path("exit"));
    kept.shell("b", "read line; exit 5", |spawn| {
        spawn.streams = Streams::Held { stdin: true, stdin_once: true };
        spawn.log = String::new();
    });
    let pid = kept.pid();
    let pidfd = sys::process::pidfd_open(pid).expect("it runs");
    sys::process::send_signal(&pidfd, 19).expect("stopped");
    kill(status.pid);
    kill(pid);
    kept.client = Client::connect(&kept.folder.path().join("keeper.sock")).expect("connected");
    let exit = kept.wait("a").exit.expect("an end");
    assert_eq!((exit.code, exit.signal), (137, 9));
    assert!(fs::read_to_string(kept.path("exit")).expect("an exit file").starts_with("{\"code\":137,"));
    assert_eq!(kept.client.list().expect("a list").len(), 2, "the other one goes on");
}

#[test]
fn a_supervisor_that_is_killed_is_followed_by_another() {
    let mut kept = keeper();
    let (old, keeper) = (parent_of(kept.pid()), kept.pid());
    kept.shell("a", COUNT, |_| ());
    kill(old);
    // The next supervisor is a child of the keeper: from its birth on, a death of the keeper costs no output.
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let children = || fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).expect("its children");
    let is_home = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "keeper-home\n");
    while !children().split_whitespace().any(is_home) {
        assert!(std::time::Instant::now() < limit, "no supervisor among {}", children());
        std::thread::yield_now();
    }
    assert_eq!(kept.pid(), keeper, "the keeper went on");
    kept.kill_keeper();
    let code = kept.wait("a").exit.expect("an end").code;
    assert!([7, UNKNOWN].contains(&code), "{code}: it became the child of somebody else, unless it had ended before");
    all_lines_are_there(&kept.log("log"));
}

#[test]
fn quitting_leaves_neither_keeper_nor_supervisor() {
    let kept = keeper();
    let (keeper, home) = (kept.pid(), parent_of(kept.pid()));
    let both = [keeper, home].map(|pid| sys::process::pidfd_open(pid).expect("it runs"));
    kept.client.call(&Request::Quit, &[]).expect("told");
    both.iter().for_each(|pidfd| sys::process::wait_gone(pidfd));
}
