//! Processes that are there: waiting, signals, identity, and what a process sets for itself.
//!
//! Start at [`Process`]: a pid with the time it started, which together name one process for ever on one boot.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::error::{Doing, Result};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this, 0 to 255.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// The code a shell would give: 128 + signal where a signal ended it.
    pub fn shell_code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

/// A process, by pid and start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid, in the namespace of `/proc`.
    pub pid: u32,
    /// When it started, in ticks since boot.
    pub start_ticks: u64,
}

impl Process {
    /// The process that has this pid now.
    pub fn of(pid: u32) -> Result<Process> {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).doing(format_args!("read {path}"))?;
        let malformed = || io::Error::other("the line ends early");
        let start_ticks = start_ticks(&text).ok_or_else(malformed).doing(format_args!("read {path}"))?;
        Ok(Process { pid, start_ticks })
    }

    /// Whether it is still there (a zombie is not).
    pub fn is_alive(self) -> bool {
        let state = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok();
        state.is_some_and(|text| start_ticks(&text) == Some(self.start_ticks) && !is_zombie(&text))
    }

    /// Opens it, if it is still the same.
    pub fn open(self) -> Result<OwnedFd> {
        let pidfd = pidfd_open(self.pid)?;
        // Looked at after opening: what we hold is what had this start time.
        if self.is_alive() {
            return Ok(pidfd);
        }
        Err(io::Error::from_raw_os_error(libc::ESRCH)).doing(format_args!("find process {}", self.pid))
    }
}

/// Field 22 of a `stat` line. The name in parentheses may hold anything, blanks and parentheses too.
fn start_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn is_zombie(stat: &str) -> bool {
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// Opens a process.
pub fn pidfd_open(pid: u32) -> Result<OwnedFd> {
    // SAFETY: a system call with two plain numbers.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match answer {
        -1 => Err(io::Error::last_os_error()).doing(format_args!("open process {pid}")),
        // SAFETY: the kernel gave us this descriptor just now, and nobody else knows it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    }
}

/// Sends a signal. To a process that has ended it is no error.
pub fn send_signal(pidfd: &impl AsFd, signal: i32) -> Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a system call with a valid descriptor and no signal information.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, none, 0) };
    match answer {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            gone if gone.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error).doing(format_args!("send signal {signal}")),
        },
    }
}

/// Waits for the end of a child of ours.
pub fn wait(pidfd: &impl AsFd) -> Result<Exit> {
    loop {
        match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
            Ok(status) => {
                if let Some(exit) = exit_of(status) {
                    return Ok(exit);
                }
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).doing("wait for a process"),
        }
    }
}

/// Waits until a process is gone, whoever its parent is; how it ended only its parent learns.
pub fn wait_gone(pidfd: &impl AsFd) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut wanted = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    while poll(&mut wanted, PollTimeout::NONE) == Err(Errno::EINTR) {}
}

