//! A process that is held: its streams, its log, who is attached, how it ended.
//!
//! Start at [`Held`]. Its descriptors are never waited on here: `run.rs` polls them all and calls [`Held::pump`].
//!
//! Invariants:
//! * an attached reader that is slow loses its connection and never slows the process;
//! * at most [`PENDING_BYTES_MAX`] of input wait for a process that does not read;
//! * [`Held::will`] and [`Held::revive`] carry all of it but who is attached from a keeper that dies to the next.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use base::{Clock, Timestamp};
use sys::SystemClock;
use sys::files::set_nonblocking;

use serde::{Deserialize, Serialize};

use crate::log::{Lines, LogFile};
use crate::protocol::{Exit, Status, Streams, UNKNOWN};
use crate::spool::Spool;

/// Input that was read from an attached caller and not yet taken by the process.
const PENDING_BYTES_MAX: usize = 4096;

/// How much is read at once; also bounds how long one process keeps the others waiting.
const READ_BYTES: usize = 16 << 10;

/// Reads of one stream in a row, before the others get their turn.
const READS_MAX: usize = 8;

pub(crate) struct Held {
    pub(crate) status: Status,
    /// It, while it runs.
    pub(crate) pidfd: Option<OwnedFd>,
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
    /// An earlier keeper had started it, so its end is not told to us.
    pub(crate) stranger: bool,
    /// What [`Held::will`] says has changed.
    pub(crate) changed: bool,
}

/// What the next keeper needs to know; the descriptors come in the order of `parts`.
#[derive(Debug, Serialize, Deserialize)]
struct Will {
    status: Status,
    cgroup: String,
    exit_file: String,
    log: String,
    wants_stdin: bool,
    stdin_once: bool,
    parts: Vec<Part>,
}

/// A descriptor of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Part {
    Stdin,
    Stdout,
    StdoutSpool,
    Stderr,
    StderrSpool,
    Console,
    Terminal,
}

/// An output of a process.
pub(crate) struct Source {
    pub(crate) file: File,
    terminal: bool,
    spool: Spool,
    lines: Lines,
    listeners: Vec<File>,
}

impl Source {
    pub(crate) fn new(stream: &'static str, pipe: OwnedFd, terminal: bool) -> io::Result<Source> {
        set_nonblocking(&pipe, true)?;
        let (spool, lines) = (Spool::new()?, Lines::new(stream));
        Ok(Source { file: pipe.into(), terminal, spool, lines, listeners: Vec::new() })
    }

