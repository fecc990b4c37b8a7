//! One pod's own loop: looks, asks [`crate::step`] what to do, does it, and shows the status.
//!
//! Start at [`Worker::run`]. Whatever takes time runs beside the loop and reports back as an [`Outcome`], so that a
//! deletion is never held up by a pull or a hook.
//!
//! Invariants:
//! * one loop a pod; nothing else acts on the pod;
//! * the status is sent when it changed, one patch at a time, the newest last.
//!
//! Not here: deciding (`step`), the shown status (`status`), which pods there are (`run`).

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Monotonic, chain};
use client::{Client, DeleteOptions, Kind as _};
use k8s_openapi::api::core::v1::{Pod, PodStatus, Secret, Service, Volume};
use runtime::{
    ContainerId, ContainerState, ContainerStatus, ImageOrigin, Mount, MountPropagation, PulledImage, Runtime,
    RuntimeError, SandboxId, SandboxState,
};
use tokio::sync::{Mutex, Notify, Semaphore, mpsc, watch};
use tokio::task::AbortHandle;

use crate::Options;
use crate::action::{self, Target};
use crate::checkpoint::{Checkpoint, Checkpoints};
use crate::events::Events;
use crate::image::{self, Decision};
use crate::lifecycle::Lifecycle;
use crate::logs;
use crate::make::{self, ConfigError, Source as _};
use crate::objects::{Followed, Objects, Token, Tokens, renew_tokens};
use crate::pod::{Member, PodInfo, Role, one_of_each_family};
use crate::probe::{self, Rhythm, Track};
use crate::status::{self, Facts};
use crate::step::{self, Action, Backoff, Condemned, Memory, Note, Now, Observed, StopCause, Task, Verdict, Waiting};
use crate::tasks::Tasks;
use crate::volumes::{self, Found, Leaving, VolumeError};

/// The least time a container has between its preStop hook and the end; upstream's.
const GRACE_MIN: Duration = Duration::from_secs(2);
/// How long a killed container may take before it is asked what it waits for.
const KILLED_WITHIN: Duration = Duration::from_secs(2);
/// How long `ErrImagePull` is shown before `ImagePullBackOff`.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(3);
/// How often a pod is looked at although nothing was heard of it.
const RESYNC: Duration = Duration::from_secs(600);
/// How long a container that could not be described or made waits, unless one of its objects changes.
const RETRY: Duration = Duration::from_secs(10);
/// How long a container waits for the first list of Services.
const SERVICES_WAIT: Duration = Duration::from_secs(5);
/// How soon a status that was not taken is sent again, at first and at most.
const SEND_PAUSE: Duration = Duration::from_secs(1);
const SEND_PAUSE_MAX: Duration = Duration::from_secs(8);
/// A token that was remembered may have run out, but first the pod is started with it.
const TOKEN_REST: Duration = Duration::from_secs(1);
/// How often an emptyDir with a limit is measured; upstream's.
const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// The longest postStart hook.
const POST_START_MAX: Duration = Duration::from_secs(3600);

/// What all pods of this node share.
pub struct Node {
    /// What `skerry` said.
    pub options: Options,
    /// The API.
    pub client: Client,
    /// The containers.
    pub runtime: Arc<dyn Runtime>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// ConfigMaps and Secrets.
    pub objects: Objects,
    /// All Services.
    pub services: Arc<client::Cache>,
    /// Where events are told.
    pub events: Events,
    /// The node's own resolver.
    pub resolver: make::network::Resolver,
    /// What the node can give, in thousandths.
    pub allocatable_milli: BTreeMap<String, i128>,
    /// Pulls at a time.
    pub pulls: Semaphore,
    /// The images of this node as other nodes see them.
    pub(crate) sharing: crate::sharing::Sharing,
    /// Who may use the HTTPS API.
    pub(crate) access: crate::access::Access,
    /// Pods that get no more time.
    pub(crate) leaving: Leaving,
    /// Tasks that end with the kubelet.
    pub tasks: Tasks,
    /// What the node remembers.
    pub checkpoints: Option<Arc<Checkpoints>>,
}

impl Node {
    /// The pod's own folder.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.options.data_dir.join("pods").join(uid)
    }

    fn now(&self) -> Now {
        Now { wall: self.clock.now(), mono: self.clock.monotonic() }
    }
}

/// What the API says of the pod.
#[derive(Clone)]
pub enum Update {
    /// It is this.
    Pod(Arc<PodInfo>),
    /// It is gone.
    Gone,
}

/// How the node knows of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The API shows it.
    Api,
    /// The node remembers it, and the API was not heard yet.
    Memory,
    /// Something of it is still here, and nobody knows it: it is only cleaned up.
    Nobody,
}

/// The way to a pod's loop.
pub struct Handle {
    /// What the API says.
    pub updates: watch::Sender<Update>,
    /// Told when the runtime says that something of the pod changed.
    pub changed: Arc<Notify>,
    /// The pod as its loop sees it.
    pub shown: watch::Receiver<Arc<PodInfo>>,
}

