//! `metrics.k8s.io/v1beta1`: what `kubectl top` asks for, of the two newest rounds of each node.
//!
//! Start at [`nodes`] and [`pods`].
//!
//! Invariant: what was not measured within [`STALE_MS`] is not told.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Timestamp;
use serde_json::{Value, json};

use super::wire::{Round, label};

/// Our API group.
pub const GROUP: &str = "metrics.k8s.io";
/// Its version.
pub const VERSION: &str = "v1beta1";
/// Four rounds that did not come.
const STALE_MS: i64 = 60_000;

/// What something used: CPU in cores, memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Usage {
    cpu: Option<f64>,
    memory: Option<f64>,
}

impl Usage {
    fn json(self) -> Value {
        let mut usage = json!({});
        if let Some(cores) = self.cpu {
            usage["cpu"] = format!("{}n", (cores * 1e9).max(0.0).round() as u64).into();
        }
        if let Some(bytes) = self.memory {
            usage["memory"] = format!("{}Ki", (bytes / 1024.0).ceil() as u64).into();
        }
        usage
    }
}

/// A `NodeMetrics` for each node.
pub fn nodes(latest: &[Vec<Arc<Round>>], now_ms: i64) -> Vec<Value> {
    let fresh = latest.iter().filter_map(|rounds| pair(rounds, now_ms));
    let one = |(before, last): (&Round, &Round)| {
        let used = usage(before, last, "node", |_| true);
        let usage = used.into_values().next()?;
        let mut object = frame("NodeMetrics", &last.node, "", before, last);
        object["usage"] = usage.json();
        Some(object)
    };
    fresh.filter_map(one).collect()
}

/// A `PodMetrics` for each pod, of one namespace or (if that is empty) of all.
pub fn pods(latest: &[Vec<Arc<Round>>], namespace: &str, now_ms: i64) -> Vec<Value> {
    let mut found: BTreeMap<(String, String), Value> = BTreeMap::new();
    for (before, last) in latest.iter().filter_map(|rounds| pair(rounds, now_ms)) {
        let wanted = |series: &str| namespace.is_empty() || label(series, "namespace") == namespace;
        for (of, usage) in usage(before, last, "container", wanted) {
            let [namespace, pod, container] = ["namespace", "pod", "container"].map(|name| label(&of, name).to_owned());
            let make = || {
                let mut object = frame("PodMetrics", &pod, &namespace, before, last);
                object["containers"] = json!([]);
                object
            };
            let object = found.entry((namespace.clone(), pod.clone())).or_insert_with(make);
            if let Some(containers) = object["containers"].as_array_mut() {
                containers.push(json!({"name": container, "usage": usage.json()}));
            }
        }
    }
    found.into_values().collect()
}

fn pair(rounds: &[Arc<Round>], now_ms: i64) -> Option<(&Round, &Round)> {
    let [before, last] = rounds else { return None };
    (now_ms - last.time < STALE_MS && last.time > before.time).then_some((&**before, &**last))
}

fn frame(kind: &str, name: &str, namespace: &str, before: &Round, last: &Round) -> Value {
    let time = Timestamp(i128::from(last.time) * 1_000_000).rfc3339();
    let mut object = json!({
        "kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": {"name": name, "creationTimestamp": time},
        "timestamp": time, "window": format!("{}s", (last.time - before.time + 500) / 1000),
    });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}

/// What each of a kind of thing used, by its labels as they stand in the series' names.
fn usage(before: &Round, last: &Round, of: &str, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, Usage> {
    let (cpu, memory) = (format!("{of}_cpu_usage_seconds_total{{"), format!("{of}_memory_working_set_bytes{{"));
    let earlier: BTreeMap<&str, f64> = before.values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let seconds = (last.time - before.time) as f64 / 1000.0;
    let mut found: BTreeMap<String, Usage> = BTreeMap::new();
    for (name, value) in last.values.iter().filter(|(name, _)| wanted(name)) {
        if let Some(labels) = name.strip_prefix(&cpu) {
            let usage = found.entry(format!("{{{labels}")).or_default();
            // A counter that fell began anew: a container of that name that was restarted.
            usage.cpu = earlier.get(name.as_str()).map(|was| (value - was).max(0.0) / seconds);
        } else if let Some(labels) = name.strip_prefix(&memory) {
            found.entry(format!("{{{labels}")).or_default().memory = Some(*value);
        }
    }
    found.retain(|_, usage| usage.cpu.is_some() && usage.memory.is_some());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(second: i64, values: &[(&str, f64)]) -> Arc<Round> {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Arc::new(Round { node: "n".into(), time: second * 1000, values })
    }

    const CPU: &str = r#"container_cpu_usage_seconds_total{node="n",namespace="a",pod="p",container="c"}"#;
    const MEMORY: &str = r#"container_memory_working_set_bytes{node="n",namespace="a",pod="p",container="c"}"#;
    const NODE_CPU: &str = r#"node_cpu_usage_seconds_total{node="n"}"#;
    const NODE_MEMORY: &str = r#"node_memory_working_set_bytes{node="n"}"#;

    fn latest() -> Vec<Vec<Arc<Round>>> {
        let values = |cpu: f64| [(CPU, cpu), (MEMORY, 2048.0), (NODE_CPU, cpu * 2.0), (NODE_MEMORY, 4096.0)];
        vec![vec![round(0, &values(1.0)), round(10, &values(3.5))]]
    }

    #[test]
    fn nodes_are_told() {
        let told = nodes(&latest(), 20_000);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0]["usage"], json!({"cpu": "500000000n", "memory": "4Ki"}));
        assert_eq!((&told[0]["metadata"]["name"], &told[0]["window"]), (&json!("n"), &json!("10s")));
        assert_eq!(told[0]["timestamp"], "1970-01-01T00:00:10Z");
    }

    #[test]
    fn pods_are_told_by_namespace() {
        let told = pods(&latest(), "a", 20_000);
        assert_eq!(told[0]["metadata"]["namespace"], "a");
        assert_eq!(told[0]["containers"], json!([{"name": "c", "usage": {"cpu": "250000000n", "memory": "2Ki"}}]));
        assert_eq!((pods(&latest(), "", 20_000).len(), pods(&latest(), "b", 20_000).len()), (1, 0));
    }

    #[test]
    fn what_is_old_or_new_is_not_told() {
        assert!(nodes(&latest(), 80_000).is_empty(), "no round for too long");
        assert!(nodes(&[vec![latest()[0][1].clone()]], 20_000).is_empty(), "one round makes no rate");
        let new = vec![vec![round(0, &[]), latest()[0][1].clone()]];
        assert!(pods(&new, "", 20_000).is_empty(), "a container is told when it was seen twice");
    }
}
