//! The two binaries, static, for the boards' processor.
//!
//! Start at [`build`]. The C compiler and linker come from PyPI's `ziglang`, in a virtual environment in `build/tools`; the
//! Rust library for the target from rustup, or from its source where rustup's server cannot be reached.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Doing, Result, wrong};
use crate::host::folder;
use crate::shell::{cargo, forget_outer_cargo, run, run_seen};
use crate::{Tree, packages};

/// What boards run.
pub const TARGET: &str = "aarch64-unknown-linux-musl";
/// In the folder of a library that we made: for which compiler. `rustup target add` wants that folder gone first.
const MARKER: &str = "made-from-source";
const TOOLS: [&str; 2] = ["ziglang==0.17.1", "cargo-zigbuild==0.24.0"];

const RUSTFLAGS_OF_TARGET: &str = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUSTFLAGS";

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
}

/// The binaries of `folder`, where one is given; otherwise builds both as they are shipped. Cargo knows what is built already.
pub fn build(tree: &Tree, folder: Option<&Path>) -> Result<Binaries> {
    if let Some(folder) = folder {
        return Ok(Binaries {
            init: must_exist(folder.join("skerry-init"))?,
            skerry: must_exist(folder.join("skerry"))?,
        });
    }
    let library = rust_target(tree)?;
    let tools = tools(tree)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let target_dir = tree.build.join("target");
    let mut zigbuild = Command::new(tools.join("cargo-zigbuild"));
    forget_outer_cargo(&mut zigbuild);
    zigbuild
        .args(["zigbuild", "--locked", "--release", "--target", TARGET, "-p", "init", "-p", "skerry", "--bins"])
        .current_dir(&tree.top)
        .env("PATH", format!("{}:{path}", tools.display()))
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ZIGBUILD_CACHE_DIR", tree.build.join("zig"))
        .env_remove("RUSTFLAGS");
    if library == Library::Made {
        // rustup's has the C library's start files beside it; here the linker brings its own.
        zigbuild.env(RUSTFLAGS_OF_TARGET, "-Clink-self-contained=no");
    }
    run_seen(&mut zigbuild)?;
    let made = target_dir.join(TARGET).join("release");
    Ok(Binaries { init: must_exist(made.join("skerry-init"))?, skerry: must_exist(made.join("skerry"))? })
}

fn must_exist(file: PathBuf) -> Result<PathBuf> {
    if file.exists() { Ok(file) } else { Err(wrong(format_args!("there is no {}", file.display()))) }
}

/// Sees to it that rustc has its library for the target: from rustup, or made from its source where rustup cannot give it.
fn rust_target(tree: &Tree) -> Result<Library> {
    let library = PathBuf::from(run(rustc().args(["--print", "target-libdir", "--target", TARGET]))?.trim());
    let compiler = run(rustc().arg("-vV"))?;
    let marker = library.join(MARKER);
    if fs::read_to_string(&marker).is_ok_and(|made_for| made_for != compiler) {
        fs::remove_dir_all(&library).doing("remove the Rust library that was made for another compiler")?;
    }
    if has_std(&library) {
        return Ok(if marker.exists() { Library::Made } else { Library::Rustups });
    }
    eprintln!("adding the Rust library for {TARGET}");
    let Err(refused) = run(Command::new("timeout").args(["180", "rustup", "target", "add", TARGET])) else {
        return Ok(Library::Rustups);
    };
    eprintln!("rustup cannot give it; making it from its source, which takes some minutes");
    let source = library_source(tree, &compiler).map_err(|error| wrong(format_args!("{refused}\n{error}")))?;
    make_library(tree, &source, &compiler, &library)?;
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

/// Builds the library as rustup's is built, and puts it where rustup would have.
fn make_library(tree: &Tree, source: &Path, compiler: &str, library: &Path) -> Result<()> {
    let commit = said(compiler, "commit-hash: ")?;
    let target_dir = tree.build.join("rust-library");
    let remap = format!("--remap-path-prefix={}=/rustc/{commit}/library", source.display());
    run_seen(
        cargo()
            .args(["build", "--locked", "--profile", "dist", "-p", "sysroot", "--features", "backtrace,panic-unwind"])
            .args(["--target", TARGET])
            .current_dir(source)
            .env("CARGO_TARGET_DIR", &target_dir)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("__CARGO_DEFAULT_LIB_METADATA", "stablestd")
            .env("RUSTFLAGS", format!("-Zforce-unstable-if-unmarked {remap}")),
    )?;
    folder(library)?;
    let made = target_dir.join(TARGET).join("dist/deps");
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

fn has_std(library: &Path) -> bool {
    let files = fs::read_dir(library).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
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
    fn what_the_compiler_does_not_say_is_named() {
        assert_eq!(
            said("release: 1.95.0\n", "commit-hash: ").unwrap_err().to_string(),
            "rustc -vV says no commit-hash: "
        );
    }
}
