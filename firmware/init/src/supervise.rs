//! Keeps programs running: starts them, reads what they say, reaps them and starts them again.
//!
//! Start at [`run`]. One thread, smol's executor: a task a service, one for signals, one a chore.
//!
//! Invariants:
//! * a program that ends is started again, after a pause that doubles up to [`PAUSE_MAX`] and is forgotten after a long run;
//! * every child that the kernel hands us is reaped, ours or not;
//! * what a keeper holds is held here too, and handed to the next keeper: see [`keeper::Holder`];
//! * a service's log never exceeds twice [`LOG_BYTES_MAX`];
//! * nobody waits for the disk on the executor, which feeds the watchdog: see [`on_disk`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{Clock, log_file};
use keeper::Holder;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use slots::Cause;
use smol::channel::{Receiver, Sender, bounded};
use smol::io::AsyncReadExt;
use smol::{Async, LocalExecutor, Timer};
use sys::SystemClock;
use sys::process::Exit;
use sys::spawn::Spawn;
use update::trial::{Terms, Verdict};

use crate::console::say;
use crate::data::DATA;
use crate::facts::Service;
use crate::network::Learnt;
use crate::power::{DISK_MAX, Down};
use crate::root::Machine;
use crate::watchdog::{RUNNING_S, Watchdog};
use crate::{clock, ntp, trial};

/// The first pause before a program is started again.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A program that ran so long is healthy: its next end starts with the shortest pause.
const LONG_RUN: Duration = Duration::from_secs(60);
/// A service's log is begun anew here, keeping the one before.
const LOG_BYTES_MAX: u64 = 1 << 20;
/// Longer lines are cut.
const LINE_BYTES_MAX: usize = 4096;
/// So many lines wait for a slow disk before the program that says them waits too.
const LINES_WAITING_MAX: usize = 128;
/// So much of what a program says is taken at once.
const READ_BYTES: usize = 8192;
/// A power cut sets the clock of a board without one back by so much at most.
const REMEMBER_EVERY: Duration = Duration::from_secs(3600);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What a program said last may still be in its pipe.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// What hinders everything is said again for whoever comes later.
const LAMENT_EVERY: Duration = Duration::from_secs(300);
/// A port nobody listens at is looked at so often.
const PORT_EVERY: Duration = Duration::from_secs(2);
/// As many as the kernel lets a process have by default.
const DESCRIPTORS_MAX: u64 = 1 << 19;

/// The pause after a program ran for `ran`, the last pause being `last`.
pub fn pause_after(ran: Duration, last: Duration) -> Duration {
    if ran >= LONG_RUN { PAUSE_MIN } else { (last * 2).clamp(PAUSE_MIN, PAUSE_MAX) }
}

/// Whose end matters to somebody.
#[derive(Default)]
struct Family {
    /// Services, and who waits for the end of each.
    services: RefCell<BTreeMap<u32, Sender<String>>>,
    /// What the keeper left here, and the ends of the processes of keepers that died.
    holder: RefCell<Holder>,
}

impl Family {
    /// Buries one child that has ended, ours or not.
    fn bury(&self) -> Option<(u32, Exit)> {
        let (pid, exit) = sys::process::reap()?;
        if let Some(service) = self.services.borrow_mut().remove(&pid) {
            let _gone = service.try_send(format!("{exit:?}"));
        }
        Some((pid, exit))
    }

    fn bury_all(&self) {
        while let Some((pid, exit)) = self.bury() {
            self.holder.borrow_mut().buried(pid, exit);
        }
    }

    /// Does what the keeper asks, until it is gone.
    async fn hold(&self) {
        let socket = self.holder.borrow().socket().and_then(|socket| socket.try_clone_to_owned().ok());
        let Some(Ok(socket)) = socket.map(Async::new) else { return };
        while socket.readable().await.is_ok() {
            if !self.holder.borrow_mut().hear(|| self.bury()) {
                return;
            }
        }
    }
}

/// How the machine shall go down, once somebody said so.
struct Orders {
    down: Cell<Option<Down>>,
    given: Sender<Down>,
}

impl Orders {
    /// None yet, and where one is heard.
    fn new() -> (Orders, Receiver<Down>) {
        let (given, heard) = bounded(1);
        (Orders { down: Cell::new(None), given }, heard)
    }

