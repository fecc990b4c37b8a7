//! The node's side of an update: it looks at the update service, at its Node and its pods, and does what the plan says.
//!
//! Start at [`run`]. Nothing is remembered that is not in the board's notes or in the Node: a restart of this program changes
//! nothing. While nothing is wanted the API server is not asked.
//!
//! Not here: what is to be done (`plan.rs`).

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Monotonic, chain};
use bundle::ask;
use bundle::message::{Check, Reply, Request, SOCKET, State, Status};
use bytes::Bytes;
use client::typed::{JSON, MERGE_PATCH, STRATEGIC_PATCH};
use client::{Cache, Client, ClientError};
use http::Method;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::pace::{AT_A_TIME, Others, pace, quiet_seconds};
use super::plan::{CONDITION, CORDONED, CORDONED_BEFORE, Cordon, Plan, Pod, Shown, Step, plan};

/// While nothing is wanted.
const IDLE: Duration = Duration::from_secs(5);
/// While there is something to do.
const BUSY: Duration = Duration::from_secs(1);
/// Requests that came in by this node are answered within so long, as a rule.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// What the role needs.
pub struct Updates {
    /// This node's name.
    pub node: String,
    /// The way to the API server.
    pub client: Client,
    /// Every Node, as far as this machine has heard.
    pub nodes: Arc<Cache>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where the update service listens.
    pub socket: PathBuf,
    /// Told whether the machine is about to restart, so that nobody's request is under way through it then.
    pub leaving: watch::Sender<bool>,
}

