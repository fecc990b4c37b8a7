//! From a board and artifacts to a bootable, reproducible disk; and from there to a running machine.
//!
//! Start at [`layout::plan`], which decides what lies where, and [`build::build`], which makes it so. [`up::up`] builds, boots
//! in QEMU and waits; [`flash::flash`] writes a card.
//!
//! Invariants:
//! * the same sources, packages and board give the same bytes; nothing needs root rights but installing missing tools;
//! * file systems are made by the distribution's own tools, packages are those of `image/packages.lock`;
//! * everything that is made lies in `build/`; the machine's own package sources stay as they are.
//!
//! Not here: what a board is (`board`), what happens once it runs (`init`).
#![forbid(unsafe_code)]

pub mod build;
pub mod bundle;
pub mod cpio;
pub mod cross;
pub mod device;
pub mod error;
pub mod external;
pub mod flash;
pub mod fleet;
pub mod host;
pub mod kernel;
pub mod layout;
pub mod licences;
pub mod modules;
pub mod packages;
pub mod parts;
pub mod preload;
pub mod qemu;
pub mod root;
pub mod script;
pub mod shell;
pub mod up;
pub mod verity;

use std::path::{Path, PathBuf};

use board::Board;

/// The folders that everything is relative to.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The repository.
    pub top: PathBuf,
    /// What is made.
    pub build: PathBuf,
    /// The public keys whose updates the images made here trust, one a line.
    pub trusted: String,
}

impl Tree {
    /// The repository this tool was built in.
    pub fn ours() -> Tree {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let top = top.canonicalize().unwrap_or(top);
        Tree { build: top.join("build"), top, trusted: String::new() }
    }

    /// Where boards are described.
    pub fn boards(&self) -> PathBuf {
        self.top.join("boards")
    }

    /// Where the board's file, or one that it inherits from, names a module or a package.
    fn place(&self, board: &Board, module_or_package: &str) -> String {
        let place = board::place(&self.boards(), &board.name, module_or_package);
        place.unwrap_or_else(|| format!("board {}", board.name))
    }
}
