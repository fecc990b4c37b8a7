//! The hardware watchdog: it restarts a machine whose PID 1 no longer gets to run.
//!
//! Start at [`Watchdog::open`]. A board can leave it closed: some emulated ones bite at once.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crate::phase::{Doing, Error};

const DEVICE: &str = "/dev/watchdog0";
/// It bites after so long without a sign of life. Some chips know no more than 15 s.
const TIMEOUT_S: u32 = 30;

/// An open watchdog.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    /// How often it wants a sign of life.
    pub every: Duration,
}

impl Watchdog {
    /// Opens it; nothing where the machine has none.
    pub fn open() -> Result<Option<Watchdog>, Error> {
        if !Path::new(DEVICE).exists() {
            return Ok(None);
        }
        let device = File::options().write(true).open(DEVICE).doing(format_args!("open {DEVICE}"))?;
        // One that cannot be told keeps its own timeout, the shortest of which is 15 s.
        let seconds = sys::disk::watchdog_timeout(&device, TIMEOUT_S).unwrap_or(15).max(3);
        Ok(Some(Watchdog { device, every: Duration::from_secs(u64::from(seconds) / 3) }))
    }

    /// A sign of life.
    pub fn pet(&mut self) {
        let _bites_if_broken = self.device.write_all(b"1");
    }

    /// Tells it that we go down by ourselves. A chip that does not understand bites, and the machine goes down all the same.
    pub fn close(mut self) {
        let _bites_if_broken = self.device.write_all(b"V");
    }
}
