//! A page of the documentation as something that is run and looked at, and many of them side by side.
//!
//! Start at [`run_all`]; after a break (the server killed, the power cut) [`check_again`] looks whether what was left running is
//! as it should be.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::{User, manifest};

/// A namespace is given its ServiceAccount in so many seconds.
const NAMESPACE_SECONDS: u32 = 10;
/// After a break everything is back in so many seconds.
const BACK_SECONDS: u32 = 60;

/// Something the documentation shows.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name, and its namespace's.
    pub name: &'static str,
    /// What it shows, and the page that shows it.
    pub shows: &'static str,
    /// Whether the node must be able to limit memory.
    pub limits_memory: bool,
    /// Does it and looks.
    pub run: fn(&User),
    /// Looks again after a break; what has nothing to look at again is deleted once it has run.
    pub again: Option<fn(&User, Break)>,
}

/// What happens to a cluster between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// `kill -9` of the server, which is started again: the containers never stop.
    ServerKilled,
    /// The whole machine loses power and boots: every container is started again.
    PowerCut,
    /// The machine is a new one, restored from a backup: what pods wrote to it is gone.
    NewBoard,
}

/// How a scenario went.
#[derive(Clone, Debug)]
pub struct Outcome {
    scenario: Scenario,
    took: Duration,
    failure: Option<String>,
    containers: BTreeMap<String, String>,
}

/// How all went.
#[derive(Clone, Debug, Default)]
pub struct Report(Vec<Outcome>);

impl Report {
    /// Whether everything held.
    pub fn holds(&self) -> bool {
        self.0.iter().all(|outcome| outcome.failure.is_none())
    }

    /// The namespaces that were deleted.
    pub fn deleted(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().filter(|outcome| outcome.scenario.again.is_none()).map(|outcome| outcome.scenario.name)
    }
}

/// Runs scenarios, so many side by side.
pub fn run_all(user: &User, scenarios: &[Scenario], side_by_side: usize) -> Report {
    let jobs = scenarios.iter().map(|scenario| (*scenario, BTreeMap::new())).collect();
    on_threads(jobs, side_by_side, |scenario, _| {
        let user = user.in_namespace(scenario.name);
        make_namespace(&user, scenario.name);
        (scenario.run)(&user);
        if scenario.again.is_none() {
            user.must(&format!("delete namespace {} --wait=false", scenario.name));
        }
        containers(&user)
    })
}

/// Looks again, after a break, at what the scenarios left running.
pub fn check_again(user: &User, before: &Report, after: Break, side_by_side: usize) -> Report {
    let kept = before.0.iter().filter(|outcome| outcome.scenario.again.is_some());
    let jobs = kept.map(|outcome| (outcome.scenario, outcome.containers.clone())).collect();
    on_threads(jobs, side_by_side, |scenario, before| {
        let user = user.in_namespace(scenario.name);
        let look = scenario.again.expect("only those are here");
        user.must_become("--for=condition=Ready pod --field-selector=status.phase!=Succeeded", BACK_SECONDS);
        look(&user, after);
        let now = containers(&user);
        for (pod, container) in before.iter().filter(|_| after == Break::ServerKilled) {
            assert_eq!(now.get(pod), Some(container), "{pod} is in the same container, at the same address, as before");
        }
        now
    })
}

fn on_threads(
    jobs: VecDeque<(Scenario, BTreeMap<String, String>)>,
    side_by_side: usize,
    work: impl Fn(&Scenario, &BTreeMap<String, String>) -> BTreeMap<String, String> + Sync,
) -> Report {
    let (jobs, done) = (Mutex::new(jobs), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..side_by_side {
            scope.spawn(|| {
                while let Some((scenario, before)) = take(&jobs) {
                    let begun = Instant::now();
                    let (failure, containers) = match catch_unwind(AssertUnwindSafe(|| work(&scenario, &before))) {
                        Ok(containers) => (None, containers),
                        Err(panic) => (Some(message(&*panic)), BTreeMap::new()),
                    };
                    let outcome = Outcome { scenario, took: begun.elapsed(), failure, containers };
                    done.lock().expect("a thread that pushes does not fail").push(outcome);
                }
            });
        }
    });
    Report(done.into_inner().expect("a thread that pushes does not fail"))
}

fn take<T>(jobs: &Mutex<VecDeque<T>>) -> Option<T> {
    jobs.lock().expect("a thread that takes does not fail").pop_front()
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Pods are refused before their ServiceAccount is there, here as upstream.
fn make_namespace(user: &User, name: &str) {
    if name != "kube-system" {
        user.must(&format!("create namespace {name}"));
    }
    user.wait_for("get serviceaccount default -o name", "serviceaccount/default", user.limit(NAMESPACE_SECONDS));
}

/// The id of each running pod's first container and the pod's address.
fn containers(user: &User) -> BTreeMap<String, String> {
    let line = "{.metadata.name} {.status.containerStatuses[0].containerID} {.status.podIP}{\"\\n\"}";
    let template = format!("jsonpath={{range .items[*]}}{line}{{end}}");
    let (_, said) = user.kubectl_words(&["get", "pods", "--field-selector=status.phase=Running", "-o", &template]);
    let pairs = said.lines().filter_map(|line| line.split_once(' '));
    pairs.map(|(pod, container)| (pod.to_owned(), container.to_owned())).collect()
}

/// Applies one of the manifests.
#[track_caller]
pub(crate) fn apply(user: &User, name: &str) {
    apply_with(user, name, &[]);
}

/// The same with some of its words replaced; each of them must be there.
#[track_caller]
pub(crate) fn apply_with(user: &User, name: &str, words: &[(&str, &str)]) {
    let folder = tempfile::tempdir().expect("a folder");
    manifest::apply(user, &format!("tests/workloads/manifests/{name}"), words, folder.path());
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Outcome { scenario, took, failure, .. } in &self.0 {
            let held = if failure.is_some() { "FAILED" } else { "held" };
            writeln!(out, "  {:>6.1} s  {held:<6}  {:<18}  {}", took.as_secs_f32(), scenario.name, scenario.shows)?;
        }
        for Outcome { scenario, failure, .. } in &self.0 {
            if let Some(failure) = failure {
                writeln!(out, "\n{}: {failure}", scenario.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Scenario = Scenario { name: "good", shows: "", limits_memory: false, run: |_| (), again: None };

    fn jobs(count: usize) -> VecDeque<(Scenario, BTreeMap<String, String>)> {
        (0..count).map(|_| (GOOD, BTreeMap::new())).collect()
    }

    #[test]
    fn every_job_is_done_once_however_many_threads() {
        for threads in [1, 3, 20] {
            let report = on_threads(jobs(7), threads, |_, _| BTreeMap::new());
            assert!(report.holds() && report.0.len() == 7);
        }
    }

    #[test]
    fn one_that_fails_is_told_and_stops_no_other() {
        let count = Mutex::new(0);
        let report = on_threads(jobs(3), 1, |_, _| {
            let mut count = count.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *count += 1;
            assert!(*count != 2, "the second is broken");
            BTreeMap::new()
        });
        assert!(!report.holds() && report.0.len() == 3);
        assert!(report.to_string().contains("\ngood: the second is broken"), "{report}");
    }
}
