//! Why there is no image.

use std::io;

/// Why an image cannot be had, kept or found.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The name is no name.
    #[error("invalid image name {name:?}: {detail}")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong.
        detail: String,
    },
    /// The image is for other machines.
    #[error("image {image} has nothing for {wanted}: it is for {found}")]
    Platform {
        /// Its name.
        image: String,
        /// This machine.
        wanted: String,
        /// What the image has, comma-separated.
        found: String,
    },
    /// The content is not what its digest says.
    #[error("{what} is {found}, not {wanted} as its digest says")]
    Digest {
        /// What was read.
        what: String,
        /// What its digest should be.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// There is more of it than is taken.
    #[error("{what} is too large: {detail}")]
    TooLarge {
        /// What was read, and from where.
        what: String,
        /// Which limit it exceeds.
        detail: String,
    },
    /// The content cannot be understood.
    #[error("{what} is malformed: {detail}")]
    Malformed {
        /// What was read.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The registry said no.
    #[error("{registry} answered {status} for {what}{detail}")]
    Registry {
        /// The registry.
        registry: String,
        /// The status code and its words.
        status: String,
        /// What was asked for.
        what: String,
        /// What it said, with `: ` before, or nothing.
        detail: String,
    },
    /// The registry could not be reached or did not go on.
    #[error("failed to {action}")]
    Network {
        /// What was being done.
        action: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Neither the registry nor another node.
    #[error("no other node gave it ({peers}), and its registry cannot be reached")]
    Nowhere {
        /// What the other nodes said.
        peers: String,
        /// Why not the registry.
        source: Box<OciError>,
    },
    /// The machine refused.
    #[error("failed to {action}")]
    System {
        /// What was being done.
        action: String,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] sys::SysError),
}

impl OciError {
    pub(crate) fn malformed(what: impl Into<String>, detail: impl ToString) -> OciError {
        OciError::Malformed { what: what.into(), detail: detail.to_string() }
    }

    /// Whether another try may succeed.
    pub fn may_pass(&self) -> bool {
        match self {
            OciError::Network { .. } | OciError::Nowhere { .. } => true,
            OciError::Registry { status, .. } => status.starts_with('5') || status.starts_with("429"),
            _ => false,
        }
    }
}

/// Says what was being done, on the way out.
pub(crate) trait Doing<T> {
    fn doing(self, action: impl Into<String>) -> Result<T, OciError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: impl Into<String>) -> Result<T, OciError> {
        self.map_err(|source| OciError::System { action: action.into(), source })
    }
}
