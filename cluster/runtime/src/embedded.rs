//! The embedded runtime: containers made by us, with the keeper as their parent.
//!
//! Start at [`Embedded::open`]; `node.rs` does the work, blocking, and this file puts the async face on it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use futures::channel::mpsc;
use futures::io::AsyncReadExt;
use futures::{FutureExt, StreamExt};

use crate::cri::*;
use crate::network::Network;
use crate::node::Node;
use crate::stream::Stream;

pub use oci::RegistryRule;

/// What [`Embedded::open`] needs to know.
#[derive(Clone)]
pub struct Options {
    /// The data folder of the node: containers go to `<data>/containers`, images to `<data>/images`, the keeper's socket
    /// to `<data>/keeper`. Archives of images in `<data>/images/preload` are added at the start.
    pub data: PathBuf,
    /// Folders with unpacked images that are part of the firmware (`oci::Store` layout, read-only).
    pub firmware_images: Vec<PathBuf>,
    /// The program that is started again as helper and keeper; `skerry` itself.
    pub program: PathBuf,
    /// Its words for a helper, usually `["helper"]`: that `main` calls [`crate::helper_main`] with the words after it.
    pub helper_args: Vec<OsString>,
    /// Its words for a keeper, usually `["keeper"]`: that `main` calls `keeper::main` with the words after it. `None`
    /// where somebody else (`skerry-init`) runs the keeper.
    pub keeper_args: Option<Vec<OsString>>,
    /// Where the keeper listens; `None` is `<data>/keeper/keeper.sock`.
    pub keeper_socket: Option<PathBuf>,
    /// The cgroup above all pods, relative to the root of the hierarchy; empty is the root. `cgroup_parent` of a sandbox
    /// is below it. Servers side by side on one machine give themselves different ones.
    pub cgroup_root: String,
    /// The pod network.
    pub network: Arc<dyn Network>,
    /// Insecure and mirrored registries.
    pub registries: Vec<RegistryRule>,
    /// Knows the other nodes that may have an image.
    pub peers: Option<oci::Finder>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The seed of ids.
    pub seed: u64,
}

/// The embedded runtime. Clones share everything.
#[derive(Clone)]
pub struct Embedded(Arc<Node>);

/// After a command has ended or was killed, its rest is waited for so long: something it left behind may hold its output
/// open.
const OUTPUT_REST: Duration = Duration::from_millis(500);

/// A command without a limit of its own has this one.
const EXEC_LIMIT_MAX: Duration = Duration::from_secs(24 * 3600);

impl Embedded {
    /// Opens the runtime on its data folder: starts the keeper if none answers, and adopts every sandbox and container
    /// found. Blocks; call it from a blocking thread or before the async runtime serves.
    pub fn open(options: Options) -> Result<Embedded, RuntimeError> {
        Node::open(options).map(Embedded)
    }

    /// The images of this machine, for imports.
    pub fn images(&self) -> oci::Store {
        self.0.images.clone()
    }

    /// Ends every pod, gives back every namespace, mount and cgroup, and ends the keeper if it is ours. Images stay.
    pub fn clean_up(&self) -> Answer<()> {
        let runtime = self.clone();
        async move {
            for sandbox in runtime.list_sandboxes().await? {
                runtime.remove_sandbox(sandbox.id).await?;
            }
            runtime.blocking("end the keeper", Node::quit_keeper).await
        }
        .boxed()
    }

    /// Runs `act` where it may block.
    fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        act: impl FnOnce(&Arc<Node>) -> Result<T, RuntimeError> + Send + 'static,
    ) -> Answer<T> {
        let node = Arc::clone(&self.0);
        async move {
            let done = tokio::task::spawn_blocking(move || act(&node)).await;
            done.unwrap_or_else(|panic| Err(RuntimeError::System { action: action.to_owned(), source: panic.into() }))
        }
        .boxed()
    }

    fn open_exec(&self, id: ContainerId, config: ExecConfig) -> Answer<(String, Streams)> {
        let runtime = self.clone();
        async move {
            let label = "execute in the container";
            let begun = runtime.blocking(label, move |node| node.exec(&id, &config)).await?;
            let exec = begun.id.clone();
            Ok((exec, begun.into_streams()?))
        }
        .boxed()
    }
}

