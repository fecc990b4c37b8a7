//! The images that the Kubernetes documentation's manifests name, made from Debian packages, for machines without internet.
//!
//! Start at [`TABLE`]: each row says under which published names an image appears, and what stands in for it. [`build`]
//! writes them all into one OCI archive for one architecture.
//!
//! Invariants:
//! * the same packages give the same bytes: names are sorted, times are zero, owners are root;
//! * nothing of the published images is in them but their names, and nothing runs while they are made.
//!
//! Not here: reading archives (`oci`).
#![forbid(unsafe_code)]

mod archive;
mod build;
pub mod debian;
mod table;
mod tree;

pub use archive::{ArchiveError, Image, write_archive};
pub use build::{Architecture, BuildError, build};
pub use table::{Recipe, TABLE, recipes};
pub use tree::{Entry, Tree};
