//! The contract between the kubelet and whatever runs containers.
//!
//! Start at [`Runtime`]. Field names follow kubernetes/cri-api v1; what Linux alone needs is flattened.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use oci::Origin as ImageOrigin;

use base::{Bytes, Timestamp};
use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};
use serde::{Deserialize, Serialize};

/// The id of a sandbox; unique on this machine for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SandboxId(pub String);

/// The id of a container; unique on this machine for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerId(pub String);

/// A namespace's owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// One for the pod.
    #[default]
    Pod,
    /// One for the container (pid only).
    Container,
    /// The machine's own.
    Node,
    /// Another container's (pid only, for debug containers).
    Target(ContainerId),
}

/// What a pod asks of its sandbox.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// `metadata.name` of the pod.
    pub name: String,
    /// `metadata.uid` of the pod.
    pub uid: String,
    /// `metadata.namespace` of the pod.
    pub namespace: String,
    /// How often a sandbox was made for this pod before.
    pub attempt: u32,
    /// The host name inside.
    pub hostname: String,
    /// Where container logs go: `<log_directory>/<container name>/<attempt>.log`.
    pub log_directory: PathBuf,
    /// Lines of `/etc/resolv.conf`: servers, search domains, options.
    pub dns_servers: Vec<String>,
    /// See [`SandboxConfig::dns_servers`].
    pub dns_searches: Vec<String>,
    /// See [`SandboxConfig::dns_servers`].
    pub dns_options: Vec<String>,
    /// Ports of the host that lead into this pod.
    pub port_mappings: Vec<PortMapping>,
    /// The pod's network namespace: [`NamespaceMode::Pod`] or [`NamespaceMode::Node`].
    pub network: NamespaceMode,
    /// The pod's pid namespace: pod (`shareProcessNamespace`), container, or node.
    pub pid: NamespaceMode,
    /// The pod's IPC namespace: pod or node.
    pub ipc: NamespaceMode,
    /// Sysctls set in the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// The pod's cgroup, relative to the root of the hierarchy, such as `kubepods/burstable/pod<uid>`.
    pub cgroup_parent: String,
    /// Limits of the pod as a whole.
    pub resources: Resources,
    /// Kubernetes labels, kept and given back.
    pub labels: BTreeMap<String, String>,
    /// Kubernetes annotations, kept and given back.
    pub annotations: BTreeMap<String, String>,
}

/// A port of the host that leads to a port of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port inside.
    pub container_port: u16,
    /// The port outside.
    pub host_port: u16,
    /// The address outside; empty is all.
    pub host_ip: String,
}

/// Limits and weights of a cgroup (v2). `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// `cpu.weight` expressed as CPU shares (v1 words, 2 to 262144), as the CRI has it.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per `cpu_period`.
    pub cpu_quota: Option<i64>,
    /// The period, in microseconds.
    pub cpu_period: Option<u64>,
    /// `memory.max`.
    #[serde(with = "bytes_as_number")]
    pub memory_limit: Option<Bytes>,
    /// `pids.max`.
    pub pids_limit: Option<i64>,
    /// `oom_score_adj` of the processes.
    pub oom_score_adj: i64,
}

/// A state a sandbox can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxState {
    /// Its namespaces are there.
    Ready,
    /// They are not (any more).
    NotReady,
}

/// What is known of a sandbox.
#[derive(Clone, Debug)]
pub struct SandboxStatus {
    /// Its id.
    pub id: SandboxId,
    /// What it was made from (labels, annotations, names; resources may be stale).
    pub config: SandboxConfig,
    /// Its state.
    pub state: SandboxState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its addresses, the primary first; empty with the host's network.
    pub ips: Vec<IpAddr>,
}

/// How a mount passes on what is mounted below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// Neither way.
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A file or directory of the host seen inside a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where inside, absolute.
    pub container_path: PathBuf,
    /// What of the host, absolute; it exists.
    pub host_path: PathBuf,
    /// No writes.
    pub readonly: bool,
    /// No writes below either (`recursiveReadOnly`).
    pub recursive_readonly: bool,
    /// Propagation.
    pub propagation: MountPropagation,
}

