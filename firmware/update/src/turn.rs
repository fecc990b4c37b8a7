//! Turning from one slot to the other: what is staged is tried, what is tried is confirmed or given up.
//!
//! Start at [`activate`]. Each is one writing of the ledger; doing it twice is doing it once. Each has the disk for itself until
//! the caller closes it.

use bundle::Digest;
use slots::{Cause, Move, Name, Slot};

use crate::medium::{keep, ledger_to_write};
use crate::stage::head_of;
use crate::{Error, Medium, Slots};

/// A trial gets so many starts: a board that loses power during its first one has not failed.
pub const TRIES: u8 = 3;

/// The bundle in the other slot boots next, on trial.
pub fn activate(medium: &mut impl Medium, slots: &Slots, digest: Digest) -> Result<(), Error> {
    let before = ledger_to_write(medium)?;
    let spare = before.active.other();
    let found = head_of(medium, slots.place(spare))?.map(|(_, digest)| digest);
    if found != Some(digest) || before.spare == Slot::Empty {
        return Err(Error::NotStaged { wanted: digest, found: found.filter(|_| before.spare != Slot::Empty) });
    }
    if let Slot::Trying { .. } = before.spare {
        return Ok(());
    }
    keep(medium, &before.apply(spare, Move::Try { tries: TRIES })?)
}

/// The slot we run from stays, if it was on trial; tells whether it was.
pub fn confirm(medium: &mut impl Medium, running: Name) -> Result<bool, Error> {
    let before = ledger_to_write(medium)?;
    if !matches!(before.slot(running), Slot::Trying { .. }) {
        return Ok(false);
    }
    keep(medium, &before.apply(running, Move::Confirm)?)?;
    Ok(true)
}

/// The slot we run from is given up, if it was on trial; tells whether it was.
pub fn reject(medium: &mut impl Medium, running: Name, cause: Cause) -> Result<bool, Error> {
    let before = ledger_to_write(medium)?;
    if !matches!(before.slot(running), Slot::Trying { .. }) {
        return Ok(false);
    }
    keep(medium, &before.apply(running, Move::Reject(cause))?)?;
    Ok(true)
}

/// Notes what is to be said if the trial of `running` ends without another word.
pub fn note(medium: &mut impl Medium, running: Name, cause: Cause) -> Result<(), Error> {
    let before = ledger_to_write(medium)?;
    if matches!(before.slot(running), Slot::Trying { .. }) && before.cause != cause {
        keep(medium, &before.apply(running, Move::Note(cause))?)?;
    }
    Ok(())
}

/// Says of a trial that ended before this start what only this start can know: that the watchdog ended it.
pub fn bitten(medium: &mut impl Medium, running: Name) -> Result<bool, Error> {
    let before = ledger_to_write(medium)?;
    let silent = matches!(before.cause, Cause::Panic | Cause::InitCrash | Cause::TriesUsedUp);
    if before.active != running || before.spare != Slot::Empty || !silent {
        return Ok(false);
    }
    keep(medium, &before.apply(running.other(), Move::Note(Cause::Watchdog))?)?;
    Ok(true)
}

/// Goes back: a trial is given up, and otherwise what the other slot holds is tried, if its security epoch allows it.
pub fn roll_back(medium: &mut impl Medium, slots: &Slots, running: Name) -> Result<(), Error> {
    if reject(medium, running, Cause::Asked)? {
        return Ok(());
    }
    let before = ledger_to_write(medium)?;
    let other = running.other();
    if before.active != running {
        return Err(Error::Astray { running, active: before.active });
    }
    if before.spare != Slot::Good {
        return Err(Error::NothingToReturnTo(other));
    }
    let mut epoch =
        |name| Ok::<_, Error>(head_of(medium, slots.place(name))?.map_or(0, |(head, _)| head.security_epoch));
    let (epoch, reached) = (epoch(other)?, epoch(running)?);
    if epoch < reached {
        return Err(bundle::Error::Downgraded { epoch, reached }.into());
    }
    keep(medium, &before.apply(other, Move::Try { tries: TRIES })?)
}
