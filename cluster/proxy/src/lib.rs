//! Services as nftables rules.
//!
//! Start at [`plan()`]: from Services and EndpointSlices to a table that prints in nft's own syntax. [`run()`] keeps the
//! kernel at it, [`stale`] says which connections of UDP must not go on, and [`checks`] what load balancers are told.
//!
//! Invariants:
//! * the plan is a value; the kernel is changed in one transaction, by what differs, and only when the plan has changed;
//! * a restart changes nothing in the kernel if nothing has changed meanwhile.
//!
//! Not here: nftables itself (`sys::net::nft`), pods' links and host ports (`podnet`), names (`dns`).
#![forbid(unsafe_code)]

mod health;
pub mod plan;
mod run;
mod stale;

pub use health::{Check, Checks, checks};
pub use plan::{Plan, TABLE, View, plan};
pub use run::{Installed, Options, run};
pub use stale::stale;
