//! Runs reconcilers: queue of keys, back-off, cache, apply writes.
#![forbid(unsafe_code)]
