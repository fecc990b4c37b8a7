//! Services as nftables rules.
#![forbid(unsafe_code)]
