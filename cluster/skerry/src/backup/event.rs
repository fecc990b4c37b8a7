//! Tells in an Event why a backup failed or what is damaged, about the Job that it is.
//!
//! Start at [`tell`]. The Job's own events say that it failed, and never why.

use ::base::{Timestamp, chain};
use client::{Client, ClientError, Kubeconfig};
use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};

/// Of a message, the API takes so many bytes.
const MESSAGE_MAX: usize = 1024;
const COMPONENT: &str = "skerry-backup";

/// A Job, as the manifest names it: `NAMESPACE/NAME/UID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    namespace: String,
    name: String,
    uid: String,
}

impl std::str::FromStr for Job {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Job, &'static str> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [namespace, name, uid] if parts.iter().all(|part| !part.is_empty()) => {
                Ok(Job { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned() })
            }
            _ => Err("want NAMESPACE/NAME/UID"),
        }
    }
}

/// Tells of it: the event's reason and message. An API that refuses the event has nothing to do with what is told, which is said
/// on the standard streams anyway.
pub(super) async fn tell(what: (&str, &str), job: &Job, access: &Kubeconfig, now: Timestamp) {
    if let Err(error) = create(what, job, access, now).await {
        tracing::warn!("failed to tell of it in an event: {error}");
    }
}

async fn create(what: (&str, &str), job: &Job, access: &Kubeconfig, now: Timestamp) -> Result<(), String> {
    let event: Event = serde_json::from_value(event(what, job, now)).map_err(|error| error.to_string())?;
    let door = client::https::open(access).map_err(|error| chain(&error).to_string())?;
    let created: Result<Event, ClientError> = Client::new(door).create(&event).await;
    created.map(drop).map_err(|error| chain(&error).to_string())
}

fn event((reason, why): (&str, &str), job: &Job, now: Timestamp) -> Value {
    let Job { namespace, name, uid } = job;
    let message: String = why
        .chars()
        .scan(0, |bytes, letter| {
            *bytes += letter.len_utf8();
            (*bytes <= MESSAGE_MAX).then_some(letter)
        })
        .collect();
    json!({
        "metadata": {"generateName": format!("{name}-"), "namespace": namespace},
        "involvedObject": {
            "apiVersion": "batch/v1", "kind": "Job", "namespace": namespace, "name": name, "uid": uid,
        },
        "type": "Warning",
        "reason": reason,
        "message": message,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "count": 1,
        "firstTimestamp": now.rfc3339(),
        "lastTimestamp": now.rfc3339(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_whole_or_not_at_all() {
        assert!("kube-system/backup-1/0a-b".parse::<Job>().is_ok());
        for wrong in ["", "a/b", "a//c", "a/b/c/d", "//"] {
            assert_eq!(wrong.parse::<Job>(), Err("want NAMESPACE/NAME/UID"), "{wrong}");
        }
    }

    #[test]
    fn the_event_says_why_as_far_as_it_may() {
        let job = "kube-system/backup-1/0a".parse::<Job>().expect("a job");
        let told = event(("BackupFailed", &"é".repeat(1000)), &job, Timestamp::from_seconds(0));
        assert_eq!(told["message"].as_str().expect("text").len(), MESSAGE_MAX);
        assert_eq!((&told["involvedObject"]["uid"], &told["reason"]), (&json!("0a"), &json!("BackupFailed")));
        let whole: Event = serde_json::from_value(told).expect("it is an event");
        assert_eq!(whole.involved_object.kind.as_deref(), Some("Job"));
    }
}
