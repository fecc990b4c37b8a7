//! Cluster DNS: the names of Services and pods, and the way to everybody else's.
//!
//! Start at [`Zone::new`] (from Services and EndpointSlices to records) and [`answer()`] (from a question to records);
//! [`run()`] serves them.
//!
//! Invariants:
//! * a name that exists without the type asked for gets an empty answer, never NXDOMAIN: resolvers ask for A and AAAA in
//!   parallel and believe a NXDOMAIN;
//! * a question outside the zone goes to the node's own servers, unchanged, and their answer back, unchanged; only what they
//!   do not know is looked for in the zone, with the zone's name added.
//!
//! Not here: IPv6 records, caching of others' answers.
//!
//! Follows "Kubernetes DNS-Based Service Discovery", version 1.1.0
//! (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>).
#![forbid(unsafe_code)]

mod answer;
mod run;
mod wire;
mod zone;

pub use answer::{Answer, Code, answer};
pub use run::{DnsError, Options, Upstreams, run};
pub use wire::{Kind, Question, WireError};
pub use zone::{Data, Record, Zone};
