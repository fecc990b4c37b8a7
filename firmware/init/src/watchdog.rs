//! The hardware watchdog: it restarts a machine whose PID 1 no longer gets to run.
//!
//! Start at [`Watchdog::open`]. The first half of booting opens it as soon as its driver is in and hands it to the second half
//! ([`Watchdog::hand_on`], [`Watchdog::handed_on`]); from then on it stays open, down to the last line. So whatever hangs, a
//! driver, a disk or PID 1 itself, a slot on trial uses up its tries.
//!
//! It is fed between the phases of booting and, once services run, by the executor that everything else of PID 1 runs on.
//! That one does not wait for the disk: one that hangs while services run ends in a restart by `supervise`, and that in a bite.
//! A board can leave it closed: some emulated ones bite at once.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::phase::{Doing, Error};

const DEVICE: &str = "/dev/watchdog0";

/// It bites when a phase in the initramfs takes so long; the longest waits 30 s for the disk.
pub const EARLY_S: u32 = 40;
/// It bites when a phase in the root takes so long; the longest waits 20 s for a link and then 30 s for an address.
pub const BOOTING_S: u32 = 75;
/// It bites when PID 1 keeps services running and does not get to run for so long.
pub const RUNNING_S: u32 = 30;
/// It bites when going down takes so long: programs get 12 s. While the disk still has to write it is fed (`power`).
pub const GOING_DOWN_S: u32 = 60;

/// An open watchdog.
#[derive(Clone, Debug)]
pub struct Watchdog {
    device: Rc<File>,
}

impl Watchdog {
    /// Opens it, to bite after `seconds`; nothing where the machine has none.
    pub fn open(seconds: u32) -> Result<Option<Watchdog>, Error> {
        if !Path::new(DEVICE).exists() {
            return Ok(None);
        }
        let device = File::options().write(true).open(DEVICE).doing(format_args!("open {DEVICE}"))?;
        let watchdog = Watchdog { device: Rc::new(device) };
        watchdog.bite_after(seconds);
        Ok(Some(watchdog))
    }

    /// Takes over the one that was handed on under this number.
    pub fn handed_on(number: &str) -> Option<Watchdog> {
        let device = sys::files::device_handed_on(number.parse().ok()?)?;
        Some(Watchdog { device: Rc::new(device) })
    }

    /// Keeps it open for the program that comes in our place; gives back the number it has there.
    pub fn hand_on(&self) -> Result<String, Error> {
        Ok(sys::files::hand_on(&*self.device)?.to_string())
    }

    /// It shall bite after so long without a sign of life; gives back what the chip made of that.
    pub fn bite_after(&self, seconds: u32) -> Duration {
        self.feed();
        // One that cannot be told keeps its own timeout, the shortest of which is 15 s.
        let seconds = sys::disk::watchdog_timeout(&self.device, seconds).unwrap_or(15).max(3);
        Duration::from_secs(seconds.into())
    }

    /// Whether it was a watchdog that restarted the machine, as far as the chip remembers.
    pub fn has_bitten(&self) -> bool {
        sys::disk::watchdog_has_bitten(&self.device).unwrap_or(false)
    }

    /// A sign of life.
    pub fn feed(&self) {
        let _bites_if_broken = (&*self.device).write_all(b"1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_on_is_a_device() {
        for number in ["", "x", "0", "99999"] {
            assert!(Watchdog::handed_on(number).is_none(), "{number:?}");
        }
    }
}
