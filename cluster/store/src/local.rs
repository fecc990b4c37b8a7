//! The store of one machine: all live objects in memory, and a log behind them.
//!
//! Start at [`sqlite`] and [`memory`]; both give a [`Local`].
//!
//! Invariants:
//! * reading takes a lock for as long as it takes to copy pointers, and never waits for the disk.
//!
//! Not here: what a store does (`core.rs`), how it is kept (`sqlite/`, `memory.rs`).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base::Monotonic;
use futures::channel::oneshot;
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::Notify;

use crate::core::Closer;
use crate::memory::{Disk, MemoryLog};
use crate::run::{Driver, Shared, Turn, run};
use crate::sqlite::SqliteLog;
use crate::watch::Events;
use crate::{Annotate, Entry, Options, Page, Range, Revision, Store, StoreError, Watch, Write};

/// A store on this machine. Dropping it closes a SQLite store in the background, and is a crash for one in memory.
pub struct Local {
    shared: Arc<Shared>,
    pump: Pump,
}

/// When a store in memory does what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once: a write is complete when [`Store::write`] returns.
    AtOnce,
    /// When [`Local::turn`] is called, so that a simulator decides what is committed together and when.
    ByHand,
}

/// Who drives the log.
enum Pump {
    Task(Arc<Notify>),
    Here(Pace, Mutex<Driver<MemoryLog>>),
}

/// Opens (or makes) the store in the SQLite file at `path`. Must be called inside a tokio runtime, where the store's one
/// task then lives.
pub async fn sqlite(path: &Path, annotate: Annotate, options: Options) -> Result<Local, StoreError> {
    let open_error = |reason| StoreError::Open { path: path.display().to_string(), reason };
    let log = SqliteLog::new(path, options.wal_pages_max);
    let driver = Driver::start(log, annotate, options).await.map_err(|error| open_error(error.0))?;
    let (shared, work) = (driver.shared(), Arc::new(Notify::new()));
    tokio::spawn(run(driver, work.clone()));
    Ok(Local { shared, pump: Pump::Task(work) })
}

/// A store that lives as long as the process. Its writes are complete when [`Store::write`] returns, on any executor.
pub fn memory(annotate: Annotate) -> Local {
    memory_on(&Disk::new(), annotate, Options::default(), Pace::AtOnce).expect("a disk without faults can be opened")
}

/// A store on a simulated disk.
pub fn memory_on(disk: &Disk, annotate: Annotate, options: Options, pace: Pace) -> Result<Local, StoreError> {
    let driver = Driver::start(MemoryLog(disk.clone()), annotate, options)
        .now_or_never()
        .expect("a log in memory never waits")
        .map_err(|error| StoreError::Open { path: "memory".to_owned(), reason: error.0 })?;
    Ok(Local { shared: driver.shared(), pump: Pump::Here(pace, Mutex::new(driver)) })
}

impl Local {
    /// Does the next thing there is to do, such as committing what waits, and says whether there was any. A SQLite store
    /// does this by itself.
    pub fn turn(&self) -> bool {
        match &self.pump {
            Pump::Task(_) => false,
            Pump::Here(_, driver) => {
                let mut driver = driver.lock().unwrap_or_else(PoisonError::into_inner);
                driver.turn().now_or_never().expect("a log in memory never waits") == Turn::Worked
            }
        }
    }

    /// Says what time it is, for lazy writes and the progress of watchers. A SQLite store looks by itself.
    pub fn tick(&self, now: Monotonic) {
        self.shared.change(|core, effects| core.tick(now, effects));
        self.nudge();
    }

    fn nudge(&self) {
        match &self.pump {
            Pump::Task(work) => work.notify_one(),
            Pump::Here(Pace::AtOnce, _) => while self.turn() {},
            Pump::Here(Pace::ByHand, _) => {}
        }
    }

    fn request_close(&self, closer: Option<Closer>) {
        self.shared.change(|core, effects| core.close(closer, effects));
        self.nudge();
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.shared.read().is_closed() { Err(StoreError::Closed) } else { Ok(()) }
    }
}

impl Store for Local {
    fn revision(&self) -> Revision {
        self.shared.read().state.visible()
    }

    fn get(&self, key: &str) -> Option<Entry> {
        self.shared.read().state.live().get(key).cloned()
    }

    fn list(&self, range: &Range) -> Result<Page, StoreError> {
        self.check_open()?;
        self.shared.read().state.list(range)
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.check_open()?;
        let (prefix, queue) = self.shared.change(|core, _| {
            let visible = core.state.visible();
            let backlog = core.state.since(prefix, after)?;
            Ok(core.watchers.add(prefix, backlog, visible))
        })?;
        Ok(Box::pin(Events { prefix, queue, registry: Arc::downgrade(&self.shared) }))
    }

    fn write(&self, write: Write) -> BoxFuture<'static, Result<Entry, StoreError>> {
        let key = checked_key(&write).to_owned();
        let (answer, answered) = oneshot::channel();
        self.shared.change(|core, effects| core.submit(write, answer, &self.shared.annotate, effects));
        self.nudge();
        Box::pin(async move {
            let lost = || StoreError::Unknown { key, reason: "the store's writer has stopped".to_owned() };
            answered.await.unwrap_or_else(|_| Err(lost()))
        })
    }

    fn compact(&self, revision: Revision) {
        self.shared.change(|core, _| core.state.compact(revision));
    }

    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        let (closer, closed) = oneshot::channel();
        self.request_close(Some(closer));
        Box::pin(async move { closed.await.unwrap_or(Err(StoreError::Closed)) })
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if matches!(self.pump, Pump::Task(_)) {
            self.request_close(None);
        }
    }
}

/// The key of a write whose stamp, if it has one, is inside its value.
fn checked_key(write: &Write) -> &str {
    let (key, value) = match write {
        Write::Put(put) => (&put.key, put.stamp_at.map(|at| (at, &put.value))),
        Write::Delete(delete) => {
            let tombstone = delete.tombstone.as_ref();
            (&delete.key, tombstone.and_then(|(value, stamp_at)| stamp_at.map(|at| (at, value))))
        }
    };
    assert!(value.is_none_or(|(at, value)| at <= value.len()), "the stamp of {key} lies inside its value");
    key
}