/// Reads a stream to its end; keeps [`EXEC_OUTPUT_BYTES_MAX`] and lets the rest go by.
async fn collect(stream: Option<Output>, into: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 8 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = EXEC_OUTPUT_BYTES_MAX - into.len();
        into.extend_from_slice(&buffer[..length.min(room)]);
    }
}

impl Runtime for Embedded {
    fn run_sandbox(&self, config: SandboxConfig) -> Answer<SandboxId> {
        let runtime = self.clone();
        async move {
            let (id, link) = runtime.blocking("make a sandbox", move |node| node.make_sandbox(config)).await?;
            if let Some(link) = link {
                let attached = runtime.0.options.network.attach(link).await;
                let kept = id.clone();
                let done = match attached {
                    Ok(ips) => {
                        runtime.blocking("write down a sandbox", move |node| node.set_addresses(&kept, ips)).await
                    }
                    Err(error) => Err(error),
                };
                if let Err(error) = done {
                    let _ = runtime.remove_sandbox(id).await;
                    return Err(error);
                }
            }
            Ok(id)
        }
        .boxed()
    }

    fn stop_sandbox(&self, id: SandboxId) -> Answer<()> {
        let runtime = self.clone();
        async move {
            let stopping = id.clone();
            let link = runtime.blocking("stop a sandbox", move |node| node.end_sandbox(&stopping)).await?;
            if let Some(link) = link {
                runtime.0.options.network.detach(link).await?;
            }
            runtime.blocking("take down a sandbox", move |node| node.take_down_sandbox(&id)).await
        }
        .boxed()
    }

    fn remove_sandbox(&self, id: SandboxId) -> Answer<()> {
        let runtime = self.clone();
        async move {
            runtime.stop_sandbox(id.clone()).await?;
            runtime.blocking("remove a sandbox", move |node| node.remove_sandbox(&id)).await
        }
        .boxed()
    }

    fn list_sandboxes(&self) -> Answer<Vec<SandboxStatus>> {
        let all = self.0.sandbox_statuses();
        async move { Ok(all) }.boxed()
    }

    fn create_container(&self, sandbox: SandboxId, config: ContainerConfig) -> Answer<ContainerId> {
        self.blocking("create a container", move |node| node.create_container(&sandbox, config))
    }

    fn start_container(&self, id: ContainerId) -> Answer<()> {
        self.blocking("start a container", move |node| node.start_container(&id))
    }

    fn stop_container(&self, id: ContainerId, grace: Duration) -> Answer<()> {
        // Waiting out a grace period must not hold one of the few blocking threads.
        let runtime = self.clone();
        async move {
            let asked = id.clone();
            let ended = runtime.blocking("stop a container", move |node| node.ask_to_stop(&asked, grace)).await?;
            if let Some(ended) = ended {
                let _ = tokio::time::timeout(grace, ended).await;
            }
            runtime.blocking("kill a container", move |node| node.kill_container(&id)).await
        }
        .boxed()
    }

    fn remove_container(&self, id: ContainerId) -> Answer<()> {
        self.blocking("remove a container", move |node| node.remove_container(&id))
    }

    fn list_containers(&self) -> Answer<Vec<ContainerStatus>> {
        let all = self.0.container_statuses();
        async move { Ok(all) }.boxed()
    }

    fn update_resources(&self, id: ContainerId, resources: Resources) -> Answer<()> {
        self.blocking("change a container's limits", move |node| node.update_resources(&id, resources))
    }

    fn reopen_log(&self, id: ContainerId) -> Answer<()> {
        self.blocking("reopen a log", move |node| node.reopen_log(&id))
    }