/// Why a round came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The update service is away.
    #[error("failed to ask the update service at {path}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It said no.
    #[error("the update service refused: {0}")]
    Refused(String),
    /// The API server said no or is away.
    #[error("failed to take care of an update")]
    Api(#[source] ClientError),
    /// It said something else than was asked.
    #[error("failed to understand a list")]
    List(#[source] serde_json::Error),
}

/// What one round leaves for the next.
#[derive(Default)]
struct Memory {
    /// The status of which nothing more is to be done.
    settled: Option<Status>,
    /// Since when pods are being taken away.
    since: Option<Monotonic>,
    /// It is this node's turn to be away.
    has_turn: bool,
    /// Why pods could not be evicted, by namespace and name.
    refused: Vec<((String, String), String)>,
    /// What was complained of last.
    complained: String,
}

/// Takes care of this node's updates, for ever.
pub async fn run(updates: Updates) -> Infallible {
    let mut memory = Memory::default();
    loop {
        let pause = match round(&updates, &mut memory).await {
            Ok(pause) => {
                memory.complained.clear();
                pause
            }
            Err(error) => {
                complain(&mut memory, chain(&error).to_string());
                IDLE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// What lasts is said once.
fn complain(memory: &mut Memory, told: String) {
    if memory.complained != told {
        tracing::warn!("{told}");
        memory.complained = told;
    }
}

async fn round(updates: &Updates, memory: &mut Memory) -> Result<Duration, UpdateError> {
    let status = status(&updates.socket).await?;
    if memory.settled.as_ref() == Some(&status) {
        return Ok(IDLE);
    }
    memory.settled = None;
    let node: Node = updates.client.get("", &updates.node).await.map_err(UpdateError::Api)?;
    let state = status.wanted.as_ref().map(|wanted| wanted.state);
    let mut pods = Vec::new();
    if matches!(state, Some(State::Staged | State::Trial)) || !status.confirmed {
        pods = self::pods(updates, &memory.refused).await?;
        asked(&updates.socket, Request::Report(checks(&node, &pods, &boot_id()))).await?;
    }
    let draining = draining(memory, state, updates.clock.monotonic());
    let plan = plan(&status, &cordon(&node), &pods, draining);
    let (plan, pause) = in_turn(updates, memory, &status, &node, &pods, plan).await?;
    show(updates, &node, &plan).await?;
    let leaves = plan.steps.contains(&Step::Activate);
    updates.leaving.send_if_modified(|leaving| std::mem::replace(leaving, leaves) != leaves);
    act(updates, memory, &status, &cordon(&node), &plan).await?;
    if status.wanted.is_none() && status.confirmed {
        memory.settled = Some(status);
    }
    Ok(pause)
}

fn draining(memory: &mut Memory, state: Option<State>, now: Monotonic) -> Duration {
    if state != Some(State::Staged) {
        memory.has_turn = false;
        memory.since = None;
        memory.refused.clear();
        return Duration::ZERO;
    }
    now.since(*memory.since.get_or_insert(now))
}

/// The plan as far as it is this node's turn, and how long to wait after it.
async fn in_turn(
    updates: &Updates,
    memory: &mut Memory,
    status: &Status,
    node: &Node,
    pods: &[Pod],
    plan: Plan,
) -> Result<(Plan, Duration), UpdateError> {
    let Some(wanted) = &status.wanted else { return Ok((plan, BUSY)) };
    let claims = cordon(node).ours.is_some();
    let asks = pods.iter().find(|pod| pod.updates && !pod.leaving);
    let at_a_time = asks.and_then(|pod| pod.at_a_time).unwrap_or(1);
    let heard = || updates.nodes.list::<Node>(None).iter().filter_map(|other| away(other, &updates.node)).collect();
    let mut others = Others { away: if memory.has_turn { vec![] } else { heard() }, at_a_time };
    if !memory.has_turn && others.away.len() < at_a_time {
        // What was heard may be old: this is the look that counts.
        others.away = nodes(updates).await?.iter().filter_map(|other| away(other, &updates.node)).collect();
    }
    let (plan, has_turn) = pace(plan, &wanted.version, memory.has_turn, claims, &others);
    memory.has_turn = has_turn;
    let waits = plan.shown.as_ref().is_some_and(|shown| shown.reason == "Queued");
    if waits {
        memory.since = None;
    }
    Ok((plan, if waits { Duration::from_secs(quiet_seconds(&updates.node)) } else { BUSY }))
}

/// The name of another node that is cordoned for an update or not Ready.
fn away(other: &Node, ours: &str) -> Option<String> {
    let name = other.metadata.name.clone().filter(|name| name != ours)?;
    (cordon(other).ours.is_some() || !is_ready(other)).then_some(name)
}

fn is_ready(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn act(
    updates: &Updates,
    memory: &mut Memory,
    status: &Status,
    cordon: &Cordon,
    plan: &Plan,
) -> Result<(), UpdateError> {
    memory.refused.clear();
    for step in &plan.steps {
        match step {
            Step::Cordon(digest) => patch_node(updates, &claim(cordon, digest)).await?,
            Step::Uncordon => patch_node(updates, &unclaim(cordon)).await?,
            Step::Evict(namespace, name) => {
                if let Some(why) = evict(updates, namespace, name).await? {
                    memory.refused.push(((namespace.clone(), name.clone()), why));
                }
            }
            Step::Activate => {
                let Some(wanted) = &status.wanted else { continue };
                tokio::time::sleep(LAST_REQUESTS).await;
                asked(&updates.socket, Request::Activate { digest: wanted.digest }).await?;
            }
        }
    }
    Ok(())
}

async fn status(socket: &Path) -> Result<Status, UpdateError> {
    match asked(socket, Request::Status).await? {
        Reply::Status(status) => Ok(status),
        other => Err(UpdateError::Refused(format!("it answered {other:?}"))),
    }
}

async fn asked(socket: &Path, request: Request) -> Result<Reply, UpdateError> {
    let path = socket.to_owned();
    let asking = tokio::task::spawn_blocking(move || ask(&path, &request, None)).await;
    let failed = |source| UpdateError::Socket { path: socket.to_owned(), source };
    match asking.map_err(io::Error::other).and_then(|reply| reply).map_err(failed)? {
        Reply::Refused(told) => Err(UpdateError::Refused(told)),
        reply => Ok(reply),
    }
}

fn claim(cordon: &Cordon, digest: &str) -> Value {
    let before = cordon.is_theirs().then_some("true");
    json!({
        "metadata": {"annotations": {CORDONED: digest, CORDONED_BEFORE: before}},
        "spec": {"unschedulable": true},
    })
}

fn unclaim(cordon: &Cordon) -> Value {
    // Null removes: an open node has neither.
    let unschedulable = cordon.is_theirs().then_some(true);
    json!({
        "metadata": {"annotations": {CORDONED: null, CORDONED_BEFORE: null}},
        "spec": {"unschedulable": unschedulable},
    })
}

async fn patch_node(updates: &Updates, patch: &Value) -> Result<(), UpdateError> {
    let patched = updates.client.patch::<Node>("", &updates.node, "", MERGE_PATCH, patch).await;
    patched.map(drop).map_err(UpdateError::Api)
}

/// Evicts a pod; why not, where a budget keeps it.
async fn evict(updates: &Updates, namespace: &str, name: &str) -> Result<Option<String>, UpdateError> {
    let body = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"namespace": namespace, "name": name},
    });
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
    match updates.client.call(Method::POST, path, JSON, Bytes::from(body.to_string())).await {
        Ok(_) => Ok(None),
        Err(error) if error.not_found() => Ok(None),
        Err(ClientError::Status { code: 429 | 500, message, .. }) => Ok(Some(message)),
        Err(error) => Err(UpdateError::Api(error)),
    }
}

/// Says in the Node what is being done, and in an Event what is new of it.
async fn show(updates: &Updates, node: &Node, plan: &Plan) -> Result<(), UpdateError> {
    let Some(shown) = &plan.shown else { return Ok(()) };
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let before = conditions.into_iter().find(|condition| condition.type_ == CONDITION);
    let status = if shown.failed { "True" } else { "False" };
    // A board that never saw an update says nothing of them.
    if before.is_none() && shown.reason == "Confirmed" {
        return Ok(());
    }
    let said = |it: &str, ours: &str| it == ours;
    let reason = before.and_then(|before| before.reason.as_deref()).unwrap_or_default();
    let message = before.and_then(|before| before.message.as_deref()).unwrap_or_default();
    if said(reason, &shown.reason) && said(message, &shown.message) {
        return Ok(());
    }
    let now = updates.clock.now().rfc3339();
    let since = before.filter(|before| before.status == status).and_then(|before| before.last_transition_time.clone());
    let since = since.map_or_else(|| json!(now), |since| json!(since));
    let condition = json!({
        "type": CONDITION, "status": status, "reason": shown.reason, "message": shown.message,
        "lastTransitionTime": since, "lastHeartbeatTime": now,
    });
    let patch = json!({"status": {"conditions": [condition]}});
    let patched = updates.client.patch::<Node>("", &updates.node, "status", STRATEGIC_PATCH, &patch).await;
    patched.map_err(UpdateError::Api)?;
    // What goes on is told once; each failure is, since one refused bundle may follow another.
    if reason != shown.reason || shown.failed {
        tell(updates, shown, &now).await;
    }
    Ok(())
}

/// An Event says it to whoever watches; the condition has it anyway.
async fn tell(updates: &Updates, shown: &Shown, now: &str) {
    let name = format!("{}.{:016x}", updates.node, updates.clock.now().0 as u64);
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"namespace": "default", "name": name},
        // Upstream gives the node's name as its uid, and `kubectl describe node` looks for that.
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": updates.node, "uid": updates.node},
        "type": if shown.failed { "Warning" } else { "Normal" }, "reason": format!("Update{}", shown.reason),
        "message": shown.message, "count": 1, "firstTimestamp": now, "lastTimestamp": now,
        "source": {"component": "skerry-update", "host": updates.node},
        "reportingComponent": "skerry-update", "reportingInstance": updates.node,
    });
    let path = "/api/v1/namespaces/default/events".to_owned();
    if let Err(error) = updates.client.call(Method::POST, path, JSON, Bytes::from(event.to_string())).await {
        tracing::debug!(error = %chain(&error), "an event is lost");
    }
}

