//! Cron schedules: five fields, names, steps, and the `@` words.
//!
//! Start at [`Schedule::parse`], then [`Schedule::after`].
//!
//! Invariants:
//! * a time that a change of clocks leaves out does not fire; one that it repeats fires twice, as upstream's does;
//! * a restricted day of month and a restricted weekday are alternatives, as in every cron.
//!
//! Refused: seconds, `L`, `W`, `#`, and time zones inside the schedule (`spec.timeZone` says it).

use std::time::Duration;

use base::Timestamp;
use jiff::tz::TimeZone;
use jiff::{ToSpan, ZonedDateTime};

/// How far ahead the next time is looked for; a schedule of 30 February is found to be never.
const YEARS_MAX: i16 = 5;

/// A parsed schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At the times that the fields name; each is a set of bits.
    Fields {
        /// 0 to 59.
        minutes: u64,
        /// 0 to 23.
        hours: u64,
        /// 1 to 31.
        days: u64,
        /// 1 to 12.
        months: u64,
        /// 0 (Sunday) to 6.
        weekdays: u64,
        /// Whether days and weekdays are both restricted, and so alternatives.
        either: bool,
    },
    /// Again and again after a time.
    Every(Duration),
}

impl Schedule {
    /// Reads a schedule; the error says which part is wrong.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        let text = text.trim();
        if let Some(word) = text.strip_prefix('@') {
            return match word {
                "yearly" | "annually" => Schedule::parse("0 0 1 1 *"),
                "monthly" => Schedule::parse("0 0 1 * *"),
                "weekly" => Schedule::parse("0 0 * * 0"),
                "daily" | "midnight" => Schedule::parse("0 0 * * *"),
                "hourly" => Schedule::parse("0 * * * *"),
                _ => match word.strip_prefix("every ").and_then(duration) {
                    Some(every) => Ok(Schedule::Every(every)),
                    None => Err(format!(
                        "@{word} is not one of @yearly, @monthly, @weekly, @daily, @hourly, @every DURATION"
                    )),
                },
            };
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!("{text:?} has {} fields, a schedule has 5", fields.len()));
        };
        const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
        const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
        let weekdays = field(weekday, 0, 7, DAYS, 0)?;
        let is_star = |field: &str| field.starts_with(['*', '?']);
        Ok(Schedule::Fields {
            minutes: field(minute, 0, 59, &[], 0)?,
            hours: field(hour, 0, 23, &[], 0)?,
            days: field(day, 1, 31, &[], 0)?,
            months: field(month, 1, 12, MONTHS, 1)?,
            // Many write Sunday as 7.
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            either: !is_star(day) && !is_star(weekday),
        })
    }

    /// The first time after `now`; `None` if there is none within five years.
    pub fn after(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let Schedule::Fields { minutes, hours, days, months, weekdays, either } = self else {
            let Schedule::Every(every) = self else { return None };
            return Some(Timestamp::from_seconds(now.seconds()).plus(*every));
        };
        let has = |set: &u64, bit: i8| set & (1 << bit) != 0;
        let start = jiff::Timestamp::from_second(now.seconds().div_euclid(60) * 60 + 60).ok()?;
        let mut at = ZonedDateTime::new(start, zone.clone());
        let last_year = at.year() + YEARS_MAX;
        while at.year() <= last_year {
            if !has(months, at.month()) {
                at = at.first_of_month().ok()?.checked_add(1.month()).ok()?.start_of_day().ok()?;
                continue;
            }
            let (day, weekday) = (has(days, at.day()), has(weekdays, at.weekday().to_sunday_zero_offset()));
            if !(if *either { day || weekday } else { day && weekday }) {
                at = at.checked_add(1.day()).ok()?.start_of_day().ok()?;
                continue;
            }
            if !has(hours, at.hour()) {
                at = at.checked_add(i64::from(60 - at.minute()).minutes()).ok()?;
                continue;
            }
            if !has(minutes, at.minute()) {
                at = at.checked_add(1.minute()).ok()?;
                continue;
            }
            return Some(Timestamp::from_seconds(at.timestamp().as_second()));
        }
        None
    }

    /// The last time after `since` and not after `now`.
    pub fn latest(&self, since: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if let Schedule::Every(every) = self {
            let passed = now.since(since).as_secs() / every.as_secs().max(1);
            return (passed > 0).then(|| since.plus(Duration::from_secs(every.as_secs().max(1) * passed)));
        }
        // Looked for backwards in growing steps: after a long sleep there may be a million times to skip.
        const HOUR: u64 = 3600;
        for window in [HOUR, 24 * HOUR, 32 * 24 * HOUR, 366 * 24 * HOUR, u64::MAX] {
            let from = Timestamp(now.0.saturating_sub(i128::from(window) * 1_000_000_000)).max(since);
            let mut found = None;
            let mut next = self.after(from, zone);
            while let Some(at) = next.filter(|at| *at <= now) {
                found = Some(at);
                next = self.after(at, zone);
            }
            if found.is_some() || from == since {
                return found;
            }
        }
        None
    }
}

