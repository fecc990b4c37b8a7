//! What the kernel calls when it misses a module: loads it, and all it needs, from the root.
//!
//! Start at [`main`]. So a module costs memory and time only once something uses it: an nftables expression, a file
//! system, a kind of link.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use base::chain;
use sys::modules::{Index, load};

use crate::phase::{Doing, Error};

/// Tells the kernel to call us. `/sbin/modprobe` is where it looks by itself, so this is only to be sure.
pub const PROGRAM: &str = "/sbin/modprobe";

/// The program: options are read and change nothing, each other word is a module or an alias.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let quiet = words.iter().any(|word| word == "-q");
    let names: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    match load_all(&names) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            let said = format!("modprobe: {}\n", chain(&error));
            // The kernel asks for much that no machine has: its log is told, the console is not.
            let _untold = if quiet {
                fs::write("/dev/kmsg", format!("<6>{said}"))
            } else {
                io::stderr().write_all(said.as_bytes())
            };
            ExitCode::FAILURE
        }
    }
}

/// Loads each of `names` with all it needs; gives back how many files that were.
pub fn load_all(names: &[&str]) -> Result<usize, Error> {
    let folder = folder()?;
    let index = Index::read(&folder).doing(format_args!("read the index of {}", folder.display()))?;
    let files = index.resolve_all(names.iter().copied()).map_err(|unknown| Error::Wrong(unknown.to_string()))?;
    for file in &files {
        load(&folder.join(file)).doing(format_args!("load the module {file}"))?;
    }
    Ok(files.len())
}

fn folder() -> Result<PathBuf, Error> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").doing("read the kernel's version")?;
    Ok(PathBuf::from("/lib/modules").join(release.trim()))
}
