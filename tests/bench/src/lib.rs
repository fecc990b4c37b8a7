//! Load against any Kubernetes API server, and our own budgets.
#![forbid(unsafe_code)]
