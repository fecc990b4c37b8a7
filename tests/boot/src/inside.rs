//! What a machine tells of itself when it is looked at from inside: by a pod that sees all its processes.
//!
//! Start at [`Inside::enter`].

use std::fmt;
use std::path::{Path, PathBuf};

use workloads::User;

/// Prints the program, the proportional set size in KiB and the command line of each process that is ours.
const PROCESSES: &str = r#"
for process in /proc/[0-9]*; do
    program=$(readlink $process/exe) || continue
    case $program in
    */skerry | */skerry-init)
        pss=$(sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' $process/smaps_rollup)
        echo "$pss $(tr '\0' ' ' <$process/cmdline)" ;;
    esac
done"#;

/// Counts, from now on, the system calls that wait for a disk.
const COUNT_SYNCS: &str = r#"
mkdir -p /tmp/tracing && mount -t tracefs tracefs /tmp/tracing && mkdir -p /tmp/tracing/instances/syncs &&
for call in fsync fdatasync sync_file_range syncfs sync; do
    echo 1 >/tmp/tracing/instances/syncs/events/syscalls/sys_enter_$call/enable || exit 1
done
: >/tmp/tracing/instances/syncs/trace"#;
const SYNCS: &str = "grep -c sys_ /tmp/tracing/instances/syncs/trace || true";
/// The seventh number of a disk's statistics are the sectors written to it, of 512 bytes.
const SECTORS_WRITTEN: &str = "cat /sys/block/vda/stat";
/// Times of all processors since the boot, in hundredths of a second: user, nice, system, idle, …
const PROCESSOR: &str = "head -n 1 /proc/stat";

/// The fields of user and system time of the update service.
const UPDATE_SERVICE: &str = r#"
for process in /proc/[0-9]*; do
    if tr '\0' ' ' <$process/cmdline | grep -q '^/sbin/skerry-init update serve'; then
        cut -d ' ' -f 14,15 $process/stat
    fi
done"#;

/// A pod that looks.
pub struct Inside(User);

/// What our processes hold, in KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Of each process: proportional set size, and its command line.
    pub processes: Vec<(u64, String)>,
    /// Of files in memory: tmpfs and memfd.
    pub files: u64,
    /// What the whole machine has, and what of it is free to use.
    pub machine: (u64, u64),
}

impl Inside {
    /// Starts the pod, where it does not run yet.
    pub fn enter(user: &User) -> Inside {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("inside.yaml");
        Inside::enter_by(user, &format!("apply -f {}", manifest.display()))
    }

    /// Likewise, on this node; `manifest` is a file to write.
    pub fn enter_on(user: &User, node: &str, manifest: PathBuf) -> Inside {
        let text = include_str!("../inside.yaml").replace("spec:\n", &format!("spec:\n  nodeName: {node}\n"));
        std::fs::write(&manifest, text).expect("the manifest is written");
        Inside::enter_by(user, &format!("apply -f {}", manifest.display()))
    }

    fn enter_by(user: &User, apply: &str) -> Inside {
        user.must(apply);
        let inside = Inside(user.in_namespace("kube-system"));
        inside.0.must_become("--for=condition=Ready pod/inside", 60);
        inside
    }

    /// Leaves no trace.
    pub fn leave(self) {
        self.0.must("delete pod inside");
    }

    /// What our processes hold.
    pub fn memory(&self) -> Memory {
        let facts = self.says("cat /proc/meminfo");
        let fact = |name: &str| facts.lines().find_map(|line| line.strip_prefix(name)).map_or(0, first_number);
        let line = |line: &str| {
            let (pss, words) = line.split_once(' ')?;
            Some((pss.parse().ok()?, words.trim().to_owned()))
        };
        Memory {
            processes: self.says(PROCESSES).lines().filter_map(line).collect(),
            files: fact("Shmem:"),
            machine: (fact("MemTotal:"), fact("MemAvailable:")),
        }
    }

    /// Bytes written to the disk since the boot.
    pub fn bytes_written(&self) -> u64 {
        let said = self.says(SECTORS_WRITTEN);
        said.split_whitespace().nth(6).and_then(|sectors| sectors.parse::<u64>().ok()).expect("a disk's statistics")
            * 512
    }

    /// The machine's clock, in seconds since 1970.
    pub fn clock(&self) -> i64 {
        self.says("date +%s").trim().parse().expect("a time")
    }

