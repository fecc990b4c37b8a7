//! What an image may be written to: a whole block device nobody uses, a loop device, or a file.
//!
//! Start at [`look`], which asks the kernel, and [`refusal`], which decides.
//!
//! Invariant: a disk that the running machine needs, or that anything of it is mounted from, is never written to, whatever
//! lies between (partitions, device mapper, RAID).

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Doing, Result};

const SECTOR: u64 = 512;
/// What the running machine stands on.
const SYSTEM: [&str; 6] = ["/", "/boot", "/boot/efi", "/boot/firmware", "/usr", "/var"];

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A disk, a card, a loop device.
    Disk,
    /// A part of one, and of which.
    Partition(String),
    /// A plain file.
    File,
    /// Nothing yet, where a file may be.
    New,
    /// Nothing, where only devices are.
    Absent,
    /// Something else, in a word with its article.
    Other(&'static str),
}

/// What an image shall be written to, as the kernel sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its path.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Its size.
    pub bytes: u64,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// What of it is in use: its name, and for what (a folder, or `swap`).
    pub uses: Vec<(String, String)>,
    /// What it calls itself, such as a card reader's name; empty where nobody knows.
    pub model: String,
}

/// Why nothing is written to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such device.
    #[error("there is no {path}: is the card in, and is that its name? `lsblk` lists what there is")]
    Absent {
        /// The device.
        path: PathBuf,
    },
    /// It is neither disk nor file.
    #[error("{path} is {what}: an image is written to a whole block device or to a file")]
    NotADisk {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It is a part of a disk.
    #[error("{path} is a partition: nothing boots from an image in one; the whole of {disk} is meant, perhaps")]
    Partition {
        /// The partition.
        path: PathBuf,
        /// The disk.
        disk: String,
    },
    /// The machine stands on it.
    #[error("{path} is a disk this machine runs from: {part} is in use as {at}")]
    System {
        /// The disk.
        path: PathBuf,
        /// What of it.
        part: String,
        /// For what.
        at: String,
    },
    /// Something of it is mounted.
    #[error("{path} is in use: {part} is mounted on {at}; `umount {at}` first")]
    Mounted {
        /// The disk.
        path: PathBuf,
        /// What of it.
        part: String,
        /// Where.
        at: String,
    },
    /// It cannot be written.
    #[error("{path} is read-only: some cards and adapters have a little switch")]
    ReadOnly {
        /// The disk.
        path: PathBuf,
    },
    /// The image does not fit.
    #[error("{path} holds {has} MiB, and the image needs {needs}")]
    TooSmall {
        /// The disk.
        path: PathBuf,
        /// Its size.
        has: u64,
        /// The image's.
        needs: u64,
    },
}

/// Why an image of `needs` bytes must not be written to `device`, where it must not.
pub fn refusal(device: &Device, needs: u64) -> Option<Refusal> {
    let path = device.path.clone();
    match &device.kind {
        Kind::Absent => return Some(Refusal::Absent { path }),
        Kind::Other(what) => return Some(Refusal::NotADisk { path, what }),
        Kind::Partition(disk) => return Some(Refusal::Partition { path, disk: disk.clone() }),
        Kind::Disk | Kind::File | Kind::New => {}
    }
    let is_system = |at: &str| at == "swap" || SYSTEM.contains(&at);
    if let Some((part, at)) = device.uses.iter().find(|(_, at)| is_system(at)).cloned() {
        return Some(Refusal::System { path, part, at });
    }
    if let Some((part, at)) = device.uses.first().cloned() {
        return Some(Refusal::Mounted { path, part, at });
    }
    if device.read_only {
        return Some(Refusal::ReadOnly { path });
    }
    // A file grows where it is new; one that holds something was made for that size.
    let is_fixed = device.kind == Kind::Disk || (device.kind == Kind::File && device.bytes > 0);
    let small = is_fixed && device.bytes < needs;
    small.then(|| Refusal::TooSmall { path, has: device.bytes >> 20, needs: needs.div_ceil(1 << 20) })
}

