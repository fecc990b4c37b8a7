//! The work of the embedded runtime: sandboxes and containers as records, processes, namespaces and cgroups.
//!
//! Start at [`Node::open`]. Calls block; `embedded.rs` runs them where they may.
//!
//! Invariants:
//! * the table in memory and the records on disk change together, the disk first;
//! * a container's end is set in one place ([`Node::ended`]), whoever saw it;
//! * nothing here forks, enters a namespace or mounts: helpers do, and one thread of its own for a forwarded port.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use base::{Rng, Timestamp, chain};
use futures::FutureExt;
use futures::channel::{mpsc, oneshot};
use keeper::{Attach, Client, ClientError, PidNamespace, Reply, Request, Spawn, Streams as KeeperStreams};
use serde::Serialize;
use sys::cgroup::{Cgroup, Hierarchy, Limits};
use sys::mounts::{Attributes, Tree};
use sys::{fdpass, namespace};

use crate::cri::*;
use crate::embedded::Options;
use crate::fake::log_path;
use crate::launch::{ExecLaunch, Failure, Launch, SandboxLaunch};
use crate::measure;
use crate::network::PodLink;
use crate::record::{ContainerRecord, Life, ProcessRecord, SandboxRecord, Shelf};
use crate::stream::Stream;
use crate::{plan, seccomp};

/// A helper has so long to make a container's mounts; a dead file server takes longer.
const LAUNCH_LIMIT: Duration = Duration::from_secs(120);

/// What is killed is gone within this.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Where a hierarchy of our own is mounted, on machines without one.
const OWN_HIERARCHY: &str = "/run/skerry/cgroup";

/// A lost keeper is looked for so often, so far apart: its supervisor starts it again.
const KEEPER_TRIES: u32 = 50;
const KEEPER_TRY_EVERY: Duration = Duration::from_millis(100);

pub(crate) struct Node {
    pub(crate) options: Options,
    pub(crate) images: oci::Store,
    puller: oci::Puller,
    hierarchy: Hierarchy,
    sandboxes: Shelf,
    containers: Shelf,
    /// Our own program, on a mount of its own that cannot be written: a container that gets hold of it through
    /// `/proc/…/exe` of a helper cannot change it.
    program: Tree,
    keeper: Mutex<Option<Client>>,
    recovering: AtomicBool,
    rng: Mutex<Rng>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, SandboxRecord>,
    containers: BTreeMap<String, ContainerRecord>,
    waiting: BTreeMap<String, Vec<oneshot::Sender<()>>>,
    listeners: Vec<mpsc::UnboundedSender<RuntimeEvent>>,
}

/// A process whose streams are open.
pub(crate) struct Begun {
    pub(crate) id: String,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    resize: Box<dyn Fn(TerminalSize) + Send + Sync>,
    exit: futures::future::BoxFuture<'static, Result<i32, RuntimeError>>,
}

impl Begun {
    /// For callers within the async runtime.
    pub(crate) fn into_streams(self) -> Result<Streams, RuntimeError> {
        let open = |fd: OwnedFd| Stream::new(fd).map_err(|error| system("open a stream", error));
        Ok(Streams {
            stdin: self.stdin.map(open).transpose()?.map(|stream| Box::new(stream) as Input),
            stdout: self.stdout.map(open).transpose()?.map(|stream| Box::new(stream) as Output),
            stderr: self.stderr.map(open).transpose()?.map(|stream| Box::new(stream) as Output),
            resize: self.resize,
            exit: self.exit,
        })
    }
}

