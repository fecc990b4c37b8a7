//! The node's own address, which may change: a lease that ran out, a cable in another switch.
//!
//! Start at [`follow`].
//!
//! Invariant: while there is no way to the server, the address is the last one that was.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use client::https::Https;
use tokio::sync::watch;

use crate::net;

/// How often it is looked at: a question to the kernel, nothing that wakes a disk or a network.
const EVERY: Duration = Duration::from_secs(5);

/// The address given, or the one from which the server is called.
pub(super) fn now(server: &str, given: Option<Ipv4Addr>) -> Option<IpAddr> {
    given.or_else(|| net::address_towards(server)).map(IpAddr::V4)
}

/// Tells of every change. A connection that was made from an address which is gone would be waited for in vain.
pub(super) async fn follow(server: String, moving: watch::Sender<Vec<IpAddr>>, door: Arc<Https>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let asked = server.clone();
        // A server that is named, not numbered, is looked up, which may take its time.
        let Ok(Some(address)) = tokio::task::spawn_blocking(move || now(&asked, None)).await else { continue };
        let moved = moving.send_if_modified(|known| {
            let differs = *known != [address];
            *known = vec![address];
            differs
        });
        if moved {
            tracing::info!("the node's address is now {address}");
            door.reconnect().await;
        }
    }
}
