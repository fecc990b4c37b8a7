//! Reads a body: JSON text into a value, and a value into the shape its kind demands.
//!
//! Start at [`parse_json`], then [`structure`]. The first finds duplicate keys, the second prunes and reports unknown
//! fields, refuses wrong types with the words upstream's decoder uses, and leaves the canonical form: what a Go server
//! would have written after reading the same body into its structs.
//!
//! Invariants:
//! * a value that was checked once passes again unchanged;
//! * of unknown and duplicate fields, at most [`PROBLEMS_MAX`] are listed;
//! * custom resources are pruned and their metadata is checked; what their own fields may hold is for their validator.
//!
//! Not here: what values are allowed (`validation`), defaults (`defaults`).

mod json;
mod scalar;
mod walk;

#[cfg(test)]
use scalar::canonical_time;

pub(crate) use walk::zero;

use serde_json::Value;

use crate::kinds::Kind;
use crate::schema::TypeRef;

/// After so many unknown or duplicate fields the rest is not listed, as upstream does.
pub const PROBLEMS_MAX: usize = 100;

/// How much of an object a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A whole object: brought into canonical form. What means "absent" is left out, what upstream always writes is put in.
    Whole,
    /// Part of an object, such as an apply patch: nothing said is left out, not even `null` or zero, and nothing is added.
    Partial,
}

/// What was found in a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Paths of fields that the schema does not know; they are gone from the value.
    pub unknown: Vec<String>,
    /// What made the body unreadable, in the decoder's words; one is enough to refuse it, and upstream prints the first.
    pub errors: Vec<Fault>,
}

/// A value of the wrong type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, with list indices: `spec.containers[0].image`.
    pub path: String,
    /// What the decoder says.
    pub message: String,
}

/// A text that is no JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// What is wrong and where.
    pub message: String,
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for ParseError {}

impl Report {
    /// One line for each unknown field, as warnings and strict errors print them: `unknown field "spec.foo"`.
    pub fn warnings(&self) -> Vec<String> {
        self.unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect()
    }

    /// The message of the BadRequest that refuses a body of that kind, if something in it has the wrong type.
    pub fn refusal(&self, kind: &Kind) -> Option<String> {
        self.errors.first().map(|fault| cannot_be_handled(kind, &fault.message))
    }
}

/// The message of the strict decoding error over these lines, or nothing if there are none.
pub fn strict_error(lines: &[String]) -> Option<String> {
    (!lines.is_empty()).then(|| format!("strict decoding error: {}", lines.join(", ")))
}

/// The message of the BadRequest with which a body of that kind is refused.
pub fn cannot_be_handled(kind: &Kind, cause: &str) -> String {
    format!("{0} in version \"{1}\" cannot be handled as a {0}: {cause}", kind.kind, kind.version)
}

/// Reads JSON text; also gives a `duplicate field "…"` line for each key that occurs again (the last one counts).
///
/// Nesting deeper than 128 is refused: no real object comes near it, and the stack stays bounded.
pub fn parse_json(text: &[u8]) -> Result<(Value, Vec<String>), ParseError> {
    json::parse(text).map_err(|error| ParseError { message: error.to_string() })
}

/// Checks an object against its kind and brings it into canonical form.
pub fn structure(kind: &Kind, value: &mut Value, mode: Mode) -> Report {
    structure_as(&kind.ty, value, mode)
}

/// Checks a value against a type and brings it into canonical form.
pub fn structure_as(ty: &TypeRef, value: &mut Value, mode: Mode) -> Report {
    walk::check(ty, value, mode)
}

#[cfg(test)]
mod tests;
