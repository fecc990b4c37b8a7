//! Starting a process where it belongs from its first instruction: in its cgroup, its pid namespace, with its descriptors.
//!
//! Start at [`Spawn::start`]. The child of `clone3` makes system calls only, on memory prepared before, until `execve`: so it
//! may be called in any process, whatever its threads hold locked.
//!
//! Invariants:
//! * the new program has the descriptors it was given and no others;
//! * it starts with no signal blocked or ignored;
//! * an `execve` that fails is an error here, not an exit code there.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use crate::error::{Doing, Result};

/// Sources are first moved to numbers from here on, so that no target overwrites a source.
const SCRATCH_FD_MIN: RawFd = 100;

/// What the child says when a step before `execve` fails.
const EXIT_CODE_NOT_STARTED: i32 = 127;

/// A process to be started.
#[derive(Default)]
pub struct Spawn<'a> {
    /// The program, already open: a changed or deleted file makes no difference.
    pub program: Option<BorrowedFd<'a>>,
    /// Its arguments, the zeroth too.
    pub args: &'a [OsString],
    /// Its whole environment, as `NAME=value`.
    pub env: &'a [OsString],
    /// Descriptors and the numbers they get, from 0 up without gaps.
    pub fds: &'a [BorrowedFd<'a>],
    /// It becomes process 1 of a pid namespace of its own.
    pub new_pid_namespace: bool,
    /// It starts in this pid namespace (the caller's own or one below).
    pub pid_namespace: Option<BorrowedFd<'a>>,
    /// It starts in this cgroup (a folder of a version 2 hierarchy).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// It starts a session of its own.
    pub new_session: bool,
}

/// A started process.
#[derive(Debug)]
pub struct Started {
    /// Its pid, in the caller's namespace.
    pub pid: u32,
    /// It, for ever: a pid is used again, this is not.
    pub pidfd: OwnedFd,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Everything the child needs, laid out before it exists.
struct Plan {
    program: RawFd,
    args: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    fds: Vec<RawFd>,
    report: RawFd,
    new_session: bool,
}

impl Spawn<'_> {
    /// Starts it. Returns once the program runs, or could not be run.
    pub fn start(&self) -> Result<Started> {
        let name = self.args.first().map(|arg| arg.to_string_lossy().into_owned()).unwrap_or_default();
        self.start_quietly().doing(format_args!("start {name}"))
    }

    fn start_quietly(&self) -> io::Result<Started> {
        let program = self.program.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        let args = c_strings(self.args)?;
        let env = c_strings(self.env)?;
        let (report_reader, report_writer) = io::pipe()?;
        let plan = Plan {
            program: program.as_raw_fd(),
            args: pointers(&args),
            env: pointers(&env),
            fds: self.fds.iter().map(AsRawFd::as_raw_fd).collect(),
            report: report_writer.as_raw_fd(),
            new_session: self.new_session,
        };
        let own_namespace = match self.pid_namespace {
            Some(wanted) => {
                let own = File::open("/proc/thread-self/ns/pid")?;
                nix::sched::setns(wanted, nix::sched::CloneFlags::CLONE_NEWPID)?;
                Some(own)
            }
            None => None,
        };
        let cloned = self.clone_with(&plan);
        if let Some(own) = own_namespace {
            // Back to our own, where we came from a moment ago: nothing can refuse that.
            nix::sched::setns(&own, nix::sched::CloneFlags::CLONE_NEWPID)?;
        }
        let started = cloned?;
        drop(report_writer);
        let mut report = [0; 4];
        match { report_reader }.read(&mut report)? {
            0 => Ok(started),
            _ => {
                let _ = crate::process::wait(&started.pidfd);
                Err(io::Error::from_raw_os_error(i32::from_ne_bytes(report)))
            }
        }
    }

