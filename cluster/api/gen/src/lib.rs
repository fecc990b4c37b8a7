//! Writes the facts table of cluster/api from upstream's published definitions.
#![forbid(unsafe_code)]
