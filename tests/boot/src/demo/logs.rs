//! The leg `logs`: pods of all boards write numbered lines, while collectors, the server and the server's board die.
//!
//! Start at [`run`]. Each board has a pod with long lines, whose file the kubelet rotates meanwhile, and one with short ones. First
//! collectors and the server's process are killed; then the server's board loses power, while the others write on. In the end
//! every line is in the store once, after its pod was deleted. `SKERRY_LOG_LINES` says how many lines there are.
//!
//! Not here: a million lines of twenty pods (`conformance`, its test `logs`), files that are rotated away unread (`telemetry`).

use std::thread::sleep;
use std::time::{Duration, Instant};

use workloads::User;
use workloads::lines::{Lines, each_once, stored};

use super::collect::deploy;
use super::fleet::BOARDS;
use super::{Answer, Fleet, asked};

/// Of all pods together, unless told otherwise: what three emulated boards write and send in two minutes.
const LINES: u64 = 72_000;
/// A short line is longer than its number by this much; a long one so that twelve thousand are more than a file of a log holds.
const PADS: [usize; 2] = [40, 1200];
/// The server's board is through first; the others write while it is without power.
const PAUSES: [u32; 2] = [16, 40];
const SERVER: u8 = 1;
/// Of a board without power.
const OFF: Duration = Duration::from_secs(5);
/// Emulated boards are slow, and those that come back read what they missed.
const WRITTEN_WITHIN: Duration = Duration::from_secs(420);
const STORED_WITHIN: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_secs(3);

/// A pod that writes.
struct Writer {
    name: String,
    board: u8,
}

/// Writes, breaks, and counts.
pub fn run(fleet: &mut Fleet) -> Answer<String> {
    let fleet = &*fleet;
    let user = fleet.user();
    deploy(&user, "logs");
    fleet.lend_hands()?;
    let writers: Vec<Writer> = (1..=BOARDS).flat_map(|board| PADS.map(|pad| writer(board, pad))).collect();
    let count = usize::try_from(asked("SKERRY_LOG_LINES", LINES)?).map_err(|error| error.to_string())? / writers.len();
    fleet.apply(&manifests(count, &writers, |board| fleet.node(board)))?;
    let began = Instant::now();
    let mut kills = kill(fleet, &[2, SERVER, 3])?;
    fleet.kill(SERVER, "server")?;
    kills += kill(fleet, &[2])?;
    println!("{kills} collectors and the server were killed, {:.0?} after the pods began", began.elapsed());
    is_written(fleet, &user, &writers, |writer| writer.board == SERVER)?;
    let mut rotated = rotated(fleet, SERVER)?;
    // What a pod wrote is on its board's disk after half a minute by itself; power that goes before takes it along.
    fleet.by_hand(SERVER, "sync")?;
    let phases = phases(&user);
    if !phases.contains("Running") {
        return Err(format!("nobody writes any more when the power goes: {phases}"));
    }
    fleet.cut_power(SERVER)?;
    sleep(OFF);
    let back = fleet.is_ready()?;
    println!("the server's board is back {back:.0?} after it was switched on");
    kills += kill(fleet, &[3])?;
    is_written(fleet, &user, &writers, |_| true)?;
    for board in 2..=BOARDS {
        rotated += self::rotated(fleet, board)?;
    }
    // What is gone is read by who comes later.
    kills += kill(fleet, &[2])?;
    let names: Vec<&str> = writers.iter().map(|writer| writer.name.as_str()).collect();
    user.must(&format!("delete pods {}", names.join(" ")));
    let took = are_stored(&user, &names, count)?;
    fleet.take_hands()?;
    Ok(format!(
        "{} lines of {} pods, {rotated} files rotated; {kills} collectors killed, the server once, and its board lost power: each \
         line is stored once, {took:.0?} after the pods were deleted",
        count * names.len(),
        names.len()
    ))
}

fn writer(board: u8, pad: usize) -> Writer {
    Writer { name: format!("writer-{board}-{pad}"), board }
}

fn manifests(count: usize, writers: &[Writer], node: impl Fn(u8) -> String) -> String {
    let manifest = |(writer, pad): (&Writer, usize)| {
        let pause_seconds = PAUSES[usize::from(writer.board != SERVER)];
        let script = Lines { count, pad, pause_seconds }.script();
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {}, labels: {{demo: logs}}}}
spec:
  nodeName: {}
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: writer
    image: busybox:1.28
    command:
    - sh
    - -c
    - |
      {script}
"#,
            writer.name,
            node(writer.board)
        )
    };
    writers.iter().zip(PADS.into_iter().cycle()).map(manifest).collect::<Vec<_>>().join("---")
}

/// Kills the collectors of boards, one after the other; how many.
fn kill(fleet: &Fleet, boards: &[u8]) -> Answer<usize> {
    for board in boards {
        sleep(PAUSE);
        fleet.kill(*board, "collect-logs")?;
    }
    Ok(boards.len())
}

fn phases(user: &User) -> String {
    let words = r#"get pods -l demo=logs -o 'jsonpath={range .items[*]}{.metadata.name}={.status.phase} {end}'"#;
    user.kubectl(words).1
}

/// Waits until pods have written all they have to.
fn is_written(fleet: &Fleet, user: &User, writers: &[Writer], of: impl Fn(&Writer) -> bool) -> Answer<()> {
    let is_through = |_: &Fleet| {
        sleep(PAUSE);
        let phases = phases(user);
        writers.iter().filter(|writer| of(writer)).all(|writer| phases.contains(&format!("{}=Succeeded", writer.name)))
    };
    let told = |error| format!("{error}\n{}", phases(user));
    fleet.waits_for("pods to have written their lines", WRITTEN_WITHIN, is_through).map(drop).map_err(told)
}

/// How many files of a board's pods with long lines were rotated: one at least.
fn rotated(fleet: &Fleet, board: u8) -> Answer<usize> {
    let name = writer(board, PADS[1]).name;
    let files = fleet.by_hand(board, &format!("ls /proc/1/root/data/skerry/log/pods/default_{name}_*/writer"))?;
    let rotated = files.lines().filter(|file| file.contains(".log.")).count();
    if rotated == 0 { Err(format!("no log of {name} was rotated, there are {files}")) } else { Ok(rotated) }
}

/// Waits until the store has as many lines as were written, and looks at each.
fn are_stored(user: &User, names: &[&str], count: usize) -> Answer<Duration> {
    let began = Instant::now();
    for name in names {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            if began.elapsed() > STORED_WITHIN {
                return Err(format!("of {name} {} lines are stored, of {count}", numbers.len()));
            }
            numbers = stored(user, "default", name)?;
        }
        each_once(&numbers, count).map_err(|wrong| format!("{name}: {wrong}"))?;
    }
    Ok(began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_board_has_a_pod_with_long_lines_and_one_with_short_ones() {
        let writers = [writer(1, PADS[0]), writer(1, PADS[1]), writer(2, PADS[0])];
        let text = manifests(8, &writers, |board| format!("skerry-{board}"));
        let pods: Vec<&str> = text.split("---\n").collect();
        assert_eq!(pods.len(), 3);
        assert!(pods[1].contains("name: writer-1-1200,") && pods[1].contains(&"x".repeat(1200)), "{}", pods[1]);
        assert!(pods[1].contains("nodeName: skerry-1\n") && pods[1].contains("sleep 16;"), "{}", pods[1]);
        assert!(pods[2].contains("nodeName: skerry-2\n") && pods[2].contains("sleep 40;"), "{}", pods[2]);
    }
}
