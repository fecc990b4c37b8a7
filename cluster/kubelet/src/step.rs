//! Decides what happens next to one pod: a function of the pod, what runs of it, what is remembered of it, and the time.
//!
//! Start at [`step`]. It moves the pod's [`Lifecycle`], answers with [`Action`]s, and says when to ask again. Actions take
//! their time elsewhere; while one runs, its [`Task`] is in [`Memory::busy`] and is not asked for twice.
//!
//! Invariants:
//! * what runs comes from [`Observed`] alone; [`Memory`] may be lost at any moment, and only promptness is lost with it;
//! * a container starts only when the pod is `Initializing` or `Running` in a ready sandbox;
//! * sidecars outlive app containers and stop in reverse order.
//!
//! Not here: the status shown (`status`), how actions are done (`worker`), what a container is made from (`make`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{Monotonic, Timestamp};
use k8s_openapi::api::core::v1::Container;
use runtime::{ContainerId, ContainerState, ContainerStatus, SandboxId, SandboxState, SandboxStatus};

use crate::lifecycle::{Lifecycle, Sight};
use crate::pod::{Member, PodInfo, Role, our_time};

/// The first pause before a container that failed is started again.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(10);
/// The longest one.
pub const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// A container that ran this long starts with [`BACKOFF_FIRST`] again; upstream's twice the longest pause.
pub const BACKOFF_RESET: Duration = Duration::from_secs(600);
/// Dead containers kept for each name, for `kubectl logs --previous`.
pub const DEAD_CONTAINERS_KEPT: usize = 1;
/// The annotation that tells what a container was made from.
pub const HASH_ANNOTATION: &str = "io.kubernetes.container.hash";

/// The two kinds of time, taken once for a step.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The calendar.
    pub wall: Timestamp,
    /// The stopwatch.
    pub mono: Monotonic,
}

/// What the runtime has of one pod.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Its sandboxes.
    pub sandboxes: Vec<SandboxStatus>,
    /// Its containers.
    pub containers: Vec<ContainerStatus>,
}

impl Observed {
    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&SandboxStatus> {
        self.sandboxes.iter().max_by_key(|sandbox| (sandbox.config.attempt, sandbox.created_at))
    }

    /// The newest sandbox, if it is ready.
    pub fn ready_sandbox(&self) -> Option<&SandboxStatus> {
        self.sandbox().filter(|sandbox| sandbox.state == SandboxState::Ready)
    }

    /// The newest container of that name.
    pub fn latest(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().filter(|container| container.name == name).max_by_key(|container| age(container))
    }

    /// The one before it.
    pub fn previous(&self, name: &str) -> Option<&ContainerStatus> {
        let mut all: Vec<_> = self.containers.iter().filter(|container| container.name == name).collect();
        all.sort_by_key(|container| std::cmp::Reverse(age(container)));
        all.get(1).copied()
    }

    /// The newest container of that name, if it belongs to the newest sandbox.
    pub fn current(&self, name: &str) -> Option<&ContainerStatus> {
        let sandbox = self.sandbox()?;
        self.latest(name).filter(|container| container.sandbox == sandbox.id)
    }

    fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(|container| matches!(container.state, ContainerState::Running { .. }))
    }
}

fn age(container: &ContainerStatus) -> (u32, Timestamp) {
    (container.attempt, container.created_at)
}

/// How a container ended.
pub fn exit_code(state: &ContainerState) -> Option<i32> {
    match state {
        ContainerState::Exited { exit_code, .. } => Some(*exit_code),
        // Nobody saw it end: upstream reports 137 for such a container.
        ContainerState::Unknown => Some(137),
        ContainerState::Created | ContainerState::Running { .. } => None,
    }
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Fill and mount the pod's volumes.
    PrepareVolumes,
    /// Make a sandbox, after stopping the one it replaces.
    RunSandbox {
        /// How many there were before.
        attempt: u32,
        /// The one that is broken.
        replaces: Option<SandboxId>,
    },
    /// Have the image, make and start a container, run its postStart hook.
    Start {
        /// The container's name.
        name: String,
        /// How many there were before.
        attempt: u32,
        /// Where.
        sandbox: SandboxId,
    },
    /// Run the preStop hook and stop a container.
    Stop {
        /// Which.
        id: ContainerId,
        /// Its name.
        name: String,
        /// How long it has, the hook included.
        grace: Duration,
    },
    /// End a sandbox.
    StopSandbox(SandboxId),
    /// Forget an old container.
    Remove(ContainerId),
    /// Forget an old sandbox.
    RemoveSandbox(SandboxId),
    /// Unmount the volumes of a pod that does not run any more.
    Unmount,
    /// Write the last status and delete the object, with grace 0 and its uid.
    DeleteObject,
    /// Forget sandboxes, containers, folders and logs of a pod whose object is gone.
    Forget,
}

