//! Makes a store's file from what another store held: the last step of a restore.
//!
//! Start at [`Filling::begin`].
//!
//! Invariants:
//! * only a file without objects is filled;
//! * objects keep their revisions; whoever opens the file goes on behind the fence, and nobody may watch on from before it.
//!
//! Not here: what holds the objects meanwhile (`backup`).

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::log::{Commit, Header, Log, LogError, Row};
use crate::sqlite::SqliteLog;
use crate::{Entry, Options, Revision, StoreError};

/// So many objects are committed at once.
const ROWS_MAX: usize = 1_000;
/// Or fewer, once they hold so many bytes.
const BYTES_MAX: usize = 4 << 20;

/// A file that is being filled. Dropped before [`Filling::finish`], it is no store that anybody should open.
pub struct Filling {
    path: PathBuf,
    log: SqliteLog,
    rows: Vec<Row>,
    bytes: usize,
    newest: Revision,
}

impl Filling {
    /// Makes the SQLite file at `path`. Must be called inside a tokio runtime.
    pub async fn begin(path: &Path) -> Result<Filling, StoreError> {
        let mut log = SqliteLog::new(path, Options::default().wal_pages_max);
        let mut objects = 0_usize;
        let opened = log.open(&mut |_, _, _| objects += 1).await;
        opened.map_err(|error| StoreError::Open { path: path.display().to_string(), reason: error.0 })?;
        if objects > 0 {
            return Err(failed(path, format!("it holds {objects} objects already")));
        }
        Ok(Filling { path: path.to_owned(), log, rows: Vec::new(), bytes: 0, newest: Revision(0) })
    }

    /// Adds an object that has no other with its key.
    pub async fn put(&mut self, key: &str, revision: Revision, value: Bytes) -> Result<(), StoreError> {
        self.newest = self.newest.max(revision);
        self.bytes += value.len();
        self.rows.push(Row::Put(Entry { key: key.into(), value, revision, annex: std::sync::Arc::new(()) }));
        if self.rows.len() < ROWS_MAX && self.bytes < BYTES_MAX {
            return Ok(());
        }
        self.commit(Header { revision: self.newest, fence: self.newest, clean: false }).await
    }

    /// Commits what is left. Revisions up to `fence` count as given out.
    pub async fn finish(mut self, fence: Revision) -> Result<(), StoreError> {
        assert!(fence >= self.newest, "no object is newer than the fence");
        self.commit(Header { revision: self.newest, fence, clean: false }).await?;
        self.log.close().await;
        Ok(())
    }

    async fn commit(&mut self, header: Header) -> Result<(), StoreError> {
        let commit = Commit { rows: std::mem::take(&mut self.rows), header };
        self.bytes = 0;
        let said = |error: LogError| failed(&self.path, error.0);
        self.log.append(&commit).await.map_err(said)?;
        self.log.tend().await.map_err(said)
    }
}

fn failed(path: &Path, reason: String) -> StoreError {
    StoreError::Fill { path: path.display().to_string(), reason }
}
