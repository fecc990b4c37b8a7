//! The slot we run from, where it is on trial: how it is judged, and what is said of it before it can speak for itself.
//!
//! Start at [`look`]. What a trial is judged by was noted before the switch (`update`); `healthy` of `/etc/skerry/board`, an
//! address that must answer, is the check that PID 1 makes itself; it fails where booting did not get so far as to read it.
//!
//! Until it is judged, the ledger names what ends it if nothing more is heard: a crash of PID 1 while it boots the machine,
//! a panic once services run. The boot script has said "panic" before any of this.

use std::path::Path;
use std::time::Duration;

use bundle::message::Check;
use slots::{Cause, Name, Slot};
use update::medium::ledger;
use update::notes::Notes;
use update::trial::{API, Terms, Verdict, verdict};
use update::{Device, Error, run, turn};

/// What outlives a restart of an update.
pub const NOTES: &str = "/data/init/update";
/// What the node reported lately.
pub const CHECKS: &str = "/run/skerry/checks";

/// Whether `slot` is on trial. A ledger that cannot be read says neither: who asks must ask again.
pub fn is_on_trial(disk: &Path, slot: Name) -> Result<bool, Error> {
    let ledger = ledger(&mut Device::open(disk)?)?;
    Ok(matches!(ledger.slot(slot), Slot::Trying { .. }))
}

/// How the trial is judged.
pub fn terms() -> Terms {
    Notes::in_folder(Path::new(NOTES)).trial().map(|trial| trial.terms).unwrap_or_default()
}

/// Judges the slot we run from as it is now. Without an address that should answer, the image failed before it named one.
pub fn look(on_trial: bool, terms: &Terms, healthy: Option<&str>, ran: Duration) -> Verdict {
    let mut checks = run::current(Path::new(CHECKS));
    checks.push(Check { name: API.to_owned(), passes: healthy.is_some_and(run::answers) });
    verdict(on_trial, terms, &checks, ran)
}

/// Confirms `slot` where it is on trial; tells whether it was.
pub fn confirm(disk: &Path, slot: Name) -> Result<bool, Error> {
    turn::confirm(&mut Device::open(disk)?, slot)
}

/// Gives `slot` up where it is on trial.
pub fn give_up(disk: &Path, slot: Name, cause: Cause) -> Result<bool, Error> {
    turn::reject(&mut Device::open(disk)?, slot, cause)
}

/// Notes what ends the trial of `slot` if nothing more is heard.
pub fn note(disk: &Path, slot: Name, cause: Cause) -> Result<(), Error> {
    turn::note(&mut Device::open(disk)?, slot, cause)
}

/// Says of a trial that was on before this start that the watchdog ended it.
pub fn bitten(disk: &Path, slot: Name) -> Result<bool, Error> {
    // Without a note there was no trial lately: the watchdog bit something else.
    if Notes::in_folder(Path::new(NOTES)).trial().is_none() {
        return Ok(false);
    }
    turn::bitten(&mut Device::open(disk)?, slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use slots::{Ledger, Move};
    use update::medium::keep;

    #[test]
    fn a_slot_on_trial_is_confirmed_once() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
        assert!(!is_on_trial(&disk, Name::A).unwrap());
        assert!(!confirm(&disk, Name::A).unwrap());
        let trying = Ledger::new().apply(Name::B, Move::Stage).unwrap().apply(Name::B, Move::Try { tries: 3 }).unwrap();
        keep(&mut Device::open(&disk).unwrap(), &trying).unwrap();
        assert!(is_on_trial(&disk, Name::B).unwrap());
        note(&disk, Name::B, Cause::InitCrash).unwrap();
        assert_eq!(ledger(&mut Device::open(&disk).unwrap()).unwrap().cause, Cause::InitCrash);
        assert!(confirm(&disk, Name::B).unwrap());
        assert_eq!(ledger(&mut Device::open(&disk).unwrap()).unwrap().active, Name::B);
        assert!(!confirm(&disk, Name::B).unwrap());
    }

    #[test]
    fn an_address_where_nobody_listens_waits_for_its_time() {
        let terms = Terms { before: vec![API.to_owned()], within: Duration::from_secs(5) };
        let nobody = Some("127.0.0.1:1");
        assert_eq!(look(true, &terms, nobody, Duration::from_secs(4)), Verdict::Wait);
        assert_eq!(look(true, &terms, nobody, Duration::from_secs(5)), Verdict::GiveUp(Cause::ApiNeverReady));
        assert_eq!(look(false, &terms, nobody, Duration::from_secs(5)), Verdict::Wait);
    }

    #[test]
    fn an_image_that_fails_before_it_names_an_address_is_given_up_in_time() {
        let terms = Terms { before: vec![API.to_owned()], within: Duration::from_secs(5) };
        assert_eq!(look(true, &terms, None, Duration::from_secs(4)), Verdict::Wait);
        assert_eq!(look(true, &terms, None, Duration::from_secs(5)), Verdict::GiveUp(Cause::ApiNeverReady));
    }

    #[test]
    fn a_ledger_that_cannot_be_read_does_not_end_a_trial() {
        assert!(is_on_trial(Path::new("/nowhere"), Name::A).is_err());
    }

    #[test]
    fn a_missing_disk_is_named() {
        let error = confirm(Path::new("/nowhere"), Name::A).unwrap_err();
        assert_eq!(error.to_string(), "failed to open /nowhere");
    }
}
