//! The Debian packages an image is made of: pinned by name, version and checksum, fetched by an apt of our own.
//!
//! Start at [`fetch`]; [`update`] renews the pins. The apt lives in `build/apt` with its own sources, lists and
//! status (one for each architecture), so the machine's are neither read nor changed.
//!
//! Invariant: a package whose checksum is not the pinned one is never unpacked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::Tree;
use crate::error::{Doing, Result, wrong};
use crate::host::folder;
use crate::shell::{run, tool};

const LOCK: &str = "image/packages.lock";
const MIRROR: &str = "http://deb.debian.org/debian";
const SECURITY: &str = "http://deb.debian.org/debian-security";
/// The architecture of what is not said to be for another.
const USUAL: &str = "arm64";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What the private apt reads: suite, and its components.
const SUITES: &[(&str, &str)] = &[
    ("bookworm", "main"),
    ("bookworm-backports", "main"),
    ("trixie", "main non-free-firmware"),
    ("trixie-backports", "main"),
];

/// One pinned package.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// What boards call it.
    pub id: String,
    /// Its name; a kernel's holds its version.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The suite that `--update` looks in.
    pub suite: String,
    /// The architecture it is for, where that is not the usual one or all; empty otherwise.
    #[serde(default)]
    pub architecture: String,
    /// The package whose newest need this is, where it is renewed by that; empty otherwise.
    #[serde(default)]
    pub follows: String,
    /// The package it lies in one folder with, by id: newer kernels come in several. Empty for one of its own.
    #[serde(default)]
    pub part_of: String,
    /// What its version begins with, where only such a one will do; empty otherwise.
    #[serde(default)]
    pub only: String,
    /// The checksum of its file.
    pub sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lock {
    package: Vec<Pin>,
}

/// The unpacked packages, by id.
pub type Unpacked = BTreeMap<String, (Pin, PathBuf)>;

/// Reads the pins.
pub fn read(tree: &Tree) -> Result<Vec<Pin>> {
    let path = tree.top.join(LOCK);
    let text = fs::read_to_string(&path).doing(format_args!("read {LOCK}"))?;
    let lock: Lock = toml::from_str(&text).map_err(|error| wrong(format_args!("{LOCK}: {error}")))?;
    Ok(lock.package)
}

/// Fetches and unpacks the packages with these ids, as far as that is not done yet.
pub fn fetch(tree: &Tree, ids: &[&str]) -> Result<Unpacked> {
    let pins = read(tree)?;
    let mut unpacked = Unpacked::new();
    for id in ids {
        let pin = pinned(&pins, id)?;
        unpacked.insert((*id).to_owned(), (pin.clone(), unpack(tree, &pins, pin)?));
    }
    Ok(unpacked)
}

/// The pin with this id.
pub fn pinned<'p>(pins: &'p [Pin], id: &str) -> Result<&'p Pin> {
    let pin = pins.iter().find(|pin| pin.id == id);
    pin.ok_or_else(|| wrong(format_args!("{LOCK} has no package {id}; it holds {}", ids_of(pins))))
}

/// The packages with these ids from a folder in which another system put them: `FOLDER/ID` is laid out as Debian's package of
/// that id would be unpacked. The kernel's is known by its file `boot/vmlinuz-RELEASE`.
pub fn given(folder: &Path, ids: &[&str], by: &str) -> Result<Unpacked> {
    ids.iter()
        .map(|id| {
            let path = folder.join(id);
            if !path.is_dir() {
                return Err(wrong(format_args!("there is no folder {}", path.display())));
            }
            let name = release(&path)?.map_or((*id).to_owned(), |release| format!("linux-image-{release}"));
            let pin = Pin { id: (*id).to_owned(), name, suite: by.to_owned(), ..Pin::default() };
            Ok(((*id).to_owned(), (pin, path)))
        })
        .collect()
}

