//! When a cron schedule fires: the next time, and the latest one missed.
//!
//! Start at [`after`] and [`latest`].
//!
//! Invariants:
//! * a time that a change of clocks leaves out does not fire; one that it repeats fires twice, as upstream's does;
//! * the latest time of a long pause is looked for backwards: a sleep of years costs no more than one of an hour.
//!
//! Not here: reading a schedule (`api::cron`, which validation uses too).

use std::time::Duration;

use api::cron::Schedule;
use base::Timestamp;
use jiff::tz::TimeZone;
use jiff::{ToSpan, ZonedDateTime};

/// How far ahead the next time is looked for; a schedule of 30 February is found to be never.
const YEARS_MAX: i16 = 5;

/// The first time after `now`; `None` if there is none within five years.
pub fn after(schedule: &Schedule, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let fields = match schedule {
        Schedule::Every(seconds) => {
            return Some(Timestamp::from_seconds(now.seconds()).plus(Duration::from_secs(*seconds)));
        }
        Schedule::At(fields) => fields,
    };
    let start = jiff::Timestamp::from_second(now.seconds().div_euclid(60) * 60 + 60).ok()?;
    let mut at = ZonedDateTime::new(start, zone.clone());
    let last_year = at.year() + YEARS_MAX;
    while at.year() <= last_year {
        if !fields.has_month(at.month() as u8) {
            at = at.first_of_month().ok()?.checked_add(1.month()).ok()?.start_of_day().ok()?;
        } else if !fields.has_date(at.day() as u8, at.weekday().to_sunday_zero_offset() as u8) {
            at = at.checked_add(1.day()).ok()?.start_of_day().ok()?;
        } else if !fields.has_hour(at.hour() as u8) {
            at = at.checked_add(i64::from(60 - at.minute()).minutes()).ok()?;
        } else if !fields.has_minute(at.minute() as u8) {
            at = at.checked_add(1.minute()).ok()?;
        } else {
            return Some(Timestamp::from_seconds(at.timestamp().as_second()));
        }
    }
    None
}

/// The last time after `since` and not after `now`.
pub fn latest(schedule: &Schedule, since: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    if let Schedule::Every(seconds) = schedule {
        let passed = now.since(since).as_secs() / seconds;
        return (passed > 0).then(|| since.plus(Duration::from_secs(seconds * passed)));
    }
    // Looked for backwards in growing steps: after a long sleep there may be a million times to skip.
    const HOUR: u64 = 3600;
    for window in [HOUR, 24 * HOUR, 32 * 24 * HOUR, 366 * 24 * HOUR, u64::MAX] {
        let from = Timestamp(now.0.saturating_sub(i128::from(window) * 1_000_000_000)).max(since);
        let mut found = None;
        let mut next = after(schedule, from, zone);
        while let Some(at) = next.filter(|at| *at <= now) {
            found = Some(at);
            next = after(schedule, at, zone);
        }
        if found.is_some() || from == since {
            return found;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schedule: &str, zone: &str, now: &str, wanted: &str) {
        let zone = TimeZone::get(zone).expect("a zone");
        let now = now.parse().expect("a time");
        let next = after(&Schedule::parse(schedule).expect("a schedule"), now, &zone);
        assert_eq!(next.map(Timestamp::rfc3339).unwrap_or_default(), wanted);
    }

    #[test]
    fn fires_when_the_fields_say() {
        check("*/5 * * * *", "UTC", "2026-11-23T20:01:30Z", "2026-11-23T20:05:00Z");
        check("0 0 1 jan *", "UTC", "2026-11-23T20:00:00Z", "2027-01-01T00:00:00Z");
        check("30 6 * * mon-fri", "UTC", "2026-11-27T06:30:00Z", "2026-11-30T06:30:00Z");
        check("0 12 * * 0", "UTC", "2026-11-23T20:00:00Z", "2026-11-29T12:00:00Z");
        check("0 0 29 2 *", "UTC", "2026-11-23T20:00:00Z", "2028-02-29T00:00:00Z");
        check("@hourly", "UTC", "2026-11-23T20:00:00Z", "2026-11-23T21:00:00Z");
        check("@every 90s", "UTC", "2026-11-23T20:00:00Z", "2026-11-23T20:01:30Z");
    }
    #[test]
    fn day_and_weekday_are_alternatives() {
        check("0 0 13 * 5", "UTC", "2026-11-23T20:00:00Z", "2026-11-27T00:00:00Z");
        // A star with a step restricts.
        check("0 0 */10 * 5", "UTC", "2026-11-27T20:00:00Z", "2026-12-01T00:00:00Z");
    }
    #[test]
    fn never_is_none() {
        check("0 0 30 2 *", "UTC", "2026-11-23T20:00:00Z", "");
    }
    #[test]
    fn zones_have_their_own_noon_and_their_own_gaps() {
        check("0 12 * * *", "Europe/Berlin", "2026-11-23T20:00:00Z", "2026-11-24T11:00:00Z");
        check("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z");
    }
    #[test]
    fn the_latest_is_found_after_any_sleep() {
        let schedule = Schedule::parse("* * * * *").expect("a schedule");
        let (since, now) = (Timestamp::from_seconds(0), Timestamp::from_seconds(1_795_464_030));
        assert_eq!(latest(&schedule, since, now, &TimeZone::UTC), Some(Timestamp::from_seconds(1_795_464_000)));
        assert_eq!(latest(&schedule, now, now, &TimeZone::UTC), None);
    }
}
