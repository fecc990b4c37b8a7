//! The checks on the source itself.
#![forbid(unsafe_code)]
