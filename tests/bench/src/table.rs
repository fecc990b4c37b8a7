//! What was measured, and how it reads.
//!
//! Start at [`Table`].

use std::fmt;
use std::time::Duration;

use crate::load::Verb;
use crate::promise::{CREATE, DELETE, Figure, GET, LIST, PATCH, Promise, UPDATE};

/// The promises are about so many.
const CLIENTS_PROMISED: usize = 50;

/// One verb on one server in one round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Operations a second.
    pub rate: f64,
    /// The latency that half of them stayed below.
    pub p50: Duration,
    /// The latency that 99 of 100 stayed below.
    pub p99: Duration,
}

impl Sample {
    /// From every latency of a round and how long the round took.
    pub fn new(mut latencies: Vec<Duration>, took: Duration) -> Sample {
        latencies.sort_unstable();
        let at =
            |part: usize| latencies.get(latencies.len().saturating_sub(1) * part / 100).copied().unwrap_or_default();
        Sample { rate: latencies.len() as f64 / took.as_secs_f64().max(1e-9), p50: at(50), p99: at(99) }
    }

    /// The sample whose rate is in the middle.
    pub fn median(mut samples: Vec<Sample>) -> Sample {
        samples.sort_by(|left, right| left.rate.total_cmp(&right.rate));
        samples.get(samples.len() / 2).cloned().unwrap_or_default()
    }
}

/// The figures of a run: a row a verb, a sample a server.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Clients at once.
    pub clients: usize,
    /// The rows.
    pub rows: Vec<(Verb, Vec<Sample>)>,
}

impl Table {
    /// The ratios that are promised, if these are as many clients as the promises are about.
    pub fn figures(&self) -> Vec<Figure> {
        let rows = self.rows.iter().filter(|_| self.clients == CLIENTS_PROMISED);
        rows.filter_map(|(verb, samples)| Some(promise(*verb).is(ratio(samples)?))).collect()
    }
}

fn promise(verb: Verb) -> &'static Promise {
    match verb {
        Verb::Create => &CREATE,
        Verb::Get => &GET,
        Verb::List => &LIST,
        Verb::Update => &UPDATE,
        Verb::Patch => &PATCH,
        Verb::Delete => &DELETE,
    }
}

/// The last server's to the first one's, if there are two.
fn ratio(samples: &[Sample]) -> Option<f64> {
    match samples {
        [first, .., last] => Some(last.rate / first.rate),
        _ => None,
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (verb, samples) in &self.rows {
            write!(out, "{:<8}", verb.name())?;
            for sample in samples {
                let ms = |time: Duration| time.as_secs_f64() * 1000.0;
                write!(
                    out,
                    " {:>8.0}/s (p50 {:>7.1} ms, p99 {:>7.1} ms)",
                    sample.rate,
                    ms(sample.p50),
                    ms(sample.p99)
                )?;
            }
            if let Some(ratio) = ratio(samples) {
                write!(out, "  ratio {ratio:.1}")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_knows_its_middle_and_its_edge() {
        let sample = Sample::new((1..=100).map(Duration::from_millis).collect(), Duration::from_secs(2));
        assert_eq!((sample.rate, sample.p50.as_millis(), sample.p99.as_millis()), (50.0, 50, 99));
    }

    #[test]
    fn the_ratio_is_of_the_last_to_the_first() {
        let sample = |rate| Sample { rate, ..Sample::default() };
        let rows = vec![(Verb::Get, vec![sample(100.0), sample(500.0)])];
        let table = Table { clients: 50, rows };
        assert!(table.to_string().ends_with("ratio 5.0\n"), "{table}");
        assert_eq!(table.figures(), [GET.is(5.0)]);
        assert_eq!(Table { clients: 10, ..table }.figures(), []);
    }

    #[test]
    fn the_median_is_one_of_the_samples() {
        let sample = |rate| Sample { rate, ..Sample::default() };
        assert_eq!(Sample::median(vec![sample(9.0), sample(1.0), sample(5.0)]).rate, 5.0);
    }
}
