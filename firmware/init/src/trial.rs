//! A slot on trial is confirmed once what it is for works.
//!
//! Start at [`verdict`] and [`confirm`]. What that is stands in `/etc/skerry/board` as `healthy`, an address that must answer.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use slots::{Ledger, Move, Name, Slot, store};

use crate::disk::{Device, Failure};
use crate::phase::Error;

const ANSWERS_WITHIN: Duration = Duration::from_millis(500);
/// A slow board with a full cluster answers after a minute or two.
const HEALTHY_WITHIN: Duration = Duration::from_secs(600);

/// What is to be done with the slot we run from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// It works, and was no longer on trial.
    Healthy,
    /// It works: confirm it.
    Confirm,
    /// It had its time: restart, so that its tries are used up.
    GiveUp,
}

/// Judges a slot after it ran for `ran`. Only one on trial is ever given up: behind the other one there is nothing.
pub fn verdict(on_trial: bool, answers: bool, ran: Duration) -> Verdict {
    match (on_trial, answers) {
        (true, true) => Verdict::Confirm,
        (false, true) => Verdict::Healthy,
        (true, false) if ran >= HEALTHY_WITHIN => Verdict::GiveUp,
        _ => Verdict::Wait,
    }
}

/// Whether `slot` is on trial; a ledger that cannot be read has none on trial.
pub fn is_on_trial(disk: &Path, slot: Name) -> bool {
    ledger(disk).is_ok_and(|ledger| matches!(ledger.slot(slot), Slot::Trying { .. }))
}

/// The ledger of `disk`; a new one where none is valid.
pub fn ledger(disk: &Path) -> Result<Ledger, Error> {
    let mut device = open(disk)?;
    Ok(store::load(&mut device).map_err(|failure| failed("read", disk, failure))?.unwrap_or_default())
}

/// Whether something answers at `address`.
pub fn answers(address: &str) -> bool {
    address.parse::<SocketAddr>().is_ok_and(|address| TcpStream::connect_timeout(&address, ANSWERS_WITHIN).is_ok())
}

/// Confirms `slot` where it is on trial; tells whether it was.
pub fn confirm(disk: &Path, slot: Name) -> Result<bool, Error> {
    let before = ledger(disk)?;
    if !matches!(before.slot(slot), Slot::Trying { .. }) {
        return Ok(false);
    }
    let after = before.apply(slot, Move::Confirm).map_err(|refused| Error::Wrong(refused.to_string()))?;
    let mut device = open(disk)?;
    store::save(&mut device, &after).map_err(|failure| failed("write", disk, failure))?;
    Ok(true)
}

fn open(disk: &Path) -> Result<Device, Error> {
    let file = File::options().read(true).write(true).open(disk);
    file.map(Device).map_err(|source| Error::Io { doing: format!("open {}", disk.display()), source })
}

fn failed(verb: &str, disk: &Path, failure: Failure) -> Error {
    Error::Io { doing: format!("{verb} the ledger on {}", disk.display()), source: failure.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_on_trial_is_confirmed_once() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
        assert!(!is_on_trial(&disk, Name::A));
        assert!(!confirm(&disk, Name::A).unwrap());
        let trying = Ledger::new().apply(Name::B, Move::Stage).unwrap().apply(Name::B, Move::Try { tries: 3 }).unwrap();
        store::save(&mut open(&disk).unwrap(), &trying).unwrap();
        assert!(is_on_trial(&disk, Name::B));
        assert!(confirm(&disk, Name::B).unwrap());
        assert_eq!(ledger(&disk).unwrap().active, Name::B);
        assert!(!confirm(&disk, Name::B).unwrap());
    }

    fn check(on_trial: bool, answers: bool, ran_s: u64, expected: Verdict) {
        assert_eq!(verdict(on_trial, answers, Duration::from_secs(ran_s)), expected);
    }

    #[test]
    fn a_trial_ends_by_an_answer_or_by_time() {
        check(true, false, 0, Verdict::Wait);
        check(true, false, 599, Verdict::Wait);
        check(true, false, 600, Verdict::GiveUp);
        check(true, true, 700, Verdict::Confirm);
    }

    #[test]
    fn a_slot_that_worked_before_is_never_given_up() {
        check(false, false, 1 << 20, Verdict::Wait);
        check(false, true, 1, Verdict::Healthy);
    }

    #[test]
    fn a_missing_disk_is_named() {
        let error = confirm(Path::new("/nowhere"), Name::A).unwrap_err();
        assert_eq!(error.to_string(), "failed to open /nowhere");
    }
}
