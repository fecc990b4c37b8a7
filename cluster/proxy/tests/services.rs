//! Services in the kernel: two nodes on one wire and a client beside them, each a network namespace, with real pods' links.
//!
//! Start at [`site`]. Node `a` is 192.168.7.2, node `b` is 192.168.7.3, the client (no node, no pod) is 192.168.7.9. Pods
//! greet with the address that they see, so a test reads who was answered and whether anybody rewrote it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use nix::sched::{CloneFlags, unshare};
use podnet::{Options, Peer, PodNet};
use proxy::{Installed, View, plan};
use serde_json::{Value, json};
use sys::net::in_namespace;
use sys::net::link::{Links, Net};

const SERVICE: [u8; 4] = [10, 43, 0, 9];
const NODE_A: [u8; 4] = [192, 168, 7, 2];
const NODE_B: [u8; 4] = [192, 168, 7, 3];
const CLIENT: [u8; 4] = [192, 168, 7, 9];
const NODE_PORT: u16 = 30080;
/// Nobody answers within this time: long enough for a loaded machine, short enough to wait for.
const SILENCE: Duration = Duration::from_millis(400);

/// A network namespace, kept open by a thread.
struct Place {
    path: PathBuf,
    _end: Sender<()>,
}

impl Place {
    fn new() -> Place {
        let (tell, path) = channel();
        let (end, wait) = channel::<()>();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
            let thread = fs::read_link("/proc/thread-self").expect("proc is mounted");
            tell.send(Path::new("/proc").join(thread).join("ns/net")).expect("the test waits");
            let _ = wait.recv(); // Ends when the test drops its half.
        });
        Place { path: path.recv().expect("the thread answers"), _end: end }
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_namespace(&self.path, || Ok(work())).expect("the namespace is there")
    }
}

/// A pod that greets by TCP and UDP on port 8080.
struct Pod {
    place: Place,
    address: IpAddr,
}

impl Pod {
    fn greet(&self) {
        let address = (self.address, 8080);
        let (tcp, udp) = self.place.run(|| (TcpListener::bind(address), UdpSocket::bind(address)));
        let (tcp, udp, name) = (tcp.expect("a listener"), udp.expect("a socket"), self.address);
        std::thread::spawn(move || {
            while let Ok((mut stream, from)) = tcp.accept() {
                let _ = write!(stream, "{name} {}", from.ip()); // A client that left early is no matter.
            }
        });
        std::thread::spawn(move || {
            while let Ok((_, from)) = udp.recv_from(&mut [0; 16]) {
                let _ = udp.send_to(format!("{name} {}", from.ip()).as_bytes(), from);
            }
        });
    }
}

/// A node: its place, its pods' network, and what it has of Services.
struct Node {
    name: &'static str,
    place: Place,
    net: PodNet,
    installed: Installed,
}

impl Node {
    fn new(name: &'static str, third: u8, place: Place, folder: &Path, other: Peer, own: [u8; 4]) -> Node {
        let options = Options {
            node_pods: net([10, 42, third, 0], 24),
            cluster_pods: net([10, 42, 0, 0], 16),
            services: net([10, 43, 0, 0], 16),
            directory: folder.join(name),
            mtu: 1500,
        };
        let opened = place.run(|| PodNet::open(options)).expect("the network opens");
        place.run(|| opened.set_peers(&[other], Some(own.into()))).expect("routes");
        Node { name, place, net: opened, installed: Installed::default() }
    }

    fn pod(&self, sandbox: &str) -> Pod {
        let place = Place::new();
        let address = self.place.run(|| self.net.attach(sandbox, &place.path, &[])).expect("attached")[0];
        let pod = Pod { place, address };
        pod.greet();
        pod
    }

    fn install(&mut self, service: &Value, endpoints: &[(&Pod, &str)]) {
        let service = Arc::new(serde_json::from_value::<Service>(service.clone()).expect("a Service"));
        let slice = Arc::new(serde_json::from_value::<EndpointSlice>(slice(endpoints)).expect("an EndpointSlice"));
        let pods = net([10, 42, 0, 0], 16);
        let wanted = plan(&View { services: &[service], slices: &[slice], node: self.name, pods, leaving: false });
        let installed = &mut self.installed;
        self.place.run(|| installed.bring_to(wanted)).expect("installed");
    }
}

struct Site {
    a: Node,
    b: Node,
    client: Place,
    _folder: tempfile::TempDir,
    _wire: Place,
}

impl Site {
    /// Both nodes see the Service and its endpoints, each with the node that has it; `~` before that is one that leaves.
    fn install(&mut self, service: &Value, endpoints: &[(&Pod, &str)]) {
        self.a.install(service, endpoints);
        self.b.install(service, endpoints);
    }
}

fn net(address: [u8; 4], prefix: u8) -> Net {
    Net { address: IpAddr::from(address), prefix }
}

