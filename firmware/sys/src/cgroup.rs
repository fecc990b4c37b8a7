//! Control groups, version 2 only.
//!
//! Start at [`Hierarchy::find`] and [`Cgroup`]. A machine with version 1 hierarchies usually has no version 2 one that we
//! may use, or one without controllers: then we mount a bare one of our own, which still kills, freezes, tells and names.
//!
//! Invariants:
//! * creating what exists and removing what is gone succeed;
//! * a limit whose controller is missing is left out and never an error: [`Hierarchy::missing`] says it once.
//!
//! Not here: which limits a pod gets (`kubelet`, `runtime`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::error::{Doing, Result};

/// The controllers a node wants.
pub const CONTROLLERS_WANTED: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// Killing a cgroup empties it within this many steps of [`EMPTY_STEP`].
const EMPTY_STEPS_MAX: u32 = 500;
const EMPTY_STEP: Duration = Duration::from_millis(2);

/// A mounted version 2 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    root: PathBuf,
    controllers: Vec<String>,
}

impl Hierarchy {
    /// The machine's hierarchy where one is mounted, else one mounted at `own` now.
    pub fn find(own: &Path) -> Result<Hierarchy> {
        let table = fs::read_to_string("/proc/self/mountinfo").doing("read /proc/self/mountinfo")?;
        if let Some(root) = mounted_at(&table) {
            return Hierarchy::at(&root);
        }
        fs::create_dir_all(own).doing_to("create", own)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("cgroup2"), own, Some("cgroup2"), flags, None::<&str>).doing_to("mount cgroup2 on", own)?;
        Hierarchy::at(own)
    }

    /// The hierarchy mounted at `root`.
    pub fn at(root: &Path) -> Result<Hierarchy> {
        let path = root.join("cgroup.controllers");
        let text = fs::read_to_string(&path).doing_to("read", &path)?;
        let controllers = text.split_whitespace().map(str::to_owned).collect();
        Ok(Hierarchy { root: root.to_owned(), controllers })
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether limits of this kind (`memory`, `cpu`, …) can be set.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|each| each == controller)
    }

    /// Which of [`CONTROLLERS_WANTED`] this machine does not offer.
    pub fn missing(&self) -> Vec<&'static str> {
        CONTROLLERS_WANTED.into_iter().filter(|wanted| !self.has(wanted)).collect()
    }

    /// The cgroup at `path`, relative to the root; nothing is made.
    pub fn cgroup(&self, path: &str) -> Cgroup {
        Cgroup { hierarchy: self.clone(), path: path.trim_matches('/').to_owned() }
    }

    /// Where `pid` (of the caller's own pid namespace) is, relative to the root.
    pub fn of_process(&self, pid: u32) -> Result<Cgroup> {
        let file = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = fs::read_to_string(&file).doing_to("read", &file)?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        Ok(self.cgroup(path.trim_end_matches(" (deleted)")))
    }
}

/// The mount point of a version 2 hierarchy in the text of `/proc/self/mountinfo`; the whole hierarchy, not a part.
fn mounted_at(table: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(3);
        let (inner, target) = (fields.next()?, fields.next()?);
        (right.split(' ').next() == Some("cgroup2") && inner == "/")
            .then(|| PathBuf::from(target.replace("\\040", " ")))
    })
}

/// A control group, there or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    path: String,
}

/// Limits and weights; `None` leaves what is there. Values are the kernel's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `cpu.weight`, 1 to 10000.
    pub cpu_weight: Option<u64>,
    /// `cpu.max`: quota (`None` is `max`) and period, in microseconds.
    pub cpu_max: Option<(Option<u64>, u64)>,
    /// `memory.max` in bytes; `Some(None)` is `max`.
    pub memory_max: Option<Option<u64>>,
    /// `memory.min` in bytes.
    pub memory_min: Option<u64>,
    /// `pids.max`; `Some(None)` is `max`.
    pub pids_max: Option<Option<u64>>,
    /// `memory.oom.group`: the kernel ends all processes together.
    pub oom_group: Option<bool>,
}

