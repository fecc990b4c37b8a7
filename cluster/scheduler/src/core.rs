//! The scheduler, a step at a time: follows the caches, keeps the snapshot, and says what to write.
//!
//! Start at [`Scheduler::turn`]; the caller performs each [`Step`] and reports it by [`Scheduler::done`]. `run.rs` does so with
//! tokio; the simulator crashes it between any two writes.
//!
//! Invariants:
//! * nothing is decided before every cache has its first list;
//! * a pod whose binding may have happened counts at its node until its cache shows the truth, or [`UNKNOWN_WAIT`] is over;
//! * a pod that found no place is looked at again only when something happened that could help it, or after [`RETRY`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Monotonic, Timestamp};
use bytes::Bytes;
use client::{Cache, Caches, Change, Collection, DeleteOptions, Entry, Kind, Listener};
use control::{Failure, Note, Regarding, Verb, Write};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;

use crate::decide::{Decision, Room, decide, nominated, waits_for};
use crate::preempt::Preemption;
use crate::snapshot::{Changes, PodInfo, Snapshot, has_ended};
use crate::volumes::claims_of;

/// A pod that found no place is looked at again so often even if nothing seems to have changed.
pub const RETRY: Duration = Duration::from_secs(60);
/// How long a pod counts at its node if nobody knows whether it was bound: longer than any watch takes to recover.
pub const UNKNOWN_WAIT: Duration = Duration::from_secs(30);
/// The wait after the first write about a pod that failed, doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Who schedules.
#[derive(Clone, Debug)]
pub struct Options {
    /// Pods name it in `spec.schedulerName`.
    pub scheduler_name: String,
}

impl Default for Options {
    fn default() -> Options {
        Options { scheduler_name: "default-scheduler".to_owned() }
    }
}

/// What is to be written about one pod.
#[derive(Clone, Debug)]
pub struct Step {
    /// The pod.
    pub pod: Arc<Pod>,
    /// In this order; the first that fails ends the step.
    pub writes: Vec<Write>,
    /// Told as Events when all of it is written.
    pub notes: Vec<Note>,
    binds: bool,
}

/// A pod without a node.
struct Waiting {
    pod: Arc<Pod>,
    tried: Option<(Changes, Monotonic)>,
    not_before: Monotonic,
    failures: u32,
    told: Option<String>,
}

/// The scheduler.
pub struct Scheduler {
    options: Options,
    caches: Vec<Arc<Cache>>,
    budgets: Arc<Cache>,
    inbox: Arc<Mutex<VecDeque<(Collection, Change)>>>,
    _listener: Arc<Listener>,
    snapshot: Snapshot,
    waiting: BTreeMap<String, Waiting>,
    /// Pods that were bound, or may have been, without their cache showing it yet; until when, if that is not known.
    assumed: BTreeMap<String, Option<Monotonic>>,
}

impl Scheduler {
    /// Opens the caches it reads and listens to them; `wake` is called when there may be something to do.
    pub fn new(options: Options, caches: &Caches, wake: impl Fn() + Send + Sync + 'static) -> Scheduler {
        let inbox: Arc<Mutex<VecDeque<_>>> = Arc::default();
        let letters = inbox.clone();
        let listener: Arc<Listener> = Arc::new(move |collection: &Collection, change: &Change| {
            if matches!(change, Change::Object { .. }) {
                letters.lock().unwrap_or_else(PoisonError::into_inner).push_back((collection.clone(), change.clone()));
            }
            wake();
        });
        let followed = [
            caches.of::<Node>(),
            caches.of::<Pod>(),
            caches.of::<Namespace>(),
            caches.of::<PersistentVolumeClaim>(),
            caches.of::<PersistentVolume>(),
            caches.of::<StorageClass>(),
        ];
        for cache in &followed {
            cache.subscribe(&listener);
            // Whoever was there before us is told of like news; an entry told twice does no harm.
            for entry in cache.entries(None) {
                listener(cache.collection(), &Change::Object { old: None, new: Some(entry) });
            }
        }
        let budgets = caches.of::<PodDisruptionBudget>();
        Scheduler {
            options,
            caches: followed.into_iter().chain([budgets.clone()]).collect(),
            budgets,
            inbox,
            _listener: listener,
            snapshot: Snapshot::default(),
            waiting: BTreeMap::new(),
            assumed: BTreeMap::new(),
        }
    }

