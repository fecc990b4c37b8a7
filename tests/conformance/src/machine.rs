//! One machine of a [`Site`](crate::Site): a network namespace, a data folder, and the program that runs there.
//!
//! Start at [`Machine::run`].
//!
//! Invariants:
//! * the namespace is there as long as the [`Machine`] is, whatever runs or dies in it;
//! * dropping it ends its pods and processes and removes their mounts, cgroups and links.
//!
//! Not here: the cable (`site.rs`).

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use sys::namespace::{self, Kinds};
use sys::net::link::{Links, Net, Route};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// A log is written at once; more means that something is broken.
const LIMIT: Duration = Duration::from_secs(60);
const LINES_TOLD: usize = 20;
/// The name of the link to the cable, as seen from inside.
pub(crate) const LINK: &str = "eth0";
/// How many bits of an address all machines of a site share.
const PREFIX: u8 = 24;

/// A machine.
pub struct Machine {
    /// Its Node's name.
    pub name: String,
    /// Where it keeps everything.
    pub data: PathBuf,
    /// Its link as the cable sees it.
    pub(crate) port: String,
    program: PathBuf,
    address: Ipv4Addr,
    words: Vec<String>,
    holder: Holder,
    running: Option<Child>,
}

/// A process that does nothing but hold a network namespace open.
pub(crate) struct Holder(Child);

impl Holder {
    pub(crate) fn new() -> Holder {
        let holder =
            Holder(Command::new("unshare").args(["--net", "sleep", "100000"]).spawn().expect("root may unshare"));
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        until("the namespace is made", || of(&holder.0.id().to_string()) != of("self"));
        holder
    }

    pub(crate) fn file(&self) -> File {
        File::open(format!("/proc/{}/ns/net", self.0.id())).expect("the namespace is there")
    }

    /// Does something with the links of the namespace.
    pub(crate) fn links<T: Send>(&self, work: impl FnOnce(&mut Links) -> std::io::Result<T> + Send) -> T {
        let inside = || {
            namespace::enter(&self.file(), Kinds::CLONE_NEWNET).expect("root may enter a namespace");
            work(&mut Links::open().expect("a netlink socket")).expect("the links are set up")
        };
        std::thread::scope(|scope| scope.spawn(inside).join().expect("it does not panic"))
    }

