//! Cron schedules in the standard five fields, as robfig/cron v3 reads them: `*/5 0-6 1,15 JAN-MAR MON`, `@daily`,
//! `@every 90m`.
//!
//! Start at [`Schedule::parse`]. Errors read as that library's, because validation shows them.
//!
//! Invariant: every bit set stands for a value its field can have.
//!
//! Not here: time zones and the clock; who asks for the next time (`controllers`) walks civil time and asks [`Fields`].

/// A parsed schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At every minute that fits.
    At(Box<Fields>),
    /// Again and again after so many seconds.
    Every(u64),
}

/// Which minutes, hours, days, months and weekdays fit: one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// A field that began with `*`: then the other of day and weekday decides alone.
    day_is_any: bool,
    weekday_is_any: bool,
}

/// A minute of civil time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minute {
    /// 0 to 59
    pub minute: u8,
    /// 0 to 23
    pub hour: u8,
    /// 1 to 31
    pub day: u8,
    /// 1 to 12
    pub month: u8,
    /// 0 (Sunday) to 6
    pub weekday: u8,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// What a field can hold.
struct Bounds {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const BOUNDS: [Bounds; 5] = [
    Bounds { low: 0, high: 59, names: &[] },
    Bounds { low: 0, high: 23, names: &[] },
    Bounds { low: 1, high: 31, names: &[] },
    Bounds { low: 1, high: 12, names: &MONTHS },
    Bounds { low: 0, high: 6, names: &WEEKDAYS },
];

impl Schedule {
    /// Reads a schedule.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        if text.starts_with('@') {
            return descriptor(text);
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        if words.len() != 5 {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", words.len(), words.join(" ")));
        }
        fields([words[0], words[1], words[2], words[3], words[4]])
    }

    /// Whether a job starts in this minute. A schedule that repeats after a span fits no minute in particular.
    pub fn matches(&self, at: Minute) -> bool {
        let Schedule::At(fields) = self else { return false };
        fields.has_minute(at.minute)
            && fields.has_hour(at.hour)
            && fields.has_month(at.month)
            && fields.has_date(at.day, at.weekday)
    }
}

impl Fields {
    /// Whether this minute of an hour fits.
    pub fn has_minute(&self, minute: u8) -> bool {
        has(self.minute, minute)
    }

    /// Whether this hour of a day fits.
    pub fn has_hour(&self, hour: u8) -> bool {
        has(self.hour, hour)
    }

    /// Whether this month fits, from 1.
    pub fn has_month(&self, month: u8) -> bool {
        has(self.month, month)
    }

    /// Whether this day of a month fits, of which 0 is the weekday of a Sunday. If both are restricted, one is enough.
    pub fn has_date(&self, day: u8, weekday: u8) -> bool {
        let (day, weekday) = (has(self.day, day), has(self.weekday, weekday));
        if self.day_is_any || self.weekday_is_any { day && weekday } else { day || weekday }
    }
}

fn has(bits: u64, value: u8) -> bool {
    bits & (1 << value) != 0
}

fn descriptor(text: &str) -> Result<Schedule, String> {
    match text {
        "@yearly" | "@annually" => fields(["0", "0", "1", "1", "*"]),
        "@monthly" => fields(["0", "0", "1", "*", "*"]),
        "@weekly" => fields(["0", "0", "*", "*", "0"]),
        "@daily" | "@midnight" => fields(["0", "0", "*", "*", "*"]),
        "@hourly" => fields(["0", "*", "*", "*", "*"]),
        _ => {
            let span = text.strip_prefix("@every ").ok_or_else(|| format!("unrecognized descriptor: {text}"))?;
            let nanos = crate::duration::parse(span)
                .ok_or_else(|| format!("failed to parse duration {text}: time: invalid duration {span:?}"))?;
            // The library rounds to seconds and never goes below one.
            Ok(Schedule::Every((nanos.max(0) as u64 / 1_000_000_000).max(1)))
        }
    }
}

