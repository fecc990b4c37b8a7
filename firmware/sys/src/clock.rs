//! The real clock, behind `base::Clock`.
//!
//! Start at [`SystemClock`]. A `main` makes one and passes it down; nothing else reads the kernel's clocks. [`set`] sets the
//! calendar; [`is_synchronised`] is the kernel's note whether somebody keeps it right.

use std::time::{SystemTime, UNIX_EPOCH};

use base::{Clock, Monotonic, Timestamp};
use nix::libc;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use crate::error::{Doing, Result};

/// The machine's clocks: the calendar (`CLOCK_REALTIME`) and the time since boot, sleep included (`CLOCK_BOOTTIME`).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp(after.as_nanos() as i128),
            Err(before) => Timestamp(-(before.duration().as_nanos() as i128)),
        }
    }

    fn monotonic(&self) -> Monotonic {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a timespec of our own that lives through the call.
        let answer = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        assert!(answer == 0, "every supported kernel has CLOCK_BOOTTIME");
        Monotonic(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}

/// Sets the calendar.
pub fn set(time: Timestamp) -> Result<()> {
    const NANOS: i128 = 1_000_000_000;
    let (seconds, nanos) = (time.0.div_euclid(NANOS), time.0.rem_euclid(NANOS));
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(seconds as i64, nanos as i64)).doing("set the clock")
}

/// Whether a program that knows the time said not long ago that the calendar is right.
pub fn is_synchronised() -> bool {
    adjust(&mut timex()).is_ok_and(|state| state != libc::TIME_ERROR)
}

/// Says that the calendar is right. The kernel forgets it when the clock is set, and after nine hours; until then it also
/// writes the time to the board's own clock, where there is one.
pub fn note_synchronised() -> Result<()> {
    let mut about = timex();
    about.modes = libc::ADJ_STATUS | libc::ADJ_MAXERROR | libc::ADJ_ESTERROR;
    adjust(&mut about).map(drop).doing("note that the clock is right")
}

fn timex() -> libc::timex {
    // SAFETY: it is made of numbers alone, and zero is a value of each.
    unsafe { std::mem::zeroed() }
}

fn adjust(about: &mut libc::timex) -> std::io::Result<i32> {
    // SAFETY: the pointer is to a structure of our own that lives through the call.
    let state = unsafe { libc::adjtimex(&raw mut *about) };
    if state < 0 { Err(std::io::Error::last_os_error()) } else { Ok(state) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stopwatch_never_goes_back() {
        let first = SystemClock.monotonic();
        assert!(SystemClock.monotonic() >= first);
        assert!(SystemClock.now() > Timestamp::from_seconds(1_577_836_800), "after 2020");
    }
}
