//! Where this server is found and what it shows, kept up to date while it runs: its certificates are renewed while a third of
//! their life is left, and name its address when that changes.
//!
//! Start at [`Keeper::open`], which says what is true at the start, and [`Keeper::role`], which goes on with it.
//!
//! Invariants:
//! * nothing restarts: listeners and the way to kubelets go over to the new certificate, what runs on the old one ends by itself;
//! * while there is no network, the address is the last one that was.
//!
//! Not here: an agent's certificates (`agent/renew.rs`), making them (`pki`).

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver::run::Tls;
use apiserver::{Api, Failure};
use base::{Clock, Timestamp, chain};
use pki::{Names, Pair, Pki, PkiError};
use tokio::sync::watch;

use crate::roles::node::{kubelet_tls, peer_identity};
use crate::{StartError, cli, net, server};

/// How often the address is looked at: a question to the kernel, nothing that wakes a disk or a network.
const ADDRESS_EVERY: Duration = Duration::from_secs(5);
/// A wait for certificates is never longer, so that a clock that was set is noticed.
const LOOK: Duration = Duration::from_secs(60);
/// And never shorter: a certificate that cannot be renewed must not keep a core busy.
const LOOK_MIN: Duration = Duration::from_secs(1);

/// What others of this process hear of.
#[derive(Clone)]
pub struct Shown {
    /// Where this machine is found.
    pub address: watch::Receiver<Ipv4Addr>,
    /// What the API server shows.
    pub tls: watch::Receiver<Tls>,
    /// The addresses of this machine's Node.
    pub node_addresses: kubelet::Live<Vec<IpAddr>>,
    /// What its kubelet shows who calls it.
    pub kubelet: kubelet::Live<Option<kubelet::Tls>>,
    /// What it shows other nodes.
    pub peer: kubelet::Live<Option<oci::Identity>>,
}

struct Senders {
    address: watch::Sender<Ipv4Addr>,
    tls: watch::Sender<Tls>,
    node_addresses: watch::Sender<Vec<IpAddr>>,
    kubelet: watch::Sender<Option<kubelet::Tls>>,
    peer: watch::Sender<Option<oci::Identity>>,
}

/// Keeps it.
pub(crate) struct Keeper {
    what: What,
    senders: Senders,
    admin: Pair,
    due: Timestamp,
}

/// What does not change.
struct What {
    options: cli::Server,
    node_name: String,
    keys: PathBuf,
    clock: Arc<dyn Clock>,
}

/// Everything that is true at one time.
struct Present {
    pki: Pki,
    node_addresses: Vec<IpAddr>,
    kubelet: Option<kubelet::Tls>,
    peer: Option<oci::Identity>,
    due: Timestamp,
}

impl What {
    fn at(&self, address: Ipv4Addr) -> Result<Present, PkiError> {
        let (now, name) = (self.clock.now(), &self.node_name);
        let names = names(&self.options, name, address);
        let pki = Pki::open_lasting(&self.keys, &names, self.options.cluster_signing_duration, now)?;
        // A machine without a network of its own is found by its pods at their gateway.
        let node_addresses = vec![IpAddr::V4(if address.is_loopback() { net::POD_GATEWAY } else { address })];
        let of_node = Names { dns: vec![name.clone()], addresses: node_addresses.clone() };
        let ca_pem = pki.authority().certificate_pem().to_owned();
        let (mut kubelet, mut peer, mut due) = (None, None, pki.due(&[]));
        if !self.options.no_node {
            let (serving, client) = (pki.kubelet_serving(name, &of_node, now)?, pki.kubelet_identity(name, now)?);
            kubelet = kubelet_tls(&serving, &ca_pem);
            due = pki.due(&[&serving, &client]);
            peer = Some(peer_identity(&client, &ca_pem));
        }
        Ok(Present { pki, node_addresses, kubelet, peer, due })
    }
}

