//! `image`: builds images and runs them.
//!
//! Start at [`Verb`]; each has one function in the library.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use base::chain;
use clap::{Parser, Subcommand};
use image::error::{Doing, Result, wrong};
use image::qemu::Way;
use image::up::{Wanted, down, up};
use image::{Tree, build, cross, host, packages, shell};

/// Builds Skerry's images and runs them.
#[derive(Parser)]
#[command(name = "image", disable_version_flag = true)]
struct Words {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Builds an image, boots it in QEMU, waits for the node and writes a kubeconfig
    Up {
        /// The board to play
        #[arg(long, default_value = "qemu-arm64")]
        board: String,
        /// Begin with an empty data partition
        #[arg(long)]
        fresh: bool,
        /// Boot the kernel directly, without U-Boot: some seconds faster
        #[arg(long)]
        direct: bool,
        /// A folder with `skerry` and `skerry-init` for the board, instead of building them
        #[arg(long, value_name = "FOLDER")]
        binaries: Option<PathBuf>,
        /// A folder of container images to put into the root [default: the test images]
        #[arg(long, value_name = "FOLDER")]
        images: Option<PathBuf>,
        /// The kubeconfig to write [default: build/kubeconfig]
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
    },
    /// Switches the machine of `up` off; its data stays
    Down {
        /// The board it plays
        #[arg(long, default_value = "qemu-arm64")]
        board: String,
    },
    /// Builds an image for a board
    Build {
        /// The board
        #[arg(long)]
        board: String,
        /// The disk image to write [default: build/images/BOARD/disk.img]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// A folder with `skerry` and `skerry-init` for the board, instead of building them
        #[arg(long, value_name = "FOLDER")]
        binaries: Option<PathBuf>,
        /// A folder of container images to put into the root
        #[arg(long, value_name = "FOLDER")]
        images: Option<PathBuf>,
        /// Show what lies where and write nothing beyond the build folder
        #[arg(long)]
        dry_run: bool,
    },
    /// Shows the Debian packages in use, or renews them
    Lock {
        /// Pin what Debian has now
        #[arg(long)]
        update: bool,
    },
    /// Runs every test
    Verify,
}

fn main() -> ExitCode {
    let tree = Tree::ours();
    let outcome = match Words::parse().verb {
        Verb::Up { board, fresh, direct, binaries, images, kubeconfig } => {
            let way = if direct { Way::Direct } else { Way::Loader };
            up(&tree, &Wanted { board, fresh, way, binaries, images, kubeconfig })
        }
        Verb::Down { board } => {
            down(&tree, &board).map(|ran| println!("{}", if ran { "it is off" } else { "it was off" }))
        }
        Verb::Build { board, out, binaries, images, dry_run } => {
            build_one(&tree, &board, out, binaries, images, dry_run)
        }
        Verb::Lock { update } => lock(&tree, update),
        Verb::Verify => verify(&tree),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn build_one(
    tree: &Tree,
    board: &str,
    out: Option<PathBuf>,
    binaries: Option<PathBuf>,
    images: Option<PathBuf>,
    dry_run: bool,
) -> Result<()> {
    let board = board::read(&tree.boards(), board)?;
    host::prepare(tree)?;
    let binaries = cross::build(tree, binaries.as_deref())?;
    let image = build::build(tree, &board, &binaries, images.as_deref())?;
    print!("{}", image.layout);
    if dry_run {
        return Ok(());
    }
    let disk = match out {
        Some(out) => {
            let copied = shell::run(Command::new("cp").arg("--sparse=always").arg(&image.disk).arg(&out));
            copied.map(|_| out)?
        }
        None => image.disk,
    };
    println!("{} (sha256 {})", disk.display(), packages::sha256(&disk)?);
    Ok(())
}

fn lock(tree: &Tree, update: bool) -> Result<()> {
    if update {
        let changed = packages::update(tree)?;
        println!(
            "{}",
            if changed.is_empty() { "everything is as new as it gets".to_owned() } else { changed.join("\n") }
        );
        return Ok(());
    }
    for pin in packages::read(tree)? {
        println!("{:<16} {} {} ({})", pin.id, pin.name, pin.version, pin.suite);
    }
    Ok(())
}

/// The tests of every crate, then those that need an image: they take longest, and only make sense once the others pass.
fn verify(tree: &Tree) -> Result<()> {
    host::prepare(tree)?;
    cargo(tree, &["test", "--workspace", "--exclude", "boot", "--locked", "--no-fail-fast"])?;
    cargo(tree, &["test", "-p", "boot", "--locked", "--", "--nocapture"])
}

fn cargo(tree: &Tree, words: &[&str]) -> Result<()> {
    let status = shell::cargo().args(words).current_dir(&tree.top).status().doing("run cargo")?;
    if status.success() { Ok(()) } else { Err(wrong(format_args!("cargo {} failed: {status}", words.join(" ")))) }
}