/// Asks the kernel what lies at `path`.
pub fn look(path: &Path) -> Result<Device> {
    let mut device = Device {
        path: path.to_owned(),
        kind: Kind::New,
        bytes: 0,
        read_only: false,
        uses: Vec::new(),
        model: String::new(),
    };
    let about = match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            device.kind = if path.starts_with("/dev") { Kind::Absent } else { Kind::New };
            return Ok(device);
        }
        other => other.doing(format_args!("look at {}", path.display()))?,
    };
    if about.file_type().is_block_device() {
        look_at_disk(&mut device, &about)?;
    } else {
        device.kind = kind_of(&about);
        device.bytes = about.len();
        // Root may write to what is marked so: it is meant, all the same.
        device.read_only = about.permissions().mode() & 0o222 == 0;
        device.uses = uses(&Parts::of_file(&device.path), &mounts(), &swaps());
    }
    Ok(device)
}

fn kind_of(about: &Metadata) -> Kind {
    let kind = about.file_type();
    if kind.is_file() {
        Kind::File
    } else if kind.is_dir() {
        Kind::Other("a folder")
    } else if kind.is_char_device() {
        Kind::Other("a character device")
    } else if kind.is_fifo() {
        Kind::Other("a pipe")
    } else {
        Kind::Other("a socket")
    }
}

fn look_at_disk(device: &mut Device, about: &Metadata) -> Result<()> {
    let number = about.st_rdev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let folder = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"))
        .doing(format_args!("find {} among the kernel's disks", device.path.display()))?;
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default().trim().to_owned();
    let name_of = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    device.kind = match folder.parent() {
        Some(disk) if folder.join("partition").exists() => Kind::Partition(format!("/dev/{}", name_of(disk))),
        _ => Kind::Disk,
    };
    device.bytes = read("size").parse::<u64>().unwrap_or(0) * SECTOR;
    device.read_only = read("ro") == "1";
    device.model = [read("device/vendor"), read("device/model"), read("device/name")].join(" ").trim().to_owned();
    let mut parts = Parts::default();
    parts.collect(&folder);
    device.uses = uses(&parts, &mounts(), &swaps());
    Ok(())
}

/// A disk with its partitions and all that is made of them: their numbers and names.
#[derive(Debug, Default)]
struct Parts {
    numbers: BTreeSet<String>,
    names: BTreeSet<String>,
}

impl Parts {
    /// The loop devices that show a file.
    fn of_file(path: &Path) -> Parts {
        let mut parts = Parts::default();
        let Ok(path) = fs::canonicalize(path) else { return parts };
        for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let shown = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
            if Path::new(shown.trim()) == path {
                parts.collect(&entry.path());
            }
        }
        parts
    }

    fn collect(&mut self, folder: &Path) {
        let Ok(folder) = fs::canonicalize(folder) else { return };
        let number = fs::read_to_string(folder.join("dev")).unwrap_or_default().trim().to_owned();
        if number.is_empty() || !self.numbers.insert(number) {
            return;
        }
        self.names.insert(format!("/dev/{}", folder.file_name().unwrap_or_default().to_string_lossy()));
        let inside = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let partitions = inside(&folder).filter(|path| path.join("partition").exists());
        for part in partitions.chain(inside(&folder.join("holders"))) {
            self.collect(&part);
        }
    }
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()
}

fn swaps() -> String {
    fs::read_to_string("/proc/swaps").unwrap_or_default()
}

/// What of `parts` is in use, by the texts of `/proc/self/mountinfo` and `/proc/swaps`.
fn uses(parts: &Parts, mounts: &str, swaps: &str) -> Vec<(String, String)> {
    let mounted = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let words: Vec<&str> = before.split(' ').collect();
        let source = after.split(' ').nth(1)?;
        // Some file systems have numbers of their own: those are known by the name of their source.
        let ours = parts.numbers.contains(*words.get(2)?) || parts.names.contains(source);
        ours.then(|| (source.to_owned(), unescaped(words.get(4).copied().unwrap_or_default())))
    });
    let swapped = swaps.lines().skip(1).filter_map(|line| {
        let source = line.split_whitespace().next()?;
        parts.names.contains(source).then(|| (source.to_owned(), "swap".to_owned()))
    });
    mounted.chain(swapped).collect()
}

