//! Services as nftables rules.
//!
//! Start at [`plan()`]: from Services and EndpointSlices to a table that prints in nft's own syntax. [`run()`] keeps the
//! kernel at it.
//!
//! Invariants:
//! * the plan is a value; the kernel is changed in one transaction, and only when the plan has changed.
//!
//! Not here: nftables itself (`sys::net::nft`), pods' links and host ports (`podnet`), names (`dns`).
#![forbid(unsafe_code)]

pub mod plan;
mod run;

pub use plan::{TABLE, View, plan};
pub use run::{Options, run};