fn fields(words: [&str; 5]) -> Result<Schedule, String> {
    let mut bits = [0; 5];
    for (index, word) in words.iter().enumerate() {
        for part in word.split(',') {
            bits[index] |= range(part, &BOUNDS[index])?;
        }
    }
    let [minute, hour, day, month, weekday] = bits;
    let is_any =
        |word: &str| word.split(',').any(|part| matches!(part.split('/').next(), Some("*" | "?")) && step_is_one(part));
    let (day_is_any, weekday_is_any) = (is_any(words[2]), is_any(words[4]));
    Ok(Schedule::At(Box::new(Fields { minute, hour, day, month, weekday, day_is_any, weekday_is_any })))
}

/// `*/2` restricts, so it no longer counts as "any".
fn step_is_one(part: &str) -> bool {
    part.split_once('/').is_none_or(|(_, step)| step == "1")
}

/// The bits of `number`, `number-number`, `*`, each perhaps with `/step`.
fn range(part: &str, bounds: &Bounds) -> Result<u64, String> {
    let mut halves = part.split('/');
    let (span, step, extra) = (halves.next().unwrap_or(""), halves.next(), halves.next());
    if extra.is_some() {
        return Err(format!("too many slashes: {part}"));
    }
    let ends: Vec<&str> = span.split('-').collect();
    let (low, mut high) = match ends[..] {
        ["*" | "?"] => (bounds.low, bounds.high),
        [one] => {
            let value = number(one, bounds)?;
            (value, value)
        }
        [low, high] => (number(low, bounds)?, number(high, bounds)?),
        _ => return Err(format!("too many hyphens: {part}")),
    };
    let step = match step {
        None => 1,
        Some(step) => {
            if ends.len() == 1 {
                high = bounds.high;
            }
            number(step, &Bounds { low: 0, high: u32::MAX, names: &[] })?
        }
    };
    if low < bounds.low {
        return Err(format!("beginning of range ({low}) below minimum ({}): {part}", bounds.low));
    }
    if high > bounds.high {
        return Err(format!("end of range ({high}) above maximum ({}): {part}", bounds.high));
    }
    if low > high {
        return Err(format!("beginning of range ({low}) beyond end of range ({high}): {part}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    Ok((low..=high).step_by(step as usize).fold(0, |bits, value| bits | 1 << value))
}

fn number(text: &str, bounds: &Bounds) -> Result<u32, String> {
    if let Some(index) = bounds.names.iter().position(|name| text.eq_ignore_ascii_case(name)) {
        return Ok(bounds.low + index as u32);
    }
    let parsed: i64 = text
        .parse()
        .map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))?;
    u32::try_from(parsed).map_err(|_| format!("negative number ({parsed}) not allowed: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u8, hour: u8, day: u8, month: u8, weekday: u8) -> Minute {
        Minute { minute, hour, day, month, weekday }
    }

    #[test]
    fn schedules_fit_their_minutes() {
        for (text, minute, want) in [
            ("* * * * *", at(7, 3, 1, 1, 0), true),
            ("*/15 * * * *", at(30, 0, 1, 1, 0), true),
            ("*/15 * * * *", at(31, 0, 1, 1, 0), false),
            ("0 9-17 * * MON-FRI", at(0, 12, 5, 5, 1), true),
            ("0 9-17 * * mon-fri", at(0, 12, 5, 5, 0), false),
            ("5/20 * * * *", at(45, 0, 1, 1, 0), true),
            ("0 0 13 * 5", at(0, 0, 13, 2, 1), true),
            ("0 0 13 * 5", at(0, 0, 12, 2, 5), true),
            ("0 0 13 * *", at(0, 0, 12, 2, 5), false),
            ("0 0 1 JAN ?", at(0, 0, 1, 1, 3), true),
            ("@daily", at(0, 0, 9, 9, 2), true),
            ("@hourly", at(1, 0, 9, 9, 2), false),
        ] {
            assert_eq!(Schedule::parse(text).map(|schedule| schedule.matches(minute)), Ok(want), "{text} {minute:?}");
        }
        assert_eq!(Schedule::parse("@every 90m"), Ok(Schedule::Every(5400)));
    }

    #[test]
    fn bad_schedules_are_told_as_the_library_tells_them() {
        for (text, want) in [
            ("", "empty spec string"),
            ("error", "expected exactly 5 fields, found 1: [error]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("9-3 * * * *", "beginning of range (9) beyond end of range (3): 9-3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@often", "unrecognized descriptor: @often"),
        ] {
            assert_eq!(Schedule::parse(text), Err(want.to_owned()), "{text}");
        }
    }
}