/// A path as the kernel writes it in tables: a space is `\040`.
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Device {
        Device {
            path: "/dev/sdb".into(),
            kind: Kind::Disk,
            bytes: 1 << 30,
            read_only: false,
            uses: Vec::new(),
            model: String::new(),
        }
    }

    fn check(device: Device, expected: &str) {
        let said = refusal(&device, 1 << 30).map_or(String::new(), |refusal| refusal.to_string());
        assert_eq!(said, expected);
    }

    #[test]
    fn a_free_disk_of_the_right_size_and_a_file_are_fine() {
        check(disk(), "");
        check(Device { kind: Kind::New, bytes: 0, ..disk() }, "");
        check(Device { kind: Kind::File, bytes: 0, ..disk() }, "");
        check(Device { kind: Kind::File, bytes: 1 << 30, ..disk() }, "");
    }

    #[test]
    fn what_is_in_use_is_refused() {
        let used = |at: &str| Device { uses: vec![("/dev/sdb1".into(), at.into())], ..disk() };
        check(
            used("/mnt/my card"),
            "/dev/sdb is in use: /dev/sdb1 is mounted on /mnt/my card; `umount /mnt/my card` first",
        );
        check(used("/"), "/dev/sdb is a disk this machine runs from: /dev/sdb1 is in use as /");
        check(used("swap"), "/dev/sdb is a disk this machine runs from: /dev/sdb1 is in use as swap");
        let both = vec![("/dev/sdb1".into(), "/mnt".into()), ("/dev/sdb2".into(), "/boot".into())];
        check(
            Device { uses: both, ..disk() },
            "/dev/sdb is a disk this machine runs from: /dev/sdb2 is in use as /boot",
        );
    }

    #[test]
    fn what_cannot_hold_an_image_is_refused() {
        check(
            Device { read_only: true, ..disk() },
            "/dev/sdb is read-only: some cards and adapters have a little switch",
        );
        check(Device { bytes: (1 << 30) - 1, ..disk() }, "/dev/sdb holds 1023 MiB, and the image needs 1024");
        check(Device { kind: Kind::File, bytes: 1, ..disk() }, "/dev/sdb holds 0 MiB, and the image needs 1024");
        check(
            Device { kind: Kind::Other("a folder"), ..disk() },
            "/dev/sdb is a folder: an image is written to a whole block device or to a file",
        );
        check(
            Device { kind: Kind::Partition("/dev/sdb".into()), path: "/dev/sdb1".into(), ..disk() },
            "/dev/sdb1 is a partition: nothing boots from an image in one; the whole of /dev/sdb is meant, perhaps",
        );
        check(
            Device { kind: Kind::Absent, ..disk() },
            "there is no /dev/sdb: is the card in, and is that its name? `lsblk` lists what there is",
        );
    }

    #[test]
    fn uses_are_found_by_number_and_by_name() {
        let parts = Parts {
            numbers: ["8:16".to_owned(), "8:17".to_owned()].into(),
            names: ["/dev/sdb".to_owned(), "/dev/sdb1".to_owned(), "/dev/sdb2".to_owned()].into(),
        };
        let mounts = "\
22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 22 8:17 / /media/a\\040card rw,nosuid shared:9 - vfat /dev/sdb1 rw
31 22 0:44 /home /home rw - btrfs /dev/sdb2 rw
";
        let swaps = "Filename\tType\tSize\n/dev/sda5 partition 1\n/dev/sdb2 partition 1\n";
        let expected = [("/dev/sdb1", "/media/a card"), ("/dev/sdb2", "/home"), ("/dev/sdb2", "swap")];
        assert_eq!(uses(&parts, mounts, swaps), expected.map(|(part, at)| (part.to_owned(), at.to_owned())));
    }

    fn check_kind(path: &Path, expected: Kind) {
        assert_eq!(look(path).unwrap().kind, expected, "{}", path.display());
    }

    #[test]
    fn what_lies_at_a_path_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("card.img");
        check_kind(&file, Kind::New);
        fs::write(&file, "x").unwrap();
        check_kind(&file, Kind::File);
        check_kind(folder.path(), Kind::Other("a folder"));
        check_kind(Path::new("/dev/null"), Kind::Other("a character device"));
        check_kind(Path::new("/dev/no-such-disk"), Kind::Absent);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
        assert!(look(&file).unwrap().read_only);
    }

    /// Whatever the machine that runs this stands on, it is not offered for writing.
    #[test]
    fn the_disk_we_run_from_is_refused() {
        let root = mounts().lines().find(|line| line.split(' ').nth(4) == Some("/")).map(str::to_owned);
        let source = root.and_then(|line| line.split(" - ").nth(1)?.split(' ').nth(1).map(PathBuf::from));
        let Some(source) = source.filter(|source| source.exists()) else { return };
        let device = look(&source).unwrap();
        assert!(device.uses.iter().any(|(_, at)| at == "/"), "{device:?}");
    }
}
