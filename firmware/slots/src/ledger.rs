//! The states of a slot, and every move between them.
//!
//! Start at [`Ledger::apply`], the only function that moves anything.

use core::fmt;

/// A trial gets so many tries at most: the boot script's counter has one hexadecimal digit.
pub const TRIES_MAX: u8 = 15;

/// One of the two slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// The first.
    #[default]
    A,
    /// The second.
    B,
}

impl Name {
    /// The other one.
    pub fn other(self) -> Name {
        match self {
            Name::A => Name::B,
            Name::B => Name::A,
        }
    }
    /// As it stands in the ledger and on the kernel's command line.
    pub fn letter(self) -> &'static str {
        match self {
            Name::A => "a",
            Name::B => "b",
        }
    }
    /// The slot of that letter.
    pub fn from_letter(letter: &str) -> Option<Name> {
        [Name::A, Name::B].into_iter().find(|name| name.letter() == letter)
    }
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nothing worth booting.
    Empty,
    /// An image nobody has booted yet. May be overwritten.
    Staged,
    /// Booted, not yet confirmed healthy. The other slot boots when `tries_left` is 0.
    Trying {
        /// How often it may still boot.
        tries_left: u8,
    },
    /// Confirmed. The machine returns here when anything goes wrong.
    Good,
}

/// Why the last trial ended, or that none has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cause {
    /// There was no trial yet, or one is going on.
    #[default]
    None,
    /// It was confirmed.
    Confirmed,
    /// It used up its tries without being confirmed.
    TriesUsedUp,
    /// Its contents could not be read or verified, or its trial could not be counted on the disk.
    Unreadable,
    /// It came up, and something that worked before did not.
    Unhealthy,
    /// Somebody asked for it.
    Asked,
    /// The kernel panicked, or was started and never came as far as PID 1.
    Panic,
    /// PID 1 could not boot the machine.
    InitCrash,
    /// The API never answered.
    ApiNeverReady,
    /// Something hung, and the watchdog restarted the machine.
    Watchdog,
    /// The time to prove itself was over, and nobody could say what was missing.
    Deadline,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 11] = [
        Cause::None,
        Cause::Confirmed,
        Cause::TriesUsedUp,
        Cause::Unreadable,
        Cause::Unhealthy,
        Cause::Asked,
        Cause::Panic,
        Cause::InitCrash,
        Cause::ApiNeverReady,
        Cause::Watchdog,
        Cause::Deadline,
    ];

    /// The word in the ledger.
    pub fn word(self) -> &'static str {
        match self {
            Cause::None => "none",
            Cause::Confirmed => "confirmed",
            Cause::TriesUsedUp => "tries",
            Cause::Unreadable => "unreadable",
            Cause::Unhealthy => "unhealthy",
            Cause::Asked => "asked",
            Cause::Panic => "panic",
            Cause::InitCrash => "init",
            Cause::ApiNeverReady => "api",
            Cause::Watchdog => "watchdog",
            Cause::Deadline => "deadline",
        }
    }
    /// The same for people.
    pub fn told(self) -> &'static str {
        match self {
            Cause::None => "no trial has ended",
            Cause::Confirmed => "it was confirmed",
            Cause::TriesUsedUp => "it used up its tries",
            Cause::Unreadable => "it could not be read or verified, or its trial could not be counted on the disk",
            Cause::Unhealthy => "a check that passed before the switch failed after it",
            Cause::Asked => "an operator asked for it",
            Cause::Panic => "the kernel panicked or never reached PID 1",
            Cause::InitCrash => "PID 1 could not boot the machine",
            Cause::ApiNeverReady => "the API never became ready",
            Cause::Watchdog => "it hung and the watchdog restarted the machine",
            Cause::Deadline => "it did not prove itself within its time",
        }
    }
    /// The cause of that word.
    pub fn from_word(word: &str) -> Option<Cause> {
        Cause::ALL.into_iter().find(|cause| cause.word() == word)
    }
}

/// What can happen to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// It is about to be overwritten: what it held is worth nothing from here on.
    Clear,
    /// A whole image was written into it.
    Stage,
    /// It shall boot next, so often at most.
    Try {
        /// How often.
        tries: u8,
    },
    /// It is being booted: one try is spent. Until PID 1 says something else, a panic is what may end it.
    Boot,
    /// What is to be said if the trial ends now without another word, or what is known now of how it ended.
    Note(Cause),
    /// It is healthy.
    Confirm,
    /// It is not, or somebody wants it gone.
    Reject(Cause),
}

/// Which move is not made, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The slot.
    pub slot: Name,
    /// Its state.
    pub state: Slot,
    /// What was asked of it.
    pub asked: Move,
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "slot {} is {:?} and cannot {:?}", self.slot.letter(), self.state, self.asked)
    }
}

