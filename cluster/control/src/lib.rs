//! Runs reconcilers: queue of keys, back-off, caches, applying writes. The only impure part of control.
//!
//! Start at [`Reconciler`], the shape of a controller, then [`Engine`], which runs one step by step; [`run::run`] does so
//! with tokio. A reconciler is told that something may have changed, never what.
//!
//! Invariants:
//! * a key is never worked on twice at the same time;
//! * a key is not worked on before the caches have seen what was written for it, so a stale cache creates no duplicates;
//! * a key that fails comes back later each time, up to [`queue::WAIT_MAX`].
//!
//! Not here: any decision about Kubernetes objects (`controllers`).
#![forbid(unsafe_code)]

mod apply;
mod engine;
mod events;
pub mod queue;
mod reconciler;
pub mod run;
mod view;
mod write;

pub use apply::{Done, Failure, perform};
pub use engine::{Engine, Turn};
pub use events::{Note, Recorder, Regarding};
pub use queue::Key;
pub use reconciler::{About, Outcome, Reconciler, itself, owner};
pub use view::View;
pub use write::{Announce, Guard, Verb, Write};
