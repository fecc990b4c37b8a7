//! Links that come late, servers that are away and leases that change, with the kernel's own links in two network namespaces.
//!
//! Start at [`an_address_is_found_however_late_it_comes`]. Needs root, as all that makes namespaces.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use init::network::{Keeper, Learnt, News, plans};
use nix::sys::socket::{setsockopt, sockopt};
use sys::namespace::{Kinds, unshare};
use sys::net::link::{Links, Net};

/// Of any single change, on a busy machine.
const WITHIN: Duration = Duration::from_secs(20);
const SERVER: [u8; 4] = [10, 9, 0, 1];
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
/// A lease that is renewed at once.
const SECONDS: u32 = 2;

#[test]
fn an_address_is_found_however_late_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let board = Board::start(folder.path().join("resolv.conf"));
    let lan = Lan::new(&board);
    lan.plug(false);
    assert!(
        board.heard.recv_timeout(Duration::from_secs(1)).is_err(),
        "nobody is at the other end, and that is no news"
    );
    lan.switch_on();
    assert_eq!(board.news(), News::Note("eth0 is given no address by anybody; asking on".to_owned()));
    lan.grants.store(50, Ordering::SeqCst);
    board.has(50);
    assert_eq!(fs::read_to_string(&board.resolv_conf).unwrap(), "nameserver 10.9.0.1\n");
    assert_eq!(board.learnt.ntp(), [Ipv4Addr::from(SERVER)]);
    lan.grants.store(60, Ordering::SeqCst);
    board.has(60);
    lan.unplug();
    assert_eq!(board.news(), News::Note("eth0 is gone; waiting for it".to_owned()));
    lan.grants.store(70, Ordering::SeqCst);
    lan.plug(true);
    board.has(70);
    board.go_on.store(false, Ordering::SeqCst);
}

/// A keeper in a namespace of its own.
struct Board {
    namespace: File,
    heard: mpsc::Receiver<News>,
    learnt: Arc<Learnt>,
    resolv_conf: PathBuf,
    go_on: Arc<AtomicBool>,
}

impl Board {
    fn start(resolv_conf: PathBuf) -> Board {
        let (tell, heard) = mpsc::channel();
        let (ready, entered) = mpsc::channel();
        let learnt = Learnt::new(resolv_conf.clone(), 1);
        let keeper = Keeper {
            plan: plans(&settings::Settings::default()).remove(0),
            index: 0,
            hostname: "board".to_owned(),
            learnt: Arc::clone(&learnt),
        };
        let go_on = Arc::new(AtomicBool::new(true));
        let is_wanted = Arc::clone(&go_on);
        std::thread::spawn(move || {
            unshare(Kinds::CLONE_NEWNET).unwrap();
            ready.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
            keeper.run(|| is_wanted.load(Ordering::SeqCst), |news| drop(tell.send(news)));
        });
        Board { namespace: entered.recv().unwrap(), heard, learnt, resolv_conf, go_on }
    }

    fn news(&self) -> News {
        self.heard.recv_timeout(WITHIN).expect("something is told")
    }

    /// Waits until the keeper tells of this address, and sees that the kernel has it and no other.
    fn has(&self, last: u8) {
        let net = Net { address: IpAddr::from([10, 9, 0, last]), prefix: 24 };
        assert_eq!(self.news(), News::Address { link: "eth0".to_owned(), net, by: "by DHCP" });
        let namespace = self.namespace.try_clone().unwrap();
        let found = std::thread::spawn(move || {
            sys::namespace::enter(&namespace, Kinds::CLONE_NEWNET).unwrap();
            let mut links = Links::open().unwrap();
            let nets: Vec<Net> = links.addresses().unwrap().into_iter().map(|(_, net)| net).collect();
            let router =
                links.routes().unwrap().into_iter().find(|route| route.to.is_none()).and_then(|route| route.via);
            (nets.into_iter().filter(|net| net.address.is_ipv4()).collect::<Vec<_>>(), router)
        });
        assert_eq!(found.join().unwrap(), (vec![net], Some(IpAddr::from(SERVER))));
    }
}

