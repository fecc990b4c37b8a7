//! A power cut at every moment of an update: what the disk holds then, and that it boots.
//!
//! Start at [`show`]. One update, from staging to its confirmation, is recorded write by write. The record is played onto the
//! disk as it was before, and wherever the machine asked for its writes to be kept, the disk is as after a power cut there:
//! * a sector of the ledger is whole, and its sequence number never goes back;
//! * the slots that may boot by it hold, byte for byte, the image that belongs there, and were kept before the ledger said so;
//! * the data's file system is whole, once its journal is played.
//!
//! Then every ledger there ever was is booted, from the disk as it was when that ledger came.
//!
//! Not here: the moves of a ledger and their torn writes, which are tried out exhaustively (`slots`).

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use image::qemu::Way;
use image::shell::{run, tool};
use sha2::{Digest as _, Sha256};
use slots::{Ledger, Name, Slot, store};

use crate::inside::Inside;
use crate::record::{Record, Step};
use crate::updates::{FOLDER, archive_of, slot_image, tree_and_key};
use crate::{Bench, SECTOR, ledger_of};

const BOARD: &str = "qemu-arm64";
const PORT: u16 = 16451;
type Sum = [u8; 32];

/// What was looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Writes of the machine.
    pub writes: usize,
    /// Moments at which it asked for them to be kept.
    pub flushes: usize,
    /// File systems checked: of the moments after which the data partition was another than before.
    pub file_systems: usize,
    /// Slots compared with their image.
    pub slots: usize,
    /// The ledgers there were, each of which booted.
    pub ledgers: Vec<Ledger>,
}

/// Updates a board, looks at its disk at every moment, and boots it from every ledger. Panics where something does not hold.
pub fn show() -> Seen {
    let (tree, key) = tree_and_key();
    let mut bench = Bench::with(&tree, BOARD, "cuts", PORT, |board| board.name = "qemu-arm64-updates".into());
    bench.boot(Way::Loader);
    bench.is_ready();
    drop(Inside::enter(&bench.user()));
    bench.shut_down();
    let note = archive_of("note", b"another image");
    let bundles = bench.bundles(key);
    let digest = bundles.add("other", bench.image(), &note);
    bench.put(&bundles);
    let folder = bench.files().disk.with_file_name("cuts");
    let _stale = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    let mut replay = Replay::begin(&bench, &folder, &note);
    update(&mut bench, &folder.join("record"), &digest.to_string());
    for step in Record::open(&folder.join("record")).expect("the record") {
        replay.step(step.expect("the record is whole"));
    }
    let Replay { seen, .. } = replay;
    assert!(seen.ledgers.len() > 3, "an update moves the ledger: {:?}", seen.ledgers);
    for (index, ledger) in seen.ledgers.iter().enumerate() {
        boots(&mut bench, &kept(&folder, index), ledger);
    }
    fs::remove_dir_all(&folder).expect("the disks are removed");
    seen
}

/// Stages a bundle that lies on the disk, switches to it and waits until it is confirmed; all of it goes on record.
fn update(bench: &mut Bench, record: &Path, digest: &str) {
    File::create(record).expect("the record is made");
    bench.boot_recorded(Way::Loader, record);
    bench.is_ready();
    let inside = Inside::enter(&bench.user());
    bench.waits_for("an answer from inside", || inside.update(&["status"]).0);
    let (ok, said) = inside.update(&["stage", &format!("{FOLDER}other")]);
    assert!(ok && said.contains(digest), "{said}");
    bench.waits_for("staged", || inside.update(&["status"]).1.contains("state staged"));
    bench.begin_anew();
    inside.update(&["activate", digest]);
    bench.hears("slot b is confirmed");
    bench.is_ready();
    bench.shut_down();
}

fn kept(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("ledger-{index}.img"))
}

/// Boots the machine from a disk of the record. It comes up in the slot that the ledger names.
fn boots(bench: &mut Bench, disk: &Path, ledger: &Ledger) {
    copy(disk, &bench.files().disk);
    bench.boot(Way::Loader);
    let slot = ledger.next().letter();
    bench.hears(&format!("skerry: booting slot {slot}"));
    let after = bench.is_ready();
    println!("{ledger:?}: slot {slot} is Ready after {after:.1?}");
    bench.shut_down();
}

/// The disk, while the record is played onto it.
struct Replay {
    folder: PathBuf,
    disk: File,
    data: File,
    data_at: u64,
    data_end: u64,
    slots: [Side; 2],
    is_data_new: bool,
    seen: Seen,
}

/// A slot: where it is, what belongs into it.
struct Side {
    at: u64,
    end: u64,
    image: (usize, Sum),
    is_known: bool,
    /// Whether something was written that a power cut may take away.
    is_loose: bool,
}

