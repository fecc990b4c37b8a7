//! Replaces the pods of a Deployment by way of ReplicaSets: one for each template it has had.
//!
//! Start at [`Deployments`]; `Rollout::decide` is one step of it. Every step changes what can be changed now and waits for
//! the ReplicaSets to follow.
//!
//! Invariants:
//! * during a rolling update at most `replicas + maxSurge` pods exist, and at least `replicas - maxUnavailable` are
//!   available, counting only what was seen;
//! * a ReplicaSet's name follows from its template, so that a repeated create finds the first one;
//! * a paused Deployment scales, but never makes or prefers a new template.
//!
//! Not here: pods (`replicaset.rs`). `kubectl rollout undo` writes an old template; nothing here knows about it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use client::{Collection, DeleteOptions, Entry, Kind, Resource, Selector};
use control::{About, Key, Note, Outcome, Reconciler, Regarding, Verb, View, Write, itself, owner};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods::{claim, controller_reference, fingerprint, hash, phase, some};
use crate::times::{left, moment, time};

/// The label that keeps the pods of two templates apart.
const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that belong to the Deployment alone.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// `progressDeadlineSeconds` of this value means none.
const NO_DEADLINE: i32 = i32::MAX;

/// The controller of Deployments.
pub struct Deployments;

impl Reconciler for Deployments {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Deployment::RESOURCE, ReplicaSet::RESOURCE, Pod::RESOURCE];
        About {
            name: "deployment-controller",
            reads: READS,
            writes: &["replicasets.apps", "deployments.apps.status", "deployments.apps.metadata.annotations"],
            everything: false,
        }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        match collection.resource.as_str() {
            "replicasets" if entry.meta.owners.iter().any(|owner| owner.controller) => owner(entry, "Deployment"),
            "replicasets" => crate::replicaset::selecting::<Deployment>(view, entry, selector),
            // Only Recreate waits for pods, and only for the last of a ReplicaSet to go.
            "pods" => {
                let sets = owner(entry, "ReplicaSet");
                let sets =
                    sets.iter().filter_map(|set| view.cache(ReplicaSet::RESOURCE)?.entry(&set.namespace, &set.name));
                sets.flat_map(|set| owner(&set, "Deployment"))
                    .filter(|key| {
                        view.get::<Deployment>(&key.namespace, &key.name).is_some_and(|each| is_recreate(&spec(&each)))
                    })
                    .collect()
            }
            _ => itself(entry),
        }
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        let Some(deployment) = view.get::<Deployment>(&key.namespace, &key.name) else { return Outcome::none() };
        let selector = selector(&deployment);
        if selector.is_empty() {
            let about = Regarding::object(&*deployment);
            let note = Note::warning(
                &about,
                "SelectingAll",
                "This deployment is selecting all pods. A non-empty selector is required.",
            );
            return Outcome { events: vec![note], ..Outcome::default() };
        }
        let claimed = claim::<Deployment, ReplicaSet>(view, &*deployment, &selector);
        if !claimed.writes.is_empty() {
            return Outcome { writes: claimed.writes, ..Outcome::default() };
        }
        Rollout::new(&deployment, claimed.own, view, now).decide()
    }
}

fn spec(deployment: &Deployment) -> DeploymentSpec {
    deployment.spec.clone().unwrap_or_default()
}

fn selector(deployment: &Deployment) -> Selector {
    deployment.spec.as_ref().map(|spec| Selector::of(&spec.selector)).unwrap_or_default()
}

fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// One Deployment and its ReplicaSets, as they are and as they are to become.
struct Rollout<'a> {
    deployment: &'a Deployment,
    spec: DeploymentSpec,
    view: &'a View<'a>,
    now: Timestamp,
    /// By creation, oldest first.
    sets: Vec<Arc<ReplicaSet>>,
    /// The index of the set of the present template.
    new: Option<usize>,
    /// Replicas to be set, by index.
    scales: BTreeMap<usize, i32>,
    outcome: Outcome,
    conditions: Vec<DeploymentCondition>,
}