/// A device node inside a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where inside.
    pub container_path: PathBuf,
    /// Which of the host.
    pub host_path: PathBuf,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// A seccomp profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// The runtime's default.
    #[default]
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A file of the host, in the OCI's JSON.
    Localhost(PathBuf),
}

/// What a container may do and who it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SecurityContext {
    /// All devices, all capabilities, writable /sys.
    pub privileged: bool,
    /// Capabilities beyond the default set, without `CAP_`; `ALL` is all.
    pub add_capabilities: Vec<String>,
    /// Capabilities taken from the default set.
    pub drop_capabilities: Vec<String>,
    /// Numeric user; `None` is the image's.
    pub run_as_user: Option<i64>,
    /// Numeric group; `None` is the image's.
    pub run_as_group: Option<i64>,
    /// More groups.
    pub supplemental_groups: Vec<i64>,
    /// No writes to the root file system.
    pub readonly_rootfs: bool,
    /// Sets `no_new_privs`.
    pub no_new_privs: bool,
    /// Paths shown empty.
    pub masked_paths: Vec<String>,
    /// Paths shown read-only.
    pub readonly_paths: Vec<String>,
    /// The seccomp profile.
    pub seccomp: Seccomp,
}

/// What a container is made from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// The container's name in its pod.
    pub name: String,
    /// How often it was started before.
    pub attempt: u32,
    /// The image, as [`Runtime::pull_image`] or [`Runtime::image_status`] named it.
    pub image: String,
    /// Replaces the image's entrypoint; empty keeps it.
    pub command: Vec<String>,
    /// Replaces the image's arguments; with `command` set and this empty there are none.
    pub args: Vec<String>,
    /// Replaces the image's working directory; empty keeps it.
    pub working_dir: String,
    /// Environment, in order; it is laid over the image's.
    pub envs: Vec<(String, String)>,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Whether a reader of stdin may come.
    pub stdin: bool,
    /// Whether stdin closes after the first reader.
    pub stdin_once: bool,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// The signal that asks it to stop; `None` is the image's, then SIGTERM.
    pub stop_signal: Option<String>,
    /// Limits.
    pub resources: Resources,
    /// Rights.
    pub security: SecurityContext,
    /// The pid namespace, where it differs from the sandbox's.
    pub pid: Option<NamespaceMode>,
    /// Kubernetes labels, kept and given back.
    pub labels: BTreeMap<String, String>,
    /// Kubernetes annotations, kept and given back.
    pub annotations: BTreeMap<String, String>,
}

