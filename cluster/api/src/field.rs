//! What is wrong with one field of an object, in the words of upstream's `field.Error`.
//!
//! Start at [`FieldError`]: its `Display` is what `kubectl` shows, [`FieldError::reason`] what a Status cause carries.
//! [`Path`] names a field without allocating; it becomes text only when something is wrong there.
//!
//! Not here: the Status that collects errors (`apiserver`), the rules themselves (`validation`).

use serde_json::Value;
use std::fmt;

/// What sort of mistake a [`FieldError`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// A value must be given and is not.
    Required,
    /// The value breaks a rule.
    Invalid,
    /// The value is none of the allowed ones.
    NotSupported,
    /// The value must be unique and is not.
    Duplicate,
    /// The value may be well formed but is not permitted here.
    Forbidden,
    /// The text or blob is longer than allowed.
    TooLong,
    /// The list or map has more items than allowed.
    TooMany,
    /// The list or map has fewer items than needed.
    TooFew,
    /// The value names something that does not exist.
    NotFound,
    /// The value has the wrong JSON type.
    TypeInvalid,
    /// Not the client's fault.
    InternalError,
}

impl ErrorKind {
    /// The `reason` of the Status cause.
    pub const fn reason(self) -> &'static str {
        match self {
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::TooFew => "FieldValueTooFew",
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            ErrorKind::InternalError => "InternalError",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            ErrorKind::Required => "Required value",
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::TooFew => "Too few",
            ErrorKind::NotFound => "Not found",
            ErrorKind::InternalError => "Internal error",
        }
    }

    const fn shows_value(self) -> bool {
        !matches!(self, ErrorKind::Required | ErrorKind::Forbidden | ErrorKind::TooLong | ErrorKind::InternalError)
    }
}

/// One mistake in one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Where, like `spec.containers[0].image`.
    pub field: String,
    /// What sort of mistake.
    pub kind: ErrorKind,
    /// The value as given. Not printed for the kinds that carry none.
    pub bad_value: Value,
    /// What would be right; may be empty.
    pub detail: String,
}

impl FieldError {
    fn new(at: &Path, kind: ErrorKind, bad_value: Value, detail: impl Into<String>) -> FieldError {
        FieldError { field: at.to_string(), kind, bad_value, detail: detail.into() }
    }
    /// A value must be given.
    pub fn required(at: &Path, detail: impl Into<String>) -> FieldError {
        FieldError::new(at, ErrorKind::Required, Value::Null, detail)
    }
    /// The value breaks a rule; `detail` says which.
    pub fn invalid(at: &Path, bad: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        FieldError::new(at, ErrorKind::Invalid, bad.into(), detail)
    }
    /// The value has the wrong JSON type.
    pub fn type_invalid(at: &Path, bad: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        FieldError::new(at, ErrorKind::TypeInvalid, bad.into(), detail)
    }
    /// The value is none of `allowed`, which are listed in the order given.
    pub fn not_supported(at: &Path, bad: impl Into<Value>, allowed: &[&str]) -> FieldError {
        let quoted: Vec<String> = allowed.iter().map(|one| go_quote(one)).collect();
        let detail = match quoted.is_empty() {
            true => String::new(),
            false => format!("supported values: {}", quoted.join(", ")),
        };
        FieldError::new(at, ErrorKind::NotSupported, bad.into(), detail)
    }
    /// The value appears twice.
    pub fn duplicate(at: &Path, bad: impl Into<Value>) -> FieldError {
        FieldError::new(at, ErrorKind::Duplicate, bad.into(), "")
    }
    /// The field may not be set, or not so, here.
    pub fn forbidden(at: &Path, detail: impl Into<String>) -> FieldError {
        FieldError::new(at, ErrorKind::Forbidden, Value::Null, detail)
    }
    /// More than `bytes_max` bytes.
    pub fn too_long(at: &Path, bytes_max: usize) -> FieldError {
        let unit = if bytes_max == 1 { "byte" } else { "bytes" };
        FieldError::new(at, ErrorKind::TooLong, Value::Null, format!("may not be more than {bytes_max} {unit}"))
    }
    /// `count` items where `count_max` are allowed.
    pub fn too_many(at: &Path, count: usize, count_max: usize) -> FieldError {
        let unit = if count_max == 1 { "item" } else { "items" };
        FieldError::new(at, ErrorKind::TooMany, count.into(), format!("must have at most {count_max} {unit}"))
    }
    /// The value names something that does not exist.
    pub fn not_found(at: &Path, bad: impl Into<Value>) -> FieldError {
        FieldError::new(at, ErrorKind::NotFound, bad.into(), "")
    }
    /// Not the client's fault.
    pub fn internal(at: &Path, detail: impl Into<String>) -> FieldError {
        FieldError::new(at, ErrorKind::InternalError, Value::Null, detail)
    }

