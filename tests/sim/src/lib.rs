//! The whole cluster in one thread under a seed: the real store (its group commit over a simulated disk), API server,
//! controllers, scheduler, and kubelet decisions; runtime, wire and time are fakes.
//!
//! Start at [`run`]: a seed is a cluster's life ([`Outage`] is a life by script). First everything goes wrong that can (events come late and twice, watches
//! break, components crash between any two writes, the disk fails or loses power in a commit, nodes fall silent, come and
//! leave, the calendar jumps), then nothing does, and the cluster must settle.
//!
//! Invariants:
//! * the same seed and the same source give the same life, write for write;
//! * what is checked (`checks/`) is told apart from what is done, and never looks into the code it checks.
//!
//! Not here: proxy, DNS and the network; containers, images, volumes and probes (see `node.rs` for what is fake of a node);
//! a torn log on a real file system (`store/tests`).
#![forbid(unsafe_code)]

pub mod checks;
mod dispatcher;
mod feed;
mod life;
mod link;
mod manager;
mod node;
mod nodes;
mod outage;
mod server;
mod user;

pub use life::{Report, run};
pub use outage::{Outage, Patience};
