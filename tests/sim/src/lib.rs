//! The whole cluster in one thread under a seed.
#![forbid(unsafe_code)]
