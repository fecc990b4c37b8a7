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

/// Loads each of `names` with all it needs; gives back how many files that were. What fails keeps no other one out, and all of
/// it is told in the end.
pub fn load_all(names: &[&str]) -> Result<usize, Error> {
    let folder = folder()?;
    let index = Index::read(&folder).doing(format_args!("read the index of {}", folder.display()))?;
    load_each(&index, names, |file| load(&folder.join(file)).doing(format_args!("load the module {file}")))
}

fn load_each(index: &Index, names: &[&str], load: impl Fn(&str) -> Result<(), Error>) -> Result<usize, Error> {
    let (mut count, mut failures) = (0, Vec::new());
    for (_, found) in index.resolve_each(names.iter().copied()) {
        match found {
            Err(unknown) => failures.push(unknown.to_string()),
            Ok(files) => {
                count += files.len();
                failures
                    .extend(files.iter().filter_map(|file| load(file).err()).map(|error| chain(&error).to_string()));
            }
        }
    }
    if failures.is_empty() { Ok(count) } else { Err(Error::Wrong(failures.join("; "))) }
}

fn folder() -> Result<PathBuf, Error> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").doing("read the kernel's version")?;
    Ok(PathBuf::from("/lib/modules").join(release.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// What is loaded for these names where `b` fails, and what is said.
    fn check(names: &[&str], loaded: &str, said: Result<usize, &str>) {
        let index = Index::parse("a.ko: need.ko\nb.ko:\nc.ko: need.ko\nneed.ko:\n", "", "", "built.ko\n");
        let order = RefCell::new(Vec::new());
        let done = load_each(&index, names, |file| {
            order.borrow_mut().push(file.to_owned());
            if file == "b.ko" { Err(Error::Wrong("failed to load b.ko".into())) } else { Ok(()) }
        });
        assert_eq!(order.take().join(" "), loaded);
        assert_eq!(done.map_err(|error| error.to_string()), said.map_err(str::to_owned));
    }

    #[test]
    fn each_is_loaded_once_after_what_it_needs() {
        check(&["a", "c", "built"], "need.ko a.ko c.ko", Ok(3));
    }

    #[test]
    fn one_that_fails_or_is_not_there_keeps_no_other_out() {
        let said = "failed to load b.ko; no kernel module answers to nobody";
        check(&["a", "b", "nobody", "c"], "need.ko a.ko b.ko c.ko", Err(said));
    }
}