fn system(action: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> RuntimeError {
    RuntimeError::System { action: action.into(), source: source.into() }
}

fn not_found(what: &'static str, id: &str) -> RuntimeError {
    RuntimeError::NotFound { what, id: id.to_owned() }
}

impl Node {
    pub(crate) fn open(options: Options) -> Result<Arc<Node>, RuntimeError> {
        let data = &options.data;
        let folder = data.join("containers");
        let shelf = |name: &str| {
            let path = folder.join(name);
            Shelf::open(&path).map_err(|error| system(format!("open {}", path.display()), error))
        };
        let images = oci::Store::open(&data.join("images"), &options.firmware_images)
            .map_err(|error| system(format!("open the images in {}", data.display()), error))?;
        for (path, outcome) in images.preload(&data.join("images").join("preload")) {
            match outcome {
                Ok(added) => tracing::info!("{} images were added from {}", added.len(), path.display()),
                Err(error) => tracing::warn!("no image was added from {}: {}", path.display(), chain(&error)),
            }
        }
        let hierarchy =
            Hierarchy::find(Path::new(OWN_HIERARCHY)).map_err(|error| system("find a cgroup hierarchy", error))?;
        let program = Tree::copy_of(&options.program, false)
            .and_then(|tree| tree.set(Attributes::READONLY, false).map(|()| tree))
            .map_err(|error| system("open our own program", error))?;
        let (sandboxes, containers) = (shelf("sandboxes")?, shelf("containers")?);
        let rng = Mutex::new(Rng::new(options.seed));
        let puller = oci::Puller::new(options.registries.clone(), options.peers.clone());
        let node = Arc::new(Node {
            options,
            images,
            puller,
            hierarchy,
            sandboxes,
            containers,
            program,
            keeper: Mutex::new(None),
            recovering: AtomicBool::new(false),
            rng,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        node.keeper()?;
        node.adopt_sandboxes()?;
        node.read_containers();
        node.adopt_containers()?;
        Ok(node)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    fn new_id(&self) -> String {
        let mut rng = self.rng.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        (0..4).map(|_| format!("{:016x}", rng.next_u64())).collect()
    }

    pub(crate) fn listen(&self, listener: mpsc::UnboundedSender<RuntimeEvent>) {
        self.lock().listeners.push(listener);
    }

    fn tell(state: &mut State, sandbox: &str) {
        let Some(pod) = state.sandboxes.get(sandbox) else { return };
        let event = RuntimeEvent { pod_uid: pod.config.uid.clone() };
        state.listeners.retain(|listener| listener.unbounded_send(event.clone()).is_ok());
    }

    // The keeper.

    fn socket(&self) -> PathBuf {
        let default = || self.options.data.join("keeper").join("keeper.sock");
        self.options.keeper_socket.clone().unwrap_or_else(default)
    }

    /// The keeper's own cgroup, so that nobody who ends us ends it.
    fn keeper_cgroup(&self) -> Cgroup {
        match self.options.cgroup_root.as_str() {
            "" => self.hierarchy.cgroup("skerry-keeper"),
            root => self.hierarchy.cgroup(root).child("keeper"),
        }
    }

    /// The connection to the keeper; made, and the keeper with it, if there is none.
    fn keeper(&self) -> Result<Client, RuntimeError> {
        let mut slot = self.keeper.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(client) = &*slot
            && client.call(&Request::Hello, &[]).is_ok()
        {
            return Ok(client.clone());
        }
        let socket = self.socket();
        let client = match (Client::connect(&socket), &self.options.keeper_args) {
            (Ok(client), _) => client,
            (Err(_), Some(words)) => {
                let cgroup = self.keeper_cgroup();
                cgroup.create().map_err(|error| system("make the keeper's cgroup", error))?;
                keeper::start_detached(&self.options.program, words, &socket, Some(&cgroup.folder()))
                    .map_err(|error| system("start the keeper", error))?;
                Client::connect(&socket).map_err(|error| system("reach the keeper", error))?
            }
            (Err(error), None) => return Err(system("reach the keeper", error)),
        };
        sees_our_mounts(&client)?;
        *slot = Some(client.clone());
        Ok(client)
    }

    fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply, RuntimeError> {
        let answer = match self.keeper()?.call(request, fds) {
            // It died with our question, and the next one knows all it knew. Starting something twice is for the caller.
            Err(ClientError::Gone(_)) if !matches!(request, Request::Spawn(_)) => self.keeper()?.call(request, fds),
            answer => answer,
        };
        answer.map_err(|error| system("ask the keeper", error))
    }

    pub(crate) fn quit_keeper(self: &Arc<Self>) -> Result<(), RuntimeError> {
        if self.options.keeper_args.is_some() {
            let client = self.keeper.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
            let reached = client.or_else(|| Client::connect(&self.socket()).ok());
            if let Some(client) = reached {
                let _ = client.call(&Request::Quit, &[]);
            }
            let _ = fs::remove_file(self.socket());
            let cgroup = self.keeper_cgroup();
            cgroup.wait_empty();
            cgroup.remove().map_err(|error| system("remove the keeper's cgroup", error))?;
        }
        if !self.options.cgroup_root.is_empty() {
            let root = self.hierarchy.cgroup(&self.options.cgroup_root);
            root.remove().map_err(|error| system("remove the pods' cgroup", error))?;
        }
        Ok(())
    }

    /// What a helper is started with.
    fn helper_words(&self, word: &str) -> Vec<String> {
        let name = self.options.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let words = self.options.helper_args.iter().map(|each| each.to_string_lossy().into_owned());
        std::iter::once(name).chain(words).chain([word.to_owned()]).collect()
    }

    // Adoption.

    fn adopt_sandboxes(&self) -> Result<(), RuntimeError> {
        let (mut found, bare) = self.sandboxes.read::<SandboxRecord>();
        for id in bare {
            self.clear_sandbox_folder(&id);
        }
        for record in found.values_mut().filter(|record| record.ready) {
            let folder = self.sandboxes.folder_of(&record.id);
            let mounted = sys::mounts::mounted_below(&folder).is_ok_and(|found| !found.is_empty());
            let own_network = record.config.network != NamespaceMode::Node;
            // After a power cut the folder is there and the namespaces are not.
            if !mounted || (own_network && !namespace::is_pinned(&folder.join("net"))) {
                record.ready = false;
                self.write_sandbox(record)?;
                continue;
            }
            if own_network {
                let link = self.link(record);
                let adopted = self.options.network.adopt(link, record.ips.clone());
                wait_for(adopted)?;
            }
        }
        self.lock().sandboxes = found;
        Ok(())
    }

    fn read_containers(&self) {
        let (found, bare) = self.containers.read::<ContainerRecord>();
        for id in bare {
            let _ = self.containers.remove(&id);
        }
        // What a pull that was cut off had unpacked goes now.
        self.images.sweep(&found.values().flat_map(|container| container.layers.iter().cloned()).collect());
        self.lock().containers = found;
    }

    /// Finds out what became of every container that was not over: by the keeper, else by what it wrote, else by its
    /// process.
    fn adopt_containers(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let kept: BTreeMap<String, keeper::Status> = self
            .keeper()?
            .list()
            .map_err(|error| system("ask the keeper for its processes", error))?
            .into_iter()
            .map(|status| (status.id.clone(), status))
            .collect();
        let open: Vec<ContainerRecord> = {
            let state = self.lock();
            let is_open = |record: &&ContainerRecord| matches!(record.life, Life::Starting | Life::Running { .. });
            state.containers.values().filter(is_open).cloned().collect()
        };
        for record in open {
            match kept.get(&record.id) {
                Some(status) => {
                    self.set_running(&record.id, status)?;
                    match status.exit {
                        Some(exit) => self.ended(&record.id, Life::ended(Some(status.started_at_ns), exit)),
                        None => self.watch(&record.id),
                    }
                }
                None => self.adopt_orphan(&record),
            }
        }
        for status in kept.values().filter(|status| status.id.starts_with(EXEC_PREFIX) && status.exit.is_some()) {
            let _ = self.ask(&Request::Forget { id: status.id.clone() }, &[]);
        }
        Ok(())
    }

    /// A container that the keeper does not know: an earlier keeper had started it, and its supervisor was killed too. Its
    /// output has no reader any more, and its code only the kernel's process 1 will learn.
    fn adopt_orphan(self: &Arc<Self>, record: &ContainerRecord) {
        let Life::Running { started_at_ns, identity } = record.life else {
            let message = "the node stopped while the container was being started".to_owned();
            return self.ended(&record.id, self.start_error(255, message));
        };
        if let Some(exit) = read_exit(&self.exit_file(&record.id)) {
            return self.ended(&record.id, Life::ended(Some(started_at_ns), exit));
        }
        let in_cgroup = self.hierarchy.of_process(identity.pid).is_ok_and(|found| found.path() == record.cgroup);
        match identity.process().open() {
            Ok(pidfd) if in_cgroup => {
                let (node, id) = (Arc::downgrade(self), record.id.clone());
                let watching = thread::Builder::new().name("orphan".to_owned()).stack_size(128 << 10);
                let started = watching.spawn(move || {
                    sys::process::wait_gone(&pidfd);
                    if let Some(node) = node.upgrade() {
                        node.ended(&id, Life::Unknown);
                    }
                });
                if let Err(error) = started {
                    tracing::warn!("container {} cannot be watched: {}", record.id, chain(&error));
                }
            }
            _ => self.ended(&record.id, Life::Unknown),
        }
    }

    fn exit_file(&self, id: &str) -> PathBuf {
        self.containers.folder_of(id).join("exit.json")
    }

    /// Asks the keeper to tell when the container ends.
    fn watch(self: &Arc<Self>, id: &str) {
        // Weak, as the connection that holds this is held by the node.
        let (node, watched) = (Arc::downgrade(self), id.to_owned());
        let then = move |reply: Result<Reply, ClientError>| {
            let Some(node) = node.upgrade() else { return };
            match reply {
                Ok(Reply::Process(status)) => {
                    let Some(exit) = status.exit else { return };
                    let act = move || node.ended(&watched, Life::ended(Some(status.started_at_ns), exit));
                    // Taking the cgroup down may wait, and other replies should not.
                    if let Err(error) = thread::Builder::new().name("ended".to_owned()).spawn(act) {
                        tracing::error!("the end of a container cannot be seen to: {}", chain(&error));
                    }
                }
                Err(ClientError::Gone(_)) => node.recover(),
                other => tracing::warn!("container {watched} cannot be watched: {other:?}"),
            }
        };
        let keeper = self.keeper.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        match keeper {
            Some(client) => client.ask(&Request::Wait { id: id.to_owned() }, &[], then),
            None => self.recover(),
        }
    }

    /// The keeper is gone: waits for the next one in a thread of its own, then looks at everything again.
    fn recover(self: &Arc<Self>) {
        // Whoever quits the keeper on purpose leaves nothing to look after.
        let nothing_runs = !self.lock().containers.values().any(|each| matches!(each.life, Life::Running { .. }));
        if nothing_runs || self.recovering.swap(true, Ordering::SeqCst) {
            return;
        }
        let node = Arc::clone(self);
        let spawned = thread::Builder::new().name("keeper-lost".to_owned()).spawn(move || {
            tracing::warn!("the keeper is gone; its supervisor hands what it held to the next one");
            for _ in 0..KEEPER_TRIES {
                if node.keeper().is_ok() {
                    break;
                }
                thread::sleep(KEEPER_TRY_EVERY);
            }
            node.recovering.store(false, Ordering::SeqCst);
            if let Err(error) = node.adopt_containers() {
                tracing::error!("containers cannot be adopted: {}", chain(&error));
            }
        });
        if spawned.is_err() {
            self.recovering.store(false, Ordering::SeqCst);
        }
    }

    // Sandboxes.

    pub(crate) fn sandbox_statuses(&self) -> Vec<SandboxStatus> {
        self.lock().sandboxes.values().map(SandboxRecord::status).collect()
    }

    fn sandbox(&self, id: &str) -> Result<SandboxRecord, RuntimeError> {
        self.lock().sandboxes.get(id).cloned().ok_or_else(|| not_found("sandbox", id))
    }

    fn write_sandbox(&self, record: &SandboxRecord) -> Result<(), RuntimeError> {
        let written = self.sandboxes.write(&record.id, record);
        written.map_err(|error| system(format!("write down sandbox {}", record.id), error))
    }

    fn link(&self, record: &SandboxRecord) -> PodLink {
        PodLink {
            sandbox: record.id.clone(),
            namespace: record.config.namespace.clone(),
            name: record.config.name.clone(),
            uid: record.config.uid.clone(),
            netns: self.sandboxes.folder_of(&record.id).join("net"),
            port_mappings: record.config.port_mappings.clone(),
        }
    }

    fn pod_cgroup(&self, config: &SandboxConfig) -> Cgroup {
        let parent = config.cgroup_parent.trim_matches('/');
        let parent = if parent.is_empty() { format!("kubepods/pod{}", config.uid) } else { parent.to_owned() };
        self.hierarchy.cgroup(&self.options.cgroup_root).child(&parent)
    }

    /// Makes the namespaces; the address is the caller's next step, where there is a link to give it to.
    pub(crate) fn make_sandbox(
        self: &Arc<Self>,
        config: SandboxConfig,
    ) -> Result<(SandboxId, Option<PodLink>), RuntimeError> {
        let id = self.new_id();
        let pod = format!("{}/{}", config.namespace, config.name);
        let record = SandboxRecord {
            id: id.clone(),
            config,
            created_at_ns: self.now().0,
            ips: Vec::new(),
            ready: false,
            init: None,
        };
        self.write_sandbox(&record)?;
        self.lock().sandboxes.insert(id.clone(), record.clone());
        match self.build_sandbox(record) {
            Ok(record) => {
                let link = (record.config.network != NamespaceMode::Node).then(|| self.link(&record));
                let mut state = self.lock();
                state.sandboxes.insert(id.clone(), record);
                Node::tell(&mut state, &id);
                Ok((SandboxId(id), link))
            }
            Err(error) => {
                let id = SandboxId(id);
                let _ = self.take_down_sandbox(&id).and_then(|()| self.remove_sandbox(&id));
                Err(system(format!("make the sandbox of pod {pod}"), error))
            }
        }
    }

    fn build_sandbox(self: &Arc<Self>, mut record: SandboxRecord) -> Result<SandboxRecord, RuntimeError> {
        let config = &record.config;
        let cgroup = self.pod_cgroup(config);
        let limits = plan::limits(&config.resources);
        cgroup.create().and_then(|()| cgroup.limit(&limits)).map_err(|error| system("make the pod's cgroup", error))?;
        let folder = self.sandboxes.folder_of(&record.id);
        let write = |name: &str, text: &str| {
            fs::write(folder.join(name), text).map_err(|error| system(format!("write the pod's {name}"), error))
        };
        write("hostname", &format!("{}\n", config.hostname))?;
        let resolv = plan::resolv_conf(config);
        let machines = || fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        write("resolv.conf", &resolv.unwrap_or_else(machines))?;
        let shm = folder.join("shm");
        fs::create_dir_all(&shm).map_err(|error| system("make the pod's shm folder", error))?;
        if !config.log_directory.as_os_str().is_empty() {
            fs::create_dir_all(&config.log_directory)
                .map_err(|error| system(format!("make {}", config.log_directory.display()), error))?;
        }
        self.run_sandbox_helper(&SandboxLaunch {
            pins: folder,
            network: config.network != NamespaceMode::Node,
            ipc: config.ipc != NamespaceMode::Node,
            hostname: config.hostname.clone(),
            sysctls: config.sysctls.clone().into_iter().collect(),
            shm,
        })?;
        if config.pid == NamespaceMode::Pod {
            record.init = Some(self.start_init(&record.id, &cgroup)?);
        }
        // Where there is an address to come, it is ready with that.
        record.ready = record.config.network == NamespaceMode::Node;
        self.write_sandbox(&record)?;
        Ok(record)
    }

    fn run_sandbox_helper(&self, launch: &SandboxLaunch) -> Result<(), RuntimeError> {
        let run = || -> io::Result<String> {
            let words = self.helper_words("sandbox");
            let mut child = Command::new(&self.options.program)
                .args(&words[1..])
                .env_clear()
                .current_dir("/")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let text = serde_json::to_vec(launch).map_err(io::Error::other)?;
            if let Some(mut stdin) = child.stdin.take() {
                // A helper that died has said why, or its exit status will.
                let _ = stdin.write_all(&text);
            }
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            match (output.status.success(), said.is_empty()) {
                (true, _) => Ok(String::new()),
                (false, true) => Ok(format!("the helper ended with {}", output.status)),
                (false, false) => Ok(said),
            }
        };
        match run() {
            Ok(said) if said.is_empty() => Ok(()),
            Ok(said) => Err(system("make the pod's namespaces", said)),
            Err(error) => Err(system("run the sandbox helper", error)),
        }
    }

    /// Process 1 of a shared pid namespace.
    fn start_init(&self, sandbox: &str, cgroup: &Cgroup) -> Result<ProcessRecord, RuntimeError> {
        let own = cgroup.child(&format!("init-{sandbox}"));
        own.create().map_err(|error| system("make the init's cgroup", error))?;
        let spawn = Spawn {
            id: init_id(sandbox),
            args: self.helper_words("init"),
            cgroup: own.folder().to_string_lossy().into_owned(),
            pid_namespace: PidNamespace::New,
            streams: KeeperStreams::Handed { stdin: false, stdout: false, stderr: false },
            ..Spawn::default()
        };
        match self.ask(&Request::Spawn(spawn), &[self.program.as_fd()])? {
            Reply::Process(status) => Ok(ProcessRecord { pid: status.pid, start_ticks: status.start_ticks }),
            other => Err(system("start the pod's init", format!("the keeper answered {other:?}"))),
        }
    }

    pub(crate) fn set_addresses(&self, id: &SandboxId, ips: Vec<IpAddr>) -> Result<(), RuntimeError> {
        let mut record = self.sandbox(&id.0)?;
        (record.ips, record.ready) = (ips, true);
        self.write_sandbox(&record)?;
        let mut state = self.lock();
        state.sandboxes.insert(id.0.clone(), record);
        Node::tell(&mut state, &id.0);
        Ok(())
    }

    /// Ends all that runs in it; the answer is the link to give back.
    pub(crate) fn end_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<Option<PodLink>, RuntimeError> {
        let Ok(record) = self.sandbox(&id.0) else { return Ok(None) };
        let inside: Vec<String> = {
            let state = self.lock();
            state.containers.values().filter(|each| each.sandbox == id.0).map(|each| each.id.clone()).collect()
        };
        for container in inside {
            self.kill_container(&ContainerId(container))?;
        }
        if record.init.is_some() {
            let _ = self.ask(&Request::Signal { id: init_id(&id.0), signal: libc::SIGKILL }, &[]);
            let _ = self.ask(&Request::Wait { id: init_id(&id.0) }, &[]);
            let _ = self.ask(&Request::Forget { id: init_id(&id.0) }, &[]);
        }
        let linked = record.config.network != NamespaceMode::Node;
        Ok(linked.then(|| self.link(&record)))
    }

    /// Gives back namespaces, mounts and cgroup. What is gone is as good.
    pub(crate) fn take_down_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let Ok(mut record) = self.sandbox(&id.0) else { return Ok(()) };
        self.unpin(&id.0)?;
        let cgroup = self.pod_cgroup(&record.config);
        cgroup.child(&format!("init-{}", id.0)).remove().map_err(|error| system("remove the init's cgroup", error))?;
        // Another sandbox of the same pod may live in it still; then it stays.
        let _ = fs::remove_dir(cgroup.folder());
        if record.ready {
            record.ready = false;
            self.write_sandbox(&record)?;
            let mut state = self.lock();
            state.sandboxes.insert(id.0.clone(), record);
            Node::tell(&mut state, &id.0);
        }
        Ok(())
    }

    fn unpin(&self, id: &str) -> Result<(), RuntimeError> {
        let folder = self.sandboxes.folder_of(id);
        let undo = || -> sys::Result<()> {
            sys::mounts::unmount(&folder.join("shm"))?;
            for (name, _) in namespace::SANDBOX_KINDS {
                namespace::unpin(&folder.join(name))?;
            }
            Ok(())
        };
        undo().map_err(|error| system("give back the pod's namespaces", error))
    }

    fn clear_sandbox_folder(&self, id: &str) {
        let cleared = self.unpin(id).map_err(|error| chain(&error).to_string());
        let removed = cleared.and_then(|()| self.sandboxes.remove(id).map_err(|error| error.to_string()));
        if let Err(why) = removed {
            tracing::warn!("what is left of sandbox {id} stays: {why}");
        }
    }

    pub(crate) fn remove_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<(), RuntimeError> {
        let inside: Vec<String> = {
            let state = self.lock();
            state.containers.values().filter(|each| each.sandbox == id.0).map(|each| each.id.clone()).collect()
        };
        for container in inside {
            self.remove_container(&ContainerId(container))?;
        }
        self.sandboxes.remove(&id.0).map_err(|error| system(format!("remove sandbox {}", id.0), error))?;
        let mut state = self.lock();
        Node::tell(&mut state, &id.0);
        state.sandboxes.remove(&id.0);
        Ok(())
    }

    // Containers.

    pub(crate) fn container_statuses(&self) -> Vec<ContainerStatus> {
        self.lock().containers.values().map(ContainerRecord::status).collect()
    }

    fn container(&self, id: &str) -> Result<ContainerRecord, RuntimeError> {
        self.lock().containers.get(id).cloned().ok_or_else(|| not_found("container", id))
    }

    fn write_container(&self, record: &ContainerRecord) -> Result<(), RuntimeError> {
        let written = self.containers.write(&record.id, record);
        written.map_err(|error| system(format!("write down container {}", record.id), error))
    }

    pub(crate) fn create_container(
        self: &Arc<Self>,
        sandbox: &SandboxId,
        config: ContainerConfig,
    ) -> Result<ContainerId, RuntimeError> {
        let pod = self.sandbox(&sandbox.0)?;
        if !pod.ready {
            let (id, state) = (sandbox.0.clone(), "not ready".to_owned());
            return Err(RuntimeError::State { what: "sandbox", id, state, action: "create a container" });
        }
        let image = self.images.find(&config.image).ok_or_else(|| not_found("image", &config.image))?;
        let refused = |detail: String| RuntimeError::Start { container: config.name.clone(), detail, exit_code: 128 };
        let filter = self.filter(&config.security).map_err(refused)?;
        let program = plan::program(&config, &image.config.config, &pod.config, filter).map_err(refused)?;
        let wanted = config.stop_signal.as_deref().filter(|signal| !signal.is_empty());
        let signal_name = wanted.unwrap_or(&image.config.config.stop_signal);
        let stop_signal =
            if signal_name.is_empty() { Some(libc::SIGTERM) } else { sys::process::signal_number(signal_name) };
        let id = self.new_id();
        let log_path = log_path(&pod.config, &config.name, config.attempt);
        let record = ContainerRecord {
            id: id.clone(),
            sandbox: sandbox.0.clone(),
            created_at_ns: self.now().0,
            image_id: image.id.to_string(),
            cgroup: self.pod_cgroup(&pod.config).child(&id).path().to_owned(),
            program,
            layers: image.layers,
            stop_signal: stop_signal.ok_or_else(|| refused(format!("unknown stop signal {signal_name:?}")))?,
            life: Life::Created,
            log_path: if pod.config.log_directory.as_os_str().is_empty() { PathBuf::new() } else { log_path },
            config,
        };
        let prepared = self.prepare_container(&record).and_then(|()| self.write_container(&record));
        if let Err(error) = prepared {
            let _ = self.containers.remove(&id);
            return Err(error);
        }
        let mut state = self.lock();
        state.containers.insert(id.clone(), record);
        Node::tell(&mut state, &sandbox.0);
        Ok(ContainerId(id))
    }

    fn prepare_container(&self, record: &ContainerRecord) -> Result<(), RuntimeError> {
        let folder = self.containers.folder_of(&record.id);
        let make =
            |path: &Path| fs::create_dir_all(path).map_err(|error| system(format!("make {}", path.display()), error));
        for name in ["upper", "work", "root"] {
            make(&folder.join(name))?;
        }
        // What others on the machine may see of it ends here, whatever modes the image has.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(&folder, private).map_err(|error| system("close a container's folder", error))?;
        let root_mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.join("upper"), root_mode).map_err(|error| system("set a mode", error))?;
        record.log_path.parent().map_or(Ok(()), make)
    }

    /// The system call filter, in numbers.
    fn filter(&self, security: &SecurityContext) -> Result<Vec<(u16, u8, u8, u32)>, String> {
        let profile = match &security.seccomp {
            _ if security.privileged => return Ok(Vec::new()),
            Seccomp::Unconfined => return Ok(Vec::new()),
            Seccomp::RuntimeDefault => seccomp::default_profile(plan::capabilities(security)?),
            Seccomp::Localhost(path) => {
                let named = |why: String| format!("failed to read seccomp profile {}: {why}", path.display());
                let text = fs::read(path).map_err(|error| named(error.to_string()))?;
                seccomp::parse(&text).map_err(named)?
            }
        };
        let program = seccomp::compile(&profile)?;
        Ok(program.iter().map(|step| (step.code, step.if_true, step.if_false, step.operand)).collect())
    }

    fn launch(&self, record: &ContainerRecord, pod: &SandboxRecord) -> Launch {
        let folder = self.containers.folder_of(&record.id);
        let pins = self.sandboxes.folder_of(&record.sandbox);
        let own_network = pod.config.network != NamespaceMode::Node;
        let own_ipc = pod.config.ipc != NamespaceMode::Node;
        let kinds = [("net", own_network), ("uts", own_network), ("ipc", own_ipc)];
        let config = &record.config;
        let mut mounts = config.mounts.clone();
        for name in ["resolv.conf", "hostname"] {
            let container_path = Path::new("/etc").join(name);
            if !mounts.iter().any(|mount| mount.container_path == container_path) {
                mounts.push(Mount { container_path, host_path: pins.join(name), ..Mount::default() });
            }
        }
        let machine_shm = PathBuf::from("/dev/shm");
        Launch {
            name: config.name.clone(),
            program: record.program.clone(),
            pins: kinds.iter().filter(|(_, own)| *own).map(|(kind, _)| ((*kind).to_owned(), pins.join(kind))).collect(),
            layers: record.layers.clone(),
            upper: folder.join("upper"),
            work: folder.join("work"),
            root: folder.join("root"),
            readonly_root: config.security.readonly_rootfs,
            privileged: config.security.privileged,
            mounts,
            devices: config.devices.clone(),
            shm: if own_ipc || !machine_shm.exists() { pins.join("shm") } else { machine_shm },
            masked_paths: config.security.masked_paths.clone(),
            readonly_paths: config.security.readonly_paths.clone(),
        }
    }

    /// The pid namespace a container starts in, and the process it is that of.
    fn pid_namespace(
        &self,
        record: &ContainerRecord,
        pod: &SandboxRecord,
    ) -> Result<(PidNamespace, Option<OwnedFd>), RuntimeError> {
        let open = |process: ProcessRecord, what: &str| {
            process.process().open().map_err(|error| system(format!("join the pid namespace of {what}"), error))
        };
        match record.config.pid.as_ref().unwrap_or(&pod.config.pid) {
            NamespaceMode::Container => Ok((PidNamespace::New, None)),
            NamespaceMode::Node => Ok((PidNamespace::Own, None)),
            NamespaceMode::Pod => match pod.init {
                Some(init) => Ok((PidNamespace::Of, Some(open(init, "the pod")?))),
                None => Ok((PidNamespace::New, None)),
            },
            NamespaceMode::Target(id) => match self.container(&id.0)?.life {
                Life::Running { identity, .. } => Ok((PidNamespace::Of, Some(open(identity, &id.0)?))),
                other => Err(RuntimeError::State {
                    what: "container",
                    id: id.0.clone(),
                    state: other.word().to_owned(),
                    action: "be joined",
                }),
            },
        }
    }

    pub(crate) fn start_container(self: &Arc<Self>, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut record = self.container(&id.0)?;
        if record.life != Life::Created {
            let state = record.life.word().to_owned();
            return Err(RuntimeError::State { what: "container", id: id.0.clone(), state, action: "start" });
        }
        let pod = self.sandbox(&record.sandbox)?;
        record.life = Life::Starting;
        self.write_container(&record)?;
        self.lock().containers.insert(id.0.clone(), record.clone());
        let mut started = self.bring_up(&record, &pod);
        if started.as_ref().is_err_and(died_with_keeper) {
            // What may have begun waits for what to become, and will not hear it: it goes, and the next keeper starts another.
            let _ = self.hierarchy.cgroup(&record.cgroup).kill();
            let _ = self.ask(&Request::Wait { id: id.0.clone() }, &[]);
            let _ = self.ask(&Request::Forget { id: id.0.clone() }, &[]);
            started = self.bring_up(&record, &pod);
        }
        match started {
            Ok(status) => {
                self.set_running(&id.0, &status)?;
                self.watch(&id.0);
                Ok(())
            }
            Err(error) => {
                let (exit_code, message) = match &error {
                    RuntimeError::Start { detail, exit_code, .. } => (*exit_code, detail.clone()),
                    other => (128, chain(other).to_string()),
                };
                let _ = self.ask(&Request::Signal { id: id.0.clone(), signal: libc::SIGKILL }, &[]);
                let _ = self.ask(&Request::Wait { id: id.0.clone() }, &[]);
                self.ended(&id.0, self.start_error(exit_code, message));
                Err(error)
            }
        }
    }

    fn bring_up(&self, record: &ContainerRecord, pod: &SandboxRecord) -> Result<keeper::Status, RuntimeError> {
        let cgroup = self.hierarchy.cgroup(&record.cgroup);
        // A container is one thing: when memory ends, all of it goes, as the kubelet has it on version 2.
        let limits = Limits { oom_group: Some(true), ..plan::limits(&record.config.resources) };
        cgroup
            .create()
            .and_then(|()| cgroup.limit(&limits))
            .map_err(|error| system("make the container's cgroup", error))?;
        let (pid_namespace, joined) = self.pid_namespace(record, pod)?;
        let (ours, theirs) = fdpass::pair().map_err(|error| system("make a channel", error))?;
        let config = &record.config;
        let streams = if config.tty {
            KeeperStreams::Terminal { stdin: config.stdin }
        } else {
            KeeperStreams::Held { stdin: config.stdin, stdin_once: config.stdin_once }
        };
        let spawn = Spawn {
            id: record.id.clone(),
            args: self.helper_words("container"),
            env: Vec::new(),
            cgroup: cgroup.folder().to_string_lossy().into_owned(),
            pid_namespace,
            channel: true,
            streams,
            log: record.log_path.to_string_lossy().into_owned(),
            exit_file: self.exit_file(&record.id).to_string_lossy().into_owned(),
        };
        let mut fds = vec![self.program.as_fd()];
        fds.extend(joined.as_ref().map(AsFd::as_fd));
        fds.push(theirs.as_fd());
        let status = match self.ask(&Request::Spawn(spawn), &fds)? {
            Reply::Process(status) => status,
            other => return Err(system("start a helper", format!("the keeper answered {other:?}"))),
        };
        drop(theirs);
        let launched = hand_over(&ours, &self.launch(record, pod), &[]).and_then(|()| hear(&ours));
        match launched {
            Ok(Heard::Running(_)) => Ok(status),
            Ok(Heard::Failed(failure)) => Err(RuntimeError::Start {
                container: config.name.clone(),
                detail: failure.detail,
                exit_code: failure.exit_code,
            }),
            Err(error) => Err(system(format!("start container {}", config.name), error)),
        }
    }

    fn start_error(&self, exit_code: i32, message: String) -> Life {
        Life::Exited {
            started_at_ns: None,
            finished_at_ns: self.now().0,
            exit_code,
            signal: None,
            reason: "StartError".to_owned(),
            message,
        }
    }

    fn set_running(&self, id: &str, status: &keeper::Status) -> Result<(), RuntimeError> {
        let mut record = self.container(id)?;
        let identity = ProcessRecord { pid: status.pid, start_ticks: status.start_ticks };
        let life = Life::Running { started_at_ns: status.started_at_ns, identity };
        if record.life == life {
            return Ok(());
        }
        record.life = life;
        self.write_container(&record)?;
        let mut state = self.lock();
        let sandbox = record.sandbox.clone();
        state.containers.insert(id.to_owned(), record);
        Node::tell(&mut state, &sandbox);
        Ok(())
    }

    /// The one place where a container ends.
    fn ended(&self, id: &str, life: Life) {
        let Ok(mut record) = self.container(id) else { return };
        if record.life.is_over() {
            return;
        }
        record.life = life;
        if let Err(error) = self.write_container(&record) {
            tracing::warn!("{}", chain(&error));
        }
        // What it left behind goes with it, in pods that share their pid namespace too.
        if let Err(error) = self.hierarchy.cgroup(&record.cgroup).remove() {
            tracing::warn!("{}", chain(&error));
        }
        let mut state = self.lock();
        let sandbox = record.sandbox.clone();
        state.containers.insert(id.to_owned(), record);
        for waiting in state.waiting.remove(id).unwrap_or_default() {
            let _ = waiting.send(());
        }
        Node::tell(&mut state, &sandbox);
        self.changed.notify_all();
    }

    /// A note of a container's end; `None` if it does not run.
    fn when_ended(&self, id: &str) -> Option<oneshot::Receiver<()>> {
        let mut state = self.lock();
        let record = state.containers.get(id)?;
        if !matches!(record.life, Life::Running { .. } | Life::Starting) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.entry(id.to_owned()).or_default().push(sender);
        Some(receiver)
    }

    /// Sends the signal that asks it to stop; the answer resolves when it has.
    pub(crate) fn ask_to_stop(
        self: &Arc<Self>,
        id: &ContainerId,
        grace: Duration,
    ) -> Result<Option<oneshot::Receiver<()>>, RuntimeError> {
        let Ok(record) = self.container(&id.0) else { return Ok(None) };
        let (Life::Running { identity, .. }, false) = (&record.life, grace.is_zero()) else { return Ok(None) };
        let ended = self.when_ended(&id.0);
        // A process that is gone by now is about to be reported.
        if let Ok(pidfd) = identity.process().open() {
            sys::process::send_signal(&pidfd, record.stop_signal)
                .map_err(|error| system(format!("stop container {}", record.config.name), error))?;
        }
        Ok(ended)
    }

    /// Kills all of it, and returns when it is gone.
    pub(crate) fn kill_container(self: &Arc<Self>, id: &ContainerId) -> Result<(), RuntimeError> {
        let Ok(record) = self.container(&id.0) else { return Ok(()) };
        if !matches!(record.life, Life::Running { .. } | Life::Starting) {
            return Ok(());
        }
        let cgroup = self.hierarchy.cgroup(&record.cgroup);
        cgroup.kill().map_err(|error| system(format!("kill container {}", record.config.name), error))?;
        let deadline = Instant::now() + KILL_LIMIT;
        let mut state = self.lock();
        loop {
            let is_over = state.containers.get(&id.0).is_none_or(|each| each.life.is_over());
            let left = deadline.saturating_duration_since(Instant::now());
            if is_over {
                return Ok(());
            }
            if left.is_zero() {
                let action = format!("killing container {}", record.config.name);
                return Err(RuntimeError::Timeout { action, limit: KILL_LIMIT });
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }

    pub(crate) fn remove_container(self: &Arc<Self>, id: &ContainerId) -> Result<(), RuntimeError> {
        let Ok(record) = self.container(&id.0) else { return Ok(()) };
        self.kill_container(id)?;
        let _ = self.ask(&Request::Forget { id: id.0.clone() }, &[]);
        let removed = self.hierarchy.cgroup(&record.cgroup).remove();
        removed.map_err(|error| system("remove the container's cgroup", error))?;
        self.containers.remove(&id.0).map_err(|error| system(format!("remove container {}", id.0), error))?;
        let mut state = self.lock();
        state.containers.remove(&id.0);
        Node::tell(&mut state, &record.sandbox);
        Ok(())
    }

    pub(crate) fn update_resources(&self, id: &ContainerId, resources: Resources) -> Result<(), RuntimeError> {
        let mut record = self.container(&id.0)?;
        let limits = plan::limits(&resources);
        if matches!(record.life, Life::Running { .. }) {
            let cgroup = self.hierarchy.cgroup(&record.cgroup);
            cgroup
                .limit(&limits)
                .map_err(|error| system(format!("change the limits of container {}", record.config.name), error))?;
        }
        record.config.resources = resources;
        self.write_container(&record)?;
        self.lock().containers.insert(id.0.clone(), record);
        Ok(())
    }

    pub(crate) fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.container(&id.0)?;
        self.ask(&Request::Reopen { id: id.0.clone() }, &[]).map(|_| ())
    }

    // Processes inside.

    fn running(
        &self,
        id: &ContainerId,
        action: &'static str,
    ) -> Result<(ContainerRecord, ProcessRecord), RuntimeError> {
        let record = self.container(&id.0)?;
        match record.life {
            Life::Running { identity, .. } => Ok((record, identity)),
            ref other => {
                let state = other.word().to_owned();
                Err(RuntimeError::State { what: "container", id: id.0.clone(), state, action })
            }
        }
    }

    pub(crate) fn exec(self: &Arc<Self>, id: &ContainerId, config: &ExecConfig) -> Result<Begun, RuntimeError> {
        // A helper that was begun when the keeper died has not been told what to become, so nothing ran yet.
        (0..EXEC_TRIES)
            .find_map(|_| match self.begin_exec(id, config) {
                Err(error) if died_with_keeper(&error) => None,
                answer => Some(answer),
            })
            .unwrap_or_else(|| self.begin_exec(id, config))
    }

    fn begin_exec(self: &Arc<Self>, id: &ContainerId, config: &ExecConfig) -> Result<Begun, RuntimeError> {
        let (record, identity) = self.running(id, "execute a command")?;
        let target = identity.process().open().map_err(|error| system("join the container", error))?;
        let mut program = record.program.clone();
        program.args.clone_from(&config.command);
        program.terminal = config.tty;
        if config.tty && !program.env.iter().any(|each| each.starts_with("TERM=")) {
            program.env.push("TERM=xterm".to_owned());
        }
        let mut pipes = Pipes::lay(config).map_err(|error| system("make pipes", error))?;
        let (ours, theirs) = fdpass::pair().map_err(|error| system("make a channel", error))?;
        let exec_id = format!("{EXEC_PREFIX}{}", self.new_id());
        let spawn = Spawn {
            id: exec_id.clone(),
            args: self.helper_words("exec"),
            cgroup: self.hierarchy.cgroup(&record.cgroup).folder().to_string_lossy().into_owned(),
            pid_namespace: PidNamespace::Of,
            channel: true,
            streams: KeeperStreams::Handed {
                stdin: pipes.theirs[0].is_some(),
                stdout: pipes.theirs[1].is_some(),
                stderr: pipes.theirs[2].is_some(),
            },
            ..Spawn::default()
        };
        let mut fds = vec![self.program.as_fd(), target.as_fd(), theirs.as_fd()];
        fds.extend(pipes.theirs.iter().flatten().map(AsFd::as_fd));
        self.ask(&Request::Spawn(spawn), &fds)?;
        drop(fds);
        drop(theirs);
        pipes.theirs = [None, None, None];
        let exit = self.exit_of(&exec_id)?;
        let heard = hand_over(&ours, &ExecLaunch { program }, &[target.as_fd()]).and_then(|()| hear(&ours));
        let terminal = match heard {
            Ok(Heard::Running(terminal)) => terminal,
            Ok(Heard::Failed(failure)) => {
                return Err(RuntimeError::Start {
                    container: record.config.name,
                    detail: failure.detail,
                    exit_code: failure.exit_code,
                });
            }
            Err(error) => {
                let _ = self.kill_exec(&exec_id);
                return Err(system(format!("execute in container {}", record.config.name), error));
            }
        };
        let [mut stdin, mut stdout, stderr] = pipes.ours;
        let mut resize: Box<dyn Fn(TerminalSize) + Send + Sync> = Box::new(|_| ());
        if let Some(terminal) = terminal {
            let copy = || terminal.try_clone().map_err(|error| system("copy a terminal", error));
            stdin = if config.stdin { Some(copy()?) } else { None };
            stdout = Some(copy()?);
            resize = Box::new(move |size| drop(sys::tty::resize(&terminal, size.width, size.height)));
        }
        Ok(Begun { id: exec_id, stdin, stdout, stderr, resize, exit })
    }

    /// The exit code of a process that only the keeper knows; it is forgotten with that.
    fn exit_of(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<futures::future::BoxFuture<'static, Result<i32, RuntimeError>>, RuntimeError> {
        let mut waiting = self.end_of_exec(id)?;
        let (node, id) = (Arc::clone(self), id.to_owned());
        Ok(async move {
            let answer = loop {
                match waiting.await {
                    // The keeper died, and the next one knows the command; where there is none, asking says so.
                    Ok(Err(ClientError::Gone(_))) => {
                        let (again, asked) = (Arc::clone(&node), id.clone());
                        let next = tokio::task::spawn_blocking(move || again.end_of_exec(&asked)).await;
                        waiting = next.map_err(|error| system("wait for a command", error))??;
                    }
                    answer => break answer,
                }
            };
            match answer {
                Ok(Ok(Reply::Process(status))) => Ok(status.exit.map_or(255, |exit| exit.code)),
                Ok(Ok(other)) => Err(system("wait for a command", format!("the keeper answered {other:?}"))),
                Ok(Err(error)) => Err(system("wait for a command", error)),
                Err(_) => Err(system("wait for a command", "the runtime is closing")),
            }
        }
        .boxed())
    }

    fn end_of_exec(&self, id: &str) -> Result<oneshot::Receiver<Result<Reply, ClientError>>, RuntimeError> {
        let (sender, receiver) = oneshot::channel();
        let keeper = self.keeper()?;
        let (forgetting, forgotten) = (keeper.clone(), id.to_owned());
        keeper.ask(&Request::Wait { id: id.to_owned() }, &[], move |reply| {
            if reply.is_ok() {
                forgetting.ask(&Request::Forget { id: forgotten }, &[], |_| ());
            }
            let _ = sender.send(reply);
        });
        Ok(receiver)
    }

    pub(crate) fn kill_exec(self: &Arc<Self>, id: &str) -> Result<(), RuntimeError> {
        self.ask(&Request::Signal { id: id.to_owned(), signal: libc::SIGKILL }, &[]).map(|_| ())
    }

    pub(crate) fn attach(self: &Arc<Self>, id: &ContainerId, config: &ExecConfig) -> Result<Begun, RuntimeError> {
        let (record, _) = self.running(id, "be attached to")?;
        let wanted = ExecConfig {
            stdin: config.stdin && record.config.stdin,
            stderr: config.stderr && !record.config.tty,
            tty: false,
            ..config.clone()
        };
        let pipes = Pipes::lay(&wanted).map_err(|error| system("make pipes", error))?;
        for pipe in pipes.theirs.iter().flatten() {
            sys::files::set_pipe_size(pipe, ATTACH_PIPE_BYTES);
        }
        let fds: Vec<BorrowedFd<'_>> = pipes.theirs.iter().flatten().map(AsFd::as_fd).collect();
        let request = Attach { id: id.0.clone(), stdin: wanted.stdin, stdout: wanted.stdout, stderr: wanted.stderr };
        let ended = self.when_ended(&id.0);
        self.ask(&Request::Attach(request), &fds)?;
        drop(fds);
        let [stdin, stdout, stderr] = pipes.ours;
        let (node, container) = (Arc::clone(self), id.0.clone());
        let exit = async move {
            if let Some(ended) = ended {
                let _ = ended.await;
            }
            match node.container(&container)?.life {
                Life::Exited { exit_code, .. } => Ok(exit_code),
                _ => Ok(255),
            }
        }
        .boxed();
        let (node, container) = (Arc::clone(self), id.0.clone());
        let resize = Box::new(move |size: TerminalSize| {
            let keeper = node.keeper.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
            if let Some(client) = keeper {
                let request = Request::Resize { id: container.clone(), columns: size.width, rows: size.height };
                client.ask(&request, &[], |_| ());
            }
        });
        Ok(Begun { id: id.0.clone(), stdin, stdout, stderr, resize, exit })
    }

    /// Connects to a port on the pod's loopback. A thread of its own enters the pod's network and ends with the call.
    pub(crate) fn connect_inside(&self, id: &SandboxId, port: u16) -> Result<OwnedFd, RuntimeError> {
        let record = self.sandbox(&id.0)?;
        let pin = self.sandboxes.folder_of(&id.0).join("net");
        let own_network = record.config.network != NamespaceMode::Node;
        let connect = move || -> io::Result<OwnedFd> {
            if own_network {
                namespace::enter_pinned(&pin, namespace::Kinds::CLONE_NEWNET)?;
            }
            let limit = Duration::from_secs(10);
            let near = |ip: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, port), limit);
            let stream = near(IpAddr::from([127, 0, 0, 1]))
                .or_else(|first| near(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])).map_err(|_| first))?;
            stream.set_nodelay(true)?;
            Ok(stream.into())
        };
        let action = format!("connect to port {port} of pod {}/{}", record.config.namespace, record.config.name);
        let joined = thread::Builder::new().name("port-forward".to_owned()).spawn(connect).map(|thread| thread.join());
        match joined {
            Ok(Ok(connected)) => connected.map_err(|error| system(action, error)),
            Ok(Err(_)) => Err(system(action, "the connecting thread panicked")),
            Err(error) => Err(system(action, error)),
        }
    }

    // Images.

    pub(crate) async fn pull(&self, image: String, auth: Option<RegistryAuth>) -> Result<PulledImage, RuntimeError> {
        let name: oci::Reference = image.parse().map_err(|error| image_error(&image, error))?;
        let credentials = auth.map(|auth| oci::Credentials {
            username: auth.username,
            password: auth.password,
            identity_token: auth.identity_token,
        });
        let pulled = self.puller.pull(&self.images, &name, credentials.as_ref()).await;
        let named = |pulled: oci::Pulled| PulledImage { name: pulled.image.id.to_string(), from: pulled.from };
        pulled.map(named).map_err(|error| image_error(&image, error))
    }

    /// The image that is in no registry.
    pub(crate) fn make_own_image(&self) -> Result<PulledImage, RuntimeError> {
        let name = crate::own::IMAGE.parse().map_err(|error| image_error(crate::own::IMAGE, error))?;
        let made = self.images.add_program(&crate::own::program(), &name);
        made.map(|found| PulledImage { name: found.id.to_string(), from: ImageOrigin::Registry })
            .map_err(|error| image_error(crate::own::IMAGE, error))
    }

    pub(crate) fn image_status(&self, image: &str) -> Option<ImageStatus> {
        self.images.find(image).map(image_status)
    }

    pub(crate) fn list_images(&self) -> Vec<ImageStatus> {
        self.images.list().into_iter().map(image_status).collect()
    }

    pub(crate) fn remove_image(&self, image: &str) -> Result<(), RuntimeError> {
        let in_use: BTreeSet<PathBuf> =
            self.lock().containers.values().flat_map(|container| container.layers.iter().cloned()).collect();
        let removed = self.images.remove(image, &in_use);
        removed.map_err(|error| system(format!("remove image {image}"), error))
    }

    // The machine.

    pub(crate) fn stats(&self, id: &ContainerId) -> Result<Stats, RuntimeError> {
        let record = self.container(&id.0)?;
        if !matches!(record.life, Life::Running { .. }) {
            return Ok(Stats::default());
        }
        let cgroup = self.hierarchy.cgroup(&record.cgroup);
        let counters = cgroup.counters().map_err(|error| system("read a container's counters", error))?;
        Ok(measure::stats(&cgroup, &counters))
    }

    pub(crate) fn shortcomings(&self) -> Vec<String> {
        let mut found = Vec::new();
        let missing = self.hierarchy.missing();
        if !missing.is_empty() {
            let root = self.hierarchy.root().display();
            found.push(format!("cgroup v2 at {root} has no {}: such limits are not enforced", missing.join(", ")));
        }
        if !Path::new("/proc/sys/kernel/seccomp").exists() {
            found.push("the kernel has no seccomp: system calls are not filtered".to_owned());
        }
        let kernel_file_systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !kernel_file_systems.contains("\toverlay\n") {
            found.push("the kernel has no overlayfs loaded: containers may not start".to_owned());
        }
        found
    }
}

