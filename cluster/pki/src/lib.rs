//! Cluster keys, certificates and tokens: issue, renew, verify.
//!
//! Start at [`Pki::open`], which makes or loads the keys of a data folder. An [`Authority`] issues certificates, a
//! [`TokenKey`] signs and checks ServiceAccount tokens, [`kubeconfig`] writes a client's file, a [`BootstrapToken`] lets a
//! machine join.
//!
//! Invariants:
//! * every key is ECDSA P-256 from the operating system's randomness and lies in a file of mode 0600;
//! * certificates begin [`BACKDATE`] before they are made, for clocks that are behind;
//! * what is near its end is renewed when the folder is opened.
//!
//! Not here: TLS itself, what an identity may do (`apiserver`).
#![forbid(unsafe_code)]

mod authority;
mod bootstrap;
mod error;
mod files;
mod kubeconfig;
mod subject;
mod token;

pub use authority::{Authority, BACKDATE, CERTIFICATE_LIFE, Pair, Purpose, SigningRequest, Subject, make_key};
pub use bootstrap::{BootstrapToken, NoToken};
pub use error::PkiError;
pub use files::{Names, Pki, write_private};
pub use kubeconfig::kubeconfig;
pub use subject::{Presented, Requested, der_of_pem, presented, requested};
pub use token::{BoundObject, Claims, TokenError, TokenKey};
