//! A server without a node, on loopback: a control plane to ask, and nothing else.
//!
//! Start at [`Plain::start`]. It needs no root.
//!
//! Invariant: it ends with the test, and so does everything that it wrote.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const START_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// The kubectl to use: the installed one, or what SKERRY_KUBECTL names.
pub fn kubectl() -> PathBuf {
    std::env::var_os("SKERRY_KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from)
}

/// A server that runs no pods.
pub struct Plain {
    folder: tempfile::TempDir,
    child: Child,
}

impl Plain {
    /// Starts one on a blank data folder with further options, and waits until it is ready.
    pub fn start(program: &Path, options: &[&str]) -> Plain {
        let folder = tempfile::tempdir().expect("a folder");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let mut command = Command::new(program);
        command.args(["server", "--no-node", "--listen", "127.0.0.1:0", "--data-dir"]).arg(folder.path().join("data"));
        let child = command.args(options).stdin(Stdio::null()).stderr(log).spawn().expect("the server starts");
        let server = Plain { folder, child };
        let begun = Instant::now();
        while !server.kubectl(&["get", "--raw", "/readyz"]).0 {
            assert!(begun.elapsed() < START_LIMIT, "the server is not ready: {}", server.log());
            sleep(PAUSE);
        }
        server
    }

    /// Its administrator's.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("data/admin.kubeconfig")
    }

    /// Runs kubectl; the answer is whether it succeeded, and all it printed.
    pub fn kubectl(&self, words: &[&str]) -> (bool, String) {
        self.kubectl_in(self.folder.path(), words)
    }

    /// The same in a folder with files that the words name.
    pub fn kubectl_in(&self, folder: &Path, words: &[&str]) -> (bool, String) {
        let mut command = Command::new(kubectl());
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(words).current_dir(folder);
        command.env("KUBE_EDITOR", "sed -i s/nginx:1.17/nginx:1.18/").env("HOME", self.folder.path());
        let output = command.stdin(Stdio::null()).output().expect("kubectl is installed");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // It keeps nothing that anybody needs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