/// The release of the kernel in a folder, where there is one.
fn release(package: &Path) -> Result<Option<String>> {
    let boot = package.join("boot");
    if !boot.is_dir() {
        return Ok(None);
    }
    let entries = fs::read_dir(&boot).doing(format_args!("list {}", boot.display()))?.flatten();
    let names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let kernels: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix("vmlinuz-")).collect();
    match kernels[..] {
        [one] => Ok(Some(one.to_owned())),
        _ => Err(wrong(format_args!("{} must hold one vmlinuz-RELEASE, and holds {}", boot.display(), kernels.len()))),
    }
}

fn ids_of(pins: &[Pin]) -> String {
    pins.iter().map(|pin| pin.id.as_str()).collect::<Vec<_>>().join(", ")
}

/// Unpacks a package, and those that are parts of it, into a folder.
fn unpack(tree: &Tree, pins: &[Pin], pin: &Pin) -> Result<PathBuf> {
    let into = tree.build.join("packages").join(format!("{}_{}", pin.name, pin.version.replace(':', "%3a")));
    if into.exists() {
        return Ok(into);
    }
    let partial = into.with_extension("partial");
    let _absent = fs::remove_dir_all(&partial);
    folder(&partial)?;
    for each in pins.iter().filter(|each| each.id == pin.id || each.part_of == pin.id) {
        let file = download(tree, each)?;
        run(tool("dpkg-deb").arg("-x").arg(&file).arg(&partial))?;
    }
    if let Some(release) = pin.name.strip_prefix("linux-image-") {
        lay_out_as_before(&partial, release)?;
    }
    fs::rename(&partial, &into).doing(format_args!("keep {}", into.display()))?;
    Ok(into)
}

/// Newer kernels have everything in the folder of their modules: the older places lead there.
fn lay_out_as_before(package: &Path, release: &str) -> Result<()> {
    let modules = format!("usr/lib/modules/{release}");
    let links = [
        ("lib".to_owned(), "usr/lib".to_owned(), "usr/lib/modules".to_owned()),
        (format!("boot/vmlinuz-{release}"), format!("../{modules}/vmlinuz"), format!("{modules}/vmlinuz")),
        (format!("boot/config-{release}"), format!("../{modules}/config"), format!("{modules}/config")),
        (format!("usr/lib/linux-image-{release}"), format!("modules/{release}/dtb"), format!("{modules}/dtb")),
    ];
    for (link, target, what) in links {
        let (at, what) = (package.join(&link), package.join(what));
        if what.exists() && !at.exists() {
            folder(at.parent().unwrap_or(package))?;
            std::os::unix::fs::symlink(&target, &at).doing(format_args!("link {link} to {target}"))?;
        }
    }
    Ok(())
}

/// The package's file, fetched where we do not have it, and of the right checksum.
fn download(tree: &Tree, pin: &Pin) -> Result<PathBuf> {
    let kept = tree.build.join("debs").join(format!("{}.deb", pin.sha256));
    if kept.exists() {
        return Ok(kept);
    }
    eprintln!("fetching {} {}", pin.name, pin.version);
    let folder_of_debs = tree.build.join("debs/partial");
    let _absent = fs::remove_dir_all(&folder_of_debs);
    folder(&folder_of_debs)?;
    let apt = Apt::of(tree, pin);
    apt.refresh()?;
    let wanted = format!("{}={}", pin.name, pin.version);
    run(apt.command("apt-get")?.current_dir(&folder_of_debs).args(["-q", "download", &wanted])).map_err(|error| {
        wrong(format_args!(
            "Debian no longer has {wanted}: `cargo run -p image -- lock --update` renews {LOCK} ({error})"
        ))
    })?;
    let mut files = fs::read_dir(&folder_of_debs).doing("list what was fetched")?.flatten();
    let file = files.next().ok_or_else(|| wrong(format_args!("apt fetched no file for {wanted}")))?.path();
    let found = sha256(&file)?;
    if found != pin.sha256 {
        return Err(wrong(format_args!("{wanted} has the checksum {found}, and {LOCK} says {}", pin.sha256)));
    }
    fs::rename(&file, &kept).doing(format_args!("keep {}", kept.display()))?;
    Ok(kept)
}