    /// The `reason` of the Status cause.
    pub const fn reason(&self) -> &'static str {
        self.kind.reason()
    }

    /// The message without the field: the `message` of the Status cause.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        if self.kind.shows_value() {
            let value = match &self.bad_value {
                Value::String(word) => go_quote(word),
                other => other.to_string(),
            };
            text = format!("{text}: {value}");
        }
        match self.detail.is_empty() {
            true => text,
            false => format!("{text}: {}", self.detail),
        }
    }

    /// This error as a `StatusCause`.
    pub fn cause(&self) -> Value {
        serde_json::json!({"reason": self.reason(), "message": self.body(), "field": self.field})
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.field, self.body())
    }
}
impl std::error::Error for FieldError {}

/// All errors in one line, as upstream's aggregate prints them: alone as it is, several in brackets, repeats once.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for error in errors {
        let line = error.to_string();
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    match lines.len() {
        1 => lines.remove(0),
        _ => format!("[{}]", lines.join(", ")),
    }
}

/// `text` as Go's `%q` prints it.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            control if (control as u32) < 0x20 || control as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", control as u32));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// The way to a field. Cheap to make: it borrows its parent and becomes text only in an error.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
    Nothing,
}

impl<'a> Path<'a> {
    /// The object itself.
    pub const ROOT: Path<'static> = Path { parent: None, step: Step::Nothing };

    /// A top-level field, or several joined by dots.
    pub const fn new(field: &'a str) -> Path<'a> {
        Path { parent: None, step: Step::Field(field) }
    }
    /// A field of this one.
    pub const fn child(&'a self, field: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(field) }
    }
    /// An item of this list.
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }
    /// An entry of this map.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut under_root = true;
        if let Some(parent) = self.parent {
            parent.fmt(out)?;
            under_root = matches!(parent.step, Step::Nothing);
        }
        match self.step {
            Step::Field(field) if under_root => out.write_str(field),
            Step::Field(field) => write!(out, ".{field}"),
            Step::Index(index) => write!(out, "[{index}]"),
            Step::Key(key) => write!(out, "[{key}]"),
            Step::Nothing => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: FieldError, text: &str) {
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn errors_read_as_upstream_prints_them() {
        let containers = Path::new("spec").child("containers").to_string();
        let root = Path::new(&containers);
        let item = root.index(0);
        check(FieldError::required(&item.child("image"), ""), "spec.containers[0].image: Required value");
        check(
            FieldError::invalid(&Path::new("spec.replicas"), -1, "must be greater than or equal to 0"),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        );
        check(
            FieldError::not_supported(&Path::new("spec.type"), "x", &["A", "B"]),
            "spec.type: Unsupported value: \"x\": supported values: \"A\", \"B\"",
        );
        check(FieldError::duplicate(&Path::new("a").key("b c"), "d"), "a[b c]: Duplicate value: \"d\"");
        check(FieldError::forbidden(&Path::new("a"), "not here"), "a: Forbidden: not here");
        check(FieldError::too_long(&Path::new("a"), 9), "a: Too long: may not be more than 9 bytes");
        check(FieldError::too_many(&Path::new("a"), 3, 1), "a: Too many: 3: must have at most 1 item");
        check(FieldError::invalid(&Path::new("a"), "q\"\n", "no"), "a: Invalid value: \"q\\\"\\n\": no");
        check(FieldError::required(&Path::ROOT.child("spec"), ""), "spec: Required value");
    }

    #[test]
    fn several_errors_are_listed_once_each() {
        let one = FieldError::required(&Path::new("a"), "");
        let two = FieldError::required(&Path::new("b"), "");
        assert_eq!(aggregate(&[one.clone(), two.clone(), one.clone()]), "[a: Required value, b: Required value]");
        assert_eq!(aggregate(&[one]), "a: Required value");
    }
}
