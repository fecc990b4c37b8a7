//! The whole cluster in one thread under a seed: the real store (its group commit over a simulated disk), the real API server
//! and controllers; nodes, wire and time are fakes.
//!
//! Start at [`run`]: a seed is a cluster's life. First everything goes wrong that can (events come late and twice, watches
//! break, components and the server crash between any two writes), then nothing does, and the cluster must settle.
//!
//! Invariants:
//! * the same seed and the same source give the same life, write for write;
//! * what is checked (`checks/`) is told apart from what is done, and never looks into the code it checks.
//!
//! Not here: the scheduler and the kubelet themselves: a pod is bound to a node by chance, and runs there by chance.
#![forbid(unsafe_code)]

pub mod checks;
mod life;
mod link;
mod manager;
mod nodes;
mod server;
mod user;

pub use life::{Report, run};
