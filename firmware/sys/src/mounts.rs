//! Mounts, made apart from the tree and then hung into it.
//!
//! Start at [`Tree`]: a file system or a copy of a part of the tree that hangs nowhere yet. It is given its attributes first,
//! so nobody ever sees it with more rights than it ends with.
//!
//! Not here: what a container sees (`runtime`).

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub use nix::mount::MsFlags as Flags;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{Doing, Result};

/// A mounted tree that hangs nowhere yet.
#[derive(Debug)]
pub struct Tree(OwnedFd);

/// Attributes of a mount, as bits of `MOUNT_ATTR_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub u64);

impl Attributes {
    /// No writes.
    pub const READONLY: Attributes = Attributes(0x1);
    /// No set-user-id programs.
    pub const NOSUID: Attributes = Attributes(0x2);
    /// No device nodes.
    pub const NODEV: Attributes = Attributes(0x4);
    /// No programs.
    pub const NOEXEC: Attributes = Attributes(0x8);
    /// Reading leaves access times alone.
    pub const NOATIME: Attributes = Attributes(0x10);
    /// So does reading folders.
    pub const NODIRATIME: Attributes = Attributes(0x80);

    /// Both.
    pub const fn and(self, other: Attributes) -> Attributes {
        Attributes(self.0 | other.0)
    }
    /// `other` if so.
    pub const fn and_if(self, condition: bool, other: Attributes) -> Attributes {
        if condition { self.and(other) } else { self }
    }
}

/// How mounts and unmounts spread between copies of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Neither way.
    Private,
    /// From the original to the copy.
    Slave,
    /// Both ways.
    Shared,
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const OPEN_TREE_CLONE: u32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;

/// The kernel's answer to a call that gives a descriptor.
fn descriptor(answer: i64) -> io::Result<OwnedFd> {
    match answer {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel gave us this descriptor just now, and nobody else knows it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    }
}

