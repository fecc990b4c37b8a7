//! The two binaries, static, for a board's processor; and our boot loader, where UEFI starts it.
//!
//! Start at [`build`]. The C compiler and linker come from PyPI's `ziglang`, in a virtual environment in `build/tools`; the
//! Rust library for the target from rustup, or from its source where rustup's server cannot be reached.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use board::{Architecture, Board, Loader};

use crate::error::{Doing, Result, wrong};
use crate::host::folder;
use crate::shell::{cargo, forget_outer_cargo, run, run_seen};
use crate::{Tree, packages};

/// What a board's processor runs: under Linux, and under UEFI.
fn targets(architecture: Architecture) -> [&'static str; 2] {
    match architecture {
        Architecture::Arm64 => ["aarch64-unknown-linux-musl", "aarch64-unknown-uefi"],
        Architecture::Amd64 => ["x86_64-unknown-linux-musl", "x86_64-unknown-uefi"],
    }
}

/// In the folder of a library that we made: for which compiler. `rustup target add` wants that folder gone first.
const MARKER: &str = "made-from-source";
const TOOLS: [&str; 2] = ["ziglang==0.17.1", "cargo-zigbuild==0.24.0"];

const LOADER: &str = "skerry-loader.efi";
/// No dates in the file: the same source gives the same bytes.
const LOADER_FLAGS: &str = "-Clink-arg=/Brepro";

/// Where the Rust library for the target is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Library {
    Rustups,
    Made,
}

/// The binaries.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// PID 1.
    pub init: PathBuf,
    /// Everything else.
    pub skerry: PathBuf,
    /// The boot loader, where the board is booted by ours.
    pub loader: Option<PathBuf>,
}

/// The binaries of `folder`, where one is given; otherwise builds them as they are shipped. Cargo knows what is built already.
pub fn build(tree: &Tree, board: &Board, folder: Option<&Path>) -> Result<Binaries> {
    let has_loader = board.loader == Loader::Uefi;
    if let Some(folder) = folder {
        return Ok(Binaries {
            init: must_exist(folder.join("skerry-init"))?,
            skerry: must_exist(folder.join("skerry"))?,
            loader: has_loader.then(|| must_exist(folder.join(LOADER))).transpose()?,
        });
    }
    let [target, uefi] = targets(board.architecture);
    let loader = has_loader.then(|| build_loader(tree, uefi)).transpose()?;
    let library = rust_target(tree, target)?;
    let tools = tools(tree)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let target_dir = tree.build.join("target");
    let mut zigbuild = Command::new(tools.join("cargo-zigbuild"));
    forget_outer_cargo(&mut zigbuild);
    zigbuild
        .args(["zigbuild", "--locked", "--release", "--target", target, "-p", "init", "-p", "skerry", "--bins"])
        .current_dir(&tree.top)
        .env("PATH", format!("{}:{path}", tools.display()))
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ZIGBUILD_CACHE_DIR", tree.build.join("zig"))
        .env_remove("RUSTFLAGS");
    if library == Library::Made {
        // rustup's has the C library's start files beside it; here the linker brings its own.
        zigbuild.env(rustflags_of(target), "-Clink-self-contained=no");
    }
    run_seen(&mut zigbuild)?;
    let made = target_dir.join(target).join("release");
    Ok(Binaries { init: must_exist(made.join("skerry-init"))?, skerry: must_exist(made.join("skerry"))?, loader })
}

/// The boot loader: no C in it, and linked by what comes with the compiler.
fn build_loader(tree: &Tree, target: &str) -> Result<PathBuf> {
    rust_target(tree, target)?;
    let target_dir = tree.build.join("target");
    run_seen(
        cargo()
            .args(["build", "--locked", "--release", "--target", target, "-p", "efi", "--bins"])
            .current_dir(&tree.top)
            .env("CARGO_TARGET_DIR", &target_dir)
            .env(rustflags_of(target), LOADER_FLAGS)
            .env_remove("RUSTFLAGS"),
    )?;
    must_exist(target_dir.join(target).join("release").join(LOADER))
}

/// The variable that holds the compiler's flags for a target.
fn rustflags_of(target: &str) -> String {
    format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"))
}

fn must_exist(file: PathBuf) -> Result<PathBuf> {
    if file.exists() { Ok(file) } else { Err(wrong(format_args!("there is no {}", file.display()))) }
}

/// Sees to it that rustc has its library for a target: from rustup, or made from its source where rustup cannot give it.
fn rust_target(tree: &Tree, target: &str) -> Result<Library> {
    let library = PathBuf::from(run(rustc().args(["--print", "target-libdir", "--target", target]))?.trim());
    let compiler = run(rustc().arg("-vV"))?;
    let marker = library.join(MARKER);
    if fs::read_to_string(&marker).is_ok_and(|made_for| made_for != compiler) {
        fs::remove_dir_all(&library).doing("remove the Rust library that was made for another compiler")?;
    }
    if has_library(&library) {
        return Ok(if marker.exists() { Library::Made } else { Library::Rustups });
    }
    eprintln!("adding the Rust library for {target}");
    let Err(refused) = run(Command::new("timeout").args(["180", "rustup", "target", "add", target])) else {
        return Ok(Library::Rustups);
    };
    eprintln!("rustup cannot give it; making it from its source, which takes some minutes");
    let source = library_source(tree, &compiler).map_err(|error| wrong(format_args!("{refused}\n{error}")))?;
    make_library(tree, target, &source, &compiler, &library)?;
    fs::write(&marker, &compiler).doing(format_args!("write {}", marker.display()))?;
    Ok(Library::Made)
}

fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// The source of the compiler's own library: rustup's component where it is installed, else Debian's package.
fn library_source(tree: &Tree, compiler: &str) -> Result<PathBuf> {
    let sysroot = run(rustc().args(["--print", "sysroot"]))?;
    let component = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    if component.join("Cargo.lock").exists() {
        return Ok(component);
    }
    let release = said(compiler, "release: ")?;
    let id = format!("rust-src-{release}");
    let packages = packages::fetch(tree, &[&id])?;
    Ok(packages[&id].1.join(format!("usr/src/rustc-{release}/library")))
}

/// Builds the library as rustup's is built, and puts it where rustup would have. Under UEFI our loader has no use for more than
/// what needs no operating system.
fn make_library(tree: &Tree, target: &str, source: &Path, compiler: &str, library: &Path) -> Result<()> {
    let parts: &[&str] = if target.ends_with("-uefi") {
        &["-p", "alloc", "--features", "compiler-builtins-mem"]
    } else {
        &["-p", "sysroot", "--features", "backtrace,panic-unwind"]
    };
    let commit = said(compiler, "commit-hash: ")?;
    let target_dir = tree.build.join("rust-library");
    let remap = format!("--remap-path-prefix={}=/rustc/{commit}/library", source.display());
    run_seen(
        cargo()
            .args(["build", "--locked", "--profile", "dist", "--target", target])
            .args(parts)
            .current_dir(source)
            .env("CARGO_TARGET_DIR", &target_dir)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("__CARGO_DEFAULT_LIB_METADATA", "stablestd")
            .env("RUSTFLAGS", format!("-Zforce-unstable-if-unmarked {remap}")),
    )?;
    folder(library)?;
    let made = target_dir.join(target).join("dist/deps");
    for file in fs::read_dir(&made).doing(format_args!("list {}", made.display()))?.flatten() {
        if file.path().extension().is_some_and(|kind| kind == "rlib") {
            let into = library.join(file.file_name());
            fs::copy(file.path(), &into).doing(format_args!("write {}", into.display()))?;
        }
    }
    Ok(())
}

/// What `rustc -vV` says behind `name`.
fn said<'a>(compiler: &'a str, name: &str) -> Result<&'a str> {
    let found = compiler.lines().find_map(|line| line.strip_prefix(name));
    found.ok_or_else(|| wrong(format_args!("rustc -vV says no {name}")))
}

fn has_library(library: &Path) -> bool {
    let files = fs::read_dir(library).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("liballoc-"))
}

fn tools(tree: &Tree) -> Result<PathBuf> {
    let folder = tree.build.join("tools/venv");
    let (bin, done) = (folder.join("bin"), folder.join("installed"));
    let wanted = TOOLS.join("\n");
    if fs::read_to_string(&done).is_ok_and(|text| text == wanted) {
        return Ok(bin);
    }
    eprintln!("fetching the C compiler ({})", TOOLS.join(", "));
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    run(Command::new(bin.join("pip")).args(["install", "--quiet", "--disable-pip-version-check"]).args(TOOLS))?;
    fs::write(&done, wanted).doing("note that the compiler is there")?;
    Ok(bin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_librarys_source_is_pinned_for_the_compiler_in_use() {
        let compiler = run(rustc().arg("-vV")).unwrap();
        let release = said(&compiler, "release: ").unwrap();
        // Another compiler may be used, and then rustup must have its library; ours is the one of the workspace.
        let pins = packages::read(&Tree::ours()).unwrap();
        let pinned = pins.iter().any(|pin| pin.id == format!("rust-src-{release}") && pin.version.starts_with(release));
        assert!(pinned || !release.starts_with(env!("CARGO_PKG_RUST_VERSION")), "rustc is {release}");
    }

    #[test]
    fn the_compiler_knows_the_targets_of_every_board() {
        let known = run(rustc().args(["--print", "target-list"])).unwrap();
        for name in board::names(&Tree::ours().boards()) {
            let board = board::read(&Tree::ours().boards(), &name).unwrap();
            for target in targets(board.architecture) {
                assert!(known.lines().any(|line| line == target), "{name}: {target}");
            }
        }
        assert_eq!(rustflags_of("x86_64-unknown-uefi"), "CARGO_TARGET_X86_64_UNKNOWN_UEFI_RUSTFLAGS");
    }

    #[test]
    fn what_the_compiler_does_not_say_is_named() {
        assert_eq!(
            said("release: 1.95.0\n", "commit-hash: ").unwrap_err().to_string(),
            "rustc -vV says no commit-hash: "
        );
    }
}
