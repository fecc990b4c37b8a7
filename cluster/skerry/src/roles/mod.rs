//! The roles of a server and of an agent, each a file that wires one crate.
//!
//! Start at [`all`]: one line a role. A role gets [`Parts`] and returns a future that the supervisor runs for ever.
//!
//! Not here: the API server (`server.rs`), which everything else stands on.

mod control;
mod dns;
mod neighbours;
mod network;
pub mod node;
mod peers;
mod range;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use apiserver::{Api, User, door};
use base::{Clock, Rng};
use client::{Caches, Door};
use futures::FutureExt;
use futures::future::BoxFuture;

use self::node::NodeParts;
use crate::certificates::Shown;
use crate::cli;
use crate::time::Timekeeper;

/// What a server hands to its roles.
pub struct Parts {
    /// The API server.
    pub api: Arc<Api>,
    /// The cluster's keys.
    pub pki: Arc<pki::Pki>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The folder for everything that lasts.
    pub data: PathBuf,
    /// This machine's Node.
    pub node_name: String,
    /// Where it is found and what it shows, both of which may change.
    pub shown: Shown,
    /// The port of the API server on this machine.
    pub api_port: u16,
    /// As given on the command line.
    pub options: cli::Server,
    /// The stores of logs and metrics.
    pub telemetry: Arc<::telemetry::Telemetry>,
    /// Where chance begins; see [`Parts::rng`].
    pub seed: Mutex<Rng>,
}

/// A role as the supervisor runs it.
pub type Role = (&'static str, BoxFuture<'static, ()>);

impl Parts {
    /// A door for one identity.
    pub fn door<'a>(&self, user: &str, groups: impl IntoIterator<Item = &'a str>) -> Arc<dyn Door> {
        door::open(&self.api, User::new(user, groups))
    }

    /// A generator of its own for one role.
    pub fn rng(&self) -> Rng {
        self.seed.lock().unwrap_or_else(PoisonError::into_inner).fork()
    }
}

/// Every role this server has.
pub fn all(parts: &Arc<Parts>) -> Vec<Role> {
    // One set of caches for the whole process: whoever reads shares it.
    let caches = client::run::caches(parts.door("system:apiserver", ["system:masters"]));
    let mut roles = control::roles(parts, &caches);
    let stores = parts.telemetry.clone();
    roles.push(("telemetry", async move { run_stores(&stores).await }.boxed()));
    if parts.options.set_clock {
        let (time, caches, own) = (Timekeeper::new(parts.clock.clone()), caches.clone(), parts.node_name.clone());
        roles.push(("time", async move { time.heed(&caches, &own).await }.boxed()));
    }
    if !parts.options.no_node {
        let node = Arc::new(node_parts(parts, caches));
        roles.push(("node", node::role(&node)));
    }
    roles
}

/// The server's own node: one like the others, but for its way to the API server.
fn node_parts(parts: &Parts, caches: Arc<Caches>) -> NodeParts {
    let user = format!("system:node:{}", parts.node_name);
    NodeParts {
        data: parts.data.clone(),
        name: parts.node_name.clone(),
        addresses: parts.shown.node_addresses.clone(),
        tls: parts.shown.kubelet.clone(),
        identity: parts.shown.peer.clone(),
        remembers: false,
        door: parts.door(&user, ["system:nodes"]),
        caches,
        clock: parts.clock.clone(),
        preloaded: parts.options.preloaded.clone(),
        checkpoint_key: None,
        own: parts.options.own.clone(),
        seed: Mutex::new(parts.rng()),
    }
}

async fn run_stores(stores: &Arc<::telemetry::Telemetry>) {
    crate::supervise::role("telemetry", || stores.run()).await;
}
