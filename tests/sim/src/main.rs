//! `cargo sim [SEED]`: one life of a cluster, or a minute of them.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long to try seeds when none is given.
const TRY: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let seed = std::env::args().nth(1);
    let seeds: Box<dyn Iterator<Item = u64>> = match seed.as_deref().map(str::parse) {
        None => Box::new(1..),
        Some(Ok(seed)) => Box::new(std::iter::once(seed)),
        Some(Err(_)) => {
            eprintln!("usage: cargo sim [SEED], where SEED is a number; got {:?}", seed.unwrap_or_default());
            return ExitCode::FAILURE;
        }
    };
    let start = Instant::now();
    for seed in seeds {
        if start.elapsed() > TRY {
            break;
        }
        let report = sim::run(seed);
        println!("{report}");
        if !report.broken.is_empty() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
