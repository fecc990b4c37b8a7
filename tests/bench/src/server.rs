//! A `skerry server` that is measured.
//!
//! Start at [`Server::new`], then [`Server::start`] as often as wanted.
//!
//! Invariants:
//! * it lives in the network namespace of the thread that starts it, on the port that is the default;
//! * dropping it ends it, its pods and its keeper, and removes its folder.
//!
//! Not here: the namespace (`namespace.rs`).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base::{Clock, Monotonic};
use client::Kubeconfig;
use serde_json::Value;
use sys::{Doing, SystemClock};

use crate::{BenchError, Connection};

/// Nothing takes so long; more means that something is broken.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at what cannot be waited for: short against everything that is measured.
const PAUSE: Duration = Duration::from_millis(1);
/// So much of the log is shown when something is broken.
const LOG_LINES: usize = 20;

/// A server on this machine.
pub struct Server {
    program: PathBuf,
    folder: tempfile::TempDir,
    runs_pods: bool,
    child: Option<Child>,
}

impl Server {
    /// A server with an empty data folder, not started yet. `runs_pods`: with a node.
    pub fn new(program: &Path, runs_pods: bool) -> Result<Server, BenchError> {
        let program = program.canonicalize().doing_to("find", program)?;
        let folder = tempfile::tempdir().doing("make a folder for the server")?;
        Ok(Server { program, folder, runs_pods, child: None })
    }

    /// Gives it the images of an archive.
    pub fn preload(&self, archive: &Path) -> Result<(), BenchError> {
        let folder = self.data().join("images/preload");
        fs::create_dir_all(&folder).doing_to("make", &folder)?;
        fs::copy(archive, folder.join("images.tar")).doing_to("copy the images of", archive)?;
        Ok(())
    }

    /// Starts it; the answer is when.
    pub fn start(&mut self) -> Result<Monotonic, BenchError> {
        let log = File::options().create(true).append(true).open(self.log()).doing_to("open", &self.log())?;
        let mut command = Command::new(&self.program);
        command.args(["server", "--node-name", "node", "--data-dir"]).arg(self.data());
        if !self.runs_pods {
            command.arg("--no-node");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().doing_to("open", &self.log())?).stderr(log);
        let begun = SystemClock.monotonic();
        self.child = Some(command.spawn().doing_to("start", &self.program)?);
        Ok(begun)
    }

    /// Ends it as a power cut would. Pods go on.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself, which is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The program it runs.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Where it keeps everything.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Connects as its administrator, as soon as it is ready.
    pub async fn connect(&self) -> Result<Connection, BenchError> {
        let mut connection = self.wait("the server to listen", async || self.try_connect().await.ok()).await?;
        self.wait("/readyz", async || connection.get("/readyz").await.ok()).await?;
        Ok(connection)
    }

    async fn try_connect(&self) -> Result<Connection, BenchError> {
        Connection::open(&Kubeconfig::read(&self.data().join("admin.kubeconfig"))?).await
    }

    /// Waits until `look` sees something.
    pub async fn wait<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T, BenchError> {
        let found = self.within(what, async {
            loop {
                if let Some(found) = look().await {
                    return Ok(found);
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        found.await
    }

    /// Waits for something that must not take longer than [`LIMIT`].
    pub async fn within<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, BenchError>>,
    ) -> Result<T, BenchError> {
        let in_vain = || BenchError::InVain { what: what.to_owned(), limit: LIMIT, log: self.log_tail() };
        tokio::time::timeout(LIMIT, work).await.map_err(|_| in_vain())?
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if self.runs_pods {
            // Nothing more can be done here about what stays behind; its words are on our own output.
            let _ = Command::new(&self.program).args(["cleanup", "--data-dir"]).arg(self.data()).status();
        }
    }
}

/// Whether a node says that it is ready; `since` is a heartbeat that does not count.
pub fn is_ready(node: &Value, since: &str) -> bool {
    ready_condition(node).is_some_and(|ready| ready["status"] == "True" && ready["lastHeartbeatTime"] != since)
}

/// When a node last said whether it is ready.
pub fn heartbeat(node: &Value) -> String {
    ready_condition(node).and_then(|ready| ready["lastHeartbeatTime"].as_str()).unwrap_or_default().to_owned()
}

fn ready_condition(node: &Value) -> Option<&Value> {
    node["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == "Ready")
}
