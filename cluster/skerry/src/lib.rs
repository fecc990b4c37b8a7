//! Every role of the cluster in one process: picks roles, makes clock and seed, wires the parts, supervises them.
//!
//! Start at [`server::run`], the control plane and node of `skerry server`; [`cli::Cli`] is what can be asked for. Each
//! role is one file under `roles/` and one line in [`roles::all`].
//!
//! Invariants:
//! * a role that fails or panics is started again, later each time, and takes no other role with it;
//! * time and chance are made here and nowhere else.
//!
//! Not here: what any role does (its own crate).
#![forbid(unsafe_code)]

pub mod cli;
mod error;
mod net;
pub mod roles;
pub mod server;
mod supervise;

pub use error::StartError;
