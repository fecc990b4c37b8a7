//! The leg `power`: boards lose power at random while things are written.
//!
//! Start at [`run`]. Some write objects through the API, and a pod on each board writes numbers to its disk; what was
//! acknowledged must be there in the end. One board loses power at a time, and now and then another, or the same, while the
//! first comes back. `SKERRY_POWER_MINUTES` says for how long, `SKERRY_SEED` which chance it is.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base::Rng;
use workloads::User;

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
/// So many write through the API,
const WRITERS: usize = 3;
/// so many objects a call, one after the other.
const OBJECTS: usize = 10;
const CREATED: &str = " created";

/// Each pod, one a line: its name, its phase, whether it is Ready.
const PODS: &str = r#"get pods -A -o 'jsonpath={range .items[*]}{.metadata.name} {.status.phase} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}'"#;

/// On every board: numbers, one a line, each kept on the disk before the next.
const NUMBERS: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: numbers}
spec:
  selector: {matchLabels: {app: numbers}}
  template:
    metadata: {labels: {app: numbers}}
    spec:
      containers:
      - name: numbers
        image: busybox:1.28
        command:
        - sh
        - -c
        - |
          last=$(tail -n 1 /kept/numbers 2>/dev/null || echo 0)
          while :; do
            last=$((last + 1)); echo $last >>/kept/numbers && sync && sleep 0.3
          done
        volumeMounts: [{name: kept, mountPath: /kept}]
      volumes:
      - {name: kept, hostPath: {path: /data/demo-numbers, type: DirectoryOrCreate}}
"#;

/// Cuts the power of one board after another, and compares what there is with what was acknowledged.
pub fn run(fleet: &mut Fleet) -> Answer<String> {
    let minutes = asked("SKERRY_POWER_MINUTES", MINUTES)?;
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let seed = asked("SKERRY_SEED", 1)?;
    let user = fleet.user();
    fleet.apply(NUMBERS)?;
    user.rolled_out("daemonset/numbers", 60);
    let stop = AtomicBool::new(false);
    let (acknowledged, cuts) = std::thread::scope(|scope| {
        let (user, stop) = (&user, &stop);
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write_until(user, writer, stop))).collect();
        let cuts = catch_unwind(AssertUnwindSafe(|| cut_until(fleet, user, &mut Rng::new(seed), until)));
        stop.store(true, Ordering::Relaxed);
        let acknowledged = writers.into_iter().flat_map(|writer| writer.join().expect("the writer ends"));
        (acknowledged.collect::<Vec<String>>(), cuts)
    });
    let cuts = cuts.unwrap_or_else(|panic| resume_unwind(panic))?;
    if cuts.contains(&0) {
        return Err(format!("chance spared a board, with seed {seed}: its cuts were {cuts:?} in {minutes} minutes"));
    }
    let there = user.must("get configmaps -l demo=power -o name");
    let there: BTreeSet<&str> = there.lines().map(str::trim).collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|name| !there.contains(name.as_str())).collect();
    if !lost.is_empty() {
        return Err(format!("acknowledged and lost, with seed {seed}: {lost:?}"));
    }
    user.rolled_out("daemonset/numbers", 120);
    user.wait("every pod to run", user.limit(60), |user| {
        let (ok, pods) = user.kubectl(PODS);
        ok && pods.lines().all(|pod| pod.ends_with(" Running True") || pod.contains(" Succeeded "))
    });
    user.must("delete --raw /api/v1/namespaces/default/configmaps?labelSelector=demo%3Dpower");
    user.must("delete daemonset numbers");
    Ok(format!(
        "{minutes} minutes, seed {seed}, {cuts:?} cuts of the boards, {} acknowledged writes, none lost, every pod runs",
        acknowledged.len()
    ))
}

/// Writes objects of this writer's; the names of those that were acknowledged.
fn write_until(user: &User, writer: usize, stop: &AtomicBool) -> Vec<String> {
    let path = std::env::temp_dir().join(format!("skerry-demo-power-{writer}.json"));
    let mut acknowledged = Vec::new();
    for call in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let objects: Vec<String> = (0..OBJECTS).map(|object| config_map(writer, call * OBJECTS + object)).collect();
        let list = format!(r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#, objects.join(","));
        std::fs::write(&path, list).expect("a manifest can be written");
        // What was created is told also where the rest was not.
        let (_, said) = user.kubectl(&format!("create --request-timeout=5s -f {}", path.display()));
        acknowledged.extend(said.lines().filter_map(|line| line.strip_suffix(CREATED)).map(str::to_owned));
    }
    acknowledged
}

fn config_map(writer: usize, number: usize) -> String {
    let about = format!(r#"{{"name":"power-{writer}-{number}","labels":{{"demo":"power"}}}}"#);
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{about}}}"#)
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
    (1..=BOARDS).map(|board| last_number(user, &fleet.node(board))).collect()
}

/// The last number a board has kept; they follow one another without a hole.
fn last_number(user: &User, node: &str) -> Answer<u64> {
    let mut numbers = String::new();
    let until = Instant::now() + user.limit(60);
    while numbers.is_empty() {
        if Instant::now() > until {
            return Err(format!("no answer from the pod that counts on {node}\n{}", user.told()));
        }
        numbers = numbers_of(user, node).unwrap_or_default();
    }
    let numbers: Vec<u64> = numbers
        .lines()
        .map(|line| line.trim().parse().map_err(|_| format!("{line:?} on {node} is no number")))
        .collect::<Result<_, _>>()?;
    match numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        Some(pair) => Err(format!("on {node} {} comes after {}", pair[1], pair[0])),
        None => Ok(numbers.last().copied().unwrap_or(0)),
    }
}

fn numbers_of(user: &User, node: &str) -> Option<String> {
    let there = format!("get pods -l app=numbers --field-selector spec.nodeName={node} -o name");
    let pod = user.kubectl(&there).1.lines().next()?.to_owned();
    let (ok, numbers) = user.kubectl(&format!("exec {pod} -- cat /kept/numbers"));
    ok.then_some(numbers)
}
