//! Why there are no figures.
//!
//! Start at [`BenchError`].

use std::time::Duration;

use http::StatusCode;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A kubeconfig cannot be used.
    #[error(transparent)]
    Kubeconfig(#[from] client::KubeconfigError),
    /// The kernel refused something.
    #[error(transparent)]
    Sys(#[from] sys::SysError),
    /// The server cannot be reached.
    #[error("failed to connect to {server}: {detail}")]
    Connect {
        /// The server.
        server: String,
        /// Why not.
        detail: String,
    },
    /// The server went away in the middle.
    #[error("failed to do {what}: {detail}")]
    Broken {
        /// The request.
        what: String,
        /// Why not.
        detail: String,
    },
    /// The answer is not what it should be.
    #[error("{what} answered {status}: {body}")]
    Answer {
        /// The request.
        what: String,
        /// The status.
        status: StatusCode,
        /// The beginning of the body.
        body: String,
    },
    /// Something did not happen.
    #[error("waited {limit:?} in vain for {what}\n{log}")]
    InVain {
        /// What should have happened.
        what: String,
        /// How long it was waited for.
        limit: Duration,
        /// The end of the server's log.
        log: String,
    },
    /// A promised figure is not what was promised.
    #[error("not kept: {0}")]
    NotKept(String),
}
