//! The keeper's loop: one thread, one `poll`.
//!
//! Start at [`main`]. Every request is answered at once but [`Request::Wait`], which is answered when the process ends.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{Clock, Monotonic, chain};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sys::fdpass::{MESSAGE_BYTES_MAX, accept, listen, peer_uid, receive, send};
use sys::process::{Process, become_subreaper, bury, peek, send_signal, set_oom_score_adj};
use sys::spawn::Spawn as Start;
use sys::{Doing, SystemClock};

use crate::held::{Held, Source};
use crate::holder::{End, HOLDER_FD, Holder, Supervisor};
use crate::home::{Home, start_anew};
use crate::protocol::{Attach, LIST_MAX, PidNamespace, Reply, Request, Spawn, Status, Streams, decode, encode};

const HELP: &str = "\
Starts processes on request, holds their output and remembers their exit codes.

Usage: keeper --socket PATH [--cgroup FOLDER] [--detach | --held | --home]

  --socket PATH     listen here (a unix socket, for the owner alone)
  --cgroup FOLDER   move into this cgroup first, so that nobody's end takes the keeper along
  --detach          return once it listens, leaving it in a session of its own, with a supervisor
  --held            descriptor 3 leads to a supervisor that holds what an earlier keeper left
  --home            be the supervisor of the keeper that descriptor 3 leads to
";

/// So many callers at once; a node has one, tests a few.
const CONNECTIONS_MAX: usize = 64;

/// Several descriptors a process, and a hundred pods; what is started gets limits of its own.
const DESCRIPTORS_MAX: u64 = 1 << 19;

/// The last to be killed when memory ends, after what the kernel will never kill.
const OOM_SCORE_ADJ: i64 = -999;

/// The keeper. `args` are the words after its name; the answer is the exit code.
pub fn main(args: impl Iterator<Item = OsString>) -> i32 {
    let args: Vec<OsString> = args.collect();
    // How this program is called to get here: its name, and perhaps a word of its own.
    let mut call: Vec<OsString> = std::env::args_os().collect();
    call.truncate(call.len().saturating_sub(args.len()));
    let options = match Options::read(call, args.into_iter()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return 0;
        }
        Err(why) => {
            eprintln!("keeper: {why}\n\n{HELP}");
            return 2;
        }
    };
    match serve(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("keeper: {}", chain(&error));
            1
        }
    }
}

struct Options {
    /// How this program is called to become a keeper.
    call: Vec<OsString>,
    socket: PathBuf,
    cgroup: Option<PathBuf>,
    role: Role,
}

/// What a process of this program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A keeper that nobody holds anything for.
    Alone,
    /// A supervisor that leaves its caller, and starts keepers.
    Detached,
    /// A keeper with a supervisor.
    Held,
    /// A supervisor of a keeper that runs.
    Home,
}

impl Options {
    fn read(call: Vec<OsString>, mut args: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
        let (mut socket, mut cgroup, mut role) = (None, None, Role::Alone);
        while let Some(word) = args.next() {
            let mut value = || args.next().map(PathBuf::from).ok_or(format!("{} needs a value", word.display()));
            match word.to_str() {
                Some("--socket") => socket = Some(value()?),
                Some("--cgroup") => cgroup = Some(value()?),
                Some("--detach") => role = Role::Detached,
                Some("--held") => role = Role::Held,
                Some("--home") => role = Role::Home,
                Some("--help" | "-h") => return Ok(None),
                _ => return Err(format!("unknown word {}", word.display())),
            }
        }
        let socket = socket.ok_or("--socket is missing")?;
        Ok(Some(Options { call, socket: std::path::absolute(&socket).unwrap_or(socket), cgroup, role }))
    }

    /// How the next keeper is called, but for its role. It starts in our cgroup.
    fn words(&self) -> Vec<OsString> {
        self.call.iter().cloned().chain(["--socket".into(), self.socket.clone().into()]).collect()
    }
}

