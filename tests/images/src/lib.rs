//! Offline test images made from Debian packages.
#![forbid(unsafe_code)]
