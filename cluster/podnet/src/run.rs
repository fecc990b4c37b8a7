//! Carries the plans out: leases on the disk, links and rules in the kernel.
//!
//! Start at [`PodNet::open`]. Everything blocks for some milliseconds; callers on an async runtime use a blocking thread.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sys::net::link::{Links, Net, Route};
use sys::net::{in_namespace, nft};

use crate::lease::{HostPort, Lease, Leases};
use crate::plan::{GATEWAY, HOST_LINK, Options, PodLink, pod_link, table};

/// Why a pod has no network.
#[derive(Debug, thiserror::Error)]
pub enum PodNetError {
    /// Every address of the node is taken.
    #[error("no address left for sandbox {sandbox}: all of {net} are taken")]
    Exhausted {
        /// Who asked.
        sandbox: String,
        /// The node's net.
        net: Net,
    },
    /// The disk or the kernel refused.
    #[error("failed to {action}")]
    System {
        /// What was being done, to which thing.
        action: String,
        /// Why not.
        source: io::Error,
    },
    /// The node's net is not an IPv4 net with room for pods.
    #[error("{net} cannot hold pods: an IPv4 net with a prefix of at most 29 is needed")]
    BadNet {
        /// What was given.
        net: Net,
    },
}

fn failed<T>(result: io::Result<T>, action: impl FnOnce() -> String) -> Result<T, PodNetError> {
    result.map_err(|source| PodNetError::System { action: action(), source })
}

/// A node's pod network.
#[derive(Debug)]
pub struct PodNet {
    options: Options,
    leases: Mutex<Leases>,
}

impl PodNet {
    /// Prepares the node (gateway link, routes, forwarding, rules) and reads back the leases. Can be repeated.
    pub fn open(options: Options) -> Result<PodNet, PodNetError> {
        let IpAddr::V4(base) = options.node_pods.address else {
            return Err(PodNetError::BadNet { net: options.node_pods });
        };
        if options.node_pods.prefix > 29 {
            return Err(PodNetError::BadNet { net: options.node_pods });
        }
        let mut leases = Leases::new(base, options.node_pods.prefix);
        let directory = options.directory.clone();
        failed(fs::create_dir_all(&directory), || format!("create {}", directory.display()))?;
        failed(read_leases(&directory, &mut leases), || format!("read the pod addresses in {}", directory.display()))?;
        failed(prepare_node(&options, leases.gateway()), || format!("prepare the link {HOST_LINK}"))?;
        let this = PodNet { options, leases: Mutex::new(leases) };
        this.apply_rules(&this.lock())?;
        Ok(this)
    }

    /// The node's own address among its pods; DNS answers there.
    pub fn gateway(&self) -> Ipv4Addr {
        self.lock().gateway()
    }

    /// Gives the sandbox whose network namespace is pinned at `namespace` its link and address.
    pub fn attach(&self, sandbox: &str, namespace: &Path, ports: &[HostPort]) -> Result<Vec<IpAddr>, PodNetError> {
        let lease = Lease { sandbox: sandbox.to_owned(), ports: ports.to_vec() };
        let link = {
            let mut leases = self.lock();
            let exhausted = || PodNetError::Exhausted { sandbox: sandbox.to_owned(), net: self.options.node_pods };
            let address = leases.take(lease.clone()).ok_or_else(exhausted)?;
            failed(write_lease(&self.options.directory, address, &lease), || format!("write the lease of {address}"))?;
            self.apply_rules(&leases)?;
            pod_link(address)
        };
        failed(connect(&link, namespace, self.options.mtu), || format!("connect sandbox {sandbox}"))?;
        Ok(vec![link.address.address])
    }

    /// Takes the sandbox's link and address away. One that has none is no error.
    pub fn detach(&self, sandbox: &str) -> Result<(), PodNetError> {
        let mut leases = self.lock();
        let Some(address) = leases.of(sandbox) else { return Ok(()) };
        let name = pod_link(address).host_name;
        failed(Links::open().and_then(|mut links| links.remove(&name)), || format!("remove the link {name}"))?;
        leases.give_back(sandbox);
        let path = self.options.directory.join(address.to_string());
        failed(gone(fs::remove_file(&path)), || format!("remove {}", path.display()))?;
        self.apply_rules(&leases)
    }

