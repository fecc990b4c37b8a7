//! The Linux border: everything that asks the kernel.
//!
//! Start at the module of the thing in question: [`cgroup`], [`clock`], and below. Calls block and know no runtime, so that
//! programs on tokio, on smol and on neither share them.
//!
//! Invariants:
//! * all unsafe code that asks the kernel is in this crate, each block with the sentence that makes it sound;
//! * an error says what was being done to which thing ([`SysError`]).
//!
//! Not here: what to do with any of it.
#![allow(unsafe_code)] // Here and in `efi`, and nowhere else.

pub mod cgroup;
pub mod clock;
pub mod disk;
mod error;
pub mod fdpass;
pub mod files;
pub mod mapper;
pub mod modules;
pub mod mounts;
pub mod namespace;
pub mod net;
pub mod process;
pub mod rights;
pub mod spawn;
pub mod tty;

pub use clock::SystemClock;
pub use error::{Doing, Result, SysError};
