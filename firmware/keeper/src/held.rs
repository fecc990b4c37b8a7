//! A process that is held: its streams, its log, who is attached, how it ended.
//!
//! Start at [`Held`]. Its descriptors are never waited on here: `run.rs` polls them all and calls [`Held::pump`].
//!
//! Invariants:
//! * an attached reader that is slow loses its connection and never slows the process;
//! * at most [`PENDING_BYTES_MAX`] of input wait for a process that does not read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use base::{Clock, Timestamp};
use sys::SystemClock;
use sys::files::set_nonblocking;

use crate::log::{Lines, LogFile};
use crate::protocol::{Exit, Status, Streams};

/// Input that was read from an attached caller and not yet taken by the process.
const PENDING_BYTES_MAX: usize = 4096;

/// How much is read at once; also bounds how long one process keeps the others waiting.
const READ_BYTES: usize = 16 << 10;

/// Reads of one stream in a row, before the others get their turn.
const READS_MAX: usize = 8;

pub(crate) struct Held {
    pub(crate) status: Status,
    pub(crate) pidfd: OwnedFd,
    pub(crate) cgroup: String,
    pub(crate) exit_file: String,
    pub(crate) log: Option<LogFile>,
    pub(crate) stdout: Option<Source>,
    pub(crate) stderr: Option<Source>,
    /// Where its terminal will arrive.
    pub(crate) console: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) wants_stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) stdin: Option<File>,
    /// What was typed and not yet taken.
    pub(crate) pending: Vec<u8>,
    pub(crate) typists: Vec<File>,
    /// The first typist is gone and stdin is for one: it closes once nothing is pending.
    stdin_ends: bool,
    /// Who waits for its end: connection and number of the request.
    pub(crate) waiting: Vec<(u32, u32)>,
}

/// An output of a process.
pub(crate) struct Source {
    pub(crate) file: File,
    lines: Lines,
    listeners: Vec<File>,
}

impl Source {
    pub(crate) fn new(stream: &'static str, pipe: OwnedFd) -> io::Result<Source> {
        set_nonblocking(&pipe, true)?;
        Ok(Source { file: pipe.into(), lines: Lines::new(stream), listeners: Vec::new() })
    }

    /// Reads what is there into the log and to the listeners. False when the stream has ended.
    fn pump(&mut self, log: &mut Option<LogFile>, now: Timestamp) -> bool {
        let mut buffer = [0; READ_BYTES];
        let mut out = Vec::new();
        let mut open = true;
        for _ in 0..READS_MAX {
            match self.file.read(&mut buffer) {
                Ok(0) => open = false,
                Ok(length) => {
                    if log.is_some() {
                        self.lines.feed(&buffer[..length], now, &mut out);
                    }
                    self.listeners.retain_mut(|listener| listener.write_all(&buffer[..length]).is_ok());
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A terminal whose other side is closed says EIO.
                Err(_) => open = false,
            }
            break;
        }
        if !open {
            self.lines.finish(now, &mut out);
        }
        if let Some(log) = log.as_mut().filter(|_| !out.is_empty()) {
            log.append(&out);
        }
        open
    }
}

impl Held {
    pub(crate) fn new(status: Status, pidfd: OwnedFd, streams: Streams) -> Held {
        let (wants_stdin, stdin_once) = match streams {
            Streams::Held { stdin, stdin_once } => (stdin, stdin_once),
            Streams::Terminal { stdin } => (stdin, false),
            Streams::Handed { .. } => (false, false),
        };
        Held {
            status,
            pidfd,
            cgroup: String::new(),
            exit_file: String::new(),
            log: None,
            stdout: None,
            stderr: None,
            console: None,
            terminal: None,
            wants_stdin,
            stdin_once,
            stdin: None,
            pending: Vec::new(),
            typists: Vec::new(),
            stdin_ends: false,
            waiting: Vec::new(),
        }
    }

    /// Moves bytes wherever they can move.
    pub(crate) fn pump(&mut self, now: Timestamp) {
        self.take_terminal();
        for slot in [&mut self.stdout, &mut self.stderr] {
            if slot.as_mut().is_some_and(|source| !source.pump(&mut self.log, now)) {
                *slot = None;
            }
        }
        self.pump_stdin();
    }

    /// Reads all that is there: after the end of the process nothing new comes but from its orphans.
    pub(crate) fn drain(&mut self, now: Timestamp) {
        for slot in [&mut self.stdout, &mut self.stderr] {
            // The pipe holds 64 KiB, or 1 MiB at most: so many rounds empty it.
            for _ in 0..(1 << 20) / (READ_BYTES * READS_MAX) + 1 {
                if !slot.as_mut().is_some_and(|source| source.pump(&mut self.log, now)) {
                    *slot = None;
                    break;
                }
            }
        }
    }

