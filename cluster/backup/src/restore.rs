//! From a checked file to a data folder.
//!
//! Start at [`restore`].
//!
//! Invariants:
//! * a restored store goes on far behind every revision that was ever handed out ([`first_revision`]), so that what a client
//!   remembers of the lost future is refused (410) and never mistaken for what happens now;
//! * nothing is written outside the folders that were given.
//!
//! Not here: which folder that may be (`place.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use base::Timestamp;
use bytes::Bytes;
use store::{Filling, Revision};

use crate::error::Doing;
use crate::volume::{UnpackError, unpack};
use crate::{BackupError, Checked, End, Meta, Record, place};

/// The lost future had at most so many changes, where the clock does not tell more: three years of ten thousand a second.
const LOST_CHANGES_MAX: u64 = 1_000_000_000_000;
/// The folder of keys holds at most so many bytes; more is somebody's mistake.
const KEYS_BYTES_MAX: u64 = 16 << 20;

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// How many things.
    pub count: End,
    /// The names of the volumes in the file.
    pub volumes: Vec<String>,
}

/// The last revision that counts as handed out before a restore. A microsecond's number is larger than any revision a store
/// could have reached by then, and larger again at the next restore of the same file; but boards' clocks may be wrong, so it is
/// never less than far behind the file's own.
pub fn first_revision(meta: &Meta, now: Timestamp) -> Revision {
    let micros = u64::try_from(now.0 / 1000).unwrap_or(0);
    Revision((meta.revision + LOST_CHANGES_MAX).max(micros))
}

/// Restores to the data folder `data`, where [`place::look`] was content. Each volume of the file that `volumes` names goes to
/// the folder it says, and must be in it ([`Checked::must_hold`]); [`place::look_for_volume`] was content with the folder.
pub async fn restore(
    file: &Checked,
    data: &Path,
    volumes: &BTreeMap<String, PathBuf>,
    now: Timestamp,
) -> Result<Restored, BackupError> {
    let part = place::prepare(data, volumes.values())?;
    let restored = fill(file, &part, volumes, now).await.inspect_err(|_| place::abandon(data))?;
    place::settle(data, now)?;
    Ok(restored)
}

/// Restores to an empty folder: `pki`, `db`, `restored-from`.
async fn fill(
    file: &Checked,
    folder: &Path,
    volumes: &BTreeMap<String, PathBuf>,
    now: Timestamp,
) -> Result<Restored, BackupError> {
    let (keys, database) = (folder.join("pki"), folder.join("db"));
    for path in [&keys, &database] {
        fs::DirBuilder::new().mode(0o700).create(path).doing("make", path)?;
    }
    let mut records = file.records()?;
    let mut filling = Filling::begin(&database.join("state.db")).await.map_err(BackupError::Store)?;
    let mut names = Vec::new();
    let mut next = records.next().map_err(|error| file.damage(error))?;
    while let Some(record) = next {
        next = match record {
            Record::Volume { name } => {
                let unpacked = unpack(&mut records, volumes.get(&name).map(PathBuf::as_path));
                names.push(name);
                unpacked.map_err(|error| match error {
                    UnpackError::Read(error) => file.damage(error),
                    UnpackError::Write(error) => error,
                })?
            }
            Record::Object { key, revision, value } => {
                if revision > file.meta.revision {
                    let detail = format!("{key} is of revision {revision}, the backup of {}", file.meta.revision);
                    return Err(BackupError::Damaged { path: file.path.clone(), detail });
                }
                filling.put(&key, Revision(revision), value).await.map_err(BackupError::Store)?;
                records.next().map_err(|error| file.damage(error))?
            }
            Record::File { path, bytes } => {
                write_key(file, &keys, &path, &bytes)?;
                records.next().map_err(|error| file.damage(error))?
            }
            Record::Chunk(_) => unreachable!("chunks follow volumes, and are read with them"),
        };
    }
    filling.finish(first_revision(&file.meta, now)).await.map_err(BackupError::Store)?;
    let from = folder.join(place::FROM);
    fs::write(&from, file.meta.lines()).doing("write", &from)?;
    Ok(Restored { count: records.count(), volumes: names })
}

fn write_key(file: &Checked, folder: &Path, name: &str, bytes: &[u8]) -> Result<(), BackupError> {
    let is_inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if !is_inside || name.is_empty() {
        let detail = format!("it names a key file {name:?}");
        return Err(BackupError::Damaged { path: file.path.clone(), detail });
    }
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).doing("make", parent)?;
    }
    let mut options = fs::OpenOptions::new();
    let mut written = options.write(true).create_new(true).mode(0o600).open(&path).doing("make", &path)?;
    written.write_all(bytes).doing("write", &path)
}

/// The files of a folder of keys, by name, for a snapshot. What is being written (`.new`) is left out.
pub fn keys(folder: &Path) -> Result<Vec<(String, Bytes)>, BackupError> {
    let (mut files, mut left) = (Vec::new(), KEYS_BYTES_MAX);
    collect(folder, "", &mut files, &mut left)?;
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, within: &str, files: &mut Vec<(String, Bytes)>, left: &mut u64) -> Result<(), BackupError> {
    for entry in fs::read_dir(folder).doing("read", folder)? {
        let entry = entry.doing("read", folder)?;
        let (path, name) = (entry.path(), format!("{within}{}", entry.file_name().to_string_lossy()));
        let metadata = entry.metadata().doing("look at", &path)?;
        if metadata.is_dir() {
            collect(&path, &format!("{name}/"), files, left)?;
        } else if metadata.is_file() && !name.ends_with(".new") {
            let fits = left.checked_sub(metadata.len());
            *left =
                fits.ok_or_else(|| std::io::Error::other("the folder of keys is too large")).doing("read", &path)?;
            files.push((name, fs::read(&path).doing("read", &path)?.into()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(revision: u64, seconds: i64, wanted: u64) {
        let (cluster, version, time) = (String::new(), String::new(), String::new());
        let meta = Meta { cluster, version, revision, time };
        assert_eq!(first_revision(&meta, Timestamp::from_seconds(seconds)), Revision(wanted));
    }

    #[test]
    fn revisions_begin_behind_all_that_were_handed_out() {
        check(100, 1_800_000_000, 1_800_000_000_000_000);
        check(100, 1_800_000_001, 1_800_000_001_000_000);
        check(1_800_000_000_500_000, 1_800_000_000, 1_801_000_000_500_000);
        check(100, 0, 1_000_000_000_100);
        check(100, -5, 1_000_000_000_100);
    }
}
