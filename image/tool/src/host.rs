//! What a machine needs to build and boot images, and how it gets it.
//!
//! Start at [`prepare`]. As root, or by sudo without a password, missing Debian packages are installed; otherwise the one line
//! that does it is the error.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::error::{Doing, Result, wrong};
use crate::shell::{find, run};
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

/// Sees to it that every program needed is there.
pub fn prepare(tree: &Tree) -> Result<()> {
    let mut missing: Vec<&str> =
        NEEDED.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
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
        NEEDED.iter().map(|(program, _)| *program).filter(|program| find(program).is_none()).collect();
    if still.is_empty() {
        Ok(())
    } else {
        Err(wrong(format_args!("still missing after installing: {}", still.join(", "))))
    }
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