fn serve(options: &Options) -> sys::Result<i32> {
    if let Some(folder) = &options.cgroup {
        enter_cgroup(folder)?;
    }
    // Without the right to (in a test's user namespace) we are killed like any other process, and hold fewer.
    let _ = set_oom_score_adj(OOM_SCORE_ADJ);
    let _ = sys::process::set_limit("RLIMIT_NOFILE", DESCRIPTORS_MAX, DESCRIPTORS_MAX);
    match options.role {
        Role::Alone => Keeper::open(options, None)?.run(),
        Role::Held => Keeper::open(options, Some(Supervisor::of(holder()?).doing("hear the supervisor")?))?.run(),
        Role::Home => Ok(Home::open(options.words(), Holder::of(holder()?).doing("hear the keeper")?)?.run()),
        Role::Detached => {
            let mut home = None;
            let mut open = || -> sys::Result<()> {
                let mut holder = Holder::default();
                holder.hold(LISTENER, listen(&options.socket)?);
                home = Some(Home::open(options.words(), holder)?);
                Ok(())
            };
            let ready = || open().map_err(|error| format!("keeper: {}", chain(&error)));
            match sys::process::detach(ready)? {
                Some(code) => Ok(code),
                None => Ok(home.map_or(1, Home::run)),
            }
        }
    }
}

/// What leads to the other side: keeper and supervisor find it at the same number.
fn holder() -> sys::Result<OwnedFd> {
    let missing = || io::Error::other(format!("descriptor {HOLDER_FD} is no socket"));
    sys::fdpass::inherited(HOLDER_FD).ok_or_else(missing).doing("reach the other side")
}

fn enter_cgroup(folder: &Path) -> sys::Result<()> {
    std::fs::create_dir_all(folder).doing_to("make cgroup", folder)?;
    std::fs::write(folder.join("cgroup.procs"), "0").doing_to("enter cgroup", folder)
}

struct Keeper {
    listener: OwnedFd,
    children: SignalFd,
    connections: BTreeMap<u32, OwnedFd>,
    next_connection: u32,
    processes: BTreeMap<String, Held>,
    pids: BTreeMap<u32, String>,
    quit: bool,
    buffer: Vec<u8>,
    supervisor: Option<Supervisor>,
    /// How this program is called to become a supervisor, and when that was tried last; nothing for a keeper without one.
    anew: Option<(Vec<OsString>, Monotonic)>,
}

/// Between two attempts to have a supervisor again.
const SUPERVISOR_EVERY: Duration = Duration::from_secs(1);

/// What the listening socket is called at the supervisor's; processes are called [`PROCESS`] and their id.
const LISTENER: &str = "listener";
const PROCESS: &str = "process ";

impl Keeper {
    fn open(options: &Options, supervisor: Option<Supervisor>) -> sys::Result<Keeper> {
        become_subreaper()?;
        sys::process::set_name("keeper");
        let mut wanted = SigSet::empty();
        wanted.add(Signal::SIGCHLD);
        wanted.thread_block().doing("block SIGCHLD")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let children = SignalFd::with_flags(&wanted, flags).doing("wait for SIGCHLD")?;
        let anew = supervisor.is_some().then(|| (options.words(), SystemClock.monotonic()));
        let (found, processes) = supervisor.as_ref().map_or((None, BTreeMap::new()), inherit);
        let listener = match found {
            Some(listener) => listener,
            None => listen(&options.socket)?,
        };
        std::env::set_current_dir("/").doing("enter /")?;
        let mut keeper = Keeper {
            listener,
            children,
            connections: BTreeMap::new(),
            next_connection: 0,
            processes,
            pids: BTreeMap::new(),
            quit: false,
            buffer: vec![0; MESSAGE_BYTES_MAX],
            supervisor,
            anew,
        };
        keeper.entrust_all();
        keeper.know_strangers();
        Ok(keeper)
    }

    /// Finds the processes that earlier keepers started: some have ended meanwhile.
    fn know_strangers(&mut self) {
        let mut over = Vec::new();
        for (id, held) in self.processes.iter_mut().filter(|(_, held)| held.status.exit.is_none()) {
            let process = Process { pid: held.status.pid, start_ticks: held.status.start_ticks };
            held.pidfd = process.open().ok();
            if held.pidfd.is_none() {
                over.push(id.clone());
            }
        }
        for id in over {
            self.stranger_ended(&id);
        }
    }

