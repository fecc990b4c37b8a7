//! The `skerry` program.
//!
//! Start at [`main`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use skerry::cli::{Cli, Verb};
use skerry::server;

/// The exit code of a command that could not do what it was asked.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    if let Some(code) = inner(std::env::args_os().skip(1)) {
        return ExitCode::from(code);
    }
    let cli = Cli::parse();
    let done = match cli.verb {
        Verb::Version => {
            println!("skerry {} (Kubernetes {}.{})", api::VERSION, api::MAJOR, api::MINOR);
            Ok(())
        }
        Verb::Server(options) => server::run(options),
        Verb::Cleanup(options) => server::clean_up(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, the whole chain.
            eprintln!("skerry: {}", base::chain(&error));
            ExitCode::from(FAILED)
        }
    }
}

/// The verbs that this program is started again with by itself; they are not for people.
fn inner(mut words: impl Iterator<Item = std::ffi::OsString>) -> Option<u8> {
    let code = match words.next()?.to_str()? {
        "helper" => runtime::helper_main(words),
        "keeper" => keeper::main(words),
        _ => return None,
    };
    Some(u8::try_from(code).unwrap_or(FAILED))
}
