//! PID 1 of the image.
#![forbid(unsafe_code)]
