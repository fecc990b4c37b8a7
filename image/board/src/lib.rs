//! Boards: what a machine needs of an image, read from `boards/*.toml` and checked.
//!
//! Start at [`read`]. A board may inherit from another: what it says itself counts, and its lists are added to the other's.
//!
//! Invariants:
//! * a board that is read is whole: every field has a value, and what is unknown or out of range is refused;
//! * an error names the file and the line of what was said, the board where nothing was; one about a missing board lists those
//!   there are.
//!
//! Not here: what is done with any of it (`image/tool`).
#![forbid(unsafe_code)]

mod file;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use file::{File, Sources};

/// So many boards may stand behind one another.
const INHERITS_MAX: usize = 8;

/// Why a board cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such board.
    #[error("there is no board {name}: {} holds {}", folder, list(.there))]
    Missing {
        /// The name asked for.
        name: String,
        /// Where boards are.
        folder: String,
        /// The boards there are.
        there: Vec<String>,
    },
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Io {
        /// The file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The file is not what a board's file is.
    #[error("{path}:{line}: {why}")]
    Wrong {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        why: String,
    },
    /// The board and those behind it leave something open.
    #[error("board {name} does not say {field}, nor does any board it inherits from")]
    Open {
        /// The board.
        name: String,
        /// What is missing, such as `kernel.package`.
        field: &'static str,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The kind of processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// 64-bit ARM.
    Arm64,
    /// 64-bit x86.
    Amd64,
}

impl Architecture {
    /// Debian's and Kubernetes' name for it.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Arm64 => "arm64",
            Architecture::Amd64 => "amd64",
        }
    }
}

/// How the machine's own firmware comes to the kernel of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loader {
    /// By U-Boot and a script of ours that it runs.
    UBoot {
        /// The disk as U-Boot calls it, such as `virtio 0` or `mmc 0`.
        disk: String,
        /// U-Boot's binary: package and file.
        binary: FirmwareFile,
    },
    /// The firmware is UEFI, and starts a loader of ours.
    Uefi,
}

/// How the kernel is packed in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all: the fastest where reading is cheap.
    None,
    /// For slow cards.
    Gzip,
}

/// What PID 1 does with the machine's watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Watchdog {
    /// It is opened and kept quiet.
    Open,
    /// It is left alone.
    Closed,
}

/// A file for the firmware partition: from which package, which file, under which name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareFile {
    /// The package's name in `packages.lock`.
    pub package: String,
    /// The file in it.
    pub file: String,
    /// Its name on the partition.
    pub name: String,
}

/// A file of a package.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackagedFile {
    /// The package's name in `packages.lock`.
    pub package: String,
    /// The file in it.
    pub file: String,
}

/// How a machine that QEMU plays has its disk, its network card and its console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wiring {
    /// All are added, as virtio devices; the console is the first serial port.
    Virtio,
    /// The machine brings them: an SD slot, a USB port for a network card, the console at its second serial port.
    Onboard,
}

/// How QEMU plays this board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    /// How its disk, network card and console are connected.
    pub wiring: Wiring,
    /// The firmware that it starts with, where the boot loader does not take that place.
    pub firmware: Option<PackagedFile>,
    /// `-machine`.
    pub machine: String,
    /// `-cpu`.
    pub cpu: String,
    /// `-smp`.
    pub cpus: u32,
    /// `-m`, in MiB.
    pub memory_mib: u32,
    /// The size of the disk, in MiB: the data partition grows into it.
    pub disk_mib: u64,
    /// What else is on its command line, word by word.
    pub devices: Vec<String>,
}

/// A whole board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// Its name: that of its file.
    pub name: String,
    /// What it is, in a few words.
    pub summary: String,
    /// Its processor.
    pub architecture: Architecture,
    /// The Debian package with its kernel.
    pub kernel_package: String,
    /// How the kernel is packed.
    pub compression: Compression,
    /// The kernel's command line, before what the boot loader adds.
    pub command_line: String,
    /// Its device tree, a file of the kernel's package; empty where the machine brings one.
    pub devicetree: String,
    /// The modules that bring up disk and root.
    pub initramfs_modules: Vec<String>,
    /// The modules loaded at each boot.
    pub boot_modules: Vec<String>,
    /// The modules loaded when something asks for them.
    pub lazy_modules: Vec<String>,
    /// How it is booted.
    pub loader: Loader,
    /// What else goes on the firmware partition.
    pub firmware: Vec<FirmwareFile>,
    /// The text of `config.txt` on the firmware partition; empty for none.
    pub config_txt: String,
    /// The size of the firmware partition, in MiB.
    pub firmware_mib: u64,
    /// The size of a slot, in MiB.
    pub slot_mib: u64,
    /// The size of the data partition as made, in MiB; it grows to the end of the disk.
    pub data_mib: u64,
    /// Whether PID 1 opens the watchdog.
    pub watchdog: Watchdog,
    /// How QEMU plays it, where it can.
    pub qemu: Option<Qemu>,
}

