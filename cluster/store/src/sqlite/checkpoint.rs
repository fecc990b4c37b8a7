//! When to move the write-ahead file into the database.
//!
//! Start at [`Budget`]. A checkpoint makes writers wait, a long one for long; so it is made after as many pages as this disk
//! moves within [`CHECKPOINT_MAX`], found out by measuring.
//!
//! Invariants:
//! * the write-ahead file holds at most [`crate::Options::wal_pages_max`] pages and one batch.

use std::time::Duration;

use crate::log::{Commit, Row};

/// SQLite's page.
pub(super) const PAGE_BYTES: usize = 4096;
/// A writer may wait so long for a checkpoint.
const CHECKPOINT_MAX: Duration = Duration::from_millis(200);
/// Fewer pages are not worth the two fsyncs that a checkpoint takes.
const PAGES_MIN: usize = 128;

/// How many pages may wait.
pub(super) struct Budget {
    pages: usize,
    pages_max: usize,
}

impl Budget {
    /// A budget of at most `pages_max`, which begins in the middle.
    pub(super) fn new(pages_max: usize) -> Budget {
        Budget { pages: pages_max / 2, pages_max }
    }

    /// Whether a checkpoint is due.
    pub(super) fn is_due(&self, pages: usize) -> bool {
        pages >= self.pages
    }

    /// Learns from a checkpoint that took so long.
    pub(super) fn took(&mut self, time: Duration) {
        if time > CHECKPOINT_MAX {
            self.pages /= 2;
        } else if time < CHECKPOINT_MAX / 4 {
            self.pages *= 2;
        }
        self.pages = self.pages.max(PAGES_MIN).min(self.pages_max);
    }
}

/// About how many pages a commit adds: the header's, and for each row its leaf, its index leaf and its value.
pub(super) fn pages(commit: &Commit) -> usize {
    let row = |row: &Row| match row {
        Row::Put(entry) => 2 + entry.value.len() / PAGE_BYTES,
        Row::Delete(_) => 2,
    };
    1 + commit.rows.iter().map(row).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The budget after checkpoints that took so many milliseconds each.
    #[track_caller]
    fn check(times_ms: &[u64], expected: usize) {
        let mut budget = Budget::new(1024);
        times_ms.iter().for_each(|ms| budget.took(Duration::from_millis(*ms)));
        assert_eq!(budget.pages, expected);
    }

    #[test]
    fn a_fast_disk_waits_longer() {
        check(&[1], 1024);
        check(&[1, 1, 1], 1024);
    }

    #[test]
    fn a_slow_disk_moves_less_at_a_time() {
        check(&[500], 256);
        check(&[500, 500, 500, 500], 128);
    }

    #[test]
    fn a_disk_within_its_budget_changes_nothing() {
        check(&[100, 100], 512);
    }
}
