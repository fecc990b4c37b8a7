//! The status the API shows of a pod: a function of the pod, what runs of it, and what is remembered.
//!
//! Start at [`status`]. It reads the status the API has now for what must be kept (transition times, others' conditions).
//!
//! Invariants:
//! * the same input gives the same status, so that it is written only when it changed;
//! * a condition's `lastTransitionTime` moves only with its `status`;
//! * conditions of other owners are left alone.
//!
//! Not here: sending it (`report`).

use std::net::IpAddr;

use base::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus as ApiContainer, HostIP, PodCondition, PodIP, PodStatus, VolumeMountStatus,
};
use runtime::{ContainerState, ContainerStatus};

use crate::lifecycle::Lifecycle;
use crate::pod::{Member, PodInfo, Role, api_time, one_of_each_family};
use crate::step::{Memory, Observed, init_part_done, is_initialized};

/// The most of a termination message that is shown; upstream's limit.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// What the status needs to know besides the pod.
pub struct Facts<'a> {
    /// What runs.
    pub seen: &'a Observed,
    /// What is remembered.
    pub memory: &'a Memory,
    /// The termination message of a container that ended.
    pub message: &'a dyn Fn(&ContainerStatus) -> Option<String>,
    /// The node's addresses.
    pub host_ips: &'a [IpAddr],
    /// Such as `skerry`, of `skerry://<id>`.
    pub scheme: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// The pod's status now.