    /// What to write now about the pods that wait.
    pub fn turn(&mut self, now: Timestamp, at: Monotonic) -> Vec<Step> {
        if self.caches.iter().any(|cache| !cache.synced()) {
            return Vec::new();
        }
        self.read_letters();
        self.forget_unknown(at);
        let pods = self.pods_to_try(at);
        if pods.is_empty() {
            return Vec::new();
        }
        let before = self.snapshot.changes();
        let decisions = decide(&mut self.snapshot, pods, &self.budgets.list::<PodDisruptionBudget>(None));
        decisions.into_iter().filter_map(|decision| self.step(decision, before, now, at)).collect()
    }

    /// When to call [`Scheduler::turn`] again although no cache changed.
    pub fn due(&self) -> Option<Monotonic> {
        let waiting = self.waiting.iter().filter(|(uid, _)| !self.assumed.contains_key(*uid));
        let again =
            waiting.map(|(_, each)| each.tried.map_or(each.not_before, |(_, at)| at.plus(RETRY)).max(each.not_before));
        self.assumed.values().flatten().copied().chain(again).min()
    }

    /// Whether there is nothing to do before time passes.
    pub fn is_idle(&self, at: Monotonic) -> bool {
        let no_letters = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        no_letters && self.due().is_none_or(|due| due > at)
    }

    /// Hears how a step went.
    pub fn done(&mut self, step: &Step, result: Result<(), &Failure>, at: Monotonic) {
        let uid = step.pod.uid();
        match (result, self.waiting.get_mut(uid)) {
            (Ok(()), Some(waiting)) => waiting.failures = 0,
            (Ok(()), None) => {}
            (Err(failure), waiting) => {
                let mut again = at;
                if let Some(waiting) = waiting {
                    again = at.plus(BACKOFF_MIN.saturating_mul(1 << waiting.failures.min(10)).min(BACKOFF_MAX));
                    waiting.failures += 1;
                    (waiting.tried, waiting.told, waiting.not_before) = (None, None, again);
                }
                if step.binds {
                    self.unbound(uid, failure, again, at);
                }
            }
        }
    }

    /// A binding failed: refused, or perhaps done all the same.
    fn unbound(&mut self, uid: &str, failure: &Failure, again: Monotonic, at: Monotonic) {
        if !self.assumed.contains_key(uid) {
            return;
        }
        if matches!(failure.code, 400..=499) {
            tracing::debug!(%uid, %failure, ?again, "a pod was not bound");
            self.assumed.remove(uid);
            self.snapshot.remove(uid);
        } else {
            tracing::warn!(%uid, %failure, "nobody knows whether the pod was bound; it counts at its node for a while");
            self.assumed.insert(uid.to_owned(), Some(at.plus(UNKNOWN_WAIT)));
        }
    }

    fn read_letters(&mut self) {
        let letters = std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        for (collection, change) in letters {
            let Change::Object { old, new } = change else { continue };
            match collection.resource.as_str() {
                "nodes" => self.see_node(old, new),
                "pods" => self.see_pod(old, new),
                "persistentvolumeclaims" | "persistentvolumes" | "storageclasses" => {
                    self.see_volume(&collection, old, new)
                }
                _ => {
                    if let Some(namespace) = new.and_then(|entry| entry.typed::<Namespace>()) {
                        self.snapshot.set_namespace(&namespace);
                    }
                }
            }
        }
    }

