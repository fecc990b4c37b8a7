//! A keeper's supervisor on a host: a process that starts keepers and holds what they leave.
//!
//! Start at [`run`]. On a board PID 1 does this, with the same [`Holder`].
//!
//! Invariants:
//! * keepers are its children and it is a subreaper, so processes of a keeper that is killed become its own, and it learns
//!   how they end;
//! * it ends only when a keeper was told to quit.
//!
//! When it is killed itself, the keeper goes on and starts another one, as a child: see [`run`] with `adopted`. That one can
//! hold descriptors as well as any; but what ends while no keeper runs, it does not learn the code of.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sys::Doing;
use sys::process::{become_subreaper, reap};
use sys::spawn::Spawn;

use crate::holder::Holder;

/// The first pause before a keeper that ended is started again; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A keeper that ran so long is healthy.
const LONG_RUN: Duration = Duration::from_secs(10);

/// The supervisor, ready to run.
pub(crate) struct Home {
    children: SignalFd,
    holder: Holder,
    words: Vec<OsString>,
}

impl Home {
    /// Starts the first keeper, with these words, unless the holder leads to one that runs already.
    pub(crate) fn open(words: Vec<OsString>, holder: Holder) -> sys::Result<Home> {
        become_subreaper()?;
        sys::process::set_name("keeper-home");
        let mut wanted = SigSet::empty();
        wanted.add(Signal::SIGCHLD);
        wanted.thread_block().doing("block SIGCHLD")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let children = SignalFd::with_flags(&wanted, flags).doing("wait for SIGCHLD")?;
        std::env::set_current_dir("/").doing("enter /")?;
        let mut home = Home { children, holder, words };
        if home.holder.socket().is_none() {
            home.start()?;
        }
        Ok(home)
    }

    fn start(&mut self) -> sys::Result<()> {
        let socket = self.holder.connect().doing("make a socket for the keeper")?;
        start_anew(&self.words, "--held", &socket)
    }

    /// Runs until a keeper was told to quit; the answer is the exit code.
    pub(crate) fn run(mut self) -> i32 {
        let (mut pause, mut began) = (PAUSE_MIN, Instant::now());
        loop {
            if self.turn() {
                continue;
            }
            if self.holder.has_quit() {
                return 0;
            }
            pause = if began.elapsed() > LONG_RUN { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            sleep(pause);
            began = Instant::now();
            if let Err(error) = self.start() {
                eprintln!("keeper: {}", base::chain(&error));
            }
        }
    }

    /// Waits for something, and sees to it. Says whether a keeper is there.
    fn turn(&mut self) -> bool {
        let mut wanted = vec![PollFd::new(self.children.as_fd(), PollFlags::POLLIN)];
        wanted.extend(self.holder.socket().map(|socket| PollFd::new(socket, PollFlags::POLLIN)));
        // An interrupted wait is a wait that is over.
        let _ = poll(&mut wanted, PollTimeout::NONE);
        while let Ok(Some(_)) = self.children.read_signal() {}
        let is_there = self.holder.hear(reap);
        while let Some((pid, exit)) = reap() {
            self.holder.buried(pid, exit);
        }
        is_there
    }
}

/// Starts this program again as a keeper or as its supervisor, with `socket` between the two.
pub(crate) fn start_anew(words: &[OsString], role: &str, socket: &OwnedFd) -> sys::Result<()> {
    let program = File::open("/proc/self/exe").doing("open this program")?;
    let null = File::options().read(true).write(true).open("/dev/null").doing("open /dev/null")?;
    let errors = io::stderr();
    let args: Vec<OsString> = words.iter().cloned().chain([role.into()]).collect();
    let fds = [null.as_fd(), errors.as_fd(), errors.as_fd(), socket.as_fd()];
    let started =
        Spawn { program: Some(program.as_fd()), args: &args, fds: &fds, new_session: true, ..Spawn::default() };
    started.start().map(drop)
}
