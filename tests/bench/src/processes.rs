//! What our processes use.
//!
//! Start at [`of`], which finds them, then [`Usage::of`].
//!
//! Not here: fsyncs (`syncs.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use base::Bytes;
use sys::Doing;

use crate::BenchError;

/// `/proc/PID/stat` counts processor time in hundredths of a second on every Linux.
const TICK: Duration = Duration::from_millis(10);
/// Blocks of `stat` are of this size, whatever the file system's are.
const STAT_BLOCK: u64 = 512;

/// What some processes use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory, shared pages in proportion.
    pub pss: Bytes,
    /// Memory of files without a name.
    pub memfd: Bytes,
    /// Processor time since each began.
    pub cpu: Duration,
    /// Bytes made to be written to a disk since each began.
    pub written: Bytes,
}

/// The processes that run `program` in this thread's network namespace: the server, the keeper, helpers. Pods are in
/// namespaces, and run programs, of their own.
pub fn of(program: &Path) -> Result<Vec<u32>, BenchError> {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).ok();
    let ours = namespace("thread-self");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").doing("list processes")? {
        let name = entry.doing("list processes")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let runs = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
        if runs && namespace(&pid.to_string()) == ours {
            found.push(pid);
        }
    }
    Ok(found)
}

impl Usage {
    /// The sum over `processes`; one that has ended counts nothing.
    pub fn of(processes: &[u32]) -> Usage {
        let mut usage = Usage::default();
        let mut memfds = BTreeMap::new();
        for pid in processes {
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            usage.pss.0 += field(&read("smaps_rollup"), "Pss:") * 1024;
            usage.written.0 += field(&read("io"), "write_bytes:");
            usage.cpu += TICK * cpu_ticks(&read("stat"));
            memfds.extend(unnamed_files(*pid));
        }
        usage.memfd = Bytes(memfds.values().sum());
        usage
    }
}

/// What the in-memory file systems below `folder` hold.
pub fn tmpfs(folder: &Path) -> Result<Bytes, BenchError> {
    let mounts = fs::read_to_string("/proc/self/mounts").doing("read this machine's mounts")?;
    let mut held = 0;
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(at), Some("tmpfs")) = (words.next(), words.next()) else { continue };
        if Path::new(at).starts_with(folder) {
            held += tree_bytes(Path::new(at));
        }
    }
    Ok(Bytes(held))
}

fn tree_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => tree_bytes(&entry.path()),
        Ok(found) => found.blocks() * STAT_BLOCK,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// The `memfd` files a process holds, by inode: several may hold the same.
fn unnamed_files(pid: u32) -> Vec<(u64, u64)> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let unnamed = |path: &Path| fs::read_link(path).is_ok_and(|target| is_memfd(&target));
    descriptors
        .map(|entry| entry.path())
        .filter(|path| unnamed(path))
        .filter_map(|path| fs::metadata(path).ok())
        .map(|file| (file.ino(), file.blocks() * STAT_BLOCK))
        .collect()
}

fn is_memfd(target: &Path) -> bool {
    target.to_string_lossy().starts_with("/memfd:")
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// User and system time. The second field is a name in parentheses that may hold anything.
fn cpu_ticks(stat: &str) -> u32 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_whitespace().skip(11).take(2).filter_map(|number| number.parse::<u32>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_prints() {
        assert_eq!(field("Rss: 9 kB\nPss:    37 kB\n", "Pss:"), 37);
        assert_eq!(field("rchar: 1\nwrite_bytes: 4096\n", "write_bytes:"), 4096);
        assert_eq!(field("", "Pss:"), 0);
        assert_eq!(cpu_ticks("7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 12 30 0 0 20 0"), 42);
    }

    #[test]
    fn finds_itself() {
        let program = std::env::current_exe().expect("a program");
        let found = of(&program).expect("processes");
        assert!(found.contains(&std::process::id()), "{found:?}");
        assert!(Usage::of(&[std::process::id()]).pss > Bytes(100 << 10));
    }
}