/// The checksum of a file, in hexadecimal.
pub fn sha256(file: &Path) -> Result<String> {
    let bytes = fs::read(file).doing(format_args!("read {}", file.display()))?;
    Ok(hex(&Sha256::digest(&bytes)))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Renews every pin to what its suite holds now; gives back the lines of what changed.
pub fn update(tree: &Tree) -> Result<Vec<String>> {
    let (mut text, mut changed) = (HEADER.to_owned(), Vec::new());
    let pins = read(tree)?;
    let apts: BTreeSet<Apt> = pins.iter().map(|pin| Apt::of(tree, pin)).collect();
    for apt in &apts {
        let _stale = fs::remove_file(apt.folder.join(FRESH));
        apt.refresh()?;
    }
    for old in &pins {
        let new = newest(&Apt::of(tree, old), &pins, old)?;
        if new != *old {
            changed.push(format!("{}: {} {} -> {} {}", old.id, old.name, old.version, new.name, new.version));
        }
        text.push_str(&line(&new));
    }
    fs::write(tree.top.join(LOCK), text).doing(format_args!("write {LOCK}"))?;
    Ok(changed)
}

const HEADER: &str = "\
# The Debian packages that images are made of. `cargo run -p image -- lock --update` renews this file.
#
# `id` is what boards call a package; `architecture` is said where it is neither for arm64 nor for all; `follows` is the package
# whose need says which one is newest; `part_of` is the package it is unpacked with; `only` is what its version must begin with.
";

fn line(pin: &Pin) -> String {
    let unless_empty =
        |name: &str, value: &str| if value.is_empty() { String::new() } else { format!("{name} = \"{value}\"\n") };
    let rare = unless_empty("architecture", &pin.architecture)
        + &unless_empty("follows", &pin.follows)
        + &unless_empty("part_of", &pin.part_of)
        + &unless_empty("only", &pin.only);
    format!(
        "\n[[package]]\nid = \"{}\"\nname = \"{}\"\nversion = \"{}\"\nsuite = \"{}\"\n{rare}sha256 = \"{}\"\n",
        pin.id, pin.name, pin.version, pin.suite, pin.sha256
    )
}

fn newest(apt: &Apt, pins: &[Pin], old: &Pin) -> Result<Pin> {
    let whole = pins.iter().find(|pin| pin.id == old.part_of);
    let name = match whole {
        Some(whole) => name_of_part(&old.name, &followed(apt, whole)?),
        None if old.follows.is_empty() => old.name.clone(),
        None => followed(apt, old)?,
    };
    let about = if old.only.is_empty() {
        apt.show(&format!("{name}/{}", old.suite))?
    } else {
        let all = run(apt.command("apt-cache")?.args(["show", &name]))?;
        let found = about_version(&all, &old.only).map(str::to_owned);
        found.ok_or_else(|| wrong(format_args!("Debian has no {name} of a version that begins with {}", old.only)))?
    };
    let field = |field: &str| {
        let found = about.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
        found.map(str::to_owned).ok_or_else(|| wrong(format_args!("apt says no {field} of {name} in {}", old.suite)))
    };
    Ok(Pin { version: field("Version")?, sha256: field("SHA256")?, name, ..old.clone() })
}

/// The first of several descriptions whose version begins with `prefix`.
fn about_version<'a>(all: &'a str, prefix: &str) -> Option<&'a str> {
    let version = |about: &'a str| about.lines().find_map(|line| line.strip_prefix("Version: "));
    all.split("\n\n").find(|about| version(about).is_some_and(|version| version.starts_with(prefix)))
}

