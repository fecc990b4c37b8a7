//! Small words that many cells share.

use crate::dig;
use crate::duration;
use crate::meta;
use crate::selector::LabelSelector;
use base::Timestamp;
use serde_json::{Value, json};

/// How long ago the RFC 3339 time at `path` was.
pub(crate) fn since(object: &Value, path: &str, now: Timestamp) -> String {
    match dig::text(object, path).parse::<Timestamp>() {
        Ok(then) => ago(then, now),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// How long ago `then` was; a moment that has not come is told by [`duration::human`].
pub(super) fn ago(then: Timestamp, now: Timestamp) -> String {
    duration::human(((now.0 - then.0) / 1_000_000_000) as i64)
}

/// How old the object is.
pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    json!(since(object, "metadata.creationTimestamp", now))
}

pub(super) fn name(object: &Value) -> Value {
    json!(meta::name(object))
}

/// The text there, or `otherwise`.
pub(super) fn text_or(object: &Value, path: &str, otherwise: &str) -> Value {
    match dig::text(object, path) {
        "" => json!(otherwise),
        text => json!(text),
    }
}

/// The text there.
pub(super) fn text(object: &Value, path: &str) -> Value {
    json!(dig::text(object, path))
}

/// The number there, or 0.
pub(super) fn count(object: &Value, path: &str) -> Value {
    json!(dig::int(object, path).unwrap_or(0))
}

/// A number or text as text, or `otherwise`.
pub(super) fn either_or(object: &Value, path: &str, otherwise: &str) -> Value {
    match dig::get(object, path) {
        Value::Null => json!(otherwise),
        Value::String(text) => json!(text),
        other => json!(other.to_string()),
    }
}

/// Whether a condition has a status; the missing one has none.
pub(super) fn condition<'a>(object: &'a Value, ty: &str) -> Option<&'a str> {
    let conditions = dig::list(object, "status.conditions");
    conditions.iter().find(|condition| dig::text(condition, "type") == ty).map(|found| dig::text(found, "status"))
}

/// A `metav1.LabelSelector` as text.
pub(super) fn selector(object: &Value, path: &str) -> Value {
    let text = match dig::get(object, path) {
        Value::Null => String::new(),
        selector => LabelSelector::from_object(selector).map_or_else(|_| "<error>".to_owned(), |it| it.to_string()),
    };
    json!(or_none(text))
}

/// A map of labels as text.
pub(super) fn labels(object: &Value, path: &str) -> Value {
    json!(or_none(LabelSelector::from_map(dig::map(object, path)).to_string()))
}

pub(super) fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// The names and the images of a pod template's containers.
pub(super) fn containers(object: &Value, template: &str) -> [Value; 2] {
    let containers = dig::list(dig::get(object, template), "spec.containers");
    ["name", "image"].map(|field| {
        let parts: Vec<&str> = containers.iter().map(|container| dig::text(container, field)).collect();
        json!(parts.join(","))
    })
}

/// The first `shown` of `items`, and how many more there are.
pub(super) fn some_of(items: &[String], shown: usize, separator: &str) -> String {
    let text = items[..items.len().min(shown)].join(separator);
    match items.len().saturating_sub(shown) {
        0 => text,
        more => format!("{text} + {more} more..."),
    }
}