    /// Detaches every sandbox that is not among `living`: what a crash or a power cut left behind.
    pub fn retain(&self, living: &BTreeSet<String>) -> Result<(), PodNetError> {
        let dead: Vec<String> = self
            .lock()
            .all()
            .values()
            .map(|lease| &lease.sandbox)
            .filter(|name| !living.contains(*name))
            .cloned()
            .collect();
        dead.iter().try_for_each(|sandbox| self.detach(sandbox))
    }

    /// Takes everything away that [`PodNet::open`] made in the kernel. Leases stay.
    pub fn close(&self) -> Result<(), PodNetError> {
        failed(nft::remove(crate::plan::TABLE), || format!("remove the table {}", crate::plan::TABLE))?;
        failed(Links::open().and_then(|mut links| links.remove(HOST_LINK)), || format!("remove the link {HOST_LINK}"))
    }

    fn apply_rules(&self, leases: &Leases) -> Result<(), PodNetError> {
        failed(nft::apply(&table(&self.options, leases)), || format!("install the table {}", crate::plan::TABLE))
    }

    fn lock(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address by which this node is reached: that of the link of the default route; `None` where there is none.
pub fn node_address() -> io::Result<Option<Ipv4Addr>> {
    let mut links = Links::open()?;
    let defaults = links.routes()?.into_iter().filter(|route| route.to.is_none());
    let addresses = links.addresses()?;
    for route in defaults {
        let of_link = addresses.iter().filter(|(index, _)| *index == route.link);
        let found = of_link.map(|(_, net)| net.address).find_map(|address| match address {
            IpAddr::V4(address) if !address.is_link_local() => Some(address),
            _ => None,
        });
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn prepare_node(options: &Options, gateway: Ipv4Addr) -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let mut links = Links::open()?;
    if let Some(loopback) = links.find("lo")?.filter(|link| !link.up) {
        links.up(loopback.index)?;
    }
    let link = links.add_dummy(HOST_LINK)?;
    links.up(link.index)?;
    links.add_address(link.index, Net::host(IpAddr::V4(gateway)))?;
    // A process of the node itself reaches a Service only if there is a route: the address is rewritten on the way out.
    let source = Some(IpAddr::V4(gateway));
    links.set_route(&Route { to: Some(options.services), via: None, link: link.index, source })
}

fn connect(link: &PodLink, namespace: &Path, mtu: u32) -> io::Result<()> {
    let mut links = Links::open()?;
    links.remove(&link.host_name)?; // What an attempt that failed halfway left behind.
    let inside = File::open(namespace)?;
    let host = links.add_veth(&link.host_name, link.host_mac, "eth0", link.pod_mac, inside.as_fd(), mtu)?;
    links.up(host.index)?;
    links.set_neighbour(host.index, link.address.address, link.pod_mac)?;
    in_namespace(namespace, || connect_inside(link))?;
    links.set_route(&Route { to: Some(link.address), via: None, link: host.index, source: None })
}

fn connect_inside(link: &PodLink) -> io::Result<()> {
    let mut links = Links::open()?;
    let missing = |name: &str| io::Error::new(io::ErrorKind::NotFound, format!("link {name} is not in the namespace"));
    let loopback = links.find("lo")?.ok_or_else(|| missing("lo"))?;
    links.up(loopback.index)?;
    let pod = links.find("eth0")?.ok_or_else(|| missing("eth0"))?;
    links.add_address(pod.index, link.address)?;
    links.up(pod.index)?;
    let gateway = IpAddr::V4(GATEWAY);
    links.set_neighbour(pod.index, gateway, link.host_mac)?;
    links.set_route(&Route { to: Some(Net::host(gateway)), via: None, link: pod.index, source: None })?;
    links.set_route(&Route { to: None, via: Some(gateway), link: pod.index, source: None })
}

fn read_leases(directory: &Path, leases: &mut Leases) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(address) = entry.file_name().to_str().and_then(|name| name.parse::<Ipv4Addr>().ok()) else {
            continue;
        };
        // A file torn by a power cut names no sandbox; its pod is made anew anyhow.
        match fs::read_to_string(entry.path())?.parse::<Lease>() {
            Ok(lease) => leases.restore(address, lease),
            Err(_) => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

fn write_lease(directory: &Path, address: Ipv4Addr, lease: &Lease) -> io::Result<()> {
    let path: PathBuf = directory.join(address.to_string());
    let next = directory.join(format!("{address}.new"));
    let mut file = File::create(&next)?;
    file.write_all(lease.to_string().as_bytes())?;
    // No fsync: after a power cut no pod runs, and a lease that is lost or torn belongs to nobody.
    fs::rename(next, path)
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use sys::net::nft::Transport;

    /// Runs `body` as a node of its own: a thread in a new network namespace.
    fn on_a_node(body: impl FnOnce(&Path) + Send + 'static) {
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
            let folder = tempfile::tempdir().expect("a folder");
            body(folder.path());
        })
        .join()
        .expect("the test's thread ends well");
    }

    /// A pod: a thread that keeps a network namespace open, and the path it can be reached by.
    struct Pod {
        path: PathBuf,
        _end: std::sync::mpsc::Sender<()>,
    }

    fn pod() -> Pod {
        let (tell, path) = std::sync::mpsc::channel();
        let (end, wait) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
            let thread = fs::read_link("/proc/thread-self").expect("proc is mounted");
            tell.send(Path::new("/proc").join(thread).join("ns/net")).expect("the test waits");
            let _ = wait.recv(); // Ends when the test drops its half.
        });
        Pod { path: path.recv().expect("the pod's thread answers"), _end: end }
    }

