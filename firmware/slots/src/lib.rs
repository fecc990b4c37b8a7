//! The A/B ledger as a value: which of two slots boots next, with how many tries, and why the last trial ended.
//!
//! Start at [`Ledger`]: [`Ledger::next`] says what boots, [`Ledger::apply`] makes every move. [`sector`] turns it into one
//! disk sector that U-Boot reads and writes too, [`store`] keeps two of them on a device, [`choose`] is what a boot loader makes
//! of it, and [`Contents`] is the first sector of a slot itself.
//!
//! Invariants:
//! * the active slot is good: there is always something to return to;
//! * a slot on trial boots at most as often as it has tries;
//! * the older of the two sectors is overwritten, so a torn write costs the newest move and never the ledger.
//!
//! Not here: who decides that a trial went well (`update`, `init`); where on the disk things lie (`image`).
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod choice;
mod contents;
mod ledger;
pub mod sector;
pub mod store;
pub mod table;

pub use choice::{Choice, choose};
pub use contents::{Contents, Extent, NAMES as CONTENTS_NAMES};
pub use ledger::{Cause, Ledger, Move, Name, Refused, Slot};