enum StartFailure {
    Pull { reason: &'static str, message: String },
    Config(String),
    Create(String),
    Run(String),
    Hook(String),
}

enum Outcome {
    Volumes(Result<Option<Monotonic>, String>),
    Refreshed(Option<Monotonic>),
    Sandbox(Result<(), String>),
    Started(String, Result<(), StartFailure>),
    Stopped(ContainerId, bool),
    Quiet(Task),
    Unmounted(Result<(), String>),
    Deleted(Result<(), String>),
    Forgotten(Result<(), String>),
    Overfull(String),
    Probed(ContainerId, probe::Kind, bool, String),
    PullAged(String),
    StatusSent(Box<PodStatus>, Result<(), String>),
    Kept,
}

/// What tasks of one pod share.
struct Gear {
    followed: Option<Followed>,
    tokens: Tokens,
    recalled: Option<Arc<Checkpoint>>,
    /// What claims and exports among its volumes are.
    found: Found,
}

/// One pod's loop.
pub struct Worker {
    node: Arc<Node>,
    pod: PodInfo,
    memory: Memory,
    gear: Arc<Mutex<Gear>>,
    /// What the API has of the status.
    sent: PodStatus,
    sending: bool,
    send_again_at: Option<Monotonic>,
    send_pause: Duration,
    send_failures: u32,
    /// The API was not heard yet, so what it has of the status is not known.
    unheard: bool,
    /// Something changed that may have to be remembered.
    to_keep: bool,
    keeping: bool,
    refresh_at: Option<Monotonic>,
    probes: BTreeMap<(ContainerId, probe::Kind), AbortHandle>,
    measuring: Option<AbortHandle>,
    messages: BTreeMap<ContainerId, Option<String>>,
    adopted: bool,
    outcomes: mpsc::UnboundedSender<Outcome>,
    heard: mpsc::UnboundedReceiver<Outcome>,
    changed: Arc<Notify>,
    objects_changed: Arc<Notify>,
    shown: watch::Sender<Arc<PodInfo>>,
}

/// Makes a pod's loop.
pub fn start(node: &Arc<Node>, pod: Arc<PodInfo>, origin: Origin) -> Handle {
    let (updates, listen) = watch::channel(Update::Pod(pod.clone()));
    let (shown, shows) = watch::channel(pod.clone());
    let (outcomes, heard) = mpsc::unbounded_channel();
    let changed = Arc::new(Notify::new());
    let mut memory = Memory { object_gone: origin == Origin::Nobody, ..Memory::default() };
    if let Some(name) = make::security::forbidden_sysctl(&pod).filter(|_| !pod.ended()) {
        let message = format!("forbidden sysctl: \"{name}\" not allowlisted");
        node.events
            .pod(&pod, Note { warning: true, reason: "SysctlForbidden", message: message.clone(), container: None });
        memory.stop = Some(StopCause { reason: "SysctlForbidden".to_owned(), message });
    }
    let worker = Worker {
        node: node.clone(),
        sent: pod.pod.status.clone().unwrap_or_default(),
        pod: (*pod).clone(),
        memory,
        gear: Arc::new(Mutex::new(gear(node, &pod, origin))),
        sending: false,
        send_again_at: None,
        send_pause: SEND_PAUSE,
        send_failures: 0,
        unheard: origin == Origin::Memory,
        to_keep: false,
        keeping: false,
        refresh_at: None,
        probes: BTreeMap::new(),
        measuring: None,
        messages: BTreeMap::new(),
        adopted: false,
        outcomes,
        heard,
        changed: changed.clone(),
        objects_changed: Arc::new(Notify::new()),
        shown,
    };
    node.tasks.spawn(worker.run(listen));
    Handle { updates, changed, shown: shows }
}

/// With what the node remembers of the pod, while it knows nothing better.
fn gear(node: &Node, pod: &PodInfo, origin: Origin) -> Gear {
    let recalled = node.checkpoints.as_ref().filter(|_| origin == Origin::Memory);
    let recalled = recalled.and_then(|checkpoints| checkpoints.recall(&pod.uid));
    let renew_at = node.clock.monotonic().plus(TOKEN_REST);
    let token = |(volume, path, value): &(String, String, String)| {
        ((volume.clone(), path.clone()), Token { value: value.clone(), renew_at })
    };
    let tokens = recalled.iter().flat_map(|checkpoint| &checkpoint.tokens).map(token).collect();
    let found = volumes::origin::remembered(&node.pod_dir(&pod.uid));
    Gear { followed: None, tokens, recalled, found }
}

impl Worker {
    async fn run(mut self, mut updates: watch::Receiver<Update>) {
        let (changed, objects_changed) = (self.changed.clone(), self.objects_changed.clone());
        loop {
            let wake_at = self.turn().await;
            if self.memory.lifecycle == Lifecycle::Gone {
                break;
            }
            let wait = wake_at.since(self.node.clock.monotonic());
            tokio::select! {
                _ = changed.notified() => {}
                _ = objects_changed.notified() => self.objects_changed(),
                Ok(()) = updates.changed() => {
                    let update = updates.borrow_and_update().clone();
                    self.update(update);
                }
                Some(outcome) = self.heard.recv() => self.settle(outcome),
                () = tokio::time::sleep(wait) => {}
            }
            while let Ok(outcome) = self.heard.try_recv() {
                self.settle(outcome);
            }
        }
        self.probes.values().for_each(AbortHandle::abort);
        self.measuring.iter().for_each(AbortHandle::abort);
    }

    fn update(&mut self, update: Update) {
        let Update::Pod(pod) = update else {
            self.memory.object_gone = true;
            self.memory.retry.remove(&Task::Forget);
            return;
        };
        let mut next = (*pod).clone();
        let theirs = next.pod.status.take().unwrap_or_default();
        if std::mem::take(&mut self.unheard) {
            self.sent = theirs.clone();
            self.send_again_at = None;
            let gear = self.gear.clone();
            self.node.tasks.spawn(async move { gear.lock().await.recalled = None });
        }
        self.to_keep = true;
        let ours = self.pod.pod.status.take().unwrap_or_default();
        let labels_changed = next.pod.metadata.labels != self.pod.pod.metadata.labels
            || next.pod.metadata.annotations != self.pod.pod.metadata.annotations;
        next.pod.status = Some(status::heard(ours, theirs, &mut self.sent));
        self.pod = next;
        if labels_changed {
            self.refresh_at = Some(Monotonic(0));
        }
    }

    fn objects_changed(&mut self) {
        self.refresh_at = Some(Monotonic(0));
        self.memory.retry.remove(&Task::Volumes);
        self.memory.waiting.retain(|_, waiting| waiting.reason != "CreateContainerConfigError");
    }

    /// Looks, decides, acts. Says when to look again at the latest.
    async fn turn(&mut self) -> Monotonic {
        let now = self.node.now();
        let Some(seen) = self.look().await else {
            return now.mono.plus(Duration::from_secs(1));
        };
        self.adopt(&seen);
        let plan = step::step(&self.pod, &seen, &mut self.memory, now);
        for note in plan.notes {
            if !self.memory.object_gone {
                self.node.events.pod(&self.pod, note);
            }
        }
        self.sync_probes(&seen);
        self.keep();
        let deleting = plan.actions.contains(&Action::DeleteObject);
        self.show(&seen, now, !deleting);
        for action in plan.actions {
            self.memory.busy.insert(action.task());
            self.act(action, &seen);
        }
        let mut wake_at = now.mono.plus(RESYNC);
        let refresh =
            self.refresh_at.filter(|_| self.memory.volumes_ready && self.memory.lifecycle < Lifecycle::Terminating);
        if refresh.is_some_and(|at| at <= now.mono) {
            self.refresh();
        }
        for at in
            [plan.wake_at, self.send_again_at, self.refresh_at.filter(|_| refresh.is_some())].into_iter().flatten()
        {
            if at > now.mono {
                wake_at = wake_at.min(at);
            }
        }
        wake_at
    }

    /// Remembers the pod if something of it changed, once it has all that it takes to start it again.
    fn keep(&mut self) {
        let Some(checkpoints) = self.node.checkpoints.clone() else { return };
        let has_ended = self.memory.lifecycle == Lifecycle::Ended && self.pod.ended();
        let may = (self.memory.volumes_ready || has_ended) && !self.memory.object_gone && !self.memory.object_deleted;
        if !may || !self.to_keep || self.keeping {
            return;
        }
        (self.to_keep, self.keeping) = (false, true);
        let (pod, gear, outcomes) = (self.pod.pod.clone(), self.gear.clone(), self.outcomes.clone());
        self.node.tasks.spawn(async move {
            let checkpoint = {
                let gear = gear.lock().await;
                let objects = gear.followed.as_ref().map(Followed::objects).unwrap_or_default();
                let tokens = gear.tokens.iter();
                let tokens = tokens.map(|((volume, path), token)| (volume.clone(), path.clone(), token.value.clone()));
                Checkpoint::new(pod, objects, tokens.collect())
            };
            let kept = tokio::task::spawn_blocking(move || checkpoints.keep(&checkpoint)).await;
            if let Ok(Err(error)) = kept {
                tracing::warn!(error = %chain(&error), "a pod is not remembered in its newest version");
            }
            let _ = outcomes.send(Outcome::Kept);
        });
    }

    async fn look(&mut self) -> Option<Observed> {
        let sandboxes = self.node.runtime.list_sandboxes().await;
        let containers = self.node.runtime.list_containers().await;
        match (sandboxes, containers) {
            (Ok(mut sandboxes), Ok(mut containers)) => {
                sandboxes.retain(|sandbox| sandbox.config.uid == self.pod.uid);
                let ours: BTreeSet<&SandboxId> = sandboxes.iter().map(|sandbox| &sandbox.id).collect();
                containers.retain(|container| ours.contains(&container.sandbox));
                Some(Observed { sandboxes, containers })
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(pod = %self.pod.full_name(), error = %chain(&error), "the runtime does not answer");
                None
            }
        }
    }

