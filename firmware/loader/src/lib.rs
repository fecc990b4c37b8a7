//! What our boot loader does on machines where U-Boot does not: it reads the ledger, counts a trial down, and starts
//! the kernel of the slot that is due, or that of the other one.
//!
//! Start at [`run`]. What it needs of a machine is a [`Machine`]; the one with UEFI is `efi`.
//!
//! Invariants:
//! * a slot on trial is started only after its countdown stands on the disk, as read back: one that cannot be written is
//!   not tried;
//! * whatever fails with one slot, the other is still tried.
//!
//! Not here: which slot is due (`slots`); the same for U-Boot, in its shell (`image/tool/src/script.rs`).
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

use core::fmt::{self, Display, Write as _};

use embedded_io::{Read, ReadExactError, Seek, SeekFrom, Write};
use slots::sector::{BYTES, Sector};
use slots::table::{Partition, Table};
use slots::{Contents, Extent, Ledger, Name, Slot, choose, store};

/// The partitions that are slots.
const SLOT_A: usize = 1;
const SLOT_B: usize = 2;
/// A kernel for either processor takes so much.
const COMMAND_LINE_MAX: usize = 2048;

/// What the loader needs of a machine.
pub trait Machine {
    /// The disk that we were loaded from. A flush of it returns once everything is on it.
    type Disk: Read + Write + Seek;
    /// Why a kernel could not be started.
    type Failed: Display;

    /// That disk.
    fn disk(&mut self) -> &mut Self::Disk;
    /// Tells a line.
    fn say(&mut self, what: fmt::Arguments<'_>);
    /// Memory for so many bytes, where there is any. It is never given back: what is in it is for a kernel.
    fn room(&mut self, bytes: usize) -> Option<&'static mut [u8]>;
    /// Starts a kernel, and comes back only where that fails.
    fn start(&mut self, kernel: &'static [u8], initramfs: &'static [u8], command_line: &str) -> Self::Failed;
}

/// Why a slot cannot be booted.
enum Error<M: Machine> {
    /// The disk cannot be read.
    Read(<M::Disk as embedded_io::ErrorType>::Error),
    /// The disk ends too early.
    Short,
    /// There is no partition table that we understand.
    NoTable,
    /// The first sector of the slot says nothing.
    Empty,
    /// What the slot says of itself reaches beyond it.
    Outside,
    /// There is no memory for so many bytes.
    Memory(u64),
    /// The command line is too long.
    CommandLine,
    /// The kernel does not start.
    Start(M::Failed),
}

impl<M: Machine> Display for Error<M> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Read(error) => write!(out, "failed to read the disk: {error}"),
            Error::Short => write!(out, "the disk ends before it"),
            Error::NoTable => write!(out, "the disk has no partition table"),
            Error::Empty => write!(out, "it holds no image"),
            Error::Outside => write!(out, "what it holds reaches beyond it"),
            Error::Memory(bytes) => write!(out, "there is no memory for {bytes} bytes of it"),
            Error::CommandLine => write!(out, "the kernel's command line is longer than {COMMAND_LINE_MAX} bytes"),
            Error::Start(error) => write!(out, "{error}"),
        }
    }
}

/// Starts the slot that is due, with `command_line` and the slot's name; comes back where no slot can be started.
pub fn run<M: Machine>(machine: &mut M, command_line: &str) {
    let first = due(machine);
    for slot in [first, first.other()] {
        let failed = boot(machine, slot, command_line);
        machine.say(format_args!("slot {} cannot be booted: {failed}", slot.letter()));
    }
}

/// The slot to boot first; where it is on trial, that is counted down on the disk by then.
fn due<M: Machine>(machine: &mut M) -> Name {
    let ledger = store::load(machine.disk()).unwrap_or_else(|error| {
        machine.say(format_args!("the ledger cannot be read: {error}"));
        None
    });
    let choice = choose(ledger.as_ref());
    let Some(after) = choice.write else { return choice.first };
    let saved = store::save(machine.disk(), &after);
    let kept = saved.and_then(|()| store::load(machine.disk()));
    if kept.as_ref().is_ok_and(|kept| *kept == Some(after)) {
        tell(machine, &after);
        return choice.first;
    }
    let active = choice.without_trial.letter();
    machine.say(format_args!("the ledger cannot be written, so nothing is tried and slot {active} is booted"));
    if let Err(error) = kept {
        machine.say(format_args!("it cannot be written: {error}"));
    }
    choice.without_trial
}

fn tell<M: Machine>(machine: &mut M, written: &Ledger) {
    let (trying, active) = (written.active.other().letter(), written.active.letter());
    match written.spare {
        Slot::Trying { tries_left } => machine.say(format_args!("slot {trying} on trial, {tries_left} tries left")),
        _ => machine.say(format_args!("slot {trying} used up its tries, returning to {active}")),
    }
}

fn boot<M: Machine>(machine: &mut M, slot: Name, command_line: &str) -> Error<M> {
    match load(machine, slot, command_line) {
        Ok((kernel, initramfs, line)) => Error::Start(machine.start(kernel, initramfs, &line)),
        Err(error) => error,
    }
}

