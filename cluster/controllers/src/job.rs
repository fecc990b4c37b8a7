//! Runs pods until enough of them have succeeded, counting each exactly once.
//!
//! Start at [`Jobs`]; `Sync::decide` is one pass.
//!
//! Invariants:
//! * a pod of a Job carries a finalizer, so that it cannot go before it is counted;
//! * a finished pod is first noted in `status.uncountedTerminatedPods`, then loses its finalizer, then moves from the note to the
//!   count: whatever crashes in between, it is counted once;
//! * `Complete` and `Failed` are final, and come after the last pod has ended.
//!
//! * with `backoffLimitPerIndex` the last failed pod of an index keeps its finalizer until its successor is there, which
//!   carries on its count of failures.
//!
//! Not here: schedules (`cronjob.rs`), what the policies say (`jobpolicy.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use client::{Collection, DeleteOptions, Entry, Kind, Resource};
use control::{About, Announce, Key, Note, Outcome, Reconciler, Regarding, View, Write, itself, owner};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use serde_json::json;

use crate::jobpolicy::{FAILURES, IGNORED, Verdict, criteria_met, ends_index, failures, judge};
use crate::pods::{
    controller_of, from_template, is_active, is_ready, name_prefix, phase, rank_for_deletion, restarts, set_condition,
    some,
};
use crate::times::{left, moment, pause_left, time};

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Stands for the Job of pods that have none any more.
const NOBODY: &str = "";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Pods created or deleted in one pass.
const PODS_MAX: usize = 500;
/// A failed pod is replaced after so long, doubled with each failure in a row.
const BACKOFF_MIN: Duration = Duration::from_secs(10);
/// At most after so long.
const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// The controller of Jobs.
pub struct Jobs;

impl Reconciler for Jobs {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Job::RESOURCE, Pod::RESOURCE];
        About { name: "job-controller", reads: READS, writes: &["pods", "jobs.batch.status"], everything: false }
    }

    fn keys(&self, _: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        if collection.resource != "pods" {
            return itself(entry);
        }
        let is_free = !entry.meta.owners.iter().any(|owner| owner.controller);
        let is_held = || entry.meta.finalizers.iter().any(|each| each == FINALIZER);
        if is_free && is_held() { vec![Key::new(&entry.meta.namespace, NOBODY)] } else { owner(entry, "Job") }
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        match view.get::<Job>(&key.namespace, &key.name) {
            Some(job)
                if job.spec.as_ref().is_some_and(|spec| {
                    spec.managed_by.as_deref().is_some_and(|by| by != "kubernetes.io/job-controller")
                }) =>
            {
                Outcome::none()
            }
            Some(job) => {
                let mut outcome = Sync::new(&job, view, now).decide();
                outcome.writes.extend(release_orphans(view, key, job.uid()));
                outcome
            }
            None => Outcome { writes: release_orphans(view, key, ""), ..Outcome::default() },
        }
    }
}

/// Pods of a Job that is gone, perhaps replaced by another of its name, or that left them behind, must not wait for it to
/// count them.
fn release_orphans(view: &View<'_>, key: &Key, uid: &str) -> Vec<Write> {
    let pods = view.list::<Pod>(Some(&key.namespace));
    let is_lost = |pod: &Pod| {
        has_finalizer(pod)
            && match controller_of(&pod.metadata) {
                Some(owner) => owner.kind == "Job" && owner.name == key.name && owner.uid != uid,
                None => key.name == NOBODY,
            }
    };
    pods.iter().filter(|pod| is_lost(pod)).map(|pod| release(pod)).collect()
}

fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|each| each == FINALIZER)
}

fn release(pod: &Pod) -> Write {
    let keep: Vec<&String> = pod.metadata.finalizers.iter().flatten().filter(|each| *each != FINALIZER).collect();
    Write::patch(pod, "", json!({"metadata": {"finalizers": keep}}))
}

/// One Job and its pods.
struct Sync<'a> {
    job: &'a Job,
    spec: JobSpec,
    status: JobStatus,
    pods: Vec<Arc<Pod>>,
    /// Failed pods that wait for their successor before they are counted.
    delayed: BTreeSet<String>,
    now: Timestamp,
    outcome: Outcome,
}

