//! Keeps the kernel's rules equal to the plan.
//!
//! Start at [`run`]. It waits for a change of any Service or EndpointSlice, plans, and installs the table if it differs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base::chain;
use client::{Cache, Caches};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use sys::net::link::Net;
use sys::net::nft::{self, Table};
use tokio::time::sleep;

use crate::plan::{TABLE, View, plan};

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
}

/// Installs the rules and keeps them up to date, in the network namespace it is called in. Never ends by itself; the
/// rules stay when it is dropped, so that Services go on while the proxy is restarted.
pub async fn run(options: Options, caches: Arc<Caches>) {
    let (services, slices) = (caches.of::<Service>(), caches.of::<EndpointSlice>());
    services.wait_synced().await;
    slices.wait_synced().await;
    let (mut service_changes, mut slice_changes) = (services.changed(), slices.changed());
    let mut installed = None;
    loop {
        service_changes.mark_unchanged();
        slice_changes.mark_unchanged();
        let wanted = read(&options, &services, &slices);
        if installed.as_ref() != Some(&wanted) {
            match install(wanted.clone()).await {
                Ok(()) => installed = Some(wanted),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), table = TABLE, "failed to install the rules of Services");
                    sleep(RETRY).await;
                    continue;
                }
            }
        }
        // The caches live as long as this task holds them, so waiting cannot fail.
        tokio::select! {
            _ = service_changes.changed() => {}
            _ = slice_changes.changed() => {}
        }
        sleep(GATHER).await;
    }
}

fn read(options: &Options, services: &Cache, slices: &Cache) -> Table {
    let (services, slices) = (services.list::<Service>(None), slices.list::<EndpointSlice>(None));
    plan(&View { services: &services, slices: &slices, node: &options.node, pods: options.pods })
}

async fn install(table: Table) -> io::Result<()> {
    let applied = tokio::task::spawn_blocking(move || nft::apply(&table)).await;
    applied.unwrap_or_else(|_| Err(io::Error::other("the thread that installs the rules panicked")))
}
