//! The store of one machine.
//!
//! Start at [`sqlite`] and [`memory`].

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::{Annotate, Entry, Page, Range, Revision, Store, StoreError, Watch, Write};

/// The bounds of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// At most so many changes are remembered.
    pub history_changes_max: usize,
    /// The changes remembered take at most so many bytes.
    pub history_bytes_max: usize,
    /// All live values together take at most so many bytes; a put beyond is refused.
    pub live_bytes_max: usize,
    /// A watcher that lags by more changes than this is told [`StoreError::Slow`].
    pub watch_queue_max: usize,
    /// A lazy write waits at most about so long for a commit to carry it.
    pub lazy_age_max: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            history_changes_max: 20_000,
            history_bytes_max: 16 << 20,
            live_bytes_max: 512 << 20,
            watch_queue_max: 1_000,
            lazy_age_max: Duration::from_secs(60),
        }
    }
}

/// A store on this machine: all live objects in memory, and a log behind them.
pub struct Local {}

/// Opens (or makes) the store in the SQLite file at `path`. Must be called inside a tokio runtime.
pub async fn sqlite(path: &Path, annotate: Annotate, options: Options) -> Result<Local, StoreError> {
    let _ = (annotate, options);
    Err(StoreError::Open { path: path.display().to_string(), reason: "the SQLite log is not written yet".to_owned() })
}

/// A store that lives as long as the process. Its writes are complete when [`Store::write`] returns, on any executor.
pub fn memory(annotate: Annotate) -> Local {
    let _ = annotate;
    Local {}
}

impl Store for Local {
    fn revision(&self) -> Revision {
        Revision(0)
    }
    fn get(&self, _key: &str) -> Option<Entry> {
        None
    }
    fn list(&self, _range: &Range) -> Result<Page, StoreError> {
        Err(StoreError::Closed)
    }
    fn watch(&self, _prefix: &str, _after: Revision) -> Result<Watch, StoreError> {
        Err(StoreError::Closed)
    }
    fn write(&self, _write: Write) -> BoxFuture<'static, Result<Entry, StoreError>> {
        Box::pin(std::future::ready(Err(StoreError::Closed)))
    }
    fn compact(&self, _revision: Revision) {}
    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
