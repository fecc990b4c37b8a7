//! What PID 1 says, on the console and in the kernel's log.
//!
//! Start at [`say`]. A line carries the seconds since the kernel started, so that it sorts among the kernel's own.

use std::fmt::Display;
use std::fs;
use std::io::{Write, stderr};
use std::time::Duration;

use base::Clock;

/// One line to the console. It never fails: there is nobody to tell.
pub fn say(what: impl Display) {
    let since_boot = Duration::from_nanos(sys::SystemClock.monotonic().0);
    let line = format!("[{:9.3}] skerry: {what}\n", since_boot.as_secs_f64());
    let _unheard = stderr().write_all(line.as_bytes());
}

/// Only warnings of the kernel reach the console from here on; its log keeps everything.
pub fn hush_kernel() {
    let _louder = fs::write("/proc/sys/kernel/printk", "4 4 1 7");
}
