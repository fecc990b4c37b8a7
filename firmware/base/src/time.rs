//! Time as an input: a moment of the calendar, a moment of the stopwatch, and the clock that gives both.
//!
//! Start at [`Clock`]. Two kinds of time are kept apart by type, because boards have no battery: [`Timestamp`] may jump,
//! [`Monotonic`] never does. Leases and timeouts use the second.
//!
//! Not here: time zones (the CronJob controller uses jiff), reading the real clock (`sys::clock`).

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// A moment in UTC, in nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i128);

/// A moment of a clock that never jumps, in nanoseconds since some start (of the machine, or of a test).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub u64);

impl Timestamp {
    /// `seconds` after 1970.
    pub const fn from_seconds(seconds: i64) -> Timestamp {
        Timestamp(seconds as i128 * NANOS_PER_SECOND)
    }
    /// Whole seconds since 1970, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(NANOS_PER_SECOND) as i64
    }
    /// This moment moved by `by`.
    pub fn plus(self, by: Duration) -> Timestamp {
        Timestamp(self.0 + by.as_nanos() as i128)
    }
    /// How long after `earlier` this is; zero when it is not after.
    pub fn since(self, earlier: Timestamp) -> Duration {
        let nanos = (self.0 - earlier.0).max(0);
        Duration::new((nanos / NANOS_PER_SECOND) as u64, (nanos % NANOS_PER_SECOND) as u32)
    }
    /// The form of `metav1.Time`: whole seconds, `2026-11-23T20:00:00Z`.
    pub fn rfc3339(self) -> String {
        format!("{}Z", self.civil())
    }
    /// The form of `metav1.MicroTime`: six decimals, `2026-11-23T20:00:00.000000Z`.
    pub fn rfc3339_micros(self) -> String {
        format!("{}.{:06}Z", self.civil(), self.0.rem_euclid(NANOS_PER_SECOND) / 1000)
    }
    /// All nine decimals, as the CRI log format writes them.
    pub fn rfc3339_nanos(self) -> String {
        format!("{}.{:09}Z", self.civil(), self.0.rem_euclid(NANOS_PER_SECOND))
    }

    fn civil(self) -> String {
        let seconds = self.seconds();
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil_from_days(days);
        format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
    }
}

/// The proleptic Gregorian date of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms").
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// A text that is no RFC 3339 time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseTimeError(pub String);

impl fmt::Display for ParseTimeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} is not a time of the form 2006-01-02T15:04:05Z", self.0)
    }
}
impl std::error::Error for ParseTimeError {}

impl FromStr for Timestamp {
    type Err = ParseTimeError;

    /// Reads RFC 3339 with any number of decimals and any numeric offset.
    fn from_str(text: &str) -> Result<Timestamp, ParseTimeError> {
        parse_rfc3339(text).ok_or_else(|| ParseTimeError(text.to_owned()))
    }
}

fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let is = |at: usize, wanted: &[u8]| text.as_bytes().get(at).is_some_and(|byte| wanted.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if hour > 23
        || minute > 59
        || second > 60
        || civil_from_days(days_from_civil(year, month, day)) != (year, month, day)
    {
        return None;
    }
    let rest = text.get(19..)?;
    let (nanos, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(fraction) => {
            let end = fraction.find(|letter: char| !letter.is_ascii_digit())?;
            let digits = fraction.get(..end.min(9)).filter(|digits| !digits.is_empty())?;
            (format!("{digits:0<9}").parse::<i128>().ok()?, &fraction[end..])
        }
    };
    let offset_minutes = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = text.len() - 5;
            let minutes = number(at, at + 2)? * 60 + number(at + 3, at + 5)?;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset_minutes * 60;
    Some(Timestamp(i128::from(seconds) * NANOS_PER_SECOND + nanos))
}

impl Monotonic {
    /// This moment moved by `by`.
    pub fn plus(self, by: Duration) -> Monotonic {
        Monotonic(self.0.saturating_add(by.as_nanos() as u64))
    }
    /// How long after `earlier` this is; zero when it is not after.
    pub fn since(self, earlier: Monotonic) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Where time comes from. Made once in `main`; everything else takes `now` as an argument.
pub trait Clock: Send + Sync {
    /// The calendar time.
    fn now(&self) -> Timestamp;
    /// The stopwatch time.
    fn monotonic(&self) -> Monotonic;
}

/// A clock that moves only when told, for tests and the simulator.
#[derive(Debug, Default)]
pub struct ManualClock(Mutex<(Timestamp, Monotonic)>);

impl ManualClock {
    /// A clock standing at `now`.
    pub fn at(now: Timestamp) -> ManualClock {
        ManualClock(Mutex::new((now, Monotonic(0))))
    }
    /// Moves both kinds of time.
    pub fn advance(&self, by: Duration) {
        let mut both = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *both = (both.0.plus(by), both.1.plus(by));
    }
    /// Moves the calendar alone, as a clock that was wrong does when it is set.
    pub fn jump_to(&self, now: Timestamp) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).0 = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).0
    }
    fn monotonic(&self) -> Monotonic {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn round_trips(text: &str) {
        assert_eq!(text.parse::<Timestamp>().expect("a valid time").rfc3339(), text);
    }

    #[test]
    fn prints_what_it_reads() {
        for text in ["1970-01-01T00:00:00Z", "2000-02-29T23:59:59Z", "2026-11-23T20:00:00Z", "1969-12-31T23:59:59Z"] {
            round_trips(text);
        }
    }

    #[test]
    fn reads_decimals_and_offsets() {
        let time: Timestamp = "2026-11-23T21:00:00.5+01:00".parse().expect("a valid time");
        assert_eq!(time.rfc3339_micros(), "2026-11-23T20:00:00.500000Z");
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "2026-11-23",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T20:00:00",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_jump_of_the_calendar_leaves_the_stopwatch_alone() {
        let clock = ManualClock::at(Timestamp::from_seconds(0));
        clock.advance(Duration::from_secs(5));
        clock.jump_to(Timestamp::from_seconds(1_000_000));
        assert_eq!((clock.now().seconds(), clock.monotonic().since(Monotonic(0)).as_secs()), (1_000_000, 5));
    }
}