/// A state a container can be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Running since then.
    Running {
        /// When it started.
        started_at: Timestamp,
    },
    /// Ended.
    Exited {
        /// When it had started; `None` if it never did.
        started_at: Option<Timestamp>,
        /// When it ended.
        finished_at: Timestamp,
        /// 0 to 255; 128 + signal where a signal ended it.
        exit_code: i32,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
        /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerCannotRun`.
        reason: String,
        /// More, for people.
        message: String,
    },
    /// It was there, and nobody saw it end (the machine lost power).
    Unknown,
}

/// What is known of a container.
#[derive(Clone, Debug)]
pub struct ContainerStatus {
    /// Its id.
    pub id: ContainerId,
    /// The sandbox it is in.
    pub sandbox: SandboxId,
    /// Its name in the pod.
    pub name: String,
    /// Its attempt.
    pub attempt: u32,
    /// Its state.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Timestamp,
    /// The image as asked for.
    pub image: String,
    /// The image's id (digest of its config), as `sha256:…`.
    pub image_id: String,
    /// Its pid on the host while running.
    pub pid: Option<u32>,
    /// Its log file.
    pub log_path: PathBuf,
    /// Kubernetes labels.
    pub labels: BTreeMap<String, String>,
    /// Kubernetes annotations.
    pub annotations: BTreeMap<String, String>,
}

/// What is known of an image on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageStatus {
    /// The digest of its config, as `sha256:…`.
    pub id: String,
    /// Names with tags.
    pub repo_tags: Vec<String>,
    /// Names with digests.
    pub repo_digests: Vec<String>,
    /// Its size on disk.
    pub size: Bytes,
    /// The numeric user it runs as, if it names one.
    pub uid: Option<i64>,
    /// The user it runs as by name, if it names one.
    pub username: String,
    /// Part of the firmware: never collected.
    pub pinned: bool,
}

/// Credentials for a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// A bearer token in their place.
    pub identity_token: String,
}

/// Counters of a cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time used since it began.
    pub cpu: Duration,
    /// `memory.current` less inactive file pages; where the controller is missing, what its processes hold.
    pub memory_working_set: Option<Bytes>,
    /// Processes in it.
    pub pids: u64,
    /// Received and sent by its pod's links, or by the node's if it has none of its own.
    pub network: Option<(Bytes, Bytes)>,
    /// Read from disks and written to them.
    pub disk: Option<(Bytes, Bytes)>,
}

/// A byte stream from a process.
pub type Output = Box<dyn AsyncRead + Send + Unpin>;
/// A byte stream to a process.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;

/// A size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A process whose streams are held: from `exec` or `attach`.
pub struct Streams {
    /// Its input, where asked for.
    pub stdin: Option<Input>,
    /// Its output, where asked for; with a terminal, both outputs.
    pub stdout: Option<Output>,
    /// Its error output, where asked for and there is no terminal.
    pub stderr: Option<Output>,
    /// Sets the terminal's size.
    pub resize: Box<dyn Fn(TerminalSize) + Send + Sync>,
    /// The exit code; for `attach` that of the container. Dropping `Streams` of an exec kills nothing.
    pub exit: BoxFuture<'static, Result<i32, RuntimeError>>,
}

/// What to run in a container.
#[derive(Clone, Debug, Default)]
pub struct ExecConfig {
    /// The command.
    pub command: Vec<String>,
    /// Which streams.
    pub stdin: bool,
    /// See [`ExecConfig::stdin`].
    pub stdout: bool,
    /// See [`ExecConfig::stdin`].
    pub stderr: bool,
    /// With a terminal.
    pub tty: bool,
}

/// What a short command left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecResult {
    /// Its output, at most [`EXEC_OUTPUT_BYTES_MAX`].
    pub stdout: Vec<u8>,
    /// Its error output, likewise.
    pub stderr: Vec<u8>,
    /// Its exit code.
    pub exit_code: i32,
}

/// As much output of a probe or hook is kept; upstream's limit for probes is 10 KiB, the CRI's 16 MiB.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Something changed; look again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// The pod's uid.
    pub pod_uid: String,
}

/// An image that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledImage {
    /// The reference to use in [`ContainerConfig::image`].
    pub name: String,
    /// Where it came from.
    pub from: ImageOrigin,
}

/// Why the runtime did not do it.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// There is no such sandbox, container or image.
    #[error("{what} {id} not found")]
    NotFound {
        /// `sandbox`, `container`, `image`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The image cannot be had.
    #[error("failed to pull image {image}")]
    Pull {
        /// Its name.
        image: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The image's name is no name.
    #[error("invalid image name {image}: {detail}")]
    InvalidImageName {
        /// What was given.
        image: String,
        /// What is wrong.
        detail: String,
    },
    /// The image is for other machines.
    #[error("image {image} is not for {wanted}: it has {found}")]
    WrongPlatform {
        /// Its name.
        image: String,
        /// This machine, as `linux/arm64`.
        wanted: String,
        /// What the image has, comma-separated.
        found: String,
    },
    /// The container's command could not be run: the user's mistake, said as runc says it.
    #[error("failed to start container {container}: {detail}")]
    Start {
        /// Its name.
        container: String,
        /// Such as `exec: "nosuch": executable file not found in $PATH`.
        detail: String,
        /// What the exit code is to be: 127 not found, 126 not runnable, 128 other.
        exit_code: i32,
    },
    /// It is in the wrong state for this.
    #[error("{what} {id} is {state}, which does not allow it to {action}")]
    State {
        /// `sandbox` or `container`.
        what: &'static str,
        /// Its id.
        id: String,
        /// Its state.
        state: String,
        /// What was asked.
        action: &'static str,
    },
    /// It took too long.
    #[error("{action} did not finish within {limit:?}")]
    Timeout {
        /// What.
        action: String,
        /// How long it had.
        limit: Duration,
    },
    /// The machine refused.
    #[error("failed to {action}")]
    System {
        /// What was being done, to which thing.
        action: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An answer of the runtime.
pub type Answer<T> = BoxFuture<'static, Result<T, RuntimeError>>;

/// Whatever runs containers.
pub trait Runtime: Send + Sync + 'static {
    /// Makes the pod's namespaces and gives it its address.
    fn run_sandbox(&self, config: SandboxConfig) -> Answer<SandboxId>;
    /// Ends everything in it and gives the address back.
    fn stop_sandbox(&self, id: SandboxId) -> Answer<()>;
    /// Forgets it, its containers with it. Logs stay.
    fn remove_sandbox(&self, id: SandboxId) -> Answer<()>;
    /// All sandboxes.
    fn list_sandboxes(&self) -> Answer<Vec<SandboxStatus>>;

    /// Prepares a container: root file system, mounts, log file.
    fn create_container(&self, sandbox: SandboxId, config: ContainerConfig) -> Answer<ContainerId>;
    /// Starts it.
    fn start_container(&self, id: ContainerId) -> Answer<()>;
    /// Asks it to stop, and makes it stop after `grace`.
    fn stop_container(&self, id: ContainerId, grace: Duration) -> Answer<()>;
    /// Forgets it and its writable layer. Its log stays.
    fn remove_container(&self, id: ContainerId) -> Answer<()>;
    /// All containers, ended ones too.
    fn list_containers(&self) -> Answer<Vec<ContainerStatus>>;
    /// Changes a running container's limits.
    fn update_resources(&self, id: ContainerId, resources: Resources) -> Answer<()>;
    /// Starts a new log file after the present one was renamed away.
    fn reopen_log(&self, id: ContainerId) -> Answer<()>;

    /// Runs a short command inside (probes, hooks) and kills it after `timeout`.
    fn exec_sync(&self, id: ContainerId, command: Vec<String>, timeout: Duration) -> Answer<ExecResult>;
    /// Runs a command inside with its streams held.
    fn exec(&self, id: ContainerId, config: ExecConfig) -> Answer<Streams>;
    /// Joins the streams of the container's own process.
    fn attach(&self, id: ContainerId, config: ExecConfig) -> Answer<Streams>;
    /// Connects to a TCP port on the pod's loopback.
    fn port_forward(&self, sandbox: SandboxId, port: u16) -> Answer<(Output, Input)>;

    /// Fetches an image.
    fn pull_image(&self, image: String, auth: Option<RegistryAuth>) -> Answer<PulledImage>;
    /// An image on this machine, by any of its names.
    fn image_status(&self, image: String) -> Answer<Option<ImageStatus>>;
    /// All images.
    fn list_images(&self) -> Answer<Vec<ImageStatus>>;
    /// Removes an image that is not pinned.
    fn remove_image(&self, image: String) -> Answer<()>;

    /// Counters of a container.
    fn container_stats(&self, id: ContainerId) -> Answer<Stats>;
    /// What this machine lacks, in words for a node condition; empty is good.
    fn shortcomings(&self) -> Vec<String>;
    /// Waits for the next change.
    fn events(&self) -> futures::stream::BoxStream<'static, RuntimeEvent>;
}

/// `base` knows no serde.
mod bytes_as_number {
    use base::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Option<Bytes>, to: S) -> Result<S::Ok, S::Error> {
        bytes.map(|bytes| bytes.0).serialize(to)
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Bytes>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Bytes))
    }
}
