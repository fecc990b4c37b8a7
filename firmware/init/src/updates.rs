//! `skerry-init update`: the update service, and each of its verbs for whoever stands before the board.
//!
//! Start at [`main`].
//!
//! Not here: what the verbs do (`update`).

use std::env::consts::ARCH;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use base::chain;
use bundle::message::{Drain, Reply, Request, SOCKET, State, Status};
use bundle::{Bundle, Digest, Public, ask};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use slots::Name;
use update::run::{Board, serve};

use crate::facts::Facts;
use crate::phase::{Doing, Error};
use crate::trial::{CHECKS, NOTES};

/// What PID 1 booted from.
pub const BOOTED: &str = "/run/skerry/booted";
/// Keys that are trusted, of the image and of the board's settings.
const KEYS: [&str; 2] = ["/etc/skerry/update-keys", "/run/skerry/trusted-keys"];

const HELP: &str = "\
Updates of this board.

Usage: skerry-init update serve                 does what is asked over the update socket
       skerry-init update status                what runs, what is wanted, what went wrong last
       skerry-init update check FILE            whether this board would take the bundle
       skerry-init update stage FILE            check it and write it into the other slot
       skerry-init update activate DIGEST       try what is staged: restarts the machine
       skerry-init update roll-back             try the other slot, or give up a trial: restarts the machine
       skerry-init update withdraw DIGEST       forget a bundle, and that it failed
";

/// Does what the words say; gives back the exit code.
pub fn main(words: impl Iterator<Item = OsString>) -> u8 {
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["serve"] => run_service(),
        ["status"] => told(&Request::Status, None),
        ["check", file] => check(Path::new(file)),
        ["stage", file] => offer(Path::new(file)),
        ["activate", digest] => digest_of(digest).and_then(|digest| told(&Request::Activate { digest }, None)),
        ["roll-back"] => told(&Request::RollBack, None),
        ["withdraw", digest] => digest_of(digest).and_then(|digest| told(&Request::Withdraw { digest }, None)),
        _ => {
            eprint!("{HELP}");
            return 2;
        }
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("skerry-init: {}", chain(&error));
            1
        }
    }
}

fn run_service() -> Result<(), Error> {
    let restart = || {
        if let Err(errno) = kill(Pid::from_raw(1), Signal::SIGTERM) {
            eprintln!("PID 1 cannot be told to restart: {errno}");
        }
    };
    match serve(board()?, Path::new(SOCKET), restart) {
        Ok(never) => match never {},
        Err(error) => Err(wrong(&error)),
    }
}

/// What the files of the image and of PID 1 say of this board.
fn board() -> Result<Board, Error> {
    let facts = Facts::read(Path::new("/etc/skerry/board"))?;
    let booted = Facts::read(Path::new(BOOTED))?;
    let letter = booted.must("slot")?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").doing("ask the kernel for the boot's number")?;
    Ok(Board {
        name: facts.must("name")?.to_owned(),
        arch: arch().to_owned(),
        disk: PathBuf::from(booted.must("disk")?),
        running: Name::from_letter(letter).ok_or_else(|| Error::Wrong(format!("{BOOTED}: {letter:?} is no slot")))?,
        trusted: trusted(),
        healthy: booted.get("healthy").map(str::to_owned),
        notes: NOTES.into(),
        checks: CHECKS.into(),
        boot: boot.trim().to_owned(),
    })
}

/// As Kubernetes calls it.
fn arch() -> &'static str {
    match ARCH {
        "aarch64" => "arm64",
        "x86_64" => "amd64",
        other => other,
    }
}

/// A file with a wrong line is worth nothing, which is said; the keys of the other one still count.
fn trusted() -> Vec<Public> {
    let mut all = Vec::new();
    for path in KEYS {
        let Ok(text) = fs::read_to_string(path) else { continue };
        match bundle::trusted(&text) {
            Ok(keys) => all.extend(keys),
            Err(error) => eprintln!("{path} is not used: {}", chain(&error)),
        }
    }
    all
}