    /// Sets it back by so many seconds; what it was.
    pub fn set_clock_back(&self, seconds: i64) -> i64 {
        let was = self.clock();
        self.says(&format!("date -s @{}", was - seconds));
        was
    }

    /// Begins to count the calls that wait for the disk.
    pub fn count_syncs(&self) {
        self.says(COUNT_SYNCS);
    }

    /// How many there were since then.
    pub fn syncs(&self) -> u64 {
        first_number(&self.says(SYNCS))
    }

    /// The part of one processor that was busy since the boot, in hundredths of a second, and all that passed of both.
    pub fn busy(&self) -> u64 {
        let said = self.says(PROCESSOR);
        let times: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        // Idle and waiting for the disk are the fourth and the fifth.
        times.iter().enumerate().filter(|(index, _)| ![3, 4].contains(index)).map(|(_, time)| time).sum()
    }

    /// The hundredths of a second that the update service has spent on a processor.
    pub fn update_service_busy(&self) -> u64 {
        self.says(UPDATE_SERVICE).split_whitespace().filter_map(|word| word.parse::<u64>().ok()).sum()
    }

    /// Runs a verb of `skerry-init update`, as somebody who stands before the board; whether it worked, and what it said.
    pub fn update(&self, words: &[&str]) -> (bool, String) {
        let program = ["exec", "inside", "--", "chroot", "/proc/1/root", "/sbin/skerry-init", "update"];
        self.0.kubectl_words(&[&program[..], words].concat())
    }

    fn says(&self, script: &str) -> String {
        let (ok, said) = self.0.kubectl_words(&["exec", "inside", "--", "sh", "-c", script]);
        assert!(ok, "the pod inside: {said}");
        said
    }
}

impl Memory {
    /// All that we hold, in MiB. What is mapped of a file in memory is counted twice, which errs to our disadvantage.
    pub fn ours(&self) -> f64 {
        self.in_processes() + self.files as f64 / 1024.0
    }

    /// What our processes hold without the files, in MiB.
    pub fn in_processes(&self) -> f64 {
        self.processes.iter().map(|(pss, _)| pss).sum::<u64>() as f64 / 1024.0
    }

    /// What of a board's `board_mib` nobody can use any more, in MiB: pods, kernel and what it never tells of included.
    pub fn of_board(&self, board_mib: u32) -> f64 {
        f64::from(board_mib) - self.machine.1 as f64 / 1024.0
    }

    fn tell(&self, out: &mut fmt::Formatter<'_>, promise: &str) -> fmt::Result {
        let mib = |kib: u64| kib as f64 / 1024.0;
        for (pss, words) in &self.processes {
            writeln!(out, "  {:>6.1} MiB  PSS of `{words}`", mib(*pss))?;
        }
        writeln!(out, "  {:>6.1} MiB  files in memory (tmpfs, memfd)", mib(self.files))?;
        writeln!(out, "  {:>6.1} MiB  together{promise}", self.ours())?;
        let (all, free) = self.machine;
        writeln!(out, "  {:>6.1} MiB  of {:.0} in use, pods and the kernel's own included", mib(all - free), mib(all))
    }

    /// Beside what was promised, in MiB.
    pub fn against(&self, promise: u32) -> Compared<'_> {
        Compared { memory: self, promise }
    }
}

/// What is held, beside what was promised in MiB.
pub struct Compared<'a> {
    memory: &'a Memory,
    promise: u32,
}

impl fmt::Display for Memory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tell(out, "")
    }
}

impl fmt::Display for Compared<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.memory.tell(out, &format!("; the promise is {}", self.promise))
    }
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_ours_is_added_up() {
        let processes = vec![(1024, "/bin/skerry server".to_owned()), (512, "/sbin/skerry-init".to_owned())];
        let memory = Memory { processes, files: 512, machine: (500 << 10, 400 << 10) };
        assert_eq!((memory.ours(), memory.in_processes(), memory.of_board(512)), (2.0, 1.5, 112.0));
        let told = memory.against(64).to_string();
        assert!(told.contains("2.0 MiB  together; the promise is 64\n   100.0 MiB  of 500 in use"), "{told}");
        assert_eq!(memory.to_string(), told.replace("; the promise is 64", ""));
    }
}
