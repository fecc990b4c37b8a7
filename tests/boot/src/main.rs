//! `cargo run --release -p boot -- figures [BOOTS [MINUTES]]` measures the booted image: boots, memory, idleness, size.
//! `cargo run --release -p boot -- cuts` cuts the power at every moment of an update.
//! `cargo run -p boot -- demo [LEG...]` boots three boards into a cluster and tells what of the demonstration held.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use boot::demo::{LEGS, chosen, run};

const USAGE: &str = "\
usage: boot figures [BOOTS [MINUTES]]    (5 boots and 10 idle minutes, unless told otherwise)
       boot cuts                         (one update, recorded; its disk at every flush; a boot from every ledger)
       boot demo [LEG...]                (three boards on one cable; `demo --list` names the legs)";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, usual: u64| words.get(at).map_or(Ok(usual), |word| word.parse::<u64>());
    match (words.first().map(String::as_str), number(1, 5), number(2, 10)) {
        (Some("figures"), Ok(boots @ 1..), Ok(minutes)) if words.len() <= 3 => {
            let boots = usize::try_from(boots).unwrap_or(usize::MAX);
            let broken = boot::figures::measure(boots, Duration::from_secs(60 * minutes));
            broken.iter().for_each(|promise| eprintln!("not kept: {promise}"));
            if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        (Some("cuts"), ..) if words.len() == 1 => {
            let seen = boot::cuts::show();
            println!(
                "{} writes, {} flushes: {} file systems and {} slots were whole, and each of {} ledgers booted",
                seen.writes,
                seen.flushes,
                seen.file_systems,
                seen.slots,
                seen.ledgers.len()
            );
            ExitCode::SUCCESS
        }
        (Some("demo"), ..) => demo(&words[1..]),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn demo(names: &[String]) -> ExitCode {
    if names == ["--list"] {
        for leg in LEGS {
            println!("{:10} {}", leg.name, leg.shows);
        }
        return ExitCode::SUCCESS;
    }
    match chosen(names) {
        Ok(legs) if run(&legs) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}
