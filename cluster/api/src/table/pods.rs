//! The cells of a Pod: what its containers do, in one word.
//!
//! Start at [`cells`]. The word is the phase, then whatever is more telling: the reason, the container that initialises
//! or fails, the deletion.

use super::words;
use crate::dig;
use crate::meta;
use base::Timestamp;
use serde_json::{Value, json};

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summary(pod);
    let restarts = match summary.last_restart.filter(|_| summary.restarts > 0) {
        Some(then) => format!("{} ({} ago)", summary.restarts, words::ago(then, now)),
        None => summary.restarts.to_string(),
    };
    let ip = dig::list(pod, "status.podIPs").first().map_or("", |first| dig::text(first, "ip"));
    vec![
        words::name(pod),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.word),
        json!(restarts),
        words::age(pod, now),
        json!(words::or_none(ip.to_owned())),
        words::text_or(pod, "spec.nodeName", "<none>"),
        words::text_or(pod, "status.nominatedNodeName", "<none>"),
        json!(readiness_gates(pod)),
    ]
}

struct Summary {
    word: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// How often containers restarted, and when last.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += dig::int(status, "restartCount").unwrap_or(0);
        self.last = self.last.max(dig::text(status, "lastState.terminated.finishedAt").parse().ok());
    }
}

fn summary(pod: &Value) -> Summary {
    let phase = dig::text(pod, "status.phase");
    let mut word = match dig::text(pod, "status.reason") {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    let is_gated = |condition: &Value| {
        dig::text(condition, "type") == "PodScheduled" && dig::text(condition, "reason") == "SchedulingGated"
    };
    if dig::list(pod, "status.conditions").iter().any(is_gated) {
        word = "SchedulingGated".to_owned();
    }
    let sidecars = dig::list(pod, "spec.initContainers").iter().filter(|init| is_sidecar(init)).count();
    let total = dig::list(pod, "spec.containers").len() + sidecars;
    let init = initialising(pod);
    let (mut ready, mut restarts) = (init.ready_sidecars, init.restarts);
    if let Some(init_word) = &init.word {
        word = init_word.clone();
    }
    if init.word.is_none() || words::condition(pod, "Initialized") == Some("True") {
        restarts = init.sidecar_restarts;
        let (mut has_running, statuses) = (false, dig::list(pod, "status.containerStatuses"));
        for status in statuses.iter().rev() {
            restarts.add(status);
            match container_word(status) {
                Some(found) => word = found,
                None if dig::flag(status, "ready") && dig::has(status, "state.running") => {
                    has_running = true;
                    ready += 1;
                }
                None => {}
            }
        }
        if word == "Completed" && has_running {
            let is_ready = words::condition(pod, "Ready") == Some("True");
            word = if is_ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if meta::is_terminating(pod) {
        if dig::text(pod, "status.reason") == "NodeLost" {
            word = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            word = "Terminating".to_owned();
        }
    }
    Summary { word, ready, total, restarts: restarts.count, last_restart: restarts.last }
}

fn is_sidecar(init: &Value) -> bool {
    dig::text(init, "restartPolicy") == "Always"
}

/// What the init containers do.
struct Initialising {
    /// Set while one of them is not done.
    word: Option<String>,
    ready_sidecars: usize,
    restarts: Restarts,
    sidecar_restarts: Restarts,
}

fn initialising(pod: &Value) -> Initialising {
    let specs = dig::list(pod, "spec.initContainers");
    let mut found = Initialising {
        word: None,
        ready_sidecars: 0,
        restarts: Restarts::default(),
        sidecar_restarts: Restarts::default(),
    };
    for (index, status) in dig::list(pod, "status.initContainerStatuses").iter().enumerate() {
        let spec = specs.iter().find(|spec| dig::text(spec, "name") == dig::text(status, "name"));
        let sidecar = spec.is_some_and(is_sidecar);
        found.restarts.add(status);
        if sidecar {
            found.sidecar_restarts.add(status);
        }
        let ended = dig::has(status, "state.terminated");
        let waiting = dig::text(status, "state.waiting.reason");
        if ended && dig::int(status, "state.terminated.exitCode").unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && dig::flag(status, "started") {
            found.ready_sidecars += usize::from(dig::flag(status, "ready"));
            continue;
        }
        found.word = Some(match container_word(status) {
            Some(word) if ended || waiting != "PodInitializing" => format!("Init:{word}"),
            _ => format!("Init:{index}/{}", specs.len()),
        });
        break;
    }
    found
}

/// What a container that does not run says about itself.
fn container_word(status: &Value) -> Option<String> {
    let waiting = dig::text(status, "state.waiting.reason");
    if !waiting.is_empty() {
        return Some(waiting.to_owned());
    }
    if !dig::has(status, "state.terminated") {
        return None;
    }
    Some(match (dig::text(status, "state.terminated.reason"), dig::int(status, "state.terminated.signal")) {
        ("", Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        ("", _) => format!("ExitCode:{}", dig::int(status, "state.terminated.exitCode").unwrap_or(0)),
        (reason, _) => reason.to_owned(),
    })
}

fn readiness_gates(pod: &Value) -> String {
    let gates = dig::list(pod, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let passed = gates.iter().filter(|gate| words::condition(pod, dig::text(gate, "conditionType")) == Some("True"));
    format!("{}/{}", passed.count(), gates.len())
}
