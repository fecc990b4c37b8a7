//! step(pod, observed, now): what this node does for its pods.
#![forbid(unsafe_code)]