    /// Reads what is there into the log and to the listeners. False when the stream has ended.
    fn pump(&mut self, log: &mut Option<LogFile>, now: Timestamp) -> bool {
        let mut buffer = [0; READ_BYTES];
        let mut out = Vec::new();
        let mut open = true;
        for _ in 0..READS_MAX {
            match self.spool.take(&mut self.file, self.terminal, &mut buffer) {
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
        self.settle(log);
        open
    }

    /// A spool in memory takes a few bytes always, or the machine is beyond help.
    fn settle(&mut self, log: &Option<LogFile>) {
        let _ = self.spool.settle(self.lines.begun(), log.as_ref().map(LogFile::end).unwrap_or_default());
    }

    /// Takes over an output, with what of it the log may not have.
    fn revive(stream: &'static str, pipe: OwnedFd, spool: OwnedFd, terminal: bool) -> io::Result<(Source, Vec<u8>)> {
        let (spool, pending) = Spool::revive(spool.into())?;
        let lines = Lines::new(stream);
        Ok((Source { file: pipe.into(), terminal, spool, lines, listeners: Vec::new() }, pending))
    }
}

impl Held {
    pub(crate) fn new(status: Status, pidfd: Option<OwnedFd>, streams: Streams) -> Held {
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
            stranger: false,
            changed: false,
        }
    }

    /// What the next keeper needs of it, as a text and descriptors.
    pub(crate) fn will(&self) -> (Vec<u8>, Vec<BorrowedFd<'_>>) {
        let mut all: Vec<(Part, BorrowedFd<'_>)> = Vec::new();
        if self.status.exit.is_none() {
            all.extend(self.stdin.iter().map(|stdin| (Part::Stdin, stdin.as_fd())));
            for (source, part, spool_part) in
                [(&self.stdout, Part::Stdout, Part::StdoutSpool), (&self.stderr, Part::Stderr, Part::StderrSpool)]
            {
                if let Some(source) = source {
                    all.extend([(part, source.file.as_fd()), (spool_part, source.spool.file().as_fd())]);
                }
            }
            all.extend(self.console.iter().map(|console| (Part::Console, console.as_fd())));
            all.extend(self.terminal.iter().map(|terminal| (Part::Terminal, terminal.as_fd())));
        }
        let (parts, fds) = all.into_iter().unzip();
        let will = Will {
            status: self.status.clone(),
            cgroup: self.cgroup.clone(),
            exit_file: self.exit_file.clone(),
            log: self.log.as_ref().map(|log| log.path().to_string_lossy().into_owned()).unwrap_or_default(),
            wants_stdin: self.wants_stdin,
            stdin_once: self.stdin_once,
            parts,
        };
        (postcard::to_allocvec(&will).unwrap_or_default(), fds)
    }

    /// Takes over what an earlier keeper left. Its process may have ended since.
    pub(crate) fn revive(text: &[u8], fds: Vec<OwnedFd>) -> io::Result<Held> {
        let will: Will = postcard::from_bytes(text).map_err(io::Error::other)?;
        let mut fds: Vec<(Part, OwnedFd)> = will.parts.into_iter().zip(fds).collect();
        let mut take = |wanted: Part| {
            let at = fds.iter().position(|(part, _)| *part == wanted)?;
            Some(fds.swap_remove(at).1)
        };
        let mut held = Held::new(will.status, None, Streams::default());
        (held.cgroup, held.exit_file) = (will.cgroup, will.exit_file);
        (held.wants_stdin, held.stdin_once, held.stranger) = (will.wants_stdin, will.stdin_once, true);
        if !will.log.is_empty() && held.status.exit.is_none() {
            // A folder that is gone or a full disk: the process goes on without, as it does elsewhere.
            held.log = LogFile::open(will.log.as_ref()).ok();
        }
        held.console = take(Part::Console);
        held.terminal = take(Part::Terminal);
        held.stdin = take(Part::Stdin).map(File::from);
        let terminal = held.terminal.is_some();
        let mut outputs = Vec::new();
        for (stream, part, spool_part) in
            [("stdout", Part::Stdout, Part::StdoutSpool), ("stderr", Part::Stderr, Part::StderrSpool)]
        {
            let (pipe, spool) = (take(part), take(spool_part));
            let source = pipe.zip(spool).map(|(pipe, spool)| Source::revive(stream, pipe, spool, terminal));
            outputs.push(source.transpose()?);
        }
        held.take_over(outputs);
        Ok(held)
    }

    /// What the earlier keeper wrote and had no time to settle is taken back and written again.
    fn take_over(&mut self, outputs: Vec<Option<(Source, Vec<u8>)>>) {
        let now = SystemClock.now();
        if let Some(log) = &mut self.log {
            let here = log.end().inode;
            let known = outputs.iter().flatten().map(|(source, _)| source.spool.log());
            if let Some(end) = known.filter(|end| end.inode == here).max_by_key(|end| end.bytes) {
                log.cut_to(end);
            }
        }
        for (slot, output) in [&mut self.stdout, &mut self.stderr].into_iter().zip(outputs) {
            let Some((mut source, pending)) = output else { continue };
            let mut out = Vec::new();
            source.lines.feed(&pending, now, &mut out);
            if let Some(log) = self.log.as_mut().filter(|_| !out.is_empty()) {
                log.append(&out);
            }
            source.settle(&self.log);
            *slot = Some(source);
        }
    }

    /// From now on the log is this one; said to the spools, so that the next keeper knows where it began.
    pub(crate) fn log_begins(&mut self) {
        for source in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            source.settle(&self.log);
        }
    }

    /// Starts a new log file after the present one was renamed away.
    pub(crate) fn reopen_log(&mut self) -> io::Result<()> {
        if let Some(log) = &mut self.log {
            log.reopen()?;
            self.log_begins();
        }
        Ok(())
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
        self.stdout = Some(Source::new("stdout", terminal.try_clone()?, true)?);
        self.stdin = if self.wants_stdin { Some(terminal.try_clone()?.into()) } else { None };
        self.terminal = Some(terminal);
        self.changed = true;
        self.log_begins();
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
            // Or the supervisor's copy would keep it open.
            self.changed = true;
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

    /// The process has ended: everything it wrote is logged, the code kept. Without an `exit` nobody could learn it.
    pub(crate) fn ended(&mut self, exit: Option<sys::process::Exit>, now: Timestamp) {
        self.take_terminal();
        self.drain(now);
        let signal = match exit {
            Some(sys::process::Exit::Signal(signal)) => signal,
            _ => 0,
        };
        let code = exit.map_or(UNKNOWN, sys::process::Exit::shell_code);
        let exit = Exit { code, signal, finished_at_ns: now.0, oom_killed: self.oom_kills() > 0 };
        self.status.exit = Some(exit);
        (self.stdin, self.terminal, self.pidfd) = (None, None, None);
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
    }

    fn oom_kills(&self) -> u64 {
        let text = std::fs::read_to_string(format!("{}/memory.events", self.cgroup)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// What to wait for: readable ones, then writable ones.
    pub(crate) fn readable(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let outputs = [&self.stdout, &self.stderr].into_iter().flatten().map(|source| source.file.as_fd());
        let typists = self.typists.iter().filter(|_| self.pending.is_empty()).map(AsFd::as_fd);
        let end = self.pidfd.iter().filter(|_| self.stranger).map(AsFd::as_fd);
        outputs.chain(self.console.iter().map(AsFd::as_fd)).chain(typists).chain(end)
    }

    /// See [`Held::readable`].
    pub(crate) fn writable(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().filter(|_| !self.pending.is_empty()).map(AsFd::as_fd)
    }
}
