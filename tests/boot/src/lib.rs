//! A booted image under test: QEMU with a disk of its own, its console, its cluster.
//!
//! Start at [`Bench::new`], then [`Bench::boot`]; the tests are in `tests/`.
//!
//! Invariants:
//! * the machine lies in a folder of its own and ends with the test, whatever happens;
//! * what is waited for is named with its limit, and the console's last lines are in the failure.
//!
//! `SKERRY_BOARD=NAME` runs the tests of slots and updates on another board that QEMU plays.
//!
//! What a test has no patience for is run by `cargo run -p boot`: `-- demo` shows what a cluster of three boards does ([`demo`]),
//! `-- cuts` records an update and looks at the disk at every moment of it ([`cuts`]), and `-- figures` measures ([`figures`]): the
//! median of five boots, ten idle minutes, the size of the compressed image.
//!
//! Not here: how an image is made or QEMU called (`image`).
#![forbid(unsafe_code)]

mod asked;
mod bare;
mod cable;
pub mod cuts;
pub mod demo;
pub mod figures;
pub mod inside;
pub mod nfs;
mod record;
mod restored;
pub mod updates;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use board::Board;
use image::Tree;
use image::build::Image;
use image::cross::Binaries;
use image::qemu::{Files, Machine, Way, Wires, command_line};
use image::shell::{run, tool};
use image::up::{Place, boot_number, handed_out, kubectl, put_image, ready_node, write_kubeconfig};
use slots::{Ledger, Move, Name, sector};

