//! The repository checks itself, with the ordinary test command.
//!
//! Start at [`Tree::read`] and the functions that return [`Finding`]s, one a rule; `tests/source.rs` runs them all on
//! this checkout. Each rule is also tried on a small tree that breaks it.
//!
//! Invariants:
//! * a rule reads text only: nothing is built, run or fetched;
//! * a finding names the file, the line where there is one, and what to do instead.
//!
//! Not here: formatting and lints (`cargo fmt`, `cargo clippy`), licences of dependencies (`image`).
#![forbid(unsafe_code)]

mod rules;
mod tree;

pub use rules::{all, banned_calls, headers, layers, readme_paths, top_level, unsafe_border};
pub use tree::{Crate, File, Tree};

use std::fmt;

/// Something in the source that breaks a rule of the house.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, relative to the top.
    pub path: String,
    /// The line, counted from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// What is wrong and what to do.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(out, "{}: {}", self.path, self.what),
            line => write!(out, "{}:{line}: {}", self.path, self.what),
        }
    }
}
