//! Down: services first, then what is mounted, then the machine.
//!
//! Start at [`go`]. [`now`] is the last step alone.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::console::say;
use crate::data::DATA;

/// Programs get so long to end by themselves.
const GRACE: Duration = Duration::from_secs(10);

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
    nix::unistd::sync();
    unmount_data();
    now(how);
}

/// Goes down at once.
pub fn now(how: Down) {
    nix::unistd::sync();
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

/// Unmounts what lies on the data partition, the deepest first; what is still held is made read-only.
fn unmount_data() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let targets: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    for target in targets.iter().rev().filter(|target| [DATA, "/var", "/run"].iter().any(|top| target.starts_with(top)))
    {
        let _held = umount2(*target, MntFlags::empty());
    }
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let _gone_already = mount(None::<&str>, DATA, None::<&str>, flags, None::<&str>);
}
