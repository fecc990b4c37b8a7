//! The kubelet's `/stats/summary` as series.
//!
//! Start at [`read`]. The names are those of upstream's kubelet and cAdvisor, where they have one.

use serde_json::Value;

use super::wire::series;

/// Of a field of the summary: where it is, the series, and what one of its units is.
type Row = (&'static str, &'static str, f64);

const NODE: &[Row] = &[
    ("/cpu/usageCoreNanoSeconds", "node_cpu_usage_seconds_total", 1e-9),
    ("/memory/workingSetBytes", "node_memory_working_set_bytes", 1.0),
    ("/memory/availableBytes", "node_memory_available_bytes", 1.0),
    ("/network/rxBytes", "node_network_receive_bytes_total", 1.0),
    ("/network/txBytes", "node_network_transmit_bytes_total", 1.0),
    ("/fs/usedBytes", "node_filesystem_used_bytes", 1.0),
    ("/fs/capacityBytes", "node_filesystem_size_bytes", 1.0),
];
const POD: &[Row] = &[
    ("/cpu/usageCoreNanoSeconds", "pod_cpu_usage_seconds_total", 1e-9),
    ("/memory/workingSetBytes", "pod_memory_working_set_bytes", 1.0),
    ("/network/rxBytes", "pod_network_receive_bytes_total", 1.0),
    ("/network/txBytes", "pod_network_transmit_bytes_total", 1.0),
    ("/io/readBytes", "pod_fs_reads_bytes_total", 1.0),
    ("/io/writtenBytes", "pod_fs_writes_bytes_total", 1.0),
];
const CONTAINER: &[Row] = &[
    ("/cpu/usageCoreNanoSeconds", "container_cpu_usage_seconds_total", 1e-9),
    ("/memory/workingSetBytes", "container_memory_working_set_bytes", 1.0),
    ("/io/readBytes", "container_fs_reads_bytes_total", 1.0),
    ("/io/writtenBytes", "container_fs_writes_bytes_total", 1.0),
];

/// Every value of a summary.
pub(crate) fn read(summary: &Value, node: &str) -> Vec<(String, f64)> {
    let mut values = Vec::new();
    take(&summary["node"], NODE, &[("node", node)], &mut values);
    for pod in summary["pods"].as_array().into_iter().flatten() {
        let text = |at: &str| pod["podRef"][at].as_str().unwrap_or_default();
        let labels = [("node", node), ("namespace", text("namespace")), ("pod", text("name"))];
        take(pod, POD, &labels, &mut values);
        for container in pod["containers"].as_array().into_iter().flatten() {
            let name = [("container", container["name"].as_str().unwrap_or_default())];
            take(container, CONTAINER, &[&labels[..], &name].concat(), &mut values);
        }
    }
    values
}

fn take(from: &Value, rows: &[Row], labels: &[(&str, &str)], values: &mut Vec<(String, f64)>) {
    for (at, name, unit) in rows {
        let value = from.pointer(at).and_then(Value::as_f64);
        values.extend(value.map(|value| (series(name, labels), value * unit)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_series_is_told_in_metrics() {
        for (_, name, _) in NODE.iter().chain(POD).chain(CONTAINER) {
            assert!(crate::metrics::families::family(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_summary_becomes_series() {
        let summary = json!({
            "node": {"cpu": {"usageCoreNanoSeconds": 2_500_000_000_u64}, "memory": {"workingSetBytes": 7}},
            "pods": [{
                "podRef": {"name": "p", "namespace": "ns"}, "network": {"rxBytes": 5}, "io": {"readBytes": 4},
                "containers": [{"name": "c", "cpu": {"usageCoreNanoSeconds": 1_000_000_000}, "io": {"writtenBytes": 3}}],
            }],
        });
        let expected = [
            (r#"node_cpu_usage_seconds_total{node="n"}"#, 2.5),
            (r#"node_memory_working_set_bytes{node="n"}"#, 7.0),
            (r#"pod_network_receive_bytes_total{node="n",namespace="ns",pod="p"}"#, 5.0),
            (r#"pod_fs_reads_bytes_total{node="n",namespace="ns",pod="p"}"#, 4.0),
            (r#"container_cpu_usage_seconds_total{node="n",namespace="ns",pod="p",container="c"}"#, 1.0),
            (r#"container_fs_writes_bytes_total{node="n",namespace="ns",pod="p",container="c"}"#, 3.0),
        ];
        assert_eq!(read(&summary, "n"), expected.map(|(name, value)| (name.to_owned(), value)));
        assert!(read(&Value::Null, "n").is_empty());
    }
}
