//! A log that is kept in memory, with the faults of a disk.
//!
//! Start at [`Disk`]. It outlives the store that writes to it: dropping the store is a crash, after which only what was
//! committed is on the disk. A fault happens at a numbered operation, so that a test can try every one in turn.
//!
//! Not here: partial commits. A log keeps a commit as a whole or not at all (`log.rs`); that the SQLite log does is tried
//! over a file system that fails (`tests/faults.rs`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::Revision;
use crate::log::{Commit, Each, Header, Log, LogError, Row};

/// A simulated disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<Platter>>);

/// What goes wrong at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and did not happen.
    Refuse,
    /// It fails although it happened.
    Deny,
    /// The power goes: it may have happened, nothing after it does until [`Disk::power_on`].
    Cut {
        /// Whether the operation still happened.
        happened: bool,
    },
}

#[derive(Default)]
struct Platter {
    objects: BTreeMap<Arc<str>, (Revision, Bytes)>,
    header: Option<Header>,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    off: bool,
}

impl Disk {
    /// An empty disk without faults.
    pub fn new() -> Disk {
        Disk::default()
    }

    /// Lets `fault` happen at the operation with this number; the next one has the number [`Disk::operations`].
    pub fn fault_at(&self, operation: u64, fault: Fault) {
        self.platter().faults.insert(operation, fault);
    }

    /// How many operations there have been: one to open, one for each commit.
    pub fn operations(&self) -> u64 {
        self.platter().operations
    }

    /// Whether the power went.
    pub fn is_off(&self) -> bool {
        self.platter().off
    }

    /// Ends a [`Fault::Cut`].
    pub fn power_on(&self) {
        self.platter().off = false;
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one operation, with its fault if it has one.
    fn operate(&self, operation: impl FnOnce(&mut Platter)) -> Result<(), LogError> {
        let mut platter = self.platter();
        let number = platter.operations;
        platter.operations += 1;
        let fault = platter.faults.remove(&number);
        let happens = !platter.off && !matches!(fault, Some(Fault::Refuse | Fault::Cut { happened: false }));
        if happens {
            operation(&mut platter);
        }
        platter.off |= matches!(fault, Some(Fault::Cut { .. }));
        if happens && fault.is_none() {
            return Ok(());
        }
        Err(LogError(format!("operation {number} failed on the simulated disk")))
    }
}

/// The log on a [`Disk`].
pub(crate) struct MemoryLog(pub(crate) Disk);

impl Log for MemoryLog {
    async fn open(&mut self, each: Each<'_>) -> Result<Header, LogError> {
        let mut header = Header::default();
        self.0.operate(|platter| {
            platter.objects.iter().for_each(|(key, (revision, value))| each(key, *revision, value.clone()));
            header = platter.header.unwrap_or(Header { clean: true, ..Header::default() });
        })?;
        Ok(header)
    }

    async fn append(&mut self, commit: &Commit) -> Result<(), LogError> {
        self.0.operate(|platter| {
            for row in &commit.rows {
                match row {
                    Row::Put(entry) => {
                        platter.objects.insert(entry.key.clone(), (entry.revision, entry.value.clone()));
                    }
                    Row::Delete(key) => {
                        platter.objects.remove(key);
                    }
                }
            }
            platter.header = Some(commit.header);
        })
    }

    async fn tend(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    async fn close(&mut self) {}
}
