//! Finds a node for each pod.
//!
//! Start at [`place()`]: from a [`Snapshot`] of the cluster and a pod to a node, or to the reasons why none. [`decide()`] does
//! so for all pods that wait, [`Scheduler`] keeps the snapshot and says what to write, [`run()`] writes it.
//!
//! Invariants:
//! * the same snapshot and pod give the same node: ties are broken by a hash of the pod's uid and the node's name;
//! * the scheduler writes nothing but bindings, the condition `PodScheduled`, nominations, the end of preempted pods, and
//!   what reserves volumes for claims that waited for their pod;
//! * a pod that was bound, or may have been, counts against its node at once, whether or not the cache has seen it.
//!
//! Not here: devices, extenders, profiles.
//!
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/kube-scheduler/>.
#![forbid(unsafe_code)]

mod affinity;
mod core;
mod decide;
mod filter;
mod place;
mod preempt;
mod request;
mod run;
mod score;
mod snapshot;
mod spread;
mod volumes;

pub use core::{Options, Scheduler, Step};
pub use decide::{Decision, Room, decide};
pub use filter::Reason;
pub use place::{Placement, place};
pub use preempt::Preemption;
pub use request::Request;
pub use run::run;
pub use snapshot::{NodeInfo, PodInfo, Snapshot};
pub use volumes::Volumes;