pub fn status(pod: &PodInfo, facts: &Facts<'_>) -> PodStatus {
    let before = pod.pod.status.clone().unwrap_or_default();
    let of = |wanted: &[Role]| -> Vec<ApiContainer> {
        let members = pod.members.iter().filter(|member| wanted.contains(&member.role));
        members.map(|member| container(pod, member, &before, facts)).collect()
    };
    let (inits, apps, ephemerals) = (of(&[Role::Init, Role::Sidecar]), of(&[Role::App]), of(&[Role::Ephemeral]));
    let phase = phase(pod, &inits, &apps, facts);
    let (reason, message) = match &facts.memory.stop {
        Some(cause) => (Some(cause.reason.clone()), Some(cause.message.clone())),
        None => (before.reason.clone(), before.message.clone()),
    };
    let mut next = PodStatus {
        phase: Some(phase.to_owned()),
        reason,
        message,
        start_time: before.start_time.clone().or_else(|| Some(api_time(facts.now))),
        qos_class: Some(pod.qos().as_str().to_owned()),
        observed_generation: pod.pod.metadata.generation,
        container_statuses: some(apps.clone()),
        init_container_statuses: some(inits.clone()),
        ephemeral_container_statuses: some(ephemerals),
        nominated_node_name: before.nominated_node_name.clone(),
        resource_claim_statuses: before.resource_claim_statuses.clone(),
        ..PodStatus::default()
    };
    addresses(pod, &before, facts, &mut next);
    next.conditions = Some(conditions(pod, &before, &inits, &apps, phase, facts));
    next
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn addresses(pod: &PodInfo, before: &PodStatus, facts: &Facts<'_>, next: &mut PodStatus) {
    let host = one_of_each_family(facts.host_ips);
    next.host_ip = host.first().cloned();
    next.host_ips = some(host.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    let own = match facts.seen.sandbox() {
        None => Vec::new(),
        Some(_) if pod.host_network() => host,
        Some(sandbox) => one_of_each_family(&sandbox.ips),
    };
    // An ended pod keeps showing the address it had.
    if own.is_empty() && facts.memory.lifecycle >= Lifecycle::Terminating {
        next.pod_ip = before.pod_ip.clone();
        next.pod_ips = before.pod_ips.clone();
        return;
    }
    next.pod_ip = own.first().cloned();
    next.pod_ips = some(own.into_iter().map(|ip| PodIP { ip }).collect());
}

fn container(pod: &PodInfo, member: &Member, before: &PodStatus, facts: &Facts<'_>) -> ApiContainer {
    let (name, memory) = (member.name(), facts.memory);
    let earlier = [&before.container_statuses, &before.init_container_statuses, &before.ephemeral_container_statuses]
        .into_iter()
        .flat_map(|list| list.iter().flatten())
        .find(|status| status.name == name);
    let latest = facts.seen.latest(name);
    let mut next = ApiContainer {
        name: name.to_owned(),
        image: member.container.image.clone().unwrap_or_default(),
        started: Some(false),
        volume_mounts: volume_mounts(member),
        ..ApiContainer::default()
    };
    if member.role == Role::Ephemeral {
        next.started = None;
    }
    let Some(latest) = latest else {
        return without_container(pod, member, next, earlier, facts);
    };
    next.restart_count = latest.attempt as i32;
    next.container_id = Some(format!("{}://{}", facts.scheme, latest.id.0));
    next.image_id = latest.image_id.clone();
    next.allocated_resources = member.container.resources.as_ref().and_then(|r| r.requests.clone());
    next.resources = member.container.resources.clone();
    next.last_state = facts.seen.previous(name).and_then(|previous| terminated(previous, facts)).map(ended);
    if next.last_state.is_none() && latest.attempt > 0 {
        // The one before was collected; what was shown of it stays.
        next.last_state = earlier
            .filter(|earlier| earlier.restart_count == latest.attempt as i32)
            .and_then(|earlier| earlier.last_state.clone())
            .filter(|state| state.terminated.is_some());
    }
    match &latest.state {
        ContainerState::Running { started_at } if !memory.starting(name) => {
            let started_at = Some(api_time(*started_at));
            next.state = Some(ApiState { running: Some(ContainerStateRunning { started_at }), ..ApiState::default() });
            if member.role != Role::Ephemeral {
                next.started = Some(memory.started(member, latest));
                next.ready = member.role != Role::Init && memory.ready(member, latest);
            }
        }
        ContainerState::Running { .. } | ContainerState::Created => next.state = Some(waiting(pod, member, facts)),
        ContainerState::Exited { exit_code, .. } => {
            let over = terminated(latest, facts);
            // A new attempt is being prepared, or waits for its time: the end becomes the last state.
            if memory.lifecycle < Lifecycle::Terminating && (memory.waiting.contains_key(name) || memory.starting(name))
            {
                next.last_state = over.map(ended);
                next.state = Some(waiting(pod, member, facts));
            } else {
                next.state = over.map(ended);
                next.ready = member.role == Role::Init && *exit_code == 0;
            }
        }
        ContainerState::Unknown => next.state = terminated(latest, facts).map(ended),
    }
    next
}

/// The status of a container that was never made (or of which nothing is left).
fn without_container(
    pod: &PodInfo,
    member: &Member,
    mut next: ApiContainer,
    earlier: Option<&ApiContainer>,
    facts: &Facts<'_>,
) -> ApiContainer {
    let over = earlier.filter(|earlier| {
        facts.memory.lifecycle >= Lifecycle::Terminating
            && earlier.state.as_ref().is_some_and(|state| state.terminated.is_some())
    });
    if let Some(earlier) = over {
        return earlier.clone();
    }
    if facts.memory.lifecycle >= Lifecycle::Terminating
        && let Some(earlier) = earlier.filter(|earlier| earlier.container_id.is_some())
    {
        // It ran once and nobody can say how it ended.
        let mut lost = earlier.clone();
        lost.ready = false;
        lost.started = lost.started.map(|_| false);
        lost.state = Some(ended(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            ..ContainerStateTerminated::default()
        }));
        return lost;
    }
    next.state = Some(waiting(pod, member, facts));
    next
}

fn volume_mounts(member: &Member) -> Option<Vec<VolumeMountStatus>> {
    let mounts = member.container.volume_mounts.iter().flatten();
    some(
        mounts
            .map(|mount| VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only: mount.read_only.filter(|read_only| *read_only),
                recursive_read_only: (mount.read_only == Some(true))
                    .then(|| mount.recursive_read_only.clone().unwrap_or_else(|| "Disabled".to_owned())),
                ..VolumeMountStatus::default()
            })
            .collect(),
    )
}

fn waiting(pod: &PodInfo, member: &Member, facts: &Facts<'_>) -> ApiState {
    let remembered = facts.memory.waiting.get(member.name());
    let (reason, message) = match remembered {
        Some(waiting) => (waiting.reason.clone(), Some(waiting.message.clone()).filter(|text| !text.is_empty())),
        None => {
            let has_init = pod.members.iter().any(|member| matches!(member.role, Role::Init | Role::Sidecar));
            let initialising = has_init
                && (member.role != Role::App || !is_initialized(pod, facts.seen, facts.memory))
                && facts.seen.ready_sandbox().is_some();
            (
                if initialising || has_init && member.role == Role::App {
                    "PodInitializing"
                } else {
                    "ContainerCreating"
                }
                .to_owned(),
                None,
            )
        }
    };
    ApiState { waiting: Some(ContainerStateWaiting { reason: Some(reason), message }), ..ApiState::default() }
}