fn done(answer: i64) -> io::Result<()> {
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

impl Tree {
    /// A new file system, such as `tmpfs` with `[("size", "64k"), ("mode", "755")]`; an empty value is a flag.
    pub fn new(kind: &str, options: &[(&str, &str)], attributes: Attributes) -> Result<Tree> {
        Tree::make(kind, kind, options, attributes).map(Tree).doing(format_args!("make a {kind}"))
    }

    /// The file system of this kind that `source` names, such as `10.0.0.9:/srv` for `nfs`. A word of the kernel about what it
    /// refuses is part of the error; [`errno`] tells the number.
    pub fn of_source(kind: &str, source: &str, options: &[(&str, &str)], attributes: Attributes) -> Result<Tree> {
        Tree::make(kind, source, options, attributes).map(Tree).doing(format_args!("mount {source}"))
    }

    fn make(kind: &str, source: &str, options: &[(&str, &str)], attributes: Attributes) -> io::Result<OwnedFd> {
        let kind = CString::new(kind)?;
        // SAFETY: a system call with a nul-ended string that lives through it.
        let context = descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1) })?;
        let source = CString::new(source)?;
        config(&context, FSCONFIG_SET_STRING, Some(c"source"), Some(&source))?;
        for (name, value) in options {
            let (name, text) = (CString::new(*name)?, CString::new(*value)?);
            let (verb, text) =
                if value.is_empty() { (FSCONFIG_SET_FLAG, None) } else { (FSCONFIG_SET_STRING, Some(&text)) };
            config(&context, verb, Some(&name), text.map(|text| text.as_c_str()))
                .map_err(|error| told(&context, error))?;
        }
        config(&context, FSCONFIG_CMD_CREATE, None, None).map_err(|error| told(&context, error))?;
        // SAFETY: a system call with a valid descriptor and plain numbers.
        descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, attributes.0) })
    }

    /// A copy of what is at `path`, with what is mounted below it if `recursive`.
    pub fn copy_of(path: &Path, recursive: bool) -> Result<Tree> {
        let copy = || {
            let flags =
                OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | if recursive { libc::AT_RECURSIVE as u32 } else { 0 };
            let path = c_path(path)?;
            // SAFETY: a system call with a nul-ended string that lives through it.
            descriptor(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
        };
        copy().map(Tree).doing_to("copy the mount of", path)
    }

    /// Sets attributes, on all below too if `recursive`.
    pub fn set(&self, attributes: Attributes, recursive: bool) -> Result<()> {
        self.change(attributes.0, 0, recursive).doing("set the attributes of a mount")
    }

    /// Sets how mounts spread, on all below too.
    pub fn propagate(&self, propagation: Propagation) -> Result<()> {
        let flag = match propagation {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => libc::MS_SHARED,
        };
        self.change(0, flag, true).doing("set the propagation of a mount")
    }

    fn change(&self, attr_set: u64, propagation: u64, recursive: bool) -> io::Result<()> {
        let change = MountAttr { attr_set, attr_clr: 0, propagation, userns_fd: 0 };
        let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
        // SAFETY: a system call with a valid descriptor, a nul-ended string and a mount_attr of the size said.
        done(unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                flags,
                &raw const change,
                size_of::<MountAttr>(),
            )
        })
    }

    /// Hangs it over what `target` is.
    pub fn hang(&self, target: BorrowedFd<'_>) -> Result<()> {
        let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
        let empty = c"".as_ptr();
        // SAFETY: a system call with two valid descriptors and nul-ended strings.
        done(unsafe {
            libc::syscall(libc::SYS_move_mount, self.0.as_raw_fd(), empty, target.as_raw_fd(), empty, flags)
        })
        .doing("hang a mount into the tree")
    }

    /// Hangs it over what is at `target`.
    pub fn hang_at(&self, target: &Path) -> Result<()> {
        let place =
            fs::OpenOptions::new().read(true).custom_flags_path().open(target).doing_to("open mount point", target)?;
        self.hang(place.as_fd())
            .map_err(|error| crate::SysError { action: format!("mount on {}", target.display()), source: error.source })
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `O_PATH` for `OpenOptions`.
trait PathOnly {
    fn custom_flags_path(&mut self) -> &mut Self;
}
impl PathOnly for fs::OpenOptions {
    fn custom_flags_path(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt;
        self.custom_flags(libc::O_PATH)
    }
}

fn config(
    context: &OwnedFd,
    verb: u32,
    name: Option<&std::ffi::CStr>,
    value: Option<&std::ffi::CStr>,
) -> io::Result<()> {
    let pointer = |text: Option<&std::ffi::CStr>| text.map_or(std::ptr::null(), |text| text.as_ptr());
    // SAFETY: a system call with a valid descriptor and nul-ended strings (or none) that live through it.
    done(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), verb, pointer(name), pointer(value), 0) })
}

/// The kernel writes the reason in words to the context; without it most causes read "invalid argument".
fn told(context: &OwnedFd, error: io::Error) -> io::Error {
    let mut text = [0; 512];
    match nix::unistd::read(context, &mut text) {
        Ok(length) if length > 2 => {
            let words = String::from_utf8_lossy(&text[2..length]).trim().to_owned();
            io::Error::new(error.kind(), Told { words, error })
        }
        _ => error,
    }
}

/// What the kernel said about an error, and the error.
#[derive(Debug)]
struct Told {
    words: String,
    error: io::Error,
}

impl std::fmt::Display for Told {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} ({})", self.words, self.error)
    }
}

impl std::error::Error for Told {}

/// The kernel's number of an error, whether or not it said something about it.
pub fn errno(error: &io::Error) -> Option<i32> {
    let told = error.get_ref().and_then(|inner| inner.downcast_ref::<Told>());
    error.raw_os_error().or_else(|| told?.error.raw_os_error())
}

/// Sets attributes of the mount that `path` lies on top of, in place.
pub fn set_attributes(path: &Path, attributes: Attributes, recursive: bool) -> Result<()> {
    let place = fs::OpenOptions::new().read(true).custom_flags_path().open(path).doing_to("open mount point", path)?;
    Tree(place.into()).set(attributes, recursive)
}

/// Makes a bind mount of `source` at `target`.
pub fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).doing(format_args!(
        "bind {} to {}",
        source.display(),
        target.display()
    ))
}

/// Mounts a file system the old way.
pub fn mount_at(kind: &str, target: &Path, flags: MsFlags, options: &str) -> Result<()> {
    mount(Some(kind), target, Some(kind), flags, Some(options))
        .doing(format_args!("mount {kind} on {}", target.display()))
}