/// The name of a part of `kernel`: `linux-base-6.1-arm64` of `linux-image-6.2-arm64` is `linux-base-6.2-arm64`.
fn name_of_part(old: &str, kernel: &str) -> String {
    let at_digit = |name: &str| name.find(|letter: char| letter.is_ascii_digit()).unwrap_or(name.len());
    format!("{}{}", &old[..at_digit(old)], &kernel[at_digit(kernel)..])
}

fn followed(apt: &Apt, old: &Pin) -> Result<String> {
    let about = apt.show(&format!("{}/{}", old.follows, old.suite))?;
    let needs = about.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
    let first = needs.split([',', ' ']).find(|word| word.starts_with("linux-image-"));
    first.map(str::to_owned).ok_or_else(|| wrong(format_args!("{} in {} needs no kernel", old.follows, old.suite)))
}

/// In an apt's folder: for which sources its lists are fresh.
const FRESH: &str = "fresh";

/// An apt that knows nothing of this machine, for one architecture.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Apt {
    architecture: String,
    folder: PathBuf,
}

impl Apt {
    /// The one that a package is fetched by.
    fn of(tree: &Tree, pin: &Pin) -> Apt {
        let usual = pin.architecture.is_empty();
        let architecture = if usual { USUAL.to_owned() } else { pin.architecture.clone() };
        let folder = if usual { "apt".to_owned() } else { format!("apt-{architecture}") };
        Apt { architecture, folder: tree.build.join(folder) }
    }

    fn show(&self, what: &str) -> Result<String> {
        run(self.command("apt-cache")?.args(["show", "--no-all-versions", what]))
    }

    /// Reads the suites' lists anew, where that was not done since they were last renewed.
    fn refresh(&self) -> Result<()> {
        let fresh = self.folder.join(FRESH);
        if fs::read_to_string(&fresh).is_ok_and(|read| read == sources()) {
            return Ok(());
        }
        run(self.command("apt-get")?.args(["-q", "update"]))?;
        fs::write(&fresh, sources()).doing("note that the lists are fresh")
    }

    fn command(&self, program: &str) -> Result<Command> {
        let apt = &self.folder;
        for part in ["state/lists/partial", "cache/archives/partial", "etc/preferences.d"] {
            folder(&apt.join(part))?;
        }
        fs::write(apt.join("state/status"), "").doing("write an empty package status")?;
        fs::write(apt.join("sources.list"), sources()).doing("write the private sources")?;
        let at = |part: &str| apt.join(part).display().to_string();
        let options = [
            format!("APT::Architecture={}", self.architecture),
            format!("APT::Architectures::={}", self.architecture),
            "Acquire::Languages=none".to_owned(),
            format!("Dir::Etc={}", at("etc")),
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State={}", at("state")),
            format!("Dir::State::status={}", at("state/status")),
            format!("Dir::Cache={}", at("cache")),
            "APT::Sandbox::User=root".to_owned(),
        ];
        let mut command = tool(program);
        command.args(options.iter().flat_map(|option| ["-o", option]));
        Ok(command)
    }
}

/// What the private apt reads.
fn sources() -> String {
    let suites = SUITES.iter().map(|(suite, parts)| (MIRROR, *suite, *parts));
    let all = suites.chain([(SECURITY, "bookworm-security", "main")]);
    all.map(|(mirror, suite, parts)| format!("deb [signed-by={KEYS}] {mirror} {suite} {parts}\n")).collect()
}

