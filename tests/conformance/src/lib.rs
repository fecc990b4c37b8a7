//! A cluster on this machine: a real `skerry server` in a network namespace of its own, driven by a real kubectl.
//!
//! Start at [`Cluster::start`].
//!
//! Invariants:
//! * the machine's own network is not touched: server, pods and kubectl live in a namespace that ends with the test;
//! * dropping a [`Cluster`] ends its pods and processes and removes its mounts, cgroups and links.
//!
//! Not here: what the answers should be (`tests/`).
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A cluster is ready long before; more means that something is broken.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// A cluster of one node.
pub struct Cluster {
    folder: tempfile::TempDir,
    program: PathBuf,
    holder: Child,
    server: Option<Child>,
}

impl Cluster {
    /// Starts a server with the images of an archive, and waits until its node is ready.
    pub fn start(program: &Path, images: Option<&Path>) -> Cluster {
        let folder = tempfile::tempdir().expect("a folder for the cluster");
        if let Some(images) = images {
            let preload = folder.path().join("data/images/preload");
            fs::create_dir_all(&preload).expect("a folder for images");
            fs::copy(images, preload.join("images.tar")).expect("the images are copied");
        }
        // Holds the network namespace open while servers come and go.
        let holder = Command::new("unshare").args(["--net", "sleep", "100000"]).spawn().expect("root may unshare");
        let mut cluster = Cluster { folder, program: program.to_owned(), holder, server: None };
        cluster.wait("the namespace to be made", START_LIMIT, |cluster| {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
            of(&cluster.holder.id().to_string()) != of("self")
        });
        cluster.run_server();
        cluster.wait("the node to be ready", START_LIMIT, |cluster| {
            let (ok, text) = cluster.kubectl("get nodes --no-headers");
            ok && text.contains(" Ready ")
        });
        cluster
    }

    /// Where the server keeps everything.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts the server (again).
    pub fn run_server(&mut self) {
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        let data = self.data();
        let mut command = self.inside(&self.program);
        command.args(["server", "--node-name", "node", "--data-dir"]).arg(&data);
        let spawned = command.stdin(Stdio::null()).stderr(log.try_clone().expect("a log")).stdout(log).spawn();
        self.server = Some(spawned.expect("the server starts"));
    }

    /// Ends the server as a power cut would: `kill -9`. Pods go on.
    pub fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("the server is ours to kill");
            server.wait().expect("it ends");
        }
    }

    /// Runs kubectl; the answer is whether it succeeded, and all it printed.
    pub fn kubectl(&self, words: &str) -> (bool, String) {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.kubectl_words(&words)
    }

    /// The same for words that have spaces in them.
    pub fn kubectl_words(&self, words: &[&str]) -> (bool, String) {
        let kubectl = std::env::var("SKERRY_KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let mut command = self.inside(Path::new(&kubectl));
        command.arg("--kubeconfig").arg(self.data().join("admin.kubeconfig")).args(words);
        let output = command.stdin(Stdio::null()).output().expect("kubectl is installed");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs kubectl and expects success.
    #[track_caller]
    pub fn must(&self, words: &str) -> String {
        let (ok, text) = self.kubectl(words);
        assert!(ok, "kubectl {words}: {text}\n{}", self.told());
        text
    }

    /// Waits until something holds.
    #[track_caller]
    pub fn wait(&self, what: &str, limit: Duration, holds: impl Fn(&Cluster) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < limit, "waited in vain for {what}\n{}", self.told());
            sleep(PAUSE);
        }
    }

    /// Waits until kubectl prints something that contains `wanted`.
    #[track_caller]
    pub fn wait_for(&self, words: &str, wanted: &str, limit: Duration) {
        self.wait(&format!("`kubectl {words}` to print {wanted}"), limit, |cluster| {
            cluster.kubectl(words).1.contains(wanted)
        });
    }

    /// What a person would look at first: pods, events, the end of the log.
    pub fn told(&self) -> String {
        let pods = self.kubectl("get pods -A -o wide").1;
        let events = self.kubectl("get events -A").1;
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(20).collect();
        format!("{pods}\n{events}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", "--"]).arg(program);
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_server();
        let data = self.data();
        let mut cleanup = self.inside(&self.program);
        // Nothing more can be done here about what stays behind; its words are on the test's own output.
        let _ = cleanup.args(["cleanup", "--data-dir"]).arg(&data).status();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
