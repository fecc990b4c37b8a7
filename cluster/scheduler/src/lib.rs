//! place(snapshot, pod): a node or the reasons why none.
#![forbid(unsafe_code)]