    /// Takes over what an earlier kubelet knew of running containers, so that they do not become unready meanwhile.
    fn adopt(&mut self, seen: &Observed) {
        if std::mem::replace(&mut self.adopted, true) {
            return;
        }
        let before = [&self.sent.container_statuses, &self.sent.init_container_statuses];
        for earlier in before.into_iter().flat_map(|list| list.iter().flatten()) {
            let Some(container) = seen.latest(&earlier.name) else { continue };
            let same = earlier.container_id.as_deref().is_some_and(|id| id.ends_with(&container.id.0));
            if same {
                let verdict = Verdict { started: earlier.started == Some(true), ready: earlier.ready };
                self.memory.verdicts.insert(container.id.clone(), verdict);
            }
        }
    }

    fn show(&mut self, seen: &Observed, now: Now, may_send: bool) {
        if self.memory.object_gone || self.memory.object_deleted {
            return;
        }
        self.read_messages(seen);
        let messages = &self.messages;
        let scheme = self.node.options.runtime_version.split("://").next().unwrap_or("skerry").to_owned();
        let host_ips = self.node.options.own_addresses();
        let facts = Facts {
            seen,
            memory: &self.memory,
            message: &|container| messages.get(&container.id).cloned().flatten(),
            host_ips: &host_ips,
            scheme: &scheme,
            now: now.wall,
        };
        let next = status::status(&self.pod, &facts);
        self.pod.pod.status = Some(next.clone());
        let shown = Arc::new(self.pod.clone());
        self.shown.send_replace(shown);
        let due = self.send_again_at.is_none_or(|at| at <= now.mono);
        if !may_send || self.sending || !due || status::is_same(&next, &self.sent) {
            return;
        }
        self.sending = true;
        self.send_again_at = None;
        let (client, outcomes) = (self.node.client.clone(), self.outcomes.clone());
        let patch = status::patch(&self.pod.uid, &self.sent, &next);
        let (namespace, name) = (self.pod.namespace.clone(), self.pod.name.clone());
        self.node.tasks.spawn(async move {
            let done = send_status(&client, &namespace, &name, &patch).await;
            let _ = outcomes.send(Outcome::StatusSent(Box::new(next), done));
        });
    }

