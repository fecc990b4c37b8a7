//! Files, where the standard library stops: paths that stay inside a root, owners, nodes, attributes, locks, safe writes.
//!
//! Start at [`Root`] for anything that somebody else named, and at [`write_atomically`] for anything that must survive.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AtFlags, Flock, FlockArg};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, mkdirat, mknodat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use crate::error::{Doing, Result};

/// A folder that names are looked up in as if it were the root: neither `..` nor a link leads out of it.
#[derive(Debug)]
pub struct Root {
    folder: OwnedFd,
    path: PathBuf,
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

const RESOLVE_IN_ROOT: u64 = 0x10;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;

/// A node of a file system that is neither file, folder nor link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A character device with its numbers.
    Character(u32, u32),
    /// A block device with its numbers.
    Block(u32, u32),
    /// A named pipe.
    Pipe,
}

impl Root {
    /// The folder at `path`.
    pub fn open(path: &Path) -> Result<Root> {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = libc::O_DIRECTORY | libc::O_PATH;
        let folder = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).doing_to("open", path)?;
        Ok(Root { folder: folder.into(), path: path.to_owned() })
    }

    /// A folder that is open already; `name` is what errors call it.
    pub fn from_fd(folder: OwnedFd, name: &Path) -> Root {
        Root { folder, path: name.to_owned() }
    }

    /// Opens `name` inside with flags of `open(2)`.
    pub fn open_at(&self, name: &Path, flags: i32, mode: u32) -> Result<File> {
        self.open_quietly(name, flags, mode).doing(format_args!("open {} in {}", name.display(), self.path.display()))
    }

    fn open_quietly(&self, name: &Path, flags: i32, mode: u32) -> io::Result<File> {
        let text = if name.as_os_str().is_empty() { OsStr::new(".") } else { name.as_os_str() };
        let name = CString::new(text.as_bytes())?;
        let mode = if flags & (libc::O_CREAT | libc::O_TMPFILE) == 0 { 0 } else { u64::from(mode) };
        let flags = (flags | libc::O_CLOEXEC) as u64;
        let how = OpenHow { flags, mode, resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
        loop {
            // SAFETY: a system call with a valid descriptor, a nul-ended string and an open_how of the size said.
            let answer = unsafe {
                libc::syscall(
                    libc::SYS_openat2,
                    self.folder.as_raw_fd(),
                    name.as_ptr(),
                    &raw const how,
                    size_of::<OpenHow>(),
                )
            };
            match answer {
                -1 => match io::Error::last_os_error() {
                    // A rename elsewhere came in between; the kernel asks to be asked again.
                    again if again.raw_os_error() == Some(libc::EAGAIN) => {}
                    error => return Err(error),
                },
                // SAFETY: the kernel gave us this descriptor just now, and nobody else knows it.
                fd => return Ok(unsafe { File::from_raw_fd(fd as i32) }),
            }
        }
    }

    /// The folder that holds `name`, and its last part. The folder and those above it are made if they are missing.
    pub fn parent_of(&self, name: &Path) -> Result<(File, CString)> {
        let mut parts = plain_parts(name);
        let refused = || io::Error::new(io::ErrorKind::InvalidInput, "the name has no last part");
        let last = parts.pop().ok_or_else(refused).doing_to("use the name", name)?;
        let parent = self.make_folders(&parts.iter().collect::<PathBuf>(), 0o755)?;
        let last = CString::new(last.as_bytes()).map_err(io::Error::from).doing_to("use the name", name)?;
        Ok((parent, last))
    }

    /// Opens folder `name`, making it and those above it where they are missing.
    pub fn make_folders(&self, name: &Path, mode: u32) -> Result<File> {
        let flags = libc::O_DIRECTORY | libc::O_RDONLY;
        if let Ok(found) = self.open_quietly(name, flags, 0) {
            return Ok(found);
        }
        let mut done = PathBuf::new();
        let mut here = self.open_at(Path::new("."), flags, 0)?;
        for part in plain_parts(name) {
            done.push(&part);
            here = match self.open_quietly(&done, flags, 0) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match mkdirat(&here, part.as_os_str(), Mode::from_bits_truncate(mode)) {
                        Ok(()) | Err(nix::errno::Errno::EEXIST) => self.open_at(&done, flags, 0)?,
                        Err(errno) => {
                            return Err(errno).doing(format_args!(
                                "make {} in {}",
                                done.display(),
                                self.path.display()
                            ));
                        }
                    }
                }
                Err(error) => {
                    return Err(error).doing(format_args!("open {} in {}", done.display(), self.path.display()));
                }
            };
        }
        Ok(here)
    }

    /// Reads a small file inside.
    pub fn read(&self, name: &Path, bytes_max: u64) -> Result<Vec<u8>> {
        let file = self.open_at(name, libc::O_RDONLY, 0)?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, bytes_max), &mut bytes).doing_to("read", name)?;
        Ok(bytes)
    }

    /// Reads a file inside that somebody else made. What is no regular file is refused and not waited for, and so is one that
    /// holds more than `bytes_max`.
    pub fn read_regular(&self, name: &Path, bytes_max: u64) -> Result<Vec<u8>> {
        let file = self.open_at(name, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY, 0)?;
        let refused = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why)).doing_to("read", name);
        if !file.metadata().doing_to("look at", name)?.is_file() {
            return refused("it is not a regular file".to_owned());
        }
        let mut bytes = Vec::new();
        // One byte more tells a file that is too large, also one that grows meanwhile.
        io::Read::read_to_end(&mut io::Read::take(file, bytes_max + 1), &mut bytes).doing_to("read", name)?;
        if bytes.len() as u64 > bytes_max {
            return refused(format!("it is larger than {bytes_max} bytes"));
        }
        Ok(bytes)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// The parts of a name, `..` resolved on paper: above the root is the root.