/// The options by which the machine's own apt sees Debian 12 with backports for one installation, its sources unchanged.
pub fn host_options(tree: &Tree) -> Result<Vec<String>> {
    let apt = tree.build.join("apt-host");
    folder(&apt.join("lists/partial"))?;
    let suites = [(MIRROR, "bookworm"), (MIRROR, "bookworm-backports"), (SECURITY, "bookworm-security")];
    let lines: Vec<String> =
        suites.iter().map(|(mirror, suite)| format!("deb [signed-by={KEYS}] {mirror} {suite} main\n")).collect();
    fs::write(apt.join("sources.list"), lines.concat()).doing("write the sources for this machine")?;
    let option = |text: String| ["-o".to_owned(), text];
    Ok([
        option(format!("Dir::Etc::sourcelist={}", apt.join("sources.list").display())),
        option("Dir::Etc::sourceparts=-".to_owned()),
        option(format!("Dir::State::lists={}", apt.join("lists").display())),
        option("Acquire::Languages=none".to_owned()),
    ]
    .concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_reads_as_it_is_written() {
        let tree = Tree::ours();
        let pins = read(&tree).unwrap();
        let again: String = [HEADER.to_owned()].into_iter().chain(pins.iter().map(line)).collect();
        assert_eq!(again, fs::read_to_string(tree.top.join(LOCK)).unwrap());
    }

    #[test]
    fn every_board_finds_its_packages_in_the_lock() {
        let tree = Tree::ours();
        let pins = read(&tree).unwrap();
        for name in board::names(&tree.boards()) {
            let board = board::read(&tree.boards(), &name).unwrap();
            for id in crate::build::package_ids(&board) {
                assert!(pins.iter().any(|pin| pin.id == id), "board {name} wants {id}");
            }
        }
    }

    #[test]
    fn a_newer_kernels_files_are_found_where_older_ones_have_them() {
        let folder = tempfile::tempdir().unwrap();
        let modules = folder.path().join("usr/lib/modules/7.3-arm64");
        fs::create_dir_all(modules.join("dtb/broadcom")).unwrap();
        for name in ["vmlinuz", "config", "dtb/broadcom/x.dtb"] {
            fs::write(modules.join(name), name).unwrap();
        }
        lay_out_as_before(folder.path(), "7.3-arm64").unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(
            (read("boot/vmlinuz-7.3-arm64"), read("boot/config-7.3-arm64")),
            ("vmlinuz".into(), "config".into())
        );
        assert_eq!(read("usr/lib/linux-image-7.3-arm64/broadcom/x.dtb"), "dtb/broadcom/x.dtb");
        assert_eq!(read("lib/modules/7.3-arm64/config"), "config");
        lay_out_as_before(folder.path(), "7.3-arm64").unwrap();
    }

    #[test]
    fn a_part_is_renewed_with_its_kernel() {
        let name = name_of_part("linux-base-7.3.4+deb13-arm64", "linux-image-7.4.1+deb13-arm64");
        assert_eq!(name, "linux-base-7.4.1+deb13-arm64");
    }

    #[test]
    fn a_version_is_chosen_among_several() {
        let all = "Package: rust-src\nVersion: 1.96.1+dfsg1-2\n\nPackage: rust-src\nVersion: 1.95.0+dfsg1-2\nSize: 7\n";
        assert!(about_version(all, "1.95.0+").unwrap().contains("Size: 7"));
        assert_eq!(about_version(all, "1.9+"), None);
    }

    #[test]
    fn packages_of_another_system_are_taken_from_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let boot = folder.path().join("kernel/boot");
        fs::create_dir_all(&boot).unwrap();
        let ask = |ids: &[&str]| given(folder.path(), ids, "Buildroot").map_err(|error| error.to_string());
        assert!(ask(&["kernel"]).unwrap_err().ends_with("boot must hold one vmlinuz-RELEASE, and holds 0"));
        fs::write(boot.join("vmlinuz-6.12.1"), "").unwrap();
        let found = ask(&["kernel"]).unwrap();
        let (pin, path) = &found["kernel"];
        assert_eq!((pin.name.as_str(), pin.suite.as_str()), ("linux-image-6.12.1", "Buildroot"));
        assert_eq!(*path, folder.path().join("kernel"));
        assert!(ask(&["kernel", "u-boot-qemu"]).unwrap_err().ends_with("u-boot-qemu"));
    }

    #[test]
    fn a_package_nobody_pinned_is_named() {
        let error = fetch(&Tree::ours(), &["nonsense"]).unwrap_err().to_string();
        assert!(error.starts_with("image/packages.lock has no package nonsense; it holds kernel"), "{error}");
    }
}
