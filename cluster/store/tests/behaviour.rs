//! Puts each store to the suite that all of them pass.

use std::collections::BTreeMap;
use std::sync::Mutex;

use store::{Disk, Options, Pace, annex, conformance, memory_on, sqlite};

#[test]
fn the_memory_store_keeps_the_contract_on_any_executor() {
    let disks: Mutex<BTreeMap<&str, Disk>> = Mutex::default();
    let open = async |name| {
        let disk = disks.lock().expect("nobody panicked").entry(name).or_default().clone();
        memory_on(&disk, annex(), Options::default(), Pace::AtOnce).expect("a disk without faults opens")
    };
    futures::executor::block_on(conformance(open));
}

#[tokio::test]
async fn the_sqlite_store_keeps_the_contract() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = async |name| {
        let path = folder.path().join(format!("{name}.db"));
        sqlite(&path, annex(), Options::default()).await.expect("a new file opens")
    };
    conformance(open).await;
}