impl core::error::Error for Refused {}

/// Which slot boots next, and what both hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Grows with every writing; the greater one of two sectors counts.
    pub sequence: u32,
    /// The slot to return to. Always good.
    pub active: Name,
    /// What the other one holds.
    pub spare: Slot,
    /// Why the last trial ended.
    pub cause: Cause,
}

impl Ledger {
    /// The ledger of a new disk: `a` is good, `b` is empty.
    pub const fn new() -> Ledger {
        Ledger { sequence: 1, active: Name::A, spare: Slot::Empty, cause: Cause::None }
    }

    /// What `name` holds.
    pub fn slot(&self, name: Name) -> Slot {
        if name == self.active { Slot::Good } else { self.spare }
    }

    /// Which slot boots next.
    pub fn next(&self) -> Name {
        match self.spare {
            Slot::Trying { tries_left } if tries_left > 0 => self.active.other(),
            Slot::Trying { .. } | Slot::Empty | Slot::Staged | Slot::Good => self.active,
        }
    }

    /// The ledger after `asked` has happened to the slot `name`, one writing later.
    pub fn apply(&self, name: Name, asked: Move) -> Result<Ledger, Refused> {
        let refused = Refused { slot: name, state: self.slot(name), asked };
        let moved = if name == self.active { self.move_active(asked) } else { self.move_spare(asked) };
        let mut after = moved.ok_or(refused)?;
        after.sequence = self.sequence.wrapping_add(1);
        assert!(after.slot(after.active) == Slot::Good, "there is always something to return to");
        Ok(after)
    }

    /// The active slot is what everything falls back to: nothing takes it away but a confirmed other one.
    fn move_active(&self, asked: Move) -> Option<Ledger> {
        match asked {
            Move::Boot | Move::Confirm => Some(*self),
            // Undo: the spare one becomes active if it is good, and the active one stays as the spare.
            Move::Reject(cause) if self.spare == Slot::Good => {
                Some(Ledger { active: self.active.other(), spare: Slot::Empty, cause, ..*self })
            }
            Move::Reject(_) | Move::Clear | Move::Stage | Move::Try { .. } | Move::Note(_) => None,
        }
    }

    fn move_spare(&self, asked: Move) -> Option<Ledger> {
        let spare = |spare, cause| Some(Ledger { spare, cause, ..*self });
        match (self.spare, asked) {
            // Writing into a slot on trial would pull the floor from under a running system.
            (Slot::Trying { .. }, Move::Stage | Move::Clear) => None,
            (Slot::Empty | Slot::Staged | Slot::Good, Move::Clear) => spare(Slot::Empty, self.cause),
            (Slot::Empty | Slot::Staged | Slot::Good, Move::Stage) => spare(Slot::Staged, self.cause),
            (Slot::Staged | Slot::Good, Move::Try { tries }) if (1..=TRIES_MAX).contains(&tries) => {
                spare(Slot::Trying { tries_left: tries }, Cause::None)
            }
            (_, Move::Try { .. }) => None,
            (Slot::Trying { tries_left: 0 }, Move::Boot) if self.cause == Cause::None => {
                spare(Slot::Empty, Cause::TriesUsedUp)
            }
            (Slot::Trying { tries_left: 0 }, Move::Boot) => spare(Slot::Empty, self.cause),
            (Slot::Trying { tries_left }, Move::Boot) => {
                spare(Slot::Trying { tries_left: tries_left - 1 }, Cause::Panic)
            }
            (Slot::Trying { .. } | Slot::Empty, Move::Note(cause)) => spare(self.spare, cause),
            (Slot::Staged | Slot::Good, Move::Note(_)) => None,
            (Slot::Trying { .. }, Move::Confirm) => {
                Some(Ledger { active: self.active.other(), spare: Slot::Good, cause: Cause::Confirmed, ..*self })
            }
            (Slot::Empty | Slot::Staged | Slot::Good, Move::Boot | Move::Confirm) => None,
            (Slot::Empty, Move::Reject(_)) => None,
            (Slot::Staged | Slot::Trying { .. } | Slot::Good, Move::Reject(cause)) => spare(Slot::Empty, cause),
        }
    }
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger::new()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::vec::Vec;

    pub(crate) const STATES: [Slot; 6] = [
        Slot::Empty,
        Slot::Staged,
        Slot::Trying { tries_left: 0 },
        Slot::Trying { tries_left: 1 },
        Slot::Trying { tries_left: TRIES_MAX },
        Slot::Good,
    ];

