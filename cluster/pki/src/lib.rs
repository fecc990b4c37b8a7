//! Cluster keys, certificates and tokens.
#![forbid(unsafe_code)]