/// Sets how mounts spread at `path` and below.
pub fn propagate(path: &Path, propagation: Propagation) -> Result<()> {
    let flag = match propagation {
        Propagation::Private => MsFlags::MS_PRIVATE,
        Propagation::Slave => MsFlags::MS_SLAVE,
        Propagation::Shared => MsFlags::MS_SHARED,
    };
    mount(None::<&str>, path, None::<&str>, flag | MsFlags::MS_REC, None::<&str>)
        .doing_to("set the mount propagation of", path)
}

/// Takes away what is mounted at `path`, all layers of it, at once or when it is no longer used. Nothing there is as good.
pub fn unmount(path: &Path) -> Result<()> {
    for _ in 0..UNMOUNT_LAYERS_MAX {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno).doing_to("unmount", path),
        }
    }
    Ok(())
}

/// The same for a file system whose server does not answer: what waits for it is given up first.
pub fn unmount_by_force(path: &Path) -> Result<()> {
    // Refused where there is nothing to give up; taking the mount away is what counts.
    let _ = umount2(path, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW);
    unmount(path)
}

/// Fails whatever waits for the file system mounted at `path`, whoever waits and by whichever mount of it, and leaves it mounted.
/// For a process of one thread that ends soon: it gets mounts of its own.
pub fn fail_waiting(path: &Path) -> Result<()> {
    crate::namespace::unshare(crate::namespace::Kinds::CLONE_NEWNS)?;
    propagate(Path::new("/"), Propagation::Private)?;
    // What waits is given up first, and only then is this copy of the mount taken away, or not because it is used.
    match umount2(path, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EBUSY) => Ok(()),
        Err(errno) => Err(errno).doing_to("give up what waits for", path),
    }
}

/// Takes away what is mounted at `path` once all of it is written; refused while somebody uses it.
pub fn unmount_whole(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno).doing_to("unmount", path),
    }
}

/// More mounts on one point than this are somebody's loop.
const UNMOUNT_LAYERS_MAX: u32 = 64;

/// Makes `root` the root of this mount namespace and lets go of the old one.
pub fn become_root(root: &Path) -> Result<()> {
    nix::unistd::chdir(root).doing_to("enter", root)?;
    nix::unistd::pivot_root(".", ".").doing_to("make the root", root)?;
    umount2(".", MntFlags::MNT_DETACH).doing("let go of the old root")?;
    nix::unistd::chdir("/").doing("enter /")
}

/// Where something is mounted at or below `folder`, deepest first.
pub fn mounted_below(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(kinds_below(folder)?.into_iter().map(|(path, _)| path).collect())
}

/// The same, with the kind of each file system, such as `nfs4`. Asks the kernel's list alone, never the file systems.
pub fn kinds_below(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let below = list()?.into_iter().filter(|mount| mount.target.starts_with(folder));
    let mut found: Vec<(PathBuf, String)> = below.map(|mount| (mount.target, mount.kind)).collect();
    found.reverse();
    Ok(found)
}

/// Whether a file system of this kind lies with a file server, who may not answer.
pub fn is_remote(kind: &str) -> bool {
    matches!(kind, "nfs" | "nfs4")
}

/// A mount as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its file system, as `major:minor`: mounts with the same share it.
    pub device: String,
    /// Where.
    pub target: PathBuf,
    /// The kind of file system, such as `nfs4`.
    pub kind: String,
    /// What of, such as `10.0.0.9:/srv`.
    pub source: String,
}

/// Everything that is mounted, in the kernel's order. Asks no file system.
pub fn list() -> Result<Vec<Listed>> {
    let text = fs::read_to_string("/proc/self/mountinfo").doing("read /proc/self/mountinfo")?;
    Ok(text.lines().filter_map(listed).collect())
}

/// One line of mountinfo.
fn listed(line: &str) -> Option<Listed> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(2);
    let (device, target) = (mount.next()?.to_owned(), unescape(mount.nth(1)?));
    let mut file_system = file_system.split(' ');
    let (kind, source) = (file_system.next()?.to_owned(), file_system.next()?);
    Some(Listed { device, target, kind, source: unescape(source).to_string_lossy().into_owned() })
}