impl<'a> Sync<'a> {
    fn new(job: &'a Job, view: &View<'_>, now: Timestamp) -> Sync<'a> {
        let mut pods = view.owned::<Pod>(job.uid());
        pods.retain(|pod| controller_of(&pod.metadata).is_some_and(|owner| owner.uid == job.uid()));
        let status = job.status.clone().unwrap_or_default();
        let spec = job.spec.clone().unwrap_or_default();
        let mut sync = Sync { job, spec, status, pods, delayed: BTreeSet::new(), now, outcome: Outcome::none() };
        sync.delayed = sync.delayed();
        sync
    }

    fn decide(mut self) -> Outcome {
        if let Some(finished) = finished(&self.status).cloned() {
            return self.after_finish(finished.last_transition_time);
        }
        self.count();
        self.start_or_suspend();
        let ending = self.ending();
        let mut work = Vec::new();
        if let Some((type_, _, _)) = &ending {
            work = self.stop(type_);
        } else if !self.job.deleting() {
            work = self.steer();
        }
        self.fill_counts();
        if let Some((type_, reason, message)) = ending {
            self.end(type_, &reason, &message);
        }
        if self.status != self.job.status.clone().unwrap_or_default() {
            let status = Some(self.status.clone());
            self.outcome.writes.push(Write::status(&Job { status, ..self.job.clone() }));
        }
        // Behind the status: what is noted there may lose its finalizer.
        let noted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let noted: BTreeSet<String> = noted.succeeded.into_iter().chain(noted.failed).flatten().collect();
        let over = finished(&self.status).is_some();
        for pod in self.pods.iter().filter(|pod| has_finalizer(pod)) {
            let indexed = self.is_indexed() && phase(pod) == "Succeeded";
            let ignored = self.is_ignored(pod) && !self.delayed.contains(pod.uid());
            if over || noted.contains(pod.uid()) || indexed || ignored {
                self.outcome.writes.push(release(pod));
            }
        }
        self.outcome.writes.extend(work);
        self.outcome
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    fn replaces_only_failed(&self) -> bool {
        // What a policy says can only be told of a pod that has ended.
        self.spec.pod_replacement_policy.as_deref() == Some("Failed") || self.spec.pod_failure_policy.is_some()
    }

    fn is_ignored(&self, pod: &Pod) -> bool {
        self.has_failed(pod) && judge(&self.spec, pod) == Verdict::Ignore
    }

    /// Whether indexes have limits of their own.
    fn limits_indexes(&self) -> bool {
        self.is_indexed() && self.spec.backoff_limit_per_index.is_some()
    }

    fn failed_indexes(&self) -> BTreeSet<i32> {
        parse_ranges(self.status.failed_indexes.as_deref().unwrap_or_default())
    }

    /// The failed pod of an index that failed most often.
    fn last_failed(&self, index: i32) -> Option<&Arc<Pod>> {
        let failed = self.pods.iter().filter(|pod| index_of(pod) == Some(index) && self.has_failed(pod));
        failed.max_by_key(|pod| failures(&self.spec, pod))
    }

    fn delayed(&self) -> BTreeSet<String> {
        let ending =
            self.status.conditions.iter().flatten().any(|each| {
                each.status == "True" && matches!(each.type_.as_str(), "FailureTarget" | "SuccessCriteriaMet")
            });
        if !self.limits_indexes() || ending || self.job.deleting() {
            return BTreeSet::new();
        }
        let over: BTreeSet<i32> = self.completed().union(&self.failed_indexes()).copied().collect();
        let running: BTreeSet<i32> = self.active().iter().filter_map(|pod| index_of(pod)).collect();
        let failed = self.pods.iter().filter(|pod| self.has_failed(pod)).filter_map(|pod| index_of(pod));
        let open = failed.filter(|index| !over.contains(index) && !running.contains(index)).collect::<BTreeSet<_>>();
        let last = open.into_iter().filter_map(|index| self.last_failed(index));
        last.filter(|pod| !ends_index(&self.spec, pod)).map(|pod| pod.uid().to_owned()).collect()
    }

    fn has_failed(&self, pod: &Pod) -> bool {
        match phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            // It may never reach the phase: its node may be gone.
            _ => pod.deleting() && !self.replaces_only_failed(),
        }
    }

    fn active(&self) -> Vec<Arc<Pod>> {
        self.pods.iter().filter(|pod| is_active(pod)).cloned().collect()
    }

    /// Moves finished pods one step on the way from running to counted.
    fn count(&mut self) {
        let mut noted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let held: BTreeSet<&str> = self.pods.iter().filter(|pod| has_finalizer(pod)).map(|pod| pod.uid()).collect();
        let settle = |uids: &mut Option<Vec<String>>| {
            let list = uids.get_or_insert_default();
            let before = list.len();
            list.retain(|uid| held.contains(uid.as_str()));
            (before - list.len()) as i32
        };
        let (succeeded, failed) = (settle(&mut noted.succeeded), settle(&mut noted.failed));
        self.status.succeeded = some(self.status.succeeded.unwrap_or_default() + succeeded);
        self.status.failed = some(self.status.failed.unwrap_or_default() + failed);
        let mut completed = self.completed();
        for pod in self.pods.iter().filter(|pod| has_finalizer(pod)) {
            let note = |uids: &mut Option<Vec<String>>| {
                let uids = uids.get_or_insert_default();
                if !uids.iter().any(|uid| uid == pod.uid()) {
                    uids.push(pod.uid().to_owned());
                }
            };
            if phase(pod) == "Succeeded" {
                match index_of(pod).filter(|_| self.is_indexed()) {
                    Some(index) => drop(completed.insert(index)),
                    None => note(&mut noted.succeeded),
                }
            } else if self.has_failed(pod) && !self.is_ignored(pod) && !self.delayed.contains(pod.uid()) {
                note(&mut noted.failed);
            }
        }
        if self.limits_indexes() {
            let ended = self.pods.iter().filter(|pod| self.has_failed(pod) && ends_index(&self.spec, pod));
            let mut failed = self.failed_indexes();
            failed.extend(ended.filter_map(|pod| index_of(pod)).filter(|index| !completed.contains(index)));
            self.status.failed_indexes = Some(ranges(&failed));
        }
        if self.is_indexed() {
            completed.retain(|index| *index < self.spec.completions.unwrap_or_default());
            self.status.succeeded = some(completed.len() as i32);
            self.status.completed_indexes = Some(ranges(&completed)).filter(|text| !text.is_empty());
        }
        for list in [&mut noted.succeeded, &mut noted.failed] {
            *list = list.take().filter(|list| !list.is_empty());
        }
        self.status.uncounted_terminated_pods = Some(UncountedTerminatedPods { ..noted });
    }

    fn noted(&self) -> (i32, i32) {
        let noted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let count = |list: Option<Vec<String>>| list.map_or(0, |list| list.len() as i32);
        (count(noted.succeeded), count(noted.failed))
    }

    fn succeeded(&self) -> i32 {
        self.status.succeeded.unwrap_or_default() + self.noted().0
    }

    fn failed(&self) -> i32 {
        self.status.failed.unwrap_or_default() + self.noted().1
    }

    fn completed(&self) -> BTreeSet<i32> {
        parse_ranges(self.status.completed_indexes.as_deref().unwrap_or_default())
    }

    fn start_or_suspend(&mut self) {
        let was = self
            .status
            .conditions
            .iter()
            .flatten()
            .find(|each| each.type_ == "Suspended")
            .map(|each| each.status == "True");
        if self.is_suspended() {
            if was != Some(true) {
                self.say("Suspended", "True", "JobSuspended", "Job suspended");
                self.tell("Suspended", "Job suspended");
            }
            self.status.start_time = None;
        } else {
            if was == Some(true) {
                self.say("Suspended", "False", "JobResumed", "Job resumed");
                self.tell("Resumed", "Job resumed");
            }
            self.status.start_time.get_or_insert(time(self.now));
        }
    }

    fn say(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        set_condition::<JobCondition>(&mut self.status.conditions, type_, status, reason, message, self.now);
        for each in self.status.conditions.iter_mut().flatten().filter(|each| each.type_ == type_) {
            each.last_probe_time = each.last_transition_time.clone();
        }
    }

    fn tell(&mut self, reason: &'static str, message: &str) {
        self.outcome.events.push(Note::normal(&Regarding::object(self.job), reason, message));
    }

    /// Whether the Job is to end, and why: the condition that announces it, its reason and its message.
    fn ending(&mut self) -> Option<(&'static str, String, String)> {
        for each in self.status.conditions.iter().flatten().filter(|each| each.status == "True") {
            let words = || (each.reason.clone().unwrap_or_default(), each.message.clone().unwrap_or_default());
            match each.type_.as_str() {
                "FailureTarget" => return Some(("Failed", words().0, words().1)),
                "SuccessCriteriaMet" => return Some(("Complete", words().0, words().1)),
                _ => {}
            }
        }
        if let Some(ending) = self.ending_by_policy() {
            return Some(ending);
        }
        let limit = self.spec.backoff_limit.unwrap_or(if self.limits_indexes() { i32::MAX } else { 6 });
        let tries: i32 = self.active().iter().map(|pod| restarts(pod)).sum();
        let restarts_on_failure =
            self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure");
        let exhausted = restarts_on_failure && if limit == 0 { tries > 0 } else { tries >= limit };
        let words = |condition, reason: &str, message: &str| Some((condition, reason.to_owned(), message.to_owned()));
        if self.failed() > limit || exhausted {
            return words("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if let (Some(seconds), Some(start)) = (self.spec.active_deadline_seconds, self.status.start_time.clone()) {
            match left(&start, seconds, self.now) {
                None => return words("Failed", "DeadlineExceeded", "Job was active longer than specified deadline"),
                Some(wait) => self.outcome.again(wait),
            }
        }
        let done = match self.spec.completions {
            Some(completions) => self.succeeded() >= completions,
            // Any success means that the work queue is empty; the others finish what they hold.
            None => self.succeeded() > 0 && self.active().is_empty(),
        };
        done.then(|| {
            ("Complete", "CompletionsReached".to_owned(), "Reached expected number of succeeded pods".to_owned())
        })
    }

    /// The same by the Job's policies.
    fn ending_by_policy(&self) -> Option<(&'static str, String, String)> {
        let words = |condition, reason: &str, message: String| Some((condition, reason.to_owned(), message));
        let failed = self.pods.iter().filter(|pod| self.has_failed(pod));
        let why = failed.map(|pod| judge(&self.spec, pod)).find_map(|verdict| match verdict {
            Verdict::FailJob(why) => Some(why),
            _ => None,
        });
        if let Some(why) = why {
            return words("Failed", "PodFailurePolicy", why);
        }
        let completed = self.completed();
        if let Some(at) = criteria_met(&self.spec, &completed).filter(|_| self.is_indexed()) {
            return words("Complete", "SuccessPolicy", format!("Matched rules at index {at}"));
        }
        if !self.limits_indexes() {
            return None;
        }
        let failed = self.failed_indexes();
        if self.spec.max_failed_indexes.is_some_and(|most| failed.len() as i64 > i64::from(most)) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return words("Failed", "MaxFailedIndexesExceeded", message.to_owned());
        }
        let all = failed.union(&completed).count() as i64;
        let over = !failed.is_empty() && all >= i64::from(self.spec.completions.unwrap_or_default());
        if over { words("Failed", "FailedIndexes", "Job has failed indexes".to_owned()) } else { None }
    }

    /// Ends what still runs.
    fn stop(&mut self, _: &str) -> Vec<Write> {
        let active = self.active();
        active.iter().take(PODS_MAX).map(|pod| self.delete(pod)).collect()
    }

    /// Announces the end, and makes it final when every pod has ended and is counted.
    fn end(&mut self, type_: &'static str, reason: &str, message: &str) {
        let announced = if type_ == "Failed" { "FailureTarget" } else { "SuccessCriteriaMet" };
        self.say(announced, "True", reason, message);
        let running = self.pods.iter().any(|pod| !matches!(phase(pod), "Succeeded" | "Failed"));
        if running || self.noted() != (0, 0) || !self.delayed.is_empty() {
            return;
        }
        self.say(type_, "True", reason, message);
        if type_ == "Complete" {
            self.status.completion_time = Some(time(self.now));
            self.tell("Completed", "Job completed");
        } else {
            const REASONS: [&str; 4] =
                ["DeadlineExceeded", "PodFailurePolicy", "MaxFailedIndexesExceeded", "FailedIndexes"];
            let reason = REASONS.into_iter().find(|each| *each == reason).unwrap_or("BackoffLimitExceeded");
            self.outcome.events.push(Note::warning(&Regarding::object(self.job), reason, message));
        }
    }

    /// Makes as many pods run as should.
    fn steer(&mut self) -> Vec<Write> {
        let mut active = self.active();
        let parallelism = if self.is_suspended() { 0 } else { self.spec.parallelism.unwrap_or(1).max(0) };
        let wanted = match self.spec.completions {
            Some(completions) => {
                let over = self.succeeded() + self.failed_indexes().len() as i32;
                parallelism.min((completions - over).max(0))
            }
            None if self.succeeded() > 0 => parallelism.min(active.len() as i32),
            None => parallelism,
        } as usize;
        if active.len() > wanted {
            rank_for_deletion(&mut active);
            let surplus = (active.len() - wanted).min(PODS_MAX);
            return active[..surplus].iter().flat_map(|pod| [release(pod), self.delete(pod)]).collect();
        }
        let leaving = self.pods.iter().filter(|pod| is_leaving(pod));
        let occupied = active.len() + if self.replaces_only_failed() { leaving.count() } else { 0 };
        let missing = wanted.saturating_sub(occupied).min(PODS_MAX);
        if missing == 0 {
            return Vec::new();
        }
        if let Some(wait) = self.backoff().filter(|_| !self.limits_indexes()) {
            self.outcome.again(wait);
            return Vec::new();
        }
        if !self.is_indexed() {
            return (0..missing).map(|_| self.create(None)).collect();
        }
        let mut taken = self.completed();
        taken.extend(self.failed_indexes());
        taken.extend(active.iter().filter_map(|pod| index_of(pod)));
        if self.replaces_only_failed() {
            taken.extend(self.pods.iter().filter(|pod| is_leaving(pod)).filter_map(|pod| index_of(pod)));
        }
        let free = (0..self.spec.completions.unwrap_or_default()).filter(|index| !taken.contains(index));
        let mut writes = Vec::new();
        for index in free {
            match self.backoff_of(index) {
                Some(wait) => self.outcome.again(wait),
                None if writes.len() < missing => writes.push(self.create(Some(index))),
                None => break,
            }
        }
        writes
    }

    /// How long an index with a limit of its own waits before its next try.
    fn backoff_of(&self, index: i32) -> Option<Duration> {
        let pod = self.last_failed(index).filter(|_| self.limits_indexes())?;
        let (counted, ignored) = failures(&self.spec, pod);
        wait_after(ended(pod)?, counted + ignored, self.now)
    }

    /// How long to wait after failures in a row before the next try.
    fn backoff(&self) -> Option<Duration> {
        let success = self.pods.iter().filter(|pod| phase(pod) == "Succeeded").filter_map(|pod| ended(pod)).max();
        let failures: Vec<Timestamp> = self
            .pods
            .iter()
            .filter(|pod| phase(pod) == "Failed" && !self.is_ignored(pod))
            .filter_map(|pod| ended(pod))
            .filter(|at| Some(*at) > success)
            .collect();
        wait_after(*failures.iter().max()?, failures.len() as i32, self.now)
    }

    fn create(&self, index: Option<i32>) -> Write {
        let mut pod = from_template(&self.spec.template, self.job);
        let (name, uid) = (self.job.name(), self.job.uid());
        let labels = pod.metadata.labels.get_or_insert_default();
        for (key, value) in [
            ("job-name", name),
            ("batch.kubernetes.io/job-name", name),
            ("controller-uid", uid),
            ("batch.kubernetes.io/controller-uid", uid),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
        pod.metadata.generate_name = Some(name_prefix(name));
        if let Some(index) = index {
            labels.insert(INDEX.to_owned(), index.to_string());
            let annotations = pod.metadata.annotations.get_or_insert_default();
            annotations.insert(INDEX.to_owned(), index.to_string());
            if self.limits_indexes() {
                let (counted, ignored) =
                    self.last_failed(index).map(|pod| failures(&self.spec, pod)).unwrap_or_default();
                annotations.insert(FAILURES.to_owned(), counted.to_string());
                if ignored > 0 {
                    annotations.insert(IGNORED.to_owned(), ignored.to_string());
                }
            }
            pod.metadata.generate_name = Some(name_prefix(&format!("{name}-{index}")));
            let spec = pod.spec.get_or_insert_default();
            spec.hostname = Some(format!("{name}-{index}"));
            let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
            containers.for_each(|container| add_index(container.env.get_or_insert_default()));
        }
        Write::create(&pod).announce(Announce {
            regarding: Regarding::object(self.job),
            done: ("SuccessfulCreate", "Created pod: {}".into()),
            failed: ("FailedCreate", "Error creating: ".into()),
        })
    }

    fn delete(&self, pod: &Pod) -> Write {
        Write::delete(pod, DeleteOptions::default()).announce(Announce {
            regarding: Regarding::object(self.job),
            done: ("SuccessfulDelete", format!("Deleted pod: {}", pod.name())),
            failed: ("FailedDelete", "Error deleting: ".into()),
        })
    }

    fn fill_counts(&mut self) {
        let active = self.active();
        self.status.active = some(active.len() as i32);
        self.status.ready = Some(active.iter().filter(|pod| is_ready(pod)).count() as i32);
        let leaving = self.pods.iter().filter(|pod| is_leaving(pod));
        self.status.terminating = Some(leaving.count() as i32);
    }

    /// A finished Job frees its pods, and goes when its time is over.
    fn after_finish(mut self, since: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>) -> Outcome {
        self.outcome.writes.extend(self.pods.iter().filter(|pod| has_finalizer(pod)).map(|pod| release(pod)));
        if let (Some(seconds), Some(since), false) = (self.spec.ttl_seconds_after_finished, since, self.job.deleting())
        {
            match left(&since, i64::from(seconds), self.now) {
                Some(wait) => self.outcome.again(wait),
                None => {
                    let options = DeleteOptions { propagation: Some("Foreground"), ..DeleteOptions::default() };
                    self.outcome.writes.push(Write::delete(self.job, options));
                }
            }
        }
        self.outcome
    }
}