    fn clone_with(&self, plan: &Plan) -> io::Result<Started> {
        let mut pidfd: RawFd = -1;
        let mut clone = CloneArgs {
            flags: libc::CLONE_PIDFD as u64,
            pidfd: &raw mut pidfd as u64,
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArgs::default()
        };
        if self.new_pid_namespace {
            clone.flags |= libc::CLONE_NEWPID as u64;
        }
        if let Some(cgroup) = self.cgroup {
            clone.flags |= CLONE_INTO_CGROUP;
            clone.cgroup = cgroup.as_raw_fd() as u64;
        }
        // SAFETY: the arguments are a valid clone_args that lives through the call, without a stack: the child runs on a
        // copy of this one, and calls only `become_program`, which makes system calls alone and never returns.
        let answer = unsafe { libc::syscall(libc::SYS_clone3, &raw const clone, size_of::<CloneArgs>()) };
        match answer {
            -1 => Err(io::Error::last_os_error()),
            0 => become_program(plan),
            // SAFETY: the kernel gave us this descriptor just now, and nobody else knows it.
            pid => Ok(Started { pid: pid as u32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
        }
    }
}

/// The child: from here to `execve` only system calls, and nothing that allocates.
fn become_program(plan: &Plan) -> ! {
    // SAFETY: every call is a plain system call with descriptors and prepared, nul-ended pointers that outlive it.
    unsafe {
        let report = libc::fcntl(plan.report, libc::F_DUPFD_CLOEXEC, SCRATCH_FD_MIN);
        let fail = || -> ! {
            let code = *libc::__errno_location();
            libc::write(report, (&raw const code).cast(), 4);
            libc::_exit(EXIT_CODE_NOT_STARTED)
        };
        let program = libc::fcntl(plan.program, libc::F_DUPFD_CLOEXEC, SCRATCH_FD_MIN);
        if report < 0 || program < 0 || (plan.new_session && libc::setsid() < 0) {
            fail();
        }
        let count = plan.fds.len() as RawFd;
        let mut scratch = [0; FDS_MAX];
        for (index, fd) in plan.fds.iter().enumerate() {
            scratch[index] = libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, SCRATCH_FD_MIN);
        }
        for target in 0..count {
            if scratch[target as usize] < 0 || libc::dup2(scratch[target as usize], target) < 0 {
                fail();
            }
        }
        libc::syscall(libc::SYS_close_range, count as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let none: u64 = 0;
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, ptr::null::<u64>(), 8);
        let empty = c"".as_ptr();
        libc::syscall(libc::SYS_execveat, program, empty, plan.args.as_ptr(), plan.env.as_ptr(), libc::AT_EMPTY_PATH);
        fail()
    }
}

/// A started program gets at most so many descriptors.
pub const FDS_MAX: usize = 16;

fn c_strings(words: &[OsString]) -> io::Result<Vec<CString>> {
    let convert = |word: &OsString| CString::new(OsStr::as_bytes(word));
    words.iter().map(convert).collect::<std::result::Result<_, _>>().map_err(io::Error::from)
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|each| each.as_ptr()).chain([ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::process::{Exit, wait};

    fn shell(script: &str, new_pid_namespace: bool) -> (Exit, String) {
        let program = File::open("/bin/sh").expect("a shell");
        let null = File::open("/dev/null").expect("/dev/null");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let args = ["sh", "-c", script].map(OsString::from);
        let env = ["A=b".into()];
        let fds = [null.as_fd(), writer.as_fd(), writer.as_fd()];
        let program = Some(program.as_fd());
        let spawn = Spawn { program, args: &args, env: &env, fds: &fds, new_pid_namespace, ..Spawn::default() };
        let started = spawn.start().expect("started");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("its output");
        (wait(&started.pidfd).expect("its end"), text)
    }

    #[test]
    fn a_program_gets_its_environment_and_streams() {
        assert_eq!(shell("echo $A; exit 3", false), (Exit::Code(3), "b\n".to_owned()));
    }

    #[test]
    fn a_program_can_be_the_first_of_its_namespace() {
        assert_eq!(shell("echo $$", true), (Exit::Code(0), "1\n".to_owned()));
    }

    #[test]
    fn a_program_has_no_other_descriptors() {
        let (_, text) = shell("for f in /proc/self/fd/*; do echo ${f##*/}; done", false);
        // 3 is the shell's own, for reading the folder.
        assert!(text.split_whitespace().all(|number| number.parse::<u32>().is_ok_and(|n| n <= 3)), "{text}");
    }

    #[test]
    fn what_cannot_be_run_is_an_error() {
        let program = File::open("/etc/passwd").expect("a file");
        let args = ["x".into()];
        let error = Spawn { program: Some(program.as_fd()), args: &args, ..Spawn::default() }.start();
        assert_eq!(error.expect_err("not a program").errno(), Some(libc::EACCES));
    }
}
