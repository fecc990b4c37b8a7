//! The tables, and their versions.
//!
//! Start at [`prepare`].
//!
//! Invariants:
//! * `user_version` is the schema of the newest program that wrote the file, `header.reader` the oldest schema whose program
//!   can still read it. A change that older programs can live with raises the first alone; any other takes two releases.
//!
//! Objects have a row number of their own, not the key as primary key: a value of up to a page then lies in one page, and
//! to change it writes that page only.

use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::{ask_number, ask_text};
use crate::Revision;
use crate::log::Header;

/// The schema this program writes.
const SCHEMA: i64 = 1;
/// The oldest schema whose program can read what this one writes.
const READER: i64 = 1;
/// Says that a SQLite file is a store of ours: "Sker".
pub(super) const APPLICATION: i64 = 0x536b_6572;

const TABLES: &str = "
    BEGIN IMMEDIATE;
    CREATE TABLE object (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, revision INTEGER NOT NULL, value BLOB NOT NULL);
    CREATE TABLE header (
        id INTEGER PRIMARY KEY CHECK (id = 1), reader INTEGER NOT NULL,
        revision INTEGER NOT NULL, fence INTEGER NOT NULL, clean INTEGER NOT NULL
    );
    PRAGMA application_id = 1399547250;
    PRAGMA user_version = 1;
    COMMIT";

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    /// Somebody else's database.
    #[error("it is a database of another program")]
    Foreign,
    /// Written by a later release.
    #[error("it needs a release that reads schema {needed}, this one reads up to {SCHEMA}")]
    Newer {
        /// What its header asks for.
        needed: i64,
    },
    /// SQLite says no.
    #[error(transparent)]
    Sqlite(#[from] sqlx::Error),
}

/// Makes the tables if the file is new, and refuses a file that is not for us.
pub(super) async fn prepare(connection: &mut SqliteConnection) -> Result<(), SchemaError> {
    if ask_number(connection, "SELECT count(*) FROM sqlite_schema").await? == 0 {
        sqlx::raw_sql(TABLES).execute(&mut *connection).await?;
    }
    if ask_number(connection, "PRAGMA application_id").await? != APPLICATION {
        return Err(SchemaError::Foreign);
    }
    if ask_number(connection, "PRAGMA user_version").await? > SCHEMA {
        let needed = ask_number(connection, "SELECT coalesce(max(reader), 0) FROM header").await?;
        if needed > SCHEMA {
            return Err(SchemaError::Newer { needed });
        }
    }
    Ok(())
}

/// What the file says beside its objects.
pub(super) async fn read_header(connection: &mut SqliteConnection) -> Result<Header, sqlx::Error> {
    let row = sqlx::query("SELECT revision, fence, clean FROM header").fetch_optional(connection).await?;
    let Some(row) = row else { return Ok(Header { clean: true, ..Header::default() }) };
    let revision = |column: usize| row.try_get(column).map(|number: i64| Revision(number as u64));
    Ok(Header { revision: revision(0)?, fence: revision(1)?, clean: row.try_get::<i64, _>(2)? != 0 })
}

/// Writes it, as part of a transaction.
pub(super) async fn write_header(connection: &mut SqliteConnection, header: Header) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO header (id, reader, revision, fence, clean) VALUES (1, ?, ?, ?, ?) ON CONFLICT (id) DO \
               UPDATE SET reader = excluded.reader, revision = excluded.revision, fence = excluded.fence, \
               clean = excluded.clean";
    let query = sqlx::query(sql).bind(READER).bind(header.revision.0 as i64).bind(header.fence.0 as i64);
    query.bind(i64::from(header.clean)).execute(connection).await?;
    Ok(())
}

/// What SQLite finds wrong with the file; nothing if it is sound.
pub(super) async fn damage(connection: &mut SqliteConnection) -> Result<Option<String>, sqlx::Error> {
    let verdict = ask_text(connection, "PRAGMA quick_check(1)").await?;
    Ok((verdict != "ok").then_some(verdict))
}
