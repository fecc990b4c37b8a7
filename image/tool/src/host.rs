//! What a machine needs to build and boot images, and how it gets it.
//!
//! Start at [`prepare`]; [`prepare_to_play`] adds what only some boards need. As root, or by sudo without a password, missing
//! Debian packages are installed; otherwise the one line that does it is the error.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base::Bytes;
use board::{Architecture, Board};

use crate::error::{Doing, Result, wrong};
use crate::shell::{find, run, tool};
use crate::{Tree, packages};

/// The programs and the packages they come from.
const NEEDED: &[(&str, &str)] = &[
    ("qemu-system-aarch64", "qemu-system-arm"),
    ("mke2fs", "e2fsprogs"),
    ("sqfstar", "squashfs-tools"),
    ("mcopy", "mtools"),
    ("mkfs.fat", "dosfstools"),
    ("veritysetup", "cryptsetup-bin"),
    ("mkimage", "u-boot-tools"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("dpkg-deb", "dpkg"),
    ("python3", "python3-venv"),
    ("busybox", "busybox-static"),
    ("cc", "gcc"),
    ("zstd", "zstd"),
    ("kubectl", "kubernetes-client"),
];

/// What stays free however much is built already: below 4 GiB a node says that its disk is short.
const ROOM_LEFT: Bytes = Bytes::mib(6 << 10);

/// The QEMU that plays a processor, and the package it comes from.
pub fn qemu(architecture: Architecture) -> (&'static str, &'static str) {
    match architecture {
        Architecture::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
        Architecture::Amd64 => ("qemu-system-x86_64", "qemu-system-x86"),
    }
}

/// Sees to it that every program needed is there.
pub fn prepare(tree: &Tree) -> Result<()> {
    provide(tree, NEEDED)
}

/// The same, and what plays `board`: most machines never need QEMU for the rarer processors.
pub fn prepare_to_play(tree: &Tree, board: &Board) -> Result<()> {
    provide(tree, &[NEEDED, &[qemu(board.architecture)]].concat())
}

/// Sees to it that there is room for `wanted` less what was built already, before an hour's work ends for lack of it, and some
/// room for the folders that tests make.
pub fn room(tree: &Tree, wanted: Bytes) -> Result<()> {
    let built = sys::files::usage(&tree.top.join("target")) + sys::files::usage(&tree.build);
    for (folder, wanted, built) in [(&tree.top, wanted, built), (&std::env::temp_dir(), ROOM_LEFT, 0)] {
        let measured = sys::files::space(folder).map_err(std::io::Error::from);
        let (free, _) = measured.doing(format_args!("measure the disk with {}", folder.display()))?;
        if let Some(missing) = lacking(free, built, wanted) {
            return Err(wrong(format_args!(
                "the disk with {} has {} free and lacks {missing}: builds, images and what tests write take {wanted}, and nodes \
                 take no pods on a disk that is nearly full",
                folder.display(),
                Bytes(free)
            )));
        }
    }
    Ok(())
}

fn lacking(free: u64, built: u64, wanted: Bytes) -> Option<Bytes> {
    let missing = wanted.0.saturating_sub(built).max(ROOM_LEFT.0).saturating_sub(free);
    (missing > 0).then_some(Bytes(missing))
}

fn provide(tree: &Tree, needed: &[(&str, &str)]) -> Result<()> {
    let mut missing: Vec<&str> =
        needed.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if !has_venv() && !missing.contains(&"python3-venv") {
        missing.push("python3-venv");
    }
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let Some(root) = root_words() else {
        return Err(wrong(format_args!(
            "this machine lacks {}; install with\n\n    sudo apt-get install --no-install-recommends {}\n",
            missing.join(", "),
            missing.join(" ")
        )));
    };
    eprintln!("installing {}", missing.join(", "));
    install(tree, &root, &missing)?;
    let still: Vec<&str> =
        needed.iter().map(|(program, _)| *program).filter(|program| find(program).is_none()).collect();
    if still.is_empty() {
        Ok(())
    } else {
        Err(wrong(format_args!("still missing after installing: {}", still.join(", "))))
    }
}

/// Packages of this machine's distribution and what it lacks of what they need, unpacked into a folder in `build/` and not
/// installed: a server that is installed runs from then on. Answers the folder.
pub fn unpacked(tree: &Tree, name: &str, packages: &[&str]) -> Result<PathBuf> {
    let into = tree.build.join(name);
    if into.exists() {
        return Ok(into);
    }
    let Some(root) = root_words() else {
        return Err(wrong(format_args!("only root can fetch {} for this machine", packages.join(", "))));
    };
    eprintln!("fetching {}", packages.join(", "));
    let (debs, partial) = (into.with_extension("debs"), into.with_extension("partial"));
    for emptied in [&debs, &partial] {
        let _absent = fs::remove_dir_all(emptied);
        folder(emptied)?;
    }
    let options = if is_bookworm() { packages::host_options(tree)? } else { Vec::new() };
    run(apt(&root, &options).arg("update"))?;
    let archives = format!("Dir::Cache::archives={}/", debs.display());
    let only_fetch = ["install", "-y", "--no-install-recommends", "--download-only", "-o", &archives];
    run(apt(&root, &options).args(only_fetch).args(packages))?;
    for file in fs::read_dir(&debs).doing("list what was fetched")?.flatten() {
        if file.path().extension().is_some_and(|extension| extension == "deb") {
            run(tool("dpkg-deb").arg("-x").arg(file.path()).arg(&partial))?;
        }
    }
    fs::rename(&partial, &into).doing(format_args!("keep {}", into.display()))?;
    Ok(into)
}

fn has_venv() -> bool {
    Command::new("python3").args(["-c", "import venv, ensurepip"]).output().is_ok_and(|output| output.status.success())
}

/// The words before a command that make root run it; nothing where nobody can.
fn root_words() -> Option<Vec<&'static str>> {
    if nix::unistd::geteuid().is_root() {
        return Some(Vec::new());
    }
    let asks_nothing = Command::new("sudo").args(["-n", "true"]).output().is_ok_and(|output| output.status.success());
    asks_nothing.then(|| vec!["sudo", "-n"])
}

/// Debian 12's own QEMU is old, and does not go together with parts of a newer one; its backports hold version 10.
fn install(tree: &Tree, root: &[&str], missing: &[&str]) -> Result<()> {
    if is_bookworm() {
        let options = packages::host_options(tree)?;
        run(apt(root, &options).arg("update"))?;
        return run(apt(root, &options)
            .args(["install", "-y", "--no-install-recommends", "-t", "bookworm-backports"])
            .args(missing))
        .map(drop);
    }
    run(apt(root, &[]).arg("update"))?;
    run(apt(root, &[]).args(["install", "-y", "--no-install-recommends"]).args(missing)).map(drop)
}

fn apt(root: &[&str], options: &[String]) -> Command {
    let words: Vec<&str> =
        root.iter().copied().chain(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(options);
    command
}

fn is_bookworm() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| text.contains("VERSION_CODENAME=bookworm"))
}

/// A folder, made where it is missing.
pub fn folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).doing(format_args!("make {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_is_left_to_build_and_never_less_than_nodes_want() {
        const GIB: u64 = 1 << 30;
        let lacks =
            |free: u64, built: u64| lacking(free * GIB, built * GIB, Bytes(16 * GIB)).map(|Bytes(lacks)| lacks / GIB);
        assert_eq!(
            [lacks(16, 0), lacks(15, 0), lacks(8, 10), lacks(6, 16), lacks(4, 20)],
            [None, Some(1), None, None, Some(2)]
        );
    }
}