fn cordon(node: &Node) -> Cordon {
    let note = |name: &str| node.metadata.annotations.as_ref().and_then(|all| all.get(name)).cloned();
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    Cordon { unschedulable, ours: note(CORDONED), before: note(CORDONED_BEFORE).is_some() }
}

async fn nodes(updates: &Updates) -> Result<Vec<Node>, UpdateError> {
    let path = "/api/v1/nodes".to_owned();
    let answer = updates.client.call(Method::GET, path, "", Bytes::new()).await.map_err(UpdateError::Api)?;
    serde_json::from_slice::<List<Node>>(&answer).map(|list| list.items).map_err(UpdateError::List)
}

async fn pods(updates: &Updates, refused: &[((String, String), String)]) -> Result<Vec<Pod>, UpdateError> {
    let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", updates.node);
    let answer = updates.client.call(Method::GET, path, "", Bytes::new()).await.map_err(UpdateError::Api)?;
    let list: Value = serde_json::from_slice(&answer).map_err(UpdateError::List)?;
    let mut pods: Vec<Pod> = list["items"].as_array().into_iter().flatten().map(|item| pod(item)).collect();
    for pod in &mut pods {
        let of =
            |((namespace, name), _): &&((String, String), String)| *namespace == pod.namespace && *name == pod.name;
        pod.refused = refused.iter().find(of).map(|(_, why)| why.clone());
    }
    Ok(pods)
}

