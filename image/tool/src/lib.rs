//! From a board and artifacts to a bootable disk.
#![forbid(unsafe_code)]
