//! Keeps the kernel's rules equal to the plan.
//!
//! Start at [`run`]. It waits for a change of any Service or EndpointSlice, or for word that the machine goes down, plans, and
//! installs what differs ([`Installed::bring_to`]).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base::chain;
use client::{Cache, Caches};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use sys::net::conntrack;
use sys::net::link::Net;
use sys::net::nft::{self, Transport};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::health::{Checks, Health, checks};
use crate::plan::{Plan, TABLE, Udp, View, plan};
use crate::stale::stale;

/// Changes that come within this time are installed together: a rollout changes many slices at once.
const GATHER: Duration = Duration::from_millis(20);

/// After a refusal by the kernel the same table is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What a proxy needs to know of its node.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node's name.
    pub node: String,
    /// All pods of the cluster.
    pub pods: Net,
    /// Whether the machine is about to go down: see [`View::leaving`].
    pub leaving: watch::Receiver<bool>,
}

/// Installs the rules and keeps them up to date, in the network namespace it is called in. Never ends by itself; the
/// rules stay when it is dropped, so that Services go on while the proxy is restarted.
pub async fn run(options: Options, caches: Arc<Caches>) {
    let (services, slices) = (caches.of::<Service>(), caches.of::<EndpointSlice>());
    services.wait_synced().await;
    slices.wait_synced().await;
    let (mut service_changes, mut slice_changes) = (services.changed(), slices.changed());
    let (mut installed, mut health) = (Installed::default(), Health::new());
    let mut leaving = options.leaving.clone();
    loop {
        service_changes.mark_unchanged();
        slice_changes.mark_unchanged();
        let (wanted, checks) = read(&options, &services, &slices);
        if installed.0.as_ref() != Some(&wanted) {
            if let Err(error) = install(&mut installed, wanted).await {
                tracing::warn!(error = %chain(&error), table = TABLE, "failed to install the rules of Services");
                health.tell(checks, false);
                sleep(RETRY).await;
                continue;
            }
        }
        // Balancers send only where the rules are, and nobody is about to leave.
        health.tell(checks, !*options.leaving.borrow());
        // The caches live as long as this task holds them, so waiting cannot fail.
        tokio::select! {
            _ = service_changes.changed() => {}
            _ = slice_changes.changed() => {}
            // Whoever could say so may be gone; then the machine stays.
            Ok(()) = leaving.changed() => {}
        }
        sleep(GATHER).await;
    }
}

fn read(options: &Options, services: &Cache, slices: &Cache) -> (Plan, Checks) {
    let (services, slices) = (services.list::<Service>(None), slices.list::<EndpointSlice>(None));
    let leaving = *options.leaving.borrow();
    let view = View { services: &services, slices: &slices, node: &options.node, pods: options.pods, leaving };
    (plan(&view), checks(&view))
}

async fn install(installed: &mut Installed, wanted: Plan) -> io::Result<()> {
    let mut state = std::mem::take(installed);
    let work = move || {
        let done = state.bring_to(wanted);
        (state, done)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok((state, done)) => {
            *installed = state;
            done
        }
        Err(_) => Err(io::Error::other("the thread that installs the rules panicked")),
    }
}

/// What the kernel has, as far as this process knows; nothing is known at first.
#[derive(Debug, Default)]
pub struct Installed(Option<Plan>);

impl Installed {
    /// Brings the kernel to a plan, in the present network namespace, and lets go of what the old one led astray.
    pub fn bring_to(&mut self, wanted: Plan) -> io::Result<()> {
        match &self.0 {
            Some(present) => nft::update(&present.table, &wanted.table)?,
            None if nft::has_chain(TABLE, wanted.mark())? => {}
            None => nft::take_over(&wanted.table)?,
        }
        let udp_is_as_before = self.0.as_ref().is_some_and(|present| present.udp == wanted.udp);
        let is_quiet = udp_is_as_before || wanted.udp == Udp::default();
        let udp = wanted.udp.clone();
        // The rules stand, whatever becomes of the connections.
        self.0 = Some(wanted);
        let failed =
            |error| io::Error::other(format!("failed to let go of UDP connections to endpoints that left: {error}"));
        if is_quiet { Ok(()) } else { let_go(&udp).map_err(failed) }
    }
}

/// Forgets connections of UDP to endpoints that are gone.
fn let_go(udp: &Udp) -> io::Result<()> {
    for connection in stale(udp, &conntrack::tracked(Transport::Udp)?) {
        conntrack::forget(&connection)?;
    }
    Ok(())
}