    fn read_messages(&mut self, seen: &Observed) {
        self.messages.retain(|id, _| seen.containers.iter().any(|container| container.id == *id));
        for container in &seen.containers {
            if let ContainerState::Exited { exit_code, .. } = container.state
                && !self.messages.contains_key(&container.id)
            {
                let message = termination_message(container, exit_code);
                self.messages.insert(container.id.clone(), message);
            }
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        let now = self.node.clock.monotonic();
        match outcome {
            Outcome::Volumes(result) => {
                self.memory.busy.remove(&Task::Volumes);
                match result {
                    Ok(renew_at) => {
                        self.memory.volumes_ready = true;
                        self.to_keep = true;
                        self.watch_limits();
                        self.memory.retry.remove(&Task::Volumes);
                        self.refresh_at = renew_at;
                    }
                    Err(message) => {
                        self.warn("FailedMount", None, message);
                        self.memory.failed(Task::Volumes, now);
                    }
                }
            }
            Outcome::Refreshed(renew_at) => {
                self.refresh_at = renew_at;
                self.to_keep = true;
            }
            Outcome::Sandbox(result) => {
                self.memory.busy.remove(&Task::Sandbox);
                match result {
                    Ok(()) => drop(self.memory.retry.remove(&Task::Sandbox)),
                    Err(message) => {
                        self.warn("FailedCreatePodSandBox", None, format!("Failed to create pod sandbox: {message}"));
                        self.memory.failed(Task::Sandbox, now);
                    }
                }
            }
            Outcome::Started(name, result) => self.settle_start(name, result, now),
            Outcome::Stopped(id, stopped) => {
                self.memory.busy.remove(&Task::Stop(id.clone()));
                if !stopped {
                    self.memory.stopping.remove(&id);
                }
            }
            Outcome::Quiet(task) => drop(self.memory.busy.remove(&task)),
            Outcome::Unmounted(result) => {
                self.memory.busy.remove(&Task::Volumes);
                self.memory.unmounted = result.is_ok();
                self.memory.volumes_ready = false;
                self.check(result, Task::Volumes, now);
            }
            Outcome::Deleted(result) => {
                self.memory.busy.remove(&Task::Object);
                self.memory.object_deleted = result.is_ok();
                self.check(result, Task::Object, now);
            }
            Outcome::Forgotten(result) => {
                self.memory.busy.remove(&Task::Forget);
                self.memory.forgotten = result.is_ok();
                self.check(result, Task::Forget, now);
            }
            Outcome::Overfull(message) => {
                self.warn("Evicted", None, message.clone());
                self.memory.stop.get_or_insert(StopCause { reason: "Evicted".to_owned(), message });
            }
            Outcome::Probed(id, kind, success, message) => self.settle_probe(id, kind, success, message),
            Outcome::PullAged(name) => self.pull_aged(&name),
            Outcome::StatusSent(status, done) => {
                self.sending = false;
                // That it is over must be remembered.
                self.to_keep |= self.pod.ended();
                match done {
                    Ok(()) => {
                        self.sent = *status;
                        (self.send_pause, self.send_failures) = (SEND_PAUSE, 0);
                    }
                    Err(error) => self.not_sent(&error, now),
                }
            }
            Outcome::Kept => self.keeping = false,
        }
    }

    /// The server may be away for days: it is asked less often, and the log told less often still.
    fn not_sent(&mut self, error: &str, now: Monotonic) {
        self.send_again_at = Some(now.plus(self.send_pause));
        self.send_pause = (self.send_pause * 2).min(SEND_PAUSE_MAX);
        self.send_failures = self.send_failures.saturating_add(1);
        if self.send_failures.is_power_of_two() {
            let times = self.send_failures;
            tracing::warn!(pod = %self.pod.full_name(), times, error, "the status was not taken");
        }
    }

    fn check(&mut self, result: Result<(), String>, task: Task, now: Monotonic) {
        match result {
            Ok(()) => drop(self.memory.retry.remove(&task)),
            Err(error) => {
                tracing::warn!(pod = %self.pod.full_name(), ?task, error, "will try again");
                self.memory.failed(task, now);
            }
        }
    }

    fn warn(&self, reason: &'static str, container: Option<&str>, message: String) {
        let container = container.map(str::to_owned);
        self.node.events.pod(&self.pod, Note { warning: true, reason, message, container });
    }

    fn settle_start(&mut self, name: String, result: Result<(), StartFailure>, now: Monotonic) {
        self.memory.busy.remove(&Task::Start(name.clone()));
        let failure = match result {
            Ok(()) => {
                self.memory.waiting.remove(&name);
                self.memory.pull_backoff.remove(&name);
                return;
            }
            Err(failure) => failure,
        };
        if self.memory.lifecycle >= Lifecycle::Terminating {
            return;
        }
        let (reason, message, retry_at) = match failure {
            StartFailure::Pull { reason, message } => {
                let backoff = Backoff::after(self.memory.pull_backoff.get(&name).copied(), now);
                self.memory.pull_backoff.insert(name.clone(), backoff);
                if reason == "ErrImagePull" {
                    let (outcomes, name) = (self.outcomes.clone(), name.clone());
                    self.node.tasks.spawn(async move {
                        tokio::time::sleep(PULL_ERROR_SHOWN).await;
                        let _ = outcomes.send(Outcome::PullAged(name));
                    });
                }
                (reason, message, now.plus(backoff.delay))
            }
            StartFailure::Config(message) => ("CreateContainerConfigError", message, now.plus(RETRY)),
            StartFailure::Create(message) => ("CreateContainerError", message, now.plus(RETRY)),
            StartFailure::Run(message) => ("RunContainerError", message, now.plus(Duration::from_secs(1))),
            StartFailure::Hook(message) => ("PostStartHookError", message, now.plus(Duration::from_secs(1))),
        };
        let event = match reason {
            "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName" => format!("Error: {reason}"),
            _ => format!("Error: {message}"),
        };
        self.warn("Failed", Some(&name), event);
        self.memory.waiting.insert(name, Waiting { reason: reason.to_owned(), message, retry_at });
    }

    fn pull_aged(&mut self, name: &str) {
        let image = self.pod.member(name).and_then(|member| member.container.image.clone()).unwrap_or_default();
        let Some(waiting) = self.memory.waiting.get_mut(name).filter(|waiting| waiting.reason == "ErrImagePull") else {
            return;
        };
        waiting.message = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", waiting.message);
        waiting.reason = "ImagePullBackOff".to_owned();
        let note = Note {
            warning: false,
            reason: "BackOff",
            message: format!("Back-off pulling image \"{image}\""),
            container: Some(name.to_owned()),
        };
        self.node.events.pod(&self.pod, note);
        self.warn("Failed", Some(name), "Error: ImagePullBackOff".to_owned());
    }

    fn settle_probe(&mut self, id: ContainerId, kind: probe::Kind, success: bool, name: String) {
        let verdict = self.memory.verdicts.entry(id.clone()).or_default();
        match (kind, success) {
            (probe::Kind::Startup, true) => verdict.started = true,
            (probe::Kind::Readiness, _) => verdict.ready = success,
            (probe::Kind::Liveness, true) => {}
            (_, false) => {
                let grace = self.pod.member(&name).and_then(|member| kind.of(&member.container));
                let grace = grace.and_then(|probe| probe.termination_grace_period_seconds);
                let word = kind.as_str().to_lowercase();
                self.memory.condemned.entry(id).or_insert(Condemned {
                    message: format!("Container {name} failed {word} probe, will be restarted"),
                    grace: grace.map(|seconds| Duration::from_secs(seconds.max(0) as u64)),
                });
            }
        }
    }

    /// Starts the probes that should run and ends the others.
    fn sync_probes(&mut self, seen: &Observed) {
        let mut wanted: BTreeMap<(ContainerId, probe::Kind), (&Member, &ContainerStatus)> = BTreeMap::new();
        for member in self.pod.members.iter().filter(|member| member.role != Role::Ephemeral) {
            let Some(container) = seen.latest(member.name()) else { continue };
            let running = matches!(container.state, ContainerState::Running { .. });
            if !running || self.memory.starting(member.name()) || self.memory.stopping.contains_key(&container.id) {
                continue;
            }
            let started = self.memory.started(member, container);
            for kind in [probe::Kind::Startup, probe::Kind::Readiness, probe::Kind::Liveness] {
                let asks = kind.of(&member.container).is_some() && (kind == probe::Kind::Startup) != started;
                let dying = self.memory.lifecycle >= Lifecycle::Terminating && kind != probe::Kind::Readiness;
                if asks && !dying {
                    wanted.insert((container.id.clone(), kind), (member, container));
                }
            }
        }
        let (wanted_keys, mut kept) = (wanted.keys().cloned().collect::<BTreeSet<_>>(), BTreeMap::new());
        for (key, task) in std::mem::take(&mut self.probes) {
            if wanted_keys.contains(&key) {
                kept.insert(key, task);
            } else {
                task.abort();
            }
        }
        for (key, (member, container)) in wanted {
            let kind = key.1;
            kept.entry(key).or_insert_with(|| self.start_probe(kind, member, container, seen));
        }
        self.probes = kept;
    }

    fn start_probe(
        &self,
        kind: probe::Kind,
        member: &Member,
        container: &ContainerStatus,
        seen: &Observed,
    ) -> AbortHandle {
        let target = self.target(member, container.id.clone(), seen);
        let (node, pod, outcomes) = (self.node.clone(), self.pod.clone(), self.outcomes.clone());
        let age = match container.state {
            ContainerState::Running { started_at } => node.clock.now().since(started_at),
            _ => Duration::ZERO,
        };
        let verdict = self.memory.verdicts.get(&container.id).copied().unwrap_or_default();
        let name = member.name().to_owned();
        self.node.tasks.spawn(async move {
            let Some(asked) = kind.of(&target.container).cloned() else { return };
            let (rhythm, mut track) = (Rhythm::of(&asked), Track::default());
            tokio::time::sleep(rhythm.initial_delay.saturating_sub(age)).await;
            let mut said = (kind == probe::Kind::Readiness).then_some(verdict.ready);
            loop {
                let answer = action::probe(&target, &asked, rhythm.timeout).await;
                if let Err(message) = &answer {
                    let message = format!("{} probe failed: {message}", kind.as_str());
                    node.events
                        .pod(&pod, Note { warning: true, reason: "Unhealthy", message, container: Some(name.clone()) });
                }
                if let Some(success) = track.heard(answer.is_ok(), &rhythm)
                    && said != Some(success)
                {
                    said = Some(success);
                    let _ = outcomes.send(Outcome::Probed(target.id.clone(), kind, success, name.clone()));
                }
                tokio::time::sleep(rhythm.period).await;
            }
        })
    }

    fn target(&self, member: &Member, id: ContainerId, seen: &Observed) -> Target {
        Target {
            runtime: self.node.runtime.clone(),
            id,
            container: Arc::new(member.container.clone()),
            ip: self.pod_ips(seen).first().copied(),
        }
    }

    fn pod_ips(&self, seen: &Observed) -> Vec<IpAddr> {
        if self.pod.host_network() {
            return self.node.options.own_addresses();
        }
        seen.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    }

    fn act(&mut self, action: Action, seen: &Observed) {
        let (node, pod, gear, outcomes) =
            (self.node.clone(), self.pod.clone(), self.gear.clone(), self.outcomes.clone());
        let objects_changed = self.objects_changed.clone();
        let (runtime, leaves) = (node.runtime.clone(), self.memory.lifecycle >= Lifecycle::Terminating);
        let last_status = status::patch(&self.pod.uid, &self.sent, &self.pod.pod.status.clone().unwrap_or_default());
        let stop_target = match &action {
            Action::Stop { id, name, .. } => self.pod.member(name).map(|member| self.target(member, id.clone(), seen)),
            _ => None,
        };
        let seen = seen.clone();
        self.node.tasks.clone().spawn(async move {
            let outcome = match action {
                Action::PrepareVolumes => Outcome::Volumes(prepare_volumes(&node, &pod, &gear, objects_changed).await),
                Action::RunSandbox { attempt, replaces } => {
                    Outcome::Sandbox(run_sandbox(&node, &pod, attempt, replaces).await)
                }
                Action::Start { name, attempt, sandbox } => {
                    let result = start_container(&node, &pod, &gear, &seen, &name, attempt, sandbox).await;
                    Outcome::Started(name, result)
                }
                Action::Stop { id, name, grace } => {
                    let end = End { id: &id, name: &name, grace, leaves };
                    let stopped = stop_container(&node, &pod, stop_target, &end).await;
                    Outcome::Stopped(id, stopped)
                }
                Action::StopSandbox(id) => {
                    let result = runtime.stop_sandbox(id).await;
                    if let Err(error) = result {
                        tracing::warn!(pod = %pod.full_name(), error = %chain(&error), "the sandbox does not stop");
                        tokio::time::sleep(Duration::from_secs(2)).await;
                    }
                    Outcome::Quiet(Task::Sandbox)
                }
                Action::Remove(id) => {
                    remove_container(&*runtime, &seen, &id).await;
                    Outcome::Quiet(Task::Remove(id))
                }
                Action::RemoveSandbox(id) => {
                    let _ = runtime.remove_sandbox(id.clone()).await;
                    Outcome::Quiet(Task::RemoveSandbox(id))
                }
                Action::Unmount => {
                    let (pod_dir, node) = (node.pod_dir(&pod.uid), node.clone());
                    let unmount = move || volumes::unmount_all(&pod_dir, &node.leaving, &node.options.mount_helper);
                    let unmounted = tokio::task::spawn_blocking(unmount).await;
                    let unmounted = unmounted.map_err(|error| error.to_string());
                    Outcome::Unmounted(unmounted.and_then(|result| result.map_err(|error| chain(&error).to_string())))
                }
                Action::DeleteObject => Outcome::Deleted(delete_object(&node.client, &pod, &last_status).await),
                Action::Forget => Outcome::Forgotten(forget(&node, &pod, &seen).await),
            };
            let _ = outcomes.send(outcome);
        });
    }

    /// Measures emptyDirs that have a limit from now on, until one is over it or the pod ends.
    fn watch_limits(&mut self) {
        let limited = volumes::limited(&self.pod, &self.node.pod_dir(&self.pod.uid));
        if limited.is_empty() || self.measuring.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let outcomes = self.outcomes.clone();
        self.measuring = Some(self.node.tasks.spawn(async move {
            loop {
                tokio::time::sleep(MEASURE_EVERY).await;
                let asked = limited.clone();
                let measured = tokio::task::spawn_blocking(move || {
                    let over = asked.into_iter().find(|(_, folder, most, _)| sys::files::usage(folder) > *most);
                    over.map(|(name, _, _, limit)| {
                        format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". ")
                    })
                });
                if let Ok(Some(message)) = measured.await {
                    let _ = outcomes.send(Outcome::Overfull(message));
                    return;
                }
            }
        }));
    }

