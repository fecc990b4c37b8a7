//! What must be true of a cluster, checked from outside.
//!
//! Start at [`Watched`] for what must hold at every moment, [`settled`] for what must hold in the end.

mod always;
mod end;

pub use always::Watched;
pub use end::settled;