/// What an action occupies while it runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// The pod's volumes.
    Volumes,
    /// The pod's sandbox.
    Sandbox,
    /// The start of a container.
    Start(String),
    /// The end of a container.
    Stop(ContainerId),
    /// The removal of an old container.
    Remove(ContainerId),
    /// The removal of an old sandbox.
    RemoveSandbox(SandboxId),
    /// The object in the API.
    Object,
    /// The last traces.
    Forget,
}

impl Action {
    /// What it occupies.
    pub fn task(&self) -> Task {
        match self {
            Action::PrepareVolumes | Action::Unmount => Task::Volumes,
            Action::RunSandbox { .. } | Action::StopSandbox(_) => Task::Sandbox,
            Action::Start { name, .. } => Task::Start(name.clone()),
            Action::Stop { id, .. } => Task::Stop(id.clone()),
            Action::Remove(id) => Task::Remove(id.clone()),
            Action::RemoveSandbox(id) => Task::RemoveSandbox(id.clone()),
            Action::DeleteObject => Task::Object,
            Action::Forget => Task::Forget,
        }
    }
}

/// An event to be told about the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// `Warning` rather than `Normal`.
    pub warning: bool,
    /// Upstream's reason.
    pub reason: &'static str,
    /// The message.
    pub message: String,
    /// The container it is about.
    pub container: Option<String>,
}

/// Why a container does not run, as its `waiting` state shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Such as `CrashLoopBackOff`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// When it is tried again.
    pub retry_at: Monotonic,
}

/// The pause of something that failed repeatedly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The present pause.
    pub delay: Duration,
    /// When it was last made longer.
    pub since: Monotonic,
}

impl Backoff {
    /// The pause after one more failure at `now`.
    #[must_use]
    pub fn after(previous: Option<Backoff>, now: Monotonic) -> Backoff {
        match previous {
            Some(backoff) if now.since(backoff.since) <= BACKOFF_RESET => {
                Backoff { delay: (backoff.delay * 2).min(BACKOFF_MAX), since: now }
            }
            _ => Backoff { delay: BACKOFF_FIRST, since: now },
        }
    }
}

/// What probes said of a running container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The startup probe succeeded once.
    pub started: bool,
    /// The readiness probe succeeds.
    pub ready: bool,
}

/// A container that is to be stopped and started anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// What the event says.
    pub message: String,
    /// The probe's own grace, if it names one.
    pub grace: Option<Duration>,
}

/// Why the pod as a whole stops although nobody deleted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopCause {
    /// `status.reason`.
    pub reason: String,
    /// `status.message`.
    pub message: String,
}

/// What this process remembers of a pod.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Where the pod is.
    pub lifecycle: Lifecycle,
    /// What is being done.
    pub busy: BTreeSet<Task>,
    /// The volumes are mounted.
    pub volumes_ready: bool,
    /// They were unmounted after the end.
    pub unmounted: bool,
    /// The last traces are gone.
    pub forgotten: bool,
    /// The API server accepted the deletion.
    pub object_deleted: bool,
    /// The object is not in the API any more (or never was).
    pub object_gone: bool,
    /// Why the pod fails as a whole.
    pub stop: Option<StopCause>,
    /// Until when a terminating pod has time.
    pub stop_deadline: Option<Monotonic>,
    /// Containers asked to stop, and until when they have time.
    pub stopping: BTreeMap<ContainerId, Monotonic>,
    /// Containers a probe condemned.
    pub condemned: BTreeMap<ContainerId, Condemned>,
    /// Why containers do not run, by name.
    pub waiting: BTreeMap<String, Waiting>,
    /// Pauses between starts, by name.
    pub backoff: BTreeMap<String, Backoff>,
    /// Pauses between pulls, by name.
    pub pull_backoff: BTreeMap<String, Backoff>,
    /// When exits were first seen.
    pub exits: BTreeMap<ContainerId, Monotonic>,
    /// When volumes, sandbox or object are tried again, and how long the pause was.
    pub retry: BTreeMap<Task, (Monotonic, Duration)>,
    /// What probes said.
    pub verdicts: BTreeMap<ContainerId, Verdict>,
    /// When `activeDeadlineSeconds` is over, and which value that was computed from.
    pub active_until: Option<(i64, Monotonic)>,
}

