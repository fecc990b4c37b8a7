//! The small process that starts processes, holds their output and remembers their exit codes.
#![forbid(unsafe_code)]