/// A switch with three cables; what arrives must be answered by the same way (`rp_filter` 1).
fn site() -> Site {
    let folder = tempfile::tempdir().expect("a folder");
    let (wire, a, b, client) = (Place::new(), Place::new(), Place::new(), Place::new());
    wire.run(|| {
        let bridge = Links::open().expect("links").add_bridge("switch").expect("a switch");
        Links::open().expect("links").up(bridge.index).expect("up");
    });
    for (number, place, address) in [(2u8, &a, NODE_A), (3, &b, NODE_B), (9, &client, CLIENT)] {
        let inside = File::open(&place.path).expect("the place");
        wire.run(|| plug(number, &inside));
        place.run(|| {
            for which in ["all", "default"] {
                fs::write(format!("/proc/sys/net/ipv4/conf/{which}/rp_filter"), "1").expect("set");
            }
            let mut links = Links::open().expect("links");
            for name in ["lo", "eth0"] {
                let link = links.find(name).expect("links").expect("the link");
                links.up(link.index).expect("up");
            }
            let eth0 = links.find("eth0").expect("links").expect("the link");
            links.add_address(eth0.index, net(address, 24)).expect("an address");
        });
    }
    let peer = |node: &str, third: u8, address: [u8; 4]| Peer {
        node: node.to_owned(),
        pods: net([10, 42, third, 0], 24),
        address: Some(address.into()),
    };
    let a = Node::new("a", 0, a, folder.path(), peer("b", 1, NODE_B), NODE_A);
    let b = Node::new("b", 1, b, folder.path(), peer("a", 0, NODE_A), NODE_B);
    Site { a, b, client, _folder: folder, _wire: wire }
}

fn plug(number: u8, inside: &File) {
    let mut links = Links::open().expect("links");
    let name = format!("port{number}");
    let (mac, peer) = ([2, 0, 0, 0, 1, number], [2, 0, 0, 0, 0, number]);
    let port = links.add_veth(&name, mac, "eth0", peer, inside.as_fd(), 1500).expect("a cable");
    let switch = links.find("switch").expect("links").expect("the switch");
    links.plug(port.index, switch.index).expect("plugged in");
    links.up(port.index).expect("up");
}

