//! Every verb of kubectl that needs no node, as `verbs.txt` lists them, against a server on loopback.
//!
//! The kubectl is the installed one, or what SKERRY_KUBECTL names. Needs no root.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const START_LIMIT: Duration = Duration::from_secs(60);

struct Server {
    folder: tempfile::TempDir,
    child: Child,
}

impl Server {
    fn start() -> Server {
        let folder = tempfile::tempdir().expect("a folder");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_skerry-under-test"));
        command.args(["server", "--no-node", "--listen", "127.0.0.1:0", "--data-dir"]).arg(folder.path().join("data"));
        let child = command.stdin(Stdio::null()).stderr(log).spawn().expect("the server starts");
        let server = Server { folder, child };
        let begun = Instant::now();
        while !server.kubectl(&["get", "--raw", "/readyz"]).0 {
            assert!(begun.elapsed() < START_LIMIT, "the server is not ready: {}", server.log());
            sleep(Duration::from_millis(100));
        }
        server
    }

    /// Runs kubectl among the manifests; the answer is whether it succeeded, and all it printed.
    fn kubectl(&self, words: &[&str]) -> (bool, String) {
        let mut command = Command::new(kubectl());
        command.arg("--kubeconfig").arg(self.folder.path().join("data/admin.kubeconfig")).args(words);
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests"));
        command.env("KUBE_EDITOR", "sed -i s/nginx:1.17/nginx:1.18/").env("HOME", self.folder.path());
        let output = command.stdin(Stdio::null()).output().expect("kubectl is installed");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It keeps nothing that anybody needs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kubectl() -> PathBuf {
    std::env::var_os("SKERRY_KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from)
}

/// The minor version of kubectl.
fn minor() -> u32 {
    let output = Command::new(kubectl()).args(["version", "--client", "-o", "json"]).output();
    let text = String::from_utf8(output.expect("kubectl is installed").stdout).expect("JSON is text");
    let digits = text.split("\"minor\": \"").nth(1).unwrap_or_default();
    digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a minor version")
}

/// The words of a line; single quotes keep spaces.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted, mut begun) = (vec![String::new()], false, false);
    for letter in line.trim().chars() {
        match letter {
            '\'' => (quoted, begun) = (!quoted, true),
            ' ' if !quoted && begun => {
                words.push(String::new());
                begun = false;
            }
            ' ' if !quoted => {}
            letter => {
                words.last_mut().expect("there is always a word").push(letter);
                begun = true;
            }
        }
    }
    words
}

#[test]
fn every_verb_does_what_it_does_elsewhere() {
    let (server, minor) = (Server::start(), minor());
    let mut wrong = Vec::new();
    for line in include_str!("../verbs.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (asked, expected) = line.split_once(" => ").unwrap_or((line, ""));
        let words = words(asked);
        let [sign, since, words @ ..] = words.as_slice() else { panic!("a line has a sign and a version: {line}") };
        if since.parse::<u32>().expect("a version") > minor {
            continue;
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (ok, text) = server.kubectl(&words);
        if ok != (sign == "+") || !text.contains(expected) {
            wrong.push(format!("{line}\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "kubectl 1.{minor}:\n{}\n{}", wrong.join("\n"), server.log());
}
