//! The `skerry` program, for the tests of this crate.
//!
//! Start at [`skerry::main`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    skerry::main()
}