impl Memory {
    /// Whether a start of that container is under way.
    pub fn starting(&self, name: &str) -> bool {
        self.busy.contains(&Task::Start(name.to_owned()))
    }

    /// Whether a running container passed its startup probe and hook.
    pub fn started(&self, member: &Member, container: &ContainerStatus) -> bool {
        matches!(container.state, ContainerState::Running { .. })
            && !self.starting(member.name())
            && (member.container.startup_probe.is_none() || self.verdict(&container.id).started)
    }

    /// Whether a running container is ready.
    pub fn ready(&self, member: &Member, container: &ContainerStatus) -> bool {
        self.started(member, container)
            && (member.container.readiness_probe.is_none() || self.verdict(&container.id).ready)
    }

    fn verdict(&self, id: &ContainerId) -> Verdict {
        self.verdicts.get(id).copied().unwrap_or_default()
    }

    /// Whether the pod is to vanish from this node.
    pub fn leaving(&self, pod: &PodInfo) -> bool {
        pod.deleting() || self.object_gone
    }

    /// Notes that a task failed and is to be tried again later: the pause doubles from one second to a minute.
    pub fn failed(&mut self, task: Task, now: Monotonic) {
        const PAUSE_MAX: Duration = Duration::from_secs(60);
        let pause = self.retry.get(&task).map_or(Duration::from_secs(1), |(_, pause)| (*pause * 2).min(PAUSE_MAX));
        self.retry.insert(task, (now.plus(pause), pause));
    }
}

/// The answer of a step.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What to do, in no particular order of completion.
    pub actions: Vec<Action>,
    /// What to tell.
    pub notes: Vec<Note>,
    /// When to ask again if nothing happens before.
    pub wake_at: Option<Monotonic>,
}

impl Plan {
    fn wake(&mut self, at: Monotonic) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn note(&mut self, warning: bool, reason: &'static str, container: Option<&str>, message: String) {
        self.notes.push(Note { warning, reason, message, container: container.map(str::to_owned) });
    }
}

/// Decides what happens next.
pub fn step(pod: &PodInfo, seen: &Observed, memory: &mut Memory, now: Now) -> Plan {
    let mut plan = Plan::default();
    remember_exits(seen, memory, now);
    watch_deadline(pod, memory, now, &mut plan);
    // One look may enable the next; there are no more moves in a row than states.
    for _ in Lifecycle::ALL {
        let Some(sight) = look(pod, seen, memory) else { break };
        let next = memory.lifecycle.next(sight);
        if next == memory.lifecycle {
            break;
        }
        memory.lifecycle = next;
    }
    match memory.lifecycle {
        Lifecycle::Preparing => prepare(seen, memory, now, &mut plan),
        Lifecycle::Initializing => initialize(pod, seen, memory, now, &mut plan),
        Lifecycle::Running => keep_running(pod, seen, memory, now, &mut plan),
        Lifecycle::Terminating => terminate(pod, seen, memory, now, &mut plan),
        Lifecycle::Ended => unmount(memory, now, &mut plan),
        Lifecycle::Gone => {}
    }
    if memory.lifecycle < Lifecycle::Terminating {
        collect_garbage(seen, &mut plan);
    }
    plan.actions.retain(|action| !memory.busy.contains(&action.task()) || matches!(action, Action::Stop { .. }));
    plan
}

