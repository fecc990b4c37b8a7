//! A runtime without containers, for tests of what sits above: it does what a script says, on the clock it is given.
//!
//! Start at [`FakeRuntime::new`], then [`FakeRuntime::script`]. Move the clock, call [`FakeRuntime::tick`], and look.
//!
//! Invariants:
//! * nothing happens by itself: states change by calls, and by `tick` after the clock was moved;
//! * every call is written down, in order, in words ([`FakeRuntime::calls`]).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base::{Bytes, Clock, Monotonic, Timestamp};
use futures::FutureExt;
use futures::channel::mpsc;
use futures::io::{AllowStdIo, Cursor};

use crate::cri::*;

/// What a container does once started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// It runs until it is stopped, and then ends with this code.
    Forever {
        /// 143 if it dies of SIGTERM, 0 if it handles it.
        exit_code_on_stop: i32,
    },
    /// It ends by itself.
    Ends {
        /// So long after its start.
        after: Duration,
        /// With this code.
        exit_code: i32,
    },
    /// It cannot be started.
    StartFails {
        /// As runc would say it.
        detail: String,
        /// 127, 126 or 128.
        exit_code: i32,
    },
    /// It ignores SIGTERM: a stop takes all of its grace and ends with 137.
    Stubborn,
}

/// What containers of one name do.
#[derive(Clone, Debug)]
pub struct Script {
    /// One entry for each attempt; the last one repeats.
    pub lives: Vec<Life>,
    /// The answer to `exec_sync`, by the command's words joined with blanks; any other command gets exit code 0.
    pub execs: BTreeMap<String, ExecResult>,
}

impl Default for Script {
    fn default() -> Script {
        Script { lives: vec![Life::Forever { exit_code_on_stop: 143 }], execs: BTreeMap::new() }
    }
}

/// The fake. Clones share their state.
#[derive(Clone)]
pub struct FakeRuntime {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    next: u64,
    scripts: BTreeMap<String, Script>,
    sandboxes: BTreeMap<String, SandboxStatus>,
    containers: BTreeMap<String, FakeContainer>,
    images: BTreeMap<String, ImageStatus>,
    pull_errors: BTreeMap<String, String>,
    sandbox_errors: Vec<String>,
    attempts: BTreeMap<(String, String), usize>,
    calls: Vec<String>,
    listeners: Vec<mpsc::UnboundedSender<RuntimeEvent>>,
}

struct FakeContainer {
    status: ContainerStatus,
    config: ContainerConfig,
    pod_uid: String,
    life: Life,
    ends_at: Option<(Monotonic, i32)>,
}

