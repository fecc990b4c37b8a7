//! A pod's address, link and routes.
#![forbid(unsafe_code)]