    /// A process that an earlier keeper started has ended: if anybody knows how, it is the supervisor.
    fn stranger_ended(&mut self, id: &str) {
        let end = self.supervisor.as_ref().and_then(|supervisor| supervisor.end_of(&format!("{PROCESS}{id}")).ok());
        let end = end.flatten();
        if let Some(held) = self.processes.get_mut(id) {
            held.ended(end.map(End::exit), end.map_or_else(|| SystemClock.now(), End::at));
        }
        self.tell_end(id);
    }

    /// Gives the supervisor a copy of everything.
    fn entrust_all(&mut self) {
        let Some(supervisor) = &self.supervisor else { return };
        let kept = supervisor.keep(LISTENER, 0, &[], &[self.listener.as_fd()]);
        if kept.is_err() {
            self.supervisor = None;
        }
        let all: Vec<String> = self.processes.keys().cloned().collect();
        for id in all {
            self.entrust(&id);
        }
    }

    /// Gives the supervisor what the next keeper needs of a process.
    fn entrust(&mut self, id: &str) {
        let (Some(supervisor), Some(held)) = (&self.supervisor, self.processes.get_mut(id)) else { return };
        held.changed = false;
        let (text, fds) = held.will();
        let pid = if held.status.exit.is_none() { held.status.pid } else { 0 };
        if supervisor.keep(&format!("{PROCESS}{id}"), pid, &text, &fds).is_err() {
            // Its socket says so as well, and is looked at next.
            self.supervisor = None;
        }
    }

    /// A supervisor that is gone is followed by one that we start ourselves.
    fn see_to_supervisor(&mut self) {
        let now = SystemClock.monotonic();
        let Some((words, last)) = &mut self.anew else { return };
        if self.supervisor.is_some() || now.since(*last) < SUPERVISOR_EVERY {
            return;
        }
        *last = now;
        let start = || -> sys::Result<Supervisor> {
            let (ours, theirs) = sys::fdpass::pair()?;
            start_anew(words, "--home", &theirs)?;
            Supervisor::of(ours).doing("hear the supervisor")
        };
        match start() {
            Ok(supervisor) => {
                self.supervisor = Some(supervisor);
                self.entrust_all();
            }
            Err(error) => eprintln!("keeper: {}", chain(&error)),
        }
    }

    fn run(&mut self) -> sys::Result<i32> {
        while !self.quit {
            let ready = self.wait();
            self.accept();
            let callers: Vec<u32> = self.connections.keys().copied().collect();
            for caller in callers {
                self.hear(caller);
            }
            // After the requests: one of them may have started a process that has ended already.
            while let Ok(Some(_)) = self.children.read_signal() {}
            while let Some((pid, exit)) = peek() {
                self.ended(pid, exit);
                // Only now: were we killed before, the supervisor would learn it in our place.
                bury(pid);
            }
            for id in ready {
                self.pump(&id);
            }
            self.see_to_supervisor();
        }
        if let Some(supervisor) = &self.supervisor {
            let _ = supervisor.quit();
        }
        Ok(0)
    }

    fn pump(&mut self, id: &str) {
        let Some(held) = self.processes.get_mut(id) else { return };
        held.pump(SystemClock.now());
        let changed = held.changed;
        let over = held.stranger && held.pidfd.as_ref().is_some_and(is_readable);
        if over {
            self.stranger_ended(id);
        } else if changed {
            self.entrust(id);
        }
    }

