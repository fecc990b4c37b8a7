//! The edge: sockets, TLS, timeouts, and the way to kubelets.
//!
//! Start at [`serve`].

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::Api;

/// What TLS needs, in PEM.
#[derive(Clone)]
pub struct Tls {
    /// What the server shows.
    pub serving: pki::Pair,
    /// Whose clients are believed.
    pub client_ca_pem: String,
    /// What kubelets are shown when a request is passed on to them.
    pub kubelet_client: pki::Pair,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be had.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Keys or certificates do not fit.
    #[error("failed to set up TLS: {detail}")]
    Tls {
        /// What does not fit.
        detail: String,
    },
}

/// Serves until `stop` is done, then lets running requests end.
pub async fn serve(
    api: Arc<Api>,
    address: SocketAddr,
    tls: Tls,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let _ = (api, tls, stop);
    Err(ServeError::Listen { address, source: std::io::Error::other("the listener is not there yet") })
}
