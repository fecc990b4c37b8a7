//! The ledger on a device: two sectors, written alternately.
//!
//! Start at [`load`] and [`save`]. They take anything that reads, writes and seeks, so that a disk, a file and a piece of
//! memory behave alike. The caller syncs afterwards: only it knows how.

use embedded_io::{Read, ReadExactError, Seek, SeekFrom, Write};

use crate::ledger::Ledger;
use crate::sector::{self, BYTES, Sector};

/// Where the two sectors lie, in sectors from the disk's start: between the partition table and the first partition, and far
/// enough apart that no flash page holds both.
pub const PLACES: [u64; 2] = [0x10, 0x410];

/// The ledger on `device`; `None` where neither sector is valid.
pub fn load<D: Read + Seek>(device: &mut D) -> Result<Option<Ledger>, D::Error> {
    let first = read(device, PLACES[0])?;
    let second = read(device, PLACES[1])?;
    Ok(match (first, second) {
        (Some(first), Some(second)) if is_newer(second.sequence, first.sequence) => Some(second),
        (Some(first), _) => Some(first),
        (None, second) => second,
    })
}

/// Writes `ledger` over the older or the broken of the two sectors.
pub fn save<D: Read + Write + Seek>(device: &mut D, ledger: &Ledger) -> Result<(), D::Error> {
    let first = read(device, PLACES[0])?;
    let second = read(device, PLACES[1])?;
    let place = match (first, second) {
        (Some(first), Some(second)) if is_newer(first.sequence, second.sequence) => PLACES[1],
        (Some(_), None) => PLACES[1],
        _ => PLACES[0],
    };
    device.seek(SeekFrom::Start(place * BYTES as u64))?;
    device.write_all(&sector::encode(ledger))?;
    device.flush()
}

/// Sequence numbers go round.
fn is_newer(left: u32, right: u32) -> bool {
    left.wrapping_sub(right) as i32 > 0
}

fn read<D: Read + Seek>(device: &mut D, place: u64) -> Result<Option<Ledger>, D::Error> {
    let mut bytes: Sector = [0; BYTES];
    device.seek(SeekFrom::Start(place * BYTES as u64))?;
    match device.read_exact(&mut bytes) {
        Ok(()) => Ok(sector::decode(&bytes)),
        Err(ReadExactError::UnexpectedEof) => Ok(None),
        Err(ReadExactError::Other(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Cause, Move, Name, Slot};
    use std::io::Cursor;
    use std::vec;

    struct Memory(Cursor<vec::Vec<u8>>);

    impl embedded_io::ErrorType for Memory {
        type Error = std::io::Error;
    }
    impl Read for Memory {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            std::io::Read::read(&mut self.0, into)
        }
    }
    impl Write for Memory {
        fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
            std::io::Write::write(&mut self.0, from)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl Seek for Memory {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            std::io::Seek::seek(&mut self.0, to.into())
        }
    }

    fn blank() -> Memory {
        Memory(Cursor::new(vec![0; (PLACES[1] as usize + 1) * BYTES]))
    }

    #[test]
    fn an_empty_disk_has_no_ledger() {
        assert_eq!(load(&mut blank()).unwrap(), None);
        assert_eq!(load(&mut Memory(Cursor::new(vec![]))).unwrap(), None);
    }

    #[test]
    fn the_newest_writing_counts() {
        let mut device = blank();
        let mut ledger = Ledger::new();
        for _ in 0..5 {
            save(&mut device, &ledger).unwrap();
            assert_eq!(load(&mut device).unwrap(), Some(ledger));
            ledger = ledger.apply(Name::B, Move::Stage).unwrap();
        }
    }

    #[test]
    fn garbling_the_newest_returns_the_one_before() {
        let mut device = blank();
        let old = Ledger::new();
        let new = Ledger { sequence: 2, active: Name::B, spare: Slot::Good, cause: Cause::Confirmed };
        save(&mut device, &old).unwrap();
        save(&mut device, &new).unwrap();
        device.0.get_mut()[PLACES[1] as usize * BYTES + 40] ^= 0x55;
        assert_eq!(load(&mut device).unwrap(), Some(old));
        // And the broken one is what the next writing replaces.
        save(&mut device, &new).unwrap();
        assert_eq!(load(&mut device).unwrap(), Some(new));
    }

    #[test]
    fn sequence_numbers_go_round() {
        let mut device = blank();
        let old = Ledger { sequence: u32::MAX, ..Ledger::new() };
        let new = old.apply(Name::B, Move::Stage).unwrap();
        save(&mut device, &old).unwrap();
        save(&mut device, &new).unwrap();
        assert_eq!(load(&mut device).unwrap(), Some(new));
    }
}