fn plain_parts(name: &Path) -> Vec<std::ffi::OsString> {
    let mut parts = Vec::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    parts
}

/// The path under which a descriptor can be given to calls that take paths.
pub fn path_of(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Makes a node called `name` in `folder`.
pub fn make_node(folder: &impl AsFd, name: &std::ffi::CStr, node: Node, mode: u32) -> Result<()> {
    let (kind, numbers) = match node {
        Node::Character(major, minor) => (SFlag::S_IFCHR, nix::sys::stat::makedev(major.into(), minor.into())),
        Node::Block(major, minor) => (SFlag::S_IFBLK, nix::sys::stat::makedev(major.into(), minor.into())),
        Node::Pipe => (SFlag::S_IFIFO, 0),
    };
    mknodat(folder, name, kind, Mode::from_bits_truncate(mode), numbers)
        .doing(format_args!("make node {}", name.to_string_lossy()))
}

/// Makes a link called `name` in `folder` that points to `target`.
pub fn make_link(folder: &impl AsFd, name: &std::ffi::CStr, target: &Path) -> Result<()> {
    symlinkat(target, folder, name).doing(format_args!("make link {}", name.to_string_lossy()))
}

/// Gives the file `source` in `from` a second name.
pub fn make_hard_link(
    from: &impl AsFd,
    source: &std::ffi::CStr,
    folder: &impl AsFd,
    name: &std::ffi::CStr,
) -> Result<()> {
    linkat(from, source, folder, name, AtFlags::empty()).doing(format_args!(
        "link {} to {}",
        name.to_string_lossy(),
        source.to_string_lossy()
    ))
}

/// Makes a folder called `name` in `folder`; one that is there is as good.
pub fn make_folder(folder: &impl AsFd, name: &std::ffi::CStr, mode: u32) -> Result<()> {
    match mkdirat(folder, name, Mode::from_bits_truncate(mode)) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno).doing(format_args!("make folder {}", name.to_string_lossy())),
    }
}

/// What kind of thing `name` in `folder` is, as `S_IF*`; `None` if there is none. Links are not followed.
pub fn kind_of(folder: &impl AsFd, name: &std::ffi::CStr) -> Option<u32> {
    let found = nix::sys::stat::fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    Some(found.st_mode & libc::S_IFMT)
}

/// Removes `name` from `folder`, with all that is in it. Gone is as good.
pub fn remove(folder: &impl AsFd, name: &std::ffi::CStr) -> Result<()> {
    let action = || format!("remove {}", name.to_string_lossy());
    match kind_of(folder, name) {
        None => Ok(()),
        Some(libc::S_IFDIR) => {
            let inside = path_of(folder).join(OsStr::from_bytes(name.to_bytes()));
            fs::remove_dir_all(inside).doing(action())
        }
        Some(_) => unlinkat(folder, name, UnlinkatFlags::NoRemoveDir).doing(action()),
    }
}

