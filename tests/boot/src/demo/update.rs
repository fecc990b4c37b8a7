//! The leg `update`: the operating system of all boards is replaced by an ordinary DaemonSet, while somebody asks a Service.
//!
//! Start at [`run`]. A good bundle goes round and is undone; then each kind of bad one comes to one board, is left there, says
//! why on the Node, and stops the rollout. The client is a station on the boards' cable: it asks ten times a second, by the node
//! port of the board that answered last, and of the next one where a connection does not stand within a second.
//!
//! Not here: how a single board is judged (`tests/updates.rs`), what is refused before it is tried (`firmware/update`).

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use image::bundle::{About, make};
use image::layout::SIGNATURE;
use workloads::User;

use super::fleet::BOARDS;
use super::{Answer, Fleet};
use crate::cable::{Asked, Station};
use crate::updates::{Bundles, archive_of, key_path, manifest, tree_and_key};

/// Three emulated boards boot one another's time away.
const CONFIRM_WITHIN_S: u32 = 150;
/// One board: staged, drained, restarted, confirmed; or given up and back.
const BOARD_WITHIN: Duration = Duration::from_secs(420);
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How the rollout is while one board is in its way: not done, however long one waits.
const STANDS_STILL: &str = "--timeout=15s";

const NODE_PORT: u16 = 30_088;
const STATION: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 99);
const ASK_EVERY: Duration = Duration::from_millis(100);
const ACCEPTED_WITHIN: Duration = Duration::from_secs(1);
/// Emulated, while other boards boot on the same processors.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);
/// One request waits for the one before it; on the average so many a second are asked all the same.
const ASKED_A_SECOND: f64 = 5.0;

/// Each is a line of nodes: name, the condition's status, reason and message.
const CONDITIONS: &str = r#"get nodes -o 'jsonpath={range .items[*]}{.metadata.name}{" "}{.spec.unschedulable}{" "}{.status.conditions[?(@.type=="skerry.dev/UpdateFailed")].status}{" "}{.status.conditions[?(@.type=="skerry.dev/UpdateFailed")].reason}{" "}{.status.conditions[?(@.type=="skerry.dev/UpdateFailed")].message}{"\n"}{end}'"#;

/// Two pods that are never both away by anybody's will, and end only when nobody comes any more.
const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: answers}
spec:
  replicas: 2
  selector: {matchLabels: {app: answers}}
  template:
    metadata: {labels: {app: answers}}
    spec:
      terminationGracePeriodSeconds: 20
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: answers}}}
      containers:
      - name: web
        image: busybox:1.28
        command: ["sh", "-c", "mkdir /web && echo $NODE >/web/index.html && exec httpd -f -p 8080 -h /web"]
        env:
        - name: NODE
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 5}
        lifecycle:
          preStop: {exec: {command: [sleep, "5"]}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: answers}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: answers}}
---
apiVersion: v1
kind: Service
metadata: {name: answers}
spec:
  type: NodePort
  selector: {app: answers}
  ports:
  - {port: 80, targetPort: 8080, nodePort: 30088}
"#;

/// What a Node says of updates.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    node: String,
    cordoned: bool,
    failed: bool,
    reason: String,
    message: String,
}

/// Rolls a good bundle out and back, then each kind of bad one, while the Service is asked.
pub fn run(fleet: &mut Fleet) -> Answer<String> {
    let fleet = &*fleet;
    put_bundles(fleet)?;
    let user = fleet.user();
    fleet.apply(WEB)?;
    user.rolled_out("deployment/answers", 60);
    roll_out(fleet, "flashed")?;
    user.in_namespace("kube-system").rolled_out("daemonset/skerry-update", 60);
    let mut station = Station::plug_in(fleet.cable(), STATION).map_err(|error| format!("no cable: {error}"))?;
    let stop = AtomicBool::new(false);
    let (seen, heard) = std::thread::scope(|scope| {
        let client = scope.spawn(|| ask_until(&mut station, &stop));
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rollouts(fleet, &user)));
        stop.store(true, Ordering::Relaxed);
        (seen, client.join().expect("the client ends"))
    });
    println!("{heard:?}");
    let seen = seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    if !heard.broken.is_empty() || heard.refused > 0 || heard.a_second() < ASKED_A_SECOND {
        return Err(format!("the Service failed its client: {heard:?}"));
    }
    user.must("delete deployment,service,pdb answers");
    user.must("-n kube-system delete daemonset skerry-update");
    Ok(format!(
        "{seen}; {} requests answered, {:.1} a second, none broken and none refused by all, {} times the next board was asked, \
         longest wait {:.1?}",
        heard.answered,
        heard.a_second(),
        heard.passed_on,
        heard.longest
    ))
}

