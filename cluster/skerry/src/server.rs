//! `skerry server`: from options to a running control plane and node.
//!
//! Start at [`run`].
//!
//! Invariants:
//! * what cannot work (the port, the folder, the keys) is found before anything is announced;
//! * SIGTERM and SIGINT end requests, close the store, and leave pods running; kill -9 loses nothing acknowledged.

use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ::backup::Meta;
use ::telemetry::{Resources, Telemetry};
use apiserver::run::{Tls, listen};
use apiserver::{Api, Settings, Snapshot, annotate};
use base::{Clock, Rng};
use pki::Pki;
use store::{Page, Store};
use sys::clock::SystemClock;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::certificates::{Keeper, advertised};
use crate::roles::{self, Parts};
use crate::tokens::{self, TokenSource};
use crate::{StartError, cli, net};

/// Runs a server until it is told to stop.
pub fn run(options: cli::Server) -> Result<(), StartError> {
    logging();
    threads()?.block_on(serve(options))
}

/// Ends what a stopped server left running.
pub fn clean_up(options: cli::Cleanup) -> Result<(), StartError> {
    logging();
    let failed = |source| StartError::Folder { path: options.data_dir.clone(), source };
    let data = options.data_dir.canonicalize().map_err(failed)?;
    let _lock = locked(&data)?;
    threads()?.block_on(roles::node::clean_up(&data, Arc::new(SystemClock))).map_err(StartError::Node)
}

/// What everything runs on.
pub(crate) fn threads() -> Result<tokio::runtime::Runtime, StartError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().thread_name("skerry").build().map_err(StartError::Threads)
}

pub(crate) fn logging() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("SKERRY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let for_people = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second call (in tests) finds the first one's subscriber in place, which is as good.
    let _ = log.with_ansi(for_people).try_init();
}

async fn serve(options: cli::Server) -> Result<(), StartError> {
    let stop = stop().map_err(StartError::Signals)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    if let Some(file) = &options.restore {
        let restored = crate::restore::before_first_start(file, &options, clock.now()).await;
        restored.map_err(StartError::FirstStart)?;
    }
    let data = folder(&options.data_dir)?;
    let _lock = locked(&data)?;
    finish_restore(&data, &*clock)?;
    let token =
        TokenSource::new(options.token.clone(), options.token_file.clone()).read().map_err(StartError::Token)?;
    let node_name = options.node_name.clone().unwrap_or_else(net::hostname);
    let (keeper, shown, pki) = Keeper::open(&options, &node_name, data.join("pki"), clock.clone())?;
    let listening = listen(options.listen, &tls(&pki)).await.map_err(StartError::Serve)?.following(shown.tls.clone());
    let port = listening.address().map_or(options.listen.port(), |address| address.port());
    let store = open_store(&data).await?;
    let mut rng = Rng::new(seed(&*clock));
    let stores = Arc::new(Telemetry::new(&data.join("telemetry"), clock.clone()));
    let advertise = (advertised(&options, *shown.address.borrow()), port);
    let mut settings = settings(&pki, &clock, &mut rng, &options, advertise);
    settings.snapshot = Some(snapshots(data.join("pki"), clock.clone()));
    let resources = Arc::new(Resources::new(stores.clone(), clock.clone()));
    settings.extensions.push(stores.clone());
    settings.extensions.push(resources.clone());
    settings.pages = Some(dashboard::page);
    let api = Api::open(store.clone(), settings);
    kubeconfig(&data, &options, port, &pki)?;
    api.bootstrap().await.map_err(StartError::Bootstrap)?;
    tokens::give(&api, token.as_ref(), clock.now()).await;
    tracing::info!("serving Kubernetes {} on {}:{port}", api::VERSION, options.listen.ip());
    let parts = Arc::new(Parts {
        api: api.clone(),
        pki,
        clock,
        data,
        node_name,
        shown,
        api_port: port,
        options,
        telemetry: stores,
        seed: Mutex::new(rng),
    });
    resources.ask(parts.door("system:metrics-server", ["system:masters"]));
    let mut roles = start(&parts);
    let (at, options) = (parts.data.clone(), parts.options.clone());
    roles.spawn(keeper.role(api.clone(), move |pki| kubeconfig(&at, &options, port, pki)));
    listening.serve(api, stop).await;
    parts.telemetry.close();
    shut_down(roles, &*store).await
}

