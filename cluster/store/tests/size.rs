//! The files stay small, whatever is written.

use std::path::Path;

use bytes::Bytes;
use futures::future::join_all;
use store::{Delete, Durability, Options, Precondition, Put, Store, Write, annex, sqlite};

/// Live objects, and how long each is.
const OBJECTS: usize = 40;
const VALUE_BYTES: usize = 5_000;
const ROUNDS: usize = 60;
const WAL_PAGES_MAX: usize = 256;

#[tokio::test]
async fn many_writes_to_few_objects_leave_small_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("state.db");
    let options = Options { wal_pages_max: WAL_PAGES_MAX, ..Options::default() };
    let store = sqlite(&path, annex(), options).await.expect("a new file opens");
    let mut wal_bytes_max = 0;
    for round in 0..ROUNDS {
        join_all((0..OBJECTS).map(|number| store.write(put(number)))).await;
        if round % 3 == 0 {
            join_all((0..OBJECTS / 2).map(|number| store.write(delete(number)))).await;
        }
        wal_bytes_max = wal_bytes_max.max(bytes(&folder.path().join("state.db-wal")));
    }
    store.close().await.expect("it can be closed");
    let live_bytes = (OBJECTS * VALUE_BYTES) as u64;
    let database_bytes = bytes(&path);
    assert!(database_bytes < 3 * live_bytes, "{database_bytes} bytes hold {live_bytes}");
    // One batch may come on top: all objects at once, each two pages, an index page and some for the tree.
    let wal_limit = ((WAL_PAGES_MAX + OBJECTS * 4) * 4_200) as u64;
    assert!(wal_bytes_max < wal_limit, "{wal_bytes_max} bytes wait to be moved, not {wal_limit}");
    assert_eq!(bytes(&folder.path().join("state.db-wal")), 0, "a clean stop leaves nothing to be moved");
}

fn put(number: usize) -> Write {
    let (precondition, durability) = (Precondition::Any, Durability::Durable);
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    Write::Put(Put { key: format!("pods/{number}"), value, stamp_at: None, precondition, durability })
}

fn delete(number: usize) -> Write {
    Write::Delete(Delete { key: format!("pods/{number}"), precondition: Precondition::Any, tombstone: None })
}

fn bytes(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}
