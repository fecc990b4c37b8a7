//! Down: services first, then what is mounted, then the machine.
//!
//! Start at [`go`]. [`now`] is the last step alone.
//!
//! Invariant: no file server holds the machine up: what may wait for one has a limit and a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use sys::mounts::is_remote;

use crate::console::say;
use crate::data::DATA;

/// Programs get so long to end by themselves.
const GRACE: Duration = Duration::from_secs(10);

/// What is written gets so long to reach file servers.
const SYNC_MAX: Duration = Duration::from_secs(10);

/// Taking a file server's mount away is a matter of the server's answer.
const LET_GO_MAX: Duration = Duration::from_secs(2);

/// How the machine goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// And comes up again.
    Restart,
    /// And stays so.
    Off,
}

/// Ends every program, makes the disk clean and goes down.
pub fn go(how: Down) {
    say(match how {
        Down::Restart => "restarting",
        Down::Off => "switching off",
    });
    let _kept_anyway = crate::clock::remember();
    end_all(Signal::SIGTERM, GRACE);
    end_all(Signal::SIGKILL, Duration::from_secs(2));
    if !sync() {
        say("a file server does not answer: what it was not given yet is lost");
        take_from_servers(MntFlags::MNT_FORCE);
        let _as_far_as_it_gets = sync();
    }
    take_from_servers(MntFlags::MNT_DETACH);
    unmount_data();
    now(how);
}

/// Goes down at once.
pub fn now(how: Down) {
    let _as_far_as_it_gets = sync();
    let mode = match how {
        Down::Restart => RebootMode::RB_AUTOBOOT,
        Down::Off => RebootMode::RB_POWER_OFF,
    };
    let Err(errno) = reboot(mode);
    say(format_args!("the kernel refuses to go down: {errno}"));
}

/// Signals everybody but us and waits until nobody is left, `within` at most.
fn end_all(signal: Signal, within: Duration) {
    let _nobody = kill(Pid::from_raw(-1), signal);
    let began = Instant::now();
    while began.elapsed() < within {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(_) => return,
            Ok(nix::sys::wait::WaitStatus::StillAlive) => sleep(Duration::from_millis(20)),
            Ok(_) => {}
        }
    }
}

/// Makes durable what is written: on the board's disk however slow it is, then on file servers; whether those took it in time.
fn sync() -> bool {
    let _tried_again_below = sys::files::sync_file_system(Path::new(DATA));
    within(SYNC_MAX, nix::unistd::sync)
}

/// Does something in a thread of its own; whether it ended in time.
fn within(limit: Duration, act: impl FnOnce() + Send + 'static) -> bool {
    let (tell, told) = channel();
    let started = thread::Builder::new().spawn(move || {
        act();
        let _nobody_waits_any_more = tell.send(());
    });
    started.is_ok() && told.recv_timeout(limit).is_ok()
}

/// Unmounts what file servers have, this way.
fn take_from_servers(flags: MntFlags) {
    for target in on_servers(sys::mounts::kinds_below(Path::new("/")).unwrap_or_default()) {
        let taken = move || {
            let _held = umount2(&target, flags);
        };
        let _in_time = within(LET_GO_MAX, taken);
    }
}

/// Where, of these mounts, file servers' exports are.
fn on_servers(mounts: Vec<(PathBuf, String)>) -> Vec<PathBuf> {
    mounts.into_iter().filter(|(_, kind)| is_remote(kind)).map(|(target, _)| target).collect()
}

/// Unmounts what lies on the data partition, the deepest first; what is still held is made read-only.
fn unmount_data() {
    let targets = sys::mounts::mounted_below(Path::new("/")).unwrap_or_default();
    for target in targets.iter().filter(|target| [DATA, "/var", "/run"].iter().any(|top| target.starts_with(top))) {
        let _held = umount2(target, MntFlags::empty());
    }
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let _gone_already = mount(None::<&str>, DATA, None::<&str>, flags, None::<&str>);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_file_servers_are_found() {
        let mounts = [("/data/b", "nfs"), ("/data/a", "nfs4"), ("/data", "ext4")];
        let mounts = mounts.map(|(target, kind)| (PathBuf::from(target), kind.to_owned()));
        assert_eq!(on_servers(mounts.to_vec()), [Path::new("/data/b"), Path::new("/data/a")]);
    }

    #[test]
    fn what_takes_too_long_is_not_waited_for() {
        assert!(within(Duration::from_secs(60), || {}));
        let (hold, held) = channel::<()>();
        let waits = move || {
            let _never = held.recv();
        };
        assert!(!within(Duration::from_millis(10), waits));
        drop(hold);
    }
}