/// The condition that ended a Job.
pub fn finished(status: &JobStatus) -> Option<&JobCondition> {
    let mut all = status.conditions.iter().flatten();
    all.find(|each| each.status == "True" && matches!(each.type_.as_str(), "Complete" | "Failed"))
}

/// On its way out, and not yet there.
fn is_leaving(pod: &Pod) -> bool {
    pod.deleting() && !matches!(phase(pod), "Succeeded" | "Failed")
}

/// When a pod's last container ended, or as close to that as can be told.
fn ended(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|each| each.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let removed = pod.metadata.deletion_timestamp.as_ref();
    ends.chain(removed).chain(pod.metadata.creation_timestamp.as_ref()).map(moment).max()
}

/// What is left of the wait after so many failures in a row, the last at `last`.
fn wait_after(last: Timestamp, failures: i32, now: Timestamp) -> Option<Duration> {
    let wait = BACKOFF_MIN.saturating_mul(1 << (failures - 1).clamp(0, 10)).min(BACKOFF_MAX);
    pause_left(last, wait, now)
}

fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

fn add_index(env: &mut Vec<EnvVar>) {
    if env.iter().any(|each| each.name == "JOB_COMPLETION_INDEX") {
        return;
    }
    let field_ref =
        ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), ..ObjectFieldSelector::default() };
    let value_from = Some(EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() });
    env.push(EnvVar { name: "JOB_COMPLETION_INDEX".to_owned(), value: None, value_from });
}