fn ended(terminated: ContainerStateTerminated) -> ApiState {
    ApiState { terminated: Some(terminated), ..ApiState::default() }
}

fn terminated(container: &ContainerStatus, facts: &Facts<'_>) -> Option<ContainerStateTerminated> {
    let container_id = Some(format!("{}://{}", facts.scheme, container.id.0));
    match &container.state {
        ContainerState::Exited { started_at, finished_at, exit_code, signal, reason, message } => {
            let told = Some(message.clone()).filter(|text| !text.is_empty()).or_else(|| (facts.message)(container));
            Some(ContainerStateTerminated {
                container_id,
                exit_code: *exit_code,
                // Upstream shows a signal only where the runtime reports one apart from the code; CRI never does.
                signal: signal.filter(|_| false),
                reason: Some(reason.clone()).filter(|reason| !reason.is_empty()),
                message: told.map(|text| shorten(&text)),
                started_at: started_at.map(api_time),
                finished_at: Some(api_time(*finished_at)),
            })
        }
        ContainerState::Unknown => Some(ContainerStateTerminated {
            container_id,
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            ..ContainerStateTerminated::default()
        }),
        ContainerState::Created | ContainerState::Running { .. } => None,
    }
}

fn shorten(text: &str) -> String {
    let mut end = text.len().min(MESSAGE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// The pod's phase, by upstream's rules.
fn phase(pod: &PodInfo, inits: &[ApiContainer], apps: &[ApiContainer], facts: &Facts<'_>) -> &'static str {
    let before = pod.pod.status.as_ref().and_then(|status| status.phase.as_deref());
    match before {
        // A phase never goes back from the end.
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ if facts.memory.stop.is_some() => return "Failed",
        _ => {}
    }
    let policy = pod.restart_policy();
    let quiet = facts.seen.containers.iter().all(|c| !matches!(c.state, ContainerState::Running { .. }));
    let init_failed = inits.iter().any(|status| {
        let sidecar = pod.member(&status.name).is_some_and(|member| member.role == Role::Sidecar);
        !sidecar && exit(status).is_some_and(|code| code != 0)
    });
    let apps_begun = apps.iter().any(|status| status.container_id.is_some());
    if !apps_begun && !is_initialized(pod, facts.seen, facts.memory) {
        return if init_failed && policy == "Never" && quiet { "Failed" } else { deleted_or(pod, facts, "Pending") };
    }
    let ended = |status: &&ApiContainer| exit(status).is_some() || waits_after_end(status);
    let stopped = apps.iter().filter(ended).count();
    let succeeded = apps.iter().filter(|status| exit(status) == Some(0)).count();
    let running = apps.iter().any(|status| state(status).running.is_some());
    let waits = apps.iter().any(|status| state(status).waiting.is_some() && !waits_after_end(status));
    if waits {
        return deleted_or(pod, facts, "Pending");
    }
    if running || stopped < apps.len() {
        return "Running";
    }
    let terminal = facts.memory.lifecycle >= Lifecycle::Terminating;
    let restarts = apps.iter().any(waits_after_end);
    if !terminal && restarts || terminal && !quiet {
        return "Running";
    }
    match (policy, terminal) {
        ("Always", false) => "Running",
        _ if succeeded == apps.len() => "Succeeded",
        ("Never", _) | (_, true) => "Failed",
        _ => "Running",
    }
}

/// A pod that is deleted before it ran has failed once nothing of it can run any more.
fn deleted_or(pod: &PodInfo, facts: &Facts<'_>, phase: &'static str) -> &'static str {
    let over = facts.memory.lifecycle >= Lifecycle::Terminating && facts.memory.unmounted;
    if pod.deleting() && over { "Failed" } else { phase }
}

fn state(status: &ApiContainer) -> ApiState {
    status.state.clone().unwrap_or_default()
}

fn exit(status: &ApiContainer) -> Option<i32> {
    status.state.as_ref()?.terminated.as_ref().map(|terminated| terminated.exit_code)
}

fn waits_after_end(status: &ApiContainer) -> bool {
    state(status).waiting.is_some() && status.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
}

struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn conditions(
    pod: &PodInfo,
    before: &PodStatus,
    inits: &[ApiContainer],
    apps: &[ApiContainer],
    phase: &str,
    facts: &Facts<'_>,
) -> Vec<PodCondition> {
    let verdicts = [
        sandbox_condition(pod, facts),
        initialized_condition(pod, phase, facts),
        ready_condition(pod, before, inits, apps, phase),
        containers_ready_condition("ContainersReady", pod, inits, apps, phase),
        Verdict { kind: "PodScheduled", holds: true, reason: None, message: None },
    ];
    let old = before.conditions.clone().unwrap_or_default();
    let mut all: Vec<PodCondition> = verdicts
        .iter()
        .map(|verdict| {
            let status = if verdict.holds { "True" } else { "False" };
            let earlier = old.iter().find(|condition| condition.type_ == verdict.kind);
            let since = earlier
                .filter(|earlier| earlier.status == status)
                .and_then(|earlier| earlier.last_transition_time.clone())
                .unwrap_or_else(|| api_time(facts.now));
            PodCondition {
                type_: verdict.kind.to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.map(str::to_owned),
                message: verdict.message.clone(),
                last_transition_time: Some(since),
                observed_generation: pod.pod.metadata.generation,
                ..PodCondition::default()
            }
        })
        .collect();
    let ours = |kind: &str| verdicts.iter().any(|verdict| verdict.kind == kind);
    all.extend(old.into_iter().filter(|condition| !ours(&condition.type_)));
    all
}

fn sandbox_condition(pod: &PodInfo, facts: &Facts<'_>) -> Verdict {
    let sandbox = facts.seen.ready_sandbox();
    let holds = sandbox.is_some_and(|sandbox| pod.host_network() || !sandbox.ips.is_empty());
    Verdict { kind: "PodReadyToStartContainers", holds, reason: None, message: None }
}

fn initialized_condition(pod: &PodInfo, phase: &str, facts: &Facts<'_>) -> Verdict {
    let kind = "Initialized";
    if phase == "Succeeded" {
        return Verdict { kind, holds: true, reason: Some("PodCompleted"), message: None };
    }
    let members = pod.members.iter().filter(|member| matches!(member.role, Role::Init | Role::Sidecar));
    let was_done = pod.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let was_done = was_done.into_iter().any(|condition| condition.type_ == kind && condition.status == "True");
    let over = facts.memory.lifecycle >= Lifecycle::Terminating && was_done;
    if over || is_initialized(pod, facts.seen, facts.memory) {
        return Verdict { kind, holds: true, reason: None, message: None };
    }
    let missing: Vec<&str> =
        members.filter(|member| !init_part_done(member, facts.seen, facts.memory)).map(Member::name).collect();
    Verdict {
        kind,
        holds: false,
        reason: Some("ContainersNotInitialized"),
        message: Some(format!("containers with incomplete status: [{}]", missing.join(" "))),
    }
}

fn containers_ready_condition(
    kind: &'static str,
    pod: &PodInfo,
    inits: &[ApiContainer],
    apps: &[ApiContainer],
    phase: &str,
) -> Verdict {
    let verdict = |holds, reason, message| Verdict { kind, holds, reason, message };
    match phase {
        "Succeeded" => return verdict(false, Some("PodCompleted"), None),
        "Failed" => return verdict(false, Some("PodFailed"), None),
        _ => {}
    }
    let sidecar = |status: &&ApiContainer| pod.member(&status.name).is_some_and(|m| m.role == Role::Sidecar);
    let unready: Vec<&str> = inits
        .iter()
        .filter(sidecar)
        .chain(apps)
        .filter(|status| !status.ready)
        .map(|status| status.name.as_str())
        .collect();
    if unready.is_empty() {
        return verdict(true, None, None);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    verdict(false, Some("ContainersNotReady"), Some(message))
}

fn ready_condition(
    pod: &PodInfo,
    before: &PodStatus,
    inits: &[ApiContainer],
    apps: &[ApiContainer],
    phase: &str,
) -> Verdict {
    let containers = containers_ready_condition("Ready", pod, inits, apps, phase);
    if !containers.holds {
        return containers;
    }
    let missing: Vec<String> = pod
        .spec()
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            let found = before.conditions.iter().flatten().find(|condition| condition.type_ == *kind);
            match found {
                None => Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if missing.is_empty() {
        return containers;
    }
    Verdict { kind: "Ready", holds: false, reason: Some("ReadinessGatesNotReady"), message: Some(missing.join(", ")) }
}

/// The body of a strategic merge patch that turns the status the API has into `next`.
pub fn patch(uid: &str, before: &PodStatus, next: &PodStatus) -> serde_json::Value {
    let mut status = serde_json::to_value(next).unwrap_or_default();
    if let Some(fields) = status.as_object_mut() {
        // Patches merge: what is to vanish must be named, and lists of addresses must be replaced as a whole.
        let old = serde_json::to_value(before).unwrap_or_default();
        const OURS: [&str; 9] = [
            "reason",
            "message",
            "podIP",
            "podIPs",
            "hostIP",
            "hostIPs",
            "containerStatuses",
            "initContainerStatuses",
            "ephemeralContainerStatuses",
        ];
        for name in OURS {
            if !fields.contains_key(name) && old.get(name).is_some() {
                fields.insert(name.to_owned(), serde_json::Value::Null);
            }
        }
        for name in ["podIPs", "hostIPs"] {
            if let Some(list) = fields.get_mut(name).and_then(|list| list.as_array_mut())
                && old.get(name).and_then(|old| old.as_array()).is_some_and(|old| old != list)
            {
                list.insert(0, serde_json::json!({"$patch": "replace"}));
            }
        }
        if let Some(list) = fields.get_mut("conditions").and_then(|list| list.as_array_mut()) {
            list.retain(|condition| condition.get("type").and_then(|kind| kind.as_str()).is_some_and(is_ours));
        }
    }
    serde_json::json!({"metadata": {"uid": uid}, "status": status})
}

/// The status to go on with when the API shows `theirs`: ours is newer than what comes back, except for what others say.
/// Where somebody else overruled one of our conditions, as the node controller does while a node is silent, `sent` is put
/// right, so that ours is sent again.
pub fn heard(mut ours: PodStatus, theirs: PodStatus, sent: &mut PodStatus) -> PodStatus {
    let shown = theirs.conditions.clone().unwrap_or_default();
    for condition in sent.conditions.iter_mut().flatten().filter(|condition| is_ours(&condition.type_)) {
        if let Some(shown) =
            shown.iter().find(|shown| shown.type_ == condition.type_ && shown.status != condition.status)
        {
            *condition = shown.clone();
        }
    }
    let conditions = ours.conditions.get_or_insert_default();
    conditions.retain(|condition| is_ours(&condition.type_));
    conditions.extend(shown.into_iter().filter(|condition| !is_ours(&condition.type_)));
    ours.nominated_node_name = theirs.nominated_node_name;
    ours.resource_claim_statuses = theirs.resource_claim_statuses;
    let ended = |phase: &Option<String>| matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
    if ended(&theirs.phase) && !ended(&ours.phase) {
        // Somebody else declared it over, as the pod collector does with pods of lost nodes.
        (ours.phase, ours.reason, ours.message) = (theirs.phase, theirs.reason, theirs.message);
    }
    ours
}

/// Whether a condition is the kubelet's to say.
pub fn is_ours(kind: &str) -> bool {
    matches!(kind, "PodReadyToStartContainers" | "Initialized" | "Ready" | "ContainersReady" | "PodScheduled")
}

/// Whether two statuses say the same.
pub fn is_same(one: &PodStatus, other: &PodStatus) -> bool {
    let canonical = |status: &PodStatus| {
        let mut status = status.clone();
        if let Some(conditions) = &mut status.conditions {
            conditions.sort_by(|one, other| one.type_.cmp(&other.type_));
        }
        serde_json::to_value(status).unwrap_or_default()
    };
    canonical(one) == canonical(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shows(conditions: &[(&str, &str)]) -> PodStatus {
        let condition = |(type_, status): &(&str, &str)| PodCondition {
            type_: (*type_).to_owned(),
            status: (*status).to_owned(),
            ..PodCondition::default()
        };
        PodStatus { conditions: Some(conditions.iter().map(condition).collect()), ..PodStatus::default() }
    }

    /// What is kept of `ours` when the API shows `theirs`, and whether it is sent again.
    #[track_caller]
    fn check(theirs: &[(&str, &str)], kept: &[(&str, &str)], again: bool) {
        let ours = shows(&[("Ready", "True")]);
        let mut sent = ours.clone();
        let next = heard(ours, shows(theirs), &mut sent);
        assert!(is_same(&next, &shows(kept)), "{next:?}");
        assert_eq!(!is_same(&shows(&[("Ready", "True")]), &sent), again);
    }

    #[test]
    fn what_others_say_is_kept() {
        check(&[("Ready", "True"), ("Gate", "False")], &[("Ready", "True"), ("Gate", "False")], false);
    }

    /// Found by the simulator: after a node had been silent its pods stayed out of their Services for ever.
    #[test]
    fn a_pod_that_was_declared_unready_says_again_that_it_is_ready() {
        check(&[("Ready", "False")], &[("Ready", "True")], true);
    }

    #[test]
    fn what_has_not_arrived_yet_is_no_contradiction() {
        check(&[], &[("Ready", "True")], false);
    }
}
