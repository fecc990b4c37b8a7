//! Namespaces: making, entering and pinning them.
//!
//! Start at [`unshare`] in a helper of one thread, then [`pin`]: a bind mount of its file keeps a namespace without a process.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sched::CloneFlags;
pub use nix::sched::CloneFlags as Kinds;

use crate::error::{Doing, Result};
use crate::mounts;

/// Moves this process into new namespaces of these kinds.
pub fn unshare(kinds: Kinds) -> Result<()> {
    nix::sched::unshare(kinds).doing(format_args!("make namespaces {kinds:?}"))
}

/// Moves this process into the namespaces of `target`: a file of a namespace, or a pidfd, then of these kinds.
pub fn enter(target: &impl AsFd, kinds: Kinds) -> Result<()> {
    nix::sched::setns(target, kinds).doing(format_args!("enter namespaces {kinds:?}"))
}

/// Moves this process into the namespace pinned at `path`.
pub fn enter_pinned(path: &Path, kind: Kinds) -> Result<()> {
    let file = File::open(path).doing_to("open namespace", path)?;
    nix::sched::setns(&file, kind).doing_to("enter namespace", path)
}

/// Keeps this process's namespace (`net`, `ipc`, `uts`) at `path`, which is made.
pub fn pin(name: &str, path: &Path) -> Result<()> {
    File::create(path).doing_to("create", path)?;
    mounts::bind(Path::new(&format!("/proc/self/ns/{name}")), path)
}

/// Lets go of a pinned namespace. Nothing there is as good.
pub fn unpin(path: &Path) -> Result<()> {
    mounts::unmount(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        answer => answer.doing_to("remove", path),
    }
}

/// Whether a namespace is pinned at `path`; after a reboot only the empty file is there.
#[allow(clippy::unnecessary_cast)] // Its type differs between C libraries.
pub fn is_pinned(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type().0 as i64 == NSFS_MAGIC)
}

const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Names the host of this process's UTS namespace.
pub fn set_hostname(name: &str) -> Result<()> {
    nix::unistd::sethostname(OsStr::new(name)).doing(format_args!("set the host name to {name}"))
}

/// Sets a sysctl, written `net.ipv4.ip_forward` or `net/ipv4/ip_forward`, in this process's namespaces.
pub fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let safe = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    let refused = || io::Error::new(io::ErrorKind::InvalidInput, "the name is not one of a sysctl");
    let written = if safe { fs::write(Path::new("/proc/sys").join(&path), value) } else { Err(refused()) };
    written.doing(format_args!("set sysctl {name} to {value}"))
}

/// Brings up `lo` in this process's network namespace.
pub fn loopback_up() -> Result<()> {
    use std::os::fd::AsRawFd;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").doing("open a socket")?;
    // SAFETY: all bytes zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is a valid ifreq with a nul-ended name and lives through the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).doing("bring up lo"),
    }
}

/// The kinds a pod's sandbox may have of its own.
pub const SANDBOX_KINDS: [(&str, CloneFlags); 3] =
    [("net", CloneFlags::CLONE_NEWNET), ("ipc", CloneFlags::CLONE_NEWIPC), ("uts", CloneFlags::CLONE_NEWUTS)];
