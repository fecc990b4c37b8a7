//! What waits for the disk is counted, and nothing else. Needs root (the kernel's tracing).

use std::fs::File;
use std::io::Write;

use bench::syncs::Syncs;

#[test]
fn counts_what_waits_for_the_disk() {
    let mut file = tempfile::tempfile().expect("a file");
    let syncs = Syncs::begin(&[std::process::id()]).expect("root may trace");
    let count = |syncs: &Syncs| syncs.count().expect("a count");
    file.write_all(b"a").expect("written");
    assert_eq!(count(&syncs), 0);
    file.sync_data().expect("synced");
    assert_eq!(count(&syncs), 1);
    std::thread::spawn(move || File::sync_all(&file).expect("synced")).join().expect("a thread");
    assert_eq!(count(&syncs), 2, "a thread that begins later is counted too");
}