/// An attached reader may be behind by so much before it loses its connection.
const ATTACH_PIPE_BYTES: i32 = 1 << 20;

/// A command is begun again so often because the keeper was killed at that moment.
const EXEC_TRIES: usize = 3;

/// How commands in containers are called at the keeper.
const EXEC_PREFIX: &str = "exec-";

fn init_id(sandbox: &str) -> String {
    format!("init-{sandbox}")
}

/// The pipes of a process: our ends and its ends, each for stdin, stdout, stderr.
struct Pipes {
    ours: [Option<OwnedFd>; 3],
    theirs: [Option<OwnedFd>; 3],
}

impl Pipes {
    fn lay(config: &ExecConfig) -> io::Result<Pipes> {
        let mut pipes = Pipes { ours: [None, None, None], theirs: [None, None, None] };
        if config.tty {
            return Ok(pipes);
        }
        for (index, wanted) in [config.stdin, config.stdout, config.stderr].into_iter().enumerate() {
            if wanted {
                let (reader, writer) = io::pipe()?;
                let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
                let (ours, theirs) = if index == 0 { (writer, reader) } else { (reader, writer) };
                (pipes.ours[index], pipes.theirs[index]) = (Some(ours), Some(theirs));
            }
        }
        Ok(pipes)
    }
}