fn remember_exits(seen: &Observed, memory: &mut Memory, now: Now) {
    for container in &seen.containers {
        if exit_code(&container.state).is_none() || memory.exits.contains_key(&container.id) {
            continue;
        }
        let ago = match &container.state {
            ContainerState::Exited { finished_at, .. } => now.wall.since(*finished_at),
            _ => Duration::ZERO,
        };
        let exit = Monotonic(now.mono.0.saturating_sub(ago.as_nanos() as u64));
        memory.exits.insert(container.id.clone(), exit);
    }
    let known: BTreeSet<&ContainerId> = seen.containers.iter().map(|container| &container.id).collect();
    memory.exits.retain(|id, _| known.contains(id));
    memory.stopping.retain(|id, _| known.contains(id));
    memory.condemned.retain(|id, _| known.contains(id));
    memory.verdicts.retain(|id, _| known.contains(id));
}

fn watch_deadline(pod: &PodInfo, memory: &mut Memory, now: Now, plan: &mut Plan) {
    let Some(seconds) = pod.spec().active_deadline_seconds else {
        memory.active_until = None;
        return;
    };
    let started = pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    if memory.active_until.is_none_or(|(from, _)| from != seconds) {
        let active = started.map_or(Duration::ZERO, |time| now.wall.since(our_time(time)));
        let left = Duration::from_secs(seconds.max(0) as u64).saturating_sub(active);
        memory.active_until = Some((seconds, now.mono.plus(left)));
    }
    let Some((_, until)) = memory.active_until else { return };
    if memory.lifecycle >= Lifecycle::Terminating || memory.stop.is_some() || pod.ended() {
        return;
    }
    if now.mono < until {
        plan.wake(until);
        return;
    }
    let message = "Pod was active on the node longer than the specified deadline".to_owned();
    plan.note(false, "DeadlineExceeded", None, message.clone());
    memory.stop = Some(StopCause { reason: "DeadlineExceeded".to_owned(), message });
}

fn look(pod: &PodInfo, seen: &Observed, memory: &Memory) -> Option<Sight> {
    let leaving = memory.leaving(pod);
    match memory.lifecycle {
        Lifecycle::Gone => None,
        Lifecycle::Ended => (leaving || !is_quiet(seen)).then_some(Sight::StopWanted),
        Lifecycle::Terminating if !is_quiet(seen) || memory.busy.iter().any(makes_something) => None,
        Lifecycle::Terminating if !leaving => Some(Sight::Stopped),
        Lifecycle::Terminating => memory.forgotten.then_some(Sight::CleanedUp),
        _ if leaving || memory.stop.is_some() || pod.ended() => Some(Sight::StopWanted),
        _ if all_ended(pod, seen, memory) => Some(Sight::AllEnded),
        Lifecycle::Preparing => (memory.volumes_ready && seen.ready_sandbox().is_some()).then_some(Sight::SandboxReady),
        _ if seen.ready_sandbox().is_none() => Some(Sight::SandboxMissing),
        Lifecycle::Initializing => is_initialized(pod, seen, memory).then_some(Sight::Initialized),
        Lifecycle::Running => None,
    }
}

/// Whether nothing of the pod runs.
fn is_quiet(seen: &Observed) -> bool {
    seen.running().next().is_none() && seen.sandboxes.iter().all(|sandbox| sandbox.state != SandboxState::Ready)
}

fn makes_something(task: &Task) -> bool {
    matches!(task, Task::Start(_) | Task::Sandbox | Task::Stop(_))
}

/// Whether every init container did its part. One app container in this sandbox is proof: the init containers may have
/// been collected since.
pub fn is_initialized(pod: &PodInfo, seen: &Observed, memory: &Memory) -> bool {
    let app = |member: &&Member| member.role == Role::App;
    pod.members.iter().filter(app).any(|member| seen.current(member.name()).is_some())
        || pod.members.iter().all(|member| init_part_done(member, seen, memory))
}

/// Whether a member does not hold up those after it.
pub fn init_part_done(member: &Member, seen: &Observed, memory: &Memory) -> bool {
    let current = seen.current(member.name());
    match member.role {
        Role::Init => current.is_some_and(|container| exit_code(&container.state) == Some(0)),
        Role::Sidecar => current.is_some_and(|container| memory.started(member, container)),
        Role::App | Role::Ephemeral => true,
    }
}

