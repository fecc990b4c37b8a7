//! A cluster on this machine: a real `skerry server` in a network namespace of its own.
//!
//! Start at [`Cluster::start`]. A [`Cluster`] is asked as a [`User`] is.
//!
//! Invariants:
//! * the machine's own network is not touched: server, pods and kubectl live in a namespace that ends with the test;
//! * dropping a [`Cluster`] ends its pods and processes and removes its mounts, cgroups and links.
//!
//! Not here: what the answers should be (`tests/`).

use std::fs::{self, File};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use workloads::User;

/// A cluster is ready long before; more means that something is broken.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
const LINES_TOLD: usize = 20;

/// A cluster of one node.
pub struct Cluster {
    folder: tempfile::TempDir,
    program: PathBuf,
    holder: Child,
    server: Option<Child>,
    user: User,
}

impl Cluster {
    /// Starts a server with the images of an archive, and waits until its node is ready.
    pub fn start(program: &Path, images: Option<&Path>) -> Cluster {
        let folder = tempfile::tempdir().expect("a folder for the cluster");
        let data = folder.path().join("data");
        if let Some(images) = images {
            let preload = data.join("images/preload");
            fs::create_dir_all(&preload).expect("a folder for images");
            fs::copy(images, preload.join("images.tar")).expect("the images are copied");
        }
        // Holds the network namespace open while servers come and go.
        let holder = Command::new("unshare").args(["--net", "sleep", "100000"]).spawn().expect("root may unshare");
        let target = holder.id().to_string();
        let before = ["nsenter", "--target", &target, "--net", "--"];
        let user = User::new(&before, &data.join("admin.kubeconfig"), 1);
        let mut cluster = Cluster { folder, program: program.to_owned(), holder, server: None, user };
        cluster.wait_until("the namespace is made", |cluster| {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
            of(&cluster.holder.id().to_string()) != of("self")
        });
        cluster.run_server();
        cluster.wait_until("the node is ready", |cluster| {
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

    /// The program with these words, as the administrator of this cluster.
    pub fn command(&self, words: &str) -> Command {
        let mut command = self.inside(&self.program);
        command.args(words.split(' ')).arg("--kubeconfig").arg(self.data().join("admin.kubeconfig"));
        command
    }

    /// What the program says to these words; it must do what they ask.
    pub fn skerry(&self, words: &str) -> String {
        let output = self.command(words).output().expect("the program runs");
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Ends the server as a power cut would: `kill -9`. Pods go on.
    pub fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("the server is ours to kill");
            server.wait().expect("it ends");
        }
    }

    /// Makes a new board of the machine: nothing is left but the images that were put there beforehand.
    pub fn make_blank(&mut self) {
        self.kill_server();
        let data = self.data();
        let mut cleanup = self.inside(&self.program);
        assert!(cleanup.args(["cleanup", "--data-dir"]).arg(&data).status().expect("it runs").success());
        for entry in
            fs::read_dir(&data).expect("the data folder").flatten().filter(|entry| entry.file_name() != "images")
        {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.unwrap_or_else(|error| panic!("{} cannot be removed: {error}", path.display()));
        }
    }

    /// Restores a backup to the machine, with further options.
    pub fn restore(&self, file: &Path, options: &[&str]) {
        let mut command = Command::new(&self.program);
        command.args(["restore", "--data-dir"]).arg(self.data()).args(options).arg(file);
        let restored = command.output().expect("it runs");
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    }

    /// Waits until the server answers.
    pub fn wait_for_server(&self) {
        self.wait_until("the server answers", |cluster| cluster.kubectl("get --raw /readyz").0);
    }

    /// The end of the server's log.
    pub fn last_lines(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LINES_TOLD)..].join("\n")
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&Cluster) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < START_LIMIT, "waited in vain until {what}\n{}", self.last_lines());
            sleep(PAUSE);
        }
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

impl Deref for Cluster {
    type Target = User;

    fn deref(&self) -> &User {
        &self.user
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