/// Sets the owner of `name` in `folder`, of a link itself.
pub fn set_owner(folder: &impl AsFd, name: &std::ffi::CStr, uid: u32, gid: u32) -> Result<()> {
    fchownat(folder, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::AT_SYMLINK_NOFOLLOW)
        .doing(format_args!("give {} to {uid}:{gid}", name.to_string_lossy()))
}

/// Sets the owner of an open file; `None` leaves it.
pub fn set_owner_of(file: &impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    nix::unistd::fchown(file, uid.map(Uid::from_raw), gid.map(Gid::from_raw)).doing("set an owner")
}

/// Sets the mode of an open file.
pub fn set_mode(file: &impl AsFd, mode: u32) -> Result<()> {
    fchmod(file, Mode::from_bits_truncate(mode)).doing("set a mode")
}

/// Sets the mode of `name` in `folder`, which is no link.
pub fn set_mode_at(folder: &impl AsFd, name: &std::ffi::CStr, mode: u32) -> Result<()> {
    nix::sys::stat::fchmodat(folder, name, Mode::from_bits_truncate(mode), nix::sys::stat::FchmodatFlags::FollowSymlink)
        .doing(format_args!("set the mode of {}", name.to_string_lossy()))
}

/// Sets the time `name` in `folder` was last written, of a link itself.
pub fn set_modified(folder: &impl AsFd, name: &std::ffi::CStr, seconds: i64) -> Result<()> {
    let time = TimeSpec::new(seconds, 0);
    nix::sys::stat::utimensat(folder, name, &time, &time, UtimensatFlags::NoFollowSymlink)
        .doing(format_args!("set the time of {}", name.to_string_lossy()))
}

