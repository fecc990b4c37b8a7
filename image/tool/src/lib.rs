//! From a board and artifacts to a bootable disk.
//!
//! Start at [`debian`] for what the images are made of.
#![forbid(unsafe_code)]

pub mod debian;
