//! Three boards on a cable, as the legs of the demonstration use them.
//!
//! Start at [`Fleet::new`]. Boards are numbered from 1, which is the server; their nodes are `skerry-1` and so on, and on the
//! cable they are 10.77.0.1 and so on.
//!
//! Invariant: the machines end with the value, whatever happens, and those left over by an earlier one end before it begins.
//!
//! Not here: what a card holds and how a cable is made (`image::fleet`).

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::thread::sleep;
use std::time::{Duration, Instant};

use board::Board;
use image::Tree;
use image::build::Image;
use image::cross::Binaries;
use image::flash::{Said, brought, new_token};
use image::fleet::{self, places_named, put, put_settings, switch_on};
use image::qemu::{Machine, Way};
use image::up::{Place, boot_number, free_port, handed_out, kubectl, ready_node, test_images, write_kubeconfig};
use workloads::User;

use crate::asked::SLOWNESS;
use crate::inside::Inside;
use crate::updates::{Bundles, tree_and_key};
use crate::{board_and_binaries, turn};

/// How many there are.
pub const BOARDS: u8 = 3;
/// Three emulated boards on two busy cores boot one another's time away.
const READY_WITHIN: Duration = Duration::from_secs(420);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What was killed before is started again after a while: the kubelet waits longer each time.
const KILLED_WITHIN: Duration = Duration::from_secs(120);
const LINES_TOLD: usize = 15;
/// Disks of its own: those of `cargo up` are somebody's.
const NAME: &str = "demo";
/// An image of its own: it trusts the key of the bundles made here.
const BOARD: &str = "qemu-arm64-demo";

/// On every board, a pod that reaches all of the board.
const HANDS: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: hands, namespace: kube-system}
spec:
  selector: {matchLabels: {app: hands}}
  template:
    metadata: {labels: {app: hands}}
    spec:
      hostPID: true
      terminationGracePeriodSeconds: 1
      containers:
      - {name: hands, image: "busybox:1.28", command: [sleep, "1000000"], securityContext: {privileged: true}}
"#;