fn service(protocol: &str, more: Value) -> Value {
    let port = json!({"port": 80, "nodePort": NODE_PORT, "protocol": protocol});
    let address = Ipv4Addr::from(SERVICE);
    let mut spec = json!({"type": "NodePort", "clusterIP": address, "clusterIPs": [address], "ports": [port]});
    spec.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

fn slice(endpoints: &[(&Pod, &str)]) -> Value {
    let endpoint = |(pod, node): &(&Pod, &str)| {
        let leaves = node.starts_with('~');
        let conditions = json!({"ready": !leaves, "serving": true, "terminating": leaves});
        json!({"addresses": [pod.address], "nodeName": node.trim_start_matches('~'), "conditions": conditions})
    };
    json!({
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// The greeting: who answered, and whom it saw.
fn ask(place: &Place, to: [u8; 4], port: u16) -> io::Result<String> {
    place.run(|| {
        let limit = Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::from(to), port).into(), limit)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

/// Asks until each of these has answered; more than fifty tries are no chance.
fn answer_all(place: &Place, to: [u8; 4], port: u16, want: &[String]) {
    let mut wanted: BTreeSet<&String> = want.iter().collect();
    for _ in 0..50 {
        let answer = ask(place, to, port).expect("an answer");
        assert!(want.contains(&answer), "{answer} is none of {want:?}");
        wanted.remove(&answer);
        if wanted.is_empty() {
            return;
        }
    }
    panic!("{wanted:?} never answered");
}

fn seen(pod: &Pod, from: impl ToString) -> String {
    format!("{} {}", pod.address, from.to_string())
}

#[test]
fn a_service_leads_to_pods_of_every_node_and_rewrites_no_sender() {
    let mut site = site();
    let (near, far, user) = (site.a.pod("near"), site.b.pod("far"), site.a.pod("user"));
    site.install(&service("TCP", json!({})), &[(&near, "a"), (&far, "b")]);
    let answers = [seen(&near, user.address), seen(&far, user.address)];
    answer_all(&user.place, SERVICE, 80, &answers);
    // A pod that is led to itself is answered too; it sees the node, for it would take no answer from itself.
    let own = [seen(&near, Ipv4Addr::from(NODE_A)), seen(&far, near.address)];
    answer_all(&near.place, SERVICE, 80, &own);
    let of_node = [seen(&near, "10.42.0.1"), seen(&far, "10.42.0.1")];
    answer_all(&site.a.place, SERVICE, 80, &of_node);
}

#[test]
fn every_node_answers_at_the_node_port() {
    let mut site = site();
    let far = site.b.pod("far");
    site.install(&service("TCP", json!({})), &[(&far, "b")]);
    // The answer has to come back by the node that was asked, so that is whom the pod sees.
    assert_eq!(ask(&site.client, NODE_A, NODE_PORT).expect("by node a"), seen(&far, Ipv4Addr::from(NODE_A)));
    assert_eq!(ask(&site.client, NODE_B, NODE_PORT).expect("by node b"), seen(&far, Ipv4Addr::from(NODE_B)));
    assert!(ask(&site.a.place, NODE_A, NODE_PORT).is_ok(), "a node asks itself");

    site.install(&service("TCP", json!({"externalTrafficPolicy": "Local"})), &[(&far, "b")]);
    let told = ask(&site.client, NODE_B, NODE_PORT).expect("by the node that has the pod");
    assert_eq!(told, seen(&far, Ipv4Addr::from(CLIENT)), "a local policy keeps the client's address");
    let silence = site.client.run(|| TcpStream::connect_timeout(&(Ipv4Addr::from(NODE_A), NODE_PORT).into(), SILENCE));
    assert_eq!(silence.expect_err("node a has no pod").kind(), io::ErrorKind::TimedOut);
    let user = site.a.pod("user");
    assert_eq!(ask(&user.place, NODE_A, NODE_PORT).expect("pods are at home"), seen(&far, user.address));
    assert!(ask(&site.a.place, NODE_A, NODE_PORT).is_ok(), "so is the node itself");
}

#[test]
fn nobody_is_sent_to_an_endpoint_that_left() {
    let mut site = site();
    let (near, far, user) = (site.a.pod("near"), site.b.pod("far"), site.a.pod("user"));
    site.install(&service("TCP", json!({})), &[(&near, "~a"), (&far, "b")]);
    for _ in 0..20 {
        assert_eq!(ask(&user.place, SERVICE, 80).expect("an answer"), seen(&far, user.address));
    }
    site.install(&service("TCP", json!({})), &[(&near, "~a")]);
    let last = ask(&user.place, SERVICE, 80).expect("the last that leave still serve");
    assert_eq!(last, seen(&near, user.address));
    site.install(&service("TCP", json!({})), &[]);
    let began = Instant::now();
    let refused = ask(&user.place, SERVICE, 80).expect_err("there is none");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert!(began.elapsed() < Duration::from_secs(1), "it is told at once");
}

#[test]
fn a_client_stays_with_its_endpoint_through_changes_and_restarts() {
    let mut site = site();
    let pods: Vec<Pod> = (0..4).map(|number| site.b.pod(&format!("pod{number}"))).collect();
    let user = site.a.pod("user");
    let sticky = service("TCP", json!({"sessionAffinity": "ClientIP"}));
    let some: Vec<(&Pod, &str)> = pods[..3].iter().map(|pod| (pod, "b")).collect();
    site.install(&sticky, &some);
    let first = ask(&user.place, SERVICE, 80).expect("an answer");
    let stays = || (0..10).all(|_| ask(&user.place, SERVICE, 80).expect("an answer") == first);
    assert!(stays());
    let all: Vec<(&Pod, &str)> = pods.iter().map(|pod| (pod, "b")).collect();
    site.install(&sticky, &all);
    assert!(stays(), "another endpoint came");
    site.a.installed = Installed::default();
    site.install(&sticky, &all);
    assert!(stays(), "the proxy was restarted, and nothing had changed");
    site.a.installed = Installed::default();
    site.install(&sticky, &some);
    assert!(stays(), "the proxy was restarted, and something had changed");

    let brief = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}});
    site.install(&service("TCP", brief), &all);
    let first = ask(&user.place, SERVICE, 80).expect("an answer");
    let is_led_anew = (0..20).any(|_| {
        // The time is what is tested here, so it has to pass.
        std::thread::sleep(Duration::from_millis(1050));
        ask(&user.place, SERVICE, 80).expect("an answer") != first
    });
    assert!(is_led_anew, "after its time a client is led anew");
}

#[test]
fn a_udp_client_is_led_on_when_its_endpoint_leaves() {
    let mut site = site();
    let (near, far, user) = (site.a.pod("near"), site.b.pod("far"), site.a.pod("user"));
    let socket = user.place.run(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
    socket.set_read_timeout(Some(SILENCE)).expect("set");
    let asked = || {
        socket.send_to(b"?", (Ipv4Addr::from(SERVICE), 80)).expect("sent");
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        Ok::<String, io::Error>(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    // Sent before there is such a Service: it must not be lost for ever.
    asked().expect_err("there is no Service");
    site.install(&service("UDP", json!({})), &[(&near, "a")]);
    assert_eq!(asked().expect("the first"), seen(&near, user.address));
    site.install(&service("UDP", json!({})), &[(&near, "a"), (&far, "b")]);
    assert_eq!(asked().expect("the same"), seen(&near, user.address), "who is there keeps its clients");
    site.install(&service("UDP", json!({})), &[(&far, "b")]);
    assert_eq!(asked().expect("the other"), seen(&far, user.address));
}

#[test]
fn a_plan_that_is_there_costs_nothing() {
    let mut site = site();
    let near = site.a.pod("near");
    site.install(&service("TCP", json!({})), &[(&near, "a")]);
    let generation = |site: &Site| site.a.place.run(sys::net::nft::generation).expect("an answer");
    let before = generation(&site);
    site.install(&service("TCP", json!({})), &[(&near, "a")]);
    site.a.installed = Installed::default();
    site.install(&service("TCP", json!({})), &[(&near, "a")]);
    assert_eq!(generation(&site), before, "no transaction was made");
    site.install(&service("TCP", json!({})), &[]);
    assert_eq!(generation(&site), before + 1, "a change is one");
}
