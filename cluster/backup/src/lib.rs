//! A cluster in one file: taken while it is written to, checked, and brought back to a blank folder.
//!
//! Start at [`snapshot`], which a server streams, [`FileWriter`], which puts such a stream and chosen volumes into a file, and
//! [`restore`], which makes a data folder of one. [`surplus`] says which old files go.
//!
//! ```text
//! stream   "skerry-backup 1\n" {"revision":…}"\n" records
//! file     "skerry-backup 1\n" {"revision":…}"\n" zstd(records) sha256 of all before it
//! sealed   "skerry-backup 2\n" {"revision":…}"\n" salt"\n" encrypted(zstd(records)) sha256 of all before it
//! ```
//!
//! Invariants:
//! * a snapshot is the cluster at one revision: every change up to it, none behind it;
//! * a file that is cut short, changed in one bit, foreign or too new is refused before anything is written;
//! * a restore happens as a whole or not at all, also where the power goes in between (`place.rs`);
//! * a file holds the cluster's keys and Secrets, so it is readable by its owner only, and can be encrypted.
//!
//! Not here: who may take a snapshot (`apiserver`), how it travels and the commands (`skerry`).
#![forbid(unsafe_code)]

mod error;
mod file;
mod meta;
mod place;
mod record;
mod restore;
mod rotation;
mod seal;
mod snapshot;
mod volume;

pub use error::BackupError;
pub use file::{Checked, Contents, FileRecords, FileWriter, check, open_stream};
pub use meta::{FORMAT, Meta};
pub use place::{Standing, finish, is_restored, look, look_for_volume};
pub use record::{End, ReadError, Record, RecordReader, RecordWriter};
pub use restore::{Restored, first_revision, keys, restore};
pub use rotation::{Keep, name_of, siblings, surplus};
pub use seal::Key;
pub use snapshot::snapshot;
