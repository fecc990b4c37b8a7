//! Kubernetes kinds, schemas, metadata, selectors, quantities, defaulting, validation, encodings.
#![forbid(unsafe_code)]
