//! The annotation in which `kubectl apply` keeps what it applied last, for as long as both ways of applying are in use.
//!
//! Start at [`owned`] and [`renew`].

use serde_json::Value;

use crate::dig;
use crate::fieldset::{Set, compare, fields};
use crate::kinds::Kind;
use crate::meta;

/// The manager for which the annotation counts.
pub(super) const MANAGER: &str = "kubectl";

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The fields that were applied by the client and still are as they were applied.
pub(super) fn owned(kind: &Kind, live: &Value) -> Option<Set> {
    let text = meta::annotation(live, ANNOTATION).filter(|text| !text.is_empty())?;
    let last: Value = serde_json::from_str(text).ok()?;
    if dig::text(&last, "apiVersion") != kind.api_version() {
        return None;
    }
    let (written, removed) = compare(&kind.ty, &last, live).into_written();
    let mut owned = fields(&kind.ty, &last);
    owned.subtract(&written);
    owned.subtract(&removed);
    Some(owned)
}

/// Brings the annotation up to date, if the object has it.
pub(super) fn renew(object: &mut Value, configuration: &Value) {
    if meta::annotation(object, ANNOTATION).is_none_or(str::is_empty) {
        return;
    }
    let mut applied = configuration.clone();
    if let Some(Value::Object(annotations)) = dig::get_mut(&mut applied, "metadata.annotations") {
        annotations.remove(ANNOTATION);
    }
    let text = format!("{applied}\n");
    dig::map_mut(object, "metadata.annotations").insert(ANNOTATION.to_owned(), text.into());
}
