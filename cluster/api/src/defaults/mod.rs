//! What an object means where it says nothing: upstream's defaults.
//!
//! Start at [`apply`]: first the defaults that the schema carries, then those that depend on other fields, written by
//! hand, a file for each family of kinds.
//!
//! Invariants:
//! * applying twice is applying once;
//! * a field that is set, even to its zero value where zero differs from absence, is never changed.
//!
//! Not here: values that come from elsewhere than the object (admission, allocation; see `apiserver`).

mod schema;

use crate::kinds::Kind;
use serde_json::Value;

/// Fills in `object` as upstream's decoder does.
pub fn apply(kind: &Kind, object: &mut Value) {
    schema::apply(&kind.ty, object);
}
