//! The log in a SQLite file.
//!
//! Start at [`SqliteLog::append`], one transaction. SQLite is read when the log is opened and never again.
//!
//! Invariants:
//! * one connection, locked exclusively; WAL, `synchronous=FULL`: what is committed survives a power cut;
//! * after any error nothing is written until the file was opened anew and looked through;
//! * the write-ahead file is moved into the database in small steps (`checkpoint.rs`), so it stays small too.
//!
//! Not here: opening and checking (`open.rs`), what a failed fsync leaves behind (`rescue.rs`).

mod checkpoint;
mod open;
mod rescue;
mod schema;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, Row as _};

use crate::log::{Commit, Each, Header, Log, LogError, Row};
use checkpoint::{Budget, PAGE_BYTES, pages};

/// So many rows go into one statement: each statement is a hop to SQLite's thread and back.
const ROWS_PER_STATEMENT: usize = 32;

/// The log in the file at `path`.
pub(crate) struct SqliteLog {
    path: PathBuf,
    /// Held as long as the log is in use, so that no second process even looks at the files.
    lock: Option<File>,
    connection: Option<SqliteConnection>,
    budget: Budget,
    /// About so many pages wait in the write-ahead file.
    pages: usize,
}

impl SqliteLog {
    /// A log that is not opened yet.
    pub(crate) fn new(path: &Path, wal_pages_max: usize) -> SqliteLog {
        let budget = Budget::new(wal_pages_max);
        SqliteLog { path: path.to_owned(), lock: None, connection: None, budget, pages: 0 }
    }

    fn connection(&mut self) -> Result<&mut SqliteConnection, LogError> {
        self.connection.as_mut().ok_or_else(|| LogError(format!("{} is not open", self.path.display())))
    }
}

impl Log for SqliteLog {
    async fn open(&mut self, each: Each<'_>) -> Result<Header, LogError> {
        self.close_connection().await;
        if self.lock.is_none() {
            self.lock = Some(open::lock(&self.path)?);
        }
        let opened = open::open(&self.path, each).await?;
        self.connection = Some(opened.connection);
        self.pages = opened.wal_bytes / PAGE_BYTES;
        Ok(opened.header)
    }

    async fn append(&mut self, commit: &Commit) -> Result<(), LogError> {
        self.pages += pages(commit);
        let path = self.path.clone();
        let connection = self.connection()?;
        transact(connection, commit)
            .await
            .map_err(|error| LogError(format!("failed to commit to {}: {}", path.display(), base::chain(&error))))
    }

    async fn tend(&mut self) -> Result<(), LogError> {
        if !self.budget.is_due(self.pages) {
            return Ok(());
        }
        let path = self.path.clone();
        let started = Instant::now();
        let moved = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(self.connection()?).await;
        moved.map_err(|error| LogError(format!("failed to checkpoint {}: {}", path.display(), base::chain(&error))))?;
        self.budget.took(started.elapsed());
        self.pages = 0;
        Ok(())
    }

    async fn close(&mut self) {
        self.close_connection().await;
        self.lock = None;
    }
}

impl SqliteLog {
    /// Closing moves what is known to be good into the database; whether that works is seen at the next opening.
    async fn close_connection(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = connection.close().await;
        }
    }
}

async fn transact(connection: &mut SqliteConnection, commit: &Commit) -> Result<(), sqlx::Error> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    for rows in commit.rows.chunks(ROWS_PER_STATEMENT) {
        put(connection, rows).await?;
        delete(connection, rows).await?;
    }
    schema::write_header(connection, commit.header).await?;
    sqlx::query("COMMIT").execute(&mut *connection).await?;
    Ok(())
}

async fn put(connection: &mut SqliteConnection, rows: &[Row]) -> Result<(), sqlx::Error> {
    let entries = || rows.iter().filter_map(|row| if let Row::Put(entry) = row { Some(entry) } else { None });
    let values = vec!["(?, ?, ?)"; entries().count()].join(", ");
    if values.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "INSERT INTO object (key, revision, value) VALUES {values} \
         ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, value = excluded.value"
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for entry in entries() {
        query = query.bind(&*entry.key).bind(entry.revision.0 as i64).bind(&entry.value[..]);
    }
    query.execute(connection).await?;
    Ok(())
}

async fn delete(connection: &mut SqliteConnection, rows: &[Row]) -> Result<(), sqlx::Error> {
    let keys = || rows.iter().filter_map(|row| if let Row::Delete(key) = row { Some(key) } else { None });
    let values = vec!["?"; keys().count()].join(", ");
    if values.is_empty() {
        return Ok(());
    }
    let mut query = sqlx::query(AssertSqlSafe(format!("DELETE FROM object WHERE key IN ({values})")));
    for key in keys() {
        query = query.bind(&**key);
    }
    query.execute(connection).await?;
    Ok(())
}

/// The one number a question like `PRAGMA user_version` answers with.
async fn ask_number(connection: &mut SqliteConnection, sql: &'static str) -> Result<i64, sqlx::Error> {
    sqlx::query(sql).fetch_one(connection).await?.try_get(0)
}

/// The one text a question like `PRAGMA journal_mode` answers with.
async fn ask_text(connection: &mut SqliteConnection, sql: &'static str) -> Result<String, sqlx::Error> {
    sqlx::query(sql).fetch_one(connection).await?.try_get(0)
}
