//! Updates of boards as Kubernetes sees them: a DaemonSet's pod asks for a bundle, and the node does what there is to do.
//!
//! Start at [`plan::plan`], what a node does next; [`node::run`] does it. [`agent`] is the pod's program.
//!
//! Invariants:
//! * the node owns the operation, which is named by the bundle's digest: the pod may be replaced or deleted at any time;
//! * the node uncordons what it cordoned, and nothing else;
//! * a board restarts only when every pod that is to leave has left.
//!
//! Not here: slots, bundles and how a trial is judged (`firmware`).

pub mod agent;
pub mod node;
pub mod pace;
pub mod plan;
