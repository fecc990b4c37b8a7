//! What a failed fsync leaves behind, made good.
//!
//! Start at [`renew`].
//!
//! After a failed fsync Linux shows the pages as written and calls them clean, but the disk may not have them. A commit
//! whose fsync failed can so be found in the write-ahead file when it is opened again, be checkpointed halfway into the
//! database, and be gone after the next power cut, with the database torn. So before SQLite sees a write-ahead file that
//! this process did not write, its bytes are written out anew: what we read is then what the disk has.
//!
//! Invariants:
//! * the file is replaced as a whole or not at all;
//! * nobody else has the database open (`open.rs` holds the lock).

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Rewrites the write-ahead file of the database at `path`. Says how long it is.
pub(super) fn renew(path: &Path) -> io::Result<usize> {
    let wal = beside(path, "-wal");
    let bytes = match std::fs::read(&wal) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    if bytes.is_empty() {
        return Ok(0);
    }
    let renewed = beside(path, "-wal-renewed");
    let mut file = File::create(&renewed)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&renewed, &wal)?;
    sync_folder(path)?;
    Ok(bytes.len())
}

/// Makes the names in the folder of `path` durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(super::open::folder(path))?.sync_all()
}

/// `path` with `suffix` behind its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
