//! The two binaries, static, for the boards' processor.
//!
//! Start at [`build`]. The C compiler and linker come from PyPI's `ziglang`, in a virtual environment in `build/tools`; the
//! Rust library for the target from rustup.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Tree;
use crate::error::{Doing, Result, wrong};
use crate::shell::{forget_outer_cargo, run, run_seen};

/// What boards run.
pub const TARGET: &str = "aarch64-unknown-linux-musl";
const TOOLS: [&str; 2] = ["ziglang==0.17.1", "cargo-zigbuild==0.24.0"];

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
    rust_target()?;
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
    run_seen(&mut zigbuild)?;
    let made = target_dir.join(TARGET).join("release");
    Ok(Binaries { init: must_exist(made.join("skerry-init"))?, skerry: must_exist(made.join("skerry"))? })
}

fn must_exist(file: PathBuf) -> Result<PathBuf> {
    if file.exists() { Ok(file) } else { Err(wrong(format_args!("there is no {}", file.display()))) }
}

fn rust_target() -> Result<()> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let library = run(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]))?;
    if has_std(Path::new(library.trim())) {
        return Ok(());
    }
    eprintln!("adding the Rust library for {TARGET}");
    run(Command::new("rustup").args(["target", "add", TARGET])).map(drop)
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
