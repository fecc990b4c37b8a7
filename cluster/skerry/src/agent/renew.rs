//! Keeps a node's certificates good: renews each while a third of its life is left, and the one it serves with when its
//! addresses change.
//!
//! Start at [`role`].
//!
//! Invariants:
//! * nothing restarts: the door and the kubelet go over to the new certificate, what runs on the old one ends by itself;
//! * a node that was away for longer than its certificate lasts joins again, if it has a token.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Timestamp, chain};
use client::{Client, https::Https};
use kubelet::Live;
use tokio::sync::watch;

use super::Settings;
use super::identity::{Identity, Role};
use super::join::{self, JoinError};

/// The waits after a failure.
const RETRY: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A wait is never longer, so that a clock that was set is noticed.
const LOOK: Duration = Duration::from_secs(60);

/// What is renewed, and who uses it.
pub(super) struct Renewal {
    pub settings: Arc<Settings>,
    pub door: Arc<Https>,
    pub showing: watch::Sender<Option<kubelet::Tls>>,
    pub presenting: watch::Sender<Option<oci::Identity>>,
    pub addresses: Live<Vec<IpAddr>>,
    pub clock: Arc<dyn Clock>,
}

/// Renews for ever.
pub(super) async fn role(mut renewal: Renewal, mut identity: Identity) {
    // The addresses that the serving certificate has; after a restart nobody knows, and it is asked for again.
    let mut served: Vec<IpAddr> = Vec::new();
    let mut retry = RETRY;
    loop {
        let wait = match renewal.renew(&mut identity, &mut served).await {
            Ok(()) => {
                retry = RETRY;
                until_due(&identity, renewal.clock.now())
            }
            Err(error) => {
                tracing::warn!("failed to renew the node's certificates: {}; trying again in {retry:?}", chain(&error));
                let wait = retry;
                retry = (retry * 2).min(RETRY_MAX);
                wait
            }
        };
        let mut addresses = renewal.addresses.clone();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(()) = addresses.changed() => {}
        }
    }
}

/// How long nothing is due.
fn until_due(identity: &Identity, now: Timestamp) -> Duration {
    let due = identity.due(Role::Client).min(identity.due(Role::Serving));
    due.since(now).clamp(RETRY, LOOK)
}

impl Renewal {
    async fn renew(&mut self, identity: &mut Identity, served: &mut Vec<IpAddr>) -> Result<(), JoinError> {
        let (now, addresses) = (self.clock.now(), self.addresses.borrow_and_update().clone());
        if identity.due(Role::Client) <= now {
            self.client(identity, now).await?;
        }
        // Without an address there is nothing to serve at.
        if !addresses.is_empty() && (identity.due(Role::Serving) <= now || *served != addresses) {
            self.serving(identity, &addresses).await?;
            *served = addresses;
        }
        Ok(())
    }

    /// The certificate by which the API server knows this node.
    async fn client(&self, identity: &mut Identity, now: Timestamp) -> Result<(), JoinError> {
        if identity.is_known(now) {
            let client = Client::new(self.door.clone());
            let signed = join::certify(&client, identity.key_pem(), &identity.subject(), Role::Client).await;
            identity.keep(Role::Client, signed.map_err(JoinError::Certify)?).map_err(JoinError::Keep)?;
        } else {
            join::join(&self.settings, identity).await?;
        }
        self.door.renew(&identity.kubeconfig(&self.settings.server)).map_err(JoinError::Door)?;
        self.presenting.send_replace(identity.to_peers());
        tracing::info!("the node has a new certificate for the API server");
        Ok(())
    }

    /// The certificate by which callers know the kubelet.
    async fn serving(&self, identity: &mut Identity, addresses: &[IpAddr]) -> Result<(), JoinError> {
        let mut subject = identity.subject();
        subject.dns = vec![self.settings.node.clone()];
        subject.addresses = addresses.to_owned();
        let client = Client::new(self.door.clone());
        let signed = join::certify(&client, identity.key_pem(), &subject, Role::Serving).await;
        identity.keep(Role::Serving, signed.map_err(JoinError::Certify)?).map_err(JoinError::Keep)?;
        self.showing.send_replace(identity.tls());
        tracing::info!("the kubelet has a new certificate for {addresses:?}");
        Ok(())
    }
}