fn all_ended(pod: &PodInfo, seen: &Observed, memory: &Memory) -> bool {
    let over = |member: &Member| {
        let latest = seen.latest(member.name()).and_then(|container| exit_code(&container.state));
        !memory.starting(member.name()) && latest.is_some_and(|code| !may_restart(pod, member, code))
    };
    let mut apps = pod.members.iter().filter(|member| member.role == Role::App);
    let app_seen = pod.members.iter().any(|member| member.role == Role::App && seen.latest(member.name()).is_some());
    apps.all(over) || !app_seen && pod.members.iter().any(|member| has_failed_for_good(pod, member, seen, memory))
}

fn has_failed_for_good(pod: &PodInfo, member: &Member, seen: &Observed, memory: &Memory) -> bool {
    member.role == Role::Init
        && !memory.starting(member.name())
        && seen
            .latest(member.name())
            .and_then(|container| exit_code(&container.state))
            .is_some_and(|code| code != 0 && !may_restart(pod, member, code))
}

/// Whether a container that ended with `code` is to run again.
pub fn may_restart(pod: &PodInfo, member: &Member, code: i32) -> bool {
    match member.role {
        Role::Ephemeral => return false,
        Role::Sidecar => return true,
        Role::Init if code == 0 => return false,
        Role::Init | Role::App => {}
    }
    if rule_says_restart(&member.container, code) {
        return true;
    }
    match member.container.restart_policy.as_deref().unwrap_or(pod.restart_policy()) {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

fn rule_says_restart(container: &Container, code: i32) -> bool {
    container.restart_policy_rules.iter().flatten().any(|rule| {
        let Some(codes) = &rule.exit_codes else { return false };
        let listed = codes.values.iter().flatten().any(|value| *value == code);
        rule.action.starts_with("Restart") && listed == (codes.operator == "In")
    })
}

fn gate(task: &Task, memory: &Memory, now: Now, plan: &mut Plan) -> bool {
    match memory.retry.get(task) {
        Some((at, _)) if now.mono < *at => {
            plan.wake(*at);
            false
        }
        _ => true,
    }
}

fn prepare(seen: &Observed, memory: &Memory, now: Now, plan: &mut Plan) {
    if !memory.volumes_ready {
        if gate(&Task::Volumes, memory, now, plan) {
            plan.actions.push(Action::PrepareVolumes);
        }
        return;
    }
    if seen.ready_sandbox().is_some() || memory.busy.contains(&Task::Sandbox) {
        return;
    }
    if !gate(&Task::Sandbox, memory, now, plan) {
        return;
    }
    let broken = seen.sandbox();
    if broken.is_some() && !memory.retry.contains_key(&Task::Sandbox) {
        plan.note(false, "SandboxChanged", None, "Pod sandbox changed, it will be killed and re-created.".to_owned());
    }
    plan.actions.push(Action::RunSandbox {
        attempt: broken.map_or(0, |sandbox| sandbox.config.attempt + 1),
        replaces: broken.map(|sandbox| sandbox.id.clone()),
    });
}

fn initialize(pod: &PodInfo, seen: &Observed, memory: &mut Memory, now: Now, plan: &mut Plan) {
    for member in &pod.members {
        if !init_part_done(member, seen, memory) {
            consider(pod, member, seen, memory, now, plan);
            break;
        }
    }
}

fn keep_running(pod: &PodInfo, seen: &Observed, memory: &mut Memory, now: Now, plan: &mut Plan) {
    for member in &pod.members {
        if member.role != Role::Init {
            consider(pod, member, seen, memory, now, plan);
        }
    }
}

/// What to do about one container that should run.
fn consider(pod: &PodInfo, member: &Member, seen: &Observed, memory: &mut Memory, now: Now, plan: &mut Plan) {
    let name = member.name();
    let Some(sandbox) = seen.ready_sandbox() else { return };
    if memory.starting(name) {
        return;
    }
    let start = Action::Start {
        name: name.to_owned(),
        attempt: seen.latest(name).map_or(0, |container| container.attempt + 1),
        sandbox: sandbox.id.clone(),
    };
    let Some(container) = seen.current(name) else {
        let seen_before = member.role == Role::Ephemeral && seen.latest(name).is_some();
        if !seen_before && may_try(name, memory, now, plan) {
            plan.actions.push(start);
        }
        return;
    };
    match &container.state {
        // Left behind by a kubelet that ended between making and starting.
        ContainerState::Created => plan.actions.push(Action::Remove(container.id.clone())),
        ContainerState::Running { .. } => condemn(pod, member, container, memory, now, plan),
        state => {
            let code = exit_code(state).unwrap_or(137);
            let replaced = container.annotations.get(HASH_ANNOTATION).is_some_and(|hash| *hash != spec_hash(member));
            if (replaced || may_restart(pod, member, code))
                && may_start_again(pod, member, container, memory, now, plan)
            {
                plan.actions.push(start);
            }
        }
    }
}

fn may_try(name: &str, memory: &Memory, now: Now, plan: &mut Plan) -> bool {
    match memory.waiting.get(name) {
        Some(waiting) if now.mono < waiting.retry_at => {
            plan.wake(waiting.retry_at);
            false
        }
        _ => true,
    }
}

/// Stops a running container that a probe condemned or whose spec changed.
fn condemn(
    pod: &PodInfo,
    member: &Member,
    container: &ContainerStatus,
    memory: &mut Memory,
    now: Now,
    plan: &mut Plan,
) {
    let changed = container.annotations.get(HASH_ANNOTATION).is_some_and(|hash| *hash != spec_hash(member));
    if changed && member.role != Role::Ephemeral && !memory.condemned.contains_key(&container.id) {
        let message = format!("Container {} definition changed, will be restarted", member.name());
        memory.condemned.insert(container.id.clone(), Condemned { message, grace: None });
    }
    let Some(condemned) = memory.condemned.get(&container.id).cloned() else { return };
    if memory.stopping.contains_key(&container.id) {
        return;
    }
    let grace = condemned.grace.unwrap_or(pod.grace());
    memory.stopping.insert(container.id.clone(), now.mono.plus(grace));
    plan.note(false, "Killing", Some(member.name()), condemned.message);
    plan.actions.push(Action::Stop { id: container.id.clone(), name: member.name().to_owned(), grace });
}

fn may_start_again(
    pod: &PodInfo,
    member: &Member,
    container: &ContainerStatus,
    memory: &mut Memory,
    now: Now,
    plan: &mut Plan,
) -> bool {
    let name = member.name();
    if !may_try(name, memory, now, plan) {
        return false;
    }
    let exit = memory.exits.get(&container.id).copied().unwrap_or(now.mono);
    let previous = memory.backoff.get(name).copied();
    if let Some(backoff) = previous.filter(|backoff| exit.since(backoff.since) <= BACKOFF_RESET) {
        let retry_at = exit.plus(backoff.delay);
        if now.mono < retry_at {
            let message = format!(
                "back-off {} restarting failed container={name} pod={}",
                go_duration(backoff.delay),
                pod.full_name()
            );
            let event = format!("Back-off restarting failed container {name} in pod {}", pod.full_name());
            plan.note(true, "BackOff", Some(name), event);
            memory
                .waiting
                .insert(name.to_owned(), Waiting { reason: "CrashLoopBackOff".to_owned(), message, retry_at });
            plan.wake(retry_at);
            return false;
        }
    }
    let since_exit = previous.filter(|backoff| exit.since(backoff.since) <= BACKOFF_RESET);
    memory.backoff.insert(name.to_owned(), Backoff::after(since_exit, now.mono));
    true
}

/// A pause as Go prints it: `10s`, `2m40s`, `5m0s`.
pub fn go_duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        seconds => format!("{}h{}m{}s", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

/// A digest of what, when changed, needs a new container: its name and image.
pub fn spec_hash(member: &Member) -> String {
    let image = member.container.image.as_deref().unwrap_or_default();
    // It is compared across restarts and releases.
    format!("{:x}", base::fnv1a(member.name().bytes().chain([0]).chain(image.bytes())))
}

fn terminate(pod: &PodInfo, seen: &Observed, memory: &mut Memory, now: Now, plan: &mut Plan) {
    let wanted = now.mono.plus(pod.grace());
    let deadline = memory.stop_deadline.map_or(wanted, |deadline| deadline.min(wanted));
    memory.stop_deadline = Some(deadline);

    let running: Vec<&ContainerStatus> = seen.running().collect();
    if !running.is_empty() {
        for container in next_to_stop(pod, &running, now.mono >= deadline) {
            stop(container, deadline, memory, now, plan);
        }
        return;
    }
    if memory.busy.iter().any(|task| matches!(task, Task::Start(_) | Task::Stop(_))) {
        return;
    }
    let ready = seen.sandboxes.iter().find(|sandbox| sandbox.state == SandboxState::Ready);
    if let Some(sandbox) = ready {
        if gate(&Task::Sandbox, memory, now, plan) {
            plan.actions.push(Action::StopSandbox(sandbox.id.clone()));
        }
        return;
    }
    leave(pod, memory, now, plan);
}

/// Which of the running containers stop now: first all that are no sidecars, then the sidecars from last to first. Once
/// the time is over, all.
fn next_to_stop<'a>(pod: &PodInfo, running: &[&'a ContainerStatus], overdue: bool) -> Vec<&'a ContainerStatus> {
    let sidecar =
        |container: &&&ContainerStatus| pod.member(&container.name).is_some_and(|member| member.role == Role::Sidecar);
    let others: Vec<&ContainerStatus> = running.iter().filter(|c| overdue || !sidecar(c)).copied().collect();
    if !others.is_empty() {
        return others;
    }
    let position = |container: &&ContainerStatus| pod.members.iter().position(|m| m.name() == container.name);
    running.iter().copied().max_by_key(position).into_iter().collect()
}

