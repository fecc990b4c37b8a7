//! A program that runs to its end before the services start: what it prepares, they need.
//!
//! Start at [`run`].
//!
//! Invariants:
//! * it has [`WITHIN`] and no more, and the watchdog is fed meanwhile;
//! * why it failed is one sentence, the last that it said.
//!
//! Its tests are in `tests/once.rs`: others here bury whatever child ends.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::facts::Service;
use crate::supervise::environment;

/// Reading a large file of an old card and writing it elsewhere on the same card takes minutes; more is no work any more.
const WITHIN: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Of what it says, so much is heeded.
const WORDS_BYTES_MAX: u64 = 64 << 10;

/// Runs it; gives back what it said, or why it failed. What it says lies in `folder` meanwhile; `alive` is called now and then.
pub fn run(service: &Service, folder: &Path, alive: &dyn Fn()) -> Result<String, String> {
    let path = folder.join(&service.name);
    let failed = |error: io::Error| format!("failed to run {}: {error}", service.program.display());
    fs::create_dir_all(folder).map_err(failed)?;
    let status = start(service, &path).and_then(|child| wait(child, alive)).map_err(failed)?;
    let mut said = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(WORDS_BYTES_MAX).read_to_end(&mut said));
    let _vanished = fs::remove_file(&path);
    read.map_err(failed)?;
    let said = String::from_utf8_lossy(&said);
    match status {
        Some(status) if status.success() => Ok(said.trim().to_owned()),
        Some(status) => Err(sentence(&said).map_or_else(|| format!("{}: {status}", service.name), str::to_owned)),
        None => Err(format!("{} was not done within {} s", service.name, WITHIN.as_secs())),
    }
}

fn start(service: &Service, output: &Path) -> io::Result<Child> {
    let output = File::create(output)?;
    let mut command = Command::new(&service.program);
    command.args(&service.args).env_clear().envs(environment(service)).current_dir("/");
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()
}

/// How it ended; nothing where it had to be ended.
fn wait(mut child: Child, alive: &dyn Fn()) -> io::Result<Option<ExitStatus>> {
    let began = Instant::now();
    while began.elapsed() < WITHIN {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        alive();
        sleep(LOOK_EVERY);
    }
    child.kill()?;
    child.wait().map(|_| None)
}

/// The last thing that was said, without the name that programs put before it.
fn sentence(said: &str) -> Option<&str> {
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(last.split_once(": ").filter(|(name, _)| !name.contains(' ')).map_or(last, |(_, rest)| rest))
}
