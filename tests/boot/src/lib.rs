//! Boots, updates and power cuts in QEMU.
#![forbid(unsafe_code)]
