//! Binds pods and tells why others wait.
//!
//! Start at [`run`]. It looks at everything whenever a node or a pod changes, and decides about all that wait at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, chain};
use bytes::Bytes;
use client::{Caches, Client, ClientError};
use http::Method;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::decide::{Assumed, Decision, decide, uid};

/// A pod that found no place is looked at again so often even if nothing seems to have changed.
const RETRY: Duration = Duration::from_secs(60);

/// After a binding that failed.
const PAUSE: Duration = Duration::from_millis(500);

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

/// Schedules for ever.
pub async fn run(options: Options, client: Client, caches: Arc<Caches>, clock: Arc<dyn Clock>) {
    let (nodes, pods, namespaces) = (caches.of::<Node>(), caches.of::<Pod>(), caches.of::<Namespace>());
    for cache in [&nodes, &pods, &namespaces] {
        cache.wait_synced().await;
    }
    let (mut node_changes, mut pod_changes) = (nodes.changed(), pods.changed());
    let mut assumed = Assumed::new();
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    loop {
        node_changes.mark_unchanged();
        pod_changes.mark_unchanged();
        let seen = pods.list::<Pod>(None);
        let decisions = decide(
            &nodes.list::<Node>(None),
            &seen,
            &namespaces.list::<Namespace>(None),
            &options.scheduler_name,
            &mut assumed,
        );
        let mut failed = false;
        told.retain(|uid, _| seen.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid)));
        for decision in decisions {
            match decision {
                Decision::Bind { pod, node } => match bind(&client, &pod, &node).await {
                    Ok(()) => {
                        assumed.insert(uid(&pod), node.clone());
                        tell_bound(&options, &client, &pod, &node, &*clock).await;
                    }
                    Err(error) if error.not_found() || error.conflict() => {} // Gone, or bound by somebody else.
                    Err(error) => {
                        failed = true;
                        tracing::warn!(pod = name(&pod), node, error = %chain(&error), "failed to bind the pod");
                    }
                },
                Decision::Explain { pod, reason, message } => {
                    if told.insert(uid(&pod), message.clone()).as_ref() != Some(&message) {
                        explain(&options, &client, &pod, reason, &message, &*clock).await;
                    }
                }
            }
        }
        if failed {
            sleep(PAUSE).await;
            continue;
        }
        // Ends early when something changes; the caches live as long as this task, so waiting itself cannot fail.
        let _ = timeout(RETRY, async {
            tokio::select! {
                _ = node_changes.changed() => {}
                _ = pod_changes.changed() => {}
            }
        })
        .await;
    }
}

async fn bind(client: &Client, pod: &Pod, node: &str) -> Result<(), ClientError> {
    let body = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "uid": pod.metadata.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let path = format!("{}/binding", path(pod));
    client.call(Method::POST, path, "application/json", Bytes::from(body.to_string())).await.map(drop)
}

async fn tell_bound(options: &Options, client: &Client, pod: &Pod, node: &str, clock: &dyn Clock) {
    let message = format!("Successfully assigned {} to {node}", name(pod));
    record(options, client, pod, ("Normal", "Scheduled", "Binding"), &message, clock).await;
}

async fn explain(options: &Options, client: &Client, pod: &Pod, reason: &str, message: &str, clock: &dyn Clock) {
    let now = clock.now().rfc3339();
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message,
                           "lastTransitionTime": now, "lastProbeTime": null});
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
    let path = format!("{}/status", path(pod));
    let body = Bytes::from(patch.to_string());
    if let Err(error) = client.call(Method::PATCH, path, "application/strategic-merge-patch+json", body).await {
        tracing::debug!(pod = name(pod), error = %chain(&error), "failed to tell why the pod waits");
    }
    if reason == "Unschedulable" {
        record(options, client, pod, ("Warning", "FailedScheduling", "Scheduling"), message, clock).await;
    }
}

/// Records an Event; a failure to do so is no reason not to go on.
async fn record(
    options: &Options,
    client: &Client,
    pod: &Pod,
    (kind, reason, action): (&str, &str, &str),
    message: &str,
    clock: &dyn Clock,
) {
    let now = clock.now();
    let meta = &pod.metadata;
    let pod_name = meta.name.as_deref().unwrap_or_default();
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{pod_name}.{:x}", now.0), "namespace": meta.namespace},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": meta.name, "namespace": meta.namespace,
                           "uid": meta.uid, "resourceVersion": meta.resource_version},
        "type": kind, "reason": reason, "action": action, "message": message, "count": 1,
        "firstTimestamp": now.rfc3339(), "lastTimestamp": now.rfc3339(),
        "source": {"component": options.scheduler_name},
        "reportingComponent": options.scheduler_name, "reportingInstance": options.scheduler_name,
    });
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let path = format!("/api/v1/namespaces/{namespace}/events");
    if let Err(error) = client.call(Method::POST, path, "application/json", Bytes::from(event.to_string())).await {
        tracing::debug!(pod = name(pod), error = %chain(&error), "failed to record an event");
    }
}

fn path(pod: &Pod) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("/api/v1/namespaces/{}/pods/{}", text(&pod.metadata.namespace), text(&pod.metadata.name))
}

fn name(pod: &Pod) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name))
}