/// Sets an extended attribute of `name` in `folder`, of a link itself.
pub fn set_attribute(folder: &impl AsFd, name: &std::ffi::CStr, key: &str, value: &[u8]) -> Result<()> {
    let set = || -> io::Result<()> {
        let path = path_of(folder).join(OsStr::from_bytes(name.to_bytes()));
        let (path, key) = (CString::new(path.as_os_str().as_bytes())?, CString::new(key)?);
        // SAFETY: nul-ended strings and a buffer of the length said, all alive through the call.
        match unsafe { libc::lsetxattr(path.as_ptr(), key.as_ptr(), value.as_ptr().cast(), value.len(), 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    set().doing(format_args!("set attribute {key} of {}", name.to_string_lossy()))
}

/// An extended attribute of the file at `path`, of a link itself; `None` if it has none of that name.
pub fn attribute(path: &Path, key: &str) -> Option<Vec<u8>> {
    let (path, key) = (CString::new(path.as_os_str().as_bytes()).ok()?, CString::new(key).ok()?);
    let mut value = vec![0; 4096];
    // SAFETY: nul-ended strings and a buffer of the length said, all alive through the call.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), key.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}

/// A lock on a file that ends with the process.
#[derive(Debug)]
pub struct Lock {
    _held: Flock<File>,
}

impl Lock {
    /// Takes the lock on `path`, which is made; `None` if somebody else holds it.
    pub fn try_take(path: &Path) -> Result<Option<Lock>> {
        let file = File::options().create(true).truncate(false).write(true).open(path).doing_to("open", path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Some(Lock { _held: held })),
            Err((_, nix::errno::Errno::EAGAIN)) => Ok(None),
            Err((_, errno)) => Err(errno).doing_to("lock", path),
        }
    }
}

/// Removes a file or a link. Gone is as good.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// How many bytes the files below a folder take of the disk, links not followed. What is gone meanwhile, or cannot be looked at,
/// takes none.
pub fn usage(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => usage(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// Writes a file so that after a crash either the old content is there or the new, whole, and the new once this returns.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let write = || -> io::Result<()> {
        write_beside(path, content, mode, true)?;
        sync_folder(path.parent().unwrap_or(Path::new("/")))
    };
    write().doing_to("write", path)
}

/// As [`write_atomically`], but without waiting for the disk: if the power goes, the old content may be there, the new, or
/// an empty file. For what is of no use after a power cut, and is written while somebody waits.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    write_beside(path, content, mode, false).doing_to("write", path)
}

fn write_beside(path: &Path, content: &[u8], mode: u32, durably: bool) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut file = File::options().create(true).truncate(true).write(true).mode(mode).open(&beside)?;
    file.write_all(content)?;
    if durably {
        file.sync_data()?;
    }
    fs::rename(&beside, path)
}

/// Makes the names in a folder durable.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes everything written to the file system of `path` durable.
pub fn sync_file_system(path: &Path) -> Result<()> {
    let file = File::open(path).doing_to("open", path)?;
    nix::unistd::syncfs(&file).doing_to("sync the file system of", path)
}

/// Bytes free to users without rights of their own, and those together with the used ones, where `path` lies. What is kept back
/// for others is in neither: a file system is as full as `df` says.
pub fn space(path: &Path) -> Result<(u64, u64)> {
    let found = nix::sys::statvfs::statvfs(path).doing_to("measure the file system of", path)?;
    let unit = found.fragment_size() as u64;
    let (free, size) = usable(found.blocks() as u64, found.blocks_free() as u64, found.blocks_available() as u64);
    Ok((free * unit, size * unit))
}

fn usable(all: u64, free: u64, available: u64) -> (u64, u64) {
    (available, all.saturating_sub(free) + available)
}

/// A file in memory, without a name; `name` is what `/proc` shows.
pub fn memory_file(name: &str) -> Result<File> {
    let made = nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    made.map(File::from).doing("make a file in memory")
}

/// Moves bytes from a pipe to a file at `at`, at most `bytes_max` and without waiting: they are in one or the other, whenever
/// the caller is killed. 0 when the pipe has ended.
pub fn move_bytes(pipe: &impl AsFd, file: &File, at: u64, bytes_max: usize) -> io::Result<usize> {
    let mut offset = at as libc::loff_t;
    let none = std::ptr::null_mut();
    // SAFETY: a system call with two valid descriptors and a pointer to an offset that lives through it.
    let moved = unsafe {
        let (from, to) = (pipe.as_fd().as_raw_fd(), file.as_raw_fd());
        libc::splice(from, none, to, &raw mut offset, bytes_max, libc::SPLICE_F_NONBLOCK)
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

/// Lets a pipe hold `bytes`, or as much as the kernel allows.
pub fn set_pipe_size(pipe: &impl AsFd, bytes: i32) {
    let _ = nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(bytes));
}

/// Lets a descriptor outlive `exec`; gives back its number, by which [`device_handed_on`] finds it there.
pub fn hand_on(fd: &impl AsFd) -> Result<RawFd> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).doing("let a descriptor outlive exec")?;
    Ok(fd.as_fd().as_raw_fd())
}

/// Takes over the character device that [`hand_on`] left open as descriptor `number`. `None` if it is something else.
pub fn device_handed_on(number: RawFd) -> Option<File> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    // The first three belong to the standard library.
    if number <= libc::STDERR_FILENO {
        return None;
    }
    // SAFETY: borrowed for two questions only; a number that is no descriptor is answered with an error.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let mode = SFlag::from_bits_truncate(nix::sys::stat::fstat(borrowed).ok()?.st_mode);
    if mode & SFlag::S_IFMT != SFlag::S_IFCHR {
        return None;
    }
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    // SAFETY: it is open (asked above), and whoever left it open before exec told its number to nobody but the caller.
    Some(unsafe { File::from_raw_fd(number) })
}