impl FakeRuntime {
    /// A machine with no images, on `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> FakeRuntime {
        FakeRuntime { clock, state: Arc::default() }
    }

    /// Says what containers called `name` do.
    pub fn script(&self, name: &str, script: Script) {
        assert!(!script.lives.is_empty(), "a script has at least one life");
        self.lock().scripts.insert(name.to_owned(), script);
    }

    /// Puts an image on the machine, without a pull.
    pub fn add_image(&self, name: &str) {
        self.lock().add_image(name);
    }

    /// Lets pulls of `name` fail with `why`; `None` lets them succeed again.
    pub fn fail_pulls(&self, name: &str, why: Option<&str>) {
        let mut state = self.lock();
        match why {
            Some(why) => state.pull_errors.insert(name.to_owned(), why.to_owned()),
            None => state.pull_errors.remove(name),
        };
    }

    /// Lets the next sandbox fail with `why`.
    pub fn fail_next_sandbox(&self, why: &str) {
        self.lock().sandbox_errors.push(why.to_owned());
    }

    /// Ends the running containers called `name` now, as a crash would.
    pub fn crash(&self, name: &str, exit_code: i32, reason: &str) {
        let now = self.clock.now();
        let mut state = self.lock();
        let hit: Vec<String> = state.running().filter(|(_, each)| each.status.name == name).map(|(id, _)| id).collect();
        for id in hit {
            state.end(&id, exit_code, now, Some(reason));
        }
    }

    /// Ends sandboxes of this pod behind the kubelet's back, as a power cut would: all its containers with 137.
    pub fn lose_sandbox(&self, pod_uid: &str) {
        let now = self.clock.now();
        let mut state = self.lock();
        let mut lost = Vec::new();
        for sandbox in state.sandboxes.values_mut().filter(|each| each.config.uid == pod_uid) {
            sandbox.state = SandboxState::NotReady;
            lost.push(sandbox.id.0.clone());
        }
        for id in lost {
            state.end_all_in(&id, now);
        }
    }

    /// Lets everything that is due by now happen.
    pub fn tick(&self) {
        let (now, stopwatch) = (self.clock.now(), self.clock.monotonic());
        let mut state = self.lock();
        let due: Vec<(String, i32)> = state
            .running()
            .filter_map(|(id, each)| each.ends_at.filter(|(at, _)| *at <= stopwatch).map(|(_, code)| (id, code)))
            .collect();
        for (id, exit_code) in due {
            state.end(&id, exit_code, now, None);
        }
    }

    /// Every call so far, such as `run_sandbox default/web`, `start_container web/app#0`.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// What container `name` was last made from.
    pub fn config_of(&self, name: &str) -> Option<ContainerConfig> {
        let state = self.lock();
        let newest = state.containers.values().rfind(|each| each.status.name == name);
        newest.map(|each| each.config.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs `act` now and hands out its answer as the trait wants it.
    fn answer<T: Send + 'static>(&self, act: impl FnOnce(&mut State) -> Result<T, RuntimeError>) -> Answer<T> {
        let answer = act(&mut self.lock());
        async move { answer }.boxed()
    }

    fn streams(&self, stdout: Vec<u8>, stderr: Vec<u8>, exit_code: i32, config: &ExecConfig) -> Streams {
        Streams {
            stdin: config.stdin.then(|| Box::new(AllowStdIo::new(std::io::sink())) as Input),
            stdout: config.stdout.then(|| Box::new(Cursor::new(stdout)) as Output),
            stderr: (config.stderr && !config.tty).then(|| Box::new(Cursor::new(stderr)) as Output),
            resize: Box::new(|_| ()),
            exit: async move { Ok(exit_code) }.boxed(),
        }
    }
}

impl State {
    fn id(&mut self, what: &str) -> String {
        self.next += 1;
        format!("{what}-{:06}", self.next)
    }

    fn add_image(&mut self, name: &str) -> String {
        let id = format!("sha256:{name}");
        let status = ImageStatus {
            id: id.clone(),
            repo_tags: vec![name.to_owned()],
            repo_digests: Vec::new(),
            size: Bytes::mib(1),
            uid: None,
            username: String::new(),
            pinned: false,
        };
        self.images.insert(name.to_owned(), status);
        id
    }

    fn image(&self, name: &str) -> Option<&ImageStatus> {
        self.images.values().find(|image| image.id == name || image.repo_tags.iter().any(|tag| tag == name))
    }

    fn running(&self) -> impl Iterator<Item = (String, &FakeContainer)> {
        let is_running = |each: &&FakeContainer| matches!(each.status.state, ContainerState::Running { .. });
        self.containers.values().filter(is_running).map(|each| (each.status.id.0.clone(), each))
    }

    fn container(&mut self, id: &ContainerId) -> Result<&mut FakeContainer, RuntimeError> {
        let missing = || RuntimeError::NotFound { what: "container", id: id.0.clone() };
        self.containers.get_mut(&id.0).ok_or_else(missing)
    }

    fn end(&mut self, id: &str, exit_code: i32, now: Timestamp, reason: Option<&str>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let ContainerState::Running { started_at } = container.status.state else { return };
        let reason = reason.unwrap_or(if exit_code == 0 { "Completed" } else { "Error" }).to_owned();
        container.status.pid = None;
        container.status.state = ContainerState::Exited {
            started_at: Some(started_at),
            finished_at: now,
            exit_code,
            signal: (exit_code > 128).then_some(exit_code - 128),
            reason,
            message: String::new(),
        };
        let pod_uid = container.pod_uid.clone();
        self.tell(&pod_uid);
    }

    fn end_all_in(&mut self, sandbox: &str, now: Timestamp) {
        let inside: Vec<String> =
            self.running().filter(|(_, each)| each.status.sandbox.0 == sandbox).map(|(id, _)| id).collect();
        for id in inside {
            self.end(&id, 137, now, None);
        }
    }

    fn tell(&mut self, pod_uid: &str) {
        let event = RuntimeEvent { pod_uid: pod_uid.to_owned() };
        self.listeners.retain(|listener| listener.unbounded_send(event.clone()).is_ok());
    }

