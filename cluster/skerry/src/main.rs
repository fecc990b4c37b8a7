//! The `skerry` program: all of it is in the library, so that tests can build it with what else they need.
//!
//! Start at [`skerry::main`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    skerry::main()
}
