//! The leg `power`: boards lose power at random while things are written.
//!
//! Start at [`run`]. Some write objects through the API, and a pod on each board writes numbers to its disk; what was
//! acknowledged must be there in the end. One board loses power at a time, and now and then another, or the same, while the
//! first comes back. `SKERRY_POWER_MINUTES` says for how long, `SKERRY_SEED` which chance it is.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use base::Rng;
use workloads::{User, power};

use super::fleet::BOARDS;
use super::{Answer, Fleet, asked};

/// How long it goes on unless told otherwise.
const MINUTES: u64 = 30;
/// Between a board that is Ready and the next cut: so many milliseconds at least, and so many more by chance.
const RUNS: (u64, u64) = (3_000, 12_000);
/// So many milliseconds without power at most.
const OFF: u64 = 4_000;
/// One cut in so many is followed by another before all boards are Ready again,
const HASTY: u64 = 3;
/// at most so many milliseconds after power is back.
const COMES_BACK: u64 = 12_000;
/// Where a board keeps its numbers.
const NUMBERS: &str = "/data/demo-numbers";

/// Cuts the power of one board after another, and compares what there is with what was acknowledged.
pub fn run(fleet: &mut Fleet) -> Answer<String> {
    let minutes = asked("SKERRY_POWER_MINUTES", MINUTES)?;
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let seed = asked("SKERRY_SEED", 1)?;
    let user = fleet.user();
    fleet.apply(&power::numbers(Path::new(NUMBERS)))?;
    user.rolled_out("daemonset/numbers", 60);
    let cut = || cut_until(fleet, &user, &mut Rng::new(seed), until);
    let (acknowledged, cuts) = power::while_writing(&user, &std::env::temp_dir(), cut);
    let cuts = cuts?;
    if cuts.contains(&0) {
        return Err(format!("chance spared a board, with seed {seed}: its cuts were {cuts:?} in {minutes} minutes"));
    }
    let lost = power::lost(&user, &acknowledged);
    if !lost.is_empty() {
        return Err(format!("acknowledged and lost, with seed {seed}: {lost:?}"));
    }
    user.rolled_out("daemonset/numbers", 120);
    power::every_pod_runs(&user);
    power::forget(&user);
    Ok(format!(
        "{minutes} minutes, seed {seed}, {cuts:?} cuts of the boards, {} acknowledged writes, none lost, every pod runs",
        acknowledged.len()
    ))
}

/// How often each board lost power.
type Cuts = [usize; BOARDS as usize];

/// Cuts and restores the power of one board after another.
fn cut_until(fleet: &Fleet, user: &User, chance: &mut Rng, until: Instant) -> Answer<Cuts> {
    let mut cuts = Cuts::default();
    while Instant::now() < until {
        sleep(Duration::from_millis(RUNS.0 + chance.below(RUNS.1)));
        let kept = last_numbers(fleet, user)?;
        println!("the boards have kept {kept:?} numbers");
        let mut board = cut_one(fleet, chance, &mut cuts)?;
        while chance.below(HASTY) == 0 {
            fleet.boot(board)?;
            sleep(Duration::from_millis(chance.below(COMES_BACK)));
            board = cut_one(fleet, chance, &mut cuts)?;
        }
        fleet.is_ready()?;
        let now = last_numbers(fleet, user)?;
        // The last one may not have been kept yet.
        if kept.iter().zip(&now).any(|(kept, now)| now + 1 < *kept) {
            return Err(format!("the boards had kept {kept:?} numbers, and {now:?} are left"));
        }
    }
    Ok(cuts)
}

/// Takes the power from one board for a moment, whatever it does; which one.
fn cut_one(fleet: &Fleet, chance: &mut Rng, cuts: &mut Cuts) -> Answer<u8> {
    let board = u8::try_from(1 + chance.below(u64::from(BOARDS))).expect("small");
    println!("power cut on {}", fleet.node(board));
    fleet.cut_power(board)?;
    cuts[usize::from(board - 1)] += 1;
    sleep(Duration::from_millis(chance.below(OFF)));
    Ok(board)
}

/// The last number that each board has kept.
fn last_numbers(fleet: &Fleet, user: &User) -> Answer<Vec<u64>> {
    (1..=BOARDS).map(|board| power::last_number(user, &fleet.node(board))).collect()
}
