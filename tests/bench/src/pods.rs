//! How long a pod takes from its creation to Running, as a client of the API sees it.
//!
//! Start at [`Cluster::start`], a node that is ready to run them, then [`latencies`].
//!
//! Not here: pulling images (they are there beforehand).

use std::path::Path;
use std::time::Duration;

use base::Clock;
use http::Method;
use serde_json::{Value, json};
use sys::SystemClock;

use crate::connection::JSON;
use crate::server::{Server, is_ready};
use crate::{BenchError, Connection};

/// What the pods run.
pub const IMAGE: &str = "docker.io/library/busybox:1.36";
const PODS: &str = "/api/v1/namespaces/default/pods";
const WATCH: &str = "/api/v1/namespaces/default/pods?watch=true";

/// A server whose node can run pods, and a connection to it.
pub struct Cluster {
    /// The server.
    pub server: Server,
    /// Its administrator's.
    pub connection: Connection,
}

impl Cluster {
    /// Starts a server with the images of `archive`, and waits until pods can run.
    pub async fn start(program: &Path, archive: &Path) -> Result<Cluster, BenchError> {
        let mut server = Server::new(program, true)?;
        server.preload(archive)?;
        server.start()?;
        let mut connection = server.connect().await?;
        let ready = async {
            let mut nodes = connection.watch("/api/v1/nodes?watch=true").await?;
            nodes.until(|node| is_ready(node, "")).await?;
            let mut accounts = connection.watch("/api/v1/namespaces/default/serviceaccounts?watch=true").await?;
            accounts.until(|account| account["metadata"]["name"] == "default").await
        };
        server.within("the node and the default ServiceAccount", ready).await?;
        Ok(Cluster { server, connection })
    }

    /// Creates a pod and waits until it is Running; the answer is how long that took.
    pub async fn run_pod(&mut self, name: &str) -> Result<Duration, BenchError> {
        self.run_pod_with(name, &["sleep", "100000"]).await
    }

    /// The same with another command.
    pub async fn run_pod_with(&mut self, name: &str, command: &[&str]) -> Result<Duration, BenchError> {
        let mut watch = self.connection.watch(WATCH).await?;
        let begun = SystemClock.monotonic();
        self.connection.post(PODS, &pod(name, command)).await?;
        let runs = watch.until(|pod| pod["metadata"]["name"] == name && pod["status"]["phase"] == "Running");
        self.server.within(&format!("pod {name} to run"), runs).await?;
        Ok(SystemClock.monotonic().since(begun))
    }

    /// Deletes a pod and waits until it is gone.
    pub async fn end_pod(&mut self, name: &str) -> Result<(), BenchError> {
        let path = format!("{PODS}/{name}");
        let options = json!({"gracePeriodSeconds": 0}).to_string();
        self.connection.call(Method::DELETE, &path, JSON, options.into()).await?;
        let mut connection = self.connection.clone();
        let gone = async || connection.get(&path).await.is_err().then_some(());
        self.server.wait(&format!("pod {name} to go"), gone).await
    }
}

/// Runs `count` pods one after the other; each ends before the next begins. One more goes first: its image is unpacked.
pub async fn latencies(cluster: &mut Cluster, count: usize) -> Result<Vec<Duration>, BenchError> {
    let mut latencies = Vec::new();
    for number in 0..=count {
        let name = format!("pod-{number}");
        latencies.push(cluster.run_pod(&name).await?);
        cluster.end_pod(&name).await?;
    }
    latencies.remove(0);
    Ok(latencies)
}

fn pod(name: &str, command: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": IMAGE, "command": command}],
        },
    })
}
