//! Opens what cannot be opened.
//!
//! Start at [`check`]. Every error names the file or folder, and leaves it as it was.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sqlx::{Connection, SqliteConnection};
use store::{Durability, Options, Precondition, Put, Range, Store, StoreError, Write, annex, sqlite};

/// Prepares a path with `prepare`, and expects that opening it fails, says `expected` and the path, and changes nothing.
async fn check(prepare: impl AsyncFnOnce(&Path) -> PathBuf, expected: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = prepare(folder.path()).await;
    let before = fs::read(&path).ok();
    let error = sqlite(&path, annex(), Options::default()).await.err().expect("it cannot be opened");
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(expected), "{text} does not say {expected}");
    assert!(text.contains(&path.display().to_string()), "{text} does not name {}", path.display());
    assert_eq!(fs::read(&path).ok(), before, "the file is as it was");
}

#[tokio::test]
async fn a_folder_that_does_not_exist() {
    check(async |folder| folder.join("missing/state.db"), "does not exist").await;
}

#[tokio::test]
async fn a_path_that_is_a_folder() {
    let prepare = async |folder: &Path| {
        let path = folder.join("state.db");
        fs::create_dir(&path).expect("a folder can be made");
        path
    };
    check(prepare, "directory").await;
}

#[tokio::test]
async fn a_file_that_is_no_database() {
    let prepare = async |folder: &Path| {
        let path = folder.join("state.db");
        fs::write(&path, "these are not the pages you are looking for ".repeat(500)).expect("a file can be written");
        path
    };
    check(prepare, "file is not a database").await;
}

#[tokio::test]
async fn a_database_of_another_program() {
    let prepare = async |folder: &Path| {
        let path = folder.join("state.db");
        let url = format!("sqlite:{}?mode=rwc", path.display());
        run(&url, "CREATE TABLE song (name TEXT); INSERT INTO song VALUES ('one')").await;
        path
    };
    check(prepare, "it is a database of another program").await;
}

#[tokio::test]
async fn a_store_of_a_release_that_writes_what_this_one_cannot_read() {
    let prepare = async |folder: &Path| {
        let path = filled(folder).await;
        run(&format!("sqlite:{}", path.display()), "PRAGMA user_version = 3; UPDATE header SET reader = 2").await;
        path
    };
    check(prepare, "it needs a release that reads schema 2").await;
}

#[tokio::test]
async fn a_store_with_a_damaged_page() {
    let prepare = async |folder: &Path| {
        let path = filled(folder).await;
        let mut bytes = fs::read(&path).expect("the file can be read");
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..middle + 4096].fill(0xee);
        fs::write(&path, bytes).expect("the file can be written");
        path
    };
    check(prepare, "malformed").await;
}

#[tokio::test]
async fn a_store_that_is_in_use() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("state.db");
    let first = sqlite(&path, annex(), Options::default()).await.expect("a new file opens");
    let error = sqlite(&path, annex(), Options::default()).await.err().expect("it is in use");
    assert!(error.to_string().contains("another process uses this store"), "{error}");
    first.close().await.expect("it can be closed");
    sqlite(&path, annex(), Options::default()).await.expect("it is free again");
}

#[tokio::test]
async fn a_store_of_a_later_release_that_this_one_can_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = filled(folder.path()).await;
    let later = "PRAGMA user_version = 2; ALTER TABLE object ADD COLUMN colour TEXT; CREATE TABLE more (id INTEGER)";
    run(&format!("sqlite:{}", path.display()), later).await;
    let store = sqlite(&path, annex(), Options::default()).await.expect("it can be read");
    assert_eq!(store.list(&Range::default()).expect("now can be listed").entries.len(), OBJECTS);
    store.write(put(0)).await.expect("and written");
}

const OBJECTS: usize = 100;

/// A store with some objects, closed.
async fn filled(folder: &Path) -> PathBuf {
    let path = folder.join("state.db");
    let store = sqlite(&path, annex(), Options::default()).await.expect("a new file opens");
    for number in 0..OBJECTS {
        store.write(put(number)).await.expect("it can be written");
    }
    store.close().await.expect("it can be closed");
    path
}

fn put(number: usize) -> Write {
    let (precondition, durability) = (Precondition::Any, Durability::Durable);
    let value = Bytes::from(vec![b'x'; 1_500]);
    Write::Put(Put { key: format!("pods/{number}"), value, stamp_at: None, precondition, durability })
}

async fn run(url: &str, sql: &str) {
    let mut connection = SqliteConnection::connect(url).await.expect("the file opens");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.expect("the statements run");
    connection.close().await.expect("the file closes");
}
