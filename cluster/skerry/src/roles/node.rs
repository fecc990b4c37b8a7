//! The roles of a node: pod network, kubelet with its runtime, service proxy, DNS.
//!
//! Start at [`role`]. It is the same on a server and on an agent; what differs is in [`NodeParts`]. The network and the
//! runtime come first, because what was running before must be adopted before anything new is started; then kubelet, proxy
//! and DNS run side by side, each restarted alone.
//!
//! Invariant: nothing here waits for a server, but the first start of all: only it can say which addresses pods get.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base::{Bytes, Clock, Rng};
use client::{Caches, Client, Door};
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use kubelet::{Live, Machine};
use podnet::{PodNet, PodNetError};
use runtime::{Embedded, Runtime, RuntimeError};
use sys::net::link::Net;
use tokio::sync::watch;

use super::network::PodNetwork;
use super::peers::{self, Peers};
use super::{dns, neighbours, range};
use crate::own_node::OwnNode;
use crate::supervise;
use crate::update::node::{self as updates, Updates};

/// Where a board's firmware holds images that are never collected.
const FIRMWARE_IMAGES: &str = "/usr/share/skerry/images";
/// Where a board's firmware writes its own logs.
const FIRMWARE_LOGS: &str = "/data/log";
/// Set by PID 1 of a board, which runs the keeper itself.
const KEEPER_SOCKET: &str = "SKERRY_KEEPER_SOCKET";
/// The largest packet on pod links; Ethernet's.
const MTU: u32 = 1500;
const CLUSTER_DOMAIN: &str = "cluster.local";
const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);