    fn execute(&mut self, id: &ContainerId, command: &[String]) -> Result<ExecResult, RuntimeError> {
        let container = self.container(id)?;
        if !matches!(container.status.state, ContainerState::Running { .. }) {
            let state = "not running".to_owned();
            return Err(RuntimeError::State { what: "container", id: id.0.clone(), state, action: "exec" });
        }
        let name = container.status.name.clone();
        let words = command.join(" ");
        self.calls.push(format!("exec {name}: {words}"));
        let scripted = self.scripts.get(&name).and_then(|script| script.execs.get(&words));
        Ok(scripted.cloned().unwrap_or(ExecResult { stdout: Vec::new(), stderr: Vec::new(), exit_code: 0 }))
    }
}

impl Runtime for FakeRuntime {
    fn run_sandbox(&self, config: SandboxConfig) -> Answer<SandboxId> {
        let now = self.clock.now();
        self.answer(|state| {
            state.calls.push(format!("run_sandbox {}/{}", config.namespace, config.name));
            if let Some(why) = state.sandbox_errors.pop() {
                let action = format!("make sandbox of pod {}/{}", config.namespace, config.name);
                return Err(RuntimeError::System { action, source: why.into() });
            }
            let id = SandboxId(state.id("sandbox"));
            let last = state.next;
            let address = IpAddr::from([10, 42, (last >> 8) as u8, last as u8]);
            let ips = if config.network == NamespaceMode::Node { Vec::new() } else { vec![address] };
            let uid = config.uid.clone();
            let status = SandboxStatus { id: id.clone(), config, state: SandboxState::Ready, created_at: now, ips };
            state.sandboxes.insert(id.0.clone(), status);
            state.tell(&uid);
            Ok(id)
        })
    }

    fn stop_sandbox(&self, id: SandboxId) -> Answer<()> {
        let now = self.clock.now();
        self.answer(|state| {
            let Some(sandbox) = state.sandboxes.get_mut(&id.0) else { return Ok(()) };
            sandbox.state = SandboxState::NotReady;
            let (uid, name) = (sandbox.config.uid.clone(), sandbox.config.name.clone());
            state.calls.push(format!("stop_sandbox {name}"));
            state.end_all_in(&id.0, now);
            state.tell(&uid);
            Ok(())
        })
    }

    fn remove_sandbox(&self, id: SandboxId) -> Answer<()> {
        self.answer(|state| {
            if let Some(sandbox) = state.sandboxes.remove(&id.0) {
                state.calls.push(format!("remove_sandbox {}", sandbox.config.name));
                state.containers.retain(|_, each| each.status.sandbox != id);
                state.tell(&sandbox.config.uid);
            }
            Ok(())
        })
    }

    fn list_sandboxes(&self) -> Answer<Vec<SandboxStatus>> {
        self.answer(|state| Ok(state.sandboxes.values().cloned().collect()))
    }

    fn create_container(&self, sandbox: SandboxId, config: ContainerConfig) -> Answer<ContainerId> {
        let now = self.clock.now();
        self.answer(|state| {
            let missing = |what, id: &str| RuntimeError::NotFound { what, id: id.to_owned() };
            let pod = state.sandboxes.get(&sandbox.0).ok_or_else(|| missing("sandbox", &sandbox.0))?.config.clone();
            let image = state.image(&config.image).ok_or_else(|| missing("image", &config.image))?.id.clone();
            state.calls.push(format!("create_container {}/{}#{}", pod.name, config.name, config.attempt));
            let id = ContainerId(state.id("container"));
            let turn = state.attempts.entry((pod.uid.clone(), config.name.clone())).or_default();
            let script = state.scripts.get(&config.name).cloned().unwrap_or_default();
            let life = script.lives[(*turn).min(script.lives.len() - 1)].clone();
            *turn += 1;
            let status = ContainerStatus {
                id: id.clone(),
                sandbox,
                name: config.name.clone(),
                attempt: config.attempt,
                state: ContainerState::Created,
                created_at: now,
                image: config.image.clone(),
                image_id: image,
                pid: None,
                log_path: log_path(&pod, &config.name, config.attempt),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            };
            let made = FakeContainer { status, config, pod_uid: pod.uid, life, ends_at: None };
            state.containers.insert(id.0.clone(), made);
            Ok(id)
        })
    }

