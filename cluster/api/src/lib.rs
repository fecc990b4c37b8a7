//! Kubernetes kinds, schemas, metadata, selectors, quantities, defaulting, validation, encodings.
//!
//! Start at [`kinds::KINDS`], the one table of kinds, and [`schema::Type`], what a kind's objects look like. A custom
//! resource definition makes the same two values at run time, so everything else is written once over them:
//! [`check`] reads a body, [`discovery`] and [`openapi`] publish, [`proto`] speaks the binary encoding.
//!
//! Invariants:
//! * objects are `serde_json::Value` trees; nothing here does IO or asks the clock;
//! * built-in facts come from `src/facts.txt`, which the `gen` binary writes from upstream's own definitions.
//!
//! Not here: storage, admission, authorisation, allocation (see the `apiserver` crate).
#![forbid(unsafe_code)]

pub mod check;
pub mod cron;
pub mod custom;
pub mod defaults;
pub mod dig;
pub mod discovery;
pub mod duration;
mod facts;
pub mod field;
pub mod fieldset;
pub mod intstr;
pub mod kinds;
pub mod managed;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod proto;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod selector;
pub mod strategy;
pub mod table;
pub mod validation;

pub use field::FieldError;

/// The version that the API server reports as its `gitVersion`.
pub const VERSION: &str = "v1.36.1+skerry.1";

/// The major part of [`VERSION`].
pub const MAJOR: &str = "1";

/// The minor part of [`VERSION`].
pub const MINOR: &str = "36";
