//! Counts what makes a disk write at once: fsync and its kin, by the kernel's tracepoints of system calls.
//!
//! Start at [`Syncs::begin`]. Nothing is stopped or slowed, as it would be by ptrace.
//!
//! Invariants:
//! * only the processes named, and what they start, are counted;
//! * dropping it leaves the machine's tracing as it was.

use std::fs;
use std::path::{Path, PathBuf};

use sys::Doing;
use sys::mounts::{Flags, mount_at, unmount};

use crate::BenchError;

/// Where the kernel's tracing is mounted, if it is.
const TRACING: &str = "/sys/kernel/tracing";
/// The system calls that wait for a disk.
const CALLS: [&str; 5] = ["fsync", "fdatasync", "sync_file_range", "syncfs", "sync"];

/// A count under way.
pub struct Syncs {
    instance: PathBuf,
    /// Mounted by us.
    mounted: Option<tempfile::TempDir>,
}

impl Syncs {
    /// Counts the calls of these processes from now on.
    pub fn begin(processes: &[u32]) -> Result<Syncs, BenchError> {
        let mounted = if Path::new(TRACING).join("instances").is_dir() { None } else { Some(mounted()?) };
        let tracing = mounted.as_ref().map_or(Path::new(TRACING), tempfile::TempDir::path);
        let instance = tracing.join("instances").join(format!("skerry-bench-{}", std::process::id()));
        fs::create_dir(&instance).doing_to("make the trace", &instance)?;
        let syncs = Syncs { instance, mounted };
        let threads: Vec<String> = processes.iter().flat_map(|pid| threads(*pid)).collect();
        syncs.set("options/event-fork", "1")?;
        syncs.set("set_event_pid", &threads.join(" "))?;
        for call in CALLS {
            syncs.set(&format!("events/syscalls/sys_enter_{call}/enable"), "1")?;
        }
        Ok(syncs)
    }

    /// How many there were.
    pub fn count(&self) -> Result<usize, BenchError> {
        let trace = self.instance.join("trace");
        let text = fs::read_to_string(&trace).doing_to("read", &trace)?;
        Ok(text.lines().filter(|line| !line.starts_with('#')).count())
    }

    fn set(&self, file: &str, value: &str) -> Result<(), BenchError> {
        let path = self.instance.join(file);
        Ok(fs::write(&path, value).doing_to("write", &path)?)
    }
}

impl Drop for Syncs {
    fn drop(&mut self) {
        // An instance that stays behind costs a little memory until the next boot; there is nobody to tell.
        let _ = fs::remove_dir(&self.instance);
        if let Some(folder) = &self.mounted {
            let _ = unmount(folder.path());
        }
    }
}

fn mounted() -> Result<tempfile::TempDir, BenchError> {
    let folder = tempfile::tempdir().doing("make a folder for the kernel's tracing")?;
    mount_at("tracefs", folder.path(), Flags::empty(), "")?;
    Ok(folder)
}

fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| task.file_name().into_string().ok()).collect()
}
