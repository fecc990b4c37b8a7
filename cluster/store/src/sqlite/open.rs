//! Opens a SQLite file, checks it, reads it.
//!
//! Start at [`open`].
//!
//! Invariants:
//! * a file that cannot be read, is damaged, foreign or too new is left as it is, and the error names it;
//! * after anything but a clean stop the whole file is checked before it is used.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteLockingMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Row as _};

use super::checkpoint::PAGE_BYTES;
use super::rescue::{beside, renew, sync_folder};
use super::schema::{APPLICATION, SchemaError, damage, prepare, read_header};
use super::{ask_number, ask_text};
use crate::Revision;
use crate::log::{Each, Header, LogError};

/// SQLite before this one can damage a write-ahead file when it starts it over.
const SQLITE_VERSION_MIN: [u32; 3] = [3, 51, 3];
/// The write-ahead file is cut back to this when one batch made it larger.
const WAL_BYTES_MAX: &str = "8388608";
/// SQLite's own cache, in KiB: objects are served from our memory, so it needs only the pages about to be written.
const CACHE_KIB: &str = "-1024";

/// A file that can be used.
pub(super) struct Opened {
    pub(super) connection: SqliteConnection,
    pub(super) header: Header,
    /// What the last process left to be moved into the database.
    pub(super) wal_bytes: usize,
}

/// Makes sure that no other process uses the file at `path`, as long as the result is kept.
pub(super) fn lock(path: &Path) -> Result<File, LogError> {
    let folder = folder(path);
    if !folder.is_dir() {
        return Err(LogError(format!("the folder {} does not exist", folder.display())));
    }
    let lock = beside(path, "-lock");
    let failed = |error: &dyn std::fmt::Display| LogError(format!("failed to lock {}: {error}", lock.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&lock).map_err(|error| failed(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(failed(&"another process uses this store")),
        Err(TryLockError::Error(error)) => Err(failed(&error)),
    }
}

/// Opens the file at `path`, makes it if there is none, and shows every object to `each`.
pub(super) async fn open(path: &Path, each: Each<'_>) -> Result<Opened, LogError> {
    let failed = |doing: &str, error: &dyn std::error::Error| {
        LogError(format!("failed to {doing} {}: {}", path.display(), base::chain(error)))
    };
    if is_foreign(path).map_err(|error| failed("read", &error))? {
        return Err(failed("use", &SchemaError::Foreign));
    }
    let wal_bytes = blocking(path, renew).await.map_err(|error| failed("renew the write-ahead file of", &error))?;
    let mut connection = connect(path).await.map_err(|error| failed("open", &error))?;
    check_settings(&mut connection).await?;
    prepare(&mut connection).await.map_err(|error| match error {
        SchemaError::Sqlite(error) => failed("open", &error),
        other => failed("use", &other),
    })?;
    // SQLite has made the write-ahead file by now, and ignores whether its name reached the disk.
    blocking(path, sync_folder).await.map_err(|error| failed("make durable", &error))?;
    let header = read_header(&mut connection).await.map_err(|error| failed("read", &error))?;
    if wal_bytes > 0 || !header.clean {
        let found = damage(&mut connection).await.map_err(|error| failed("check", &error))?;
        if let Some(found) = found {
            return Err(LogError(format!("{} is damaged: {found}", path.display())));
        }
    }
    read_objects(&mut connection, each).await.map_err(|error| failed("read", &error))?;
    Ok(Opened { connection, header, wal_bytes })
}

/// Whether the file is a database of another program. Found out before SQLite sees it, which would change its journal. With
/// a write-ahead file beside it the file alone says nothing: a cut may have left its first page the old one.
fn is_foreign(path: &Path) -> std::io::Result<bool> {
    if beside(path, "-wal").metadata().is_ok_and(|wal| wal.len() > 0) {
        return Ok(false);
    }
    let mut head = [0; 72];
    let length = match File::open(path).and_then(|mut file| file.read_exact(&mut head).and(file.metadata())) {
        Ok(metadata) => metadata.len(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => return Ok(false),
        Err(error) => return Err(error),
    };
    // Ours has no number and one page while its first commit is still in the write-ahead file.
    let application = head[68..].iter().fold(0, |number, byte| number << 8 | i64::from(*byte));
    let is_young = application == 0 && length <= PAGE_BYTES as u64;
    Ok(head.starts_with(b"SQLite format 3\0") && application != APPLICATION && !is_young)
}

/// The folder that holds `path`.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

async fn connect(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .pragma("page_size", PAGE_BYTES.to_string())
        .locking_mode(SqliteLockingMode::Exclusive)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", "0")
        .pragma("journal_size_limit", WAL_BYTES_MAX)
        .pragma("cache_size", CACHE_KIB)
        // A large commit keeps what it changes until it is through. In a container there may be no folder to keep it in; on a
        // board that folder is memory anyway.
        .pragma("temp_store", "MEMORY")
        .pragma("cell_size_check", "ON")
        .pragma("trusted_schema", "OFF")
        .disable_statement_logging()
        .connect()
        .await
}

/// SQLite passes over settings that it does not like; we do not.
async fn check_settings(connection: &mut SqliteConnection) -> Result<(), LogError> {
    let asked = |error: sqlx::Error| LogError(format!("failed to ask SQLite for its settings: {error}"));
    let version = ask_text(connection, "SELECT sqlite_version()").await.map_err(asked)?;
    let numbers: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    if numbers[..] < SQLITE_VERSION_MIN[..] {
        return Err(LogError(format!("SQLite {version} is too old, 3.51.3 is needed")));
    }
    let journal = ask_text(connection, "PRAGMA journal_mode").await.map_err(asked)?;
    let synchronous = ask_number(connection, "PRAGMA synchronous").await.map_err(asked)?;
    let temporary = ask_number(connection, "PRAGMA temp_store").await.map_err(asked)?;
    if journal != "wal" || synchronous != 2 || temporary != 2 {
        let found = format!("journal {journal}, synchronous {synchronous}, temp_store {temporary}");
        return Err(LogError(format!("SQLite runs with {found}: not wal, 2, 2")));
    }
    Ok(())
}

async fn read_objects(connection: &mut SqliteConnection, each: Each<'_>) -> Result<(), sqlx::Error> {
    {
        let mut rows = sqlx::query("SELECT key, revision, value FROM object").fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            let revision: i64 = row.try_get(1)?;
            each(row.try_get(0)?, Revision(revision as u64), Bytes::copy_from_slice(row.try_get(2)?));
        }
    }
    sqlx::query("PRAGMA shrink_memory").execute(connection).await?;
    Ok(())
}

/// Runs file work where it may take its time.
async fn blocking<T: Send + 'static>(path: &Path, work: fn(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || work(&path)).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}
