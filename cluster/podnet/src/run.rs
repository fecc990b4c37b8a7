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

use sys::net::in_namespace;
use sys::net::link::{Links, Net, Route};
use sys::net::nft::{self, Table};

use crate::lease::{HostPort, Lease, Leases};
use crate::peers::{self, Change, Peer, Plan, View};
use crate::plan::{GATEWAY, HOST_LINK, Options, PodLink, pod_link, table};

/// The file that remembers the other nodes, beside the leases.
const PEERS: &str = "nodes";

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
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    leases: Leases,
    /// The other nodes, as last told.
    peers: Vec<Peer>,
    /// Those of their addresses that know the way to our pods.
    direct: BTreeSet<Ipv4Addr>,
    /// What the kernel has.
    installed: Option<Table>,
    mtu: u32,
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
        let peers = peers::read(&fs::read_to_string(directory.join(PEERS)).unwrap_or_default()); // None are none yet.
        let (direct, installed, mtu) = (BTreeSet::new(), None, options.mtu);
        let this = PodNet { options, state: Mutex::new(State { leases, peers, direct, installed, mtu }) };
        this.apply_rules(&mut this.lock())?;
        // As far as is remembered: pods may start before anybody tells. It is looked again soon, and whatever fails then is
        // told; what fails now keeps no pod from starting.
        let _ = node_address().map(|own| this.look_again(own));
        Ok(this)
    }

    /// The node's own address among its pods; DNS answers there.
    pub fn gateway(&self) -> Ipv4Addr {
        self.lock().leases.gateway()
    }

    /// Gives the sandbox whose network namespace is pinned at `namespace` its link and address.
    pub fn attach(&self, sandbox: &str, namespace: &Path, ports: &[HostPort]) -> Result<Vec<IpAddr>, PodNetError> {
        let lease = Lease { sandbox: sandbox.to_owned(), ports: ports.to_vec() };
        let (link, mtu) = {
            let mut state = self.lock();
            let exhausted = || PodNetError::Exhausted { sandbox: sandbox.to_owned(), net: self.options.node_pods };
            let address = state.leases.take(lease.clone()).ok_or_else(exhausted)?;
            failed(write_lease(&self.options.directory, address, &lease), || format!("write the lease of {address}"))?;
            self.apply_rules(&mut state)?;
            (pod_link(address), state.mtu)
        };
        failed(connect(&link, namespace, mtu), || format!("connect sandbox {sandbox}"))?;
        Ok(vec![link.address.address])
    }

    /// Takes the sandbox's link and address away. One that has none is no error.
    pub fn detach(&self, sandbox: &str) -> Result<(), PodNetError> {
        let mut state = self.lock();
        let Some(address) = state.leases.of(sandbox) else { return Ok(()) };
        let name = pod_link(address).host_name;
        failed(Links::open().and_then(|mut links| links.remove(&name)), || format!("remove the link {name}"))?;
        state.leases.give_back(sandbox);
        let path = self.options.directory.join(address.to_string());
        failed(gone(fs::remove_file(&path)), || format!("remove {}", path.display()))?;
        self.apply_rules(&mut state)
    }

    /// Detaches every sandbox that is not among `living`: what a crash or a power cut left behind.
    pub fn retain(&self, living: &BTreeSet<String>) -> Result<(), PodNetError> {
        let dead: Vec<String> = self
            .lock()
            .leases
            .all()
            .values()
            .map(|lease| &lease.sandbox)
            .filter(|name| !living.contains(*name))
            .cloned()
            .collect();
        dead.iter().try_for_each(|sandbox| self.detach(sandbox))
    }

    /// Learns which other nodes there are and which address this one has, and makes the kernel's routes fit.
    pub fn set_peers(&self, peers: &[Peer], own: Option<Ipv4Addr>) -> Result<Plan, PodNetError> {
        let mut state = self.lock();
        if state.peers != peers {
            let path = self.options.directory.join(PEERS);
            let written = sys::files::write_atomically(&path, peers::write(peers).as_bytes(), 0o644);
            failed(written.map_err(io::Error::other), || format!("write {}", path.display()))?;
            state.peers = peers.to_vec();
        }
        self.route(&mut state, own)
    }

    /// Makes the kernel's routes fit the nodes last told of, also before a restart, and what links and addresses there are
    /// by now. What is there already is left as it is.
    pub fn look_again(&self, own: Option<Ipv4Addr>) -> Result<Plan, PodNetError> {
        self.route(&mut self.lock(), own)
    }

    fn route(&self, state: &mut State, own: Option<Ipv4Addr>) -> Result<Plan, PodNetError> {
        let reading = || "read the links and routes of this node".to_owned();
        let mut links = failed(Links::open(), reading)?;
        let routes = failed(links.owned_routes(), reading)?;
        let plan = peers::plan(&View {
            peers: &state.peers,
            node_pods: self.options.node_pods,
            cluster_pods: self.options.cluster_pods,
            own,
            links: &failed(links.list(), reading)?,
            addresses: &failed(links.addresses(), reading)?,
            routes: &routes,
        });
        state.mtu = plan.mtu.unwrap_or(self.options.mtu);
        state.direct = plan.direct();
        let carried =
            peers::changes(&plan, &routes).iter().map(|change| carry_out(&mut links, change)).collect::<Vec<_>>();
        // One that fails does not keep the others waiting.
        carried.into_iter().collect::<Result<(), PodNetError>>()?;
        self.apply_rules(state)?;
        Ok(plan)
    }

    /// Takes everything away that was made in the kernel. Leases stay.
    pub fn close(&self) -> Result<(), PodNetError> {
        failed(remove_routes(&self.options), || "remove the routes to pods".to_owned())?;
        failed(nft::remove(crate::plan::TABLE), || format!("remove the table {}", crate::plan::TABLE))?;
        failed(Links::open().and_then(|mut links| links.remove(HOST_LINK)), || format!("remove the link {HOST_LINK}"))
    }

    fn apply_rules(&self, state: &mut State) -> Result<(), PodNetError> {
        let wanted = table(&self.options, &state.leases, &state.direct);
        if state.installed.as_ref() != Some(&wanted) {
            failed(nft::apply(&wanted), || format!("install the table {}", crate::plan::TABLE))?;
            state.installed = Some(wanted);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    // What no node has is refused at once, instead of leaving by the default route for some other network.
    links.refuse(peers::OWNER, options.cluster_pods)?;
    // A process of the node itself reaches a Service only if there is a route: the address is rewritten on the way out.
    let source = Some(IpAddr::V4(gateway));
    links.set_route(&Route { to: Some(options.services), via: None, link: link.index, source })
}

fn carry_out(links: &mut Links, change: &Change) -> Result<(), PodNetError> {
    let done = match change {
        Change::Add(way) => links.add_route_of(peers::OWNER, &way.route()),
        Change::Replace(way) => links.replace_route_of(peers::OWNER, &way.route()),
        Change::Remove(route) => links.remove_route_of(peers::OWNER, route),
    };
    failed(done, || format!("{change} in the kernel's routes"))
}

fn remove_routes(options: &Options) -> io::Result<()> {
    let mut links = Links::open()?;
    for (_, route) in links.owned_routes()?.iter().filter(|(owner, _)| *owner == peers::OWNER) {
        links.remove_route_of(peers::OWNER, route)?;
    }
    links.refuse_no_more(peers::OWNER, options.cluster_pods)
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

    /// Two nodes on one wire: this thread's, 192.168.7.2, and another, 192.168.7.3, whose pods are 10.42.1.0/24.
    fn wired(other: &Pod) {
        let mut links = Links::open().expect("links");
        let inside = File::open(&other.path).expect("the other node");
        let (here, there) = ([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]);
        let wire = links.add_veth("wire", here, "wire", there, inside.as_fd(), 1400).expect("a wire");
        links.up(wire.index).expect("up");
        links.add_address(wire.index, net([192, 168, 7, 2], 24)).expect("an address");
        strict();
        let far = || {
            let mut links = Links::open()?;
            let wire = links.find("wire")?.expect("its end of the wire");
            links.up(wire.index)?;
            strict();
            links.add_address(wire.index, net([192, 168, 7, 3], 24))
        };
        in_namespace(&other.path, far).expect("the other end");
    }

    /// What is accepted must be answered by the way it came: the strictest setting an administrator may choose.
    fn strict() {
        for place in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{place}/rp_filter"), "1").expect("set");
        }
    }

    fn net(address: [u8; 4], prefix: u8) -> Net {
        Net { address: IpAddr::from(address), prefix }
    }

    fn peer(node: &str, third: u8, last: u8) -> Peer {
        let address = Some(Ipv4Addr::new(192, 168, 7, last));
        Peer { node: node.to_owned(), pods: net([10, 42, third, 0], 24), address }
    }

    #[test]
    fn pods_of_two_nodes_reach_each_other_and_the_nodes_under_their_own_addresses() {
        on_a_node(|folder| {
            let other = pod();
            wired(&other);
            let own = |last| Some(Ipv4Addr::new(192, 168, 7, last));
            let here = PodNet::open(options(folder)).expect("the network opens");
            let theirs = Options { node_pods: net([10, 42, 1, 0], 24), ..options(&folder.join("other")) };
            let opened = in_namespace(&other.path, || Ok(PodNet::open(theirs)));
            let there = opened.expect("the other node").expect("its network opens");
            here.set_peers(&[peer("b", 1, 3)], own(2)).expect("routes");
            let reached = in_namespace(&other.path, || Ok(there.set_peers(&[peer("a", 0, 2)], own(3))));
            reached.expect("the other node").expect("routes");

            let (web, client) = (pod(), pod());
            let attached = in_namespace(&other.path, || Ok(there.attach("web", &web.path, &[])));
            let web_address = attached.expect("the other node").expect("attached")[0];
            let client_address = here.attach("client", &client.path, &[]).expect("attached")[0];
            let mtu = in_namespace(&web.path, || Ok(Links::open()?.find("eth0")?.map(|link| link.mtu)));
            assert_eq!(mtu.expect("the pod's link"), Some(1400), "a pod's packets fit the wire");
            greet(&web, web_address, 80);
            greet(&other, [192, 168, 7, 3].into(), 8080);
            let from_pod = |address: IpAddr, port| in_namespace(&client.path, || ask(address, port));
            assert_eq!(from_pod(web_address, 80).expect("pod to pod"), client_address.to_string());
            assert_eq!(from_pod([192, 168, 7, 3].into(), 8080).expect("pod to node"), client_address.to_string());
            assert_eq!(ask(web_address, 80).expect("node to pod"), "192.168.7.2");

            let nobody = from_pod([10, 42, 9, 9].into(), 80).expect_err("no node has this pod");
            assert_eq!(nobody.kind(), io::ErrorKind::HostUnreachable, "{nobody}");
            // A node that is not known is the world: the pod's address means nothing there.
            here.set_peers(&[], own(2)).expect("no routes");
            assert_eq!(from_pod([192, 168, 7, 3].into(), 8080).expect("pod to world"), "192.168.7.2");
        });
    }

    #[test]
    fn routes_are_kept_through_restarts_and_whatever_happens_to_links() {
        on_a_node(|folder| {
            let other = pod();
            wired(&other);
            let own = Some(Ipv4Addr::new(192, 168, 7, 2));
            let net_of = || PodNet::open(options(folder)).expect("the network opens");
            net_of().set_peers(&[peer("b", 1, 3), peer("c", 2, 4)], own).expect("routes");
            let ours = || {
                let all = Links::open().expect("links").owned_routes().expect("routes");
                let ours = all.into_iter().filter(|(owner, _)| *owner == peers::OWNER);
                ours.filter_map(|(_, route)| route.via).map(|via| via.to_string()).collect::<Vec<_>>().join(" ")
            };
            assert_eq!(ours(), "192.168.7.3 192.168.7.4");

            let monitor = sys::net::monitor::Monitor::open().expect("a monitor");
            let again = net_of();
            monitor.take().expect("opening may touch the gateway's link");
            again.look_again(own).expect("as remembered");
            again.set_peers(&[peer("b", 1, 3), peer("c", 2, 4)], own).expect("as before");
            assert!(!monitor.take().expect("nothing is told"), "nothing has changed");

            let mut links = Links::open().expect("links");
            links.remove("wire").expect("removed");
            assert_eq!(again.look_again(own).expect("all out of reach").blocked.len(), 2);
            assert_eq!(ours(), "");
            wired(&other);
            again.set_peers(&[peer("c", 2, 5)], own).expect("the wire is back");
            assert_eq!(ours(), "192.168.7.5");
            again.close().expect("closed");
            assert_eq!(ours(), "");
        });
    }
}
