//! What the whole machine uses, for `/stats/summary` and `/metrics/resource`.
//!
//! Start at [`Usage::read`].

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// The kernel counts CPU time in these; it is the same on every architecture of ours.
const TICKS_PER_SECOND: u64 = 100;

/// What the machine uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time since its start, of all processors.
    pub cpu: Duration,
    /// Memory that cannot be had, in bytes.
    pub memory_working_set: u64,
    /// Memory that can be had.
    pub memory_available: u64,
    /// The link to the world, with bytes received and sent.
    pub link: Option<(String, u64, u64)>,
    /// Of the file system with the kubelet's folder: free and all bytes.
    pub disk: Option<(u64, u64)>,
}

impl Usage {
    /// Asks the kernel. `data` lies on the disk that counts.
    pub(crate) fn read(data: &Path) -> Usage {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (available, all) = memory(&text("/proc/meminfo"));
        Usage {
            cpu: cpu(&text("/proc/stat")),
            memory_working_set: all.saturating_sub(available),
            memory_available: available,
            link: link(&text("/proc/net/route"), &text("/proc/net/dev")),
            disk: sys::files::space(data).ok(),
        }
    }

    /// As the summary tells it.
    pub(crate) fn summary(&self, node: &str, time: &str) -> Value {
        let mut told = json!({
            "nodeName": node,
            "cpu": {"time": time, "usageCoreNanoSeconds": self.cpu.as_nanos() as u64},
            "memory": {
                "time": time, "availableBytes": self.memory_available, "workingSetBytes": self.memory_working_set,
            },
        });
        if let Some((name, received, sent)) = &self.link {
            told["network"] = json!({"time": time, "name": name, "rxBytes": received, "txBytes": sent});
        }
        if let Some((free, all)) = self.disk {
            let used = all.saturating_sub(free);
            told["fs"] = json!({"time": time, "availableBytes": free, "capacityBytes": all, "usedBytes": used});
        }
        told
    }
}

/// The first line of `/proc/stat` without what was idle: user, nice, system, irq, softirq, steal.
fn cpu(stat: &str) -> Duration {
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map(|word| word.parse().unwrap_or(0)).collect();
    let used: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|index| ticks.get(*index)).sum();
    Duration::from_millis(used * 1000 / TICKS_PER_SECOND)
}

/// Bytes available and in all, of `/proc/meminfo`.
fn memory(meminfo: &str) -> (u64, u64) {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    (field("MemAvailable:"), field("MemTotal:"))
}

/// The link of the default route, and what it counted.
fn link(route: &str, dev: &str) -> Option<(String, u64, u64)> {
    let name = route.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let name = name.into_iter().find(|words| words.get(1) == Some(&"00000000"))?.first()?.to_string();
    let (_, numbers) = dev.lines().filter_map(|line| line.split_once(':')).find(|(its, _)| its.trim() == name)?;
    let numbers: Vec<u64> = numbers.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    Some((name, *numbers.first()?, *numbers.get(8)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        assert_eq!(cpu("cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1\n"), Duration::from_millis(1710));
        assert_eq!(memory("MemTotal: 100 kB\nMemFree: 5 kB\nMemAvailable:  40 kB\n"), (40_960, 102_400));
        let route = "Iface Destination Gateway\neth1 0000A8C0 0\neth0 00000000 0102A8C0\n";
        let dev = "h\nh\n eth1: 1 0 0 0 0 0 0 0 1\n  eth0: 100 2 0 0 0 0 0 0 50 3\n";
        assert_eq!(link(route, dev), Some(("eth0".to_owned(), 100, 50)));
        assert_eq!((cpu(""), memory(""), link("", "")), (Duration::ZERO, (0, 0), None));
    }
}