/// What a helper said.
enum Heard {
    /// Nothing but, perhaps, its terminal: the program runs.
    Running(Option<OwnedFd>),
    Failed(Failure),
}

fn hand_over(channel: &OwnedFd, launch: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(launch).map_err(io::Error::other)?;
    match fdpass::send_long(channel, &text, fds) {
        // A helper that died before reading has a reason to give, or an exit code.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        answer => answer,
    }
}

fn hear(channel: &OwnedFd) -> io::Result<Heard> {
    fdpass::set_patience(channel, LAUNCH_LIMIT)?;
    let mut terminal = None;
    let mut buffer = vec![0; fdpass::MESSAGE_BYTES_MAX];
    loop {
        match fdpass::receive(channel, &mut buffer) {
            Ok(None) => return Ok(Heard::Running(terminal)),
            Ok(Some((_, fds))) if !fds.is_empty() => terminal = fds.into_iter().next(),
            Ok(Some((length, _))) => {
                let failure = serde_json::from_slice(&buffer[..length]);
                return Ok(Heard::Failed(failure.unwrap_or_else(Failure::other)));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Heard::Running(terminal)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let why = format!("its mounts were not made within {LAUNCH_LIMIT:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the keeper was killed while it was asked.
fn died_with_keeper(error: &RuntimeError) -> bool {
    let RuntimeError::System { source, .. } = error else { return false };
    matches!(source.downcast_ref(), Some(ClientError::Gone(_)))
}

/// A keeper in another mount namespace starts containers that do not see their pod's namespaces and volumes.
fn sees_our_mounts(keeper: &Client) -> Result<(), RuntimeError> {
    let hello = keeper.call(&Request::Hello, &[]).map_err(|error| system("reach the keeper", error))?;
    let Reply::Hello { pid } = hello else { return Ok(()) };
    let mounts_of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt"));
    match (mounts_of("self"), mounts_of(&pid.to_string())) {
        (Ok(ours), Ok(theirs)) if ours != theirs => {
            let why = format!(
                "it runs (process {pid}) in another mount namespace, so neither sees what the other mounts. `ip netns exec` \
                 makes a new one each time: start with `nsenter --net=/run/netns/NAME` instead; pods that run already are \
                 ended by `skerry cleanup` from within the other one: `nsenter --target {pid} --mount --net`"
            );
            Err(system("use the keeper that runs", why))
        }
        _ => Ok(()),
    }
}

/// What the keeper wrote of an end.
fn read_exit(path: &Path) -> Option<keeper::Exit> {
    #[derive(serde::Deserialize)]
    struct Written {
        code: i32,
        signal: i32,
        finished_at: String,
        oom_killed: bool,
    }
    let written: Written = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    Some(keeper::Exit {
        code: written.code,
        signal: written.signal,
        finished_at_ns: written.finished_at.parse::<Timestamp>().ok()?.0,
        oom_killed: written.oom_killed,
    })
}

fn image_status(image: oci::Image) -> ImageStatus {
    let user = image.config.config.user.split(':').next().unwrap_or_default().to_owned();
    let uid = user.parse().ok();
    ImageStatus {
        id: image.id.to_string(),
        repo_tags: image.names,
        repo_digests: image.digests,
        size: image.size,
        uid,
        username: if uid.is_some() { String::new() } else { user },
        pinned: image.pinned,
    }
}

fn image_error(image: &str, error: oci::OciError) -> RuntimeError {
    match error {
        oci::OciError::Name { detail, .. } => RuntimeError::InvalidImageName { image: image.to_owned(), detail },
        oci::OciError::Platform { wanted, found, .. } => {
            RuntimeError::WrongPlatform { image: image.to_owned(), wanted, found }
        }
        other => RuntimeError::Pull { image: image.to_owned(), source: other.into() },
    }
}

/// Waits for an answer from code that does not await: on the async runtime there is, or one made for it.
fn wait_for<T: Send>(answer: Answer<T>) -> Result<T, RuntimeError> {
    let here = tokio::runtime::Handle::try_current();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| match here {
            Ok(handle) => handle.block_on(answer),
            Err(_) => {
                let own = tokio::runtime::Builder::new_current_thread().enable_all().build();
                own.map_err(|error| system("wait for the pod network", error))?.block_on(answer)
            }
        });
        waiting.join().unwrap_or_else(|_| Err(system("wait for the pod network", "it panicked")))
    })
}
