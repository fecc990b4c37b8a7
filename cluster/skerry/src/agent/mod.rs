//! `skerry agent`: a node of a cluster whose server is another machine.
//!
//! Start at [`run`]. [`identity`] keeps what the node is, [`join`] makes it one, [`renew`] keeps it one.
//!
//! Invariants:
//! * a node that has joined starts its pods without waiting for any server;
//! * whatever keeps it from joining is logged, with what is being done about it, and tried again.
//!
//! Not here: the node's roles (`roles`).

mod address;
mod identity;
mod join;
mod memory;
mod release;
mod renew;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base::{Clock, Rng};
use client::https;
use kubelet::checkpoint::Key;
use sys::clock::SystemClock;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::identity::Identity;
use crate::own_node::OwnNode;
use crate::roles::node::{self, NodeParts};
use crate::time::Timekeeper;
use crate::tokens::TokenSource;
use crate::{StartError, cli, net, server};

/// What an agent is told.
struct Settings {
    server: String,
    token: TokenSource,
    node: String,
    checkpoint_key: Option<Key>,
    preloaded: Vec<PathBuf>,
    /// Who sets the clock by the server, if it is to be set.
    time: Option<Timekeeper>,
    own: OwnNode,
}

/// Runs an agent until it is told to stop.
pub fn run(options: cli::Agent) -> Result<(), StartError> {
    server::logging();
    server::threads()?.block_on(serve(options))
}

async fn serve(options: cli::Agent) -> Result<(), StartError> {
    let stop = server::stop().map_err(StartError::Signals)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let data = server::folder(&options.data_dir)?;
    let _lock = server::locked(&data)?;
    let settings = Arc::new(Settings {
        server: options.server.trim_end_matches('/').to_owned(),
        token: TokenSource::new(options.token, options.token_file),
        node: options.node_name.unwrap_or_else(net::hostname),
        checkpoint_key: options.checkpoint_key_file.as_deref().map(checkpoint_key).transpose()?,
        preloaded: options.preloaded,
        time: options.set_clock.then(|| Timekeeper::new(clock.clone())),
        own: options.own,
    });
    let identity = Identity::open(&data.join("node"), &settings.node).map_err(StartError::Pki)?;
    let work = work(settings, identity, &data, options.node_ip, clock);
    tokio::select! {
        () = stop => {}
        ended = work => ended?,
    }
    tracing::info!("stopped");
    Ok(())
}

fn checkpoint_key(path: &Path) -> Result<Key, StartError> {
    let failed = |source| StartError::CheckpointKey { path: path.to_owned(), source };
    let secret = std::fs::read(path).map_err(failed)?;
    // What anybody could guess protects nothing, and would seem to.
    Key::from_secret(&secret).ok_or_else(|| failed(std::io::Error::other("it is shorter than 16 bytes")))
}

/// Joins if need be, then runs the node for ever.
async fn work(
    settings: Arc<Settings>,
    mut identity: Identity,
    data: &Path,
    node_ip: Option<std::net::Ipv4Addr>,
    clock: Arc<dyn Clock>,
) -> Result<(), StartError> {
    if !identity.is_known(clock.now()) {
        join::until_joined(&settings, &mut identity).await;
    }
    let door = https::renewable(&identity.kubeconfig(&settings.server)).map_err(StartError::Door)?;
    let caches = client::run::caches(door.clone());
    let (showing, tls) = watch::channel(identity.tls());
    let (presenting, presented) = watch::channel(identity.to_peers());
    let (moving, addresses) = watch::channel(address::now(&settings.server, node_ip).into_iter().collect());
    let parts = Arc::new(NodeParts {
        data: data.to_owned(),
        name: settings.node.clone(),
        addresses: addresses.clone(),
        tls,
        identity: presented,
        remembers: true,
        door: door.clone(),
        caches,
        clock: clock.clone(),
        preloaded: settings.preloaded.clone(),
        checkpoint_key: settings.checkpoint_key.clone(),
        own: settings.own.clone(),
        seed: Mutex::new(Rng::new(server::seed(&*clock))),
    });
    tracing::info!("running node {} of the cluster at {}", settings.node, settings.server);
    let mut roles = JoinSet::new();
    roles.spawn(node::role(&parts));
    roles.spawn(memory::role(data, &parts.caches));
    roles.spawn(release::role(client::Client::new(door.clone())));
    if node_ip.is_none() {
        roles.spawn(address::follow(settings.server.clone(), moving, door.clone()));
    }
    let (keeping, kubeconfig) = (settings.clone(), identity.kubeconfig(&settings.server));
    roles.spawn(async move {
        if let Some(time) = &keeping.time {
            time.role(&kubeconfig.server, &kubeconfig.ca_pem).await;
        }
    });
    roles.spawn(renew::role(renew::Renewal { settings, door, showing, presenting, addresses, clock }, identity));
    // Roles never end; dropping the set ends them.
    while roles.join_next().await.is_some() {}
    Ok(())
}
