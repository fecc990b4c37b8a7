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

/// The ledger on `device`; `None` where neither sector is valid. A sector that cannot be read is as good as a broken one.
pub fn load<D: Read + Seek>(device: &mut D) -> Result<Option<Ledger>, D::Error> {
    Ok(match both(device)? {
        (Some(first), Some(second)) if is_newer(second.sequence, first.sequence) => Some(second),
        (Some(first), _) => Some(first),
        (None, second) => second,
    })
}

/// Writes `ledger` over the older or the broken of the two sectors.
pub fn save<D: Read + Write + Seek>(device: &mut D, ledger: &Ledger) -> Result<(), D::Error> {
    let place = match both(device)? {
        (Some(first), Some(second)) if is_newer(first.sequence, second.sequence) => PLACES[1],
        (Some(_), None) => PLACES[1],
        _ => PLACES[0],
    };
    device.seek(SeekFrom::Start(place * BYTES as u64))?;
    device.write_all(&sector::encode(ledger))?;
    device.flush()
}

/// What both sectors say; an error only where neither says anything and one cannot be read.
fn both<D: Read + Seek>(device: &mut D) -> Result<(Option<Ledger>, Option<Ledger>), D::Error> {
    match (read(device, PLACES[0]), read(device, PLACES[1])) {
        (Err(error), Ok(None) | Err(_)) | (Ok(None), Err(error)) => Err(error),
        (first, second) => Ok((first.ok().flatten(), second.ok().flatten())),
    }
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
    use crate::ledger::tests::{STATES, moves};
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

    /// A disk some sectors of which cannot be read, whatever is written to them.
    struct Worn(Memory, vec::Vec<u64>);

    impl embedded_io::ErrorType for Worn {
        type Error = std::io::Error;
    }
    impl Read for Worn {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            if self.1.contains(&(self.0.0.position() / BYTES as u64)) {
                return Err(std::io::Error::other("worn out"));
            }
            self.0.read(into)
        }
    }
    impl Write for Worn {
        fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
            self.0.write(from)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            self.0.flush()
        }
    }
    impl Seek for Worn {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
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
    fn one_sector_that_cannot_be_read_leaves_the_ledger_of_the_other() {
        let ledger = Ledger::new();
        let next = ledger.apply(Name::B, Move::Stage).unwrap();
        for (worn, loaded) in [(PLACES[0], next), (PLACES[1], ledger)] {
            let mut device = Worn(blank(), vec![]);
            save(&mut device, &ledger).unwrap();
            save(&mut device, &next).unwrap();
            device.1.push(worn);
            assert_eq!(load(&mut device).unwrap(), Some(loaded));
            // What can be read is not written over, as it is all there is.
            save(&mut device, &loaded.apply(Name::B, Move::Clear).unwrap()).unwrap();
            assert_eq!(load(&mut device).unwrap(), Some(loaded));
        }
    }

    #[test]
    fn a_ledger_that_cannot_be_read_anywhere_is_an_error_and_not_a_new_one() {
        for unreadable in [&PLACES[..], &PLACES[..1], &PLACES[1..]] {
            let mut device = Worn(blank(), unreadable.to_vec());
            assert_eq!(load(&mut device).unwrap_err().kind(), std::io::ErrorKind::Other);
            assert!(save(&mut device, &Ledger::new()).is_err());
        }
    }

    /// What the sector holds after a write of `new` over `old` that ended early: the first bytes arrived, or the last ones.
    fn torn(old: &Sector, new: &Sector) -> vec::Vec<Sector> {
        let mut all = vec![];
        for cut in 0..=BYTES {
            let (mut front, mut back) = (*old, *old);
            front[..cut].copy_from_slice(&new[..cut]);
            back[cut..].copy_from_slice(&new[cut..]);
            all.extend([front, back]);
        }
        all.dedup();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// A move from `before`, whose sector is the one at `newest`, cut off anywhere; what is loaded is from before or after.
    fn every_cut_leaves_one_of_two(before: &Ledger, after: &Ledger, newest: usize) {
        let older = Ledger { sequence: before.sequence - 1, ..Ledger::new() };
        let mut device = blank();
        put(&mut device, PLACES[newest], &sector::encode(before));
        for sector in torn(&sector::encode(&older), &sector::encode(after)) {
            put(&mut device, PLACES[1 - newest], &sector);
            let found = load(&mut device).unwrap().expect("one sector is always whole");
            assert!(found == *before || found == *after, "{before:?} to {after:?} gave {found:?}");
        }
        put(&mut device, PLACES[1 - newest], &sector::encode(&older));
        save(&mut device, after).unwrap();
        assert_eq!(load(&mut device).unwrap(), Some(*after), "the older sector is the one that is written");
    }

    fn put(device: &mut Memory, place: u64, sector: &Sector) {
        device.0.get_mut()[place as usize * BYTES..][..BYTES].copy_from_slice(sector);
    }

    #[test]
    fn every_state_and_move_survives_every_cut_of_its_writing() {
        let mut moves_made = 0;
        for active in [Name::A, Name::B] {
            for spare in STATES {
                for cause in [Cause::None, Cause::Panic] {
                    let before = Ledger { sequence: 0x10, active, spare, cause };
                    let asked = [Name::A, Name::B].map(|name| moves().into_iter().map(move |asked| (name, asked)));
                    let mut afters = vec![];
                    for (name, asked) in asked.into_iter().flatten() {
                        afters.extend(before.apply(name, asked).ok());
                    }
                    afters.sort_by_key(|after| std::format!("{after:?}"));
                    afters.dedup();
                    for (index, after) in afters.iter().enumerate() {
                        every_cut_leaves_one_of_two(&before, after, index % PLACES.len());
                        moves_made += 1;
                    }
                }
            }
        }
        assert!(moves_made > 200, "{moves_made} moves were cut off");
    }

    #[test]
    fn a_second_cut_while_the_first_is_mended_leaves_a_ledger() {
        let before = Ledger::new();
        let after = before.apply(Name::B, Move::Stage).unwrap();
        for sector in torn(&[0; BYTES], &sector::encode(&after)) {
            let mut device = blank();
            save(&mut device, &before).unwrap();
            put(&mut device, PLACES[1], &sector);
            let found = load(&mut device).unwrap().unwrap();
            save(&mut device, &found.apply(Name::B, Move::Clear).unwrap()).unwrap();
            assert_eq!(load(&mut device).unwrap().unwrap().spare, Slot::Empty);
        }
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