/// The bundle of what the boards were flashed with, a good one and each kind of bad one, on every board.
fn put_bundles(fleet: &Fleet) -> Answer<()> {
    let (tree, key) = tree_and_key();
    let bundles = Bundles::of(fleet.board(), key, CONFIRM_WITHIN_S);
    let (image, flashed) = (fleet.image(), bundles.path("flashed"));
    make(fleet.board(), &image.layout, &image.disk, &About::default(), &key_path(&tree), &flashed)
        .map_err(|error| error.to_string())?;
    bundles.add("good", image, &[]);
    // The kernel takes the last file of a name: a program that is none, and a root that nobody can find.
    bundles.add("panics", image, &archive_of("init", b"no program"));
    let no_root = format!("board {}\ndisk {SIGNATURE:08x}\n", fleet.board().name);
    bundles.add("crashes", image, &archive_of("slot", no_root.as_bytes()));
    // Where the API server and the kubelet should be is a program that knows neither, and ends.
    let mute = fleet.image_of("mute", |binaries| binaries.skerry = binaries.init.clone())?;
    bundles.add("mute", &mute, &[]);
    // The initramfs is as ever and starts what it finds in the root, which never does a thing.
    let program = fleet.kubeconfig().with_file_name("hangs");
    let failed = |error| format!("failed to make {}: {error}", program.display());
    std::fs::write(&program, sleeper()).map_err(failed)?;
    let mut init = Vec::new();
    let hangs = fleet.image_of("hangs", |binaries| {
        init = std::fs::read(&binaries.init).expect("PID 1 is built");
        binaries.init = program.clone();
    })?;
    bundles.add("hangs", &hangs, &archive_of("init", &init));
    fleet.put(&bundles)
}

