//! The kubelet's HTTPS API on port 10250.

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::run::{KubeletError, Pods};
use crate::worker::Node;
use crate::{Options, Tls};

/// A listener and its TLS configuration.
pub struct Listener {
    tcp: TcpListener,
    tls: Arc<rustls::ServerConfig>,
}

/// Listens, if the options want it.
pub async fn bind(options: &Options) -> Result<Option<Listener>, KubeletError> {
    let (Some(address), Some(tls)) = (options.listen, &options.tls) else { return Ok(None) };
    let tls = tls_config(tls).map_err(|detail| KubeletError::Tls { detail })?;
    let tcp = TcpListener::bind(address).await.map_err(|source| KubeletError::Listen { address, source })?;
    Ok(Some(Listener { tcp, tls }))
}

fn tls_config(_tls: &Tls) -> Result<Arc<rustls::ServerConfig>, String> {
    Err("missing".to_owned())
}

/// Serves until the kubelet ends.
pub async fn serve(listener: Listener, node: Arc<Node>, pods: Pods) {
    let _ = (listener.tcp, listener.tls, node, pods);
}
