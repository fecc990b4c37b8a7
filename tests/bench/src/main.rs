//! `cargo run --release -p bench -- REFERENCE.kubeconfig SKERRY.kubeconfig` compares two API servers.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use base::chain;
use bench::{Access, BenchError, Load, compare};
use clap::Parser;

/// Puts the same load on Kubernetes API servers in turns and prints what each does.
#[derive(Parser)]
#[command(name = "bench")]
struct Flags {
    /// Kubeconfigs of the servers; the ratio is of the last to the first.
    #[arg(required = true)]
    kubeconfigs: Vec<PathBuf>,
    /// Clients at once.
    #[arg(long, default_value_t = 50)]
    clients: usize,
    /// Seconds that each verb is measured in a round.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Seconds that each verb runs before.
    #[arg(long, default_value_t = 3)]
    warm_up: u64,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Flags::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> Result<(), BenchError> {
    let servers = flags.kubeconfigs.iter().map(|path| Access::read(path)).collect::<Result<Vec<_>, _>>()?;
    let load = Load {
        clients: flags.clients,
        time: Duration::from_secs(flags.seconds),
        warm_up: Duration::from_secs(flags.warm_up),
        rounds: flags.rounds,
    };
    print!("{}", compare(&servers, &load, Arc::new(sys::SystemClock)).await?);
    Ok(())
}