impl Board {
    /// The U-Boot it is booted by, where it is.
    pub fn u_boot(&self) -> Option<&FirmwareFile> {
        match &self.loader {
            Loader::UBoot { binary, .. } => Some(binary),
            Loader::Uefi => None,
        }
    }
}

/// The names of the boards in `folder` that an image can be made for.
pub fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let stems = files.filter_map(|entry| {
        let path = entry.path();
        let is_board = path.extension().is_some_and(|extension| extension == "toml");
        is_board.then(|| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))?
    });
    let all: BTreeSet<String> = stems.collect();
    all.into_iter().filter(|name| !is_base(folder, name)).collect()
}

fn is_base(folder: &Path, name: &str) -> bool {
    load(folder, name, &mut Sources::default()).is_ok_and(|file| file.base)
}

/// Reads board `name` of `folder`, and all it inherits from.
pub fn read(folder: &Path, name: &str) -> Result<Board, Error> {
    let (file, sources) = all_said(folder, name)?;
    file.whole(name, &sources)
}

/// Where board `name`, or one that it inherits from, names this module or package: `boards/mine.toml:4`.
pub fn place(folder: &Path, name: &str, module_or_package: &str) -> Option<String> {
    let (file, sources) = all_said(folder, name).ok()?;
    let (_, at) = file.names().find(|(said, _)| *said == module_or_package)?;
    let (path, line) = sources.place(at);
    Some(format!("{path}:{line}"))
}

/// What a board and all it inherits from say.
fn all_said(folder: &Path, name: &str) -> Result<(File, Sources), Error> {
    let mut sources = Sources::default();
    let mut file = load(folder, name, &mut sources)?;
    let mut depth = 0;
    while let Some(said) = file.inherits.take() {
        let (at, parent) = (said.span().start, said.into_inner());
        depth += 1;
        if depth > INHERITS_MAX || parent == name {
            let why = format!("board {name} inherits from itself or through more than {INHERITS_MAX} others");
            return Err(sources.wrong(at, why));
        }
        file = file.over(load(folder, &parent, &mut sources).map_err(|error| match error {
            Error::Missing { .. } => sources.wrong(at, error),
            other => other,
        })?);
    }
    Ok((file, sources))
}