    /// The first order counts.
    fn give(&self, how: Down) {
        if self.down.get().is_none() {
            self.down.set(Some(how));
            let _heard_once = self.given.try_send(how);
        }
    }

    fn are_given(&self) -> bool {
        self.down.get().is_some()
    }
}

/// Blocks what [`run`] waits for. Called before any thread is made, so that all inherit it.
pub fn block_signals() {
    let _kept = signals().thread_block();
}

fn signals() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGUSR2].into_iter().collect()
}

/// Runs the services until somebody asks the machine to go down; says how.
pub fn run(machine: &Machine) -> io::Result<Down> {
    let family = Rc::new(Family::default());
    // The holder has several descriptors a container; without the right to, it has to do with fewer.
    let _fewer = sys::process::set_limit("RLIMIT_NOFILE", DESCRIPTORS_MAX, DESCRIPTORS_MAX);
    let (orders, heard) = Orders::new();
    let orders = Rc::new(orders);
    let executor = LocalExecutor::new();
    let signals = Async::new(SignalFd::with_flags(&signals(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)?;
    if machine.has_data {
        for service in machine.services.clone() {
            executor.spawn(keep(service, Rc::clone(&family), Rc::clone(&orders))).detach();
        }
        executor.spawn(remember_time(Rc::clone(&orders))).detach();
    } else {
        executor.spawn(lament()).detach();
    }
    executor.spawn(keep_time(machine.settings.ntp.clone(), machine.learnt.clone(), machine.built)).detach();
    for (file, port) in machine.published.clone() {
        executor.spawn(publish(file, port)).detach();
    }
    if let Some(watchdog) = machine.watchdog.clone() {
        executor.spawn(feed(watchdog)).detach();
    }
    executor.spawn(listen_for_orders(Rc::clone(&orders))).detach();
    if let Some(judged) = Judged::of(machine, &orders) {
        executor.spawn(judge(judged)).detach();
    }
    smol::block_on(executor.run(watch(signals, family, heard, orders)))
}

/// Signals are told here, and children reaped.
async fn watch(
    signals: Async<SignalFd>,
    family: Rc<Family>,
    heard: Receiver<Down>,
    orders: Rc<Orders>,
) -> io::Result<Down> {
    loop {
        family.bury_all();
        let signalled = async { signals.readable().await.map(|()| None) };
        let ordered = async { Ok(heard.recv().await.ok()) };
        if let Some(how) = smol::future::or(signalled, ordered).await? {
            return Ok(how);
        }
        while let Ok(Some(signal)) = signals.get_ref().read_signal() {
            if let Some(how) = order_of(signal.ssi_signo as i32) {
                orders.give(how);
            }
        }
    }
}

/// Gives the watchdog its signs of life for as long as this executor gets to run its tasks.
async fn feed(watchdog: Watchdog) {
    let every = watchdog.bite_after(RUNNING_S) / 3;
    loop {
        watchdog.feed();
        Timer::after(every).await;
    }
}

/// SIGTERM and Ctrl-Alt-Del restart, SIGUSR1 and SIGUSR2 switch off, as with other small inits.
fn order_of(signal: i32) -> Option<Down> {
    match Signal::try_from(signal) {
        Ok(Signal::SIGTERM | Signal::SIGINT) => Some(Down::Restart),
        Ok(Signal::SIGUSR1 | Signal::SIGUSR2) => Some(Down::Off),
        _ => None,
    }
}

async fn keep(service: Service, family: Rc<Family>, orders: Rc<Orders>) {
    let (mut pause, log) = (Duration::ZERO, write_log(&service.name));
    while !orders.are_given() {
        let began = Instant::now();
        match start(&service, &family, &log, &orders).await {
            Ok(end) => say(format_args!("{} ended: {end}", service.name)),
            Err(error) => {
                say(format_args!("failed to start {} ({}): {error}", service.name, service.program.display()));
            }
        }
        pause = pause_after(began.elapsed(), pause);
        Timer::after(pause).await;
    }
}

/// Starts the program and reads what it says until it ends; tells how.
async fn start(service: &Service, family: &Family, log: &Sender<Vec<u8>>, orders: &Orders) -> io::Result<String> {
    let (reader, writer) = io::pipe()?;
    let pid = if service.is_held() { start_held(service, family, writer)? } else { start_plain(service, writer)? };
    let (ended, end) = bounded(1);
    family.services.borrow_mut().insert(pid, ended);
    if let Err(error) = settle(&service.name, pid) {
        say(format_args!("{} runs without a cgroup of its own: {error}", service.name));
    }
    say(format_args!("{} started, process {}", service.name, pid));
    let ending = async { end.recv().await.unwrap_or_else(|_| "nobody knows how".to_owned()) };
    let mut reading = pin!(async {
        let hold = async {
            if service.is_held() {
                family.hold().await;
            }
        };
        smol::future::zip(listen(&service.name, reader, log, orders), hold).await;
        smol::future::pending::<String>().await
    });
    // Its children may hold the pipe open longer than it lives, so its end is what counts; its last words get a moment.
    let end = smol::future::or(ending, reading.as_mut()).await;
    let moment = async {
        Timer::after(LAST_WORDS).await;
        String::new()
    };
    smol::future::or(reading, moment).await;
    Ok(end)
}

fn start_plain(service: &Service, output: io::PipeWriter) -> io::Result<u32> {
    let child = Command::new(&service.program)
        .args(&service.args)
        .env_clear()
        .envs(environment(service))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()?;
    Ok(child.id())
}

/// Starts a keeper, with a socket to us at the number where it expects one.
fn start_held(service: &Service, family: &Family, output: io::PipeWriter) -> io::Result<u32> {
    let socket = family.holder.borrow_mut().connect()?;
    let (program, null) = (File::open(&service.program)?, File::open("/dev/null")?);
    let name = service.program.clone().into_os_string();
    let args: Vec<OsString> = std::iter::once(name).chain(service.args.iter().map(OsString::from)).collect();
    let env: Vec<OsString> = environment(service).map(|(name, value)| format!("{name}={value}").into()).collect();
    let fds = [null.as_fd(), output.as_fd(), output.as_fd(), socket.as_fd()];
    assert!(fds.len() - 1 == keeper::HOLDER_FD as usize, "the socket is the last of them");
    let program = Some(program.as_fd());
    let start = Spawn { program, args: &args, env: &env, fds: &fds, ..Spawn::default() };
    start.start().map(|started| started.pid).map_err(io::Error::other)
}

/// What a program of ours finds in its environment.
pub(crate) fn environment(service: &Service) -> impl Iterator<Item = (&str, &str)> {
    let given = service.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    [("PATH", "/bin:/sbin"), ("HOME", DATA)].into_iter().chain(given)
}

/// A cgroup for the service, and a word to the kernel that it goes last when memory ends.
fn settle(name: &str, pid: u32) -> io::Result<()> {
    let _unknown_to_some_kernels = fs::write(format!("/proc/{pid}/oom_score_adj"), "-999");
    let folder = Path::new("/sys/fs/cgroup/system").join(name);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("cgroup.procs"), pid.to_string())
}

/// Waits for the disk, which works elsewhere. One that takes nothing for [`DISK_MAX`] hangs, and a restart may wake it: where
/// that hangs too, the watchdog bites.
async fn on_disk<T>(work: impl Future<Output = T>, orders: &Orders) -> T {
    let hangs = async {
        Timer::after(DISK_MAX).await;
        say(format_args!("the disk has taken nothing for {} s", DISK_MAX.as_secs()));
        orders.give(Down::Restart);
        smol::future::pending().await
    };
    smol::future::or(work, hangs).await
}

/// What is sent here is written to the log of that name, in a thread of its own until nobody can send any more.
fn write_log(name: &str) -> Sender<Vec<u8>> {
    let (lines, sent) = bounded::<Vec<u8>>(LINES_WAITING_MAX);
    let name = name.to_owned();
    let write = move || {
        let mut log = Log::open(&name);
        while let Ok(line) = sent.recv_blocking() {
            log.line(&line);
        }
    };
    smol::unblock(write).detach();
    lines
}

async fn listen(name: &str, pipe: io::PipeReader, log: &Sender<Vec<u8>>, orders: &Orders) {
    let Ok(pipe) = Async::new(pipe) else { return };
    let (mut pipe, mut lines) = (ReadPipe(pipe), Lines::default());
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let count = pipe.read(&mut bytes).await.unwrap_or(0);
        let ended = if count == 0 { lines.rest() } else { lines.add(&bytes[..count]) };
        for line in ended {
            let _unheard = io::stderr().write_all(format!("{name}: {}\n", String::from_utf8_lossy(&line)).as_bytes());
            let _a_writer_that_failed = on_disk(log.send(line), orders).await;
        }
        if count == 0 {
            return;
        }
        // A program that never pauses would else never let anybody else run.
        smol::future::yield_now().await;
    }
}

