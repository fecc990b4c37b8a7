//! Jobs and CronJobs.

use crate::User;
use crate::scenario::apply;

/// The first digits of π.
const PI: &str = "3.14159265358979323846264338327950288419716939937510";

pub fn pi(user: &User) {
    apply(user, "job.yaml");
    user.must_become("--for=condition=Complete job/pi", 60);
    let said = user.must("logs job/pi");
    assert!(said.starts_with(PI) && said.trim().len() == 201, "{said}");
    assert_eq!(user.must("get job pi -o jsonpath={.status.succeeded}"), "1");
    assert!(user.must("get pods -l batch.kubernetes.io/job-name=pi").contains("Completed"));
}

pub fn indexed(user: &User) {
    apply(user, "indexed-job.yaml");
    user.must_become("--for=condition=Complete job/indexed-job", 60);
    assert_eq!(user.must("get job indexed-job -o jsonpath={.status.completedIndexes}"), "0-4");
    let index = "batch.kubernetes.io/job-completion-index";
    for (number, reversed) in ["oof", "rab", "zab", "xuq", "zyx"].iter().enumerate() {
        let said = user.must(&format!("logs -c worker -l {index}={number}"));
        assert_eq!(said.trim(), *reversed, "index {number}");
    }
}

pub fn failing(user: &User) {
    apply(user, "failing-job.yaml");
    user.must_become("--for=condition=Failed job/gives-up", 60);
    let why = user.must("get job gives-up -o jsonpath={.status.conditions[?(@.type==\"Failed\")].reason}");
    assert_eq!(why, "BackoffLimitExceeded");
    assert_eq!(user.must("logs job/gives-up").trim(), "this is bound to fail");
}

pub fn cron_job(user: &User) {
    apply(user, "cronjob.yaml");
    user.must("create job hello-now --from=cronjob/hello");
    user.must_become("--for=condition=Complete job/hello-now", 60);
    assert!(user.must("logs job/hello-now").contains("Hello from the Kubernetes cluster"));
    let by_schedule = |user: &User| {
        let done = user.must("get jobs -o jsonpath={.items[?(@.status.succeeded==1)].metadata.name}");
        done.split(' ').find(|name| !name.is_empty() && *name != "hello-now").map(str::to_owned)
    };
    // A minute, and what the job itself takes.
    let limit = user.limit(60) + user.limit(30);
    user.wait("the schedule to have run it", limit, |user| by_schedule(user).is_some());
    let job = by_schedule(user).expect("it was there");
    assert!(user.must(&format!("logs job/{job}")).contains("Hello from the Kubernetes cluster"));
    assert!(user.must("get cronjob hello").contains("* * * * *"));
}