    /// The words before a command that lead it into the namespace.
    pub(crate) fn words(&self) -> [String; 5] {
        ["nsenter".into(), "--target".into(), self.0.id().to_string(), "--net".into(), "--".into()]
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may be gone, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine {
    /// A machine whose link has been made. `words` are what the program is started with, the data folder aside.
    pub(crate) fn new(name: &str, folder: &Path, program: &Path, address: Ipv4Addr, words: &[&str]) -> Machine {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let (name, data, program) = (name.to_owned(), folder.join(name), program.to_owned());
        let port = format!("port{}", address.octets()[3]);
        Machine { name, data, port, program, address, words, holder: Holder::new(), running: None }
    }

    pub(crate) fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Its address on the cable.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Gives it another address; the old one is gone.
    pub fn set_address(&mut self, address: Ipv4Addr) {
        let (old, new) = (net(self.address), net(address));
        self.holder.links(|links| {
            let link = links.find(LINK)?.expect("the link was made");
            links.remove_address(link.index, old)?;
            let loopback = links.find("lo")?.expect("every namespace has one");
            links.up(loopback.index)?;
            links.up(link.index)?;
            links.add_address(link.index, new)?;
            // Nobody routes here; it makes the machine one that knows its address.
            let [a, b, c, _] = address.octets();
            let via = Some(Ipv4Addr::new(a, b, c, 254).into());
            links.set_route(&Route { to: None, via, link: link.index, source: None })
        });
        self.address = address;
    }

    /// Makes what its program is started with from now on.
    pub fn set_words(&mut self, words: &[&str]) {
        self.words = words.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Starts the program (again).
    pub fn run(&mut self) {
        fs::create_dir_all(&self.data).expect("a data folder");
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        let mut command = self.command(&self.program);
        command.args(&self.words).arg("--data-dir").arg(&self.data).args(["--node-name", &self.name]);
        let spawned = command.stdin(Stdio::null()).stderr(log.try_clone().expect("a log")).stdout(log).spawn();
        self.running = Some(spawned.expect("the program starts"));
    }

    /// Ends the program as a power cut would: `kill -9`. Pods go on.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            // It may have ended by itself, which is as good.
            let _ = running.kill();
            running.wait().expect("it ends");
        }
    }

    /// Ends the program, its keeper and every process of its pods at once. What a disk holds stays, and unlike after a real
    /// power cut mounts and namespaces do too.
    pub fn cut_power(&mut self) {
        let end = |pids: Vec<u32>| {
            let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
            // Some end with others just then, which is as good.
            let _ = Command::new("kill").arg("-9").args(&pids).stderr(Stdio::null()).status();
            pids.is_empty()
        };
        end(self.pid().into_iter().chain(self.processes()).collect());
        self.kill();
        until("every process is gone", || end(self.processes()));
    }

    /// The process of a pod of this machine whose command line holds this.
    pub fn process(&self, words: &str) -> Option<u32> {
        let line = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        self.processes().into_iter().find(|pid| line(pid).split('\0').any(|word| word == words))
    }

    /// The keeper and everything in the cgroups of the pods.
    fn processes(&self) -> Vec<u32> {
        let data = self.data.canonicalize().unwrap_or_else(|_| self.data.clone());
        let socket = data.join("keeper/keeper.sock").to_string_lossy().into_owned();
        let name: String =
            data.to_string_lossy().chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '-' }).collect();
        let cgroup = format!("skerry{name}/");
        let holds = |pid: &u32| {
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            read("cgroup").contains(&cgroup) || read("cmdline").split('\0').any(|word| word == socket)
        };
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(holds).collect()
    }

    /// The process of the program, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Child::id)
    }

    /// Ends the program and all of its pods, and takes their mounts, cgroups and links away; the folder stays.
    pub fn clean_up(&mut self) {
        self.kill();
        // Nothing more can be done here about what stays behind; its words are on the test's own output.
        let _ = self.command(&self.program).args(["cleanup", "--data-dir"]).arg(&self.data).status();
    }

    /// A command that runs on this machine.
    pub fn command(&self, program: &Path) -> Command {
        let words = self.holder.words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program);
        command
    }

    /// What a GET of this machine's is answered, head and body; as much as there is within ten seconds.
    pub fn get(&self, address: impl std::fmt::Display, port: u16, path: &str) -> (String, Vec<u8>) {
        let place = format!("/dev/tcp/{address}/{port}");
        let script = format!("exec 3<>{place}; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
        let output =
            self.command(Path::new("timeout")).args(["10", "bash", "-c", &script]).output().expect("bash is there");
        let answer = output.stdout;
        // A script behind a web server ends its lines as it likes.
        let ends = |end: &[u8]| answer.windows(end.len()).position(|found| found == end).map(|at| at + end.len());
        let end = ends(b"\n\r\n").into_iter().chain(ends(b"\n\n")).min().unwrap_or(answer.len());
        (String::from_utf8_lossy(&answer[..end]).into_owned(), answer[end..].to_vec())
    }

    /// Runs the program's own words, such as `["token", "list"]`, and expects success; the answer is what it printed.
    #[track_caller]
    pub fn skerry(&self, words: &[&str]) -> String {
        let output = self.command(&self.program).args(words).arg("--data-dir").arg(&self.data).output();
        let output = output.expect("the program starts");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// All it has logged.
    pub fn logged(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The end of what it logged.
    pub fn last_lines(&self) -> String {
        let log = self.logged();
        let lines: Vec<&str> = log.lines().collect();
        format!("--- {}\n{}", self.name, lines[lines.len().saturating_sub(LINES_TOLD)..].join("\n"))
    }

    /// Waits until it has logged this, after the first `skip` bytes of its log.
    #[track_caller]
    pub fn wait_for_log(&self, skip: usize, wanted: &str) {
        let begun = Instant::now();
        while !self.logged().get(skip..).unwrap_or_default().contains(wanted) {
            assert!(begun.elapsed() < LIMIT, "{} never logged {wanted:?}\n{}", self.name, self.last_lines());
            sleep(PAUSE);
        }
    }

    fn log(&self) -> PathBuf {
        self.data.with_extension("log")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.clean_up();
    }
}

fn net(address: Ipv4Addr) -> Net {
    Net { address: IpAddr::V4(address), prefix: PREFIX }
}

#[track_caller]
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "waited in vain until {what}");
        sleep(PAUSE);
    }
}
