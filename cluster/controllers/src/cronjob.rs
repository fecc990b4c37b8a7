//! Makes Jobs on a schedule.
//!
//! Start at [`CronJobs`].
//!
//! Invariants:
//! * a Job's name follows from the minute it was meant for: the same run is never made twice, whoever crashes;
//! * after any pause only the latest missed run is made up for, and only within `startingDeadlineSeconds`;
//! * a clock that was set back does not stop a schedule: a last run in the future counts as now.
//!
//! Not here: the schedule itself (`cron.rs`), the Jobs (`job.rs`).

use std::sync::Arc;
use std::time::Duration;

use api::cron::Schedule;
use base::Timestamp;
use client::{Collection, DeleteOptions, Entry, Kind, Resource};
use control::{About, Announce, Key, Note, Outcome, Reconciler, Regarding, View, Write, itself, owner};
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::cron::{after, latest};
use crate::job::finished;
use crate::pods::{controller_of, controller_reference};
use crate::times::{moment, time};

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// The controller of CronJobs.
pub struct CronJobs;

impl Reconciler for CronJobs {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[CronJob::RESOURCE, Job::RESOURCE];
        About {
            name: "cronjob-controller",
            reads: READS,
            writes: &["jobs.batch", "cronjobs.batch.status"],
            everything: false,
        }
    }

    fn keys(&self, _: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        if collection.resource == "jobs" { owner(entry, "CronJob") } else { itself(entry) }
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        let Some(cron) = view.get::<CronJob>(&key.namespace, &key.name) else { return Outcome::none() };
        let mut jobs = view.owned::<Job>(cron.uid());
        jobs.retain(|job| controller_of(&job.metadata).is_some_and(|owner| owner.uid == cron.uid()));
        jobs.sort_by_key(|job| (job.metadata.creation_timestamp.as_ref().map(moment), job.name().to_owned()));
        Turn { spec: cron.spec.clone(), cron: &cron, jobs, now, outcome: Outcome::none() }.decide()
    }
}

struct Turn<'a> {
    cron: &'a CronJob,
    spec: CronJobSpec,
    jobs: Vec<Arc<Job>>,
    now: Timestamp,
    outcome: Outcome,
}

