//! The disk as updates see it: bytes that can be read and written, a border behind which they last, and two slots.
//!
//! Start at [`Medium`]; [`Device`] is a real disk, and the tests have one in memory that loses what a power cut loses.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use embedded_io::SeekFrom;
use slots::sector::BYTES;
use slots::table::Table;
use slots::{Ledger, Name, store};

use crate::Error;
use crate::error::Doing;

/// A failed reading or writing.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Failure(#[from] pub io::Error);

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        failure.0
    }
}

impl embedded_io::Error for Failure {
    fn kind(&self) -> embedded_io::ErrorKind {
        embedded_io::ErrorKind::Other
    }
}

/// A disk. `flush` returns when all that was written would survive a power cut.
pub trait Medium:
    embedded_io::Read + embedded_io::Write + embedded_io::Seek + embedded_io::ErrorType<Error = Failure>
{
    /// Forgets what memory knows of the disk, so that the next reading is one of the disk itself.
    fn forget(&mut self) -> Result<(), Failure>;

    /// Waits until nobody else has the disk for itself, and has it then, until [`Medium::unlock`] or until it is closed. The
    /// ledger is written by PID 1 and by the update service: each reads it first, and neither may overlook what the other writes.
    fn lock(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Lets others have it.
    fn unlock(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Fills `into` from byte `at` on.
    fn read_at(&mut self, at: u64, into: &mut [u8]) -> Result<(), Failure> {
        self.seek(SeekFrom::Start(at))?;
        self.read_exact(into).map_err(|error| match error {
            embedded_io::ReadExactError::UnexpectedEof => Failure(io::ErrorKind::UnexpectedEof.into()),
            embedded_io::ReadExactError::Other(failure) => failure,
        })
    }

    /// Writes `from` at byte `at`.
    fn write_at(&mut self, at: u64, from: &[u8]) -> Result<(), Failure> {
        self.seek(SeekFrom::Start(at))?;
        self.write_all(from)
    }
}

/// A slot's place on the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it begins.
    pub at: u64,
    /// How long it is.
    pub bytes: u64,
}

/// Where the two slots lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots([Place; 2]);

impl Slots {
    /// As the partition table says: the second and third partition.
    pub fn of(table: &Table) -> Option<Slots> {
        let place = |index: usize| {
            let part = table.partitions[index];
            Place { at: u64::from(part.at) * BYTES as u64, bytes: u64::from(part.sectors) * BYTES as u64 }
        };
        let slots = [place(1), place(2)];
        slots.iter().all(|place| place.bytes > bundle::head::ROOM).then_some(Slots(slots))
    }

    /// As the disk's first sector says.
    pub fn read(medium: &mut impl Medium, named: &str) -> Result<Slots, Error> {
        let mut sector = [0; BYTES];
        medium.read_at(0, &mut sector).doing(format_args!("read the partition table of {named}"))?;
        Table::decode(&sector).and_then(|table| Slots::of(&table)).ok_or_else(|| Error::NoSlots(named.to_owned()))
    }

    /// Where `name` lies.
    pub fn place(&self, name: Name) -> Place {
        self.0[usize::from(name == Name::B)]
    }
}

/// The ledger; a new one where none is valid.
pub fn ledger(medium: &mut impl Medium) -> Result<Ledger, Error> {
    Ok(store::load(medium).doing("read the ledger")?.unwrap_or_default())
}

/// The ledger, to be written next: nobody else reads it until `medium` is unlocked or closed.
pub fn ledger_to_write(medium: &mut impl Medium) -> Result<Ledger, Error> {
    medium.lock().doing("lock the ledger")?;
    ledger(medium)
}

/// Writes the ledger; it lasts when this returns.
pub fn keep(medium: &mut impl Medium, ledger: &Ledger) -> Result<(), Error> {
    store::save(medium, ledger).doing("write the ledger")
}

/// A disk of this machine, or a file that plays one.
pub struct Device(pub File);

impl Device {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Device, Error> {
        let file = File::options().read(true).write(true).open(path);
        file.map(Device).doing(format_args!("open {}", path.display()))
    }
}

impl embedded_io::ErrorType for Device {
    type Error = Failure;
}
impl embedded_io::Read for Device {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Failure> {
        Ok(self.0.read(into)?)
    }
}
impl embedded_io::Write for Device {
    fn write(&mut self, from: &[u8]) -> Result<usize, Failure> {
        Ok(self.0.write(from)?)
    }
    fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.0.sync_data()?)
    }
}
impl embedded_io::Seek for Device {
    fn seek(&mut self, to: SeekFrom) -> Result<u64, Failure> {
        let to = match to {
            SeekFrom::Start(at) => io::SeekFrom::Start(at),
            SeekFrom::End(by) => io::SeekFrom::End(by),
            SeekFrom::Current(by) => io::SeekFrom::Current(by),
        };
        Ok(self.0.seek(to)?)
    }
}
impl Medium for Device {
    fn forget(&mut self) -> Result<(), Failure> {
        use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
        // A kernel that keeps what it was asked to forget makes the reading back worth less, and nothing wrong.
        let _kept = posix_fadvise(&self.0, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        Ok(())
    }

    fn lock(&mut self) -> Result<(), Failure> {
        loop {
            match self.0.lock() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                locked => return Ok(locked?),
            }
        }
    }

    fn unlock(&mut self) -> Result<(), Failure> {
        Ok(self.0.unlock()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn;
    use slots::{Cause, Move, Slot};
    use std::time::Duration;

    #[test]
    fn a_turn_waits_for_who_is_about_to_write_the_ledger() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
        let trying = Ledger::new().apply(Name::B, Move::Stage).unwrap().apply(Name::B, Move::Try { tries: 3 }).unwrap();
        let mut service = Device::open(&disk).unwrap();
        keep(&mut service, &trying).unwrap();
        let before = ledger_to_write(&mut service).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let mut other = Device::open(&disk).unwrap();
        let confirms = std::thread::spawn(move || tell.send(turn::confirm(&mut other, Name::B).unwrap()));
        assert!(told.recv_timeout(Duration::from_millis(50)).is_err(), "it waits");
        keep(&mut service, &before.apply(Name::B, Move::Reject(Cause::Asked)).unwrap()).unwrap();
        service.unlock().unwrap();
        assert!(!told.recv().unwrap(), "what was given up is not confirmed");
        confirms.join().unwrap().unwrap();
        assert_eq!(ledger(&mut service).unwrap().spare, Slot::Empty);
    }
}