/// The lines of what a program says, each cut while it is read: one that never ends takes no more memory than others.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// The lines that end in these bytes.
    fn add(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut ended = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = LINE_BYTES_MAX - self.begun.len();
            self.begun.extend_from_slice(&text[..text.len().min(room)]);
            if text.len() < piece.len() {
                ended.push(std::mem::take(&mut self.begun));
            }
        }
        ended
    }

    /// The last one, which nothing ended.
    fn rest(&mut self) -> Vec<Vec<u8>> {
        let begun = std::mem::take(&mut self.begun);
        if begun.is_empty() { Vec::new() } else { vec![begun] }
    }
}

/// A pipe for smol: `io::PipeReader` promises nothing about who else reads it, which is nobody.
struct ReadPipe(Async<io::PipeReader>);

impl smol::io::AsyncRead for ReadPipe {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        into: &mut [u8],
    ) -> std::task::Poll<io::Result<usize>> {
        loop {
            match nix::unistd::read(self.0.get_ref().as_fd(), into) {
                Err(nix::errno::Errno::EAGAIN) => {}
                other => return std::task::Poll::Ready(other.map_err(io::Error::from)),
            }
            match self.0.poll_readable(context) {
                std::task::Poll::Ready(Ok(())) => {}
                std::task::Poll::Ready(Err(error)) => return std::task::Poll::Ready(Err(error)),
                std::task::Poll::Pending => return std::task::Poll::Pending,
            }
        }
    }
}

