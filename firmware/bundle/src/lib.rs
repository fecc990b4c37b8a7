//! The update file: one slot's image in chunks, behind a signed header.
//!
//! Start at [`Bundle::open`], which believes nothing that no trusted key has signed, and [`write()`], which makes a file.
//! [`Head::suits`] decides whether a board may take it. [`message`] is what is said over the update socket, and
//! [`ask()`] says it.
//!
//! A file is: [`head::MAGIC`], the header's length, an Ed25519 signature over the header, the header (postcard), then each
//! different chunk once, in the order of its first use. The header lists the SHA-256 of every chunk of the image in order.
//!
//! Invariants:
//! * the same image and key give the same bytes;
//! * a bundle's digest is that of its header, so it names every byte of the image;
//! * reading needs memory for the header and one chunk, however large the image.
//!
//! Not here: what is done with a bundle (`update`), what is in an image (`image`).
#![forbid(unsafe_code)]

mod ask;
mod error;
mod file;
pub mod head;
mod key;
pub mod message;

pub use ask::ask;
pub use error::Error;
pub use file::{Bundle, describe, write};
pub use head::{Digest, Head, Target};
pub use key::{Public, Secret, trusted};