fn digest_of(text: &str) -> Result<Digest, Error> {
    text.parse().map_err(|error| wrong(&error))
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).doing(format_args!("open {}", path.display()))
}

/// Whether this board would take it: every byte is read, nothing is written.
fn check(path: &Path) -> Result<(), Error> {
    let mut bundle = Bundle::open(open(path)?, &trusted()).map_err(|error| wrong(&error))?;
    bundle.verify().map_err(|error| wrong(&error))?;
    let board = board()?;
    let mut device = update::Device::open(&board.disk).map_err(|error| wrong(&error))?;
    let mut suits = || -> Result<(), update::Error> {
        let slots = update::Slots::read(&mut device, &board.disk.display().to_string())?;
        let running = update::stage::head_of(&mut device, slots.place(board.running))?;
        let target = bundle::Target {
            board: board.name.clone(),
            arch: board.arch.clone(),
            security_epoch: running.map_or(0, |(head, _)| head.security_epoch),
            slot_bytes: slots.place(board.running.other()).bytes,
        };
        update::stage::check(&mut device, board.running, bundle.head(), &target)
    };
    suits().map_err(|error| wrong(&error))?;
    println!("version {} suits this board: {}", bundle.head().version, bundle.digest());
    Ok(())
}

fn offer(path: &Path) -> Result<(), Error> {
    told(&Request::Offer { drain: Drain::default() }, Some(&open(path)?))
}

fn told(request: &Request, file: Option<&File>) -> Result<(), Error> {
    match ask(Path::new(SOCKET), request, file).doing(format_args!("ask the update service at {SOCKET}"))? {
        Reply::Status(status) => print!("{}", text(&status)),
        Reply::Accepted { digest } => println!("{digest}"),
        Reply::Done => {}
        Reply::Refused(told) => return Err(Error::Wrong(told)),
    }
    Ok(())
}

/// A status for people and scripts: `name value` a line.
fn text(status: &Status) -> String {
    let mut text = format!("slot {}\nconfirmed {}\nversion {}\n", status.slot, status.confirmed, status.version);
    if let Some(digest) = status.digest {
        text += &format!("digest {digest}\n");
    }
    text += &format!("security_epoch {}\n", status.security_epoch);
    if let Some(wanted) = &status.wanted {
        let state = match wanted.state {
            State::Waiting => "waiting for its bytes".to_owned(),
            State::Staging { done, of } => format!("staging {done} of {of}"),
            State::Staged => "staged".to_owned(),
            State::Trial => "on trial".to_owned(),
        };
        text += &format!("wanted {} {}\nstate {state}\n", wanted.digest, wanted.version);
    }
    if let Some(failed) = &status.failed {
        // Of what is no bundle nobody knows a version.
        let named = format!("failed {} {}", failed.digest, failed.version);
        text += &format!("{}\ncause {}: {}\n", named.trim_end(), failed.cause, failed.told);
    }
    text
}

fn wrong(error: &dyn std::error::Error) -> Error {
    Error::Wrong(chain(error).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bundle::message::{Failed, Wanted};

    #[test]
    fn a_status_names_what_is_wanted_and_what_went_wrong() {
        let digest = Digest([0xab; 32]);
        let wanted =
            Wanted { digest, version: "3".into(), drain: Drain::default(), state: State::Staging { done: 1, of: 9 } };
        let failed = Failed { digest, version: "2".into(), cause: "api".into(), told: "it was silent".into() };
        let status = Status {
            slot: "a".into(),
            version: "1".into(),
            digest: None,
            security_epoch: 4,
            confirmed: true,
            wanted: Some(wanted),
            failed: Some(failed),
        };
        let expected = format!(
            "slot a\nconfirmed true\nversion 1\nsecurity_epoch 4\nwanted {digest} 3\nstate staging 1 of 9\nfailed {digest} 2\ncause api: it was silent\n"
        );
        assert_eq!(text(&status), expected);
    }

    #[test]
    fn unknown_words_are_answered_with_the_verbs() {
        assert_eq!(main(["fly".into()].into_iter()), 2);
        assert_eq!(main(["activate".into(), "1".into()].into_iter()), 1);
    }
}
