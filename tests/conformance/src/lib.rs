//! A real process and real clients.
#![forbid(unsafe_code)]
