//! Staging: a bundle's image goes into the slot we do not run from.
//!
//! Start at [`stage`]. The order of writes is what makes it safe:
//!
//! 1. the ledger forgets the slot, then its first sector is wiped: what is half written is not booted, by whatever way;
//! 2. every chunk but the first that is not there already, then the bundle's head at the slot's end;
//! 3. all of that is read back from the disk;
//! 4. the first chunk, and last of it the sector that makes it a slot; it too is read back;
//! 5. the ledger says that the slot is staged.

use std::io::{Read, Seek};

use bundle::head::ROOM;
use bundle::{Bundle, Digest, Head, Target};
use slots::sector::BYTES;
use slots::{Move, Name, Slot};

use crate::error::Doing;
use crate::medium::{Place, keep, ledger, ledger_to_write};
use crate::{Error, Medium, Slots};

/// What staging did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Staged {
    /// Chunks that were written.
    pub written: usize,
    /// Chunks that lay there already.
    pub kept: usize,
}

/// What a slot says it holds.
pub fn head_of(medium: &mut impl Medium, place: Place) -> Result<Option<(Head, Digest)>, Error> {
    let mut bytes = vec![0; ROOM as usize];
    medium.read_at(place.at + place.bytes - ROOM, &mut bytes).doing("read what a slot says of itself")?;
    // What was never written, or by somebody else, says nothing.
    Ok(Head::decode(&bytes).ok().map(|(head, digest, _)| (head, digest)))
}

/// Whether `head` may go into the slot that `running` is not, going by `target` and the ledger.
pub fn check(medium: &mut impl Medium, running: Name, head: &Head, target: &Target) -> Result<(), Error> {
    head.suits(target)?;
    let ledger = ledger(medium)?;
    if let Slot::Trying { .. } = ledger.spare {
        return Err(Error::OnTrial(ledger.active.other()));
    }
    if ledger.active != running {
        return Err(Error::Astray { running, active: ledger.active });
    }
    Ok(())
}

/// Puts the bundle into the slot that `running` is not. `told` hears how many of how many chunks are done.
pub fn stage<M: Medium, R: Read + Seek>(
    medium: &mut M,
    slots: &Slots,
    running: Name,
    bundle: &mut Bundle<R>,
    target: &Target,
    mut told: impl FnMut(usize, usize),
) -> Result<Staged, Error> {
    check(medium, running, bundle.head(), target)?;
    bundle.verify()?;
    let mut work = Work { medium, slot: running.other(), place: slots.place(running.other()) };
    work.invalidate()?;
    let mut staged = Staged::default();
    let parts = bundle.head().chunks.len();
    for index in 1..parts {
        work.put(index, bundle, &mut staged)?;
        told(index, parts);
    }
    work.put_head(bundle)?;
    work.is_there(bundle, 1..parts)?;
    work.put_first(bundle)?;
    staged.written += 1;
    work.is_there(bundle, 0..1)?;
    work.move_slot(Move::Stage)?;
    told(parts, parts);
    Ok(staged)
}

struct Work<'a, M> {
    medium: &'a mut M,
    slot: Name,
    place: Place,
}

impl<M: Medium> Work<'_, M> {
    /// From here on nobody takes the slot for one.
    fn invalidate(&mut self) -> Result<(), Error> {
        self.move_slot(Move::Clear)?;
        let mut sector = [0; BYTES];
        self.medium.read_at(self.place.at, &mut sector).doing("read the slot's first sector")?;
        if sector.iter().any(|byte| *byte != 0) {
            self.medium.write_at(self.place.at, &[0; BYTES]).doing("wipe the slot's first sector")?;
            self.medium.flush().doing("wipe the slot's first sector")?;
        }
        Ok(())
    }

    /// Staging takes long: others may write the ledger before and after.
    fn move_slot(&mut self, asked: Move) -> Result<(), Error> {
        let before = ledger_to_write(self.medium)?;
        let after = before.apply(self.slot, asked)?;
        if asked != Move::Clear || before.spare != Slot::Empty {
            keep(self.medium, &after)?;
        }
        self.medium.unlock().doing("unlock the ledger")
    }

    fn at<R: Read + Seek>(&self, bundle: &Bundle<R>, index: usize) -> u64 {
        self.place.at + index as u64 * u64::from(bundle.head().chunk_bytes)
    }

    fn has<R: Read + Seek>(&mut self, bundle: &Bundle<R>, index: usize) -> Result<bool, Error> {
        let mut bytes = vec![0; bundle.head().chunk_len(index)];
        let at = self.at(bundle, index);
        self.medium.read_at(at, &mut bytes).doing(format_args!("read part {} of the slot", index + 1))?;
        Ok(Digest::of(&bytes) == bundle.head().chunks[index])
    }

    fn put<R: Read + Seek>(&mut self, index: usize, bundle: &mut Bundle<R>, staged: &mut Staged) -> Result<(), Error> {
        if self.has(bundle, index)? {
            staged.kept += 1;
            return Ok(());
        }
        let bytes = bundle.chunk(index)?;
        let at = self.at(bundle, index);
        self.medium.write_at(at, &bytes).doing(format_args!("write part {} of the slot", index + 1))?;
        staged.written += 1;
        Ok(())
    }

    /// What makes it a slot is its first sector: that one is written when all the rest is there.
    fn put_first<R: Read + Seek>(&mut self, bundle: &mut Bundle<R>) -> Result<(), Error> {
        let bytes = bundle.chunk(0)?;
        let (sector, rest) = bytes.split_at(BYTES.min(bytes.len()));
        for (at, part) in [(self.place.at + BYTES as u64, rest), (self.place.at, sector)] {
            self.medium
                .write_at(at, part)
                .and_then(|()| self.medium.flush())
                .doing("write the first part of the slot")?;
        }
        Ok(())
    }

    fn put_head<R: Read + Seek>(&mut self, bundle: &Bundle<R>) -> Result<(), Error> {
        let at = self.place.at + self.place.bytes - ROOM;
        let mut there = vec![0; bundle.head_bytes().len()];
        self.medium.read_at(at, &mut there).doing("read what the slot says of itself")?;
        if there != bundle.head_bytes() {
            self.medium.write_at(at, bundle.head_bytes()).doing("write what the slot holds")?;
        }
        self.medium.flush().doing("write the slot to the disk")
    }

    /// Reads from the disk itself what must be there.
    fn is_there<R: Read + Seek>(&mut self, bundle: &Bundle<R>, parts: std::ops::Range<usize>) -> Result<(), Error> {
        self.medium.forget().doing("forget what was read of the disk")?;
        for index in parts {
            if !self.has(bundle, index)? {
                let parts = bundle.head().chunks.len();
                return Err(Error::ReadBack { slot: self.slot, part: index + 1, parts });
            }
        }
        Ok(())
    }
}