    /// Writes the volumes' files again: an object changed or a token is due. Other volumes are the containers' by now.
    fn refresh(&mut self) {
        self.refresh_at = None;
        let (node, pod, gear, outcomes) =
            (self.node.clone(), self.pod.clone(), self.gear.clone(), self.outcomes.clone());
        self.node.tasks.spawn(async move {
            let result = write_files(&node, &pod, &gear).await;
            let renew_at = result.unwrap_or_else(|message| {
                node.events.pod(&pod, Note { warning: true, reason: "FailedMount", message, container: None });
                Some(node.clock.monotonic().plus(Duration::from_secs(60)))
            });
            let _ = outcomes.send(Outcome::Refreshed(renew_at));
        });
    }
}

async fn send_status(client: &Client, namespace: &str, name: &str, patch: &serde_json::Value) -> Result<(), String> {
    let sent: Result<Pod, _> = client.patch(namespace, name, "status", client::typed::STRATEGIC_PATCH, patch).await;
    match sent {
        // The object is gone or another one: the watch will tell.
        Err(error) if !error.not_found() && !error.conflict() => Err(chain(&error).to_string()),
        _ => Ok(()),
    }
}

async fn delete_object(client: &Client, pod: &PodInfo, last_status: &serde_json::Value) -> Result<(), String> {
    send_status(client, &pod.namespace, &pod.name, last_status).await?;
    let options = DeleteOptions { uid: Some(pod.uid.clone()), grace_period: Some(0), ..DeleteOptions::default() };
    match client.delete(Pod::RESOURCE, &pod.namespace, &pod.name, &options).await {
        Err(error) if !error.not_found() && !error.conflict() => Err(chain(&error).to_string()),
        _ => Ok(()),
    }
}

async fn prepare_volumes(
    node: &Arc<Node>,
    pod: &PodInfo,
    gear: &Mutex<Gear>,
    changed: Arc<Notify>,
) -> Result<Option<Monotonic>, String> {
    let recalled = gear.lock().await.recalled.clone();
    let followed = node.objects.follow(pod, changed, recalled.as_deref()).await;
    gear.lock().await.followed = Some(followed);
    set_up_volumes(node, pod, gear).await?;
    write_files(node, pod, gear).await
}

/// Sets up the volumes that are not files of API objects.
async fn set_up_volumes(node: &Arc<Node>, pod: &PodInfo, gear: &Mutex<Gear>) -> Result<(), String> {
    let mut gear = gear.lock().await;
    let (pod_dir, node_name) = (node.pod_dir(&pod.uid), &node.options.node_name);
    let found = volumes::origin::resolve(&node.client, node_name, pod, &pod_dir, &mut gear.found).await;
    found.map_err(|refusal| refusal.to_string())?;
    for volume in pod.spec().volumes.iter().flatten() {
        if matches!(volumes::kind(volume), volumes::Kind::Files { .. }) {
            continue;
        }
        let (pod_owned, pod_dir, volume_owned) = (pod.clone(), pod_dir.clone(), volume.clone());
        let (origin, helper) = (gear.found.get(&volume.name).cloned(), node.options.mount_helper.clone());
        let set_up = move || volumes::set_up_once(&pod_owned, &pod_dir, &volume_owned, origin.as_ref(), &helper);
        // A path of the host may lie on a file system that does not answer: it must not hold up other pods.
        let done = tokio::task::spawn_blocking(set_up).await.map_err(|error| error.to_string())?;
        done.map_err(|error| set_up_failed(&volume.name, &chain(&error).to_string()))?;
    }
    Ok(())
}

/// Puts the files of API objects where they belong; says when a token is due.
async fn write_files(node: &Arc<Node>, pod: &PodInfo, gear: &Mutex<Gear>) -> Result<Option<Monotonic>, String> {
    let mut gear = gear.lock().await;
    let mut tokens = std::mem::take(&mut gear.tokens);
    let renewed = renew_tokens(&node.client, pod, &mut tokens, node.clock.monotonic()).await;
    gear.tokens = tokens;
    let renew_at = renewed.map_err(|error| set_up_failed(&token_volume(pod), &error))?;
    let Some(followed) = &gear.followed else { return Ok(renew_at) };
    for volume in pod.spec().volumes.iter().flatten() {
        if !matches!(volumes::kind(volume), volumes::Kind::Files { .. }) {
            continue;
        }
        let failed = |error: VolumeError| set_up_failed(&volume.name, &chain(&error).to_string());
        let files = files_of(node, pod, &gear.tokens, followed, volume).map_err(failed)?;
        let (pod_owned, pod_dir, volume_owned) = (pod.clone(), node.pod_dir(&pod.uid), volume.clone());
        let write = move || volumes::prepare(&pod_owned, &pod_dir, &volume_owned, Some(&files));
        let written = tokio::task::spawn_blocking(write).await.map_err(|error| error.to_string())?;
        written.map_err(failed)?;
    }
    Ok(renew_at)
}

fn files_of(
    node: &Node,
    pod: &PodInfo,
    tokens: &Tokens,
    followed: &Followed,
    volume: &Volume,
) -> Result<volumes::Payload, VolumeError> {
    let token =
        |volume: &str, path: &str| tokens.get(&(volume.to_owned(), path.to_owned())).map(|token| token.value.clone());
    let facts = volumes::PayloadFacts {
        source: followed,
        fields: make::fields::FieldFacts {
            pod,
            container: pod.spec().containers.first().map_or("", |container| container.name.as_str()),
            pod_ips: &[],
            host_ips: &[],
            node_name: &node.options.node_name,
            allocatable_milli: &node.allocatable_milli,
        },
        token: &token,
        fs_group: volumes::fs_group(pod),
    };
    volumes::payload(volume, &facts)
}

fn set_up_failed(volume: &str, error: &str) -> String {
    volumes::origin::Refusal::SetUp(volume.to_owned(), error.to_owned()).to_string()
}

fn token_volume(pod: &PodInfo) -> String {
    let with_token = pod.spec().volumes.iter().flatten().find(|volume| {
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        sources.into_iter().any(|source| source.service_account_token.is_some())
    });
    with_token.map(|volume| volume.name.clone()).unwrap_or_default()
}

async fn run_sandbox(node: &Node, pod: &PodInfo, attempt: u32, replaces: Option<SandboxId>) -> Result<(), String> {
    if let Some(broken) = replaces {
        node.runtime.stop_sandbox(broken).await.map_err(|error| chain(&error).to_string())?;
    }
    let config = make::sandbox_config(pod, &node.options, &node.resolver, attempt);
    std::fs::create_dir_all(&config.log_directory)
        .map_err(|error| format!("failed to make the log folder {}: {error}", config.log_directory.display()))?;
    node.runtime.run_sandbox(config).await.map(drop).map_err(|error| chain(&error).to_string())
}

async fn start_container(
    node: &Arc<Node>,
    pod: &PodInfo,
    gear: &Mutex<Gear>,
    seen: &Observed,
    name: &str,
    attempt: u32,
    sandbox: SandboxId,
) -> Result<(), StartFailure> {
    let Some(member) = pod.member(name) else {
        return Err(StartFailure::Config(format!("container {name} not found")));
    };
    let tell = |reason: &'static str, message: String| {
        node.events.pod(pod, Note { warning: false, reason, message, container: Some(name.to_owned()) });
    };
    let image = have_image(node, pod, gear, member).await?;
    let config = {
        let gear = gear.lock().await;
        let config = describe(node, pod, &gear, seen, member, attempt, &image).await;
        config.map_err(|error| StartFailure::Config(chain(&error).to_string()))?
    };
    let created = node.runtime.create_container(sandbox, config).await;
    let id = created.map_err(|error| StartFailure::Create(chain(&error).to_string()))?;
    tell("Created", "Container created".to_owned());
    match node.runtime.start_container(id.clone()).await {
        Ok(()) => tell("Started", "Container started".to_owned()),
        Err(error) => return Err(StartFailure::Run(chain(&error).to_string())),
    }
    let hook = member.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
    let Some(hook) = hook else { return Ok(()) };
    let ips = if pod.host_network() {
        node.options.own_addresses()
    } else {
        seen.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    };
    let target = Target {
        runtime: node.runtime.clone(),
        id: id.clone(),
        container: Arc::new(member.container.clone()),
        ip: ips.first().copied(),
    };
    if let Err(message) = action::hook(&target, hook, POST_START_MAX).await {
        let note = Note {
            warning: true,
            reason: "FailedPostStartHook",
            message: "PostStartHook failed".to_owned(),
            container: Some(name.to_owned()),
        };
        node.events.pod(pod, note);
        tell("Killing", "FailedPostStartHook".to_owned());
        let _ = node.runtime.stop_container(id, pod.grace()).await;
        return Err(StartFailure::Hook(message));
    }
    Ok(())
}