/// Prints the processes of our own program whose command line has the word.
const PROCESSES: &str = r#"
for process in /proc/[0-9]*; do
    case $(readlink $process/exe) in */skerry) ;; *) continue ;; esac
    case " $(tr '\0' ' ' <$process/cmdline)" in *" WORD "*) echo ${process#/proc/} ;; esac
done"#;

/// What was found, or why not.
pub type Answer<T> = Result<T, String>;

/// The boards.
pub struct Fleet {
    tree: Tree,
    board: Board,
    binaries: Binaries,
    image: Image,
    places: Vec<Place>,
    port: u16,
    kubeconfig: PathBuf,
    token: String,
    _turn: MutexGuard<'static, ()>,
}

impl Fleet {
    /// Flashes a fresh card for each and switches all on, the server first.
    pub fn new() -> Answer<Fleet> {
        let turn = turn();
        let (tree, _) = tree_and_key();
        let (mut board, binaries) = board_and_binaries(&tree, "qemu-arm64");
        board.name = BOARD.to_owned();
        let images = test_images(&tree, &board).map_err(said)?;
        let image = image::build::build(&tree, &board, &binaries, Some(&images)).map_err(said)?;
        let places = places_named(&tree, NAME, BOARDS);
        let kubeconfig = tree.build.join("machines").join("demo.kubeconfig");
        let (port, token) = (free_port().map_err(said)?, new_token().map_err(said)?);
        let fleet = Fleet { tree, board, binaries, image, places, port, kubeconfig, token, _turn: turn };
        fleet.power_off();
        for number in 1..=BOARDS {
            let text = settings::file(&fleet.settings(number));
            put(&fleet.tree, &fleet.board, &fleet.image, fleet.place(number), &text, true).map_err(said)?;
        }
        (1..=BOARDS).try_for_each(|number| fleet.boot(number))?;
        Ok(fleet)
    }

    /// What the card of a board says, for who wants to say more: see [`Fleet::write_settings`].
    pub fn settings(&self, number: u8) -> settings::Settings {
        fleet::settings(number, &self.token)
    }

    /// Writes the settings file of a board that is off.
    pub fn write_settings(&self, number: u8, text: &str) -> Answer<()> {
        assert!(!self.runs(number), "board {number} is off");
        put_settings(&self.image, &self.place(number).files.disk, text).map_err(said)
    }

    /// Flashes a new card for a board that is off, as `image flash` does it.
    pub fn flash(&self, number: u8, said: &Said) -> Answer<()> {
        assert!(!self.runs(number), "board {number} is off");
        let brought = brought(said).map_err(self::said)?;
        let disk = &self.place(number).files.disk;
        fleet::put_new(&self.tree, &self.board, &self.image, disk, &brought).map_err(self::said)
    }

    /// What all boards are flashed with.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The board's description, by whose name a bundle is for these boards.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The same image with other binaries, under another name.
    pub fn image_of(&self, name: &str, change: impl FnOnce(&mut Binaries)) -> Answer<Image> {
        let mut binaries = self.binaries.clone();
        change(&mut binaries);
        let board = Board { name: format!("{BOARD}-{name}"), ..self.board.clone() };
        let images = test_images(&self.tree, &board).map_err(said)?;
        image::build::build(&self.tree, &board, &binaries, Some(&images)).map_err(said)
    }

    /// Puts bundles onto every board, for which each goes down and comes again.
    pub fn put(&self, bundles: &Bundles) -> Answer<()> {
        for number in 1..=BOARDS {
            self.shut_down(number)?;
            bundles.put_on(&self.place(number).files.disk, &self.image);
            self.boot(number)?;
        }
        self.is_ready().map(drop)
    }

    /// The name of a board's node.
    pub fn node(&self, number: u8) -> String {
        format!("skerry-{number}")
    }

    /// A board's address on the cable.
    pub fn address(&self, number: u8) -> String {
        format!("10.77.0.{number}")
    }

    /// The number of the cable between the boards.
    pub fn cable(&self) -> u16 {
        fleet::cable(self.port)
    }

    /// The port of this machine that leads to the API.
    pub fn api_port(&self) -> u16 {
        self.port
    }

    /// The kubeconfig of the cluster's administrator, for other programs than kubectl.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Asks the cluster.
    pub fn kubectl(&self, words: &[&str]) -> Answer<String> {
        kubectl(&self.kubeconfig, words).map_err(said)
    }

    /// Somebody with kubectl and the administrator's kubeconfig, whose limits are those of an emulated machine.
    pub fn user(&self) -> User {
        User::new(&[], &self.kubeconfig, SLOWNESS)
    }

    /// Applies a manifest.
    pub fn apply(&self, yaml: &str) -> Answer<String> {
        let file = self.kubeconfig.with_extension("yaml");
        fs::write(&file, yaml).map_err(|error| format!("failed to write {}: {error}", file.display()))?;
        self.kubectl(&["apply", "-f", &file.display().to_string()])
    }

    /// Puts a pod onto a board that sees all its processes.
    pub fn look_into(&self, number: u8) -> Inside {
        Inside::enter_on(&self.user(), &self.node(number), self.kubeconfig.with_extension("inside.yaml"))
    }

    /// Runs a script on a board, by the pod there of a namespace's DaemonSet whose label `app` is this.
    pub fn inside(&self, namespace: &str, app: &str, number: u8, script: &str) -> Answer<String> {
        let pod = self.pod(namespace, app, number)?;
        self.kubectl(&["exec", "-n", namespace, &pod, "--", "sh", "-c", script])
    }

    /// The pod of a namespace's DaemonSet whose label `app` is this, on a board: `pod/NAME`.
    pub fn pod(&self, namespace: &str, app: &str, number: u8) -> Answer<String> {
        let node = format!("--field-selector=spec.nodeName={}", self.node(number));
        let name = format!("app={app}");
        let pods = self.kubectl(&["get", "pods", "-n", namespace, "-l", &name, &node, "-o", "name"])?;
        let pod = pods.lines().next().ok_or_else(|| format!("{} has no pod of {app}", self.node(number)))?;
        Ok(pod.to_owned())
    }

    /// Puts a pod onto every board, for [`Fleet::by_hand`] and [`Fleet::kill`].
    pub fn lend_hands(&self) -> Answer<()> {
        self.apply(HANDS)?;
        self.user().in_namespace("kube-system").rolled_out("daemonset/hands", 60);
        Ok(())
    }

    /// And takes them away.
    pub fn take_hands(&self) -> Answer<()> {
        self.kubectl(&["delete", "-n", "kube-system", "daemonset", "hands"]).map(drop)
    }

    /// Runs a script on a board; the board's own files lie in `/proc/1/root`.
    pub fn by_hand(&self, number: u8, script: &str) -> Answer<String> {
        self.inside("kube-system", "hands", number, script)
    }

    /// Has the process that runs a verb of `skerry` on a board die by `kill -9`, once there is one.
    pub fn kill(&self, number: u8, verb: &str) -> Answer<()> {
        let mut process = String::new();
        let began = Instant::now();
        while process.is_empty() {
            if began.elapsed() > KILLED_WITHIN {
                return Err(format!("{} runs no skerry {verb}", self.node(number)));
            }
            process = self.by_hand(number, &PROCESSES.replace("WORD", verb)).unwrap_or_default();
            process = process.lines().next().unwrap_or_default().to_owned();
        }
        // Who kills the server hears no answer.
        let _said = self.by_hand(number, &format!("kill -9 {process}"));
        let look = format!("test -d /proc/{process} || echo gone");
        let is_gone = |fleet: &Fleet| fleet.by_hand(number, &look).is_ok_and(|said| said.contains("gone"));
        self.waits_for(&format!("skerry {verb} to be gone on {}", self.node(number)), KILLED_WITHIN, is_gone).map(drop)
    }

    /// What a board's console said since it was switched on.
    pub fn console(&self, number: u8) -> String {
        String::from_utf8_lossy(&fs::read(&self.place(number).files.console).unwrap_or_default()).into_owned()
    }

    /// Switches a board on; nothing happens to one that runs.
    pub fn boot(&self, number: u8) -> Answer<()> {
        if self.runs(number) {
            return Ok(());
        }
        switch_on(&self.board, &self.image, self.place(number), number, self.port, Way::Loader).map_err(said).map(drop)
    }

    /// Pulls a board's plug.
    pub fn cut_power(&self, number: u8) -> Answer<()> {
        Machine::running(&self.place(number).files).map_or(Ok(()), Machine::cut_power).map_err(said)
    }

    /// Asks a board to go down, and waits until it has.
    pub fn shut_down(&self, number: u8) -> Answer<()> {
        Machine::running(&self.place(number).files).map_or(Ok(()), Machine::shut_down).map_err(said)
    }

    /// Asks a board to restart.
    pub fn restart(&self, number: u8) -> Answer<()> {
        let asked =
            UnixStream::connect(&self.place(number).files.orders).and_then(|mut port| port.write_all(b"restart\n"));
        asked.map_err(|error| format!("board {number} takes no orders: {error}"))
    }

    /// Switches on what is off, and waits until every node is Ready in its present boot.
    pub fn is_ready(&self) -> Answer<Duration> {
        (1..=BOARDS).try_for_each(|number| self.boot(number))?;
        self.waits_for("all nodes to be Ready", READY_WITHIN, |fleet| {
            let handed = handed_out(&fleet.place(1).files.kubeconfig);
            handed.is_some_and(|text| write_kubeconfig(&text, fleet.port, &fleet.kubeconfig).is_ok())
                && (1..=BOARDS).all(|number| fleet.is_ready_now(number))
        })
    }

    fn is_ready_now(&self, number: u8) -> bool {
        let boot = boot_number(&self.place(number).files.console);
        boot.is_some_and(|boot| ready_node(&self.kubeconfig, &boot).is_some())
    }

    /// Waits until something is so; the time it took, or what was waited for and the ends of the consoles.
    pub fn waits_for(&self, what: &str, limit: Duration, done: impl Fn(&Fleet) -> bool) -> Answer<Duration> {
        let began = Instant::now();
        while !done(self) {
            if began.elapsed() > limit {
                let ends = (1..=BOARDS).map(|number| self.last_lines(number)).collect::<String>();
                return Err(format!("waited {limit:?} in vain for {what}{ends}"));
            }
            sleep(LOOK_EVERY);
        }
        Ok(began.elapsed())
    }

    fn last_lines(&self, number: u8) -> String {
        let console = self.console(number);
        let lines: Vec<&str> = console.lines().collect();
        format!("\nboard {number}:\n{}", lines[lines.len().saturating_sub(LINES_TOLD)..].join("\n"))
    }

    fn runs(&self, number: u8) -> bool {
        Machine::running(&self.place(number).files).is_some()
    }

    fn place(&self, number: u8) -> &Place {
        &self.places[usize::from(number) - 1]
    }

    fn power_off(&self) {
        for number in 1..=BOARDS {
            let _ended_already = self.cut_power(number);
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.power_off();
    }
}

fn said(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
