//! Cluster DNS.
#![forbid(unsafe_code)]
