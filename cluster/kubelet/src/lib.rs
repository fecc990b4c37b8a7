//! What this node does for its pods: `step(pod, observed, now) -> actions`, and the loops that carry the actions out.
//!
//! Start at [`run`], which `skerry` calls once and which registers the node, follows its pods and serves port 10250. What
//! should happen next for one pod is decided in [`step`]; everything that waits lies in `run.rs` and below it.
//!
//! Invariants:
//! * what runs is read from the runtime only, so a restarted kubelet adopts every pod it finds and restarts none;
//! * the API is written only when something changed: an idle node renews its Lease and does nothing else;
//! * a pod's object is deleted (grace 0, with its uid) only after its containers and sandbox have ended;
//! * a node that remembers its pods (`checkpoint`) starts them without a server, and rebuilds none when it is back.
//!
//! Not here: how containers are made (`runtime`), where pods go (`scheduler`), who may connect to a Service (`proxy`).
#![forbid(unsafe_code)]

mod access;
pub mod action;
pub mod caretaker;
pub mod checkpoint;
pub mod events;
pub mod image;
pub mod lifecycle;
pub mod logs;
mod machine;
pub mod make;
mod metrics;
pub mod node;
pub mod objects;
pub mod options;
pub mod pod;
pub mod probe;
pub mod quantity;
pub mod run;
pub mod server;
mod sharing;
pub mod status;
pub mod step;
pub mod stream;
pub mod tasks;
pub mod volumes;
pub mod worker;

pub use options::{Live, Machine, Options, Tls, fixed};
pub use run::{CLOCK_KEPT, KubeletError, run};
pub use volumes::{Helper, Leaving, VolumeError, unmount_all};

/// The mount helper, for the binary that [`Options::mount_helper`] names.
pub use volumes::helper::main as mounter_main;
