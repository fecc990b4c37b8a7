//! Several machines on one cable: a server and its agents.
//!
//! Start at [`Site::start`]. A [`Site`] is asked as a [`User`] is.
//!
//! Invariants:
//! * the machine's own network is not touched: every machine, and the bridge between them, has a network namespace of its own;
//! * dropping a [`Site`] ends everything it started.
//!
//! Not here: what a machine is (`machine.rs`).

use std::fs;
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use workloads::User;

use crate::machine::{Holder, LINK, Machine};

/// The token by which agents join.
pub const TOKEN: &str = "abcdef.0123456789abcdef";
/// Machines are ready long before; more means that something is broken.
const START_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);
/// The environment variables that name programs of another release, for the server and for all agents: neighbouring releases
/// must work together, either way round.
const SERVER_BINARY: &str = "SKERRY_SERVER_BINARY";
const AGENT_BINARY: &str = "SKERRY_AGENT_BINARY";
const BRIDGE: &str = "cable";
const MTU: u32 = 1500;

/// A server and agents.
pub struct Site {
    /// The server.
    pub server: Machine,
    /// The agents, `agent-1` and so on.
    pub agents: Vec<Machine>,
    cable: Holder,
    images: Option<PathBuf>,
    program: PathBuf,
    user: User,
    folder: tempfile::TempDir,
}

impl Site {
    /// Starts a server and so many agents with the images of an archive, and waits until all nodes are ready.
    pub fn start(program: &Path, images: Option<&Path>, agents: usize) -> Site {
        Site::start_with(program, images, agents, &[])
    }

    /// The same with further words for the server.
    pub fn start_with(program: &Path, images: Option<&Path>, agents: usize, words: &[&str]) -> Site {
        let folder = tempfile::tempdir().expect("a folder for the site");
        let cable = Holder::new();
        cable.links(|links| {
            let bridge = links.add_bridge(BRIDGE)?;
            links.up(bridge.index)
        });
        let words = [&["server", "--token", TOKEN], words].concat();
        let mut server = Machine::new("server", folder.path(), &other(SERVER_BINARY, program), address(1), &words);
        connect(&cable, &mut server, address(1));
        let before = server.holder().words();
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        let user = User::new(&before, &server.data.join("admin.kubeconfig"), 1);
        let (images, program) = (images.map(Path::to_owned), other(AGENT_BINARY, program));
        let mut site = Site { server, agents: Vec::new(), cable, images, program, user, folder };
        site.preload(&site.server);
        site.server.run();
        site.wait_for_server();
        for _ in 0..agents {
            site.add_agent(&["--token", TOKEN]).run();
        }
        site.wait_for_ready(agents + 1);
        site
    }

    /// A further agent, which does not run yet; `words` are those beside its name, its data folder and the server.
    pub fn add_agent(&mut self, words: &[&str]) -> &mut Machine {
        let number = self.agents.len() + 1;
        let server = self.server_url();
        let words = [&["agent", "--server", &server], words].concat();
        let address = address(1 + u8::try_from(number).expect("a small site"));
        let mut machine = Machine::new(&format!("agent-{number}"), self.folder.path(), &self.program, address, &words);
        connect(&self.cable, &mut machine, address);
        self.preload(&machine);
        self.agents.push(machine);
        self.agents.last_mut().expect("just added")
    }

    /// Further agents find no images on their disks.
    pub fn forget_images(&mut self) {
        self.images = None;
    }

    /// Where agents find the server.
    pub fn server_url(&self) -> String {
        format!("https://{}:6443", self.server.address())
    }

    /// Waits until the server answers.
    pub fn wait_for_server(&self) {
        self.wait_until("the server answers", |site| site.kubectl("get --raw /readyz").0);
    }

    /// Waits until so many nodes are ready.
    pub fn wait_for_ready(&self, nodes: usize) {
        self.wait_until("the nodes are ready", |site| {
            let (ok, text) = site.kubectl("get nodes --no-headers");
            ok && text.lines().filter(|line| line.contains(" Ready ")).count() == nodes
        });
    }

    /// Waits until something holds; the logs of all machines are told if it does not.
    #[track_caller]
    pub fn wait_until(&self, what: &str, holds: impl Fn(&Site) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(
                begun.elapsed() < START_LIMIT,
                "waited in vain until {what}\n{}\n{}",
                self.told(),
                self.last_lines()
            );
            sleep(PAUSE);
        }
    }

    /// The end of every machine's log.
    pub fn last_lines(&self) -> String {
        let machines = std::iter::once(&self.server).chain(&self.agents);
        machines.map(Machine::last_lines).collect::<Vec<_>>().join("\n")
    }

    /// Takes a machine off the cable, or plugs it in again; its own link stays up, as behind a switch.
    pub fn plug(&self, machine: &Machine, is_in: bool) {
        self.cable.links(|links| {
            let bridge = links.find(BRIDGE)?.expect("the bridge was made").index;
            let link = links.find(&machine.port)?.expect("the link was made").index;
            links.plug(link, if is_in { bridge } else { 0 })
        });
    }

    fn preload(&self, machine: &Machine) {
        if let Some(images) = &self.images {
            let preload = machine.data.join("images/preload");
            fs::create_dir_all(&preload).expect("a folder for images");
            let archive = preload.join("images.tar");
            // All machines of a site are on one disk.
            fs::hard_link(images, &archive)
                .or_else(|_| fs::copy(images, &archive).map(drop))
                .expect("images are there");
        }
    }
}

impl Deref for Site {
    type Target = User;

    fn deref(&self) -> &User {
        &self.user
    }
}

/// The program, unless the environment names another.
fn other(variable: &str, program: &Path) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| program.to_owned(), PathBuf::from)
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, last)
}

fn connect(cable: &Holder, machine: &mut Machine, at: Ipv4Addr) {
    let mac = |side: u8| [0x02, 0, 0, side, 0, at.octets()[3]];
    let (inside, name) = (machine.holder().file(), machine.port.clone());
    cable.links(|links| {
        let bridge = links.find(BRIDGE)?.expect("the bridge was made").index;
        let port = links.add_veth(&name, mac(1), LINK, mac(2), inside.as_fd(), MTU)?;
        links.plug(port.index, bridge)?;
        links.up(port.index)
    });
    machine.set_address(at);
}
