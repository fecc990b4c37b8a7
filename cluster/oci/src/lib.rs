//! OCI image names, manifests, pull, unpack, content store.
#![forbid(unsafe_code)]