/// Makes reads and writes of a descriptor return instead of waiting, or wait again.
pub fn set_nonblocking(fd: &impl AsFd, nonblocking: bool) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).doing("read the flags of a descriptor")?);
    let wanted = if nonblocking { flags | OFlag::O_NONBLOCK } else { flags - OFlag::O_NONBLOCK };
    fcntl(fd, FcntlArg::F_SETFL(wanted)).map(|_| ()).doing("set the flags of a descriptor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_that_is_kept_back_is_neither_used_nor_free() {
        assert_eq!(usable(100, 40, 40), (40, 100));
        assert_eq!(usable(100, 40, 10), (10, 70));
        let (free, size) = space(Path::new("/")).expect("it is there");
        assert!(free <= size && size > 0);
    }

    #[test]
    fn only_a_device_is_taken_over() {
        use std::os::fd::IntoRawFd;
        let (file, device) = (File::open("/proc/self/exe").expect("there"), File::open("/dev/null").expect("there"));
        let (of_file, of_device) = (hand_on(&file).expect("kept"), hand_on(&device).expect("kept"));
        let _as_after_exec = device.into_raw_fd();
        assert!(device_handed_on(of_file).is_none() && device_handed_on(-1).is_none() && device_handed_on(0).is_none());
        assert_eq!(device_handed_on(of_device).map(|device| device.as_raw_fd()), Some(of_device));
    }

    #[test]
    fn nothing_leads_out_of_a_root() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join("root");
        fs::create_dir(&inside).expect("made");
        fs::write(folder.path().join("secret"), "no").expect("written");
        std::os::unix::fs::symlink("/../secret", inside.join("link")).expect("linked");
        let root = Root::open(&inside).expect("a root");
        for name in ["../secret", "link", "/../../secret", "../../../../etc/passwd"] {
            assert!(root.open_at(Path::new(name), libc::O_RDONLY, 0).is_err(), "{name}");
        }
        std::os::unix::fs::symlink("/etc", inside.join("etc")).expect("linked");
        assert!(root.open_at(Path::new("etc/passwd"), libc::O_RDONLY, 0).is_err());
        root.make_folders(Path::new("../a/b"), 0o755).expect("made inside");
        assert!(inside.join("a/b").is_dir());
    }

    #[test]
    fn a_folder_takes_what_its_files_take() {
        let folder = tempfile::tempdir().expect("there is room");
        fs::create_dir(folder.path().join("inside")).expect("made");
        fs::write(folder.path().join("inside/file"), vec![7; 100_000]).expect("written");
        let found = usage(folder.path());
        assert!((100_000..120_000).contains(&found), "{found}");
        assert_eq!(usage(&folder.path().join("absent")), 0);
    }

    #[test]
    fn a_file_that_is_gone_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("written");
        assert!(remove_file(&file).is_ok() && !file.exists() && remove_file(&file).is_ok());
        assert!(remove_file(folder.path()).is_err(), "it is a folder");
    }

    #[test]
    fn only_small_regular_files_are_read_for_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::open(folder.path()).expect("a root");
        let read = |name: &str| root.read_regular(Path::new(name), 4).map_err(|error| error.source.to_string());
        fs::write(folder.path().join("small"), "1234").expect("written");
        fs::write(folder.path().join("large"), "12345").expect("written");
        nix::unistd::mkfifo(&folder.path().join("pipe"), Mode::S_IRWXU).expect("made");
        fs::create_dir(folder.path().join("folder")).expect("made");
        assert_eq!(read("small"), Ok(b"1234".to_vec()));
        assert_eq!(read("large"), Err("it is larger than 4 bytes".to_owned()));
        assert_eq!(read("pipe"), Err("it is not a regular file".to_owned()), "nobody writes to it, and nobody waits");
        assert_eq!(read("folder"), Err("it is not a regular file".to_owned()));
    }

    #[test]
    fn bytes_move_from_a_pipe_to_memory() {
        let file = memory_file("test").expect("a file");
        let (reader, mut writer) = io::pipe().expect("a pipe");
        assert_eq!(move_bytes(&reader, &file, 0, 9).expect_err("empty").kind(), io::ErrorKind::WouldBlock);
        writer.write_all(b"hello world").expect("written");
        assert_eq!(move_bytes(&reader, &file, 3, 5).expect("moved"), 5);
        assert_eq!(move_bytes(&reader, &file, 8, 99).expect("moved"), 6);
        drop(writer);
        assert_eq!(move_bytes(&reader, &file, 14, 99).expect("the end"), 0);
        let mut found = [0; 14];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, 0).expect("read");
        assert_eq!(&found, b"\0\0\0hello world");
    }

    #[test]
    fn a_lock_is_held_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let first = Lock::try_take(&path).expect("asked").expect("free");
        assert!(Lock::try_take(&path).expect("asked").is_none());
        drop(first);
        assert!(Lock::try_take(&path).expect("asked").is_some());
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.json");
        write_atomically(&path, b"one", 0o600).expect("written");
        write_atomically(&path, b"two", 0o600).expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
    }
}