/// Sees to it that a container's image is there; the answer is the runtime's name for it.
async fn have_image(
    node: &Arc<Node>,
    pod: &PodInfo,
    gear: &Mutex<Gear>,
    member: &Member,
) -> Result<String, StartFailure> {
    let image = member.container.image.clone().unwrap_or_default();
    let tell = |warning, reason, message| {
        node.events.pod(pod, Note { warning, reason, message, container: Some(member.name().to_owned()) });
    };
    let present = match node.runtime.image_status(image.clone()).await {
        Ok(found) => found.is_some(),
        Err(RuntimeError::InvalidImageName { detail, .. }) => {
            let message = format!(
                "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {detail}"
            );
            tell(true, "InspectFailed", message.clone());
            return Err(StartFailure::Pull { reason: "InvalidImageName", message });
        }
        Err(error) => {
            let message = format!("Failed to inspect image \"{image}\": {}", chain(&error));
            tell(true, "InspectFailed", message.clone());
            return Err(StartFailure::Pull { reason: "ImageInspectError", message });
        }
    };
    // It ran here with this image, and whoever cannot reach the server will hardly reach the registry.
    let is_recalled = gear.lock().await.recalled.is_some();
    let policy = member.container.image_pull_policy.as_deref();
    match image::decide(if is_recalled && present { Some("IfNotPresent") } else { policy }, &image, present) {
        Decision::Use => {
            tell(
                false,
                "Pulled",
                format!("Container image \"{image}\" already present on machine and can be accessed by the pod"),
            );
            return Ok(image);
        }
        Decision::Never => {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            tell(true, "ErrImageNeverPull", message.clone());
            return Err(StartFailure::Pull { reason: "ErrImageNeverPull", message });
        }
        Decision::Pull => {}
    }
    tell(false, "Pulling", format!("Pulling image \"{image}\""));
    let secrets: Vec<Arc<Secret>> = {
        let gear = gear.lock().await;
        let names = pod.spec().image_pull_secrets.iter().flatten();
        names.filter_map(|reference| gear.followed.as_ref()?.secret(&reference.name)).collect()
    };
    let begun = node.clock.monotonic();
    // The semaphore is never closed, so a permit always comes.
    let permit = node.pulls.acquire().await;
    let asked = node.clock.monotonic();
    let mut attempts: Vec<_> = image::credentials(&secrets, &image).into_iter().map(Some).collect();
    if attempts.is_empty() {
        attempts.push(None);
    }
    let mut last = None;
    for auth in attempts {
        match node.runtime.pull_image(image.clone(), auth).await {
            Ok(PulledImage { name, from }) => {
                drop(permit);
                let (took, waited) = (node.clock.monotonic().since(asked), node.clock.monotonic().since(begun));
                let size = node.runtime.image_status(name.clone()).await.ok().flatten().map_or(0, |found| found.size.0);
                let (took, waited) = (short_duration(took), short_duration(waited));
                tell(false, "Pulled", pulled(&image, &from, &format!("{took} ({waited} including waiting)"), size));
                return Ok(name);
            }
            Err(error) => last = Some(error),
        }
    }
    let error = last.map(|error| (matches!(error, RuntimeError::InvalidImageName { .. }), chain(&error).to_string()));
    let (invalid, message) = error.unwrap_or_default();
    tell(true, "Failed", format!("Failed to pull image \"{image}\": {message}"));
    Err(StartFailure::Pull { reason: if invalid { "InvalidImageName" } else { "ErrImagePull" }, message })
}

