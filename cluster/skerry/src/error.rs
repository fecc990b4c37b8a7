//! Why a server or an agent did not start, or a command did not do what it was asked.
//!
//! Start at [`StartError`]. What fails later is logged and tried again (`supervise.rs`).

use std::io;
use std::path::PathBuf;

/// Why a server or an agent did not start, or a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be made or written.
    #[error("failed to use the data folder {path}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The runtime's threads cannot be started.
    #[error("failed to start threads")]
    Threads(#[source] io::Error),
    /// Signals cannot be listened for.
    #[error("failed to listen for signals")]
    Signals(#[source] io::Error),
    /// Keys and certificates.
    #[error("failed to prepare keys and certificates")]
    Pki(#[source] pki::PkiError),
    /// The store.
    #[error("failed to open the cluster's store")]
    Store(#[source] store::StoreError),
    /// The listener.
    #[error("failed to serve the Kubernetes API")]
    Serve(#[source] apiserver::run::ServeError),
    /// What every cluster has from the start could not be written.
    #[error("failed to write the objects every cluster has")]
    Bootstrap(#[source] apiserver::Failure),
    /// The backup that the server was given does not become its cluster.
    #[error("failed to restore a backup before the first start")]
    FirstStart(#[source] crate::restore::RestoreFailed),
    /// A restore that was interrupted cannot be finished.
    #[error("failed to finish a restore that had been interrupted")]
    Restore(#[source] ::backup::BackupError),
    /// The node could not be opened to be taken away.
    #[error("failed to clean up the node")]
    Node(#[source] crate::roles::node::NodeError),
    /// Another server or agent uses the folder.
    #[error("the data folder {path} is in use by another skerry server or agent")]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// The secret that encrypts what the node remembers.
    #[error("failed to read the secret for checkpoints in {path}")]
    CheckpointKey {
        /// From which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The way to the API server.
    #[error("failed to prepare the way to the API server")]
    Door(#[source] client::DoorError),
    /// The token given.
    #[error("failed to get the token by which machines may join")]
    Token(#[source] crate::tokens::TokenError),
    /// The administrator's file.
    #[error("failed to find the server; it writes this file when it starts")]
    Kubeconfig(#[source] client::KubeconfigError),
    /// Tokens could not be made, listed or deleted.
    #[error("failed to {doing}")]
    Tokens {
        /// What was asked.
        doing: String,
        /// Why not.
        source: client::ClientError,
    },
}