type Loaded = (&'static [u8], &'static [u8], heapless::String<COMMAND_LINE_MAX>);

/// Kernel, initramfs and command line of a slot.
fn load<M: Machine>(machine: &mut M, slot: Name, command_line: &str) -> Result<Loaded, Error<M>> {
    let table = Table::decode(&sector(machine, 0)?).ok_or(Error::NoTable)?;
    let partition = table.partitions[if slot == Name::B { SLOT_B } else { SLOT_A }];
    let contents = Contents::decode(&sector(machine, partition.at.into())?).ok_or(Error::Empty)?;
    machine.say(format_args!("booting slot {}", slot.letter()));
    let kernel = part(machine, partition, contents.kernel, contents.kernel.sectors.saturating_mul(BYTES as u64))?;
    let initramfs = part(machine, partition, contents.initramfs, contents.initramfs_bytes)?;
    let mut line = heapless::String::new();
    write!(line, "{command_line} skerry.slot={}", slot.letter()).map_err(|_| Error::CommandLine)?;
    Ok((kernel, initramfs, line))
}

fn sector<M: Machine>(machine: &mut M, at: u64) -> Result<Sector, Error<M>> {
    let mut sector = [0; BYTES];
    read(machine, at, &mut sector)?;
    Ok(sector)
}

/// The first `bytes` of a part of a slot.
fn part<M: Machine>(machine: &mut M, slot: Partition, part: Extent, bytes: u64) -> Result<&'static [u8], Error<M>> {
    let end = part.at.checked_add(part.sectors).ok_or(Error::Outside)?;
    if end > slot.sectors.into() || bytes > part.sectors * BYTES as u64 {
        return Err(Error::Outside);
    }
    let room = usize::try_from(bytes).ok().and_then(|bytes| machine.room(bytes)).ok_or(Error::Memory(bytes))?;
    read(machine, u64::from(slot.at) + part.at, room)?;
    Ok(room)
}