/// A restore that was interrupted when all was there but not in its place.
fn finish_restore(data: &Path, clock: &dyn Clock) -> Result<(), StartError> {
    if ::backup::finish(data, clock.now()).map_err(StartError::Restore)? {
        tracing::info!("finished a restore that had been interrupted");
    }
    Ok(())
}

/// How the API server makes snapshots: of its objects and of the folder where its keys lie.
pub(crate) fn snapshots(keys: PathBuf, clock: Arc<dyn Clock>) -> Snapshot {
    Arc::new(move |page| {
        let keys = ::backup::keys(&keys).map_err(|error| base::chain(&error).to_string())?;
        let meta = Meta {
            cluster: cluster_id(&page),
            version: api::VERSION.to_owned(),
            revision: page.revision.0,
            time: clock.now().rfc3339(),
        };
        Ok(Box::new(::backup::snapshot(page, keys, &meta)))
    })
}

/// The uid of the namespace that every cluster has and nobody can delete.
fn cluster_id(page: &Page) -> String {
    let at = page.entries.binary_search_by(|entry| (*entry.key).cmp("namespaces/kube-system")).ok();
    let namespace = at.and_then(|at| serde_json::from_slice(&page.entries[at].value).ok());
    let namespace: serde_json::Value = namespace.unwrap_or_default();
    namespace["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn start(parts: &Arc<Parts>) -> JoinSet<()> {
    let mut running = JoinSet::new();
    for (name, role) in roles::all(parts) {
        tracing::debug!("starting the {name}");
        running.spawn(role);
    }
    running
}

async fn shut_down(mut roles: JoinSet<()>, store: &dyn Store) -> Result<(), StartError> {
    roles.shutdown().await;
    store.close().await.map_err(StartError::Store)?;
    tracing::info!("stopped");
    Ok(())
}

/// Done when somebody asks the process to stop.
pub(crate) fn stop() -> std::io::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

pub(crate) fn folder(path: &Path) -> Result<std::path::PathBuf, StartError> {
    let failed = |source| StartError::Folder { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed)?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path.join("db")).map_err(failed)?;
    path.canonicalize().map_err(failed)
}

/// Held for as long as the server runs; the kernel lets go of it however the process ends.
pub(crate) fn locked(data: &Path) -> Result<std::fs::File, StartError> {
    let path = data.join("lock");
    let failed = |source| StartError::Folder { path: data.to_owned(), source };
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse { path: data.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

pub(crate) fn tls(pki: &Pki) -> Tls {
    Tls {
        serving: pki.serving().clone(),
        client_ca_pem: pki.authority().certificate_pem().to_owned(),
        kubelet_client: pki.kubelet_client().clone(),
    }
}

async fn open_store(data: &Path) -> Result<Arc<dyn Store>, StartError> {
    let path = data.join("db").join("state.db");
    let opened = store::sqlite(&path, annotate(), store::Options::default()).await;
    Ok(Arc::new(opened.map_err(StartError::Store)?))
}

fn settings(
    pki: &Pki,
    clock: &Arc<dyn Clock>,
    rng: &mut Rng,
    options: &cli::Server,
    advertise: (Ipv4Addr, u16),
) -> Settings {
    let ca_pem = pki.authority().certificate_pem().to_owned();
    let mut settings = Settings::new(clock.clone(), rng.next_u64(), pki.tokens().clone(), ca_pem);
    settings.advertise = advertise;
    settings.not_ready_toleration_seconds = options.default_not_ready_toleration_seconds;
    settings.unreachable_toleration_seconds = options.default_unreachable_toleration_seconds;
    settings
}

/// Unpredictable from outside: the standard library seeds its hash maps from the system, and the moment adds the rest.
pub(crate) fn seed(clock: &dyn Clock) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(clock.now().0)
}

/// The administrator's file; its server is where this machine finds it.
fn kubeconfig(data: &Path, options: &cli::Server, port: u16, pki: &Pki) -> Result<(), StartError> {
    let ip = match options.listen.ip() {
        ip if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        ip => ip,
    };
    let server = format!("https://{}", SocketAddr::new(ip, port));
    let ca_pem = pki.authority().certificate_pem();
    pki::kubeconfig(&data.join("admin.kubeconfig"), &server, ca_pem, "kubernetes-admin", pki.admin())
        .map_err(StartError::Pki)
}
