//! The demonstration: three boards from three flashed cards on one cable, and what they show, one leg after the other.
//!
//! Start at [`LEGS`], one row a leg; [`run`] boots the boards, goes through them and prints what held. A leg works on a
//! [`Fleet`] and gives back what it saw, or why it does not hold.
//!
//! Invariants:
//! * a leg that fails, by an error or a panic, stops none of the others;
//! * every leg begins with all boards on and Ready.
//!
//! Not here: how boards are flashed and wired (`image`, its `fleet`).

mod backup;
mod clients;
mod collect;
mod fleet;
mod join;
mod logs;
mod loss;
mod neighbours;
mod nfs;
mod power;
mod refusals;
mod update;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

pub use fleet::{Answer, Fleet};

/// Something that the boards show.
pub struct Leg {
    /// Its name, as the command takes it.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// Does it: what was seen, or why it does not hold.
    pub run: fn(&mut Fleet) -> Answer<String>,
}

/// All legs, in the order in which they run.
pub const LEGS: &[Leg] = &[
    Leg {
        name: "join",
        shows: "three cards become a cluster: pods on each node, Services and DNS from every one",
        run: join::run,
    },
    Leg {
        name: "collect",
        shows: "logs and figures of all boards are in one place, those of a pod that is gone too",
        run: collect::run,
    },
    Leg {
        name: "logs",
        shows: "pods write through rotations while collectors and the store are killed: each line is stored once",
        run: logs::run,
    },
    Leg { name: "loss", shows: "a board is lost, and its pods run elsewhere within 60 s", run: loss::run },
    Leg {
        name: "power",
        shows: "boards lose power at random while things are written: what was acknowledged is there, every pod runs",
        run: power::run,
    },
    Leg {
        name: "nfs",
        shows: "boards share an export whose server dies and returns; a drained pod finds its data; a backup goes there",
        run: nfs::run,
    },
    Leg {
        name: "backup",
        shows: "the server's board is lost with its card: a blank one becomes the cluster again from one backup",
        run: backup::run,
    },
    Leg {
        name: "update",
        shows: "the boards' system is replaced by a DaemonSet and bad images are left, while a Service answers",
        run: update::run,
    },
    Leg {
        name: "refusals",
        shows: "bad bundles, a full disk, wrong tokens, settings, backups and claims: each refused with its reason",
        run: refusals::run,
    },
];

/// How a leg ended.
struct Outcome {
    leg: &'static Leg,
    answer: Answer<String>,
    took: Duration,
}

/// The legs of these names, or all; the name that is none's otherwise.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Leg>, String> {
    if let Some(stranger) = names.iter().find(|name| LEGS.iter().all(|leg| leg.name != **name)) {
        return Err(format!("there is no leg {stranger}; `demo --list` names them"));
    }
    Ok(LEGS.iter().filter(|leg| names.is_empty() || names.iter().any(|name| name == leg.name)).collect())
}

/// Boots the boards, runs the legs, prints a table; whether all held.
pub fn run(legs: &[&'static Leg]) -> bool {
    let mut fleet = match Fleet::new() {
        Ok(fleet) => fleet,
        Err(error) => {
            eprintln!("the boards cannot be had: {error}");
            return false;
        }
    };
    let outcomes: Vec<Outcome> = legs.iter().map(|leg| outcome(&mut fleet, leg)).collect();
    println!("\n{}", table(&outcomes));
    outcomes.iter().all(|outcome| outcome.answer.is_ok())
}

fn outcome(fleet: &mut Fleet, leg: &'static Leg) -> Outcome {
    let began = Instant::now();
    eprintln!("{}: {}", leg.name, leg.shows);
    let whole = catch_unwind(AssertUnwindSafe(|| fleet.is_ready().and_then(|_| (leg.run)(fleet))));
    let answer = whole.unwrap_or_else(|panic| Err(told(panic.as_ref())));
    let outcome = Outcome { leg, answer, took: began.elapsed() };
    // At once too: others may take an hour.
    eprint!("{}", table(std::slice::from_ref(&outcome)));
    outcome
}

/// What a panic said.
fn told(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

/// A number from the environment.
fn asked(name: &str, usual: u64) -> Answer<u64> {
    let Ok(text) = std::env::var(name) else { return Ok(usual) };
    text.parse().map_err(|_| format!("{name} is {text:?}, and must be a number"))
}

fn table(outcomes: &[Outcome]) -> String {
    let row = |outcome: &Outcome| {
        let (word, why) = match &outcome.answer {
            Ok(seen) => ("held", seen),
            Err(why) => ("DID NOT HOLD", why),
        };
        format!(
            "{:10} {word:12} {:6.0} s  {}\n{:33}{why}\n",
            outcome.leg.name,
            outcome.took.as_secs_f64(),
            outcome.leg.shows,
            ""
        )
    };
    outcomes.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legs_are_chosen_by_name_and_strangers_are_named() {
        assert_eq!(chosen(&[]).unwrap().len(), LEGS.len());
        assert_eq!(chosen(&["join".to_owned()]).unwrap()[0].name, "join");
        assert!(chosen(&["join".to_owned(), "fly".to_owned()]).is_err_and(|why| why.contains("no leg fly")));
    }

    #[test]
    fn the_table_says_why_a_leg_does_not_hold() {
        let outcome = |answer| Outcome { leg: &LEGS[0], answer, took: Duration::from_secs(7) };
        let text = table(&[outcome(Ok("9 of 9".to_owned())), outcome(Err("no answer".to_owned()))]);
        assert!(text.contains("held              7 s") && text.contains("9 of 9"), "{text}");
        assert!(text.contains("DID NOT HOLD      7 s") && text.contains("no answer"), "{text}");
    }
}
