//! Every role of the cluster in one process: picks roles, makes clock and seed, wires the parts, supervises them.
//!
//! Start at [`main`], and from there at [`server::run`], the control plane and node of `skerry server`, or
//! [`agent::run`], a node of another machine's cluster; [`cli::Cli`] is what
//! can be asked for. Each role is one file under `roles/` and one line in [`roles::all`].
//!
//! Invariants:
//! * a role that fails or panics is started again, later each time, and takes no other role with it;
//! * time and chance are made here and nowhere else.
//!
//! Not here: what any role does (its own crate).
#![forbid(unsafe_code)]

pub mod agent;
pub mod backup;
mod certificates;
pub mod cli;
mod error;
mod net;
pub mod own_node;
pub mod restore;
pub mod roles;
pub mod server;
mod supervise;
pub mod telemetry;
mod time;
mod tokens;
pub mod update;

use std::process::ExitCode;

use clap::Parser;

pub use error::StartError;

use crate::cli::{Cli, Verb};

/// The exit code of a command that could not do what it was asked.
const FAILED: u8 = 1;

/// The program.
pub fn main() -> ExitCode {
    if let Some(code) = inner(std::env::args_os().skip(1)) {
        return ExitCode::from(code);
    }
    match Cli::parse().verb {
        Verb::Version => {
            println!("skerry {} (Kubernetes {}.{})", api::VERSION, api::MAJOR, api::MINOR);
            ExitCode::SUCCESS
        }
        Verb::Server(options) => told(server::run(options)),
        Verb::Agent(options) => told(agent::run(options)),
        Verb::Token(options) => told(tokens::run(options)),
        Verb::Logs(options) => told(telemetry::print_logs(options)),
        Verb::CollectLogs(options) => told(telemetry::collect_logs(options)),
        Verb::CollectMetrics(options) => told(telemetry::collect_metrics(options)),
        Verb::Cleanup(options) => told(server::clean_up(options)),
        Verb::UpdateAgent(options) => told(update::agent::run(options)),
        Verb::Backup(options) => told(backup::run(options)),
        Verb::Restore(options) => told(restore::run(options)),
    }
}

fn told(done: Result<(), impl std::error::Error + 'static>) -> ExitCode {
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
        "mounter" => kubelet::mounter_main(words),
        _ => return None,
    };
    Some(u8::try_from(code).unwrap_or(FAILED))
}
