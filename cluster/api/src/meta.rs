//! The metadata every object has: reading it from a JSON tree, and making names.
//!
//! Start at [`name`] and its neighbours; they answer with the empty value where nothing is.
//!
//! Not here: the rules metadata must obey (`validation::meta`), filling it in on create (`strategy`).

use crate::dig;
use base::{Rng, Timestamp};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub use crate::names::{
    NameRule, dns1035_label, dns1123_label, dns1123_subdomain, label_value, path_segment, qualified_name,
};

/// Random letters behind a `generateName`.
pub const SUFFIX_LETTERS: usize = 5;
/// What of a `generateName` is kept, so that the name stays a DNS label.
pub const PREFIX_LETTERS_MAX: usize = 63 - SUFFIX_LETTERS;

/// `metadata.name`
pub fn name(object: &Value) -> &str {
    dig::text(object, "metadata.name")
}
/// `metadata.generateName`
pub fn generate_name(object: &Value) -> &str {
    dig::text(object, "metadata.generateName")
}
/// `metadata.namespace`
pub fn namespace(object: &Value) -> &str {
    dig::text(object, "metadata.namespace")
}
/// `metadata.uid`
pub fn uid(object: &Value) -> &str {
    dig::text(object, "metadata.uid")
}
/// `metadata.resourceVersion`
pub fn resource_version(object: &Value) -> &str {
    dig::text(object, "metadata.resourceVersion")
}
/// `metadata.generation`, 0 where there is none
pub fn generation(object: &Value) -> i64 {
    dig::int(object, "metadata.generation").unwrap_or(0)
}
/// `metadata.creationTimestamp`
pub fn creation_timestamp(object: &Value) -> Option<Timestamp> {
    dig::text(object, "metadata.creationTimestamp").parse().ok()
}
/// `metadata.deletionTimestamp`
pub fn deletion_timestamp(object: &Value) -> Option<Timestamp> {
    dig::text(object, "metadata.deletionTimestamp").parse().ok()
}
/// Whether deletion was asked for and something holds it up.
pub fn is_terminating(object: &Value) -> bool {
    dig::has(object, "metadata.deletionTimestamp")
}
/// `metadata.labels`
pub fn labels(object: &Value) -> &Map<String, Value> {
    dig::map(object, "metadata.labels")
}
/// One label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object).get(key).and_then(Value::as_str)
}
/// `metadata.annotations`
pub fn annotations(object: &Value) -> &Map<String, Value> {
    dig::map(object, "metadata.annotations")
}
/// One annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object).get(key).and_then(Value::as_str)
}
/// `metadata.finalizers`
pub fn finalizers(object: &Value) -> Vec<&str> {
    dig::texts(object, "metadata.finalizers")
}
/// `metadata.ownerReferences`
pub fn owner_references(object: &Value) -> Vec<OwnerReference<'_>> {
    dig::list(object, "metadata.ownerReferences").iter().map(OwnerReference::of).collect()
}
/// The one owner that manages the object.
pub fn controller(object: &Value) -> Option<OwnerReference<'_>> {
    owner_references(object).into_iter().find(|owner| owner.controller)
}
/// `metadata`, to change it; made where missing.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    dig::map_mut(object, "metadata")
}
/// The metadata map as texts, for matching.
pub fn text_map(map: &Map<String, Value>) -> BTreeMap<String, String> {
    map.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerReference<'a> {
    /// `group/version`, or `version` alone.
    pub api_version: &'a str,
    /// The owner's kind.
    pub kind: &'a str,
    /// The owner's name.
    pub name: &'a str,
    /// The owner's identity.
    pub uid: &'a str,
    /// Whether it manages the object.
    pub controller: bool,
    /// Whether it waits for the object's end in foreground deletion.
    pub block_owner_deletion: bool,
}

impl<'a> OwnerReference<'a> {
    fn of(value: &'a Value) -> OwnerReference<'a> {
        OwnerReference {
            api_version: dig::text(value, "apiVersion"),
            kind: dig::text(value, "kind"),
            name: dig::text(value, "name"),
            uid: dig::text(value, "uid"),
            controller: dig::flag(value, "controller"),
            block_owner_deletion: dig::flag(value, "blockOwnerDeletion"),
        }
    }
}

/// `group/version` taken apart; the core group is the empty text.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// A fresh name: `prefix`, cut to [`PREFIX_LETTERS_MAX`], and [`SUFFIX_LETTERS`] random letters.
pub fn generated_name(prefix: &str, rng: &mut Rng) -> String {
    let mut end = prefix.len().min(PREFIX_LETTERS_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &prefix[..end], rng.suffix(SUFFIX_LETTERS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_is_there_and_survives_what_is_not() {
        let object = json!({"metadata": {"name": "a", "labels": {"k": "v"}, "finalizers": ["f"], "deletionTimestamp": null,
            "creationTimestamp": "1970-01-01T00:00:09Z",
            "ownerReferences": [{"kind": "Job", "uid": "1"}, {"kind": "Pod", "uid": "2", "controller": true}]}});
        assert_eq!((name(&object), namespace(&object), label(&object, "k")), ("a", "", Some("v")));
        assert_eq!(controller(&object).map(|owner| owner.uid), Some("2"));
        assert_eq!(creation_timestamp(&object), Some(Timestamp::from_seconds(9)));
        assert!(!is_terminating(&object) && finalizers(&object) == ["f"]);
        assert_eq!((name(&Value::Null), labels(&json!([])).len()), ("", 0));
    }

    #[test]
    fn generated_names_stay_labels() {
        let mut rng = Rng::new(1);
        assert_eq!(generated_name(&"x".repeat(80), &mut rng).len(), 63);
        assert!(generated_name("web-", &mut rng).starts_with("web-"));
    }
}