/// The other end: a namespace with a cable into the board's, and a server that grants what it is told to.
struct Lan {
    /// The last byte of the address granted; 0 for none.
    grants: Arc<AtomicU8>,
    orders: mpsc::Sender<Order>,
    done: mpsc::Receiver<()>,
}

enum Order {
    Plug { on: bool },
    SwitchOn,
    Unplug,
}

impl Lan {
    fn new(board: &Board) -> Lan {
        let grants = Arc::new(AtomicU8::new(0));
        let (orders, given) = mpsc::channel::<Order>();
        let (tell, done) = mpsc::channel();
        let (inside, granted) = (board.namespace.try_clone().unwrap(), Arc::clone(&grants));
        std::thread::spawn(move || {
            unshare(Kinds::CLONE_NEWNET).unwrap();
            let mut links = Links::open().unwrap();
            let mut serving: Option<Serving> = None;
            for order in given {
                match order {
                    Order::Plug { on } => {
                        let link = links.add_veth("lan", MACS[0], "eth0", MACS[1], inside.as_fd(), 1500).unwrap();
                        links.add_address(link.index, Net { address: IpAddr::from(SERVER), prefix: 24 }).unwrap();
                        if on {
                            links.up(link.index).unwrap();
                            serving = Some(Serving::start(&granted));
                        }
                    }
                    Order::SwitchOn => {
                        let link = links.find("lan").unwrap().unwrap();
                        links.up(link.index).unwrap();
                        serving = Some(Serving::start(&granted));
                    }
                    Order::Unplug => {
                        links.remove("lan").unwrap();
                        serving.take().unwrap().stop();
                    }
                }
                tell.send(()).unwrap();
            }
        });
        Lan { grants, orders, done }
    }

    fn plug(&self, on: bool) {
        self.does(Order::Plug { on });
    }
    fn switch_on(&self) {
        self.does(Order::SwitchOn);
    }
    fn unplug(&self) {
        self.does(Order::Unplug);
    }
    fn does(&self, order: Order) {
        self.orders.send(order).unwrap();
        self.done.recv_timeout(WITHIN).unwrap();
    }
}

/// A small DHCP server on the link `lan` of this thread's namespace.
struct Serving {
    is_over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Serving {
    fn start(grants: &Arc<AtomicU8>) -> Serving {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67)).unwrap();
        setsockopt(&socket.as_fd(), sockopt::BindToDevice, &"lan".into()).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (grants, is_over) = (Arc::clone(grants), Arc::new(AtomicBool::new(false)));
        let ends = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !ends.load(Ordering::SeqCst) {
                let last = grants.load(Ordering::SeqCst);
                let Ok(count) = socket.recv(&mut buffer) else { continue };
                if let Some(answer) = answer(&buffer[..count], last).filter(|_| last != 0) {
                    let _unplugged = socket.send_to(&answer, (Ipv4Addr::BROADCAST, 68));
                }
            }
        });
        Serving { is_over, thread }
    }

    fn stop(self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// An offer to a Discover (1), an acknowledgement to a Request (3), as RFC 2131 lays them out.
fn answer(message: &[u8], last: u8) -> Option<Vec<u8>> {
    let kind = match message.windows(3).find(|option| option[..2] == [53, 1])?[2] {
        1 => 2,
        3 => 5,
        _ => return None,
    };
    let mut bytes = message[..236].to_vec();
    bytes[0] = 2;
    bytes[16..20].copy_from_slice(&[10, 9, 0, last]);
    bytes.extend([99, 130, 83, 99, 53, 1, kind]);
    for (option, value) in [(54, SERVER), (1, [255, 255, 255, 0]), (3, SERVER), (6, SERVER), (42, SERVER)] {
        bytes.extend([option, 4]);
        bytes.extend(value);
    }
    bytes.extend([51, 4]);
    bytes.extend(SECONDS.to_be_bytes());
    bytes.push(255);
    Some(bytes)
}