/// `0-2,5` as numbers.
pub fn parse_ranges(text: &str) -> BTreeSet<i32> {
    let spans = text.split(',').filter(|span| !span.is_empty());
    let spans = spans.filter_map(|span| {
        let (from, to) = span.split_once('-').unwrap_or((span, span));
        Some(from.parse::<i32>().ok()?..=to.parse::<i32>().ok()?)
    });
    spans.flatten().collect()
}

/// Numbers as `0-2,5`.
fn ranges(numbers: &BTreeSet<i32>) -> String {
    let mut spans: BTreeMap<i32, i32> = BTreeMap::new();
    for number in numbers {
        match spans.last_entry().filter(|last| *last.get() + 1 == *number) {
            Some(mut last) => drop(last.insert(*number)),
            None => drop(spans.insert(*number, *number)),
        }
    }
    let spans = spans.into_iter().map(|(from, to)| match to - from {
        0 => from.to_string(),
        // Upstream writes two neighbours with a comma, not a dash.
        1 => format!("{from},{to}"),
        _ => format!("{from}-{to}"),
    });
    spans.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, body, lines};

    fn world(spec: serde_json::Value) -> World {
        let mut world = World::default();
        let mut all = json!({"completions": 2, "parallelism": 2, "template": {"spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}}});
        all.as_object_mut().expect("a map").extend(spec.as_object().expect("a map").clone());
        world.put(Job::RESOURCE, json!({"metadata": {"name": "sum", "namespace": "n", "uid": "j"}, "spec": all}));
        world
    }

    /// Adds a pod: `R`unning, `S`ucceeded or `F`ailed; with a finalizer while `held`.
    fn pod(world: &mut World, name: &str, phase: char, held: bool, index: Option<i32>) {
        let phase = match phase {
            'S' => "Succeeded",
            'F' => "Failed",
            _ => "Running",
        };
        let mut object = json!({"metadata": {"name": name, "namespace": "n", "creationTimestamp": "2026-11-23T10:00:00Z",
            "finalizers": if held { vec![FINALIZER] } else { vec![] },
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "sum", "uid": "j", "controller": true}]},
            "status": {"phase": phase}});
        if let Some(index) = index {
            object["metadata"]["annotations"] = json!({INDEX: index.to_string()});
        }
        world.put(Pod::RESOURCE, object);
    }

    /// Runs passes until nothing more is to do, applying status and finalizers; tells what happened.
    fn settle(world: &mut World) -> (Vec<String>, serde_json::Value) {
        let mut told = Vec::new();
        for _ in 0..10 {
            let outcome = world.reconcile(&Jobs, "n", "sum");
            if outcome.writes.is_empty() {
                break;
            }
            for write in &outcome.writes {
                match write.to_string().as_str() {
                    "update jobs.batch/status n/sum" => {
                        world.put(Job::RESOURCE, serde_json::from_slice(&write.body).expect("JSON"))
                    }
                    line if line.starts_with("patch pods") => {
                        let cache = world.caches.of::<Pod>();
                        let known = cache.entry("n", &write.name).expect("a pod");
                        let mut object: serde_json::Value = serde_json::from_slice(&known.object).expect("JSON");
                        object["metadata"]["finalizers"] = json!([]);
                        world.put(Pod::RESOURCE, object);
                    }
                    line => told.push(line.to_owned()),
                }
            }
            if outcome.writes.iter().any(|write| write.to_string().starts_with("create")) {
                break;
            }
        }
        let job = world.caches.of::<Job>().entry("n", "sum").expect("the job");
        let job: serde_json::Value = serde_json::from_slice(&job.object).expect("JSON");
        (told, job["status"].clone())
    }

    #[test]
    fn starts_as_many_as_may_run() {
        let (told, status) = settle(&mut world(json!({})));
        assert_eq!(told, ["create pods n/", "create pods n/"]);
        assert_eq!(status["startTime"], "2026-11-23T20:00:00Z");
    }

    #[test]
    fn counts_each_success_once_and_completes() {
        let mut world = world(json!({}));
        pod(&mut world, "a", 'S', true, None);
        pod(&mut world, "b", 'S', true, None);
        let (told, status) = settle(&mut world);
        assert!(told.is_empty(), "{told:?}");
        assert_eq!((&status["succeeded"], &status["conditions"][1]["type"]), (&json!(2), &json!("Complete")));
        assert_eq!(status["completionTime"], "2026-11-23T20:00:00Z");
        assert!(world.reconcile(&Jobs, "n", "sum").writes.is_empty());
    }

    #[test]
    fn gives_up_beyond_its_backoff_limit() {
        let mut world = world(json!({"backoffLimit": 1}));
        for name in ["a", "b"] {
            pod(&mut world, name, 'F', true, None);
        }
        pod(&mut world, "c", 'R', true, None);
        let first = world.reconcile(&Jobs, "n", "sum");
        assert!(lines(&first).contains(&"delete pods n/c".to_owned()));
        assert_eq!(body(&first, "update jobs.batch/status n/sum")["status"]["conditions"][0]["type"], "FailureTarget");
        pod(&mut world, "c", 'F', true, None);
        let (_, status) = settle(&mut world);
        assert_eq!(
            (&status["failed"], &status["conditions"][1]["reason"]),
            (&json!(3), &json!("BackoffLimitExceeded"))
        );
    }

    #[test]
    fn an_indexed_job_runs_what_is_missing() {
        let mut world = world(json!({"completionMode": "Indexed", "completions": 4, "parallelism": 4}));
        pod(&mut world, "a", 'S', true, Some(0));
        pod(&mut world, "b", 'S', true, Some(2));
        pod(&mut world, "c", 'R', true, Some(1));
        let outcome = world.reconcile(&Jobs, "n", "sum");
        let created = body(&outcome, "create pods n/");
        assert_eq!(
            (&created["metadata"]["annotations"][INDEX], &created["spec"]["hostname"]),
            (&json!("3"), &json!("sum-3"))
        );
        assert_eq!(body(&outcome, "update jobs.batch/status n/sum")["status"]["completedIndexes"], "0,2");
    }

    #[test]
    fn a_policy_fails_the_job_at_once() {
        let rule = json!({"action": "FailJob", "onPodConditions": [{"type": "Broken"}]});
        let mut world = world(json!({"podFailurePolicy": {"rules": [rule]}}));
        pod_with(
            &mut world,
            "a",
            json!({"phase": "Failed", "conditions": [{"type": "Broken", "status": "True"}]}),
            0,
            0,
        );
        let (_, status) = settle(&mut world);
        let failed = &status["conditions"][1];
        assert_eq!((&failed["type"], &failed["reason"]), (&json!("Failed"), &json!("PodFailurePolicy")));
        assert_eq!(failed["message"], "Pod n/a has condition Broken matching FailJob rule at index 0");
    }

    #[test]
    fn an_ignored_failure_is_not_counted_and_lets_go_of_its_pod() {
        let rule = json!({"action": "Ignore", "onPodConditions": [{"type": "Broken"}]});
        let mut world = world(json!({"backoffLimit": 0, "podFailurePolicy": {"rules": [rule]}}));
        pod_with(
            &mut world,
            "a",
            json!({"phase": "Failed", "conditions": [{"type": "Broken", "status": "True"}]}),
            0,
            0,
        );
        let outcome = world.reconcile(&Jobs, "n", "sum");
        assert!(lines(&outcome).contains(&"patch pods n/a".to_owned()));
        let status = body(&outcome, "update jobs.batch/status n/sum")["status"].clone();
        assert_eq!((&status["failed"], &status["conditions"]), (&json!(null), &json!(null)));
        assert_eq!(lines(&outcome).iter().filter(|line| line.starts_with("create")).count(), 2);
    }

    /// Adds a pod of an index, with how often that index failed before.
    fn pod_with(world: &mut World, name: &str, status: serde_json::Value, index: i32, failures: i32) {
        world.put(Pod::RESOURCE, json!({"metadata": {"name": name, "namespace": "n", "creationTimestamp": "2026-11-23T10:00:00Z",
            "finalizers": [FINALIZER], "annotations": {INDEX: index.to_string(), FAILURES: failures.to_string()},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "sum", "uid": "j", "controller": true}]},
            "status": status}));
    }

    fn per_index(more: serde_json::Value) -> World {
        let mut all = json!({"completionMode": "Indexed", "backoffLimitPerIndex": 1});
        all.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        world(all)
    }

    #[test]
    fn an_index_is_tried_again_by_a_pod_that_knows_how_often_it_failed() {
        let mut world = per_index(json!({}));
        pod_with(&mut world, "a", json!({"phase": "Failed"}), 0, 0);
        pod_with(&mut world, "b", json!({"phase": "Running"}), 1, 0);
        let outcome = world.reconcile(&Jobs, "n", "sum");
        assert_eq!(body(&outcome, "create pods n/")["metadata"]["annotations"][FAILURES], "1");
        assert!(
            !lines(&outcome).contains(&"patch pods n/a".to_owned()),
            "it keeps its finalizer until its successor is there"
        );
        pod_with(&mut world, "c", json!({"phase": "Running"}), 0, 1);
        assert!(lines(&world.reconcile(&Jobs, "n", "sum")).contains(&"patch pods n/a".to_owned()));
    }

    #[test]
    fn an_index_that_failed_too_often_fails_alone_and_the_job_in_the_end() {
        let mut world = per_index(json!({}));
        pod_with(&mut world, "a", json!({"phase": "Failed"}), 0, 1);
        pod_with(&mut world, "b", json!({"phase": "Running"}), 1, 0);
        let (told, status) = settle(&mut world);
        assert!(told.is_empty(), "{told:?}");
        assert_eq!((&status["failedIndexes"], &status["conditions"]), (&json!("0"), &json!(null)));
        pod_with(&mut world, "b", json!({"phase": "Succeeded"}), 1, 0);
        let (_, status) = settle(&mut world);
        assert_eq!(
            (&status["conditions"][1]["reason"], &status["completedIndexes"]),
            (&json!("FailedIndexes"), &json!("1"))
        );
    }

    #[test]
    fn too_many_failed_indexes_end_the_job() {
        let mut world = per_index(json!({"maxFailedIndexes": 0}));
        pod_with(&mut world, "a", json!({"phase": "Failed"}), 0, 1);
        pod_with(&mut world, "b", json!({"phase": "Running"}), 1, 0);
        let outcome = world.reconcile(&Jobs, "n", "sum");
        assert!(lines(&outcome).contains(&"delete pods n/b".to_owned()));
        let status = body(&outcome, "update jobs.batch/status n/sum")["status"].clone();
        assert_eq!(status["conditions"][0]["reason"], "MaxFailedIndexesExceeded");
    }

    #[test]
    fn enough_successes_end_the_job() {
        let mut world =
            world(json!({"completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "1"}]}}));
        pod(&mut world, "a", 'R', true, Some(0));
        pod(&mut world, "b", 'S', true, Some(1));
        let outcome = world.reconcile(&Jobs, "n", "sum");
        assert!(lines(&outcome).contains(&"delete pods n/a".to_owned()));
        let status = body(&outcome, "update jobs.batch/status n/sum")["status"].clone();
        assert_eq!(
            (&status["conditions"][0]["type"], &status["conditions"][0]["reason"]),
            (&json!("SuccessCriteriaMet"), &json!("SuccessPolicy"))
        );
    }

    #[test]
    fn a_suspended_job_runs_nothing_and_counts_no_failure() {
        let mut world = world(json!({"suspend": true}));
        pod(&mut world, "a", 'R', true, None);
        let outcome = world.reconcile(&Jobs, "n", "sum");
        assert_eq!(lines(&outcome), ["update jobs.batch/status n/sum", "patch pods n/a", "delete pods n/a"]);
    }

    #[test]
    fn frees_pods_of_an_earlier_job_of_its_name() {
        let mut world = world(json!({"parallelism": 0}));
        world.put(Pod::RESOURCE, json!({"metadata": {"name": "a", "namespace": "n", "finalizers": [FINALIZER],
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "sum", "uid": "earlier", "controller": true}]}}));
        assert!(lines(&world.reconcile(&Jobs, "n", "sum")).contains(&"patch pods n/a".to_owned()));
    }

    #[test]
    fn parallelism_0_stops_it() {
        assert!(settle(&mut world(json!({"parallelism": 0}))).0.is_empty());
    }

    #[test]
    fn a_finished_job_goes_after_its_time() {
        let mut world = world(json!({"ttlSecondsAfterFinished": 60}));
        for name in ["a", "b"] {
            pod(&mut world, name, 'S', true, None);
        }
        settle(&mut world);
        assert_eq!(world.reconcile(&Jobs, "n", "sum").requeue_after, Some(Duration::from_secs(60)));
        world.now = world.now.plus(Duration::from_secs(61));
        assert_eq!(lines(&world.reconcile(&Jobs, "n", "sum")), ["delete jobs.batch n/sum"]);
    }

    #[test]
    fn ranges_read_as_upstream_writes_them() {
        for text in ["0-2,5", "1,2", "7", "0-4,6,7,9-11"] {
            assert_eq!(ranges(&parse_ranges(text)), text);
        }
    }

    /// Found by the simulator (seed 26): a Job was deleted without its pods, which then could not be deleted.
    #[test]
    fn a_pod_that_its_job_left_behind_is_let_go() {
        let mut world = World::default();
        world.put(Job::RESOURCE, json!({"metadata": {"name": "other", "namespace": "n"}, "spec": {"template": {}}}));
        world.put(Pod::RESOURCE, json!({"metadata": {"name": "left", "namespace": "n", "finalizers": [FINALIZER]}}));
        let entry = world.caches.open(&Pod::RESOURCE.all()).entry("n", "left").expect("the pod");
        assert_eq!(Jobs.keys(&View::new(&world.caches), &Pod::RESOURCE.all(), &entry), [Key::new("n", NOBODY)]);
        assert_eq!(lines(&world.reconcile(&Jobs, "n", NOBODY)), ["patch pods n/left"]);
    }

    /// Found by the simulator (seed 15): a Job waited until a clock that was set back had caught up.
    #[test]
    fn a_clock_that_was_set_back_makes_no_job_wait() {
        let now = Timestamp::from_seconds(1_795_464_000);
        let waits = |seconds_ago: i64| {
            wait_after(Timestamp::from_seconds(now.seconds() - seconds_ago), 2, now).map(|wait| wait.as_secs())
        };
        assert_eq!([waits(0), waits(5), waits(20), waits(-3000)], [Some(20), Some(15), None, None]);
    }
}