impl<'a> Rollout<'a> {
    fn new(deployment: &'a Deployment, mut sets: Vec<Arc<ReplicaSet>>, view: &'a View<'a>, now: Timestamp) -> Self {
        sets.sort_by_key(|set| (set.metadata.creation_timestamp.as_ref().map(moment), set.name().to_owned()));
        let spec = spec(deployment);
        let wanted = fingerprint(&spec.template, HASH_LABEL);
        let template = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
        let new = sets.iter().position(|set| fingerprint(&template(set), HASH_LABEL) == wanted);
        let conditions = deployment.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        Rollout {
            deployment,
            spec,
            view,
            now,
            sets,
            new,
            scales: BTreeMap::new(),
            outcome: Outcome::none(),
            conditions,
        }
    }

    fn decide(mut self) -> Outcome {
        if self.deployment.deleting() {
            return self.finish(false);
        }
        self.note_paused();
        if self.paused() || self.is_scaling() {
            self.scale_all();
            if self.paused() && self.scales.is_empty() {
                self.forget_old();
            }
            return self.finish(false);
        }
        let recreate = is_recreate(&self.spec);
        if recreate {
            for index in self.old().collect::<Vec<_>>() {
                self.scale(index, 0);
            }
            if !self.scales.is_empty() || self.old_pods_run() {
                return self.finish(true);
            }
        }
        let Some(new) = self.new else {
            self.create_new(recreate);
            return self.finish(true);
        };
        self.keep_revision(new);
        if recreate {
            self.scale(new, self.replicas());
        } else {
            self.scale(new, self.wanted_of_new(new));
            if self.scales.is_empty() {
                self.shrink_old(new);
            }
        }
        if self.scales.is_empty() && self.is_complete(&self.status()) {
            self.forget_old();
        }
        self.finish(true)
    }

    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn paused(&self) -> bool {
        self.spec.paused == Some(true)
    }

    fn old(&self) -> impl Iterator<Item = usize> + use<> {
        let new = self.new;
        (0..self.sets.len()).filter(move |index| Some(*index) != new)
    }

    /// What a set is to have after this step.
    fn size(&self, index: usize) -> i32 {
        let seen = self.sets[index].spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        self.scales.get(&index).copied().unwrap_or(seen)
    }

    fn available(&self, index: usize) -> i32 {
        self.sets[index].status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
    }

    fn total(&self) -> i32 {
        (0..self.sets.len()).map(|index| self.size(index)).sum()
    }