fn read<M: Machine>(machine: &mut M, sector: u64, into: &mut [u8]) -> Result<(), Error<M>> {
    let disk = machine.disk();
    disk.seek(SeekFrom::Start(sector * BYTES as u64)).map_err(Error::Read)?;
    disk.read_exact(into).map_err(|error| match error {
        ReadExactError::UnexpectedEof => Error::Short,
        ReadExactError::Other(error) => Error::Read(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use slots::{Cause, Move};
    use std::io::Cursor;
    use std::string::{String, ToString};
    use std::vec;
    use std::vec::Vec;

    const SLOTS: [u32; 2] = [0x800, 0x900];

    /// What a disk does with what is written to it.
    enum Writes {
        Kept,
        Refused,
        Lost,
    }

    /// A disk in memory.
    struct Disk {
        bytes: Cursor<Vec<u8>>,
        writes: Writes,
    }

    impl embedded_io::ErrorType for Disk {
        type Error = std::io::Error;
    }
    impl Read for Disk {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            std::io::Read::read(&mut self.bytes, into)
        }
    }
    impl Write for Disk {
        fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
            match self.writes {
                Writes::Kept => std::io::Write::write(&mut self.bytes, from),
                Writes::Refused => Err(std::io::Error::other("worn out")),
                Writes::Lost => Ok(from.len()),
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl Seek for Disk {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            std::io::Seek::seek(&mut self.bytes, to.into())
        }
    }

    /// Starts nothing and writes down what it was told to.
    struct Fake {
        disk: Disk,
        said: Vec<String>,
    }

    impl Machine for Fake {
        type Disk = Disk;
        type Failed = &'static str;
        fn disk(&mut self) -> &mut Disk {
            &mut self.disk
        }
        fn say(&mut self, what: fmt::Arguments<'_>) {
            self.said.push(what.to_string());
        }
        fn room(&mut self, bytes: usize) -> Option<&'static mut [u8]> {
            Some(vec![0; bytes].leak())
        }
        fn start(&mut self, kernel: &'static [u8], initramfs: &'static [u8], command_line: &str) -> &'static str {
            let first = |bytes: &[u8]| bytes.first().copied().unwrap_or_default() as char;
            let said = std::format!("{}{} {} {command_line}", first(kernel), first(initramfs), initramfs.len());
            self.said.push(said);
            "it comes back"
        }
    }

    impl Fake {
        fn put(&mut self, sector: u64, bytes: &[u8]) {
            let at = usize::try_from(sector).unwrap() * BYTES;
            self.disk.bytes.get_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        }

        fn ledger(&mut self) -> Option<Ledger> {
            store::load(&mut self.disk).unwrap()
        }
    }

    /// Two slots with a kernel and an initramfs each, and a ledger.
    fn machine(ledger: &Ledger) -> Fake {
        let bytes = Cursor::new(vec![0; 0xa00 * BYTES]);
        let mut fake = Fake { disk: Disk { bytes, writes: Writes::Kept }, said: vec![] };
        let mut table = Table { signature: 1, partitions: [Partition::default(); 4] };
        let contents = Contents {
            kernel: Extent { at: 8, sectors: 2 },
            initramfs: Extent { at: 16, sectors: 1 },
            initramfs_bytes: 500,
            ..Contents::default()
        };
        for (slot, (at, [kernel, initramfs])) in SLOTS.into_iter().zip([*b"Aa", *b"Bb"]).enumerate() {
            table.partitions[SLOT_A + slot] = Partition { kind: 0xda, boot: false, at, sectors: 0x100 };
            fake.put(at.into(), &contents.encode());
            fake.put(u64::from(at) + 8, &[kernel; 2 * BYTES]);
            fake.put(u64::from(at) + 16, &[initramfs; BYTES]);
        }
        let mut sector = [0; BYTES];
        table.write(&mut sector);
        fake.put(0, &sector);
        store::save(&mut fake.disk, ledger).unwrap();
        fake
    }

    fn trial(tries: u8) -> Ledger {
        let staged = Ledger::new().apply(Name::B, Move::Stage).unwrap();
        staged.apply(Name::B, Move::Try { tries }).unwrap()
    }

    /// What is said and started on a machine.
    #[track_caller]
    fn check(fake: &mut Fake, expected: &[&str]) {
        run(fake, "quiet");
        assert_eq!(fake.said, expected);
    }

    const FROM_A: [&str; 3] =
        ["booting slot a", "Aa 500 quiet skerry.slot=a", "slot a cannot be booted: it comes back"];
    const FROM_B: [&str; 3] =
        ["booting slot b", "Bb 500 quiet skerry.slot=b", "slot b cannot be booted: it comes back"];

    #[test]
    fn the_active_slot_starts_and_the_other_where_it_comes_back() {
        let mut fake = machine(&Ledger::new());
        check(&mut fake, &[FROM_A, FROM_B].concat());
        assert_eq!(fake.ledger(), Some(Ledger::new()), "no trial, no writing");
    }

    #[test]
    fn a_trial_is_counted_down_and_then_left() {
        let mut fake = machine(&trial(1));
        check(&mut fake, &[&["slot b on trial, 0 tries left"], &FROM_B[..], &FROM_A].concat());
        assert_eq!(
            fake.ledger().map(|ledger| (ledger.spare, ledger.cause)),
            Some((Slot::Trying { tries_left: 0 }, Cause::Panic))
        );
        fake.said.clear();
        check(&mut fake, &[&["slot b used up its tries, returning to a"], &FROM_A[..], &FROM_B].concat());
        assert_eq!(fake.ledger().map(|ledger| ledger.spare), Some(Slot::Empty));
    }

    #[test]
    fn a_trial_that_cannot_be_counted_down_is_no_trial() {
        for (writes, why) in [(Writes::Refused, Some("it cannot be written: worn out")), (Writes::Lost, None)] {
            let mut fake = machine(&trial(3));
            fake.disk.writes = writes;
            let told = "the ledger cannot be written, so nothing is tried and slot a is booted";
            let told: Vec<&str> = [told].into_iter().chain(why).collect();
            check(&mut fake, &[&told, &FROM_A[..], &FROM_B].concat());
            assert_eq!(fake.ledger(), Some(trial(3)));
        }
    }

    #[test]
    fn without_a_ledger_slot_a_starts() {
        let mut fake = machine(&trial(3));
        store::PLACES.iter().for_each(|place| fake.put(*place, &[7; BYTES]));
        check(&mut fake, &[FROM_A, FROM_B].concat());
    }

    #[test]
    fn a_slot_that_holds_nothing_whole_is_passed_over() {
        let beyond = Contents { kernel: Extent { at: 0xff, sectors: 2 }, ..Contents::default() };
        let endless = Contents { kernel: Extent { at: 1, sectors: u64::MAX }, ..Contents::default() };
        for (sector, why) in [
            ([0; BYTES], "slot a cannot be booted: it holds no image"),
            (beyond.encode(), "slot a cannot be booted: what it holds reaches beyond it"),
            (endless.encode(), "slot a cannot be booted: what it holds reaches beyond it"),
        ] {
            let mut fake = machine(&Ledger::new());
            fake.put(SLOTS[0].into(), &sector);
            run(&mut fake, "quiet");
            let said: Vec<&str> = fake.said.iter().map(String::as_str).filter(|line| *line != FROM_A[0]).collect();
            assert_eq!(said, [&[why], &FROM_B[..]].concat());
        }
    }

    #[test]
    fn a_disk_that_is_no_disk_of_ours_is_told_of() {
        let mut fake = machine(&Ledger::new());
        fake.put(0, &[0; BYTES]);
        let told = ["a", "b"].map(|slot| std::format!("slot {slot} cannot be booted: the disk has no partition table"));
        check(&mut fake, &[&told[0], &told[1]]);
    }

    #[test]
    fn a_command_line_too_long_for_a_kernel_is_refused() {
        let mut fake = machine(&Ledger::new());
        run(&mut fake, &"x".repeat(COMMAND_LINE_MAX));
        let told = "slot a cannot be booted: the kernel's command line is longer than 2048 bytes";
        assert_eq!(fake.said[1], told);
    }
}