/// The words about a pull that went well: upstream's, and where it was from if not from the registry.
fn pulled(image: &str, from: &ImageOrigin, took: &str, size: u64) -> String {
    let peer = match from {
        ImageOrigin::Registry => String::new(),
        ImageOrigin::Peer(node) => format!(" from peer {node}"),
        ImageOrigin::Here => {
            return format!(
                "Container image \"{image}\" was put on this machine beforehand and is used, as its registry cannot be reached"
            );
        }
    };
    format!("Successfully pulled image \"{image}\"{peer} in {took}. Image size: {size} bytes.")
}

/// A duration as Go prints it, to the millisecond.
fn short_duration(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{}ms", duration.as_millis())
    } else if duration < Duration::from_secs(60) {
        let text = format!("{:.3}", duration.as_secs_f64());
        format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
    } else {
        step::go_duration(duration)
    }
}

async fn describe(
    node: &Arc<Node>,
    pod: &PodInfo,
    gear: &Gear,
    seen: &Observed,
    member: &Member,
    attempt: u32,
    image: &str,
) -> Result<runtime::ContainerConfig, ConfigError> {
    let image_status = node.runtime.image_status(image.to_owned()).await.ok().flatten();
    // Without a server the pod starts with what is known.
    let _ = tokio::time::timeout(SERVICES_WAIT, node.services.wait_synced()).await;
    let services: Vec<Arc<Service>> = {
        let mut all = node.services.list::<Service>(Some(&pod.namespace));
        if pod.namespace != "default" {
            all.extend(node.services.get::<Service>("default", "kubernetes"));
        }
        all
    };
    let ips = if pod.host_network() {
        node.options.own_addresses()
    } else {
        seen.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    };
    let facts = Described { image, image_status: image_status.as_ref(), services: &services, ips: &ips };
    let (mut config, remote) = config(node, pod, gear, seen, member, attempt, &facts)?;
    for RemotePart { mount, volume, inside } in remote {
        let failed =
            |detail| ConfigError::SubPath { volume: volume.clone(), container: member.name().to_owned(), detail };
        let whole = config.mounts[mount].host_path.clone();
        config.mounts[mount].host_path = remote_part(node, whole, inside).await.map_err(failed)?;
    }
    Ok(config)
}

/// What was found out about a container before it is described.
struct Described<'a> {
    image: &'a str,
    image_status: Option<&'a runtime::ImageStatus>,
    services: &'a [Arc<Service>],
    ips: &'a [IpAddr],
}

/// A part of a volume on a server, which is still to be found: the number of its mount, the volume, and what of it.
struct RemotePart {
    mount: usize,
    volume: String,
    inside: String,
}

fn config(
    node: &Node,
    pod: &PodInfo,
    gear: &Gear,
    seen: &Observed,
    member: &Member,
    attempt: u32,
    facts: &Described<'_>,
) -> Result<(runtime::ContainerConfig, Vec<RemotePart>), ConfigError> {
    let ips = facts.ips;
    let (pod_ips, host_ips) = (one_of_each_family(ips), one_of_each_family(&node.options.own_addresses()));
    let pod_dir = node.pod_dir(&pod.uid);
    let volume_file = |volume: &str, path: &str| {
        let volume = pod.spec().volumes.iter().flatten().find(|one| one.name == volume);
        volume.map_or(Ok(None), |volume| volumes::variables_file(&pod_dir, volume, path))
    };
    let nothing = Nothing;
    let source: &dyn make::Source = gear.followed.as_ref().map_or(&nothing as &dyn make::Source, |followed| followed);
    let env = make::env::EnvFacts {
        source,
        services: facts.services,
        fields: make::fields::FieldFacts {
            pod,
            container: member.name(),
            pod_ips: &pod_ips,
            host_ips: &host_ips,
            node_name: &node.options.node_name,
            allocatable_milli: &node.allocatable_milli,
        },
        volume_file: &volume_file,
    };
    let environment = make::env::environment(&member.container, &env)?;
    let message_path = pod_dir.join("containers").join(member.name()).join(attempt.to_string());
    let (mounts, remote) = mounts(node, pod, &gear.found, member, &environment, ips, &message_path)?;
    let target = member.target.as_deref().and_then(|name| seen.latest(name)).map(|container| container.id.clone());
    let parts = make::Parts {
        env,
        image: facts.image.to_owned(),
        image_status: facts.image_status,
        mounts,
        message_path: &message_path,
        target,
    };
    let config = make::container_config(pod, member, attempt, &node.options, parts)?;
    Ok((config, remote))
}

struct Nothing;
impl make::Source for Nothing {
    fn config_map(&self, _: &str) -> Option<Arc<k8s_openapi::api::core::v1::ConfigMap>> {
        None
    }
    fn secret(&self, _: &str) -> Option<Arc<Secret>> {
        None
    }
}

fn mounts(
    node: &Node,
    pod: &PodInfo,
    found: &Found,
    member: &Member,
    environment: &[(String, String)],
    ips: &[IpAddr],
    message_path: &std::path::Path,
) -> Result<(Vec<Mount>, Vec<RemotePart>), ConfigError> {
    let pod_dir = node.pod_dir(&pod.uid);
    let (mut all, mut remote) = (Vec::new(), Vec::new());
    for mount in member.container.volume_mounts.iter().flatten() {
        let missing = || ConfigError::Volume { volume: mount.name.clone(), container: member.name().to_owned() };
        let volume = pod.spec().volumes.iter().flatten().find(|one| one.name == mount.name).ok_or_else(missing)?;
        let origin = found.get(&mount.name);
        let mut host_path = volumes::folder(&pod_dir, volume, found);
        let value = |name: &str| environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let expanded =
            mount.sub_path_expr.as_deref().filter(|path| !path.is_empty()).map(|path| make::env::expand(path, &value));
        if let Some(inside) = expanded.or_else(|| mount.sub_path.clone()).filter(|path| !path.is_empty()) {
            // A server that does not answer must not hold up this thread.
            if origin.is_some_and(|origin| origin.place.is_remote()) {
                remote.push(RemotePart { mount: all.len(), volume: mount.name.clone(), inside });
            } else {
                let failed = |detail| ConfigError::SubPath {
                    volume: mount.name.clone(),
                    container: member.name().to_owned(),
                    detail,
                };
                host_path = volumes::sub_path(&host_path, &inside).map_err(failed)?;
            }
        }
        let readonly = volumes::is_read_only(volume, mount, origin);
        all.push(Mount {
            container_path: PathBuf::from("/").join(&mount.mount_path),
            host_path,
            readonly,
            recursive_readonly: readonly
                && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => MountPropagation::HostToContainer,
                Some("Bidirectional") => MountPropagation::Bidirectional,
                _ => MountPropagation::Private,
            },
        });
    }
    let own_file = |path: PathBuf, content: Option<String>, mode: u32| -> Result<PathBuf, ConfigError> {
        let failed = |error: std::io::Error| ConfigError::SubPath {
            volume: path.display().to_string(),
            container: member.name().to_owned(),
            detail: error.to_string(),
        };
        write_file(&path, content.as_deref(), mode).map_err(failed)?;
        Ok(path)
    };
    let mounted =
        |all: &[Mount], path: &str| all.iter().any(|mount| mount.container_path == std::path::Path::new(path));
    if !mounted(&all, "/etc/hosts") {
        let host_file =
            if pod.host_network() { std::fs::read_to_string("/etc/hosts").unwrap_or_default() } else { String::new() };
        let text =
            make::network::hosts_file(pod, ips, &node.options.node_name, &node.options.cluster_domain, &host_file);
        let host_path = own_file(pod_dir.join("etc-hosts"), Some(text), 0o644)?;
        all.push(Mount { container_path: "/etc/hosts".into(), host_path, ..Mount::default() });
    }
    let inside = member.container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !inside.is_empty() && !mounted(&all, inside) {
        let host_path = own_file(message_path.to_owned(), None, 0o666)?;
        all.push(Mount { container_path: inside.into(), host_path, ..Mount::default() });
    }
    Ok((all, remote))
}

