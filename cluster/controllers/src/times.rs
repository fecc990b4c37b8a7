//! Between our moments and the API's.
//!
//! Start at [`time`] and [`moment`].

use std::time::Duration;

use base::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff;

/// The API's form of a moment: whole seconds.
pub fn time(now: Timestamp) -> Time {
    Time(jiff::Timestamp::from_second(now.seconds()).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

/// Our form of the API's moment.
pub fn moment(time: &Time) -> Timestamp {
    Timestamp(time.0.as_nanosecond())
}

/// How long until `seconds` after `since`; `None` once that is over.
pub fn left(since: &Time, seconds: i64, now: Timestamp) -> Option<Duration> {
    let until = moment(since).plus(Duration::from_secs(seconds.max(0) as u64));
    let left = until.since(now);
    (!left.is_zero()).then_some(left)
}

/// What is left of a pause that began at `since`; `None` once it is over. After the clock was set back it counts as over: how
/// long ago it really began nobody knows, but it may be long until the clock gets there. Not for deadlines, see [`left`].
pub fn pause_left(since: Timestamp, pause: Duration, now: Timestamp) -> Option<Duration> {
    let left = if since > now { Duration::ZERO } else { since.plus(pause).since(now) };
    (!left.is_zero()).then_some(left)
}
