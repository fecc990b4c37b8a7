//! The edge: follows the pods bound to this node, and does for each what [`crate::step`] says.

use std::sync::Arc;

use base::{Clock, Rng};
use client::Door;
use runtime::Runtime;

use crate::Options;

/// Why the kubelet could not start. What fails later is logged, told in events and tried again.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// A folder it needs cannot be made.
    #[error("failed to make the folder {path}")]
    Folder {
        /// Which.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The HTTPS API cannot listen.
    #[error("failed to listen on {address} for the kubelet's API")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The certificates do not fit.
    #[error("failed to use the kubelet's certificates: {detail}")]
    Tls {
        /// What is wrong.
        detail: String,
    },
}

/// Runs this node until the future is dropped; pods live on, and the next call adopts them.
pub async fn run(
    options: Options,
    door: Arc<dyn Door>,
    runtime: Arc<dyn Runtime>,
    clock: Arc<dyn Clock>,
    rng: Rng,
) -> Result<(), KubeletError> {
    let _ = (options, door, runtime, clock, rng);
    Err(KubeletError::Tls { detail: "the loops of this node are missing".to_owned() })
}