/// A part of a volume on a server, looked for by a helper.
async fn remote_part(node: &Node, volume: PathBuf, inside: String) -> Result<PathBuf, String> {
    let helper = node.options.mount_helper.clone();
    let request = volumes::helper::Request::SubPath { volume, inside };
    let asked = tokio::task::spawn_blocking(move || helper.ask(&request, volumes::helper::LOOK_MAX)).await;
    let answer = asked.map_err(|error| error.to_string())?;
    answer.map(PathBuf::from).map_err(|error| error.to_string())
}

/// Writes a file in place (it may be mounted somewhere), or only makes it.
fn write_file(path: &std::path::Path, content: Option<&str>, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if content.is_none() || std::fs::read_to_string(path).ok().as_deref() != content {
        std::fs::write(path, content.unwrap_or_default())?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// How a container is to end.
struct End<'a> {
    id: &'a ContainerId,
    name: &'a str,
    /// How long it has, the hook included.
    grace: Duration,
    /// Its pod ends with it.
    leaves: bool,
}

/// Runs the preStop hook and stops a container, both within its grace. Says whether the runtime did.
async fn stop_container(node: &Arc<Node>, pod: &PodInfo, target: Option<Target>, end: &End<'_>) -> bool {
    let begun = node.clock.monotonic();
    let grace = end.grace;
    let hook = target.as_ref().and_then(|target| target.container.lifecycle.as_ref()?.pre_stop.clone());
    if let (Some(hook), Some(target), false) = (hook, target, grace.is_zero()) {
        let ran = tokio::time::timeout(grace, action::hook(&target, &hook, grace)).await;
        if let Ok(Err(_)) = ran {
            let note = Note {
                warning: true,
                reason: "FailedPreStopHook",
                message: "PreStopHook failed".to_owned(),
                container: Some(end.name.to_owned()),
            };
            node.events.pod(pod, note);
        }
    }
    let left = grace.saturating_sub(node.clock.monotonic().since(begun));
    let left = if grace.is_zero() { Duration::ZERO } else { left.max(GRACE_MIN.min(grace)) };
    let stopped = tokio::select! {
        stopped = node.runtime.stop_container(end.id.clone(), left) => stopped,
        never = free_waiting(node, pod, end, left) => match never {},
    };
    match stopped {
        Ok(()) => true,
        Err(error) => {
            let container = end.name;
            tracing::warn!(pod = %pod.full_name(), container, error = %chain(&error), "the container does not stop");
            tokio::time::sleep(Duration::from_secs(2)).await;
            false
        }
    }
}

/// Gives up what a container that was killed still waits for, if its server does not answer, and tells of it; again and again,
/// as what ends may wait anew.
async fn free_waiting(node: &Arc<Node>, pod: &PodInfo, end: &End<'_>, left: Duration) -> Infallible {
    tokio::time::sleep(left + KILLED_WITHIN).await;
    let pod_dir = node.pod_dir(&pod.uid);
    if end.leaves {
        node.leaving.add(&pod_dir);
    }
    let mut told = BTreeSet::new();
    loop {
        let (dir, asked) = (pod_dir.clone(), node.clone());
        let let_go = move || volumes::let_go(&dir, &asked.leaving, &asked.options.mount_helper);
        for waiting in tokio::task::spawn_blocking(let_go).await.unwrap_or_default() {
            let message = format!("error killing pod: container {} does not end: {waiting}", end.name);
            if told.insert(message.clone()) {
                let container = Some(end.name.to_owned());
                node.events.pod(pod, Note { warning: true, reason: "FailedKillPod", message, container });
            }
        }
        tokio::time::sleep(KILLED_WITHIN).await;
    }
}

async fn remove_container(runtime: &dyn Runtime, seen: &Observed, id: &ContainerId) {
    let found = seen.containers.iter().find(|container| container.id == *id);
    if runtime.remove_container(id.clone()).await.is_ok()
        && let Some(container) = found
    {
        // Its log stays a while, for who collects logs: see `run::keep_logs`. Not the newest one's: the next run, in a new
        // sandbox, may have its number again.
        if seen.latest(&container.name).is_some_and(|newest| newest.id == *id) {
            logs::remove(&container.log_path);
        }
        if let Some(path) = container.annotations.get(make::MESSAGE_PATH_ANNOTATION) {
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn forget(node: &Node, pod: &PodInfo, seen: &Observed) -> Result<(), String> {
    if let Some(checkpoints) = node.checkpoints.clone() {
        let uid = pod.uid.clone();
        let forgotten = tokio::task::spawn_blocking(move || checkpoints.forget(&uid)).await;
        forgotten.map_err(|error| error.to_string())?.map_err(|error| chain(&error).to_string())?;
    }
    for sandbox in &seen.sandboxes {
        let failed = |error: RuntimeError| chain(&error).to_string();
        if sandbox.state == SandboxState::Ready {
            node.runtime.stop_sandbox(sandbox.id.clone()).await.map_err(failed)?;
        }
        node.runtime.remove_sandbox(sandbox.id.clone()).await.map_err(failed)?;
    }
    // Its logs stay a while.
    volumes::remove_folder(&node.pod_dir(&pod.uid)).map_err(|error| chain(&error).to_string())
}

/// What a container that ended left as its message.
fn termination_message(container: &ContainerStatus, exit_code: i32) -> Option<String> {
    const TAIL_LINES: usize = 80;
    const TAIL_BYTES: usize = 2048;
    let path = container.annotations.get(make::MESSAGE_PATH_ANNOTATION);
    let told = path.and_then(|path| std::fs::read(path).ok()).map(|mut bytes| {
        bytes.truncate(status::MESSAGE_BYTES_MAX);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let told = told.filter(|text| !text.is_empty());
    let policy = container.annotations.get(make::MESSAGE_POLICY_ANNOTATION).map(String::as_str);
    if told.is_some() || policy != Some("FallbackToLogsOnError") || exit_code == 0 {
        return told;
    }
    logs::tail(&container.log_path, TAIL_LINES, TAIL_BYTES).filter(|text| !text.is_empty())
}
