//! The Kubernetes API server: request → authenticate → authorise → admit → store → response.
//!
//! Start at [`Api::handle`], which does one request without sockets, threads or timers; [`run::serve`] puts it behind
//! TLS, [`door::open`] hands it to the components of this process. A store must be opened with [`annotate`].
//!
//! Invariants:
//! * stored bytes are served bytes: a JSON answer in the storage version is never decoded on its way out;
//! * only this crate turns errors into a Kubernetes `Status`;
//! * time and chance come in through [`Settings`].
//!
//! Not here: what objects look like (`api`), how they are kept (`store`), what follows from them (`controllers`).
#![forbid(unsafe_code)]

mod accept;
mod admit;
mod admit_node;
mod admit_pod;
mod allocate;
mod apply;
mod authenticate;
mod authorise;
mod body;
mod bootstrap;
mod convert;
mod delete;
mod documents;
pub mod door;
mod encode;
mod evict;
pub mod extension;
mod frames;
mod idle;
mod kinds;
mod managed;
mod metrics;
mod node;
mod notes;
mod other;
mod path;
mod policy;
mod proxied;
mod query;
mod quota;
mod rbac;
mod read;
mod render;
mod response;
mod review;
pub mod run;
mod select;
mod serve;
mod server;
mod settings;
mod snapshot;
mod status;
mod subresource;
mod tunnel;
mod user;
mod watch;
mod write;
mod yaml;

pub use body::BODY_BYTES_MAX;
pub use extension::{Asked, Extension, Pages};
pub use notes::annotate;
pub use response::{Body, Proxied, Response, Security};
pub use server::Api;
pub use settings::{Settings, TOLERATION_SECONDS};
pub use snapshot::{SNAPSHOT_PATH, Snapshot};
pub use status::Failure;
pub use user::{Credentials, User};
