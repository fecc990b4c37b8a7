//! What the series are that a node is measured by, for `/metrics`.
//!
//! Start at [`told`]. A series that is measured has its line here; a test compares.

use base::exposition::{Exposition, Family};

/// Name, and what it says.
const FAMILIES: &[(&str, &str)] = &[
    ("container_cpu_usage_seconds_total", "CPU time used by the container."),
    ("container_fs_reads_bytes_total", "Bytes read from disks by the container."),
    ("container_fs_writes_bytes_total", "Bytes written to disks by the container."),
    ("container_memory_working_set_bytes", "Memory the container cannot do without."),
    ("node_cpu_usage_seconds_total", "CPU time used by the node."),
    ("node_disk_read_bytes_total", "Bytes read from the disk or card."),
    ("node_disk_written_bytes_total", "Bytes written to the disk or card."),
    ("node_filesystem_size_bytes", "Size of the file system with the node's data."),
    ("node_filesystem_used_bytes", "Bytes used on the file system with the node's data."),
    ("node_memory_available_bytes", "Memory that can be had."),
    ("node_memory_working_set_bytes", "Memory that cannot be had."),
    ("node_network_receive_bytes_total", "Bytes received by the node's link."),
    ("node_network_transmit_bytes_total", "Bytes sent by the node's link."),
    ("node_thermal_zone_temp", "Temperature in degrees Celsius."),
    ("node_undervoltage", "1 if the supply has been too weak, 0 otherwise."),
    ("pod_cpu_usage_seconds_total", "CPU time used by the pod."),
    ("pod_fs_reads_bytes_total", "Bytes read from disks by the pod."),
    ("pod_fs_writes_bytes_total", "Bytes written to disks by the pod."),
    ("pod_memory_working_set_bytes", "Memory the pod cannot do without."),
    ("pod_network_receive_bytes_total", "Bytes received by the pod."),
    ("pod_network_transmit_bytes_total", "Bytes sent by the pod."),
];

/// Values of series as they are told.
pub(super) fn told(values: &[(String, f64)]) -> Exposition {
    let mut told = Exposition::default();
    for (series, value) in values {
        let name = series.split('{').next().unwrap_or_default();
        if let Some(family) = family(name) {
            told.add_series(family, series[name.len()..].to_owned(), (*value, None));
        }
    }
    told
}

pub(super) fn family(name: &str) -> Option<Family> {
    FAMILIES.iter().find(|(its, _)| *its == name).map(|(name, help)| Family { name, help })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_name_stand_together() {
        let values = [
            ("pod_network_receive_bytes_total{pod=\"b\"}", 2.0),
            ("node_undervoltage{node=\"n\"}", 0.0),
            ("pod_network_receive_bytes_total{pod=\"a\"}", 1e15),
        ];
        let text = told(&values.map(|(name, value)| (name.to_owned(), value))).to_string();
        assert_eq!(base::exposition::check(&text), Ok(()));
        let wanted = "pod_network_receive_bytes_total{pod=\"a\"} 1000000000000000\n\
                      pod_network_receive_bytes_total{pod=\"b\"} 2\n";
        assert!(text.ends_with(wanted), "{text}");
        assert!(text.contains("# TYPE node_undervoltage gauge\nnode_undervoltage{node=\"n\"} 0\n"), "{text}");
    }
}