    /// The program sends us our side of its terminal once it has made it.
    fn take_terminal(&mut self) {
        let Some(console) = &self.console else { return };
        let mut byte = [0; 16];
        match sys::fdpass::receive(console, &mut byte) {
            Ok(Some((_, fds))) => {
                if let Some(terminal) = fds.into_iter().next() {
                    let _ = self.set_terminal(terminal);
                }
                self.console = None;
            }
            Ok(None) => self.console = None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.console = None,
        }
    }

    fn set_terminal(&mut self, terminal: OwnedFd) -> io::Result<()> {
        self.stdout = Some(Source::new("stdout", terminal.try_clone()?)?);
        self.stdin = if self.wants_stdin { Some(terminal.try_clone()?.into()) } else { None };
        self.terminal = Some(terminal);
        Ok(())
    }

    fn pump_stdin(&mut self) {
        let Some(stdin) = &mut self.stdin else {
            self.typists.clear();
            return;
        };
        if self.pending.is_empty() {
            let mut buffer = [0; PENDING_BYTES_MAX];
            self.typists.retain_mut(|typist| {
                let room = PENDING_BYTES_MAX - self.pending.len();
                match typist.read(&mut buffer[..room]) {
                    _ if room == 0 => true,
                    Ok(0) => {
                        self.stdin_ends = self.stdin_once;
                        false
                    }
                    Ok(length) => {
                        self.pending.extend_from_slice(&buffer[..length]);
                        true
                    }
                    Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
                }
            });
        }
        let mut broken = false;
        while !self.pending.is_empty() {
            match stdin.write(&self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        if broken {
            self.pending.clear();
        }
        let finished = self.stdin_ends && self.pending.is_empty();
        if broken || finished {
            self.stdin = None;
        }
        if self.pending.is_empty() {
            self.pending.shrink_to(0);
        }
    }

    /// Joins a caller's streams.
    pub(crate) fn attach(
        &mut self,
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> sys::Result<()> {
        for fd in [&stdin, &stdout, &stderr].into_iter().flatten() {
            set_nonblocking(fd, true)?;
        }
        // It may have been sent and not been looked at yet.
        self.take_terminal();
        self.typists.extend(stdin.filter(|_| self.stdin.is_some() || self.console.is_some()).map(File::from));
        for (slot, pipe) in [(&mut self.stdout, stdout), (&mut self.stderr, stderr)] {
            if let (Some(source), Some(pipe)) = (slot, pipe) {
                source.listeners.push(pipe.into());
            }
        }
        Ok(())
    }

    /// The process has ended: everything it wrote is logged, the code kept.
    pub(crate) fn ended(&mut self, exit: sys::process::Exit) -> Exit {
        let now = SystemClock.now();
        self.take_terminal();
        self.drain(now);
        let signal = match exit {
            sys::process::Exit::Signal(signal) => signal,
            sys::process::Exit::Code(_) => 0,
        };
        let exit = Exit { code: exit.shell_code(), signal, finished_at_ns: now.0, oom_killed: self.oom_kills() > 0 };
        self.status.exit = Some(exit);
        (self.stdin, self.terminal) = (None, None);
        self.typists.clear();
        if !self.exit_file.is_empty() {
            let text = format!(
                "{{\"code\":{},\"signal\":{},\"finished_at\":\"{}\",\"oom_killed\":{}}}\n",
                exit.code,
                exit.signal,
                now.rfc3339_nanos(),
                exit.oom_killed
            );
            // Not waiting for the disk, which would stop everybody's output: after a power cut nobody asks.
            let _ = sys::files::replace(self.exit_file.as_ref(), text.as_bytes(), 0o600);
        }
        exit
    }

    fn oom_kills(&self) -> u64 {
        let text = std::fs::read_to_string(format!("{}/memory.events", self.cgroup)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// What to wait for: readable ones, then writable ones.
    pub(crate) fn readable(&self) -> impl Iterator<Item = std::os::fd::BorrowedFd<'_>> {
        let outputs = [&self.stdout, &self.stderr].into_iter().flatten().map(|source| source.file.as_fd());
        let typists = self.typists.iter().filter(|_| self.pending.is_empty()).map(AsFd::as_fd);
        outputs.chain(self.console.iter().map(AsFd::as_fd)).chain(typists)
    }

    /// See [`Held::readable`].
    pub(crate) fn writable(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.stdin.as_ref().filter(|_| !self.pending.is_empty()).map(AsFd::as_fd)
    }
}