    fn exec_sync(&self, id: ContainerId, command: Vec<String>, timeout: Duration) -> Answer<ExecResult> {
        let runtime = self.clone();
        async move {
            let action = format!("command {command:?}");
            let config = ExecConfig { command, stdout: true, stderr: true, ..ExecConfig::default() };
            let (exec, streams) = runtime.open_exec(id, config).await?;
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            let mut exit = streams.exit.fuse();
            let limit = tokio::time::sleep(if timeout.is_zero() { EXEC_LIMIT_MAX } else { timeout });
            let code = {
                let reading =
                    futures::future::join(collect(streams.stdout, &mut stdout), collect(streams.stderr, &mut stderr));
                let mut reading = Box::pin(reading.fuse());
                let mut limit = Box::pin(limit.fuse());
                let ended = loop {
                    futures::select_biased! {
                        code = &mut exit => break Some(code),
                        () = limit => break None,
                        _ = reading => {}
                    }
                };
                if ended.is_some() {
                    let _ = tokio::time::timeout(OUTPUT_REST, &mut reading).await;
                }
                ended
            };
            match code {
                Some(code) => Ok(ExecResult { stdout, stderr, exit_code: code? }),
                None => {
                    let _ = runtime.blocking("kill a command", move |node| node.kill_exec(&exec)).await;
                    let _ = tokio::time::timeout(OUTPUT_REST, exit).await;
                    Err(RuntimeError::Timeout { action, limit: timeout })
                }
            }
        }
        .boxed()
    }

    fn exec(&self, id: ContainerId, config: ExecConfig) -> Answer<Streams> {
        self.open_exec(id, config).map(|answer| answer.map(|(_, streams)| streams)).boxed()
    }

    fn attach(&self, id: ContainerId, config: ExecConfig) -> Answer<Streams> {
        let runtime = self.clone();
        async move {
            let begun = runtime.blocking("attach to the container", move |node| node.attach(&id, &config)).await?;
            begun.into_streams()
        }
        .boxed()
    }

    fn port_forward(&self, sandbox: SandboxId, port: u16) -> Answer<(Output, Input)> {
        let runtime = self.clone();
        async move {
            let action = move || format!("forward to port {port}");
            let connected = runtime.blocking("forward a port", move |node| node.connect_inside(&sandbox, port)).await?;
            let failed = |source: std::io::Error| RuntimeError::System { action: action(), source: source.into() };
            let copy = connected.try_clone().map_err(failed)?;
            let reader = Stream::new(connected).map_err(failed)?;
            let writer = Stream::new(copy).map_err(failed)?;
            Ok((Box::new(reader) as Output, Box::new(writer) as Input))
        }
        .boxed()
    }

    fn pull_image(&self, image: String, auth: Option<RegistryAuth>) -> Answer<PulledImage> {
        if image == crate::own::IMAGE {
            return self.blocking("make the image of our own program", |node| node.make_own_image());
        }
        let node = Arc::clone(&self.0);
        async move { node.pull(image, auth).await }.boxed()
    }

    fn image_status(&self, image: String) -> Answer<Option<ImageStatus>> {
        self.blocking("look up an image", move |node| Ok(node.image_status(&image)))
    }

    fn list_images(&self) -> Answer<Vec<ImageStatus>> {
        self.blocking("list images", move |node| Ok(node.list_images()))
    }

    fn remove_image(&self, image: String) -> Answer<()> {
        self.blocking("remove an image", move |node| node.remove_image(&image))
    }

    fn container_stats(&self, id: ContainerId) -> Answer<Stats> {
        self.blocking("read a container's counters", move |node| node.stats(&id))
    }

    fn shortcomings(&self) -> Vec<String> {
        self.0.shortcomings()
    }

    fn events(&self) -> futures::stream::BoxStream<'static, RuntimeEvent> {
        let (sender, receiver) = mpsc::unbounded();
        self.0.listen(sender);
        receiver.boxed()
    }
}