    fn see_volume(&mut self, collection: &Collection, old: Option<Arc<Entry>>, new: Option<Arc<Entry>>) {
        let Some(meta) = new.as_ref().or(old.as_ref()).map(|entry| entry.meta.clone()) else { return };
        self.snapshot.change_volumes(|volumes| match collection.resource.as_str() {
            "persistentvolumeclaims" => {
                volumes.set_claim(
                    &meta.namespace,
                    &meta.name,
                    new.and_then(|entry| entry.typed::<PersistentVolumeClaim>()),
                );
            }
            "persistentvolumes" => {
                volumes.set_volume(&meta.name, new.and_then(|entry| entry.typed::<PersistentVolume>()));
            }
            _ => volumes.set_class(&meta.name, new.and_then(|entry| entry.typed::<StorageClass>())),
        });
    }

    fn see_node(&mut self, old: Option<Arc<Entry>>, new: Option<Arc<Entry>>) {
        match (new.and_then(|entry| entry.typed::<Node>()), old) {
            (Some(node), _) => self.snapshot.set_node(&node),
            (None, Some(old)) => self.snapshot.remove_node(&old.meta.name),
            (None, None) => {}
        }
    }

    fn see_pod(&mut self, old: Option<Arc<Entry>>, new: Option<Arc<Entry>>) {
        // A name may come back as another pod.
        if let Some(old) = &old
            && new.as_ref().is_none_or(|new| new.meta.uid != old.meta.uid)
        {
            self.forget(&old.meta.uid);
        }
        let Some(pod) = new.and_then(|entry| entry.typed::<Pod>()) else { return };
        let uid = pod.uid().to_owned();
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty());
        if has_ended(&pod) {
            self.forget(&uid);
        } else if let Some(node) = bound {
            self.waiting.remove(&uid);
            self.assumed.remove(&uid);
            self.snapshot.place(&node, Arc::new(PodInfo::new(pod)));
        } else if waits_for(&pod, &self.options.scheduler_name) {
            self.wait(uid, pod);
        } else if !self.assumed.contains_key(&uid) {
            self.forget(&uid);
        }
    }

    fn wait(&mut self, uid: String, pod: Arc<Pod>) {
        match self.waiting.get_mut(&uid) {
            Some(waiting) => {
                // Its own condition is no news.
                if waiting.pod.spec != pod.spec || waiting.pod.metadata.labels != pod.metadata.labels {
                    waiting.tried = None;
                }
                waiting.pod = pod;
            }
            None => {
                let fresh = Waiting { pod, tried: None, not_before: Monotonic(0), failures: 0, told: None };
                self.waiting.insert(uid, fresh);
            }
        }
    }

    fn forget(&mut self, uid: &str) {
        self.waiting.remove(uid);
        self.assumed.remove(uid);
        self.snapshot.remove(uid);
    }

    /// A binding of which nobody heard again did not happen.
    fn forget_unknown(&mut self, at: Monotonic) {
        let over: Vec<String> = self
            .assumed
            .iter()
            .filter(|(_, until)| until.is_some_and(|until| until <= at))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in over {
            self.assumed.remove(&uid);
            self.snapshot.remove(&uid);
        }
    }

    /// Pods for which something happened. Room that is kept for one of them is free while they are all looked at.
    fn pods_to_try(&mut self, at: Monotonic) -> Vec<Arc<Pod>> {
        let changes = self.snapshot.changes();
        let is_news = |waiting: &Waiting| {
            let Some((seen, tried)) = waiting.tried else { return true };
            let company = seen.company != changes.company && PodInfo::new(waiting.pod.clone()).depends_on_others();
            let volumes = seen.volumes != changes.volumes && !claims_of(&waiting.pod).is_empty();
            seen.room != changes.room || company || volumes || tried.plus(RETRY) <= at
        };
        let (assumed, all) = (&self.assumed, &self.waiting);
        let open = || all.iter().filter(|(uid, _)| !assumed.contains_key(*uid)).map(|(_, waiting)| waiting);
        if !open().any(|waiting| waiting.not_before <= at && is_news(waiting)) {
            return Vec::new();
        }
        let is_tried =
            |waiting: &&Waiting| nominated(&waiting.pod).is_some() || (waiting.not_before <= at && is_news(waiting));
        let tried: Vec<Arc<Pod>> = open().filter(is_tried).map(|waiting| waiting.pod.clone()).collect();
        tried.iter().for_each(|pod| drop(self.snapshot.take(pod.uid())));
        tried
    }

    fn step(&mut self, decision: Decision, before: Changes, now: Timestamp, at: Monotonic) -> Option<Step> {
        match decision {
            Decision::Bind { pod, node } => {
                self.assumed.insert(pod.uid().to_owned(), None);
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
                let note = Note::normal(&Regarding::object(&*pod), "Scheduled", message);
                Some(Step { writes: vec![binding(&pod, &node)], notes: vec![note], binds: true, pod })
            }
            Decision::Reserve { pod, writes, .. } => {
                let waiting = self.waiting.get_mut(pod.uid())?;
                waiting.tried = Some((before, at));
                (!writes.is_empty()).then(|| Step { writes, notes: Vec::new(), binds: false, pod })
            }
            Decision::Explain { pod, reason, message, room } => {
                let waiting = self.waiting.get_mut(pod.uid())?;
                waiting.tried = Some((before, at));
                let is_told = waiting.told.as_ref() == Some(&message);
                if is_told && !matches!(room, Room::Make(_)) {
                    return None;
                }
                waiting.told = Some(message.clone());
                Some(explain(pod, reason, &message, room, &self.options.scheduler_name, now))
            }
        }
    }
}