/// Whether `path` lies on a mount that spreads both ways.
pub fn is_shared(path: &Path) -> Result<bool> {
    let text = fs::read_to_string("/proc/self/mountinfo").doing("read /proc/self/mountinfo")?;
    let best = text
        .lines()
        .filter_map(|line| {
            let target = unescape(line.split(' ').nth(4)?);
            path.starts_with(&target).then(|| (target.components().count(), line.contains(" shared:")))
        })
        .max_by_key(|(depth, _)| *depth);
    Ok(best.is_some_and(|(_, shared)| shared))
}

/// mountinfo writes blanks, tabs, newlines and backslashes as `\` and three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_unescaped() {
        assert_eq!(unescape("/a\\040b\\134c"), PathBuf::from("/a b\\c"));
    }

    #[test]
    fn a_tree_is_made_and_hung_and_taken_away() {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = Tree::new("tmpfs", &[("size", "64k"), ("mode", "700")], Attributes::NODEV).expect("a tmpfs");
        tree.set(Attributes::NOEXEC, false).expect("attributes");
        tree.hang_at(folder.path()).expect("hung");
        let listed = kinds_below(folder.path()).expect("a list");
        assert_eq!(listed, [(folder.path().to_owned(), "tmpfs".to_owned())]);
        unmount(folder.path()).expect("unmounted");
        unmount(folder.path()).expect("unmounted again");
        assert!(mounted_below(folder.path()).expect("a list").is_empty());
    }

    #[test]
    fn a_line_of_the_list_is_read() {
        let line = "99 30 0:53 /a /pods/u/v\\040w rw,noatime shared:9 master:1 - nfs4 10.0.0.9:/srv/a rw,vers=4.1";
        let wanted = Listed {
            device: "0:53".to_owned(),
            target: "/pods/u/v w".into(),
            kind: "nfs4".to_owned(),
            source: "10.0.0.9:/srv/a".to_owned(),
        };
        assert_eq!(listed(line), Some(wanted));
        assert_eq!(listed("99 30 0:53 /a"), None);
    }

    #[test]
    fn giving_up_what_waits_leaves_the_mount() {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = Tree::new("tmpfs", &[("size", "64k")], Attributes::NODEV).expect("a tmpfs");
        tree.hang_at(folder.path()).expect("hung");
        let path = folder.path().to_owned();
        // The mounts of its own go with the thread.
        std::thread::spawn(move || fail_waiting(&path)).join().expect("it ends").expect("given up");
        assert_eq!(mounted_below(folder.path()).expect("a list"), [folder.path()]);
        let other = folder.path().join("none");
        let refused = std::thread::spawn(move || fail_waiting(&other)).join().expect("it ends");
        assert_eq!(refused.expect_err("nothing there").source.raw_os_error(), Some(libc::ENOENT));
        unmount(folder.path()).expect("unmounted");
    }

    #[test]
    fn an_unknown_option_is_named() {
        let error = Tree::new("tmpfs", &[("nosuchoption", "1")], Attributes::default()).expect_err("refused");
        assert!(error.source.to_string().contains("nosuchoption"), "{}", error.source);
        assert_eq!(errno(&error.source), Some(libc::EINVAL));
    }

    /// Kernels before 6.5 know no other way.
    #[test]
    fn an_overlay_can_be_mounted_the_old_way() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = |name: &str| folder.path().join(name);
        for name in ["lower", "upper", "work", "root"] {
            fs::create_dir(inside(name)).expect("made");
        }
        fs::write(inside("lower/file"), "below").expect("written");
        let text = |name: &str| inside(name).to_string_lossy().into_owned();
        let options = format!("lowerdir={},upperdir={},workdir={}", text("lower"), text("upper"), text("work"));
        mount_at("overlay", &inside("root"), Flags::empty(), &options).expect("mounted");
        set_attributes(&inside("root"), Attributes::READONLY, false).expect("attributes");
        assert_eq!(fs::read_to_string(inside("root/file")).expect("read"), "below");
        let refused = fs::write(inside("root/new"), "x").expect_err("read-only");
        unmount(&inside("root")).expect("unmounted");
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
    }
}