/// Emulated, on two busy cores.
const WITHIN: Duration = Duration::from_secs(150);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LINES_TOLD: usize = 40;
const SECTOR: u64 = sector::BYTES as u64;

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
        Bench::with(&Tree::ours(), board, name, port, |_| {})
    }

    /// The same, with a board that is changed first, and made in `tree`.
    pub fn with(tree: &Tree, board: &str, name: &str, port: u16, change: impl FnOnce(&mut Board)) -> Bench {
        let turn = turn();
        let (mut board, binaries) = board_and_binaries(tree, board);
        change(&mut board);
        let images = image::up::test_images(tree, &board).expect("the test images are made");
        let image = image::build::build(tree, &board, &binaries, Some(&images)).expect("the image builds");
        let place = Place::named(tree, name);
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
        self.boot_with(way, &Wires::alone(self.port));
    }

    /// The same; everything written to its disk is recorded in the file `record`, which is there already.
    pub fn boot_recorded(&mut self, way: Way, record: &Path) {
        self.boot_with(way, &Wires { record: Some(record.to_owned()), ..Wires::alone(self.port) });
    }

    /// The same; its disk takes no writes.
    pub fn boot_worn_out(&mut self, way: Way) {
        self.boot_with(way, &Wires { worn_out: true, ..Wires::alone(self.port) });
    }

    fn boot_with(&mut self, way: Way, wires: &Wires) {
        let words = command_line(&self.board, &self.image, self.files(), wires, way).expect("QEMU plays the board");
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

    /// Asks it to restart.
    pub fn restart(&self) {
        let port = std::os::unix::net::UnixStream::connect(&self.files().orders);
        port.and_then(|mut port| port.write_all(b"restart\n")).expect("the machine takes orders");
    }

    /// Waits until the console has said `what` so many times since the machine was switched on.
    pub fn hears_times(&self, what: &str, times: usize) -> Duration {
        self.waits_for(what, || self.console().matches(what).count() >= times)
    }

    /// What the console said since the machine was switched on.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.files().console).unwrap_or_default()).into_owned()
    }

    /// Reads from the disk of a machine that is off, `sectors` from sector `at` on.
    pub fn read(&self, at: u64, sectors: u64) -> Vec<u8> {
        assert!(self.machine.is_none(), "the machine is off");
        read_sectors(&self.files().disk, at, sectors)
    }

    /// Writes to the disk of a machine that is off, from sector `at` on.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        assert!(self.machine.is_none(), "the machine is off");
        let mut disk = open(&self.files().disk);
        disk.seek(SeekFrom::Start(at * SECTOR)).and_then(|_| disk.write_all(bytes)).expect("the disk can be written");
    }

    /// Writes the settings of a machine that is off, as a person does at another computer.
    pub fn write_settings(&self, text: &str) {
        let source = self.files().disk.with_file_name(settings::FILE);
        fs::write(&source, text).expect("the settings can be written");
        self.put_on_card(&source, settings::FILE);
    }

    /// Copies a file to the boot partition of a machine that is off.
    pub fn put_on_card(&self, file: &Path, name: &str) {
        let put = run(tool("mcopy").args(["-o", "-i", &self.boot_partition()]).arg(file).arg(format!("::{name}")));
        put.expect("the boot partition takes the file");
    }

    /// What a machine that is off says about its settings, on its boot partition; nothing where all is well.
    pub fn settings_report(&self) -> Option<String> {
        run(tool("mtype").args(["-i", &self.boot_partition()]).arg(format!("::{}", settings::ERRORS_FILE))).ok()
    }

    /// The boot partition as mtools name it.
    fn boot_partition(&self) -> String {
        assert!(self.machine.is_none(), "the machine is off");
        format!("{}@@{}", self.files().disk.display(), self.start_of("firmware") * SECTOR)
    }

    /// Copies slot a into slot b, as an update would fill it, with `more` after the initramfs, and puts b on trial.
    pub fn try_copy(&self, more: &[u8], tries: u8) {
        let (_, slot) = updates::slot_image(&self.image, more);
        self.write(self.start_of("slot b"), &slot);
        let staged = Ledger::new().apply(Name::B, Move::Stage);
        let trial = staged.and_then(|ledger| ledger.apply(Name::B, Move::Try { tries })).expect("it can be tried");
        self.write(slots::store::PLACES[0], &sector::encode(&Ledger::new()));
        self.write(slots::store::PLACES[1], &sector::encode(&trial));
    }

    /// The ledger of a machine that is off.
    pub fn ledger(&self) -> Ledger {
        assert!(self.machine.is_none(), "the machine is off");
        ledger_of(&self.files().disk)
    }

    /// Makes the disk as small as the image; the data partition finds no room to grow then.
    pub fn shrink_disk(&self) {
        open(&self.files().disk).set_len(self.image.layout.sectors() * SECTOR).expect("the disk can be cut");
    }

    /// Where a part of the disk begins, in sectors.
    pub fn start_of(&self, part: &str) -> u64 {
        self.part(part).0
    }

    /// Where a part of the disk begins, and how long it was made, in sectors.
    pub fn part(&self, part: &str) -> (u64, u64) {
        let part = self.image.layout.part(part);
        (part.at, part.sectors)
    }

    /// Where the root begins in a slot, in sectors.
    pub fn root_in_slot(&self) -> u64 {
        self.image.layout.contents.root.at
    }

    /// Gives what comes from here on its time: what was waited for until now is forgotten.
    pub fn begin_anew(&mut self) {
        self.started = Instant::now();
    }

    /// Waits until `done`; what does not come in time fails with the console's last lines.
    pub fn waits_for(&self, what: &str, done: impl Fn() -> bool) -> Duration {
        while !done() {
            let runs = self.machine.as_ref().is_some_and(Machine::is_running);
            assert!(runs, "the machine went down before {what}\n{}", self.last_lines());
            assert!(self.started.elapsed() < WITHIN, "no {what} within {WITHIN:?}\n{}", self.last_lines());
            sleep(LOOK_EVERY);
        }
        self.started.elapsed()
    }

    /// The end of what the console said.
    pub fn last_lines(&self) -> String {
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

/// The board under test: `SKERRY_BOARD`, or the usual one.
pub fn board() -> String {
    std::env::var("SKERRY_BOARD").unwrap_or_else(|_| "qemu-arm64".to_owned())
}

/// Waits until no other test of this program builds an image or runs one.
pub fn turn() -> MutexGuard<'static, ()> {
    // A test that failed in its turn has left nothing that matters to the next.
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A board, and the binaries for it. Builds what is not built; `SKERRY_BINARIES` names a folder to take them from.
pub fn board_and_binaries(tree: &Tree, board: &str) -> (Board, Binaries) {
    let board = board::read(&tree.boards(), board).expect("the board is described");
    image::host::prepare_to_play(tree, &board).expect("the tools are there");
    let given = std::env::var_os("SKERRY_BINARIES").map(PathBuf::from);
    let binaries = image::cross::build(tree, &board, given.as_deref()).expect("the binaries build");
    (board, binaries)
}

/// The ledger on a disk that no machine uses.
fn ledger_of(disk: &Path) -> Ledger {
    let sectors = slots::store::PLACES.map(|at| read_sectors(disk, at, 1));
    let ledgers = sectors.iter().filter_map(|bytes| sector::decode(bytes.as_slice().try_into().ok()?));
    ledgers.max_by_key(|ledger| ledger.sequence).expect("one of two sectors is whole")
}

fn read_sectors(disk: &Path, at: u64, sectors: u64) -> Vec<u8> {
    let mut disk = open(disk);
    let mut bytes = vec![0; usize::try_from(sectors * SECTOR).expect("it fits in memory")];
    disk.seek(SeekFrom::Start(at * SECTOR)).and_then(|_| disk.read_exact(&mut bytes)).expect("the disk can be read");
    bytes
}

fn open(disk: &Path) -> File {
    File::options().read(true).write(true).open(disk).expect("the disk opens")
}