    pub(crate) fn moves() -> Vec<Move> {
        let mut moves = std::vec![Move::Clear, Move::Stage, Move::Boot, Move::Confirm];
        moves.extend([0, 1, TRIES_MAX, TRIES_MAX + 1].map(|tries| Move::Try { tries }));
        moves.extend(Cause::ALL.map(Move::Reject));
        moves.extend(Cause::ALL.map(Move::Note));
        moves
    }

    fn all() -> impl Iterator<Item = Ledger> {
        [Name::A, Name::B]
            .into_iter()
            .flat_map(|active| STATES.map(|spare| Ledger { sequence: 7, active, spare, cause: Cause::None }))
    }

    #[test]
    fn every_pair_of_state_and_move_keeps_the_invariants() {
        for before in all() {
            for name in [Name::A, Name::B] {
                for asked in moves() {
                    let Ok(after) = before.apply(name, asked) else { continue };
                    assert_eq!(after.sequence, before.sequence + 1);
                    assert_eq!(after.slot(after.active), Slot::Good);
                    if after.active != before.active {
                        assert!(matches!(asked, Move::Confirm | Move::Reject(_)), "{before:?} {asked:?}");
                    }
                    if let Slot::Trying { tries_left } = after.spare {
                        assert!(tries_left <= TRIES_MAX);
                    }
                }
            }
        }
    }

    #[test]
    fn a_trial_boots_no_more_often_than_it_has_tries() {
        for tries in 1..=TRIES_MAX {
            let mut ledger = Ledger::new().apply(Name::B, Move::Stage).unwrap();
            ledger = ledger.apply(Name::B, Move::Try { tries }).unwrap();
            let mut boots = 0;
            while ledger.next() == Name::B {
                ledger = ledger.apply(Name::B, Move::Boot).unwrap();
                boots += 1;
            }
            assert_eq!(boots, tries);
        }
    }

    /// Runs moves on slot b of a new disk and says how it ends: active slot, then b's state.
    fn check(asked: &[Move], active: Name, b: Slot) {
        let after = asked.iter().fold(Ledger::new(), |ledger, asked| ledger.apply(Name::B, *asked).unwrap());
        assert_eq!((after.active, after.slot(Name::B)), (active, b));
    }

    #[test]
    fn a_confirmed_trial_becomes_active_and_the_old_one_stays_good() {
        check(&[Move::Stage, Move::Try { tries: 2 }, Move::Boot, Move::Confirm], Name::B, Slot::Good);
    }

    #[test]
    fn a_trial_without_tries_is_given_up_at_the_next_boot() {
        check(&[Move::Stage, Move::Try { tries: 1 }, Move::Boot, Move::Boot], Name::A, Slot::Empty);
    }

    #[test]
    fn a_rejected_slot_holds_nothing_worth_booting() {
        check(&[Move::Stage, Move::Try { tries: 1 }, Move::Reject(Cause::Unhealthy)], Name::A, Slot::Empty);
    }

    #[test]
    fn the_only_good_slot_cannot_be_rejected_or_overwritten() {
        for asked in [Move::Reject(Cause::Asked), Move::Stage, Move::Try { tries: 1 }] {
            assert!(Ledger::new().apply(Name::A, asked).is_err());
        }
    }

    fn check_cause(asked: &[Move], cause: Cause) {
        let after = asked.iter().fold(Ledger::new(), |ledger, asked| ledger.apply(Name::B, *asked).unwrap());
        assert_eq!(after.cause, cause);
    }

    #[test]
    fn what_ends_a_trial_without_a_word_is_what_was_noted_last() {
        let trial = [Move::Stage, Move::Try { tries: 1 }, Move::Boot];
        check_cause(&[&trial[..], &[Move::Boot]].concat(), Cause::Panic);
        check_cause(&[&trial[..], &[Move::Note(Cause::InitCrash), Move::Boot]].concat(), Cause::InitCrash);
        check_cause(&[&trial[..], &[Move::Boot, Move::Note(Cause::Watchdog)]].concat(), Cause::Watchdog);
    }

    #[test]
    fn overwriting_a_slot_forgets_what_it_held_but_not_why_the_last_trial_ended() {
        let trial = [Move::Stage, Move::Try { tries: 1 }, Move::Reject(Cause::Unhealthy), Move::Stage, Move::Clear];
        check(&trial, Name::A, Slot::Empty);
        check_cause(&trial, Cause::Unhealthy);
    }

    #[test]
    fn a_refusal_names_slot_state_and_move() {
        let refused = Ledger::new().apply(Name::B, Move::Confirm).unwrap_err();
        assert_eq!(std::format!("{refused}"), "slot b is Empty and cannot Confirm");
    }
}