/// Why a node does not run, or cannot be taken away.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The pod network.
    #[error("failed to open the pod network")]
    Network(#[source] PodNetError),
    /// The container runtime.
    #[error("failed to open the container runtime")]
    Runtime(#[source] RuntimeError),
    /// Volumes of pods that are gone.
    #[error("failed to unmount the volumes of pods")]
    Volumes(#[source] kubelet::VolumeError),
    /// This program's own path.
    #[error("failed to find this program to run helpers with")]
    Program(#[source] std::io::Error),
    /// The addresses of its pods.
    #[error("failed to remember the addresses that this node may give its pods")]
    Range(#[source] std::io::Error),
    /// Somebody gave the Node other addresses.
    #[error(
        "the node's podCIDR is {now} and was {before}: the pod network is opened anew, and pods that run keep their addresses"
    )]
    Moved {
        /// The range it had.
        before: Net,
        /// The range it has.
        now: Net,
    },
    /// A bug.
    #[error("the thread that opened the node panicked")]
    Panicked,
}

/// What a node is made of.
pub struct NodeParts {
    /// The folder for everything that lasts.
    pub data: PathBuf,
    /// The Node's name.
    pub name: String,
    /// Its addresses, the primary first.
    pub addresses: Live<Vec<IpAddr>>,
    /// What the kubelet shows who connects to it.
    pub tls: Live<Option<kubelet::Tls>>,
    /// What it shows other nodes.
    pub identity: Live<Option<oci::Identity>>,
    /// Whether the server may be away when this node starts, so that its pods must be remembered here.
    pub remembers: bool,
    /// The way to the API server, as this node.
    pub door: Arc<dyn Door>,
    /// What is read through it, or by all of the process.
    pub caches: Arc<Caches>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Folders of images that are never collected, beside that of a board's firmware.
    pub preloaded: Vec<PathBuf>,
    /// Encrypts what it remembers.
    pub checkpoint_key: Option<kubelet::checkpoint::Key>,
    /// What the machine says of its Node.
    pub own: OwnNode,
    /// Where chance begins.
    pub seed: Mutex<Rng>,
}

impl NodeParts {
    fn rng(&self) -> Rng {
        self.seed.lock().unwrap_or_else(PoisonError::into_inner).fork()
    }
}

/// What is opened once a node runs.
struct Opened {
    net: Arc<PodNet>,
    runtime: Embedded,
}

/// The node, for ever.
pub(crate) fn role(parts: &Arc<NodeParts>) -> BoxFuture<'static, ()> {
    let parts = parts.clone();
    async move { supervise::role("node", || run(parts.clone())).await }.boxed()
}

async fn run(parts: Arc<NodeParts>) -> Result<(), NodeError> {
    let options = kubelet_options(&parts);
    let client = Client::new(parts.door.clone());
    let range = range::of_node(&parts.data, &options, &client, || parts.clock.now()).await.map_err(NodeError::Range)?;
    let (data, clock, seed) = (parts.data.clone(), parts.clock.clone(), parts.rng().next_u64());
    let registries = parts.own.rules();
    let peers = neighbours::finder(&parts.name, &parts.caches, parts.identity.clone());
    let preloaded = parts.preloaded.clone();
    let opened =
        tokio::task::spawn_blocking(move || open(&data, range, preloaded, Some(peers), registries, clock, seed));
    let opened = opened.await.map_err(|_| NodeError::Panicked)??;
    retain(&opened).await;
    link_logs(&parts.data);
    let nodes = parts.caches.of::<Node>();
    tokio::select! {
        () = serve(&parts, &opened, options) => Ok(()),
        moved = range::moved(&parts.data, &parts.name, range, &nodes) => {
            Err(NodeError::Moved { before: range, now: moved.map_err(NodeError::Range)? })
        }
    }
}

/// Kubelet, proxy, DNS and the routes to other nodes.
async fn serve(parts: &NodeParts, opened: &Opened, options: kubelet::Options) {
    let (leaving, is_leaving) = watch::channel(false);
    let proxy_options = proxy::Options { node: parts.name.clone(), pods: cluster_pods(), leaving: is_leaving };
    let dns_options = dns::Options {
        gateway: opened.net.gateway(),
        cluster_dns: CLUSTER_DNS,
        domain: CLUSTER_DOMAIN.to_owned(),
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
    };
    let options = kubelet::Options { images: Some(opened.runtime.images()), ..options };
    let kubelet = supervise::role("kubelet", || {
        let (runtime, clock) = (Arc::new(opened.runtime.clone()), parts.clock.clone());
        kubelet::run(options.clone(), parts.door.clone(), runtime, clock, parts.rng())
    });
    let proxy = supervise::role("service proxy", || {
        let work = proxy::run(proxy_options.clone(), parts.caches.clone());
        async move {
            work.await;
            Ok::<(), Infallible>(())
        }
    });
    let names = supervise::role("DNS", || dns::run(dns_options.clone(), parts.caches.clone()));
    let routes = supervise::role("routes to other nodes", || {
        peers::run(Peers {
            node: parts.name.clone(),
            net: opened.net.clone(),
            client: Client::new(parts.door.clone()),
            caches: parts.caches.clone(),
            clock: parts.clock.clone(),
        })
    });
    let updates = async {
        // Only a board has slots.
        if Path::new(FIRMWARE_IMAGES).is_dir() {
            supervise::role("updates", || take_updates(parts, &leaving)).await;
        }
        std::future::pending::<()>().await;
    };
    futures::future::join5(kubelet, proxy, names, routes, updates).await;
}

async fn take_updates(parts: &NodeParts, leaving: &watch::Sender<bool>) -> Result<(), Infallible> {
    let updates = Updates {
        node: parts.name.clone(),
        client: Client::new(parts.door.clone()),
        nodes: parts.caches.of::<Node>(),
        clock: parts.clock.clone(),
        socket: PathBuf::from(bundle::message::SOCKET),
        leaving: leaving.clone(),
    };
    match updates::run(updates).await {}
}

/// Ends every pod of a data folder and takes its namespaces, mounts, cgroups and links away; images and logs stay.
pub(crate) async fn clean_up(data: &Path, clock: Arc<dyn Clock>) -> Result<(), NodeError> {
    // A node that never had a range has no pods either; any range will do to see that.
    let range = range::remembered(data).unwrap_or(cluster_pods());
    let folder = data.to_owned();
    let opened = tokio::task::spawn_blocking(move || open(&folder, range, Vec::new(), None, Vec::new(), clock, 0));
    let opened = opened.await.map_err(|_| NodeError::Panicked)??;
    opened.runtime.clean_up().await.map_err(NodeError::Runtime)?;
    let pods = data.join("kubelet/pods");
    if pods.exists() {
        let options = kubelet::Options::new("", &data.join("kubelet"), &data.join("log/pods"));
        kubelet::unmount_all(&pods, &kubelet::Leaving::default(), &options.mount_helper).map_err(NodeError::Volumes)?;
    }
    opened.net.close().map_err(NodeError::Network)
}

/// Network first: the runtime asks for it when it adopts.
fn open(
    data: &Path,
    range: Net,
    preloaded: Vec<PathBuf>,
    peers: Option<oci::Finder>,
    registries: Vec<oci::RegistryRule>,
    clock: Arc<dyn Clock>,
    seed: u64,
) -> Result<Opened, NodeError> {
    let options = podnet::Options {
        node_pods: range,
        cluster_pods: cluster_pods(),
        services: net([10, 43, 0, 0], 16),
        directory: data.join("podnet"),
        mtu: MTU,
    };
    let net = Arc::new(PodNet::open(options).map_err(NodeError::Network)?);
    let keeper_socket = std::env::var_os(KEEPER_SOCKET).map(PathBuf::from);
    let runtime = Embedded::open(runtime::Options {
        data: data.to_owned(),
        firmware_images: firmware_images(preloaded),
        program: std::env::current_exe().map_err(NodeError::Program)?,
        helper_args: vec!["helper".into()],
        keeper_args: keeper_socket.is_none().then(|| vec!["keeper".into()]),
        keeper_socket,
        cgroup_root: cgroup_root(data),
        network: Arc::new(PodNetwork(net.clone())),
        registries,
        peers,
        clock,
        seed,
    });
    Ok(Opened { net, runtime: runtime.map_err(NodeError::Runtime)? })
}

fn firmware_images(mut folders: Vec<PathBuf>) -> Vec<PathBuf> {
    for folder in folders.extract_if(.., |folder| !folder.join("images").is_dir()) {
        tracing::warn!("there are no images in {}, as it has no folder named images", folder.display());
    }
    folders.extend(Some(PathBuf::from(FIRMWARE_IMAGES)).filter(|path| path.is_dir()));
    folders
}

/// On a board the logs are where others look for them, and so are those of its firmware. What is there already stays.
fn link_logs(data: &Path) {
    if !Path::new(FIRMWARE_IMAGES).is_dir() {
        return;
    }
    for (link, target) in [("/var/log/pods", data.join("log/pods")), ("/var/log/skerry", PathBuf::from(FIRMWARE_LOGS))]
    {
        match std::os::unix::fs::symlink(&target, link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                tracing::warn!("failed to link {link} to {}: {error}", target.display());
            }
            _ => {}
        }
    }
}

