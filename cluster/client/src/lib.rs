//! How every component talks to the API server: through a [`Door`].
//!
//! Start at [`Door`]. There are two: the API server's own (`apiserver::door`, no TLS, shares its bytes) and HTTPS
//! ([`https`], for other machines). Both mean the same; nobody above can tell them apart.
//!
//! Not here: deciding anything (`controllers`, `scheduler`, `kubelet`), the server (`apiserver`).
#![forbid(unsafe_code)]

pub mod door;

pub use door::{Call, Collection, Door, DoorError, Event, EventKind, Item, Listing, Reply};
