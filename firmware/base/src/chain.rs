//! Prints an error with all its causes, in one line.
//!
//! Start at [`chain`]. Each error of ours says what was being done and leaves the cause to `source()`, so that printing
//! the chain repeats nothing: `failed to start pod web-0: failed to mount /data: no such device`.

use std::error::Error;
use std::fmt;

/// An error and everything that caused it, printed as one line with `": "` between.
pub struct Chain<'a>(&'a (dyn Error + 'a));

/// Wraps `error` so that `Display` prints the whole chain.
pub fn chain<'a>(error: &'a (dyn Error + 'a)) -> Chain<'a> {
    Chain(error)
}

impl fmt::Display for Chain<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(out, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);
    impl fmt::Display for Layer {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str(self.0)
        }
    }
    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn prints_every_cause_once() {
        let error = Layer("failed to start pod web-0", Some(Box::new(Layer("no such device", None))));
        assert_eq!(chain(&error).to_string(), "failed to start pod web-0: no such device");
    }
}
