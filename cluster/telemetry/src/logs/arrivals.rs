//! What came to the log store when: so that who follows it is told also of lines that come late, with times long past.
//!
//! Start at [`Arrivals::note`] and [`Arrivals::between`].
//!
//! Invariants:
//! * memory holds what came last, [`ARRIVALS_MAX`] pieces at most;
//! * what is answered is all that came between two batches, or that it is no longer known.

use std::collections::{BTreeMap, VecDeque};

/// Pieces of streams: a cluster of three boards makes as many in some minutes, and who follows asks each two seconds.
const ARRIVALS_MAX: usize = 4096;

/// A place in a stream: its incarnation, and where in that.
pub(crate) type At = (u32, u64);

/// A piece of a stream that came.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    batch: u64,
    /// Which stream, as [`super::query::hash`] says.
    stream: u64,
    at: At,
    /// The earliest time in it.
    first: i64,
}

/// What came last.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    last: VecDeque<Arrival>,
    /// What came up to this batch is forgotten.
    forgotten: u64,
}

/// The lines that came in a time, as places in their streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// Only streams in here have any, from there on; without it all have.
    pub from: Option<BTreeMap<u64, At>>,
    /// Those streams have them up to there.
    pub to: BTreeMap<u64, At>,
    /// No line is earlier.
    pub first: Option<i64>,
}

impl Arrivals {
    /// A store that has had so many batches.
    pub(crate) fn new(batch: u64) -> Arrivals {
        Arrivals { last: VecDeque::new(), forgotten: batch }
    }

    /// A piece of a stream came with that batch, the newest.
    pub(crate) fn note(&mut self, batch: u64, stream: u64, at: At, first: i64) {
        self.last.push_back(Arrival { batch, stream, at, first });
        while self.last.len() > ARRIVALS_MAX {
            self.forgotten = self.last.pop_front().map_or(self.forgotten, |gone| gone.batch);
        }
    }

    /// What came after `from`, if one is given, up to `to`; `None` if that is no longer known.
    pub(crate) fn between(&self, from: Option<u64>, to: u64) -> Option<Arrived> {
        let known = from.unwrap_or(to).min(to) >= self.forgotten;
        known.then(|| {
            let since = |batch: u64| self.last.iter().filter(move |one| one.batch > batch);
            // The first one of a stream is put in last, and stays.
            let first_places =
                |batch| -> BTreeMap<u64, At> { since(batch).rev().map(|one| (one.stream, one.at)).collect() };
            Arrived {
                from: from.map(first_places),
                to: first_places(to),
                first: from.map(|from| since(from).map(|one| one.first).min().unwrap_or(i64::MAX)),
            }
        })
    }
}

impl Arrived {
    /// Whether a stream may have lines that came then.
    pub(crate) fn is_about(&self, stream: u64) -> bool {
        self.from.as_ref().is_none_or(|from| from.contains_key(&stream))
    }

    /// Whether the line there came then.
    pub(crate) fn has(&self, stream: u64, at: At) -> bool {
        let behind = self.from.as_ref().is_none_or(|from| from.get(&stream).is_some_and(|from| *from <= at));
        behind && self.to.get(&stream).is_none_or(|to| at < *to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `lines` of stream 1 that came after one batch up to another, of ten lines a batch from batch 6 on.
    fn check(from: Option<u64>, to: u64, expected: Option<std::ops::Range<u64>>) {
        let mut arrivals = Arrivals::new(5);
        (6..10).for_each(|batch| arrivals.note(batch, 1, (0, (batch - 6) * 10), -(batch as i64)));
        let found = arrivals.between(from, to);
        assert!(found.iter().all(|found| found.has(2, (0, 0)) == from.is_none()), "another stream");
        let has = |found: &Arrived| (0..40).filter(|line| found.has(1, (0, *line))).collect::<Vec<u64>>();
        assert_eq!(found.as_ref().map(has), expected.map(Iterator::collect), "{from:?} to {to}");
    }

    #[test]
    fn what_came_between_two_batches_is_told_or_that_it_is_forgotten() {
        check(None, 9, Some(0..40));
        check(None, 7, Some(0..20));
        check(Some(5), 9, Some(0..40));
        check(Some(7), 9, Some(20..40));
        check(Some(7), 8, Some(20..30));
        check(Some(9), 9, Some(0..0));
        check(Some(4), 9, None);
        check(None, 4, None);
        check(Some(9), 4, None);
    }

    #[test]
    fn only_so_much_is_remembered() {
        let mut arrivals = Arrivals::new(0);
        (1..=ARRIVALS_MAX as u64 + 10).for_each(|batch| arrivals.note(batch, 1, (0, batch), 0));
        assert_eq!((arrivals.between(Some(9), 20), arrivals.last.len()), (None, ARRIVALS_MAX));
        assert!(arrivals.between(Some(10), 20).is_some());
    }
}
