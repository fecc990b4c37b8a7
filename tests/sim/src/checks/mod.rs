//! What must be true of a cluster, checked from outside: through the API, and by what really runs.
//!
//! Start at [`Watched`] for what must hold at every moment, [`settled`] for what must hold in the end, [`Ledger`] for writes
//! that must not be lost.

mod always;
mod end;
mod ledger;

pub use always::Watched;
pub use end::settled;
pub use ledger::Ledger;
