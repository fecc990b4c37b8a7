//! The keeper as a program of its own, for tests; what ships calls [`keeper::main`] from `skerry` and `skerry-init`.
#![forbid(unsafe_code)]

fn main() {
    std::process::exit(keeper::main(std::env::args_os().skip(1)));
}