/// On a board pods have the hierarchy to themselves; elsewhere each data folder has a part of its own.
fn cgroup_root(data: &Path) -> String {
    if std::process::id() > 1 && Path::new(FIRMWARE_IMAGES).is_dir() {
        return String::new();
    }
    let name: String = data
        .to_string_lossy()
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .collect();
    format!("skerry{name}")
}

/// Gives back the addresses of sandboxes that are gone.
async fn retain(opened: &Opened) {
    let Ok(sandboxes) = opened.runtime.list_sandboxes().await else { return };
    let living: BTreeSet<String> = sandboxes.into_iter().map(|sandbox| sandbox.id.0).collect();
    let net = opened.net.clone();
    let retained = tokio::task::spawn_blocking(move || net.retain(&living)).await;
    if let Ok(Err(error)) = retained {
        tracing::warn!("failed to give back addresses of pods that are gone: {}", base::chain(&error));
    }
}

fn kubelet_options(parts: &NodeParts) -> kubelet::Options {
    let mut options = kubelet::Options::new(&parts.name, &parts.data.join("kubelet"), &parts.data.join("log/pods"));
    options.addresses = parts.addresses.clone();
    options.listen = Some((Ipv4Addr::UNSPECIFIED, kubelet::options::PORT).into());
    options.tls = parts.tls.clone();
    options.checkpoints = parts.remembers.then(|| parts.data.join("kubelet/checkpoints"));
    options.cluster_dns = vec![IpAddr::V4(CLUSTER_DNS)];
    options.cluster_domain = CLUSTER_DOMAIN.to_owned();
    options.checkpoint_key = parts.checkpoint_key.clone();
    options.labels = parts.own.labels();
    options.taints = parts.own.register_with_taints.clone();
    options.clock_is_kept = sys::clock::is_synchronised;
    options.machine = Machine::read(storage(&parts.data));
    options.runtime_version = format!("skerry://{}", api::VERSION.trim_start_matches('v'));
    options
}

/// A certificate and its key as the kubelet wants them; `None` for what is no PEM.
pub(crate) fn kubelet_tls(pair: &pki::Pair, ca_pem: &str) -> Option<kubelet::Tls> {
    Some(kubelet::Tls {
        certificates: vec![pki::der_of_pem(&pair.certificate_pem)?],
        key: pki::der_of_pem(&pair.key_pem)?,
        client_ca: pki::der_of_pem(ca_pem)?,
    })
}

/// A node's certificate as other nodes are shown it.
pub(crate) fn peer_identity(pair: &pki::Pair, ca_pem: &str) -> oci::Identity {
    oci::Identity {
        ca_pem: ca_pem.to_owned(),
        certificate_pem: pair.certificate_pem.clone(),
        key_pem: pair.key_pem.clone(),
    }
}

/// The size of the file system that holds the data.
fn storage(data: &Path) -> Bytes {
    sys::files::space(data).map_or(Bytes(0), |(_, total)| Bytes(total))
}

fn cluster_pods() -> Net {
    net([10, 42, 0, 0], 16)
}

fn net(address: [u8; 4], prefix: u8) -> Net {
    Net { address: IpAddr::from(address), prefix }
}