fn stop(container: &ContainerStatus, deadline: Monotonic, memory: &mut Memory, now: Now, plan: &mut Plan) {
    let first = match memory.stopping.get(&container.id) {
        // The time was cut short since it was asked.
        Some(earlier) if deadline.plus(Duration::from_millis(500)) < *earlier => false,
        Some(_) => return,
        None => true,
    };
    if first {
        plan.note(false, "Killing", Some(&container.name), format!("Stopping container {}", container.name));
    }
    memory.stopping.insert(container.id.clone(), deadline);
    plan.actions.push(Action::Stop {
        id: container.id.clone(),
        name: container.name.clone(),
        grace: deadline.since(now.mono),
    });
}

/// The last steps of a pod of which nothing runs.
fn leave(pod: &PodInfo, memory: &Memory, now: Now, plan: &mut Plan) {
    if !memory.unmounted {
        return unmount(memory, now, plan);
    }
    let (task, action) = match memory.object_gone {
        true => (Task::Forget, Action::Forget),
        // A finalizer may keep the object for long after it was deleted.
        false if memory.object_deleted || !memory.leaving(pod) => return,
        false => (Task::Object, Action::DeleteObject),
    };
    if !memory.forgotten && gate(&task, memory, now, plan) {
        plan.actions.push(action);
    }
}

