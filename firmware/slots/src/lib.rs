//! The A/B ledger as a value: what boots next, tries, cause codes.
#![forbid(unsafe_code)]