impl Keeper {
    /// What is true now; keys and certificates are made where they are missing.
    pub(crate) fn open(
        options: &cli::Server,
        node_name: &str,
        keys: PathBuf,
        clock: Arc<dyn Clock>,
    ) -> Result<(Keeper, Shown, Arc<Pki>), StartError> {
        let address = options.node_ip.unwrap_or_else(|| net::address(options.no_node));
        let what = What { options: options.clone(), node_name: node_name.to_owned(), keys, clock };
        let present = what.at(address).map_err(StartError::Pki)?;
        let (address, address_shown) = watch::channel(address);
        let (tls, tls_shown) = watch::channel(server::tls(&present.pki));
        let (node_addresses, node_addresses_shown) = watch::channel(present.node_addresses);
        let (kubelet, kubelet_shown) = watch::channel(present.kubelet);
        let (peer, peer_shown) = watch::channel(present.peer);
        let (admin, due) = (present.pki.admin().clone(), present.due);
        let keeper = Keeper { what, senders: Senders { address, tls, node_addresses, kubelet, peer }, admin, due };
        let shown = Shown {
            address: address_shown,
            tls: tls_shown,
            node_addresses: node_addresses_shown,
            kubelet: kubelet_shown,
            peer: peer_shown,
        };
        Ok((keeper, shown, Arc::new(present.pki)))
    }

    /// Keeps it up to date, for ever. `kubeconfig` writes the administrator's.
    pub(crate) async fn role(mut self, api: Arc<Api>, kubeconfig: impl Fn(&Pki) -> Result<(), StartError>) {
        loop {
            let left = self.due.since(self.what.clock.now()).clamp(LOOK_MIN, LOOK);
            let follows = self.what.options.node_ip.is_none();
            tokio::time::sleep(if follows { left.min(ADDRESS_EVERY) } else { left }).await;
            let before = *self.senders.address.borrow();
            let address = if follows { net::routed_address().unwrap_or(before) } else { before };
            if address == before && self.what.clock.now() < self.due {
                continue;
            }
            if let Err(error) = self.renew(address, &kubeconfig) {
                tracing::warn!("failed to renew the server's certificates: {}", chain(&error));
                continue;
            }
            if address != before {
                tracing::info!("the server's address is now {address}");
                self.announce(&api, address).await;
            }
        }
    }

    fn renew(
        &mut self,
        address: Ipv4Addr,
        kubeconfig: &impl Fn(&Pki) -> Result<(), StartError>,
    ) -> Result<(), StartError> {
        let present = self.what.at(address).map_err(StartError::Pki)?;
        let Senders { tls, node_addresses, kubelet, peer, .. } = &self.senders;
        let renewed = told(tls, server::tls(&present.pki))
            | told(kubelet, present.kubelet)
            | told(peer, present.peer)
            | (*present.pki.admin() != self.admin);
        if *present.pki.admin() != self.admin {
            kubeconfig(&present.pki)?;
            self.admin = present.pki.admin().clone();
        }
        told(node_addresses, present.node_addresses);
        self.due = present.due;
        if renewed {
            tracing::info!("the server has new certificates");
        }
        Ok(())
    }

    /// Tells the cluster where the server is.
    async fn announce(&self, api: &Arc<Api>, address: Ipv4Addr) {
        let advertised = advertised(&self.what.options, address);
        let announced: Result<(), Failure> = api.moved(advertised).await;
        match announced {
            // Told only now: who hears of it finds the cluster saying the same.
            Ok(()) => drop(told(&self.senders.address, address)),
            Err(error) => tracing::warn!("failed to tell the cluster the server's address: {error}; trying again"),
        }
    }
}

/// Tells it to who listens, if it is new.
fn told<T: PartialEq>(sender: &watch::Sender<T>, new: T) -> bool {
    sender.send_if_modified(|known| {
        let differs = *known != new;
        *known = new;
        differs
    })
}

/// Under which names and addresses clients may find this server.
fn names(options: &cli::Server, node_name: &str, address: Ipv4Addr) -> Names {
    let mut addresses = vec![IpAddr::V4(address)];
    if !options.listen.ip().is_unspecified() {
        addresses.push(options.listen.ip());
    }
    let mut dns = vec![net::hostname(), node_name.to_owned()];
    dns.retain(|name| !name.is_empty() && name.is_ascii());
    Names { dns, addresses }
}

/// Where other machines find this server.
pub(crate) fn advertised(options: &cli::Server, address: Ipv4Addr) -> Ipv4Addr {
    match options.listen.ip() {
        IpAddr::V4(address) if !address.is_unspecified() => address,
        _ => address,
    }
}