fn load(folder: &Path, name: &str, sources: &mut Sources) -> Result<File, Error> {
    let path = folder.join(format!("{name}.toml"));
    match fs::read_to_string(&path) {
        Ok(text) => sources.parse(&path.display().to_string(), &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Missing {
            name: name.to_owned(),
            folder: folder.display().to_string(),
            there: if name.contains('/') { Vec::new() } else { names(folder) },
        }),
        Err(source) => Err(Error::Io { path: path.display().to_string(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn ours() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../boards")
    }

    #[test]
    fn every_board_of_ours_is_whole() {
        let names = names(&ours());
        assert!(names.len() >= 3, "{names:?}");
        for name in names {
            read(&ours(), &name).unwrap_or_else(|error| panic!("{error}"));
        }
    }

    #[test]
    fn a_missing_board_is_named_with_those_there_are() {
        let said = read(&ours(), "rpi9").unwrap_err().to_string();
        assert!(said.contains("there is no board rpi9"), "{said}");
        for board in ["qemu-arm64", "qemu-x86_64", "rpi3", "rpi4"] {
            assert!(said.contains(board), "{board} is not in {said}");
        }
    }

    /// A folder with our boards, and with `mine`, which says `text`.
    fn with_mine(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(ours()).unwrap().flatten() {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        fs::write(folder.path().join("mine.toml"), text).unwrap();
        folder
    }

    /// What a board that says `text` is refused for.
    fn check(text: &str, expected: &str) {
        let folder = with_mine(text);
        let said = read(folder.path(), "mine").unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        check("inherits = \"qemu-arm64\"\n\n[disk]\nslots_mib = 3\n", "mine.toml:4: unknown field `slots_mib`");
    }

    #[test]
    fn a_wrong_type_is_refused_with_its_line() {
        check("inherits = \"qemu-arm64\"\n[disk]\nslot_mib = \"big\"\n", "mine.toml:3: invalid type");
    }

    #[test]
    fn broken_toml_is_refused_with_its_line() {
        check("summary = \"mine\"\ninherits = \n", "mine.toml:2: ");
    }

    #[test]
    fn a_size_out_of_range_is_refused_with_its_line() {
        check(
            "inherits = \"qemu-arm64\"\n[disk]\nslot_mib = 1\n",
            "mine.toml:3: disk.slot_mib is 1, which is not between 64 and 4096",
        );
    }

    #[test]
    fn what_is_inherited_is_refused_with_the_line_of_who_said_it() {
        let folder = with_mine("# a note\ninherits = \"yours\"\n");
        fs::write(folder.path().join("yours.toml"), "inherits = \"rpi4\"\n\n[disk]\ndata_mib = 9\n").unwrap();
        let said = read(folder.path(), "mine").unwrap_err().to_string();
        assert!(said.contains("yours.toml:4: disk.data_mib is 9, which is not between"), "{said}");
        fs::write(folder.path().join("yours.toml"), "\ninherits = \"rpi4\"\nsumary = \"x\"\n").unwrap();
        let said = read(folder.path(), "mine").unwrap_err().to_string();
        assert!(said.contains("yours.toml:3: unknown field `sumary`"), "{said}");
    }

    #[test]
    fn modules_and_packages_are_found_where_they_are_named() {
        let text =
            "inherits = \"rpi4\"\n[modules]\nboot = [\n  \"one\",\n  \"two\",\n]\n[kernel]\npackage = \"mine\"\n";
        let folder = with_mine(text);
        let place = |name: &str| {
            let place = place(folder.path(), "mine", name)?;
            Some(place.rsplit_once('/').unwrap().1.to_owned())
        };
        for (name, expected) in [("one", 4), ("two", 5), ("mine", 8)] {
            assert_eq!(place(name), Some(format!("mine.toml:{expected}")));
        }
        let line = |board: &str, name: &str| {
            let text = fs::read_to_string(ours().join(board)).unwrap();
            let above = text.lines().position(|line| line.contains(&format!("\"{name}\""))).unwrap();
            Some(format!("{board}:{}", above + 1))
        };
        assert_eq!(place("genet"), line("rpi4.toml", "genet"));
        assert_eq!(place("raspi-firmware"), line("rpi4.toml", "raspi-firmware"));
        assert_eq!(place("u-boot-rpi"), line("raspberry-pi.toml", "u-boot-rpi"));
        assert_eq!(place("ext4"), line("base.toml", "ext4"));
        assert_eq!(place("nothing"), None);
    }

    #[test]
    fn a_board_without_kernel_says_so() {
        check("summary = \"mine\"\n", "board mine does not say kernel.package");
    }

    #[test]
    fn a_boot_method_nobody_knows_is_refused_with_its_line() {
        check("inherits = \"qemu-arm64\"\n[loader]\nmethod = \"grub\"\n", "mine.toml:3: unknown variant `grub`");
    }

    #[test]
    fn what_does_not_go_with_uefi_is_refused_with_its_line() {
        let inherits = "inherits = \"qemu-x86_64\"\n";
        let gzip = "mine.toml:3: kernel.compression is none where UEFI";
        check(&format!("{inherits}[kernel]\ncompression = \"gzip\"\n"), gzip);
        let tree = "mine.toml:4: kernel.devicetree is left out where UEFI";
        check(&format!("{inherits}\n[kernel]\ndevicetree = \"a.dtb\"\n"), tree);
        let u_boot = "mine.toml:3: loader.disk and loader.u_boot are left out";
        check(&format!("{inherits}[loader]\ndisk = \"virtio 0\"\n"), u_boot);
        check("inherits = \"qemu-arm64\"\n[loader]\nmethod = \"uefi\"\n", u_boot);
    }

    #[test]
    fn what_qemu_starts_with_is_said_where_uefi_boots() {
        let base = "inherits = \"amd64\"\nsummary = \"mine\"\n[kernel]\ncommand_line = \"quiet\"\n";
        let qemu = "[qemu]\nmachine = \"q35\"\nwiring = \"virtio\"\ncpu = \"max\"\ncpus = 1\nmemory_mib = 512\ndisk_mib = 99\n";
        check(&format!("{base}{qemu}"), "board mine does not say qemu.firmware");
    }

    #[test]
    fn a_circle_is_refused_with_its_line() {
        check("summary = \"mine\"\ninherits = \"mine\"\n", "mine.toml:2: board mine inherits from itself");
    }

    #[test]
    fn an_unknown_parent_is_named_with_its_line() {
        check("\n\ninherits = \"nobody\"\n", "mine.toml:3: there is no board nobody: ");
    }
}
