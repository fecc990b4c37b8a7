//! Down: services first, then what is mounted, then the machine.
//!
//! Start at [`go`]. [`now`] is the last step alone.
//!
//! Invariants:
//! * no file server holds the machine up: what may wait for one has a limit and a thread of its own;
//! * the watchdog does not cut off what the disk still has to write, up to [`DISK_MAX`].

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
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

/// What programs wrote gets so long to reach the board's disk: a bad card takes less than a megabyte a second, and the kernel
/// may have refused the bound that `root` sets on what waits.
pub(crate) const DISK_MAX: Duration = Duration::from_secs(300);

/// What waits shows signs of life so often.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// What is written gets so long to reach file servers, and what came after [`DISK_MAX`] the disk.
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

/// Ends every program, makes the disk clean and goes down. `alive` is called now and then while the disk writes.
pub fn go(how: Down, alive: &dyn Fn()) {
    say(match how {
        Down::Restart => "restarting",
        Down::Off => "switching off",
    });
    let _kept_anyway = within(SYNC_MAX, alive, || drop(crate::clock::remember()));
    end_all(Signal::SIGTERM, GRACE);
    end_all(Signal::SIGKILL, Duration::from_secs(2));
    if !within(DISK_MAX, alive, sync_disk) {
        say(format_args!("the disk does not write it all within {} s: the rest may be lost", DISK_MAX.as_secs()));
    }
    if !sync(alive) {
        say("a file server does not answer: what it was not given yet is lost");
        take_from_servers(MntFlags::MNT_FORCE, alive);
        let _as_far_as_it_gets = sync(alive);
    }
    take_from_servers(MntFlags::MNT_DETACH, alive);
    unmount_data();
    now(how);
}

/// Goes down at once.
pub fn now(how: Down) {
    let _as_far_as_it_gets = sync(&|| {});
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

/// Makes durable what is written, on the board's disk and then on file servers; whether those took it in time.
fn sync(alive: &dyn Fn()) -> bool {
    let _said_before = within(SYNC_MAX, alive, sync_disk);
    within(SYNC_MAX, alive, nix::unistd::sync)
}

fn sync_disk() {
    let _tried_again_later = sys::files::sync_file_system(Path::new(DATA));
}

/// Does something in a thread of its own, calling `alive` meanwhile; whether it ended in time.
fn within(limit: Duration, alive: &dyn Fn(), act: impl FnOnce() + Send + 'static) -> bool {
    let (tell, told) = channel();
    let started = thread::Builder::new().spawn(move || {
        act();
        let _nobody_waits_any_more = tell.send(());
    });
    if started.is_err() {
        return false;
    }
    let began = Instant::now();
    loop {
        alive();
        let left = limit.saturating_sub(began.elapsed());
        match told.recv_timeout(left.min(ALIVE_EVERY)) {
            Err(RecvTimeoutError::Timeout) if !left.is_zero() => {}
            ended => return ended.is_ok(),
        }
    }
}

/// Unmounts what file servers have, this way.
fn take_from_servers(flags: MntFlags, alive: &dyn Fn()) {
    for target in on_servers(sys::mounts::kinds_below(Path::new("/")).unwrap_or_default()) {
        let taken = move || {
            let _held = umount2(&target, flags);
        };
        let _in_time = within(LET_GO_MAX, alive, taken);
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
    use std::cell::Cell;

    #[test]
    fn mounts_of_file_servers_are_found() {
        let mounts = [("/data/b", "nfs"), ("/data/a", "nfs4"), ("/data", "ext4")];
        let mounts = mounts.map(|(target, kind)| (PathBuf::from(target), kind.to_owned()));
        assert_eq!(on_servers(mounts.to_vec()), [Path::new("/data/b"), Path::new("/data/a")]);
    }

    #[test]
    fn what_takes_too_long_is_not_waited_for() {
        assert!(within(Duration::from_secs(60), &|| {}, || {}));
        let (hold, held) = channel::<()>();
        let waits = move || {
            let _never = held.recv();
        };
        assert!(!within(Duration::from_millis(10), &|| {}, waits));
        drop(hold);
    }

    #[test]
    fn what_is_waited_for_shows_signs_of_life_until_it_ends() {
        let (hold, held) = channel();
        let signs = Cell::new(0);
        // What is done ends with the second sign of life, and not before.
        let alive = || {
            signs.set(signs.get() + 1);
            if signs.get() == 2 {
                hold.send(()).unwrap();
            }
        };
        assert!(within(Duration::from_secs(60), &alive, move || held.recv().unwrap()));
        assert_eq!(signs.get(), 2);
    }
}