fn pod(item: &Value) -> Pod {
    let (meta, spec, status) = (&item["metadata"], &item["spec"], &item["status"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let owner = list(&meta["ownerReferences"]).into_iter().find(|owner| owner["controller"] == true);
    let volumes = list(&spec["volumes"]);
    let folder = Path::new(SOCKET).parent().and_then(Path::to_str).unwrap_or_default();
    Pod {
        namespace: text(&meta["namespace"]),
        name: text(&meta["name"]),
        controller: owner.map(|owner| text(&owner["kind"])),
        mirror: meta["annotations"].get("kubernetes.io/config.mirror").is_some(),
        finished: matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")),
        leaving: !meta["deletionTimestamp"].is_null(),
        empty_dir: volumes.iter().any(|volume| !volume["emptyDir"].is_null()),
        ready: list(&status["conditions"]).iter().any(|it| it["type"] == "Ready" && it["status"] == "True"),
        updates: volumes.iter().any(|volume| volume["hostPath"]["path"] == folder),
        at_a_time: meta["annotations"][AT_A_TIME].as_str().and_then(|text| text.parse().ok()),
        refused: None,
    }
}

/// What works on this node, by names that mean the same after the switch: the node is ready in this boot, and the pods that
/// stay on it are.
fn checks(node: &Node, pods: &[Pod], boot: &str) -> Vec<Check> {
    let status = node.status.as_ref();
    let is_this_boot = status.and_then(|status| status.node_info.as_ref()).is_some_and(|info| info.boot_id == boot);
    let mut stay =
        pods.iter().filter(|pod| pod.controller.as_deref() == Some("DaemonSet") && !pod.updates && !pod.leaving);
    let check = |name: &str, passes| Check { name: name.to_owned(), passes };
    vec![check("node", is_this_boot && is_ready(node)), check("daemon-pods", stay.all(|pod| pod.ready))]
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(boot: &str, ready: &str, pods: &[(&str, bool, bool)], expected: &str) {
        let node = json!({"status": {
            "nodeInfo": {"bootID": boot, "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "",
                "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
                "systemUUID": ""},
            "conditions": [{"type": "Ready", "status": ready}],
        }});
        let node: Node = serde_json::from_value(node).expect("a Node");
        let one = |(kind, updates, ready): &(&str, bool, bool)| Pod {
            controller: Some((*kind).to_owned()),
            updates: *updates,
            ready: *ready,
            ..Pod::default()
        };
        let pods: Vec<Pod> = pods.iter().map(one).collect();
        let told: Vec<String> =
            checks(&node, &pods, "now").iter().map(|check| format!("{}={}", check.name, check.passes)).collect();
        assert_eq!(told.join(" "), expected);
    }

    #[test]
    fn a_node_that_somebody_cordoned_is_claimed_and_stays_cordoned() {
        let node = |patch: &Value| {
            let mut node = json!({"metadata": {"annotations": {}}, "spec": {}});
            for part in ["/metadata/annotations", "/spec"] {
                let fields = patch.pointer(part).and_then(Value::as_object).expect("fields");
                let given = fields.iter().filter(|(_, value)| !value.is_null());
                *node.pointer_mut(part).unwrap() = given.map(|(name, value)| (name.clone(), value.clone())).collect();
            }
            cordon(&serde_json::from_value(node).expect("a node"))
        };
        let theirs = Cordon { unschedulable: true, ..Cordon::default() };
        for (first, before) in [(theirs, true), (Cordon::default(), false)] {
            let claimed = node(&claim(&first, "2"));
            assert_eq!(claimed, Cordon { unschedulable: true, ours: Some("2".into()), before });
            assert_eq!(node(&claim(&claimed, "3")), Cordon { ours: Some("3".into()), ..claimed.clone() });
            assert_eq!(node(&unclaim(&claimed)), first);
        }
    }

    #[test]
    fn a_node_that_was_ready_before_the_restart_says_nothing_of_this_one() {
        check("now", "True", &[], "node=true daemon-pods=true");
        check("before", "True", &[], "node=false daemon-pods=true");
        check("now", "Unknown", &[], "node=false daemon-pods=true");
    }

    #[test]
    fn pods_that_stay_count_but_for_the_one_that_asks() {
        check("now", "True", &[("DaemonSet", false, false)], "node=true daemon-pods=false");
        check("now", "True", &[("DaemonSet", true, false), ("ReplicaSet", false, false)], "node=true daemon-pods=true");
    }

    #[test]
    fn a_pod_is_read_from_its_object() {
        let item = json!({
            "metadata": {"namespace": "kube-system", "name": "u", "deletionTimestamp": "2026-11-25T00:00:00Z",
                "ownerReferences": [{"kind": "DaemonSet", "controller": true}]},
            "spec": {"volumes": [{"hostPath": {"path": "/run/skerry/update"}}, {"emptyDir": {}}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let pod = pod(&item);
        assert!(pod.updates && pod.empty_dir && pod.leaving && pod.ready && !pod.finished && !pod.mirror);
        assert_eq!(pod.controller.as_deref(), Some("DaemonSet"));
    }
}
