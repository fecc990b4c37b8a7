//! `skerry-init`: PID 1, the kernel's modprobe, and the keeper, by the name or the first word it is called with.
//!
//! Start at [`main`].
#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{ExitCode, id};
use std::thread::sleep;
use std::time::Duration;

use init::{console, early, modprobe, power, root, updates};

const HELP: &str = "\
PID 1 of a Skerry image.

Usage: skerry-init keeper --socket PATH    holds containers' processes and their output
       skerry-init update VERB             updates of this board; without a verb it tells which there are
       modprobe [-q] [--] NAME...          loads kernel modules with all they need

As PID 1 it boots the machine and keeps the services of /etc/skerry/services running.
";

/// A machine that cannot boot is restarted, so that a slot on trial uses up its tries. Long enough to read why.
const RESTART_AFTER: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut words = env::args_os();
    let name = words.next().unwrap_or_default();
    if id() == 1 {
        return as_pid_one();
    }
    if name.to_string_lossy().ends_with("modprobe") {
        return modprobe::main(words);
    }
    match words.next() {
        Some(verb) if verb == "keeper" => exit_code(keeper::main(words)),
        Some(verb) if verb == "update" => ExitCode::from(updates::main(words)),
        Some(verb) if verb == "--help" || verb == "-h" => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        other => {
            eprintln!("skerry-init: unknown word {:?}\n\n{HELP}", other.unwrap_or(OsString::new()));
            ExitCode::from(2)
        }
    }
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn as_pid_one() -> ExitCode {
    let outcome = catch_unwind(AssertUnwindSafe(|| if early::is_initramfs() { early::run() } else { root::run() }));
    match outcome {
        Ok(Ok(never)) => match never {},
        Ok(Err(error)) => console::say(format_args!("cannot boot: {}", base::chain(&error))),
        Err(_) => console::say("cannot boot: a bug in skerry-init ended its work; its message is above"),
    }
    console::say(format_args!("restarting in {} s", RESTART_AFTER.as_secs()));
    sleep(RESTART_AFTER);
    loop {
        power::now(power::Down::Restart);
        sleep(RESTART_AFTER);
    }
}