/// A service's log on the data partition; where there is none, the console is all there is.
struct Log {
    path: PathBuf,
    file: Option<File>,
    /// How much was logged before this file; a file of an older version does not say.
    before: Option<u64>,
    /// What this file has of the log, its first line aside.
    bytes: u64,
}

impl Log {
    fn open(name: &str) -> Log {
        let folder = Path::new(DATA).join("log");
        let _absent = fs::create_dir_all(&folder);
        Log::open_at(folder.join(format!("{name}.log")))
    }

    fn open_at(path: PathBuf) -> Log {
        let (before, bytes) = measured(&path);
        let is_new = before.is_none() && bytes == 0;
        let mut log = Log { path, file: None, before, bytes };
        if is_new {
            let (before, bytes) = measured(&log.path.with_extension("log.1"));
            log.begin(before.map_or(0, |before| before + bytes));
        } else {
            log.file = File::options().append(true).open(&log.path).ok();
        }
        log
    }

    /// Begins a file, after so much of the log.
    fn begin(&mut self, before: u64) {
        self.file = File::options().create(true).append(true).open(&self.path).ok();
        if let Some(file) = &mut self.file {
            let _full = file.write_all(log_file::first_line(before).as_bytes());
        }
        (self.before, self.bytes) = (Some(before), 0);
    }

    fn line(&mut self, line: &[u8]) {
        if self.bytes > LOG_BYTES_MAX {
            let _kept = fs::rename(&self.path, self.path.with_extension("log.1"));
            self.begin(self.before.map_or(0, |before| before + self.bytes));
        }
        if let Some(file) = &mut self.file {
            let _full = file.write_all(line).and_then(|()| file.write_all(b"\n"));
            self.bytes += line.len() as u64 + 1;
        }
    }
}

/// What a file says of how much was logged before it, and how much it has itself.
fn measured(path: &Path) -> (Option<u64>, u64) {
    let Ok(file) = File::open(path) else { return (None, 0) };
    let length = file.metadata().map_or(0, |about| about.len());
    let mut begin = Vec::new();
    let _unread = file.take(log_file::FIRST_LINE_BYTES_MAX as u64).read_to_end(&mut begin);
    match log_file::bytes_before(&begin) {
        Some((before, line)) => (Some(before), length - line as u64),
        None => (None, length),
    }
}

