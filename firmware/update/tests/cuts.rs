//! Every write of an update may be the last one before a power cut.
//!
//! Start at [`every_cut_of_an_update_leaves_the_old_image_or_the_new`]. The disk is one in memory that, like a real one, loses
//! any part of what was written since the last flush.
#![forbid(unsafe_code)]

use std::io::{self, Cursor};

use bundle::head::ROOM;
use bundle::{Bundle, Head, Secret, Target};
use embedded_io::SeekFrom;
use slots::sector::BYTES;
use slots::table::{Partition, Table};
use slots::{Cause, Contents, Extent, Ledger, Move, Name, Slot, store};
use update::medium::{Failure, ledger};
use update::stage::{head_of, stage};
use update::{Error, Medium, Slots, turn};

const CHUNK: usize = 4096;
const SLOT_BYTES: u64 = ROOM + (8 * CHUNK) as u64;
const FIRST_SLOT_AT: u64 = 1 << 20;
const NEVER: usize = usize::MAX;

/// A disk with a cache: what is read is what was written, what lasts is what was flushed.
#[derive(Clone)]
struct Memory {
    view: Vec<u8>,
    lasting: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
    at: usize,
    /// So many writes and flushes happen; then the power is cut.
    left: usize,
    /// Bytes here are lost, whatever is written.
    bad: Option<usize>,
}

/// What survives of the writes since the last flush.
#[derive(Clone, Copy, Debug)]
enum Survives {
    Nothing,
    Everything,
    TheLast,
    EverySecond,
    AllButHalfOfTheLast,
}

const SURVIVALS: [Survives; 5] =
    [Survives::Nothing, Survives::Everything, Survives::TheLast, Survives::EverySecond, Survives::AllButHalfOfTheLast];

impl Memory {
    fn operate(&mut self) -> Result<(), Failure> {
        self.left = self.left.checked_sub(1).ok_or_else(|| Failure(io::Error::other("the power is cut")))?;
        Ok(())
    }

    fn after_cut(&self, survives: Survives) -> Memory {
        let mut lasting = self.lasting.clone();
        let count = self.pending.len();
        for (index, (at, bytes)) in self.pending.iter().enumerate() {
            let is_last = index + 1 == count;
            let bytes = match survives {
                Survives::Nothing => 0,
                Survives::Everything => bytes.len(),
                Survives::TheLast => bytes.len() * usize::from(is_last),
                Survives::EverySecond => bytes.len() * (index % 2),
                Survives::AllButHalfOfTheLast => {
                    if is_last {
                        bytes.len() / 2
                    } else {
                        bytes.len()
                    }
                }
            };
            lasting[*at..at + bytes].copy_from_slice(&self.pending[index].1[..bytes]);
        }
        Memory { view: lasting.clone(), lasting, pending: vec![], at: 0, left: NEVER, bad: None }
    }

    fn slot(&self, name: Name) -> &[u8] {
        let at = (FIRST_SLOT_AT + SLOT_BYTES * u64::from(name == Name::B)) as usize;
        &self.lasting[at..at + SLOT_BYTES as usize]
    }
}

