//! OCI image names, manifests, pull, unpack, content store.
//!
//! Start at [`Store`]: the images of this machine, from the firmware, from archives ([`Store::import`]), from registries
//! ([`Puller::pull`]), and of this node's own program ([`Store::add_program`]).
//!
//! Invariants:
//! * whatever came from outside is compared with its digest before anything uses it, and no name in it leads out of the
//!   folder it is unpacked to;
//! * after a crash the store holds whole images and whole layers only; leftovers go at the next start;
//! * images of the firmware are used where they lie, and never removed.
//!
//! Not here: containers (`runtime`), which images to remove (`kubelet`).
#![forbid(unsafe_code)]

mod archive;
mod digest;
mod error;
mod http;
mod limit;
mod manifest;
mod name;
mod own;
mod peers;
mod reach;
mod recipe;
mod registry;
mod serve;
mod store;
mod unpack;

pub use digest::Digest;
pub use error::OciError;
pub use manifest::{Config, ImageConfig, Platform};
pub use name::Reference;
pub use own::Program;
pub use peers::{
    Finder, Identity, PATH as PEERS_PATH, PROOF as PEERS_PROOF, Peer, VERSION as PEERS_VERSION,
    VERSION_HEADER as PEERS_VERSION_HEADER, understood,
};
pub use recipe::Retold;
pub use registry::{Credentials, Origin, Pulled, Puller, RegistryRule};
pub use serve::{Answer, Given};
pub use store::{Image, Store};
