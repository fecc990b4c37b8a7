//! Probes: when they count, as values; and the loop that makes them.
//!
//! Start at [`Track::heard`] for the thresholds, at [`follow`] for the loop.
//!
//! Not here: how a probe asks (`action`), what follows from it (`step`).

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

/// Which question a probe answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Has it come up?
    Startup,
    /// May it get traffic?
    Readiness,
    /// Is it still alive?
    Liveness,
}

impl Kind {
    /// As events name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Readiness => "Readiness",
            Kind::Liveness => "Liveness",
        }
    }

    /// The probe of that kind in a container's spec.
    pub fn of(self, container: &k8s_openapi::api::core::v1::Container) -> Option<&Probe> {
        match self {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// The times and thresholds of a probe, with upstream's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// Before the first.
    pub initial_delay: Duration,
    /// Between two.
    pub period: Duration,
    /// For one.
    pub timeout: Duration,
    /// Successes in a row that count.
    pub successes: i32,
    /// Failures in a row that count.
    pub failures: i32,
}

impl Rhythm {
    /// Of a probe.
    pub fn of(probe: &Probe) -> Rhythm {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.filter(|value| *value > 0).map_or(default, |value| value as u64))
        };
        let count = |value: Option<i32>, default| value.filter(|value| *value > 0).unwrap_or(default);
        Rhythm {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            successes: count(probe.success_threshold, 1),
            failures: count(probe.failure_threshold, 3),
        }
    }
}

/// The answers in a row of one probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Track {
    last: Option<bool>,
    run: i32,
    said: Option<bool>,
}

impl Track {
    /// Counts an answer; says `Some` when the verdict is new.
    pub fn heard(&mut self, success: bool, rhythm: &Rhythm) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let wanted = if success { rhythm.successes } else { rhythm.failures };
        if self.run < wanted || self.said == Some(success) {
            return None;
        }
        self.said = Some(success);
        Some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` and `-` are answers; what comes out is `U`, `D` or `.`.
    #[track_caller]
    fn check(successes: i32, failures: i32, answers: &str, wanted: &str) {
        let probe = Probe { success_threshold: Some(successes), failure_threshold: Some(failures), ..Probe::default() };
        let (rhythm, mut track) = (Rhythm::of(&probe), Track::default());
        let said: String = answers
            .chars()
            .map(|answer| match track.heard(answer == '+', &rhythm) {
                Some(true) => 'U',
                Some(false) => 'D',
                None => '.',
            })
            .collect();
        assert_eq!(said, wanted, "{answers}");
    }

    #[test]
    fn thresholds_count_answers_in_a_row() {
        check(1, 3, "+++", "U..");
        check(1, 3, "---", "..D");
        check(1, 3, "+--+---", "U.....D");
        check(1, 3, "---+", "..DU");
        check(2, 1, "+-++", ".D.U");
    }

    #[test]
    fn defaults_are_upstreams() {
        let rhythm = Rhythm::of(&Probe::default());
        assert_eq!((rhythm.period.as_secs(), rhythm.timeout.as_secs(), rhythm.failures), (10, 1, 3));
    }
}