    /// maxSurge and maxUnavailable as numbers; never both 0, or nothing would ever move.
    fn limits(&self) -> (i32, i32) {
        let rolling =
            self.spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.clone()).unwrap_or_default();
        let surge = portion(rolling.max_surge.as_ref(), self.replicas(), true);
        let unavailable = portion(rolling.max_unavailable.as_ref(), self.replicas(), false);
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(self.replicas())) }
    }

    fn max_surge(&self) -> i32 {
        if is_recreate(&self.spec) { 0 } else { self.limits().0 }
    }

    fn scale(&mut self, index: usize, replicas: i32) {
        let (from, set) = (self.size(index), self.sets[index].clone());
        if from == replicas {
            return;
        }
        let up = if from < replicas { "up" } else { "down" };
        let message = format!("Scaled {up} replica set {} from {from} to {replicas}", set.name());
        self.outcome.events.push(Note::normal(&Regarding::object(self.deployment), "ScalingReplicaSet", message));
        self.scales.insert(index, replicas);
    }

    /// `spec.replicas` of the Deployment changed since its sets were last sized.
    fn is_scaling(&self) -> bool {
        self.active().into_iter().any(|index| self.was_sized_for_another(index))
    }

    fn active(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|index| self.size(*index) > 0).collect()
    }

    fn was_sized_for_another(&self, index: usize) -> bool {
        let wanted = self.replicas().to_string();
        annotation(&self.sets[index].metadata, DESIRED).is_some_and(|desired| *desired != wanted)
    }

    /// Gives every active set its share of a changed `spec.replicas`. A set whose own size stays says all the same that it
    /// was sized for the new number: else the Deployment would be taken for scaling for ever, and never roll on.
    fn scale_all(&mut self) {
        let active = self.active();
        self.share_out(active.clone());
        for index in active {
            if self.was_sized_for_another(index) {
                let size = self.size(index);
                self.scales.insert(index, size);
            }
        }
    }

    fn share_out(&mut self, active: Vec<usize>) {
        let latest = self.new;
        if let [only] = active[..] {
            return self.scale(only, self.replicas());
        }
        if active.is_empty() {
            if let Some(new) = latest {
                self.scale(new, self.replicas());
            }
            return;
        }
        // A saturated new set needs no old ones beside it.
        if let Some(new) = latest
            && self.size(new) == self.replicas()
            && annotation(&self.sets[new].metadata, DESIRED)
                .is_some_and(|desired| *desired == self.replicas().to_string())
            && self.available(new) == self.replicas()
        {
            for index in active.into_iter().filter(|index| *index != new) {
                self.scale(index, 0);
            }
            return;
        }
        if !is_recreate(&self.spec) {
            self.scale_in_proportion(active);
        }
    }

    fn scale_in_proportion(&mut self, mut active: Vec<usize>) {
        let total = self.total();
        let allowed = if self.replicas() > 0 { self.replicas() + self.max_surge() } else { 0 };
        let mut to_add = allowed - total;
        if to_add == 0 {
            return;
        }
        // The largest first; of equals the newest when growing, the oldest when shrinking.
        active.sort_by_key(|index| {
            let age = *index as i64;
            (std::cmp::Reverse(self.size(*index)), if to_add > 0 { -age } else { age })
        });
        let sizes: Vec<(usize, i32)> = active.iter().map(|index| (*index, self.size(*index))).collect();
        let mut wanted = Vec::new();
        for (index, size) in &sizes {
            let before = annotation(&self.sets[*index].metadata, MAX).and_then(|text| text.parse::<i32>().ok());
            let before = before.filter(|max| *max > 0).unwrap_or(total.max(1));
            let share = (f64::from(*size) * f64::from(allowed) / f64::from(before)).round() as i32 - size;
            let share = if to_add > 0 { share.clamp(0, to_add) } else { share.clamp(to_add, 0) };
            to_add -= share;
            wanted.push((*index, size + share));
        }
        if let Some(first) = wanted.first_mut() {
            first.1 = (first.1 + to_add).max(0);
        }
        for (index, size) in wanted {
            self.scale(index, size.max(0));
        }
    }

    /// How large the new set may be now.
    fn wanted_of_new(&self, new: usize) -> i32 {
        let (size, replicas) = (self.size(new), self.replicas());
        if size >= replicas {
            return replicas;
        }
        let room = (replicas + self.max_surge() - self.total()).max(0);
        size + room.min(replicas - size)
    }

    /// Takes pods away from old sets, as many as can be missed: first those that do no work anyway.
    fn shrink_old(&mut self, new: usize) {
        let old: Vec<usize> = self.old().filter(|index| self.size(*index) > 0).collect();
        if old.is_empty() {
            return;
        }
        let available_min = self.replicas() - self.limits().1;
        let new_unavailable = self.size(new) - self.available(new);
        let mut spare = self.total() - available_min - new_unavailable;
        if spare <= 0 {
            return;
        }
        for index in &old {
            let idle = (self.size(*index) - self.available(*index)).clamp(0, spare.max(0));
            if idle > 0 {
                self.scale(*index, self.size(*index) - idle);
                spare -= idle;
            }
        }
        let available: i32 = (0..self.sets.len()).map(|index| self.available(index)).sum();
        let mut spare = available - available_min;
        for index in old {
            let some = self.size(index).min(spare.max(0));
            if some > 0 {
                self.scale(index, self.size(index) - some);
                spare -= some;
            }
        }
    }

    /// Whether pods of old templates are still there; Recreate waits for the last.
    fn old_pods_run(&self) -> bool {
        self.old().any(|index| {
            let pods = self.view.owned::<Pod>(self.sets[index].uid());
            pods.iter().any(|pod| !matches!(phase(pod), "Succeeded" | "Failed"))
        })
    }

    fn next_revision(&self) -> i64 {
        self.old().map(|index| revision(&self.sets[index].metadata)).max().unwrap_or_default() + 1
    }

    fn create_new(&mut self, recreate: bool) {
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or_default();
        let hash = hash(&fingerprint(&self.spec.template, HASH_LABEL), collisions);
        let name = format!("{}-{hash}", self.deployment.name());
        if self.view.get::<ReplicaSet>(self.deployment.namespace(), &name).is_some() {
            // The name is taken by another template or another owner: count, and try the next name.
            self.set_status(|status| status.collision_count = Some(collisions + 1));
            return;
        }
        let replicas = if recreate {
            self.replicas()
        } else {
            (self.replicas() + self.max_surge() - self.total()).clamp(0, self.replicas())
        };
        let mut template = self.spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = self.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash);
        let revision = self.next_revision().to_string();
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: self.deployment.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![controller_reference(self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                min_ready_seconds: self.spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        self.annotate(&mut set.metadata, &revision);
        self.outcome.writes.push(Write::create(&set));
        if replicas > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {replicas}");
            self.outcome.events.push(Note::normal(&Regarding::object(self.deployment), "ScalingReplicaSet", message));
        }
        if self.deadline().is_some() {
            self.condition(
                "Progressing",
                "True",
                "NewReplicaSetCreated",
                &format!("Created new replica set \"{name}\""),
                true,
            );
        }
        self.revise_deployment(&revision);
    }

    /// The set of the present template carries the newest revision, and the Deployment the same.
    fn keep_revision(&mut self, new: usize) {
        let set = self.sets[new].clone();
        let wanted = revision(&set.metadata).max(self.next_revision()).to_string();
        let mut meta = set.metadata.clone();
        self.annotate(&mut meta, &wanted);
        let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds) != self.spec.min_ready_seconds;
        let min_ready = min_ready
            && self.spec.min_ready_seconds.unwrap_or_default()
                != set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
        if meta.annotations != set.metadata.annotations || min_ready {
            let size = self.size(new);
            self.scales.insert(new, size);
        }
        if self.deadline().is_some() && !self.conditions.iter().any(|each| each.type_ == "Progressing") {
            self.condition(
                "Progressing",
                "True",
                "FoundNewReplicaSet",
                &format!("Found new replica set \"{}\"", set.name()),
                true,
            );
        }
        self.revise_deployment(&wanted);
    }

    fn revise_deployment(&mut self, revision: &str) {
        if annotation(&self.deployment.metadata, REVISION).map(String::as_str) != Some(revision) {
            // Through the status, as upstream does: an annotation written through the object is a new generation.
            let patch = serde_json::json!({"metadata": {"annotations": {REVISION: revision}}});
            self.outcome.writes.push(Write::patch(self.deployment, "status", patch));
        }
    }

    /// What a set says of its Deployment. An empty `revision` leaves that as it is.
    fn annotate(&self, meta: &mut ObjectMeta, revision: &str) {
        let annotations = meta.annotations.get_or_insert_default();
        if !revision.is_empty() {
            for (key, value) in self.deployment.metadata.annotations.iter().flatten() {
                if !NOT_COPIED.contains(&key.as_str()) {
                    annotations.insert(key.clone(), value.clone());
                }
            }
            let known = annotations.insert(REVISION.to_owned(), revision.to_owned());
            if let Some(known) = known.filter(|known| known != revision) {
                let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
                *history = if history.is_empty() { known } else { format!("{history},{known}") };
            }
        }
        annotations.insert(DESIRED.to_owned(), self.replicas().to_string());
        annotations.insert(MAX.to_owned(), (self.replicas() + self.max_surge()).to_string());
    }

    /// Deletes the oldest sets nobody needs beyond `revisionHistoryLimit`.
    fn forget_old(&mut self) {
        let Some(keep) = self.spec.revision_history_limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut old: Vec<usize> = self.old().filter(|index| !self.sets[*index].deleting()).collect();
        old.sort_by_key(|index| revision(&self.sets[*index].metadata));
        let surplus = old.len().saturating_sub(keep.max(0) as usize);
        for index in old.into_iter().take(surplus) {
            let set = &self.sets[index];
            let status = set.status.clone().unwrap_or_default();
            let observed = status.observed_generation >= set.metadata.generation;
            if self.size(index) == 0 && status.replicas == 0 && observed {
                self.outcome.writes.push(Write::delete(&**set, DeleteOptions::default()));
            }
        }
    }

    fn deadline(&self) -> Option<i32> {
        self.spec.progress_deadline_seconds.filter(|seconds| *seconds != NO_DEADLINE)
    }

    fn note_paused(&mut self) {
        if self.deadline().is_none() {
            return;
        }
        let reason =
            self.conditions.iter().find(|each| each.type_ == "Progressing").and_then(|each| each.reason.clone());
        if reason.as_deref() == Some("ProgressDeadlineExceeded") {
            return;
        }
        let was_paused = reason.as_deref() == Some("DeploymentPaused");
        if self.paused() && !was_paused {
            self.condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", true);
        } else if !self.paused() && was_paused {
            self.condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", true);
        }
    }

    fn status(&self) -> DeploymentStatus {
        let statuses: Vec<_> = self.sets.iter().map(|set| set.status.clone().unwrap_or_default()).collect();
        let replicas: i32 = statuses.iter().map(|status| status.replicas).sum();
        let available: i32 = statuses.iter().filter_map(|status| status.available_replicas).sum();
        let known = self.deployment.status.clone().unwrap_or_default();
        DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: some(replicas),
            updated_replicas: self.new.and_then(|new| some(statuses[new].replicas)),
            ready_replicas: some(statuses.iter().filter_map(|status| status.ready_replicas).sum()),
            available_replicas: some(available),
            unavailable_replicas: some((self.total() - available).max(0)),
            terminating_replicas: Some(statuses.iter().filter_map(|status| status.terminating_replicas).sum()),
            collision_count: known.collision_count,
            conditions: known.conditions,
        }
    }

    fn is_complete(&self, status: &DeploymentStatus) -> bool {
        let all = Some(self.replicas()).filter(|replicas| *replicas != 0);
        status.updated_replicas == all
            && status.replicas == all
            && status.available_replicas == all
            && status.observed_generation >= self.deployment.metadata.generation
    }

    fn set_status(&mut self, change: impl FnOnce(&mut DeploymentStatus)) {
        let mut status = self.status();
        change(&mut status);
        self.outcome.writes.push(Write::status(&Deployment { status: Some(status), ..self.deployment.clone() }));
    }

    /// Sets a condition; `restart` moves its time of update although nothing else changed.
    fn condition(&mut self, type_: &str, status: &str, reason: &str, message: &str, restart: bool) {
        let now = Some(time(self.now));
        let known = self.conditions.iter().position(|each| each.type_ == type_);
        let mut fresh = DeploymentCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_update_time: now.clone(),
            last_transition_time: now,
        };
        let Some(at) = known else { return self.conditions.push(fresh) };
        let known = &self.conditions[at];
        if known.status == status && known.reason.as_deref() == Some(reason) && !restart {
            return;
        }
        if known.status == status {
            fresh.last_transition_time = known.last_transition_time.clone();
        }
        self.conditions[at] = fresh;
    }

    /// Writes the sizes and the status. `rolling` when the rollout itself was looked at.
    fn finish(mut self, rolling: bool) -> Outcome {
        self.write_scales();
        let known = self.deployment.status.clone().unwrap_or_default();
        let mut status = self.status();
        let available = status.available_replicas.unwrap_or_default();
        let unavailable_max = if is_recreate(&self.spec) { 0 } else { self.limits().1 };
        if available >= self.replicas() - unavailable_max {
            self.condition(
                "Available",
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
                false,
            );
        } else {
            self.condition(
                "Available",
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
                false,
            );
        }
        self.judge_progress(rolling, &status, &known);
        self.copy_failure();
        let mut conditions = std::mem::take(&mut self.conditions);
        if self.deadline().is_none() {
            conditions.retain(|each| each.type_ != "Progressing");
        }
        status.conditions = Some(conditions);
        let is_whole = |write: &Write| write.subresource == "status" && write.verb == Verb::Update;
        let collides = self.outcome.writes.iter().any(is_whole);
        if status != known && !collides {
            let write = Write::status(&Deployment { status: Some(status), ..self.deployment.clone() });
            // The patch of the revision would make this version old.
            let at = self.outcome.writes.iter().position(|write| write.resource == *Deployment::RESOURCE);
            self.outcome.writes.insert(at.unwrap_or(self.outcome.writes.len()), write);
        }
        self.outcome
    }

    fn write_scales(&mut self) {
        for (index, replicas) in std::mem::take(&mut self.scales) {
            let mut set = (*self.sets[index]).clone();
            let revision = match Some(index) == self.new && !self.paused() {
                true => revision(&set.metadata).max(self.next_revision()).to_string(),
                false => String::new(),
            };
            self.annotate(&mut set.metadata, &revision);
            let is_new = Some(index) == self.new;
            let spec = set.spec.get_or_insert_default();
            spec.replicas = Some(replicas);
            if is_new {
                spec.min_ready_seconds = self.spec.min_ready_seconds;
            }
            self.outcome.writes.push(Write::update(&set));
            // The rest of this pass counts with what will be.
            self.sets[index] = Arc::new(set);
        }
    }

    fn judge_progress(&mut self, rolling: bool, status: &DeploymentStatus, known: &DeploymentStatus) {
        let Some(deadline) = self.deadline().filter(|_| rolling) else { return };
        let current = self.conditions.iter().find(|each| each.type_ == "Progressing").cloned();
        let reason = current.as_ref().and_then(|each| each.reason.as_deref()).unwrap_or_default().to_owned();
        let settled = status.replicas == status.updated_replicas && reason == "NewReplicaSetAvailable";
        if settled {
            return;
        }
        let who = match self.new {
            Some(new) => format!("ReplicaSet \"{}\"", self.sets[new].name()),
            None => format!("Deployment \"{}\"", self.deployment.name()),
        };
        if self.is_complete(status) || (self.replicas() == 0 && status.replicas.is_none() && self.new.is_some()) {
            let message = format!("{who} has successfully progressed.");
            return self.condition("Progressing", "True", "NewReplicaSetAvailable", &message, false);
        }
        if has_progressed(known, status) {
            self.condition("Progressing", "True", "ReplicaSetUpdated", &format!("{who} is progressing."), true);
        } else if reason == "ProgressDeadlineExceeded" || reason == "NewReplicaSetAvailable" {
            return;
        } else if let Some(since) = current.and_then(|each| each.last_update_time)
            && left(&since, i64::from(deadline), self.now).is_none()
        {
            let message = format!("{who} has timed out progressing.");
            return self.condition("Progressing", "False", "ProgressDeadlineExceeded", &message, false);
        }
        let since = self
            .conditions
            .iter()
            .find(|each| each.type_ == "Progressing")
            .and_then(|each| each.last_update_time.clone());
        if let Some(wait) = since.and_then(|since| left(&since, i64::from(deadline), self.now)) {
            self.outcome.again(wait + Duration::from_secs(1));
        }
    }

    /// A set that cannot make pods makes the Deployment say so.
    fn copy_failure(&mut self) {
        let order = self.new.into_iter().chain(self.old());
        let failures = order.filter_map(|index| {
            let conditions = self.sets[index].status.as_ref()?.conditions.as_ref()?;
            conditions.iter().find(|each| each.type_ == "ReplicaFailure" && each.status == "True").cloned()
        });
        match failures.into_iter().next() {
            Some(failure) => {
                let (reason, message) = (failure.reason.unwrap_or_default(), failure.message.unwrap_or_default());
                self.condition("ReplicaFailure", "True", &reason, &message, false);
            }
            None => self.conditions.retain(|each| each.type_ != "ReplicaFailure"),
        }
    }
}