/// What a cgroup counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// `usage_usec` of `cpu.stat`.
    pub cpu: Duration,
    /// `memory.current`; `None` where the controller is missing.
    pub memory_bytes: Option<u64>,
    /// `memory.current` less `inactive_file`.
    pub memory_working_set_bytes: Option<u64>,
    /// Processes in it and below.
    pub pids: u64,
    /// `oom_kill` of `memory.events`.
    pub oom_kills: u64,
}

impl Cgroup {
    /// Relative to the hierarchy's root, without slashes at the ends; empty is the root itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its folder in the file system.
    pub fn folder(&self) -> PathBuf {
        self.hierarchy.root.join(&self.path)
    }

    /// The cgroup `name` below this one.
    pub fn child(&self, name: &str) -> Cgroup {
        self.hierarchy.cgroup(&format!("{}/{name}", self.path))
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.folder().join("cgroup.procs").exists()
    }

    /// Makes it and all above it, and hands down every controller that is there.
    pub fn create(&self) -> Result<()> {
        let mut folder = self.hierarchy.root.clone();
        self.hand_down(&folder);
        let mut parts = self.path.split('/').filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            folder.push(part);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).doing_to("create cgroup", &folder);
                }
                _ if parts.peek().is_some() => self.hand_down(&folder),
                _ => {}
            }
        }
        Ok(())
    }

    /// Enables the controllers for what is below `folder`. One at a time, as one refusal refuses all of a write; a
    /// controller that cannot be enabled shows as a missing limit, which the node says in a condition.
    fn hand_down(&self, folder: &Path) {
        for controller in CONTROLLERS_WANTED.iter().filter(|wanted| self.hierarchy.has(wanted)) {
            let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }

    /// A descriptor of its folder, for `spawn` to start a process in it.
    pub fn open(&self) -> Result<File> {
        let folder = self.folder();
        File::open(&folder).doing_to("open cgroup", &folder)
    }

    /// Moves a process into it.
    pub fn add(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// The processes in it, not those below.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let text = self.read("cgroup.procs")?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Whether a process is in it or below.
    pub fn is_populated(&self) -> bool {
        self.read("cgroup.events").is_ok_and(|text| fields(&text).get("populated") == Some(&1))
    }

    /// Kills every process in it and below. Gone is as good.
    pub fn kill(&self) -> Result<()> {
        match self.write("cgroup.kill", "1") {
            Err(error) if error.is_not_found() && !self.exists() => Ok(()),
            answer => answer,
        }
    }

    /// Stops or continues every process in it and below.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    /// Sets limits; those whose controller is missing are left out.
    pub fn limit(&self, limits: &Limits) -> Result<()> {
        let bound = |value: Option<u64>| value.map_or("max".to_owned(), |value| value.to_string());
        if let Some(weight) = limits.cpu_weight {
            self.set("cpu.weight", &weight.clamp(1, 10_000).to_string())?;
        }
        if let Some((quota, period)) = limits.cpu_max {
            self.set("cpu.max", &format!("{} {period}", bound(quota)))?;
        }
        if let Some(min) = limits.memory_min {
            self.set("memory.min", &min.to_string())?;
        }
        if let Some(max) = limits.memory_max {
            self.set("memory.max", &bound(max))?;
        }
        if let Some(together) = limits.oom_group {
            self.set("memory.oom.group", if together { "1" } else { "0" })?;
        }
        if let Some(max) = limits.pids_max {
            self.set("pids.max", &bound(max))?;
        }
        Ok(())
    }

    /// What it counted.
    pub fn counters(&self) -> Result<Counters> {
        let cpu = self.read("cpu.stat")?;
        let number = |file: &str| self.read(file).ok().and_then(|text| text.trim().parse().ok());
        let memory_bytes: Option<u64> = number("memory.current");
        let inactive = self.read("memory.stat").ok().and_then(|text| fields(&text).get("inactive_file").copied());
        let counted: Option<u64> = number("pids.current");
        let pids = counted.unwrap_or_else(|| self.count_processes());
        Ok(Counters {
            cpu: Duration::from_micros(fields(&cpu).get("usage_usec").copied().unwrap_or(0)),
            memory_bytes,
            memory_working_set_bytes: memory_bytes.map(|all| all.saturating_sub(inactive.unwrap_or(0))),
            pids,
            oom_kills: self.oom_kills(),
        })
    }

    /// How many processes the kernel killed in it for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.read("memory.events").ok().and_then(|text| fields(&text).get("oom_kill").copied()).unwrap_or(0)
    }

    /// The folder's children.
    pub fn children(&self) -> Vec<Cgroup> {
        let Ok(entries) = fs::read_dir(self.folder()) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names.iter().map(|name| self.child(name)).collect()
    }

    /// Waits until no process is left in it, for about a second.
    pub fn wait_empty(&self) -> bool {
        for _ in 0..EMPTY_STEPS_MAX {
            if !self.is_populated() {
                return true;
            }
            thread::sleep(EMPTY_STEP);
        }
        false
    }

    /// Kills what is in it and removes it with all below. Gone is as good.
    pub fn remove(&self) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        if self.is_populated() {
            self.kill()?;
            self.wait_empty();
        }
        for child in self.children() {
            child.remove()?;
        }
        let folder = self.folder();
        match fs::remove_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            answer => answer.doing_to("remove cgroup", &folder),
        }
    }

    fn count_processes(&self) -> u64 {
        let below: u64 = self.children().iter().map(Cgroup::count_processes).sum();
        below + self.processes().map_or(0, |pids| pids.len() as u64)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        if !self.folder().join(file).exists() {
            return Ok(());
        }
        self.write(file, value)
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.folder().join(file);
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut opened| io::Write::write_all(&mut opened, value.as_bytes()))
            .doing(format_args!("write {value} to {}", path.display()))
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.folder().join(file);
        fs::read_to_string(&path).doing_to("read", &path)
    }
}