fn binding(pod: &Pod, node: &str) -> Write {
    let body = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "uid": pod.metadata.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let body = Bytes::from(body.to_string());
    Write { verb: Verb::Create, subresource: "binding", body, ..Write::patch(pod, "", json!({"metadata": {}})) }
}

/// Changes the status by a patch that leaves the conditions of others alone.
fn patch_status(pod: &Pod, status: serde_json::Value) -> Write {
    let patch = Write::patch(pod, "status", json!({"metadata": {}, "status": status}));
    Write { verb: Verb::Patch(STRATEGIC), ..patch }
}

fn explain(pod: Arc<Pod>, reason: &'static str, message: &str, room: Room, scheduler: &str, now: Timestamp) -> Step {
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message,
                           "lastTransitionTime": now.rfc3339(), "lastProbeTime": null});
    let mut status = json!({"conditions": [condition]});
    match &room {
        Room::Make(found) => status["nominatedNodeName"] = found.node.as_str().into(),
        Room::Forget if nominated(&pod).is_some() => status["nominatedNodeName"] = serde_json::Value::Null,
        _ => {}
    }
    let mut step = Step { writes: vec![patch_status(&pod, status)], notes: Vec::new(), binds: false, pod };
    if reason == "Unschedulable" {
        step.notes.push(Note::warning(&Regarding::object(&*step.pod), "FailedScheduling", message));
    }
    if let Room::Make(found) = room {
        end_victims(&mut step, &found, scheduler, now);
    }
    step
}

/// Nominates first, so that a crash in between leaves no victim without its reason.
fn end_victims(step: &mut Step, found: &Preemption, scheduler: &str, now: Timestamp) {
    for victim in found.victims.iter().filter(|victim| !victim.deleting()) {
        let message = format!("{scheduler}: preempting to accommodate a higher priority pod");
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": message, "lastTransitionTime": now.rfc3339()});
        step.writes.push(patch_status(victim, json!({"conditions": [condition]})));
        step.writes.push(Write::delete(&**victim, DeleteOptions::default()));
        let message = format!("Preempted by pod {} on node {}", step.pod.uid(), found.node);
        step.notes.push(Note::normal(&Regarding::object(&**victim), "Preempted", message));
    }
}