    fn start_container(&self, id: ContainerId) -> Answer<()> {
        let (now, stopwatch) = (self.clock.now(), self.clock.monotonic());
        self.answer(|state| {
            let pid = state.next as u32 + 1000;
            let container = state.container(&id)?;
            let words = format!("start_container {}#{}", container.status.name, container.status.attempt);
            let (name, pod_uid) = (container.status.name.clone(), container.pod_uid.clone());
            let mut failure = None;
            match container.life.clone() {
                Life::StartFails { detail, exit_code } => {
                    container.status.state = ContainerState::Exited {
                        started_at: None,
                        finished_at: now,
                        exit_code,
                        signal: None,
                        reason: "StartError".to_owned(),
                        message: detail.clone(),
                    };
                    failure = Some(RuntimeError::Start { container: name, detail, exit_code });
                }
                life => {
                    container.status.state = ContainerState::Running { started_at: now };
                    container.status.pid = Some(pid);
                    if let Life::Ends { after, exit_code } = life {
                        container.ends_at = Some((stopwatch.plus(after), exit_code));
                    }
                }
            }
            state.calls.push(words);
            state.tell(&pod_uid);
            failure.map_or(Ok(()), Err)
        })
    }

    fn stop_container(&self, id: ContainerId, grace: Duration) -> Answer<()> {
        let (now, stopwatch) = (self.clock.now(), self.clock.monotonic());
        self.answer(|state| {
            let Some(container) = state.containers.get_mut(&id.0) else { return Ok(()) };
            let words = format!("stop_container {}#{}", container.status.name, container.status.attempt);
            let exit_code = match container.life {
                Life::Forever { exit_code_on_stop } => exit_code_on_stop,
                Life::Stubborn if !grace.is_zero() => {
                    container.ends_at = Some((stopwatch.plus(grace), 137));
                    state.calls.push(words);
                    return Ok(());
                }
                Life::Stubborn => 137,
                _ => 143,
            };
            state.calls.push(words);
            state.end(&id.0, exit_code, now, None);
            Ok(())
        })
    }

    fn remove_container(&self, id: ContainerId) -> Answer<()> {
        self.answer(|state| {
            if let Some(container) = state.containers.remove(&id.0) {
                state.calls.push(format!("remove_container {}#{}", container.status.name, container.status.attempt));
                state.tell(&container.pod_uid);
            }
            Ok(())
        })
    }

    fn list_containers(&self) -> Answer<Vec<ContainerStatus>> {
        self.answer(|state| Ok(state.containers.values().map(|each| each.status.clone()).collect()))
    }

    fn update_resources(&self, id: ContainerId, resources: Resources) -> Answer<()> {
        self.answer(|state| {
            state.container(&id)?.config.resources = resources;
            Ok(())
        })
    }

    fn reopen_log(&self, id: ContainerId) -> Answer<()> {
        self.answer(|state| {
            let name = state.container(&id)?.status.name.clone();
            state.calls.push(format!("reopen_log {name}"));
            Ok(())
        })
    }

    fn exec_sync(&self, id: ContainerId, command: Vec<String>, _timeout: Duration) -> Answer<ExecResult> {
        self.answer(|state| state.execute(&id, &command))
    }

    fn exec(&self, id: ContainerId, config: ExecConfig) -> Answer<Streams> {
        let result = self.lock().execute(&id, &config.command);
        let answer = result.map(|found| self.streams(found.stdout, found.stderr, found.exit_code, &config));
        async move { answer }.boxed()
    }

    fn attach(&self, id: ContainerId, config: ExecConfig) -> Answer<Streams> {
        let found = self.lock().container(&id).map(|_| ());
        let answer = found.map(|()| self.streams(Vec::new(), Vec::new(), 0, &config));
        async move { answer }.boxed()
    }

    fn port_forward(&self, sandbox: SandboxId, port: u16) -> Answer<(Output, Input)> {
        let found = self.lock().sandboxes.contains_key(&sandbox.0);
        async move {
            if !found {
                return Err(RuntimeError::NotFound { what: "sandbox", id: sandbox.0 });
            }
            let greeting = format!("port {port}\n").into_bytes();
            Ok((Box::new(Cursor::new(greeting)) as Output, Box::new(AllowStdIo::new(std::io::sink())) as Input))
        }
        .boxed()
    }