fn has_progressed(known: &DeploymentStatus, status: &DeploymentStatus) -> bool {
    let count = |value: Option<i32>| value.unwrap_or_default();
    let old = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(status.updated_replicas) > count(known.updated_replicas)
        || old(status) < old(known)
        || count(status.ready_replicas) > count(known.ready_replicas)
        || count(status.available_replicas) > count(known.available_replicas)
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a String> {
    meta.annotations.as_ref()?.get(key)
}

fn revision(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// `25%` of a number, or a number; 25% where nothing is said.
pub fn portion(value: Option<&IntOrString>, of: i32, up: bool) -> i32 {
    let percent = match value {
        None => 25,
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => text.trim_end_matches('%').parse::<i64>().unwrap_or_default(),
    };
    let product = percent * i64::from(of);
    (if up { (product + 99).div_euclid(100) } else { product.div_euclid(100) }) as i32
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{World, body, lines};

    fn world(extra: serde_json::Value) -> World {
        let mut world = World::default();
        let mut spec = json!({"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 1,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "new"}]}}});
        spec.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
        world.put(
            Deployment::RESOURCE,
            json!({"metadata": {"name": "web", "namespace": "n", "uid": "d", "generation": 1}, "spec": spec}),
        );
        world
    }

    /// Adds a set: name, image, size, available, revision.
    fn set(world: &mut World, name: &str, image: &str, size: i32, available: i32, revision: i32) {
        set_sized_for(world, 4, name, image, size, available, revision);
    }

    /// The same, from when `spec.replicas` was `desired`.
    fn set_sized_for(
        world: &mut World,
        desired: i32,
        name: &str,
        image: &str,
        size: i32,
        available: i32,
        revision: i32,
    ) {
        world.put(ReplicaSet::RESOURCE, json!({
            "metadata": {"name": name, "namespace": "n", "labels": {"app": "web"}, "generation": 1,
                "creationTimestamp": format!("2026-11-23T10:00:0{revision}Z"),
                "annotations": {REVISION: revision.to_string(), DESIRED: desired.to_string(), MAX: (desired + 1).to_string()},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d", "controller": true}]},
            "spec": {"replicas": size, "selector": {}, "template": {"metadata": {"labels": {"app": "web", HASH_LABEL: "x"}},
                "spec": {"containers": [{"name": "c", "image": image}]}}},
            "status": {"replicas": size, "availableReplicas": available, "readyReplicas": available, "observedGeneration": 1},
        }));
    }

    fn sizes(outcome: &Outcome) -> String {
        let sizes = outcome.writes.iter().filter(|write| write.resource == *ReplicaSet::RESOURCE).map(|write| {
            let body: serde_json::Value = serde_json::from_slice(&write.body).expect("JSON");
            let name = if write.name.starts_with("web-") { "new" } else { &write.name };
            format!("{name}={}", body["spec"]["replicas"].as_i64().map_or("gone".to_owned(), |size| size.to_string()))
        });
        sizes.collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn check(extra: serde_json::Value, sets: &[(&str, &str, i32, i32, i32)], wanted: &str) {
        let mut world = world(extra);
        for (name, image, size, available, revision) in sets {
            set(&mut world, name, image, *size, *available, *revision);
        }
        assert_eq!(sizes(&world.reconcile(&Deployments, "n", "web")), wanted);
    }

    #[test]
    fn makes_a_set_for_a_new_template() {
        check(json!({}), &[], "new=4");
    }
    #[test]
    fn rolls_within_its_limits() {
        check(json!({}), &[("a", "old", 4, 4, 1)], "new=1");
        check(json!({}), &[("a", "old", 4, 4, 1), ("b", "new", 1, 0, 2)], "a=3");
        check(json!({}), &[("a", "old", 3, 3, 1), ("b", "new", 1, 0, 2)], "b=2");
        check(json!({}), &[("a", "old", 3, 3, 1), ("b", "new", 2, 0, 2)], "");
        check(json!({}), &[("a", "old", 3, 3, 1), ("b", "new", 2, 2, 2)], "a=1");
    }
    #[test]
    fn takes_broken_old_pods_first() {
        check(json!({}), &[("a", "old", 2, 0, 1), ("b", "mid", 2, 2, 2), ("c", "new", 1, 1, 3)], "a=0");
    }
    #[test]
    fn recreate_stops_all_before_it_starts_any() {
        let recreate = || json!({"strategy": {"type": "Recreate"}});
        check(recreate(), &[("a", "old", 4, 4, 1)], "a=0");
        check(recreate(), &[("a", "old", 0, 0, 1)], "new=4");
    }
    #[test]
    fn a_paused_one_makes_no_new_set() {
        check(json!({"paused": true}), &[("a", "old", 4, 4, 1)], "");
    }
    #[test]
    fn scaling_is_shared_in_proportion() {
        check(json!({"replicas": 8}), &[("a", "old", 3, 3, 1), ("b", "new", 2, 2, 2)], "a=6 b=4");
    }
    #[test]
    fn a_set_whose_size_stays_is_noted_as_scaled_and_the_rollout_goes_on() {
        let mut world = world(json!({}));
        set_sized_for(&mut world, 2, "a", "old", 1, 1, 1);
        set(&mut world, "b", "mid", 2, 2, 2);
        set(&mut world, "c", "new", 2, 2, 3);
        let outcome = world.reconcile(&Deployments, "n", "web");
        assert_eq!(sizes(&outcome), "a=1", "the number was scaled from 2 to 4 while a kept its one pod");
        assert_eq!(body(&outcome, "update replicasets.apps n/a")["metadata"]["annotations"][DESIRED], "4");
        check(json!({}), &[("a", "old", 1, 1, 1), ("b", "mid", 2, 2, 2), ("c", "new", 2, 2, 3)], "a=0 b=1");
    }
    #[test]
    fn undo_makes_the_old_set_the_newest_revision() {
        let mut world = world(json!({}));
        set(&mut world, "a", "new", 0, 0, 1);
        set(&mut world, "b", "bad", 4, 4, 2);
        let outcome = world.reconcile(&Deployments, "n", "web");
        let a = body(&outcome, "update replicasets.apps n/a");
        assert_eq!(
            (&a["metadata"]["annotations"][REVISION], &a["metadata"]["annotations"][REVISION_HISTORY]),
            (&json!("3"), &json!("1"))
        );
        assert!(lines(&outcome).contains(&"patch deployments.apps/status n/web".to_owned()));
    }
    #[test]
    fn forgets_sets_beyond_its_history() {
        check(json!({}), &[("a", "one", 0, 0, 1), ("b", "two", 0, 0, 2), ("c", "new", 4, 4, 3)], "a=gone");
    }
    #[test]
    fn says_when_it_stops_progressing() {
        let mut world = world(json!({}));
        set(&mut world, "a", "new", 4, 0, 1);
        let first = world.reconcile(&Deployments, "n", "web");
        let mut status = body(&first, "update deployments.apps/status n/web");
        assert_eq!(status["status"]["conditions"][0]["reason"], "ReplicaSetUpdated");
        status["metadata"]["annotations"] = json!({REVISION: "1"});
        world.put(Deployment::RESOURCE, status);
        assert!(world.reconcile(&Deployments, "n", "web").writes.is_empty());
        world.now = world.now.plus(Duration::from_secs(601));
        let late = body(&world.reconcile(&Deployments, "n", "web"), "update deployments.apps/status n/web");
        assert_eq!(late["status"]["conditions"][0]["reason"], "ProgressDeadlineExceeded");
    }
    #[test]
    fn portions_round_up_for_surge_and_down_for_loss() {
        let percent = IntOrString::String("25%".into());
        assert_eq!((portion(Some(&percent), 5, true), portion(Some(&percent), 5, false)), (2, 1));
    }
}