/// Hands a file to whoever runs the machine, by a virtio port: again whenever it changes.
async fn publish(file: PathBuf, port: String) {
    let Some(device) = port_device(&port) else { return };
    let mut last = String::new();
    loop {
        if let Ok(text) = fs::read_to_string(&file)
            && text != last
            && fs::write(&device, format!("begin {}\n{text}", text.len())).is_ok()
        {
            last = text;
        }
        Timer::after(if last.is_empty() { LOOK_EVERY } else { LOOK_EVERY * 50 }).await;
    }
}

/// The device of the virtio port of that name; nothing where the machine has none, as real boards.
fn port_device(port: &str) -> Option<PathBuf> {
    let entries = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let found = entries
        .flatten()
        .find(|entry| fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == port))?;
    Some(Path::new("/dev").join(found.file_name()))
}

/// `off` and `restart`, by a virtio port, from whoever runs the machine.
async fn listen_for_orders(orders: Rc<Orders>) {
    let Some(device) = port_device("skerry.orders") else { return };
    let Ok(port) = File::open(&device).and_then(Async::new) else { return };
    let mut buffer = [0; 64];
    while port.readable().await.is_ok() {
        let count = nix::unistd::read(port.get_ref().as_fd(), &mut buffer).unwrap_or(0);
        match String::from_utf8_lossy(&buffer[..count]).trim() {
            "off" => orders.give(Down::Off),
            "restart" => orders.give(Down::Restart),
            // While nobody holds the other end, the port is readable and says nothing.
            _ => drop(Timer::after(PORT_EVERY).await),
        }
    }
}

/// Asks those who know the time, for ever: those of the settings, or those that DHCP names.
async fn keep_time(named: Vec<String>, learnt: Option<Arc<Learnt>>, built: u64) {
    let (mut pause, mut last_said) = (Duration::ZERO, String::new());
    loop {
        let told = learnt.iter().flat_map(|learnt| learnt.ntp()).map(|server| server.to_string());
        let servers: Vec<String> = if named.is_empty() { told.collect() } else { named.clone() };
        let (answered, what) = smol::unblock(move || ask_time(&servers, built)).await;
        // A clock that drifts is set again and again; only what is new is told.
        if what != last_said {
            let _silent = (!what.is_empty()).then(|| say(format_args!("{what}")));
            last_said = what;
        }
        pause = ntp::next_pause(answered, pause);
        Timer::after(pause).await;
    }
}

/// Sets the clock by the first server that answers; tells whether one did, and what is worth telling.
fn ask_time(servers: &[String], built: u64) -> (bool, String) {
    let mut failed = String::new();
    for server in servers {
        let offset = match ntp::ask(server, &SystemClock) {
            Ok(offset) => offset,
            Err(error) => {
                failed = format!("{server} does not tell the time: {error}");
                continue;
            }
        };
        let mut said = String::new();
        if ntp::is_worth(SystemClock.now(), offset, built) {
            if let Err(error) = clock::step(offset) {
                return (false, base::chain(&error).to_string());
            }
            said = format!("the clock is set by {} s to the time of {server}", offset / 1_000_000_000);
        } else if !ntp::is_near(offset) {
            return (true, said);
        }
        // Whoever else could set it leaves it alone then.
        if let Err(error) = sys::clock::note_synchronised() {
            said = base::chain(&error).to_string();
        }
        return (true, said);
    }
    (false, failed)
}

async fn remember_time(orders: Rc<Orders>) {
    loop {
        if let Err(error) = on_disk(smol::unblock(clock::remember), &orders).await {
            say(format_args!("the time is not remembered: {}", base::chain(&error)));
        }
        Timer::after(REMEMBER_EVERY).await;
    }
}

/// Without data there is nothing to run, and nothing we could do about it: whoever looks at the console is told what can be.
async fn lament() {
    loop {
        say(
            "no service is started, because the data partition cannot be used (see `data` above). Nothing on it was changed.",
        );
        say(
            "another machine may repair it: `e2fsck -f` on the fourth partition, with `-b 32768 -B 4096` for its superblock",
        );
        Timer::after(LAMENT_EVERY).await;
    }
}

/// The slot that we run from, as [`judge`] needs to know it.
struct Judged {
    disk: Arc<Path>,
    slot: slots::Name,
    /// Nothing where booting did not get so far as to know it.
    healthy: Option<String>,
    orders: Rc<Orders>,
}

