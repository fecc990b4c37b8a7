//! What a container uses: its cgroup's counters, and what only its processes can tell.
//!
//! Start at [`stats`]. Where the kernel's hierarchy lacks a controller (a machine with cgroup v1), memory and disk are those of
//! the processes that live now.

use std::fs;
use std::path::Path;

use base::Bytes;
use sys::cgroup::{Cgroup, Counters};

use crate::Stats;

/// Pages of `statm`; both of our architectures have these.
const PAGE_BYTES: u64 = 4096;

/// What the container in this cgroup uses.
pub(crate) fn stats(cgroup: &Cgroup, counters: &Counters) -> Stats {
    let processes = cgroup.processes().unwrap_or_default();
    let each = |file: &str, read: fn(&str) -> Option<(u64, u64)>| {
        let texts = processes
            .iter()
            .filter_map(|pid| fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(file)).ok());
        texts.filter_map(|text| read(&text)).reduce(|sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    let resident = || each("statm", |text| Some((text.split(' ').nth(1)?.parse::<u64>().ok()? * PAGE_BYTES, 0)));
    let pair = |(one, two)| (Bytes(one), Bytes(two));
    let counted = fs::read_to_string(cgroup.folder().join("io.stat")).ok().map(|text| io_stat(&text));
    // All of a pod's processes see the same links.
    let links = processes.first().and_then(|pid| fs::read_to_string(format!("/proc/{pid}/net/dev")).ok());
    Stats {
        cpu: counters.cpu,
        memory_working_set: counters.memory_working_set_bytes.or_else(|| resident().map(|(bytes, _)| bytes)).map(Bytes),
        pids: counters.pids,
        network: links.map(|text| pair(net_dev(&text))),
        disk: counted.or_else(|| each("io", proc_io)).map(pair),
    }
}

/// Bytes received and sent by all links but the loopback, of `/proc/PID/net/dev`.
fn net_dev(text: &str) -> (u64, u64) {
    let links = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    let counted = links.filter_map(|(_, numbers)| {
        let mut numbers = numbers.split_whitespace();
        Some((numbers.next()?.parse::<u64>().ok()?, numbers.nth(7)?.parse::<u64>().ok()?))
    });
    counted.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// Bytes read and written on all disks, of `io.stat`.
fn io_stat(text: &str) -> (u64, u64) {
    let sum = |key: &str| text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum();
    (sum("rbytes="), sum("wbytes="))
}

/// The same of one process, of `/proc/PID/io`.
fn proc_io(text: &str) -> Option<(u64, u64)> {
    let number = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    Some((number("read_bytes:")?, number("write_bytes:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let links = "Inter-|   Receive |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n\
                     lo: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n  eth0:100 2 0 0 0 0 0 0 50 3 0 0 0 0 0 0\n";
        assert_eq!(net_dev(links), (100, 50));
        assert_eq!(io_stat("8:0 rbytes=5 wbytes=6 rios=1 wios=1\n179:0 rbytes=10 wbytes=20\n"), (15, 26));
        assert_eq!(
            proc_io("rchar: 1\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 0\n"),
            Some((4096, 8192))
        );
        assert_eq!((net_dev(""), io_stat(""), proc_io("")), ((0, 0), (0, 0), None));
    }
}
