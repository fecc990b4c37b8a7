//! What the kernel refused, and to which thing.

use std::fmt;
use std::io;
use std::path::Path;

/// A refusal of the kernel: what was being done to which thing, and why it was refused.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action}")]
pub struct SysError {
    /// What was being done, such as `mount proc on /proc`.
    pub action: String,
    /// Why not.
    pub source: io::Error,
}

impl SysError {
    /// The kernel's number for the cause, such as `libc::ENOENT`.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
    /// Whether the cause is that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

impl From<SysError> for io::Error {
    fn from(error: SysError) -> io::Error {
        io::Error::new(error.source.kind(), error)
    }
}

/// An answer of the kernel.
pub type Result<T> = std::result::Result<T, SysError>;

/// Says what was being done, on the way out.
pub trait Doing<T> {
    /// Attaches `action` to the cause.
    fn doing(self, action: impl fmt::Display) -> Result<T>;
    /// Attaches `verb path` to the cause.
    fn doing_to(self, verb: &str, path: &Path) -> Result<T>
    where
        Self: Sized,
    {
        self.doing(format_args!("{verb} {}", path.display()))
    }
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: impl fmt::Display) -> Result<T> {
        self.map_err(|source| SysError { action: action.to_string(), source })
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, action: impl fmt::Display) -> Result<T> {
        self.map_err(|errno| SysError { action: action.to_string(), source: errno.into() })
    }
}