impl Judged {
    /// Nothing where the disk is not known: then no ledger is either.
    fn of(machine: &Machine, orders: &Rc<Orders>) -> Option<Judged> {
        let (disk, healthy, orders) = (machine.disk.as_path(), machine.healthy.clone(), Rc::clone(orders));
        (!disk.as_os_str().is_empty()).then(|| Judged { disk: disk.into(), slot: machine.slot, healthy, orders })
    }

    /// Does it until it works: a disk that fails now may answer later.
    async fn insist<T: Send + 'static>(
        &self,
        told: &str,
        work: fn(&Path, slots::Name) -> Result<T, update::Error>,
    ) -> T {
        loop {
            let (disk, slot) = (Arc::clone(&self.disk), self.slot);
            match on_disk(smol::unblock(move || work(&disk, slot)), &self.orders).await {
                Ok(done) => return done,
                Err(error) => say(format_args!("{told}: {}", base::chain(&error))),
            }
            Timer::after(PAUSE_MAX).await;
        }
    }

    async fn look(&self, on_trial: bool, terms: &Terms, ran: Duration) -> Verdict {
        let (terms, healthy) = (terms.clone(), self.healthy.clone());
        smol::unblock(move || trial::look(on_trial, &terms, healthy.as_deref(), ran)).await
    }

    async fn give_up(&self, cause: Cause) -> Result<bool, update::Error> {
        let (disk, slot) = (Arc::clone(&self.disk), self.slot);
        on_disk(smol::unblock(move || trial::give_up(&disk, slot, cause)), &self.orders).await
    }
}

