//! Running other programs, so that a failure says which one and what it said.
//!
//! Start at [`run`].

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// Of what a failed program said, so many last lines are told.
const LINES_TOLD: usize = 12;

/// The folders where tools lie that a user's PATH may leave out.
const ALSO: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Runs a program to its end, quietly; gives back what it wrote.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::Program { program: name(command), said: error.to_string() })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.trim().lines().collect();
    let told = lines[lines.len().saturating_sub(LINES_TOLD)..].join("\n    ");
    Err(Error::Program { program: name(command), said: format!("{}\n    {told}", output.status) })
}

/// Runs a program with our own terminal; for what takes long and tells how far it is.
pub fn run_seen(command: &mut Command) -> Result<()> {
    let status =
        command.status().map_err(|error| Error::Program { program: name(command), said: error.to_string() })?;
    if status.success() { Ok(()) } else { Err(Error::Program { program: name(command), said: status.to_string() }) }
}

/// Cargo, for a build that is the same whoever starts it.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget_outer_cargo(&mut command);
    command
}

/// Keeps from a program what the cargo that runs us says of our package. Build scripts ask for the same names of their own
/// package (ring's does), so a cargo that inherits ours takes them for changed and builds half of everything again.
pub fn forget_outer_cargo(command: &mut Command) {
    const ABOUT_US: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"];
    for (name, _) in std::env::vars_os() {
        if ABOUT_US.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
}

/// A tool of the distribution: reproducible where it can be told to, and found beyond the user's PATH.
pub fn tool(program: &str) -> Command {
    let mut command = Command::new(find(program).unwrap_or_else(|| program.into()));
    // Every date in what is made is this one: 2020-01-01.
    command.env("SOURCE_DATE_EPOCH", EPOCH.to_string()).env("E2FSPROGS_FAKE_TIME", EPOCH.to_string());
    command.env("TZ", "UTC").env("LC_ALL", "C").env("MTOOLS_SKIP_CHECK", "1");
    command
}

/// The date of every file in an image.
pub const EPOCH: u64 = 1_577_836_800;

/// Where a program lies.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(ALSO.iter().map(PathBuf::from)).collect();
    folders.into_iter().map(|folder| folder.join(program)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

fn name(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args()).take(4);
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_which_program_and_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.starts_with("sh -c") && error.contains("broken") && error.contains('3'), "{error}");
    }

    #[test]
    fn an_inner_cargo_hears_nothing_of_our_package() {
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "cargo runs this test");
        let heard = run(Command::new("env").env("CARGO_PKG_NAME", "kept")).unwrap();
        assert!(heard.contains("CARGO_PKG_NAME=kept"));
        let mut command = Command::new("env");
        forget_outer_cargo(&mut command);
        assert!(!run(&mut command).unwrap().contains("CARGO_PKG_"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program")).unwrap_err().to_string();
        assert!(error.contains("no-such-program failed"), "{error}");
    }
}
