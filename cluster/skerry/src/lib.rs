//! The skerry binary.
#![forbid(unsafe_code)]
