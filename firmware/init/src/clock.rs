//! The clock of a machine that may have none: never before the image was made, never before we last saw it.
//!
//! Start at [`raise`]; [`remember`] is called now and then and before going down.

use std::fs;
use std::path::Path;

use base::{Clock, Timestamp};

use crate::phase::Error;

const FILE: &str = "/data/init/time";

/// Raises the clock to the latest of `built` and what was remembered, where it is behind. Seconds since 1970.
pub fn raise(built: u64) -> Result<String, Error> {
    let now = seconds_now();
    let remembered = fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse().ok());
    let floor = floor(built, remembered);
    if now >= floor {
        return Ok(format!("is right, as far as we can tell ({now})"));
    }
    sys::clock::set(Timestamp::from_seconds(floor as i64))?;
    Ok(format!("raised by {} s to the last time we know of", floor - now))
}

/// Sets the clock forward by so many nanoseconds, or back.
pub fn step(offset: i128) -> Result<(), Error> {
    Ok(sys::clock::set(Timestamp(sys::SystemClock.now().0 + offset))?)
}

/// Keeps the present time for the next start.
pub fn remember() -> Result<(), Error> {
    sys::files::write_atomically(Path::new(FILE), format!("{}\n", seconds_now()).as_bytes(), 0o644)?;
    Ok(())
}

fn seconds_now() -> u64 {
    u64::try_from(sys::SystemClock.now().seconds()).unwrap_or(0)
}

fn floor(built: u64, remembered: Option<u64>) -> u64 {
    built.max(remembered.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_latest_time_we_know_of() {
        assert_eq!(floor(10, None), 10);
        assert_eq!(floor(10, Some(20)), 20);
        assert_eq!(floor(10, Some(5)), 10);
    }
}
