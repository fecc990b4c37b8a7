//! What a boot loader makes of the ledger: which slot it boots first, and what must be on the disk before it does.
//!
//! Start at [`choose`]. The boot script says the same in U-Boot's shell (`image/tool/src/script.rs`), where no Rust
//! runs.
//!
//! Invariant: a slot on trial is chosen only together with a writing that counts it down, so a loader that cannot
//! write has nothing to try; it boots [`Choice::without_trial`].

use crate::ledger::{Ledger, Move, Name, Slot};

/// Which slot boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// It boots first; the other one where it cannot be booted at all.
    pub first: Name,
    /// What must be written before that, where anything must.
    pub write: Option<Ledger>,
    /// It boots first where that cannot be written.
    pub without_trial: Name,
}

/// Chooses by the ledger; `None` where neither of its sectors is valid.
pub fn choose(ledger: Option<&Ledger>) -> Choice {
    // Nothing but a new disk is known to be good then, and that boots the first slot.
    let ledger = ledger.copied().unwrap_or_default();
    let write = match ledger.spare {
        Slot::Trying { .. } => ledger.apply(ledger.active.other(), Move::Boot).ok(),
        Slot::Empty | Slot::Staged | Slot::Good => None,
    };
    Choice { first: ledger.next(), write, without_trial: ledger.active }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Cause;
    use crate::ledger::tests::STATES;

    fn ledger(spare: Slot, cause: Cause) -> Ledger {
        Ledger { sequence: 7, active: Name::B, spare, cause }
    }

    #[test]
    fn without_a_ledger_the_first_slot_boots_and_nothing_is_written() {
        assert_eq!(choose(None), Choice { first: Name::A, write: None, without_trial: Name::A });
    }

    #[test]
    fn a_trial_is_counted_down_before_it_boots() {
        let choice = choose(Some(&ledger(Slot::Trying { tries_left: 2 }, Cause::None)));
        let written = Ledger { sequence: 8, ..ledger(Slot::Trying { tries_left: 1 }, Cause::Panic) };
        assert_eq!(choice, Choice { first: Name::A, write: Some(written), without_trial: Name::B });
    }

    #[test]
    fn a_trial_without_tries_ends_and_keeps_its_cause() {
        for (cause, expected) in [(Cause::None, Cause::TriesUsedUp), (Cause::Watchdog, Cause::Watchdog)] {
            let choice = choose(Some(&ledger(Slot::Trying { tries_left: 0 }, cause)));
            let written = Ledger { sequence: 8, ..ledger(Slot::Empty, expected) };
            assert_eq!(choice, Choice { first: Name::B, write: Some(written), without_trial: Name::B });
        }
    }

    #[test]
    fn every_boot_of_a_trial_is_written_and_no_other_boot_is() {
        for spare in STATES {
            let before = ledger(spare, Cause::None);
            let choice = choose(Some(&before));
            assert_eq!(choice.write.is_some(), matches!(spare, Slot::Trying { .. }), "{spare:?}");
            assert!(choice.first == before.active || choice.write.is_some_and(|after| after.spare != spare));
            assert_eq!(choice.without_trial, before.active);
        }
    }
}
