//! Logs and metrics of the whole cluster in one place: the collectors that run on every node, and the bounded stores that
//! the server keeps.
//!
//! Start at [`logs`] and [`metrics`], each a collector that a DaemonSet's pod runs and a store, and at [`Telemetry`] and
//! [`Resources`], which put the stores behind the API server.
//!
//! Invariants:
//! * a store never grows beyond what it was given, on the disk and in memory;
//! * what was accepted is never stored twice, however often it is sent.
//!
//! Not here: writing container logs (`keeper`), rotating them (`kubelet`), printing them (`skerry logs`).
#![forbid(unsafe_code)]

pub mod logs;
pub mod metrics;
mod packed;
mod resources;
mod scrape;
mod serve;

pub use resources::Resources;
pub use serve::{GROUP, Telemetry};
