//! What an object must obey beyond its schema: upstream's rules, in upstream's words.
//!
//! Start at [`create`], [`update`] and [`status_update`]. They expect an object that was checked by its schema and
//! defaulted, and give every broken rule, none when all is well.
//!
//! Not here: rules that need other objects (admission, see `apiserver`), structure and unknown fields (`check`).

mod meta;

use crate::field::FieldError;
use crate::kinds::Kind;
use serde_json::Value;

/// What is wrong with a new object.
pub fn create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    meta::create(kind, object)
}

/// What is wrong with `new` in the place of `old`.
pub fn update(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = kind;
    meta::update(new, old)
}

/// What is wrong with `new` as the outcome of a write to the status subresource.
pub fn status_update(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = kind;
    meta::update(new, old)
}