    /// Waits until something can be done; the answer is the processes that have something to move.
    fn wait(&mut self) -> Vec<String> {
        let read = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut wanted = vec![read(self.listener.as_fd()), read(self.children.as_fd())];
        // It speaks only when asked, so this is its end.
        wanted.extend(self.supervisor.iter().map(|supervisor| read(supervisor.socket())));
        let unsupervised = self.anew.is_some() && self.supervisor.is_none();
        let limit = if unsupervised { PollTimeout::from(1000u16) } else { PollTimeout::NONE };
        wanted.extend(self.connections.values().map(|socket| read(socket.as_fd())));
        let first = wanted.len();
        let mut owners = Vec::new();
        for (id, held) in &self.processes {
            wanted.extend(held.readable().map(read));
            wanted.extend(held.writable().map(|fd| PollFd::new(fd, PollFlags::POLLOUT)));
            owners.resize(wanted.len() - first, id);
        }
        // An interrupted wait is a wait that is over.
        let _ = poll(&mut wanted, limit);
        let is_ready = |each: &PollFd<'_>| each.revents().is_some_and(|found| !found.is_empty());
        let mut ready: Vec<String> =
            wanted[first..].iter().zip(owners).filter(|(each, _)| is_ready(each)).map(|(_, id)| id.clone()).collect();
        ready.dedup();
        let abandoned = self.supervisor.is_some() && is_ready(&wanted[2]);
        if abandoned {
            self.supervisor = None;
        }
        ready
    }

    fn accept(&mut self) {
        while let Ok(Some(caller)) = accept(&self.listener) {
            let own = nix::unistd::geteuid().as_raw();
            let trusted = peer_uid(&caller).is_ok_and(|uid| uid == own || uid == 0);
            if trusted && self.connections.len() < CONNECTIONS_MAX {
                self.connections.insert(self.next_connection, caller);
                self.next_connection += 1;
            }
        }
    }