impl embedded_io::ErrorType for Memory {
    type Error = Failure;
}
impl embedded_io::Read for Memory {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Failure> {
        into.copy_from_slice(&self.view[self.at..self.at + into.len()]);
        self.at += into.len();
        Ok(into.len())
    }
}
impl embedded_io::Write for Memory {
    fn write(&mut self, from: &[u8]) -> Result<usize, Failure> {
        self.operate()?;
        self.view[self.at..self.at + from.len()].copy_from_slice(from);
        self.pending.push((self.at, from.to_vec()));
        self.at += from.len();
        Ok(from.len())
    }
    fn flush(&mut self) -> Result<(), Failure> {
        self.operate()?;
        for (at, bytes) in self.pending.drain(..) {
            self.lasting[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        if let Some(bad) = self.bad {
            self.lasting[bad] = 0xba;
        }
        Ok(())
    }
}
impl embedded_io::Seek for Memory {
    fn seek(&mut self, to: SeekFrom) -> Result<u64, Failure> {
        let SeekFrom::Start(at) = to else { panic!("{to:?} is not asked for") };
        self.at = at as usize;
        Ok(at)
    }
}
impl Medium for Memory {
    fn forget(&mut self) -> Result<(), Failure> {
        assert!(self.pending.is_empty(), "what is forgotten was written");
        self.view = self.lasting.clone();
        Ok(())
    }
}

/// An image of so many chunks whose bytes tell it from others; the first sector makes it a slot.
fn image(byte: u8, chunks: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..chunks * CHUNK - 100).map(|at| byte ^ (at / CHUNK) as u8).collect();
    let contents =
        Contents { initramfs_bytes: byte.into(), kernel: Extent { at: 8, sectors: 1 }, ..Contents::default() };
    bytes[..BYTES].copy_from_slice(&contents.encode());
    bytes
}

fn about(version: &str, security_epoch: u32) -> Head {
    Head {
        version: version.into(),
        board: "test".into(),
        arch: "arm64".into(),
        security_epoch,
        confirm_within_s: 60,
        image_bytes: 0,
        chunk_bytes: CHUNK as u32,
        chunks: vec![],
    }
}

fn made(version: &str, epoch: u32, image: &[u8], key: &Secret) -> Vec<u8> {
    let mut file = vec![];
    bundle::write(about(version, epoch), &mut Cursor::new(image), Some(key), &mut file).unwrap();
    file
}

struct World {
    key: Secret,
    slots: Slots,
    old: Vec<u8>,
    new: Vec<u8>,
    disk: Memory,
}

/// Slot a runs an image and is good; slot b holds an older one, which is good too.
fn world() -> World {
    let key = Secret::generate().unwrap();
    let sectors = |bytes: u64| (bytes / BYTES as u64) as u32;
    let mut table = Table { signature: 1, partitions: [Partition::default(); 4] };
    for (index, at) in [FIRST_SLOT_AT, FIRST_SLOT_AT + SLOT_BYTES].into_iter().enumerate() {
        table.partitions[index + 1] = Partition { kind: 1, boot: false, at: sectors(at), sectors: sectors(SLOT_BYTES) };
    }
    let bytes = vec![0; (FIRST_SLOT_AT + 2 * SLOT_BYTES) as usize];
    let mut disk = Memory { view: bytes.clone(), lasting: bytes, pending: vec![], at: 0, left: NEVER, bad: None };
    let (old, older, new) = (image(0x10, 6), image(0x20, 5), image(0x40, 7));
    let mut sector = [0; BYTES];
    table.write(&mut sector);
    disk.write_at(0, &sector).unwrap();
    let slots = Slots::read(&mut disk, "the disk").unwrap();
    for (name, image, version) in [(Name::A, &old, "2"), (Name::B, &older, "1")] {
        let place = slots.place(name);
        disk.write_at(place.at, image).unwrap();
        let file = made(version, 1, image, &key);
        let bundle = Bundle::open(Cursor::new(file), &[key.public()]).unwrap();
        disk.write_at(place.at + place.bytes - ROOM, bundle.head_bytes()).unwrap();
    }
    let ledger = Ledger { spare: Slot::Good, cause: Cause::Confirmed, ..Ledger::new() };
    for sequence in [1, 2] {
        store::save(&mut disk, &Ledger { sequence, ..ledger }).unwrap();
    }
    World { key, slots, old, new, disk }
}

impl World {
    fn bundle(&self, version: &str, epoch: u32) -> Bundle<Cursor<Vec<u8>>> {
        let file = made(version, epoch, &self.new, &self.key);
        Bundle::open(Cursor::new(file), &[self.key.public()]).unwrap()
    }

    fn target(&self) -> Target {
        Target { board: "test".into(), arch: "arm64".into(), security_epoch: 1, slot_bytes: SLOT_BYTES }
    }

    /// The whole update up to the restart. What a cut interrupted is not done again once it is done.
    fn update(&self, disk: &mut Memory) -> Result<(), Error> {
        let mut bundle = self.bundle("3", 1);
        let before = ledger(disk)?;
        if before.next() == Name::A && before.spare != Slot::Staged {
            stage(disk, &self.slots, Name::A, &mut bundle, &self.target(), |_, _| {})?;
        }
        turn::activate(disk, &self.slots, bundle.digest())
    }

