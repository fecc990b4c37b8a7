//! Machines lose power one after another, by chance, while things are written: real processes, a real kubectl.
//!
//! What was acknowledged is there in the end, and every pod runs. `SKERRY_SEED` says which chance it is. Needs root (network
//! namespaces) and, the first time, Debian's archive for the test images.
//!
//! Not here: what a disk loses, which goes on here (`cluster/store`'s tests, and `boot -- demo power` on boards).

mod made;

use std::thread::sleep;
use std::time::{Duration, Instant};

use base::Rng;
use conformance::{Machine, Site};
use workloads::power;

const AGENTS: usize = 2;
/// So long at least, and until each machine had its turn.
const GOES_ON: Duration = Duration::from_secs(30);
/// So many milliseconds between two cuts, and without power, at most.
const RUNS: u64 = 1_500;
const OFF: u64 = 500;

#[test]
fn what_was_acknowledged_outlives_cuts_of_power() {
    let seed = std::env::var("SKERRY_SEED").map_or(1, |text| text.parse().expect("a number"));
    let mut site = Site::start(&made::skerry(), Some(&made::test_images()), AGENTS);
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = folder.path().join("numbers.yaml");
    std::fs::write(&manifest, power::numbers(&folder.path().join("kept"))).expect("written");
    site.must(&format!("apply -f {}", manifest.display()));
    site.rolled_out("daemonset/numbers", 60);
    let user = (*site).clone();
    let cut = || cut_for_a_while(&mut site, &mut Rng::new(seed));
    let (acknowledged, cuts) = power::while_writing(&user, folder.path(), cut);
    println!("seed {seed}: {cuts:?} cuts, {} acknowledged writes", acknowledged.len());
    assert!(!acknowledged.is_empty());
    assert_eq!(power::lost(&user, &acknowledged), [""; 0]);
    site.rolled_out("daemonset/numbers", 60);
    power::every_pod_runs(&user);
}

/// How often each machine lost power, the server first.
fn cut_for_a_while(site: &mut Site, chance: &mut Rng) -> [usize; AGENTS + 1] {
    let (began, mut cuts) = (Instant::now(), [0; AGENTS + 1]);
    while began.elapsed() < GOES_ON || cuts.contains(&0) {
        let kept = last_numbers(site);
        sleep(Duration::from_millis(chance.below(RUNS)));
        let number = usize::try_from(chance.below(cuts.len() as u64)).expect("small");
        let machine = machine(site, number);
        machine.cut_power();
        sleep(Duration::from_millis(chance.below(OFF)));
        machine.run();
        cuts[number] += 1;
        site.wait_for_server();
        let now = last_numbers(site);
        // The last one may not have been kept yet.
        assert!(kept.iter().zip(&now).all(|(kept, now)| now + 1 >= *kept), "{kept:?} were kept, and {now:?} are left");
    }
    cuts
}

fn machine(site: &mut Site, number: usize) -> &mut Machine {
    match number {
        0 => &mut site.server,
        agent => &mut site.agents[agent - 1],
    }
}

fn last_numbers(site: &Site) -> Vec<u64> {
    let machines = std::iter::once(&site.server).chain(&site.agents);
    machines.map(|machine| power::last_number(site, &machine.name).expect("numbers in order")).collect()
}
