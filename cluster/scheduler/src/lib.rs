//! Finds a node for each pod.
//!
//! Start at [`place`]: from a [`Snapshot`] of the cluster and a pod to a node, or to the reasons why none. [`decide`] does
//! so for all pods that wait; [`run()`] carries the decisions out.
//!
//! Invariants:
//! * the same snapshot and pod give the same node: ties are broken by a hash of the pod's uid and the node's name;
//! * the scheduler writes nothing but bindings, the condition `PodScheduled` and Events;
//! * a pod that was bound counts against its node at once, whether or not the cache has seen it.
//!
//! Not here: preemption, volumes, extenders, profiles.
//!
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/kube-scheduler/>.
#![forbid(unsafe_code)]

mod affinity;
mod decide;
mod filter;
mod place;
mod request;
mod run;
mod score;
mod snapshot;

pub use decide::{Assumed, Decision, decide};
pub use filter::Reason;
pub use place::{Placement, place};
pub use request::Request;
pub use run::{Options, run};
pub use snapshot::{NodeInfo, PodInfo, Snapshot};
