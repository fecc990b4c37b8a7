//! The roles of the control plane: controllers and scheduler.
//!
//! Start at [`roles`]. Neither elects a leader: they live and die with the one API server of this process.

use std::convert::Infallible;
use std::sync::Arc;

use client::{Caches, Client};
use futures::FutureExt;

use super::{Parts, Role};
use crate::certificates::advertised;
use crate::supervise;

/// The controllers and the scheduler.
pub(super) fn roles(parts: &Arc<Parts>, caches: &Arc<Caches>) -> Vec<Role> {
    let (for_controllers, for_scheduler) = ((parts.clone(), caches.clone()), (parts.clone(), caches.clone()));
    vec![
        ("controllers", async move { run_controllers(&for_controllers.0, &for_controllers.1).await }.boxed()),
        ("scheduler", async move { run_scheduler(&for_scheduler.0, &for_scheduler.1).await }.boxed()),
    ]
}

async fn run_controllers(parts: &Arc<Parts>, caches: &Arc<Caches>) {
    supervise::role("controllers", || {
        let door = parts.door("system:kube-controller-manager", ["system:masters"]);
        let (caches, clock) = (caches.clone(), parts.clock.clone());
        let mut moved = parts.shown.address.clone();
        let options = controllers::Options {
            root_ca: parts.pki.authority().certificate_pem().to_owned(),
            signer: Some(controllers::Signer(parts.pki.clone())),
            server: format!("https://{}:{}", advertised(&parts.options, *moved.borrow_and_update()), parts.api_port),
            node_monitor_grace_period: parts.options.node_monitor_grace_period,
            terminated_pod_gc_threshold: parts.options.terminated_pod_gc_threshold,
        };
        async move {
            // One of them tells machines that join where the server is, and begins anew when that changes.
            tokio::select! {
                () = control::run::run(controllers::all(options), door, caches, clock) => {}
                Ok(()) = moved.changed() => {}
            }
            Ok::<(), Infallible>(())
        }
    })
    .await;
}

async fn run_scheduler(parts: &Arc<Parts>, caches: &Arc<Caches>) {
    supervise::role("scheduler", || {
        let client = Client::new(parts.door("system:kube-scheduler", ["system:masters"]));
        let (caches, clock) = (caches.clone(), parts.clock.clone());
        async move {
            scheduler::run(scheduler::Options::default(), client, caches, clock).await;
            Ok::<(), Infallible>(())
        }
    })
    .await;
}
