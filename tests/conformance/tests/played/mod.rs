//! What tests with played boards need: a control plane without nodes, the node's part of an update, and a socket.
//!
//! Start at [`Control::start`].
// Each test file uses its own part of this.
#![allow(dead_code)]

pub mod board;

use std::fs;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bundle::message::{Reply, Request, decode, encode};
use client::{Client, Kubeconfig};
use k8s_openapi::api::core::v1::Node;
use skerry::update::node::{Updates, run};
use sys::clock::SystemClock;
use sys::fdpass;
use tokio::sync::watch;
use workloads::User;

/// More means that something is broken.
const WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_skerry-under-test");

/// A server that is no node, and its administrator.
pub struct Control {
    folder: tempfile::TempDir,
    server: Child,
    user: User,
}

impl Control {
    /// Starts one with these further words, and waits until it takes pods in `namespace`.
    pub fn start(words: &[&str], namespace: &str) -> Control {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let mut command = Command::new(PROGRAM);
        command.args(["server", "--no-node", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).args(words);
        let server = command.stdin(Stdio::null()).stderr(log).spawn().expect("the server starts");
        let user = User::new(&[], &data.join("admin.kubeconfig"), 1).in_namespace(namespace);
        let control = Control { folder, server, user };
        control.until("a server", || control.kubeconfig().exists() && control.kubectl("get --raw /readyz").0);
        control.until("the default account", || control.kubectl("get serviceaccount default").0);
        control
    }

    /// Where files of the test may lie.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The administrator's.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder().join("data/admin.kubeconfig")
    }

    /// A file with this text.
    pub fn written(&self, name: &str, text: &str) -> PathBuf {
        let file = self.folder().join(name);
        fs::write(&file, text).expect("a file");
        file
    }

    /// Applies a manifest.
    pub fn apply(&self, text: &str) {
        let file = self.written("objects.yaml", text);
        self.must(&format!("apply -f {}", file.display()));
    }

    /// What a Node says at this path.
    pub fn node(&self, name: &str, path: &str) -> String {
        let (ok, said) = self.kubectl_words(&["get", "node", name, "-o", &format!("jsonpath={path}")]);
        assert!(ok, "{said}");
        said
    }

    /// Waits until something holds.
    #[track_caller]
    pub fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            let told = || format!("{}\n{}", self.told(), self.kubectl("get nodes -o yaml").1);
            assert!(begun.elapsed() < WITHIN, "no {what} within {WITHIN:?}\n{}", told());
            sleep(LOOK_EVERY);
        }
    }
}

impl Deref for Control {
    type Target = User;

    fn deref(&self) -> &User {
        &self.user
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ended = self.server.kill().and_then(|()| self.server.wait());
    }
}

/// The way to the server of a kubeconfig.
pub fn client(kubeconfig: &Path) -> Client {
    let config = Kubeconfig::read(kubeconfig).expect("a kubeconfig");
    Client::new(client::https::open(&config).expect("a way to the server"))
}

/// Whatever waits, in one thread.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The node's role, in a thread of its own.
pub fn take_care(kubeconfig: &Path, node: &str, socket: PathBuf) {
    let (kubeconfig, node) = (kubeconfig.to_owned(), node.to_owned());
    std::thread::spawn(move || {
        let runtime = runtime();
        let _inside = runtime.enter();
        let client = client(&kubeconfig);
        let nodes = client::run::caches(client.door().clone()).of::<Node>();
        let leaving = watch::channel(false).0;
        let updates = Updates { node, client, nodes, clock: Arc::new(SystemClock), socket, leaving };
        match runtime.block_on(run(updates)) {}
    });
}

/// Answers whoever has asked at the socket until now.
pub fn answer(listening: &OwnedFd, mut answer: impl FnMut(Result<Request, String>, Option<OwnedFd>) -> Reply) {
    while let Ok(Some(caller)) = fdpass::accept(listening) {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let begun = Instant::now();
        let (length, files) = loop {
            match fdpass::receive(&caller, &mut buffer) {
                Ok(Some(heard)) => break heard,
                Err(_) if begun.elapsed() < WITHIN => sleep(LOOK_EVERY / 10),
                _ => break (0, Vec::new()),
            }
        };
        let reply = answer(decode(&buffer[..length]), files.into_iter().next());
        let _caller_gone = fdpass::send(&caller, &encode(&reply), &[]);
    }
}
