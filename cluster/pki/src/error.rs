//! Why a key or a certificate could not be had.
//!
//! Start at [`PkiError`]. None of these goes away by trying again.

use std::io;
use std::path::PathBuf;

/// Why a key or a certificate could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read.
    #[error("failed to read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("failed to write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key is none.
    #[error("failed to use the key of {whose}: {detail}")]
    Key {
        /// Whose.
        whose: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A certificate could not be made or read.
    #[error("failed to issue a certificate for {subject}")]
    Certificate {
        /// For whom.
        subject: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A signing request is none, or asks for something that is not signed.
    #[error("failed to read the certificate signing request: {detail}")]
    Request {
        /// What is wrong with it.
        detail: String,
    },
}
