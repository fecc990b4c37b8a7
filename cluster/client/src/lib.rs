//! How every component talks to the API server: through a [`Door`].
//!
//! Start at [`Door`]. There are two: the API server's own (`apiserver::door`, no TLS, shares its bytes) and HTTPS
//! ([`https`], for other machines). Both mean the same; nobody above can tell them apart. Who reads keeps a [`Cache`]
//! ([`run::caches`] fills them), who writes uses a [`Client`].
//!
//! Not here: deciding anything (`controllers`, `scheduler`, `kubelet`), the server (`apiserver`).
#![forbid(unsafe_code)]

mod anybody;
pub mod cache;
mod caches;
pub mod door;
pub mod https;
mod kind;
mod kubeconfig;
pub mod reflector;
pub mod run;
mod selector;
pub mod told;
pub mod typed;

pub use anybody::Anybody;
pub use cache::{Cache, Change, Entry, Listener, Meta, Owner};
pub use caches::Caches;
pub use door::{Call, Collection, Door, DoorError, Event, EventKind, Item, Listing, Reply};
pub use kind::{Kind, Resource};
pub use kubeconfig::{Kubeconfig, KubeconfigError, authority_of};
pub use selector::{Labels, Selector, node_matches, node_suits, node_term_matches};
pub use typed::{Client, ClientError, DeleteOptions};