/// The end of any child of ours that has ended, with its pid: a subreaper gets strangers too.
pub fn reap() -> Option<(u32, Exit)> {
    loop {
        match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Ok(status) => {
                let pid = status.pid()?.as_raw() as u32;
                if let Some(exit) = exit_of(status) {
                    return Some((pid, exit));
                }
            }
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// What [`reap`] would say, leaving the child unburied: who is killed before it has written that down leaves it to the next.
pub fn peek() -> Option<(u32, Exit)> {
    loop {
        match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) {
            Ok(status) => return Some((status.pid()?.as_raw() as u32, exit_of(status)?)),
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Buries a child of ours that has ended.
pub fn bury(pid: u32) {
    let child = nix::unistd::Pid::from_raw(pid as i32);
    while waitid(Id::Pid(child), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) == Err(Errno::EINTR) {}
}

/// Waits for the end of any child of ours; `None` if there is none.
pub fn wait_any() -> Option<(u32, Exit)> {
    loop {
        match waitid(Id::All, WaitPidFlag::WEXITED) {
            Ok(status) => {
                let pid = status.pid()?.as_raw() as u32;
                if let Some(exit) = exit_of(status) {
                    return Some((pid, exit));
                }
            }
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Waits until a child of ours ends, also one that becomes ours only later. For a process that does nothing else.
pub fn pause_for_child() {
    let mut wanted = nix::sys::signal::SigSet::empty();
    wanted.add(nix::sys::signal::Signal::SIGCHLD);
    // Blocked, the signal stays pending and is taken here; it cannot come between a look and the wait.
    let _ = wanted.thread_block();
    let _ = wanted.wait();
}

fn exit_of(status: WaitStatus) -> Option<Exit> {
    match status {
        WaitStatus::Exited(_, code) => Some(Exit::Code(code)),
        WaitStatus::Signaled(_, signal, _) => Some(Exit::Signal(signal as i32)),
        _ => None,
    }
}

/// The number of a signal by its name, with or without `SIG`, or by its number.
pub fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return if rest.is_empty() { Some(34) } else { Some(34 + rest.strip_prefix('+')?.parse::<i32>().ok()?) };
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return if rest.is_empty() { Some(64) } else { Some(64 - rest.strip_prefix('-')?.parse::<i32>().ok()?) };
    }
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

fn prctl(option: i32, argument: u64, action: &str) -> Result<()> {
    // SAFETY: called only with options whose arguments are plain numbers.
    let answer = unsafe { libc::prctl(option, argument as libc::c_ulong, 0, 0, 0) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()).doing(action) }
}

/// From now on, orphans below this process become its children.
pub fn become_subreaper() -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, "become a subreaper")
}

/// From now on, no program that this process runs gains rights by its file.
pub fn no_new_privileges() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "give up new privileges")
}

/// Hides this process from those that it is about to live among: they cannot trace it or open what it has open.
pub fn hide() -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, "become undumpable")
}

/// Keeps the capabilities through the change of user.
pub fn keep_capabilities() -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, "keep capabilities")
}

/// Kills this process when its parent's thread ends.
pub fn die_with_parent() -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, "die with the parent")
}

/// Names this process, as `ps` shows it.
pub fn set_name(name: &str) {
    let short: Vec<u8> = name.bytes().filter(|byte| *byte != 0).take(15).chain([0]).collect();
    // SAFETY: the pointer is to at most 16 bytes, nul-ended, that live through the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, short.as_ptr(), 0, 0, 0) };
}

/// How soon the kernel kills this process when memory ends: -1000 never, 1000 first. Where the machine lets us go no lower than
/// we are (that takes CAP_SYS_RESOURCE), it stays.
pub fn set_oom_score_adj(value: i64) -> Result<()> {
    let value = value.clamp(-1000, 1000);
    let written = fs::write("/proc/self/oom_score_adj", value.to_string());
    let forbidden = written.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
    // A pod that the kernel would kill somewhat sooner is better than none at all.
    if forbidden { Ok(()) } else { written.doing(format_args!("set oom_score_adj to {value}")) }
}

/// Becomes another user, with these groups and no others.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    let groups: Vec<nix::unistd::Gid> = groups.iter().copied().map(nix::unistd::Gid::from_raw).collect();
    nix::unistd::setgroups(&groups).doing("set the groups")?;
    let gid = nix::unistd::Gid::from_raw(gid);
    nix::unistd::setresgid(gid, gid, gid).doing(format_args!("become group {gid}"))?;
    let uid = nix::unistd::Uid::from_raw(uid);
    nix::unistd::setresuid(uid, uid, uid).doing(format_args!("become user {uid}"))
}

/// From now on a program run in place of this one gets its three streams alone, whatever else is open.
pub fn hand_on_streams_only() -> Result<()> {
    let (first, last) = (libc::STDERR_FILENO as libc::c_uint + 1, libc::c_uint::MAX);
    // SAFETY: plain numbers; nothing is closed before exec.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).doing("mark descriptors to be closed"),
    }
}

