//! The small process that starts processes, holds their output and remembers their exit codes.
//!
//! Start at [`main`] for the process itself and at [`Client`] for its callers; [`Request`] lists all it does. [`Holder`] is for
//! whoever supervises it.
//!
//! Invariants:
//! * it outlives its callers: one that goes away takes nothing with it, and the next one finds everything;
//! * it runs in one thread, never waits for a caller, a log's disk or a reader, and holds a few kilobytes a process;
//! * what it has read of a process's output is in the log before the process's end is told;
//! * one that is killed costs its processes nothing: its supervisor hands all it held to the next one. What is lost is who
//!   was attached, what was typed and not yet read, and of a terminal's output what was being read in that moment.
//!
//! Not here: what a process sees (namespaces and mounts are made by the program it is asked to start), Kubernetes.
#![forbid(unsafe_code)]

mod client;
mod held;
mod holder;
mod home;
mod log;
mod protocol;
mod run;
mod spool;

pub use client::{Client, ClientError, start_detached};
pub use holder::{HOLDER_FD, Holder};
pub use protocol::{Attach, Exit, PidNamespace, Reply, Request, Spawn, Status, Streams, UNKNOWN, VERSION};
pub use run::main;
