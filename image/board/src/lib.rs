//! Reads and checks boards/*.toml.
#![forbid(unsafe_code)]
