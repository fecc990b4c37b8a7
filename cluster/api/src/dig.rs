//! Short ways into a JSON tree whose shape the schema has already checked.
//!
//! Start at [`get`]: a dotted path, and the empty answer of the wanted type where nothing is. A missing field, `null`
//! and the zero value read alike, as they do in Go's types.
//!
//! Invariant: nothing here fails; whoever must tell absence from emptiness asks [`has`].

use serde_json::{Map, Value};
use std::sync::LazyLock;

static NULL: Value = Value::Null;
static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// The value at a dotted path, or `null`.
pub fn get<'a>(value: &'a Value, path: &str) -> &'a Value {
    let mut here = value;
    for step in path.split('.') {
        match here.get(step) {
            Some(next) => here = next,
            None => return &NULL,
        }
    }
    here
}

/// Whether something other than `null` is there.
pub fn has(value: &Value, path: &str) -> bool {
    !get(value, path).is_null()
}

/// The text there, or the empty text.
pub fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    get(value, path).as_str().unwrap_or("")
}

/// The whole number there.
pub fn int(value: &Value, path: &str) -> Option<i64> {
    get(value, path).as_i64()
}

/// Whether `true` is there.
pub fn flag(value: &Value, path: &str) -> bool {
    get(value, path).as_bool().unwrap_or(false)
}

/// The list there, or the empty list.
pub fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    get(value, path).as_array().map_or(&[], Vec::as_slice)
}

/// The map there, or the empty map.
pub fn map<'a>(value: &'a Value, path: &str) -> &'a Map<String, Value> {
    get(value, path).as_object().unwrap_or(&EMPTY)
}

/// The texts of the list there.
pub fn texts<'a>(value: &'a Value, path: &str) -> Vec<&'a str> {
    list(value, path).iter().filter_map(Value::as_str).collect()
}

/// Whether this is what Go's `omitempty` would drop: null, false, 0, "", [] or {}.
pub fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Whether two values mean the same once empty fields are dropped, as upstream's semantic equality has it: null and the
/// empty list or map are one; zero numbers, `false` and empty text equal absence.
pub fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.iter().all(|(key, value)| same(value, other.get(key).unwrap_or(&NULL)))
                && other.iter().all(|(key, value)| one.contains_key(key) || is_empty_tree(value))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Null, other) | (other, Value::Null) => is_empty_tree(other),
        (one, other) => one == other,
    }
}

fn is_empty_tree(value: &Value) -> bool {
    matches!(value, Value::Null)
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(|fields| fields.values().all(is_empty_tree))
        || value.as_str().is_some_and(str::is_empty)
}

/// The map at `path`, made where it is missing or null. `value` must be a map.
pub fn map_mut<'a>(value: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    let mut here = value;
    for step in path.split('.') {
        here = make_map(here).entry(step).or_insert(Value::Null);
    }
    make_map(here)
}

fn make_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(fields) => fields,
        _ => unreachable!("made a map on the line above"),
    }
}

/// The value at `path`, only if it is there and not null.
pub fn get_mut<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut here = value;
    for step in path.split('.') {
        here = here.get_mut(step)?;
    }
    (!here.is_null()).then_some(here)
}

/// The items of the list at `path`, to change them; none where no list is.
pub fn items_mut<'a>(value: &'a mut Value, path: &str) -> &'a mut [Value] {
    match get_mut(value, path) {
        Some(Value::Array(items)) => items.as_mut_slice(),
        _ => &mut [],
    }
}

/// Removes the field at `path`, if there.
pub fn remove(value: &mut Value, path: &str) -> Option<Value> {
    match path.rsplit_once('.') {
        None => value.as_object_mut()?.remove(path),
        Some((parent, last)) => get_mut(value, parent)?.as_object_mut()?.remove(last),
    }
}

/// Puts `new` at `path`, making the maps on the way; `null` removes.
pub fn put(value: &mut Value, path: &str, new: Value) {
    if new.is_null() {
        remove(value, path);
        return;
    }
    match path.rsplit_once('.') {
        None => make_map(value).insert(path.to_owned(), new),
        Some((parent, last)) => map_mut(value, parent).insert(last.to_owned(), new),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absence_and_emptiness_are_the_same() {
        for (one, other, want) in [
            (json!({"a": []}), json!({}), true),
            (json!({"a": {"b": null}}), json!({}), true),
            (json!({"a": 1}), json!({}), false),
            (json!({"a": false}), json!({}), false),
            (json!([1, 2]), json!([2, 1]), false),
            (json!({"a": [{"b": ""}]}), json!({"a": [{}]}), true),
        ] {
            assert_eq!(same(&one, &other), want, "{one} {other}");
            assert_eq!(same(&other, &one), want, "{other} {one}");
        }
    }

    #[test]
    fn a_path_is_made_and_removed() {
        let mut value = json!({"spec": null});
        put(&mut value, "spec.a.b", json!(1));
        assert_eq!(value, json!({"spec": {"a": {"b": 1}}}));
        put(&mut value, "spec.a.b", Value::Null);
        assert_eq!(value, json!({"spec": {"a": {}}}));
        assert_eq!(remove(&mut value, "none.at.all"), None);
    }
}
