//! The phases of booting: a list of names and functions, run in order and printed as they pass.
//!
//! Start at [`run_all`].

use std::time::Instant;

use base::chain;

use crate::console::say;

/// What a phase cannot do, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error(transparent)]
    Sys(#[from] sys::SysError),
    /// Something is missing or wrong, in a sentence that names it.
    #[error("{0}")]
    Wrong(String),
    /// A file could not be read or written.
    #[error("failed to {doing}")]
    Io {
        /// What was being done, to which file.
        doing: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// Says what was being done, on the way out.
pub trait Doing<T> {
    /// Attaches `what` to the cause.
    fn doing(self, what: impl std::fmt::Display) -> Result<T, Error>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl std::fmt::Display) -> Result<T, Error> {
        self.map_err(|source| Error::Io { doing: what.to_string(), source })
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, what: impl std::fmt::Display) -> Result<T, Error> {
        self.map_err(std::io::Error::from).doing(what)
    }
}

/// One step of booting. It tells in a few words what it found.
pub struct Phase<S> {
    /// One word.
    pub name: &'static str,
    /// Whether booting ends where it fails.
    pub must: bool,
    /// What it does.
    pub run: fn(&mut S) -> Result<String, Error>,
}

/// Runs the phases in order, `after` after each; ends at the first failed one that must not fail.
pub fn run_all<S>(phases: &[Phase<S>], state: &mut S, after: impl Fn(&S)) -> Result<(), Error> {
    for phase in phases {
        let began = Instant::now();
        let outcome = (phase.run)(state);
        let took = began.elapsed().as_millis();
        after(state);
        match outcome {
            Ok(found) => say(format_args!("{:<10} {found} ({took} ms)", phase.name)),
            Err(error) if phase.must => {
                say(format_args!("{:<10} FAILED: {}", phase.name, chain(&error)));
                return Err(error);
            }
            Err(error) => say(format_args!("{:<10} FAILED, going on: {}", phase.name, chain(&error))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn ok(trace: &mut Vec<&'static str>) -> Result<String, Error> {
        trace.push("ok");
        Ok(String::new())
    }
    fn bad(trace: &mut Vec<&'static str>) -> Result<String, Error> {
        trace.push("bad");
        Err(Error::Wrong("it is bad".into()))
    }

    fn check(must: bool, expected: &[&str]) {
        let mut trace = Vec::new();
        let phases = [
            Phase { name: "first", must: true, run: ok },
            Phase { name: "second", must, run: bad },
            Phase { name: "third", must: true, run: ok },
        ];
        let fed = Cell::new(0);
        assert_eq!(run_all(&phases, &mut trace, |_| fed.set(fed.get() + 1)).is_err(), must);
        assert_eq!((trace.as_slice(), fed.get()), (expected, expected.len()));
    }

    #[test]
    fn a_phase_that_must_not_fail_ends_the_list() {
        check(true, &["ok", "bad"]);
    }

    #[test]
    fn a_phase_that_may_fail_does_not() {
        check(false, &["ok", "bad", "ok"]);
    }
}
