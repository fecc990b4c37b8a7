//! A booted image under test: QEMU with a disk of its own, its console, its cluster.
//!
//! Start at [`Bench::new`], then [`Bench::boot`]; the tests are in `tests/`.
//!
//! Invariants:
//! * the machine lies in a folder of its own and ends with the test, whatever happens;
//! * what is waited for is named with its limit, and the console's last lines are in the failure.
//!
//! Not here: how an image is made or QEMU called (`image`).
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use board::Board;
use image::Tree;
use image::build::Image;
use image::qemu::{Files, Machine, Way, command_line};
use image::up::{Place, boot_number, handed_out, kubectl, put_image, ready_node, write_kubeconfig};

/// Emulated, on two busy cores.
const WITHIN: Duration = Duration::from_secs(150);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LINES_TOLD: usize = 40;

/// Two emulated machines on two cores would measure each other, and both would build the image.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A machine's disk and files, running or not.
pub struct Bench {
    board: Board,
    image: Image,
    place: Place,
    port: u16,
    kubeconfig: PathBuf,
    machine: Option<Machine>,
    started: Instant,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    /// The image of `board` on a fresh disk. Builds what is not built; `SKERRY_BINARIES` names a folder to take the binaries from.
    pub fn new(board: &str, name: &str, port: u16) -> Bench {
        // A test that failed in its turn has left nothing that matters to the next.
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let tree = Tree::ours();
        image::host::prepare(&tree).expect("the tools are there");
        let board = board::read(&tree.boards(), board).expect("the board is described");
        let given = std::env::var_os("SKERRY_BINARIES").map(PathBuf::from);
        let binaries = image::cross::build(&tree, given.as_deref()).expect("the binaries build");
        let images = image::up::test_images(&tree).expect("the test images are made");
        let image = image::build::build(&tree, &board, &binaries, Some(&images)).expect("the image builds");
        let place = Place::named(&tree, name);
        let kubeconfig = place.files.disk.with_file_name("kubeconfig");
        if let Some(left_over) = Machine::running(&place.files) {
            left_over.cut_power().expect("a machine left over ends");
        }
        let _stale = fs::remove_file(&kubeconfig);
        put_image(&board, &image, &place, true).expect("the disk is made");
        Bench { board, image, place, port, kubeconfig, machine: None, started: Instant::now(), _turn: turn }
    }

    /// Switches the machine on.
    pub fn boot(&mut self, way: Way) {
        let words = command_line(&self.board, &self.image, self.files(), self.port, way).expect("QEMU plays the board");
        self.started = Instant::now();
        self.machine = Some(Machine::start(self.files(), &words).expect("QEMU starts"));
    }

    /// The machine's files.
    pub fn files(&self) -> &Files {
        &self.place.files
    }

    /// Waits until the console says `what`; the time since the machine was switched on.
    pub fn hears(&self, what: &str) -> Duration {
        self.waits_for(what, || self.console().contains(what))
    }

    /// Waits until the API answers and a node is ready.
    pub fn is_ready(&self) -> Duration {
        self.waits_for("a node that is Ready", || {
            let handed = handed_out(&self.files().kubeconfig);
            handed.is_some_and(|text| write_kubeconfig(&text, self.port, &self.kubeconfig).is_ok())
                && boot_number(&self.files().console).is_some_and(|boot| ready_node(&self.kubeconfig, &boot).is_some())
        })
    }

    /// Asks the cluster.
    pub fn kubectl(&self, words: &[&str]) -> String {
        kubectl(&self.kubeconfig, words).unwrap_or_else(|error| panic!("{error}\n{}", self.last_lines()))
    }

    /// Pulls the plug.
    pub fn cut_power(&mut self) {
        let machine = self.machine.take().expect("the machine runs");
        machine.cut_power().expect("QEMU can be ended");
    }

    /// Asks it to go down.
    pub fn shut_down(&mut self) {
        let machine = self.machine.take().expect("the machine runs");
        machine.shut_down().expect("the machine goes down");
        assert!(self.console().contains("Power down"), "it went down by itself\n{}", self.last_lines());
    }

    /// What the console said since the machine was switched on.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.files().console).unwrap_or_default()).into_owned()
    }

    /// Reads and changes the disk of a machine that is off, `at` sectors from its start.
    pub fn change_sector(&self, at: u64, change: impl FnOnce(&mut slots::sector::Sector)) {
        assert!(self.machine.is_none(), "the machine is off");
        let mut disk = open(&self.files().disk);
        let mut sector = [0; slots::sector::BYTES];
        let place = SeekFrom::Start(at * slots::sector::BYTES as u64);
        disk.seek(place).and_then(|_| disk.read_exact(&mut sector)).expect("the disk can be read");
        change(&mut sector);
        disk.seek(place).and_then(|_| disk.write_all(&sector)).expect("the disk can be written");
    }

    /// Copies slot a into slot b, as an update would fill it.
    pub fn copy_slot(&self) {
        let mut disk = open(&self.files().disk);
        let (from, into) = (self.image.layout.part("slot a"), self.image.layout.part("slot b"));
        let bytes = (self.image.layout.contents.hashes.at + self.image.layout.contents.hashes.sectors) * 512;
        let mut slot = vec![0; usize::try_from(bytes).expect("a slot fits in memory")];
        disk.seek(SeekFrom::Start(from.at * 512)).and_then(|_| disk.read_exact(&mut slot)).expect("slot a can be read");
        disk.seek(SeekFrom::Start(into.at * 512)).and_then(|_| disk.write_all(&slot)).expect("slot b can be written");
    }

    /// Where a part of the disk begins, in sectors.
    pub fn start_of(&self, part: &str) -> u64 {
        self.image.layout.part(part).at
    }

    /// Where the root begins in a slot, in sectors.
    pub fn root_in_slot(&self) -> u64 {
        self.image.layout.contents.root.at
    }

    fn waits_for(&self, what: &str, done: impl Fn() -> bool) -> Duration {
        while !done() {
            let runs = self.machine.as_ref().is_some_and(Machine::is_running);
            assert!(runs, "the machine went down before {what}\n{}", self.last_lines());
            assert!(self.started.elapsed() < WITHIN, "no {what} within {WITHIN:?}\n{}", self.last_lines());
            sleep(LOOK_EVERY);
        }
        self.started.elapsed()
    }

    fn last_lines(&self) -> String {
        let console = self.console();
        let lines: Vec<&str> = console.lines().collect();
        lines[lines.len().saturating_sub(LINES_TOLD)..].join("\n")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(machine) = self.machine.take() {
            let _ended_already = machine.cut_power();
        }
    }
}

fn open(disk: &Path) -> File {
    File::options().read(true).write(true).open(disk).expect("the disk opens")
}