/// The smallest program for Linux on arm64 that waits for ever: an ELF file of one segment, with `ppoll` of nothing in a loop.
fn sleeper() -> Vec<u8> {
    const AT: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    // Zero into x0 to x3, 73 (ppoll) into x8, the call, and back.
    let code: [u32; 7] = [0xd280_0000, 0xd280_0001, 0xd280_0002, 0xd280_0003, 0xd280_0928, 0xd400_0001, 0x17ff_fffa];
    let bytes = HEADERS + 4 * code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable file for arm64; entry, program headers at 64, no sections; sizes and counts of headers.
    file.extend([2_u16, 183].map(u16::to_le_bytes).concat());
    file.extend(1_u32.to_le_bytes());
    file.extend([AT + HEADERS, 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    // All of the file is loaded, to be read and run.
    file.extend([1_u32, 5].map(u32::to_le_bytes).concat());
    file.extend([0, AT, AT, bytes, bytes, 0x1000].map(u64::to_le_bytes).concat());
    file.extend(code.map(u32::to_le_bytes).concat());
    file
}

fn rollouts(fleet: &Fleet, user: &User) -> Answer<String> {
    let took = everywhere(fleet, user, "version good (", || roll_out(fleet, "good"))?;
    let back = everywhere(fleet, user, "version 0.", || undo(user))?;
    let mut seen =
        vec![format!("a good bundle is on {BOARDS} boards after {took:.0?}, and undone after {back:.0?} more")];
    for (bundle, reason) in
        [("panics", "KernelPanic"), ("crashes", "InitCrash"), ("mute", "APINeverReady"), ("hangs", "Watchdog")]
    {
        seen.push(one_is_left(fleet, user, bundle, reason)?);
    }
    Ok(seen.join("; "))
}

/// Has a rollout begin, and waits until it is through and every Node says so: what it says begins with `told`, and its digest follows.
fn everywhere(fleet: &Fleet, user: &User, told: &str, begin: impl FnOnce() -> Answer<()>) -> Answer<Duration> {
    let began = Instant::now();
    begin()?;
    let is_through = |_: &Fleet| {
        let all = said(user);
        all.len() == usize::from(BOARDS)
            && all.iter().all(|said| !said.failed && !said.cordoned && said.message.starts_with(told))
            && is_rolled_out(user, "--timeout=30s")
    };
    waits(fleet, user, &format!("{told:?} on every Node"), BOARD_WITHIN * u32::from(BOARDS), is_through)?;
    println!("{told}…) everywhere after {:.0?}", began.elapsed());
    Ok(began.elapsed())
}

/// A bad bundle comes to one board, which leaves it; the others are never asked.
fn one_is_left(fleet: &Fleet, user: &User, bundle: &str, reason: &str) -> Answer<String> {
    let began = Instant::now();
    roll_out(fleet, bundle)?;
    let is_back = |_: &Fleet| said(user).iter().any(|said| said.failed && said.reason == reason && !said.cordoned);
    waits(fleet, user, &format!("a Node that says {reason}"), BOARD_WITHIN, is_back)?;
    let took = began.elapsed();
    fleet.is_ready()?;
    if is_rolled_out(user, STANDS_STILL) {
        return Err(format!("the rollout of {bundle} goes on after {reason}"));
    }
    let all = said(user);
    let failed: Vec<&Said> = all.iter().filter(|said| said.message.contains(&format!("version {bundle} "))).collect();
    let [failed] = failed.as_slice() else {
        return Err(format!("{bundle} came to other boards too: {all:?}"));
    };
    println!("{bundle}: {failed:?} after {took:.0?}");
    undo(user)?;
    let is_as_before = |_: &Fleet| is_rolled_out(user, "--timeout=30s");
    waits(fleet, user, &format!("{bundle} to be undone"), BOARD_WITHIN, is_as_before)?;
    Ok(format!("{bundle}: {} is back with {reason} after {took:.0?}, the others untouched, undone", failed.node))
}

/// The limit is one of emulated boards; what is asked of an API that restarts is asked again.
fn waits(fleet: &Fleet, user: &User, what: &str, limit: Duration, done: impl Fn(&Fleet) -> bool) -> Answer<Duration> {
    let looked = |fleet: &Fleet| {
        let is_done = done(fleet);
        if !is_done {
            sleep(LOOK_EVERY);
        }
        is_done
    };
    fleet.waits_for(what, limit, looked).map_err(|error| {
        let pods = user.kubectl("-n kube-system get pods -l app=skerry-update -o wide").1;
        format!("{error}\n{:?}\n{pods}\n{}", said(user), user.kubectl("get events").1)
    })
}

fn roll_out(fleet: &Fleet, bundle: &str) -> Answer<()> {
    fleet.apply(&manifest(bundle)).map(drop)
}

fn undo(user: &User) -> Answer<()> {
    let (ok, told) = user.kubectl("-n kube-system rollout undo daemonset/skerry-update");
    if ok { Ok(()) } else { Err(told) }
}

fn is_rolled_out(user: &User, timeout: &str) -> bool {
    user.kubectl(&format!("-n kube-system rollout status daemonset/skerry-update {timeout}")).0
}

fn said(user: &User) -> Vec<Said> {
    let (ok, text) = user.kubectl(CONDITIONS);
    if ok { text.lines().filter_map(line).collect() } else { Vec::new() }
}

fn line(line: &str) -> Option<Said> {
    let mut words = line.splitn(5, ' ').map(str::to_owned);
    Some(Said {
        node: words.next()?,
        cordoned: words.next()? == "true",
        failed: words.next()? == "True",
        reason: words.next()?,
        message: words.next()?,
    })
}

/// What the client saw.
#[derive(Clone, Debug, Default)]
struct Heard {
    answered: usize,
    /// A connection did not stand in time, and the next board was asked.
    passed_on: usize,
    /// Nobody of all accepted.
    refused: usize,
    /// Accepted, and not answered.
    broken: Vec<String>,
    /// From the asking to the answer, boards that were passed included.
    longest: Duration,
    /// From the first asking to the last answer.
    took: Duration,
}

impl Heard {
    fn a_second(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64().max(1.0)
    }
}

fn ask_until(station: &mut Station, stop: &AtomicBool) -> Heard {
    let mut heard = Heard::default();
    let mut board = 0;
    let began = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        ask(station, &mut board, &mut heard, began);
        heard.longest = heard.longest.max(asked.elapsed());
        sleep(ASK_EVERY.saturating_sub(asked.elapsed()));
    }
    heard.took = began.elapsed();
    heard
}

/// One request, by the board that answered last, or the next that accepts it.
fn ask(station: &mut Station, board: &mut u8, heard: &mut Heard, began: Instant) {
    for _ in 0..BOARDS {
        let address = Ipv4Addr::new(10, 77, 0, *board + 1);
        match station.ask(SocketAddrV4::new(address, NODE_PORT), ACCEPTED_WITHIN, ANSWERED_WITHIN) {
            Asked::Answered(_) => return heard.answered += 1,
            Asked::Broken(why) => {
                return heard.broken.push(format!("by {address} after {:.1?}: {why}", began.elapsed()));
            }
            Asked::NotAccepted => {
                heard.passed_on += 1;
                *board = (*board + 1) % BOARDS;
            }
        }
    }
    heard.refused += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_heard_nothing_asked_nothing() {
        let heard = Heard { answered: 900, took: Duration::from_secs(100), ..Heard::default() };
        assert_eq!([heard.a_second(), Heard::default().a_second()], [9.0, 0.0]);
    }

    #[test]
    fn what_a_node_says_is_read_from_a_line() {
        let said = line("skerry-2  True KernelPanic version panics was given up: why").expect("a line");
        assert!(said.failed && !said.cordoned, "{said:?}");
        assert_eq!((said.reason.as_str(), said.message.as_str()), ("KernelPanic", "version panics was given up: why"));
        assert!(line("skerry-1 true False Draining version 2 waits").is_some_and(|said| said.cordoned && !said.failed));
        assert_eq!(line(""), None);
    }
}