/// Lines of `name number`.
fn fields(text: &str) -> BTreeMap<&str, u64> {
    text.lines().filter_map(|line| line.split_once(' ')).filter_map(|(name, n)| Some((name, n.parse().ok()?))).collect()
}

/// `cpu.weight` for CPU shares (the words of version 1): 1024 shares, one core's worth, become the kernel's default 100.
///
/// The curve is the one container runtimes agreed on in 2025 (opencontainers/cgroups v0.0.3): a quadratic in the logarithm
/// that meets (2, 1), (1024, 100) and (262144, 10000).
pub fn cpu_weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_whole_hierarchy_and_not_a_part() {
        let table = "40 31 0:38 /part /elsewhere rw - cgroup2 cgroup2 rw\n41 31 0:38 / /sys/fs/cgroup/unified rw,relatime \
                     shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted_at(table), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mounted_at("30 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
    }

    #[test]
    fn shares_become_weights() {
        for (shares, weight) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (1_000_000, 10_000)] {
            assert_eq!(cpu_weight_of_shares(shares), weight, "{shares}");
        }
    }

    #[test]
    fn a_group_is_made_counted_and_removed() {
        let hierarchy = Hierarchy::find(Path::new("/run/skerry/cgroup")).expect("a hierarchy");
        let top = hierarchy.cgroup(&format!("skerry-test-cgroup-{}", std::process::id()));
        let group = top.child("a").child("b");
        group.create().expect("made");
        group.create().expect("made again");
        assert!(group.exists() && !group.is_populated());
        let limits = Limits { pids_max: Some(Some(10)), cpu_weight: Some(50), ..Limits::default() };
        group.limit(&limits).expect("limits are set or left out");
        assert_eq!(group.counters().expect("counters").pids, 0);
        group.kill().expect("an empty group can be killed");
        top.remove().expect("removed");
        top.remove().expect("removed again");
        assert!(!top.exists());
    }
}