    /// Which slot the boot script takes, and the image it finds there: `old`, `new`, or something else.
    fn boots(&self, disk: &mut Memory) -> (Name, &'static str) {
        let name = ledger(disk).unwrap().next();
        let name = if is_slot(disk, name) { name } else { name.other() };
        let slot = disk.slot(name);
        let found = [("old", &self.old), ("new", &self.new)].into_iter().find(|(_, image)| slot.starts_with(image));
        (name, found.map_or("something else", |(told, _)| told))
    }
}

fn is_slot(disk: &Memory, name: Name) -> bool {
    Contents::decode(disk.slot(name)[..BYTES].try_into().unwrap()).is_some()
}

/// How many writes and flushes `work` takes.
fn operations(disk: &Memory, work: impl Fn(&mut Memory)) -> usize {
    let mut disk = Memory { left: NEVER, ..disk.clone() };
    work(&mut disk);
    NEVER - disk.left
}

#[test]
fn every_cut_of_an_update_leaves_the_old_image_or_the_new() {
    let world = world();
    let digest = world.bundle("3", 1).digest();
    let all = operations(&world.disk, |disk| world.update(disk).unwrap());
    let mut seen = [0, 0];
    for cut in 0..all {
        for survives in SURVIVALS {
            let mut disk = world.disk.clone();
            disk.left = cut;
            world.update(&mut disk).expect_err("the power is cut");
            let mut disk = disk.after_cut(survives);
            let after = ledger(&mut disk).unwrap();
            let boots = world.boots(&mut disk);
            let told = format!("cut at {cut}, {survives:?} survives: {after:?}, boots {boots:?}");
            let expected = match after.spare {
                Slot::Trying { tries_left } => (tries_left == turn::TRIES).then_some((Name::B, "new")),
                _ => Some((Name::A, "old")),
            };
            assert_eq!(Some(boots), expected, "{told}");
            if after.spare == Slot::Staged {
                assert!(disk.slot(Name::B).starts_with(&world.new), "{told}");
            }
            if matches!(after.spare, Slot::Staged | Slot::Trying { .. }) {
                let held = head_of(&mut disk, world.slots.place(Name::B)).unwrap().unwrap().1;
                assert_eq!(held, digest, "{told}");
            }
            seen[usize::from(boots.1 == "new")] += 1;
            // And whatever was cut off, the same again brings it to its end.
            world.update(&mut disk).unwrap_or_else(|error| panic!("{told}: {error}"));
            assert_eq!(world.boots(&mut disk), (Name::B, "new"), "{told}");
        }
    }
    assert!(seen[0] > 50 && seen[1] > 0, "{seen:?} cuts left the old and the new image");
}

#[test]
fn what_begins_as_a_slot_is_a_whole_one_at_every_cut() {
    let world = world();
    let all = operations(&world.disk, |disk| world.update(disk).unwrap());
    for cut in 0..all {
        for survives in SURVIVALS {
            let mut disk = world.disk.clone();
            disk.left = cut;
            world.update(&mut disk).expect_err("the power is cut");
            let disk = disk.after_cut(survives);
            let (slot, older) = (disk.slot(Name::B), image(0x20, 5));
            if is_slot(&disk, Name::B) {
                let whole = slot.starts_with(&older) || slot.starts_with(&world.new);
                assert!(whole, "cut at {cut}, {survives:?} survives");
            }
        }
    }
}

#[test]
fn every_cut_of_a_decision_leaves_it_made_or_not() {
    let world = world();
    let mut tried = world.disk.clone();
    world.update(&mut tried).unwrap();
    let decide: [(fn(&mut Memory), Name, Slot); 2] = [
        (|disk| drop(turn::confirm(disk, Name::B)), Name::B, Slot::Good),
        (|disk| drop(turn::reject(disk, Name::B, Cause::Unhealthy)), Name::A, Slot::Empty),
    ];
    for (work, active, spare) in decide {
        for cut in 0..=operations(&tried, work) {
            for survives in SURVIVALS {
                let mut disk = tried.clone();
                disk.left = cut;
                work(&mut disk);
                let after = ledger(&mut disk.after_cut(survives)).unwrap();
                let made = (after.active, after.spare) == (active, spare);
                let not_made = (after.active, after.spare) == (Name::A, Slot::Trying { tries_left: turn::TRIES });
                assert!(made || not_made, "cut at {cut}, {survives:?} survives: {after:?}");
            }
        }
    }
}

#[test]
fn what_lies_there_already_is_not_written_again() {
    let world = world();
    let mut disk = world.disk.clone();
    let first = stage(&mut disk, &world.slots, Name::A, &mut world.bundle("3", 1), &world.target(), |_, _| {}).unwrap();
    assert_eq!((first.written, first.kept), (7, 0));
    let again = stage(&mut disk, &world.slots, Name::A, &mut world.bundle("4", 1), &world.target(), |_, _| {}).unwrap();
    assert_eq!((again.written, again.kept), (1, 6), "the first part was wiped, so that it comes last again");
}

#[test]
fn a_disk_that_does_not_keep_what_is_written_is_found_out() {
    let world = world();
    let mut disk = world.disk.clone();
    disk.bad = Some(world.slots.place(Name::B).at as usize + 2 * CHUNK + 5);
    let error = stage(&mut disk, &world.slots, Name::A, &mut world.bundle("3", 1), &world.target(), |_, _| {});
    let told = error.unwrap_err().to_string();
    assert_eq!(told, "part 3 of 7 reads back otherwise than it was written to slot b: the disk is failing");
    assert_eq!(ledger(&mut disk).unwrap().spare, Slot::Empty);
    assert!(!is_slot(&disk, Name::B));
}

/// A bundle that is refused has changed nothing.
fn check_refused(change: impl FnOnce(&mut World, &mut Target) -> Bundle<Cursor<Vec<u8>>>, expected: &str) {
    let mut world = world();
    let mut target = world.target();
    let mut bundle = change(&mut world, &mut target);
    let before = world.disk.view.clone();
    let mut disk = world.disk.clone();
    let told = stage(&mut disk, &world.slots, Name::A, &mut bundle, &target, |_, _| {}).unwrap_err().to_string();
    assert!(told.starts_with(expected), "{told}");
    assert!(disk.view == before, "nothing was written");
}

#[test]
fn what_is_refused_changes_nothing() {
    check_refused(
        |world, target| {
            target.board = "other".into();
            world.bundle("3", 1)
        },
        "the bundle is for test (arm64)",
    );
    check_refused(|world, _| world.bundle("3", 0), "the bundle is a downgrade: its security epoch is 0");
    check_refused(
        |world, target| {
            target.slot_bytes = ROOM + 4;
            world.bundle("3", 1)
        },
        "the bundle is oversized",
    );
    check_refused(
        |world, _| {
            let mut file = made("3", 1, &world.new, &world.key);
            let last = file.len() - 1;
            file[last] ^= 1;
            Bundle::open(Cursor::new(file), &[world.key.public()]).unwrap()
        },
        "the bundle is damaged: part 7 of 7",
    );
    check_refused(
        |world, _| {
            let trial = ledger(&mut world.disk).unwrap().apply(Name::B, Move::Try { tries: 1 }).unwrap();
            store::save(&mut world.disk, &trial).unwrap();
            world.bundle("3", 1)
        },
        "slot b is on trial",
    );
}

#[test]
fn an_older_version_of_the_same_epoch_is_taken() {
    let world = world();
    let mut disk = world.disk.clone();
    stage(&mut disk, &world.slots, Name::A, &mut world.bundle("1", 1), &world.target(), |_, _| {}).unwrap();
    assert_eq!(ledger(&mut disk).unwrap().spare, Slot::Staged);
}

#[test]
fn rolling_back_tries_the_other_slot_unless_its_epoch_is_lower() {
    let world = world();
    let mut disk = world.disk.clone();
    turn::roll_back(&mut disk, &world.slots, Name::A).unwrap();
    assert_eq!(ledger(&mut disk).unwrap().next(), Name::B);
    // On trial it means giving the trial up.
    turn::roll_back(&mut disk, &world.slots, Name::B).unwrap();
    let after = ledger(&mut disk).unwrap();
    assert_eq!((after.next(), after.spare, after.cause), (Name::A, Slot::Empty, Cause::Asked));
    let told = turn::roll_back(&mut disk, &world.slots, Name::A).unwrap_err().to_string();
    assert_eq!(told, "slot b holds nothing to go back to");

    let mut disk = world.disk.clone();
    let place = world.slots.place(Name::A);
    let raised = world.bundle("3", 2);
    disk.write_at(place.at + place.bytes - ROOM, raised.head_bytes()).unwrap();
    let told = turn::roll_back(&mut disk, &world.slots, Name::A).unwrap_err().to_string();
    assert!(told.starts_with("the bundle is a downgrade: its security epoch is 1"), "{told}");
}

#[test]
fn only_what_is_staged_can_be_activated() {
    let world = world();
    let mut disk = world.disk.clone();
    let wanted = world.bundle("3", 1).digest();
    let told = turn::activate(&mut disk, &world.slots, wanted).unwrap_err().to_string();
    assert!(told.starts_with(&format!("the other slot does not hold {wanted}; it holds sha256:")), "{told}");
}

#[test]
fn a_bite_of_the_watchdog_is_noted_where_nobody_knew_better() {
    let world = world();
    let check = |noted: Option<Cause>, expected: Cause| {
        let mut disk = world.disk.clone();
        world.update(&mut disk).unwrap();
        let mut trial = ledger(&mut disk).unwrap();
        trial = trial.apply(Name::B, Move::Boot).unwrap();
        store::save(&mut disk, &trial).unwrap();
        turn::note(&mut disk, Name::B, Cause::InitCrash).unwrap();
        match noted {
            Some(cause) => drop(turn::reject(&mut disk, Name::B, cause).unwrap()),
            None => {
                let mut trial = ledger(&mut disk).unwrap();
                while trial.next() == Name::B {
                    trial = trial.apply(Name::B, Move::Boot).unwrap();
                }
                store::save(&mut disk, &trial.apply(Name::B, Move::Boot).unwrap()).unwrap();
            }
        }
        turn::bitten(&mut disk, Name::A).unwrap();
        assert_eq!(ledger(&mut disk).unwrap().cause, expected);
    };
    check(None, Cause::Watchdog);
    check(Some(Cause::Unhealthy), Cause::Unhealthy);
}