impl Turn<'_> {
    fn decide(mut self) -> Outcome {
        self.forget_old();
        let mut status = self.status();
        if !self.cron.deleting() && self.spec.suspend != Some(true) {
            self.schedule(&mut status);
        }
        if Some(&status) != self.cron.status.as_ref() {
            self.outcome.writes.push(Write::status(&CronJob { status: Some(status), ..self.cron.clone() }));
        }
        self.outcome
    }

    fn active(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.iter().filter(|job| end(job).is_none())
    }

    fn status(&mut self) -> CronJobStatus {
        let mut status = self.cron.status.clone().unwrap_or_default();
        let before = status.active.take().unwrap_or_default();
        for job in &self.jobs {
            if let Some(how) = end(job)
                && before.iter().any(|each| each.uid == job.metadata.uid)
            {
                let message = format!("Saw completed job: {}, condition: {how}", job.name());
                self.outcome.events.push(Note::normal(&Regarding::object(self.cron), "SawCompletedJob", message));
            }
        }
        let active: Vec<ObjectReference> = self.active().map(|job| reference(job)).collect();
        status.active = Some(active).filter(|active| !active.is_empty());
        let times = self.jobs.iter().filter_map(|job| scheduled(job)).map(time);
        status.last_schedule_time = times.chain(status.last_schedule_time).max();
        let done = self.jobs.iter().filter_map(|job| job.status.as_ref()?.completion_time.clone());
        status.last_successful_time = done.chain(status.last_successful_time).max();
        status
    }

    fn schedule(&mut self, status: &mut CronJobStatus) {
        let about = Regarding::object(self.cron);
        let zone = match self.spec.time_zone.as_deref() {
            None => Ok(TimeZone::UTC),
            Some(name) => {
                TimeZone::get(name).map_err(|error| ("UnknownTimeZone", format!("invalid timeZone: {error}")))
            }
        };
        let schedule = Schedule::parse(&self.spec.schedule);
        let schedule = schedule.map_err(|error| ("UnparseableSchedule", format!("unparseable schedule: {error}")));
        let (zone, schedule) = match (zone, schedule) {
            (Ok(zone), Ok(schedule)) => (zone, schedule),
            (Err((reason, message)), _) | (_, Err((reason, message))) => {
                return self.outcome.events.push(Note::warning(&about, reason, message));
            }
        };
        if let Some(next) = after(&schedule, self.now, &zone) {
            self.outcome.again(next.since(self.now) + Duration::from_millis(50));
        }
        let created = self.cron.metadata.creation_timestamp.as_ref().map(moment).unwrap_or(self.now);
        let last = status.last_schedule_time.as_ref().map(moment).unwrap_or(created);
        let Some(due) = latest(&schedule, last.min(self.now), self.now, &zone) else { return };
        if let Some(deadline) = self.spec.starting_deadline_seconds
            && due.plus(Duration::from_secs(deadline.max(0) as u64)) < self.now
        {
            let message = format!("Missed scheduled time to start a job: {}", due.rfc3339());
            return self.outcome.events.push(Note::warning(&about, "MissSchedule", message));
        }
        let name = format!("{}-{}", self.cron.name(), due.seconds() / 60);
        if self.jobs.iter().any(|job| job.name() == name) {
            return;
        }
        let running: Vec<Arc<Job>> = self.active().cloned().collect();
        match self.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !running.is_empty() => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                return self.outcome.events.push(Note::normal(&about, "JobAlreadyActive", message));
            }
            Some("Replace") => {
                for job in running.iter().filter(|job| !job.deleting()) {
                    self.outcome.writes.push(self.delete(job));
                }
            }
            _ => {}
        }
        self.outcome.writes.push(self.create(name, due, &about));
        status.last_schedule_time = Some(time(due));
    }

    fn create(&self, name: String, due: Timestamp, about: &Regarding) -> Write {
        let template = self.spec.job_template.clone();
        let meta = template.metadata.unwrap_or_default();
        let mut annotations = meta.annotations.unwrap_or_default();
        annotations.insert(SCHEDULED.to_owned(), due.rfc3339());
        let job = Job {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: self.cron.metadata.namespace.clone(),
                labels: meta.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![controller_reference(self.cron)]),
                ..ObjectMeta::default()
            },
            spec: template.spec,
            status: None,
        };
        Write::create(&job).or_exists().announce(Announce {
            regarding: about.clone(),
            done: ("SuccessfulCreate", format!("Created job {name}")),
            failed: ("FailedCreate", "Error creating job: ".into()),
        })
    }

    fn delete(&self, job: &Job) -> Write {
        let options = DeleteOptions { propagation: Some("Background"), ..DeleteOptions::default() };
        Write::delete(job, options).announce(Announce {
            regarding: Regarding::object(self.cron),
            done: ("SuccessfulDelete", format!("Deleted job {}", job.name())),
            failed: ("FailedDelete", "Deleted job: ".into()),
        })
    }

    /// Deletes finished Jobs beyond the history limits, the oldest first.
    fn forget_old(&mut self) {
        let limits = [
            ("Complete", self.spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", self.spec.failed_jobs_history_limit.unwrap_or(1)),
        ];
        for (how, keep) in limits {
            let ended: Vec<Arc<Job>> =
                self.jobs.iter().filter(|job| end(job) == Some(how) && !job.deleting()).cloned().collect();
            let surplus = ended.len().saturating_sub(keep.max(0) as usize);
            for job in &ended[..surplus] {
                self.outcome.writes.push(self.delete(job));
            }
        }
    }
}

fn end(job: &Job) -> Option<&str> {
    job.status.as_ref().and_then(finished).map(|condition| condition.type_.as_str())
}