/// Runs a program in place of this one. Returns only on failure. Signals are as the kernel's default has them.
pub fn exec<S: AsRef<OsStr>>(program: &std::path::Path, args: &[S], env: &[S]) -> io::Error {
    let c_string = |text: &OsStr| CString::new(text.as_bytes());
    let strings =
        |words: &[S]| words.iter().map(|word| c_string(word.as_ref())).collect::<std::result::Result<Vec<_>, _>>();
    let (Ok(program), Ok(args), Ok(env)) = (c_string(program.as_os_str()), strings(args), strings(env)) else {
        return io::Error::new(io::ErrorKind::InvalidInput, "a word holds a nul byte");
    };
    // SAFETY: setting a signal back to its default runs no code of ours; Rust's start-up had ignored SIGPIPE.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    match nix::unistd::execve(&program, &args, &env) {
        Ok(never) => match never {},
        Err(errno) => errno.into(),
    }
}

/// Leaves the terminal and the session: the caller's parent returns when `ready` does, and the child goes on alone.
///
/// The answer is `Some(code)` in the parent, which then exits with it, and `None` in the child. Single-threaded callers
/// only; that is checked.
pub fn detach(ready: impl FnOnce() -> std::result::Result<(), String>) -> Result<Option<i32>> {
    let threads = fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    assert!(threads == 1, "only a process of one thread may fork and go on in Rust; this one has {threads}");
    let (reader, writer) = io::pipe().doing("make a pipe")?;
    // SAFETY: this process has one thread (checked above), so the child's copy of every lock and heap is consistent.
    match unsafe { nix::unistd::fork() }.doing("fork")? {
        nix::unistd::ForkResult::Parent { .. } => {
            drop(writer);
            let text = io::read_to_string(reader).doing("wait for the detached process")?;
            if text == "ready" {
                return Ok(Some(0));
            }
            eprintln!("{}", if text.is_empty() { "the detached process ended at once" } else { &text });
            Ok(Some(1))
        }
        nix::unistd::ForkResult::Child => {
            drop(reader);
            let said = nix::unistd::setsid().map(|_| ()).map_err(|errno| errno.to_string()).and_then(|()| ready());
            let text = said.as_ref().err().map_or("ready", String::as_str);
            let _ = io::Write::write_all(&mut { writer }, text.as_bytes());
            Ok(said.err().map(|_| 1))
        }
    }
}

/// Sets a limit of this process, by the name Docker and OCI use, such as `RLIMIT_NOFILE`.
pub fn set_limit(name: &str, soft: u64, hard: u64) -> Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    let resource = match name.to_ascii_uppercase().trim_start_matches("RLIMIT_") {
        "AS" => Resource::RLIMIT_AS,
        "CORE" => Resource::RLIMIT_CORE,
        "CPU" => Resource::RLIMIT_CPU,
        "DATA" => Resource::RLIMIT_DATA,
        "FSIZE" => Resource::RLIMIT_FSIZE,
        "MEMLOCK" => Resource::RLIMIT_MEMLOCK,
        "NOFILE" => Resource::RLIMIT_NOFILE,
        "NPROC" => Resource::RLIMIT_NPROC,
        "STACK" => Resource::RLIMIT_STACK,
        _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)).doing(format_args!("set limit {name}")),
    };
    setrlimit(resource, soft as libc::rlim_t, hard as libc::rlim_t).doing(format_args!("set limit {name} to {soft}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_pid_and_start() {
        let me = Process::of(std::process::id()).expect("this process");
        assert!(me.is_alive());
        assert!(me.open().is_ok());
        assert!(!Process { start_ticks: me.start_ticks + 1, ..me }.is_alive());
    }

    #[test]
    fn a_lower_oom_score_is_set_or_left_as_it_is() {
        let now = || fs::read_to_string("/proc/self/oom_score_adj").expect("a score").trim().to_owned();
        let before = now();
        set_oom_score_adj(-1).expect("both are fine");
        assert!(now() == "-1" || now() == before);
        set_oom_score_adj(before.parse().expect("a number")).expect("higher is always allowed");
    }

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let line = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 1 2 3 4 20 0 1 0 987 8 9";
        assert_eq!(start_ticks(line), Some(987));
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, number) in
            [("SIGTERM", Some(15)), ("quit", Some(3)), ("9", Some(9)), ("SIGRTMIN+3", Some(37)), ("X", None)]
        {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }
}
