//! The Linux border: everything that asks the kernel.
#![forbid(unsafe_code)]