fn scheduled(job: &Job) -> Option<Timestamp> {
    job.metadata.annotations.as_ref()?.get(SCHEDULED)?.parse().ok()
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{World, lines};

    /// Jobs as `minutes-ago[S|F]`: running, complete or failed.
    #[track_caller]
    fn check(spec: serde_json::Value, last_minutes_ago: u64, jobs: &str, wanted: &[&str]) {
        let mut world = World::default();
        let ago = |minutes: u64| Timestamp(world_now().0 - i128::from(minutes) * 60_000_000_000).rfc3339();
        let mut all = json!({"schedule": "*/10 * * * *", "jobTemplate": {"spec": {"template": {}}}});
        all.as_object_mut().expect("a map").extend(spec.as_object().expect("a map").clone());
        world.put(CronJob::RESOURCE, json!({"metadata": {"name": "tick", "namespace": "n", "uid": "c", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": all, "status": {"lastScheduleTime": ago(last_minutes_ago)}}));
        for job in jobs.split_whitespace() {
            let minutes: u64 = job.trim_end_matches(['S', 'F']).parse().expect("minutes");
            let condition = match job.chars().last() {
                Some('S') => json!([{"type": "Complete", "status": "True"}]),
                Some('F') => json!([{"type": "Failed", "status": "True"}]),
                _ => json!([]),
            };
            world.put(Job::RESOURCE, json!({"metadata": {"name": format!("tick-{minutes}"), "namespace": "n", "creationTimestamp": ago(minutes),
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": "c", "controller": true}]},
                "status": {"conditions": condition}}));
        }
        let outcome = world.reconcile(&CronJobs, "n", "tick");
        let mut lines = lines(&outcome);
        lines.retain(|line| !line.contains("/status"));
        assert_eq!(lines, wanted);
    }

    fn world_now() -> Timestamp {
        crate::testing::NOW
    }

    const NEW: &str = "create jobs.batch n/tick-29924400";

    #[test]
    fn waits_for_its_time() {
        check(json!({}), 0, "", &[]);
    }
    #[test]
    fn makes_the_job_that_is_due() {
        check(json!({}), 10, "", &[NEW]);
    }
    #[test]
    fn makes_up_for_the_latest_missed_run_only() {
        check(json!({}), 100_000, "", &[NEW]);
    }
    #[test]
    fn forbid_waits_for_the_run_before() {
        check(json!({"concurrencyPolicy": "Forbid"}), 10, "10", &[]);
        check(json!({"concurrencyPolicy": "Forbid"}), 10, "10S", &[NEW]);
    }
    #[test]
    fn replace_ends_the_run_before() {
        check(json!({"concurrencyPolicy": "Replace"}), 10, "10", &["delete jobs.batch n/tick-10", NEW]);
    }
    #[test]
    fn a_suspended_one_makes_nothing() {
        check(json!({"suspend": true}), 10, "", &[]);
    }
    #[test]
    fn a_run_too_late_is_missed() {
        check(json!({"schedule": "5 * * * *", "startingDeadlineSeconds": 60}), 120, "", &[]);
        check(
            json!({"schedule": "5 * * * *", "startingDeadlineSeconds": 3600}),
            120,
            "",
            &["create jobs.batch n/tick-29924345"],
        );
    }
    #[test]
    fn keeps_three_successes_and_one_failure() {
        check(json!({}), 0, "50S 40S 30S 20S 19F 18F", &["delete jobs.batch n/tick-50", "delete jobs.batch n/tick-19"]);
    }
    #[test]
    fn a_last_run_in_the_future_does_not_stop_it() {
        let mut world = World::default();
        world.put(CronJob::RESOURCE, json!({"metadata": {"name": "tick", "namespace": "n", "uid": "c"},
            "spec": {"schedule": "*/10 * * * *", "jobTemplate": {}}, "status": {"lastScheduleTime": "2030-01-01T00:00:00Z"}}));
        assert_eq!(world.reconcile(&CronJobs, "n", "tick").requeue_after, Some(Duration::from_millis(600_050)));
    }
}