impl Replay {
    fn begin(bench: &Bench, folder: &Path, note: &[u8]) -> Replay {
        let disk = folder.join("disk.img");
        copy(&bench.files().disk, &disk);
        // The partition has grown to the disk's end by now.
        let data_end = fs::metadata(&disk).expect("a disk").len();
        let data_at = bench.start_of("data") * SECTOR;
        let data = folder.join("data.img");
        copy_end(&disk, data_at, &data);
        let side = |name: &str, note: &[u8]| {
            let (at, sectors) = bench.part(name);
            let (_, image) = slot_image(bench.image(), note);
            let image = (image.len(), Sha256::digest(&image).into());
            Side { at: at * SECTOR, end: (at + sectors) * SECTOR, image, is_known: false, is_loose: false }
        };
        Replay {
            folder: folder.to_owned(),
            disk: crate::open(&disk),
            data: crate::open(&data),
            data_at,
            data_end,
            slots: [side("slot a", &[]), side("slot b", note)],
            is_data_new: true,
            seen: Seen::default(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write { at, bytes, kept } => {
                self.write(at, &bytes);
                if kept {
                    self.look();
                }
            }
            Step::Flush => self.look(),
            Step::Discard => {}
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        self.seen.writes += 1;
        put(&mut self.disk, at, bytes);
        let end = at + bytes.len() as u64;
        if at >= self.data_at && end <= self.data_end {
            put(&mut self.data, at - self.data_at, bytes);
            self.is_data_new = true;
        }
        for side in self.slots.iter_mut().filter(|side| at < side.end && end > side.at) {
            (side.is_known, side.is_loose) = (false, true);
        }
        if store::PLACES.iter().any(|place| place * SECTOR < end && at < (place + 1) * SECTOR) {
            self.look_at_ledger();
        }
    }

    /// What is written to the ledger may be kept while what was written before it is not.
    fn look_at_ledger(&mut self) {
        let ledger = ledger_of(&self.folder.join("disk.img"));
        for name in may_boot(&ledger) {
            let side = &self.slots[usize::from(name == Name::B)];
            assert!(!side.is_loose, "{ledger:?} was written before slot {} was kept", name.letter());
        }
        self.note(ledger);
    }

    /// Keeps the disk with this ledger, where it is another than before.
    fn note(&mut self, ledger: Ledger) {
        if self.seen.ledgers.last() == Some(&ledger) {
            return;
        }
        let before = self.seen.ledgers.last().map_or(0, |before| before.sequence);
        assert!(ledger.sequence > before, "{ledger:?} came after sequence {before}");
        copy(&self.folder.join("disk.img"), &kept(&self.folder, self.seen.ledgers.len()));
        self.seen.ledgers.push(ledger);
    }

    /// The power is cut here.
    fn look(&mut self) {
        self.seen.flushes += 1;
        for side in &mut self.slots {
            side.is_loose = false;
        }
        let ledger = ledger_of(&self.folder.join("disk.img"));
        self.note(ledger);
        for name in may_boot(&ledger) {
            self.compare(name, &ledger);
        }
        if std::mem::take(&mut self.is_data_new) {
            self.check_file_system();
        }
    }

    fn compare(&mut self, name: Name, ledger: &Ledger) {
        let side = &mut self.slots[usize::from(name == Name::B)];
        if std::mem::replace(&mut side.is_known, true) {
            return;
        }
        let mut bytes = vec![0; side.image.0];
        let read = self.disk.seek(SeekFrom::Start(side.at)).and_then(|_| self.disk.read_exact(&mut bytes));
        read.expect("the disk can be read");
        let found: Sum = Sha256::digest(&bytes).into();
        assert_eq!(found, side.image.1, "slot {} does not hold its image, and {ledger:?} may boot it", name.letter());
        self.seen.slots += 1;
    }

    /// As the kernel does: what the journal holds is played, and what was being removed is removed. Nothing else is amiss.
    fn check_file_system(&mut self) {
        let copied = self.folder.join("checked.img");
        copy(&self.folder.join("data.img"), &copied);
        let check = |words: &[&str]| {
            let said = Command::new("e2fsck")
                .args(words)
                .arg(&copied)
                .env("PATH", "/sbin:/usr/sbin:/bin:/usr/bin")
                .output()
                .expect("e2fsck runs");
            (said.status.code(), String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
        };
        let (code, said) = check(&["-p"]);
        assert!(matches!(code, Some(0 | 1)), "at flush {}: {said}", self.seen.flushes);
        let (code, said) = check(&["-f", "-n"]);
        assert_eq!(code, Some(0), "at flush {}: {said}", self.seen.flushes);
        self.seen.file_systems += 1;
    }
}

/// What a board with this ledger may boot, sooner or later.
fn may_boot(ledger: &Ledger) -> Vec<Name> {
    let spare = matches!(ledger.spare, Slot::Staged | Slot::Trying { .. } | Slot::Good);
    [Some(ledger.active), spare.then(|| ledger.active.other())].into_iter().flatten().collect()
}

fn put(file: &mut File, at: u64, bytes: &[u8]) {
    file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(bytes)).expect("the copy can be written");
}

/// Holes stay holes.
fn copy(from: &Path, to: &Path) {
    run(tool("cp").arg("--sparse=always").arg(from).arg(to)).expect("the disk can be copied");
}

/// What lies on a disk from byte `at` on.
fn copy_end(disk: &Path, at: u64, to: &Path) {
    let words = [format!("if={}", disk.display()), format!("of={}", to.display()), format!("skip={}", at >> 20)];
    run(tool("dd").args(words).args(["bs=1M", "conv=sparse", "status=none"])).expect("the data can be copied");
}

#[cfg(test)]
mod tests {
    use super::*;
    use slots::Move;

    #[test]
    fn an_empty_slot_never_boots() {
        let ledger = Ledger::new();
        assert_eq!(may_boot(&ledger), [Name::A]);
        assert_eq!(may_boot(&ledger.apply(Name::B, Move::Stage).unwrap()), [Name::A, Name::B]);
    }
}
