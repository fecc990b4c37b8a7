//! The real clock, behind `base::Clock`.
//!
//! Start at [`SystemClock`]. A `main` makes one and passes it down; nothing else reads the kernel's clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use base::{Clock, Monotonic, Timestamp};
use nix::libc;

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