    fn pull_image(&self, image: String, _auth: Option<RegistryAuth>) -> Answer<PulledImage> {
        self.answer(|state| {
            state.calls.push(format!("pull_image {image}"));
            if let Some(why) = state.pull_errors.get(&image) {
                return Err(RuntimeError::Pull { image, source: why.clone().into() });
            }
            Ok(PulledImage { name: state.add_image(&image), from: ImageOrigin::Registry })
        })
    }

    fn image_status(&self, image: String) -> Answer<Option<ImageStatus>> {
        self.answer(|state| Ok(state.image(&image).cloned()))
    }

    fn list_images(&self) -> Answer<Vec<ImageStatus>> {
        self.answer(|state| Ok(state.images.values().cloned().collect()))
    }

    fn remove_image(&self, image: String) -> Answer<()> {
        self.answer(|state| {
            state.calls.push(format!("remove_image {image}"));
            state.images.retain(|name, status| *name != image && status.id != image);
            Ok(())
        })
    }

    fn container_stats(&self, id: ContainerId) -> Answer<Stats> {
        self.answer(|state| {
            state.container(&id)?;
            Ok(Stats {
                cpu: Duration::from_millis(10),
                memory_working_set: Some(Bytes::mib(1)),
                pids: 1,
                ..Stats::default()
            })
        })
    }

    fn shortcomings(&self) -> Vec<String> {
        Vec::new()
    }

    fn events(&self) -> futures::stream::BoxStream<'static, RuntimeEvent> {
        let (sender, receiver) = mpsc::unbounded();
        self.lock().listeners.push(sender);
        Box::pin(receiver)
    }
}

/// Where a container's log lies, as the CRI has it.
pub(crate) fn log_path(pod: &SandboxConfig, container: &str, attempt: u32) -> PathBuf {
    pod.log_directory.join(container).join(format!("{attempt}.log"))
}

#[cfg(test)]
mod tests {
    use base::ManualClock;
    use futures::StreamExt;

    use super::*;

    /// The fake's answers are there at once.
    fn block_on<F: Future>(future: F) -> F::Output {
        future.now_or_never().expect("the fake never waits")
    }

    fn started(runtime: &FakeRuntime, name: &str) -> ContainerId {
        runtime.add_image("busybox");
        let sandbox = block_on(runtime.run_sandbox(SandboxConfig { uid: "u".into(), ..Default::default() }));
        let config = ContainerConfig { name: name.into(), image: "busybox".into(), ..Default::default() };
        let id = block_on(runtime.create_container(sandbox.expect("a sandbox"), config)).expect("a container");
        let _ = block_on(runtime.start_container(id.clone()));
        id
    }

    fn state_of(runtime: &FakeRuntime, id: &ContainerId) -> ContainerState {
        let all = block_on(runtime.list_containers()).expect("a list");
        all.into_iter().find(|each| each.id == *id).expect("listed").state
    }

    #[test]
    fn a_container_ends_when_the_clock_says_so() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(100)));
        let runtime = FakeRuntime::new(clock.clone());
        let lives = vec![Life::Ends { after: Duration::from_secs(5), exit_code: 3 }];
        runtime.script("job", Script { lives, ..Script::default() });
        let mut events = runtime.events();
        let id = started(&runtime, "job");
        clock.advance(Duration::from_secs(4));
        runtime.tick();
        assert!(matches!(state_of(&runtime, &id), ContainerState::Running { .. }));
        clock.advance(Duration::from_secs(1));
        runtime.tick();
        assert!(matches!(state_of(&runtime, &id), ContainerState::Exited { exit_code: 3, .. }));
        assert_eq!(block_on(events.next()), Some(RuntimeEvent { pod_uid: "u".into() }));
    }

    #[test]
    fn a_failed_start_is_an_exit_with_its_reason() {
        let runtime = FakeRuntime::new(Arc::new(ManualClock::default()));
        let lives = vec![Life::StartFails { detail: "no such file".into(), exit_code: 127 }];
        runtime.script("bad", Script { lives, ..Script::default() });
        let id = started(&runtime, "bad");
        assert!(matches!(state_of(&runtime, &id), ContainerState::Exited { exit_code: 127, started_at: None, .. }));
    }
}