/// One field as a set of bits.
fn field(text: &str, min: u32, max: u32, names: &[&str], first: u32) -> Result<u64, String> {
    let number = |text: &str| -> Result<u32, String> {
        let name = names.iter().position(|name| text.eq_ignore_ascii_case(name)).map(|at| at as u32 + first);
        let number = name.or_else(|| text.parse().ok()).ok_or_else(|| format!("{text:?} is no number or name"))?;
        if (min..=max).contains(&number) { Ok(number) } else { Err(format!("{number} is not between {min} and {max}")) }
    };
    let mut set = 0;
    for part in text.split(',') {
        let (span, step) = match part.split_once('/') {
            Some((span, step)) => (span, Some(step.parse::<u32>().map_err(|_| format!("{step:?} is no step"))?)),
            None => (part, None),
        };
        if step == Some(0) {
            return Err(format!("the step of {part:?} is 0"));
        }
        let (from, to) = match span.split_once('-') {
            _ if span == "*" || span == "?" => (min, max.min(if max == 7 { 6 } else { max })),
            Some((from, to)) => (number(from)?, number(to)?),
            // A start with a step goes on to the end.
            None if step.is_some() => (number(span)?, max),
            None => (number(span)?, number(span)?),
        };
        if from > to {
            return Err(format!("{span:?} ends before it begins"));
        }
        (from..=to).step_by(step.unwrap_or(1) as usize).for_each(|bit| set |= 1u64 << bit);
    }
    Ok(set)
}

/// Go's form of a duration, in whole seconds: `1h30m`, `90s`.
fn duration(text: &str) -> Option<Duration> {
    let (mut seconds, mut number) = (0, String::new());
    for letter in text.trim().chars() {
        if letter.is_ascii_digit() {
            number.push(letter);
            continue;
        }
        let unit = match letter {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        seconds += number.parse::<u64>().ok()? * unit;
        number.clear();
    }
    (number.is_empty() && seconds > 0).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schedule: &str, zone: &str, after: &str, wanted: &str) {
        let zone = TimeZone::get(zone).expect("a zone");
        let now = after.parse().expect("a time");
        let next = Schedule::parse(schedule).expect("a schedule").after(now, &zone);
        assert_eq!(next.map(Timestamp::rfc3339).unwrap_or_default(), wanted);
    }

    #[test]
    fn fires_when_the_fields_say() {
        check("*/5 * * * *", "UTC", "2026-11-23T20:01:30Z", "2026-11-23T20:05:00Z");
        check("0 0 1 jan *", "UTC", "2026-11-23T20:00:00Z", "2027-01-01T00:00:00Z");
        check("30 6 * * mon-fri", "UTC", "2026-11-27T06:30:00Z", "2026-11-30T06:30:00Z");
        check("0 12 * * 7", "UTC", "2026-11-23T20:00:00Z", "2026-11-29T12:00:00Z");
        check("0 0 29 2 *", "UTC", "2026-11-23T20:00:00Z", "2028-02-29T00:00:00Z");
        check("@hourly", "UTC", "2026-11-23T20:00:00Z", "2026-11-23T21:00:00Z");
        check("@every 90s", "UTC", "2026-11-23T20:00:00Z", "2026-11-23T20:01:30Z");
    }
    #[test]
    fn day_and_weekday_are_alternatives() {
        check("0 0 13 * 5", "UTC", "2026-11-23T20:00:00Z", "2026-11-27T00:00:00Z");
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
        assert_eq!(schedule.latest(since, now, &TimeZone::UTC), Some(Timestamp::from_seconds(1_795_464_000)));
        assert_eq!(schedule.latest(now, now, &TimeZone::UTC), None);
    }
    #[test]
    fn refuses_what_it_cannot_mean() {
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "*/0 * * * *",
            "5-1 * * * *",
            "@reboot",
            "x * * * *",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}