/// Confirms a slot on trial once it has proved itself, and gives it up when that takes too long.
async fn judge(judged: Judged) {
    let (began, letter) = (Instant::now(), judged.slot.letter());
    let on_trial = judged.insist("whether the slot is on trial is not known yet", trial::is_on_trial).await;
    let terms = on_disk(smol::unblock(trial::terms), &judged.orders).await;
    if on_trial {
        let (checks, within) = (terms.before.join(", "), terms.within.as_secs());
        say(format_args!("slot {letter} has {within} s to prove itself by: {checks}"));
        let note = |disk: &Path, slot| trial::note(disk, slot, Cause::Panic);
        judged.insist("the ledger is not told that services run", note).await;
    } else if judged.healthy.is_none() {
        // Nothing could come of waiting.
        return;
    }
    loop {
        match judged.look(on_trial, &terms, began.elapsed()).await {
            Verdict::Wait => drop(Timer::after(LOOK_EVERY).await),
            Verdict::Healthy => break say(format_args!("healthy: {} answers", judged.healthy.unwrap_or_default())),
            Verdict::Confirm => {
                judged.insist("the slot is not confirmed yet", trial::confirm).await;
                break say(format_args!("slot {letter} is confirmed"));
            }
            Verdict::GiveUp(cause) => {
                let waited = began.elapsed().as_secs();
                say(format_args!("slot {letter} is given up after {waited} s: {}", cause.told()));
                if let Err(error) = judged.give_up(cause).await {
                    say(format_args!("the ledger is not told, its tries end it: {}", base::chain(&error)));
                }
                break judged.orders.give(Down::Restart);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ran_s: u64, last_ms: u64, expected_ms: u64) {
        let pause = pause_after(Duration::from_secs(ran_s), Duration::from_millis(last_ms));
        assert_eq!(pause.as_millis() as u64, expected_ms);
    }

    #[test]
    fn the_pause_doubles_up_to_its_limit() {
        check(0, 0, 250);
        check(0, 250, 500);
        check(5, 20_000, 30_000);
        check(5, 30_000, 30_000);
    }

    /// The first lines of a log's files, the older one first.
    fn first_lines(path: &Path) -> Vec<String> {
        let files = [path.with_extension("log.1"), path.to_owned()];
        let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
        texts.map(|text| text.lines().next().unwrap_or_default().to_owned()).collect()
    }

    /// Listens to a program that has said `text`, while `log` takes lines; what is left of the text once others had a turn.
    fn left_after_a_turn(text: &[u8], log: &Sender<Vec<u8>>) -> usize {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut rest = reader.try_clone().unwrap();
        writer.write_all(text).unwrap();
        let (orders, _heard) = Orders::new();
        smol::block_on(smol::future::or(listen("x", reader, log, &orders), async {}));
        drop(writer);
        let mut left = Vec::new();
        rest.read_to_end(&mut left).unwrap();
        left.len()
    }

    #[test]
    fn a_program_that_never_pauses_leaves_others_their_turn() {
        let (log, _sent) = bounded(1);
        assert_eq!(left_after_a_turn(&[b'x'; 3 * READ_BYTES], &log), 2 * READ_BYTES);
    }

    #[test]
    fn a_disk_that_takes_no_lines_holds_up_only_who_says_them() {
        let (log, sent) = bounded(1);
        assert_eq!(left_after_a_turn(b"one\ntwo\nthree\n", &log), 0);
        assert_eq!(sent.try_recv().unwrap(), b"one");
    }

    #[test]
    fn a_line_is_cut_while_it_is_read() {
        let mut lines = Lines::default();
        for _ in 0..100 {
            assert_eq!(lines.add(&[b'x'; READ_BYTES]).len(), 0);
            assert!(lines.begun.capacity() <= 2 * LINE_BYTES_MAX, "what is cut is not kept");
        }
        let cut = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(lines.add(b"yz\nsho"), [cut]);
        assert_eq!(lines.add(b"rt\n\nlast"), [&b"short"[..], b""]);
        assert_eq!(lines.rest(), [b"last"]);
        assert_eq!(lines.rest().len(), 0);
    }

    #[test]
    fn a_log_says_how_much_was_before_each_of_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let line = vec![b'x'; 1023];
        let write = |lines: u64| {
            let mut log = Log::open_at(path.clone());
            (0..lines).for_each(|_| log.line(&line));
        };
        write(1);
        write(LOG_BYTES_MAX / 1024);
        assert_eq!(first_lines(&path), ["# 0 bytes were logged before this file"]);
        write(1);
        let second = format!("# {} bytes were logged before this file", LOG_BYTES_MAX + 1024);
        assert_eq!(first_lines(&path), ["# 0 bytes were logged before this file", &second]);
        // The power went between renaming the old file and beginning the new one.
        fs::remove_file(&path).unwrap();
        write(1);
        assert_eq!(first_lines(&path)[1], second);
    }

    #[test]
    fn a_log_of_an_older_version_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        fs::write(&path, "a\n").unwrap();
        Log::open_at(path.clone()).line(b"b");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\n");
    }

    #[test]
    fn a_long_run_is_forgiven() {
        check(60, 30_000, 250);
    }

    #[test]
    fn a_keeper_is_given_its_way_to_what_the_last_one_left() {
        let family = Family::default();
        let script = "test -S /proc/self/fd/3 && echo $SOCKET && exit 7";
        let service = Service {
            once: None,
            name: "keeper".into(),
            program: "/bin/sh".into(),
            args: ["-c", script, "keeper", "--held"].map(String::from).to_vec(),
            environment: vec![("SOCKET".into(), "/run/keeper.sock".into())],
        };
        let (reader, writer) = io::pipe().unwrap();
        let pid = start_held(&service, &family, writer).unwrap();
        let (ended, end) = bounded(1);
        family.services.borrow_mut().insert(pid, ended);
        assert_eq!(io::read_to_string(reader).unwrap(), "/run/keeper.sock\n");
        let said = smol::block_on(async {
            family.hold().await;
            loop {
                family.bury_all();
                if let Ok(said) = end.try_recv() {
                    return said;
                }
            }
        });
        assert_eq!(said, "Code(7)");
    }

    #[test]
    fn a_slot_is_judged_whatever_failed_after_its_disk_was_found() {
        let (mut machine, orders) = (Machine::default(), Rc::new(Orders::new().0));
        assert!(Judged::of(&machine, &orders).is_none(), "no disk, no ledger");
        machine.disk = "/dev/x".into();
        let judged = Judged::of(&machine, &orders).expect("it is judged");
        assert_eq!((&*judged.disk, judged.healthy), (Path::new("/dev/x"), None));
    }

    #[test]
    fn signals_are_orders() {
        assert_eq!(order_of(Signal::SIGTERM as i32), Some(Down::Restart));
        assert_eq!(order_of(Signal::SIGUSR2 as i32), Some(Down::Off));
        assert_eq!(order_of(Signal::SIGCHLD as i32), None);
    }
}
