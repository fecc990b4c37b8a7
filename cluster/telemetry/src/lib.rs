//! Logs and metrics of the whole cluster in one place: the collectors that run on every node, and the bounded stores that
//! the server keeps.
//!
//! Start at [`logs::LogStore`] (the store), [`logs::collect`] (what a DaemonSet's pod runs) and [`Telemetry`], which puts
//! the stores behind the API server.
//!
//! Invariants:
//! * a store never grows beyond what it was given, on the disk and in memory;
//! * what was accepted is never stored twice, however often it is sent.
//!
//! Not here: writing container logs (`keeper`), rotating them (`kubelet`), printing them (`skerry logs`).
#![forbid(unsafe_code)]

pub mod logs;
mod serve;

pub use serve::{GROUP, Telemetry};
