//! The edge: sockets, TLS, timeouts.
//!
//! Start at [`serve`].
//!
//! Invariants:
//! * a client that is slow, silent or greedy costs a bounded amount, named below;
//! * a connection's client certificate is checked once, when it is opened.
//!
//! Not here: requests (`serve.rs`), the way to kubelets (`tunnel.rs`).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::tunnel::Tunnels;
use crate::{Api, Credentials, User, serve as requests};

/// So many connections are open at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 8_192;
/// A client has so long to finish its handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// A client has so long to send the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// The head of a request is at most so long.
const HEAD_BYTES_MAX: u32 = 64 << 10;
/// So many requests, watches among them, run at once on one connection of HTTP/2.
const STREAMS_MAX: u32 = 1_000;
/// An HTTP/2 client that is silent is asked whether it still lives, and has as long again to answer.
const PING_TIME: Duration = Duration::from_secs(30);
/// Requests that run when the server stops have so long to end.
const STOP_TIME: Duration = Duration::from_millis(300);
/// After a failed accept (no more descriptors, mostly) the next try waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What TLS needs, in PEM.
#[derive(Clone, PartialEq, Eq)]
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
        source: io::Error,
    },
    /// Keys or certificates do not fit.
    #[error("failed to set up TLS: {detail}")]
    Tls {
        /// What does not fit.
        detail: String,
    },
}

/// A server that has its address and does not answer yet.
pub struct Listening {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    tunnels: Arc<Tunnels>,
    renewed: Option<watch::Receiver<Tls>>,
}

/// Takes the address.
pub async fn listen(address: SocketAddr, tls: &Tls) -> Result<Listening, ServeError> {
    let acceptor = acceptor(tls).map_err(|detail| ServeError::Tls { detail })?;
    let tunnels = Tunnels::new(tls).map_err(|detail| ServeError::Tls { detail })?;
    let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })?;
    Ok(Listening { listener, acceptor, tunnels: Arc::new(tunnels), renewed: None })
}

/// Takes the address and serves until `stop` is done, then lets running requests end.
pub async fn serve(
    api: Arc<Api>,
    address: SocketAddr,
    tls: Tls,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    listen(address, &tls).await?.serve(api, stop).await;
    Ok(())
}

impl Listening {
    /// The address it has; the port is a real one also if 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Goes over to whatever certificates come from there: for new connections, those there are run on.
    pub fn following(self, tls: watch::Receiver<Tls>) -> Listening {
        Listening { renewed: Some(tls), ..self }
    }

    /// Takes up certificates that have come; those that cannot be used are passed over.
    fn renew(&mut self) {
        let Some(tls) = self.renewed.as_mut().filter(|tls| tls.has_changed().unwrap_or(false)) else { return };
        let tls = tls.borrow_and_update().clone();
        match (acceptor(&tls), Tunnels::new(&tls)) {
            (Ok(acceptor), Ok(tunnels)) => (self.acceptor, self.tunnels) = (acceptor, Arc::new(tunnels)),
            (Err(detail), _) | (_, Err(detail)) => {
                tracing::warn!(detail, "the API server's new certificates cannot be used");
            }
        }
    }

    /// Serves until `stop` is done, then lets running requests end.
    pub async fn serve(mut self, api: Arc<Api>, stop: impl Future<Output = ()> + Send) {
        let (stopping, stopped) = watch::channel(false);
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                // Ended connections are forgotten as they end, or the set would grow for ever.
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                accepted = accept(&self.listener, &room) => accepted,
            };
            let Some((socket, permit)) = accepted else { continue };
            self.renew();
            let connection = Connection {
                api: api.clone(),
                acceptor: self.acceptor.clone(),
                tunnels: self.tunnels.clone(),
                stopped: stopped.clone(),
            };
            connections.spawn(async move {
                connection.run(socket).await;
                drop(permit);
            });
        }
        drop(self.listener);
        // Nobody listens any more if there are no connections, which is as good.
        let _ = stopping.send(true);
        let _ = timeout(STOP_TIME, async { while connections.join_next().await.is_some() {} }).await;
        connections.shutdown().await;
    }
}

type Accepted = Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)>;

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Accepted {
    let permit = room.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, _)) => Some((socket, permit)),
        Err(error) => {
            tracing::warn!("failed to accept a connection: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

struct Connection {
    api: Arc<Api>,
    acceptor: TlsAcceptor,
    tunnels: Arc<Tunnels>,
    stopped: watch::Receiver<bool>,
}

impl Connection {
    async fn run(mut self, socket: TcpStream) {
        // Without it answers wait for acknowledgements; a socket that refuses is only slower.
        let _ = socket.set_nodelay(true);
        let stream = match timeout(HANDSHAKE_TIME, self.acceptor.accept(socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!("a TLS handshake failed: {error}"),
            Err(_) => return tracing::debug!("a TLS handshake took too long"),
        };
        let credentials = credentials(stream.get_ref().1.peer_certificates());
        let (api, tunnels) = (self.api.clone(), self.tunnels.clone());
        let service = service_fn(move |request| {
            let (api, tunnels, credentials) = (api.clone(), tunnels.clone(), credentials.clone());
            async move { Ok::<_, std::convert::Infallible>(requests::answer(&api, &tunnels, request, credentials).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD_BYTES_MAX as usize);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX)
            .keep_alive_interval(PING_TIME)
            .keep_alive_timeout(PING_TIME);
        let mut connection = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
        let mut stopped = std::pin::pin!(async move {
            // No sender any more means that the server is gone, too.
            let _ = self.stopped.wait_for(|stopped| *stopped).await.map(drop);
        });
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = &mut stopped => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!("a connection ended: {error}");
        }
    }
}

/// The client whose certificate TLS has checked.
fn credentials(certificates: Option<&[CertificateDer<'_>]>) -> Credentials {
    let first = certificates.and_then(|certificates| certificates.first());
    match first.and_then(|certificate| pki::presented(certificate)) {
        Some(shown) if !shown.name.is_empty() => {
            Credentials::User(Arc::new(User::new(&shown.name, shown.groups.iter().map(String::as_str))))
        }
        _ => Credentials::Headers,
    }
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&tls.client_ca_pem)?), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| format!("the client CA is not usable: {error}"))?;
    let (chain, key) = identity(&tls.serving)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| format!("the serving certificate is not usable: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The authorities in a PEM text.
pub(crate) fn roots(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("a CA is no PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("a CA is no certificate: {error}"))?;
    }
    Ok(roots)
}

/// A certificate chain and its key.
pub(crate) fn identity(pair: &pki::Pair) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes()).collect();
    let chain = chain.map_err(|error| format!("a certificate is no PEM: {error}"))?;
    let key =
        PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(|error| format!("a key is no PEM: {error}"))?;
    Ok((chain, key))
}
