//! Why there is no backup, or no restore.
//!
//! Start at [`BackupError`]; each names the file or folder it is about.

use std::io;
use std::path::{Path, PathBuf};

use store::StoreError;

/// Why there is no backup, or no restore.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The disk, or what is mounted there, refused.
    #[error("failed to {doing} {path}")]
    Io {
        /// Such as `write`.
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is no backup made by Skerry")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Made by a later release.
    #[error("{path} is a backup in format {format}, and this release reads formats up to {}", crate::FORMAT)]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// Not the bytes that were written.
    #[error("{path} is damaged or cut short: {detail}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that shows.
        detail: String,
    },
    /// It cannot be read without its key.
    #[error("{path} is encrypted, and no key was given (--key-file)")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read with this key.
    #[error("{path} was encrypted with another key")]
    WrongKey {
        /// The file.
        path: PathBuf,
    },
    /// A key file that does not hold a key.
    #[error("{path} is no key: {detail}")]
    UnfitKey {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// The folder is in use by something.
    #[error("the folder {folder} is not blank, it holds {found}; nothing was changed")]
    NotBlank {
        /// The folder.
        folder: PathBuf,
        /// What was found first.
        found: String,
    },
    /// What arrives from a server is not what servers send.
    #[error("the snapshot did not arrive whole: {detail}")]
    Stream {
        /// How that shows.
        detail: String,
    },
    /// The database.
    #[error("failed to restore the database")]
    Store(#[source] StoreError),
    /// A volume that is not in the file was asked for.
    #[error("{path} holds no volume {name:?}, it holds {held}")]
    NoSuchVolume {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// What there is.
        held: String,
    },
}

/// Says what was done to what.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, BackupError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, BackupError> {
        self.map_err(|source| BackupError::Io { doing, path: path.to_owned(), source })
    }
}