fn unmount(memory: &Memory, now: Now, plan: &mut Plan) {
    if !memory.unmounted && gate(&Task::Volumes, memory, now, plan) {
        plan.actions.push(Action::Unmount);
    }
}

/// Forgets dead containers beyond the newest of each name, and old sandboxes that hold nothing worth keeping.
fn collect_garbage(seen: &Observed, plan: &mut Plan) {
    let mut by_name: BTreeMap<&str, Vec<&ContainerStatus>> = BTreeMap::new();
    for container in seen.containers.iter().filter(|container| exit_code(&container.state).is_some()) {
        by_name.entry(&container.name).or_default().push(container);
    }
    let mut kept: BTreeSet<&SandboxId> = seen.running().map(|container| &container.sandbox).collect();
    for dead in by_name.values_mut() {
        dead.sort_by_key(|container| std::cmp::Reverse(age(container)));
        kept.extend(dead.iter().take(DEAD_CONTAINERS_KEPT).map(|container| &container.sandbox));
        plan.actions
            .extend(dead.iter().skip(DEAD_CONTAINERS_KEPT).map(|container| Action::Remove(container.id.clone())));
    }
    let Some(newest) = seen.sandbox() else { return };
    for sandbox in &seen.sandboxes {
        if sandbox.id != newest.id && sandbox.state == SandboxState::NotReady && !kept.contains(&sandbox.id) {
            plan.actions.push(Action::RemoveSandbox(sandbox.id.clone()));
        }
    }
}
