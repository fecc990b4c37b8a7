//! One node: the real kubelet's decisions (`kubelet::step`, `kubelet::status`) over a fake runtime.
//!
//! Start at [`FakeNode::step`].
//!
//! Invariants:
//! * what really runs is kept here, apart from what the API says, for the checks to compare;
//! * a kubelet that restarts loses its memory, not its containers.
//!
//! Fake: containers (they start at once, and end by chance), volumes and images (always there), probes (none).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use base::{Clock, ManualClock, Rng, Timestamp};
use client::{DeleteOptions, Kind};
use http::Method;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kubelet::pod::PodInfo;
use kubelet::step::{Action, Memory, Now, Observed, Task, step};
use runtime::{ContainerId, ContainerState, ContainerStatus, SandboxConfig, SandboxId, SandboxState, SandboxStatus};
use serde_json::Value;

use crate::nodes::ask;
use crate::server::Server;

/// A pod on a node.
struct Life {
    info: PodInfo,
    memory: Memory,
    seen: Observed,
    sent: PodStatus,
    /// What it wants and has not done yet.
    todo: Vec<Action>,
}

/// A node.
pub struct FakeNode {
    /// Its name.
    pub name: String,
    /// Rounds for which it hears and says nothing; its pods run on.
    pub silent: u32,
    /// How often it will fall silent again once it is heard: a cable that is loose.
    pub flaps: u32,
    number: u8,
    made: u32,
    lives: BTreeMap<String, Life>,
}

impl FakeNode {
    /// A node without pods.
    pub fn new(name: &str, number: u8) -> FakeNode {
        FakeNode { name: name.to_owned(), silent: 0, flaps: 0, number, made: 0, lives: BTreeMap::new() }
    }

    /// The pods of which a container runs: uid, namespace, name.
    pub fn running(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let runs =
            |life: &&Life| life.seen.containers.iter().any(|each| matches!(each.state, ContainerState::Running { .. }));
        self.lives.values().filter(runs).map(|life| (&*life.info.uid, &*life.info.namespace, &*life.info.name))
    }

    /// A round is over: it may be heard again, or not any more.
    pub fn pass_round(&mut self) {
        self.silent = self.silent.saturating_sub(1);
        if self.silent == 0 && self.flaps > 0 {
            self.flaps -= 1;
            // Heard for a round or two, silent for as long as it takes to be missed.
            self.silent = if self.flaps.is_multiple_of(3) { 25 } else { 2 };
        }
    }

    /// The kubelet is started anew; every container survives.
    pub fn restart(&mut self) {
        for life in self.lives.values_mut() {
            life.memory = Memory::default();
            life.todo.clear();
        }
    }

    /// Hears of its pods, `pods` being all that the API has.
    pub fn hear(&mut self, pods: &[Value]) {
        let mut here = Vec::new();
        for pod in pods.iter().filter(|pod| pod["spec"]["nodeName"] == *self.name) {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            let Ok(parsed) = serde_json::from_value::<Pod>(pod.clone()) else { continue };
            let Some(mut info) = PodInfo::new(parsed) else { continue };
            here.push(uid.clone());
            match self.lives.get_mut(&uid) {
                Some(life) => {
                    let theirs = info.pod.status.take().unwrap_or_default();
                    let ours = life.info.pod.status.take().unwrap_or_default();
                    info.pod.status = Some(kubelet::status::heard(ours, theirs, &mut life.sent));
                    life.info = info;
                }
                None if info.ended() && !info.deleting() => {}
                None => {
                    let sent = info.pod.status.clone().unwrap_or_default();
                    let fresh =
                        Life { info, memory: Memory::default(), seen: Observed::default(), sent, todo: Vec::new() };
                    self.lives.insert(uid, fresh);
                }
            }
        }
        for (uid, life) in &mut self.lives {
            life.memory.object_gone |= !here.contains(uid);
        }
    }

    /// Lets every kubelet decide, does most of what it wants, and tells. Returns how much was done, and the pods that it says
    /// have succeeded.
    pub fn step(
        &mut self,
        server: &Server,
        clock: &ManualClock,
        rng: &mut Rng,
        calm: bool,
    ) -> (usize, Vec<(String, String)>) {
        let (mut done, mut succeeded) = (0, Vec::new());
        let online = self.silent == 0;
        for (uid, life) in &mut self.lives {
            life.end_by_chance(clock.now(), rng, calm);
            let now = Now { wall: clock.now(), mono: clock.monotonic() };
            let plan = step(&life.info, &life.seen, &mut life.memory, now);
            if online {
                done += life.tell(server, clock, &mut succeeded);
            }
            for action in plan.actions {
                life.memory.busy.insert(action.task());
                life.todo.push(action);
            }
            for action in std::mem::take(&mut life.todo) {
                if (!calm && rng.chance(1, 4)) || (action == Action::DeleteObject && !online) {
                    life.todo.push(action);
                    continue;
                }
                done += 1;
                self.made += 1;
                let ip = IpAddr::V4(Ipv4Addr::new(10, 42, self.number, (self.made % 250) as u8));
                let id = format!("{}-{}", self.name, self.made);
                life.memory.busy.remove(&action.task());
                match action {
                    Action::DeleteObject => life.delete(server, uid, now),
                    action => life.act(action, id, ip, clock.now()),
                }
            }
        }
        self.lives.retain(|_, life| !life.memory.forgotten);
        (done, succeeded)
    }
}