    fn options(folder: &Path) -> Options {
        let net = |address: [u8; 4], prefix| Net { address: IpAddr::from(address), prefix };
        Options {
            node_pods: net([10, 42, 0, 0], 24),
            cluster_pods: net([10, 42, 0, 0], 16),
            services: net([10, 43, 0, 0], 16),
            directory: folder.join("leases"),
            mtu: 1500,
        }
    }

    /// Serves one greeting on `address` inside the pod.
    fn greet(pod: &Pod, address: IpAddr, port: u16) {
        let listener = in_namespace(&pod.path, || TcpListener::bind((address, port))).expect("the pod can listen");
        std::thread::spawn(move || {
            while let Ok((mut stream, from)) = listener.accept() {
                let _ = write!(stream, "{}", from.ip()); // A client that left early is no matter.
            }
        });
    }

    fn ask(address: IpAddr, port: u16) -> io::Result<String> {
        let limit = std::time::Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&(address, port).into(), limit)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn pods_reach_each_other_the_node_and_themselves() {
        on_a_node(|folder| {
            let net = PodNet::open(options(folder)).expect("the network opens");
            let (web, client) = (pod(), pod());
            let port = HostPort { transport: Transport::Tcp, host_port: 8080, container_port: 80, host_ip: None };
            let web_address = net.attach("web", &web.path, &[port]).expect("attached")[0];
            let client_address = net.attach("client", &client.path, &[]).expect("attached")[0];
            greet(&web, web_address, 80);

            let from_client = in_namespace(&client.path, || ask(web_address, 80)).expect("pod to pod");
            assert_eq!(from_client, client_address.to_string(), "no address is rewritten between pods");
            let gateway = IpAddr::V4(net.gateway());
            assert_eq!(ask(web_address, 80).expect("node to pod"), gateway.to_string());
            ask(gateway, 8080).expect("the node's own port leads into the pod");
            in_namespace(&web.path, || ask(gateway, 8080)).expect("also for the pod itself");

            net.detach("web").expect("detached");
            assert!(ask(web_address, 80).is_err());
            net.detach("web").expect("detaching twice is no error");
        });
    }

    #[test]
    fn leases_survive_a_restart_and_the_dead_are_forgotten() {
        on_a_node(|folder| {
            let (first, second) = (pod(), pod());
            let net = PodNet::open(options(folder)).expect("the network opens");
            let address = net.attach("first", &first.path, &[]).expect("attached");
            net.attach("second", &second.path, &[]).expect("attached");
            fs::write(folder.join("leases/10.42.0.9"), "").expect("a torn lease");
            drop(net);
            let net = PodNet::open(options(folder)).expect("the network opens again");
            net.retain(&BTreeSet::from(["first".to_owned()])).expect("the dead are detached");
            assert_eq!(net.attach("first", &first.path, &[]).expect("attached again"), address);
            assert_eq!(fs::read_dir(folder.join("leases")).expect("a folder").count(), 1);
        });
    }
}
