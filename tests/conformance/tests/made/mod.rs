//! What the tests need built: the program, and the test images.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use images::debian::{Cache, Lock};
use images::{Architecture, build};

/// The checkout.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The program, built as the tests are.
pub fn skerry() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_skerry-under-test"))
}

/// The archive of the test images for this machine, made anew where the table or the lock has changed.
pub fn test_images() -> PathBuf {
    // Two tests must not fetch and write the same files at a time.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = top().join("build/images");
    std::fs::create_dir_all(&folder).expect("a folder");
    let archive = folder.join("host-cluster.tar");
    let lock = Lock::read(&top().join("tests/images/packages.lock")).expect("the lock");
    let made_of = format!("{lock}\n{}", images::recipes());
    let note = archive.with_extension("made-of");
    if !archive.exists() || std::fs::read_to_string(&note).ok().as_ref() != Some(&made_of) {
        let cache = Cache::new(&top().join("build/cache/debian"));
        build(&lock, &cache, Architecture::here(), |_| true, &archive).expect("the images are made");
        std::fs::write(&note, made_of).expect("noted");
    }
    archive
}