    fn hear(&mut self, caller: u32) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(socket) = self.connections.get(&caller) {
            match receive(socket, &mut buffer) {
                Ok(Some((length, fds))) => self.obey(caller, &buffer[..length], fds),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(None) | Err(_) => self.hang_up(caller),
            }
        }
        self.buffer = buffer;
    }

    fn hang_up(&mut self, caller: u32) {
        self.connections.remove(&caller);
        for held in self.processes.values_mut() {
            held.waiting.retain(|(waiting, _)| *waiting != caller);
        }
    }

    fn obey(&mut self, caller: u32, message: &[u8], fds: Vec<OwnedFd>) {
        let (number, request) = match decode::<Request>(message) {
            Ok(decoded) => decoded,
            Err(error) => return self.reply(caller, 0, &Reply::Failed { why: chain(&error).to_string(), errno: 0 }),
        };
        let reply = match request {
            Request::Hello => Ok(Reply::Hello { pid: std::process::id() }),
            Request::Spawn(spawn) => self.spawn(spawn, fds),
            Request::List { after } => Ok(Reply::List(self.list(&after))),
            Request::Quit => {
                self.quit = true;
                Ok(Reply::Done)
            }
            Request::Forget { id } => self.forget(&id),
            Request::Wait { id } => match self.held(&id) {
                Ok(held) if held.status.exit.is_none() => {
                    held.waiting.push((caller, number));
                    return;
                }
                found => found.map(|held| Reply::Process(held.status.clone())),
            },
            Request::Signal { id, signal } => self.held(&id).and_then(|held| match held.status.exit {
                Some(_) => Ok(Reply::Done),
                None => {
                    let sent = held.pidfd.as_ref().map_or(Ok(()), |pidfd| send_signal(pidfd, signal));
                    sent.map(|()| Reply::Done).map_err(Refusal::from)
                }
            }),
            Request::Reopen { id } => {
                self.held(&id).and_then(|held| held.reopen_log().map(|()| Reply::Done).map_err(Refusal::from))
            }
            Request::Attach(attach) => self.attach(attach, fds),
            Request::Resize { id, columns, rows } => self.held(&id).and_then(|held| match &held.terminal {
                Some(terminal) => {
                    sys::tty::resize(terminal, columns, rows).map(|()| Reply::Done).map_err(Refusal::from)
                }
                None => Ok(Reply::Done),
            }),
        };
        let reply = reply.unwrap_or_else(|Refusal { why, errno }| Reply::Failed { why, errno });
        self.reply(caller, number, &reply);
    }

    fn held(&mut self, id: &str) -> Result<&mut Held, Refusal> {
        self.processes.get_mut(id).ok_or_else(|| Refusal::new(format!("there is no process {id}")))
    }

    fn list(&self, after: &str) -> Vec<Status> {
        let range = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        self.processes.range::<str, _>(range).take(LIST_MAX).map(|(_, held)| held.status.clone()).collect()
    }

    fn forget(&mut self, id: &str) -> Result<Reply, Refusal> {
        if self.processes.get(id).is_some_and(|held| held.status.exit.is_none()) {
            return Err(Refusal::new(format!("process {id} is still running")));
        }
        if self.processes.remove(id).is_some()
            && self.supervisor.as_ref().is_some_and(|supervisor| supervisor.forget(&format!("{PROCESS}{id}")).is_err())
        {
            self.supervisor = None;
        }
        Ok(Reply::Done)
    }

    fn attach(&mut self, attach: Attach, fds: Vec<OwnedFd>) -> Result<Reply, Refusal> {
        let mut fds = fds.into_iter();
        let [stdin, stdout, stderr] =
            [attach.stdin, attach.stdout, attach.stderr].map(|wanted| wanted.then(|| fds.next()).flatten());
        self.held(&attach.id)?.attach(stdin, stdout, stderr)?;
        Ok(Reply::Done)
    }

    fn spawn(&mut self, spawn: Spawn, fds: Vec<OwnedFd>) -> Result<Reply, Refusal> {
        if self.processes.contains_key(&spawn.id) {
            return Err(Refusal::new(format!("process {} is there already", spawn.id)));
        }
        let held = start(&spawn, fds)?;
        let status = held.status.clone();
        self.pids.insert(status.pid, spawn.id.clone());
        self.processes.insert(spawn.id, held);
        self.entrust(&status.id);
        Ok(Reply::Process(status))
    }

    /// One of ours, or an orphan of theirs that became ours: that one is only buried.
    fn ended(&mut self, pid: u32, exit: sys::process::Exit) {
        let Some(id) = self.pids.remove(&pid) else { return };
        let Some(held) = self.processes.get_mut(&id) else { return };
        held.ended(Some(exit), SystemClock.now());
        self.tell_end(&id);
    }

    /// Hands the end on to the supervisor and to who waits for it.
    fn tell_end(&mut self, id: &str) {
        self.entrust(id);
        let Some(held) = self.processes.get_mut(id) else { return };
        let reply = Reply::Process(held.status.clone());
        for (caller, number) in std::mem::take(&mut held.waiting) {
            self.reply(caller, number, &reply);
        }
    }

    /// A caller that does not read its replies is a caller no more.
    fn reply(&mut self, caller: u32, number: u32, reply: &Reply) {
        let Some(socket) = self.connections.get(&caller) else { return };
        if send(socket, &encode(number, reply), &[]).is_err() {
            self.hang_up(caller);
        }
    }
}

/// What an earlier keeper left with the supervisor: its listening socket and its processes. What cannot be read is told and
/// let go; the others go on.
fn inherit(supervisor: &Supervisor) -> (Option<OwnedFd>, BTreeMap<String, Held>) {
    let (mut listener, mut processes, mut after) = (None, BTreeMap::new(), String::new());
    while let Ok(Some((name, text, fds))) = supervisor.next(&after) {
        match name.strip_prefix(PROCESS) {
            None => listener = fds.into_iter().next(),
            Some(id) => match Held::revive(&text, fds) {
                Ok(held) => drop(processes.insert(id.to_owned(), held)),
                Err(error) => eprintln!("keeper: failed to take over process {id}: {error}"),
            },
        }
        after = name;
    }
    (listener, processes)
}