impl Life {
    fn end_by_chance(&mut self, now: Timestamp, rng: &mut Rng, calm: bool) {
        let lasting = self.info.restart_policy() == "Always";
        for container in &mut self.seen.containers {
            let ContainerState::Running { started_at } = container.state else { continue };
            let ends = if lasting { !calm && rng.chance(1, 300) } else { rng.chance(1, 4) };
            if ends {
                let exit_code = i32::from(lasting || rng.chance(1, 6));
                container.state = exited(started_at, now, exit_code);
            }
        }
    }

    fn act(&mut self, action: Action, id: String, ip: IpAddr, now: Timestamp) {
        match action {
            Action::PrepareVolumes => self.memory.volumes_ready = true,
            Action::RunSandbox { attempt, replaces } => {
                self.seen
                    .sandboxes
                    .iter_mut()
                    .filter(|each| Some(&each.id) == replaces.as_ref())
                    .for_each(|each| each.state = SandboxState::NotReady);
                let config = SandboxConfig { uid: self.info.uid.clone(), attempt, ..SandboxConfig::default() };
                let (id, state) = (SandboxId(id), SandboxState::Ready);
                self.seen.sandboxes.push(SandboxStatus { id, config, state, created_at: now, ips: vec![ip] });
            }
            Action::Start { name, attempt, sandbox } => {
                self.memory.waiting.remove(&name);
                self.seen.containers.push(container(id, sandbox, name, attempt, now));
            }
            Action::Stop { id, .. } => {
                for each in self.seen.containers.iter_mut().filter(|each| each.id == id) {
                    if let ContainerState::Running { started_at } = each.state {
                        each.state = exited(started_at, now, 143);
                    }
                }
            }
            Action::StopSandbox(id) => {
                self.seen
                    .sandboxes
                    .iter_mut()
                    .filter(|each| each.id == id)
                    .for_each(|each| each.state = SandboxState::NotReady);
            }
            Action::Remove(id) => self.seen.containers.retain(|each| each.id != id),
            Action::RemoveSandbox(id) => self.seen.sandboxes.retain(|each| each.id != id),
            Action::Unmount => (self.memory.unmounted, self.memory.volumes_ready) = (true, false),
            Action::Forget => {
                self.seen = Observed::default();
                self.memory.forgotten = true;
            }
            Action::DeleteObject => {}
        }
    }

    /// Writes the status if it changed; how many writes that took.
    fn tell(&mut self, server: &Server, clock: &ManualClock, succeeded: &mut Vec<(String, String)>) -> usize {
        if self.memory.object_gone || self.memory.object_deleted {
            return 0;
        }
        let facts = kubelet::status::Facts {
            seen: &self.seen,
            memory: &self.memory,
            message: &|_| None,
            host_ips: &[],
            scheme: "fake",
            now: clock.now(),
        };
        let next = kubelet::status::status(&self.info, &facts);
        if kubelet::status::is_same(&self.sent, &next) {
            return 0;
        }
        let labels = self.info.pod.metadata.labels.clone().unwrap_or_default();
        if next.phase.as_deref() == Some("Succeeded") {
            let job = labels.get("job-name").cloned().unwrap_or_default();
            succeeded.push((self.info.uid.clone(), format!("{}/{job}", self.info.namespace)));
        }
        let body = kubelet::status::patch(&self.info.uid, &self.sent, &next);
        let path = Pod::RESOURCE.path(&self.info.namespace, &self.info.name, "status");
        if ask(server, Method::PATCH, path, STRATEGIC, body.to_string()).is_some() {
            self.sent = next.clone();
        }
        self.info.pod.status = Some(next);
        1
    }

    fn delete(&mut self, server: &Server, uid: &str, now: Now) {
        let options = DeleteOptions { uid: Some(uid.to_owned()), grace_period: Some(0), ..DeleteOptions::default() };
        let path = Pod::RESOURCE.path(&self.info.namespace, &self.info.name, "");
        let body = String::from_utf8_lossy(&options.body()).into_owned();
        self.memory.object_deleted = ask(server, Method::DELETE, path, client::typed::JSON, body).is_some();
        if !self.memory.object_deleted {
            self.memory.failed(Task::Object, now.mono);
        }
    }
}

const STRATEGIC: &str = "application/strategic-merge-patch+json";

fn exited(started_at: Timestamp, finished_at: Timestamp, exit_code: i32) -> ContainerState {
    let reason = if exit_code == 0 { "Completed" } else { "Error" }.to_owned();
    let started_at = Some(started_at);
    ContainerState::Exited { started_at, finished_at, exit_code, signal: None, reason, message: String::new() }
}

fn container(id: String, sandbox: SandboxId, name: String, attempt: u32, now: Timestamp) -> ContainerStatus {
    ContainerStatus {
        id: ContainerId(id),
        sandbox,
        name,
        attempt,
        state: ContainerState::Running { started_at: now },
        created_at: now,
        image: "busybox".to_owned(),
        image_id: "sha256:0".to_owned(),
        pid: None,
        log_path: std::path::PathBuf::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
    }
}
