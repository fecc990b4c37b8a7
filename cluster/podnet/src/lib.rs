//! A pod's address, link and routes.
//!
//! Start at [`PodNet`] for this node's pods, at [`peers`] for the ways to other nodes'. A pod has one veth link and one address, reached by a route of its own; there is no bridge, so a
//! Service works between two pods of one node as it does between nodes, and neither side ever asks for a hardware
//! address: both know it beforehand.
//!
//! ```text
//!     pod   eth0 10.42.0.7/32   default via 169.254.1.1
//!            │ veth
//!     node  sk0a2a0007          10.42.0.7/32 dev sk0a2a0007      skerry0 10.42.0.1/32, 10.43.0.0/16
//! ```
//!
//! Invariants:
//! * an address belongs to one sandbox at a time, and the lease is on the disk before the link exists;
//! * attaching and detaching can be repeated, also after a crash halfway;
//! * between pods, and between pods and nodes, no address is rewritten; only what leaves the cluster takes the node's.
//!
//! Not here: Services (`proxy`), network policies, which nodes there are (`skerry` tells), IPv6.
#![forbid(unsafe_code)]

mod lease;
pub mod peers;
mod plan;
mod run;

pub use lease::{HostPort, Lease, Leases};
pub use peers::Peer;
pub use plan::{HOST_LINK, Options, PodLink, TABLE, pod_link, table};
pub use run::{PodNet, PodNetError, node_address};
