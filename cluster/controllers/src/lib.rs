//! One file per controller, each a pure reconcile.
#![forbid(unsafe_code)]
