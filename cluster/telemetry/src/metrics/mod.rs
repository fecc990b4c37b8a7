//! Metrics: what nodes, pods and containers use, from every node to one store.
//!
//! Start at [`collect`], which a DaemonSet's pod runs, and at [`MetricStore`]; [`resource`] makes of its newest values what
//! `kubectl top` shows. A series is named as Prometheus names it, `name{label="value"}`.
//!
//! Invariants:
//! * the store's disk and memory are bounded, however many series are sent;
//! * what came in the last ten minutes is in memory alone: a crash costs it, and an SD card is spared.

mod board;
pub mod collect;
mod families;
pub mod resource;
mod store;
mod summary;
pub mod wire;

pub use store::{MetricStore, Options, Series};
