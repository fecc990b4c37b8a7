//! The bounds of a store.
//!
//! Start at [`Options`]; its default is meant for a board with 1 GiB.

use std::time::Duration;

/// The bounds of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// At most so many changes are remembered for watches and lists at a revision.
    pub history_changes_max: usize,
    /// The changes remembered take at most so many bytes.
    pub history_bytes_max: usize,
    /// All live objects take at most so many bytes; a put beyond is refused. The database file takes at most about half as
    /// much again.
    pub live_bytes_max: usize,
    /// A watcher that lags by more changes than this is told [`crate::StoreError::Slow`].
    pub watch_changes_max: usize,
    /// What is committed is moved into the database file after at most so many pages of 4 KiB.
    pub wal_pages_max: usize,
    /// A lazy write waits at most about so long for a commit to carry it.
    pub lazy_age_max: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            history_changes_max: 20_000,
            history_bytes_max: 16 << 20,
            live_bytes_max: 256 << 20,
            watch_changes_max: 1_000,
            wal_pages_max: 1_024,
            lazy_age_max: Duration::from_secs(60),
        }
    }
}