/// Whether a descriptor has something to read; of a process, whether it has ended.
fn is_readable(fd: &OwnedFd) -> bool {
    let mut wanted = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut wanted, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// Why a request was refused.
struct Refusal {
    why: String,
    errno: i32,
}

impl Refusal {
    fn new(why: String) -> Refusal {
        Refusal { why, errno: 0 }
    }
}

impl From<sys::SysError> for Refusal {
    fn from(error: sys::SysError) -> Refusal {
        Refusal { why: chain(&error).to_string(), errno: error.errno().unwrap_or(0) }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal { why: chain(&error).to_string(), errno: error.raw_os_error().unwrap_or(0) }
    }
}

/// Starts a process with its streams laid.
fn start(spawn: &Spawn, fds: Vec<OwnedFd>) -> Result<Held, Refusal> {
    let mut fds = fds.into_iter();
    let mut next = |what: &str| fds.next().ok_or_else(|| Refusal::new(format!("the descriptor for {what} is missing")));
    let program = next("the program")?;
    let namespace = match spawn.pid_namespace {
        PidNamespace::Of => Some(next("the pid namespace")?),
        PidNamespace::Own | PidNamespace::New => None,
    };
    let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    let channel = if spawn.channel { next("the channel")? } else { null()? };
    let mut pipes = Pipes::default();
    let streams = match spawn.streams {
        Streams::Handed { stdin, stdout, stderr } => [
            if stdin { next("stdin")? } else { null()? },
            if stdout { next("stdout")? } else { null()? },
            if stderr { next("stderr")? } else { null()? },
        ],
        Streams::Terminal { .. } => [null()?, null()?, null()?],
        Streams::Held { stdin, .. } => pipes.lay(stdin, null()?)?,
    };
    let (console, console_end) = match spawn.streams {
        Streams::Terminal { .. } => {
            let (ours, theirs) = sys::fdpass::pair()?;
            sys::files::set_nonblocking(&ours, true)?;
            (Some(ours), theirs)
        }
        _ => (None, null()?),
    };
    let cgroup = match spawn.cgroup.as_str() {
        "" => None,
        folder => Some(File::open(folder).doing_to("open cgroup", folder.as_ref())?),
    };
    let log = match spawn.log.as_str() {
        "" => None,
        path => Some(crate::log::LogFile::open(path.as_ref()).doing_to("open log", path.as_ref())?),
    };
    let words = |words: &[String]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let [stdin, stdout, stderr] = &streams;
    let started = Start {
        program: Some(program.as_fd()),
        args: &words(&spawn.args),
        env: &words(&spawn.env),
        fds: &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), channel.as_fd(), console_end.as_fd()],
        new_pid_namespace: spawn.pid_namespace == PidNamespace::New,
        pid_namespace: namespace.as_ref().map(AsFd::as_fd),
        cgroup: cgroup.as_ref().map(AsFd::as_fd),
        new_session: true,
    }
    .start()?;
    let start_ticks = Process::of(started.pid).map_or(0, |process| process.start_ticks);
    let started_at_ns = SystemClock.now().0;
    let status = Status { id: spawn.id.clone(), pid: started.pid, start_ticks, started_at_ns, exit: None };
    let mut held = Held::new(status, Some(started.pidfd), spawn.streams);
    held.cgroup = spawn.cgroup.clone();
    held.exit_file = spawn.exit_file.clone();
    (held.log, held.console) = (log, console);
    (held.stdin, held.stdout, held.stderr) = (pipes.stdin, pipes.stdout, pipes.stderr);
    held.log_begins();
    Ok(held)
}

/// The keeper's ends of a process's pipes.
#[derive(Default)]
struct Pipes {
    stdin: Option<File>,
    stdout: Option<Source>,
    stderr: Option<Source>,
}

impl Pipes {
    /// Makes the pipes, and gives the process's ends.
    fn lay(&mut self, with_stdin: bool, null: OwnedFd) -> Result<[OwnedFd; 3], Refusal> {
        let stdin = if with_stdin {
            let (reader, writer) = io::pipe()?;
            sys::files::set_nonblocking(&writer, true)?;
            self.stdin = Some(OwnedFd::from(writer).into());
            reader.into()
        } else {
            null
        };
        let (stdout, stdout_end) = io::pipe()?;
        let (stderr, stderr_end) = io::pipe()?;
        self.stdout = Some(Source::new("stdout", stdout.into(), false)?);
        self.stderr = Some(Source::new("stderr", stderr.into(), false)?);
        Ok([stdin, stdout_end.into(), stderr_end.into()])
    }
}
