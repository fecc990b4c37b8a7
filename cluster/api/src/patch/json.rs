//! JSON patch (RFC 6902): a list of operations, all of which apply or none.
//!
//! Start at [`json_patch`]. Messages name the operation and the path, as upstream's library words them.

use super::PatchError;
use serde_json::Value;

/// More operations in one patch are refused, so that a small body cannot cost unbounded work.
pub const OPERATIONS_MAX: usize = 10_000;

/// Applies `patch`, a list of operations, to `target`; on an error `target` is as before.
pub fn json_patch(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations = patch.as_array().ok_or_else(|| {
        PatchError::Malformed("error decoding patch: a JSON patch is a list of operations".to_owned())
    })?;
    if operations.len() > OPERATIONS_MAX {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let mut result = target.clone();
    for operation in operations {
        apply(&mut result, operation)?;
    }
    *target = result;
    Ok(())
}

fn apply(target: &mut Value, operation: &Value) -> Result<(), PatchError> {
    let word = |field: &str| operation.get(field).and_then(Value::as_str);
    let name = word("op").ok_or_else(|| malformed("operation without \"op\""))?;
    let path = word("path").ok_or_else(|| malformed(&format!("{name} operation without \"path\"")))?;
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    let from = || word("from").ok_or_else(|| malformed(&format!("{name} operation without \"from\"")));
    match name {
        "add" => add(target, path, value()),
        "remove" => remove(target, path, name).map(drop),
        "replace" => replace(target, path, value()),
        "move" => {
            let from = from()?;
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err(missing("move", path, "a value cannot move into itself"));
            }
            let moved = remove(target, from, name)?;
            add(target, path, moved)
        }
        "copy" => {
            let from = from()?;
            let copied = find(target, from).cloned().ok_or_else(|| missing(name, from, "doc is missing from path"))?;
            add(target, path, copied)
        }
        "test" => match find(target, path).unwrap_or(&Value::Null) == &value() {
            true => Ok(()),
            false => Err(PatchError::DoesNotApply(format!("testing value {path} failed: test failed"))),
        },
        other => Err(malformed(&format!("unexpected kind: {other}"))),
    }
}

fn malformed(cause: &str) -> PatchError {
    PatchError::Malformed(format!("error decoding patch: {cause}"))
}

fn missing(operation: &str, path: &str, cause: &str) -> PatchError {
    PatchError::DoesNotApply(format!("{operation} operation does not apply: {cause}: {path}: missing value"))
}

/// The steps of a JSON pointer.
fn steps(path: &str) -> Vec<String> {
    path.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect()
}

fn find<'a>(target: &'a Value, path: &str) -> Option<&'a Value> {
    steps(path).iter().try_fold(target, |here, step| match here {
        Value::Object(fields) => fields.get(step),
        Value::Array(items) => items.get(index(step, items.len(), "").ok()?),
        _ => None,
    })
}

/// The parent of what `path` names, and the last step.
fn parent<'a>(target: &'a mut Value, path: &str, operation: &str) -> Result<(&'a mut Value, String), PatchError> {
    let mut steps = steps(path);
    let Some(last) = steps.pop().filter(|_| path.starts_with('/')) else {
        return Err(missing(operation, path, "doc is missing path"));
    };
    let mut here = target;
    for step in &steps {
        let next = match here {
            Value::Object(fields) => fields.get_mut(step),
            Value::Array(items) => {
                let at = index(step, items.len(), operation)?;
                items.get_mut(at)
            }
            _ => None,
        };
        here = next.ok_or_else(|| missing(operation, path, "doc is missing path"))?;
    }
    Ok((here, last))
}

/// The place a step names in a list of `count`; negative ones count from the end, as upstream's library allows.
fn index(step: &str, count: usize, operation: &str) -> Result<usize, PatchError> {
    let bad = |cause: &str| {
        PatchError::DoesNotApply(format!(
            "{operation} operation does not apply: unable to access index {step}: {cause}"
        ))
    };
    let at: i64 = step.parse().map_err(|_| bad("not a number"))?;
    let at = if at < 0 { at + count as i64 } else { at };
    usize::try_from(at).ok().filter(|at| *at < count).ok_or_else(|| bad("invalid index referenced"))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = parent(target, path, "add")?;
    match parent {
        Value::Object(fields) => {
            fields.insert(last, value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let at = index(&last, items.len() + 1, "add")?;
            items.insert(at, value);
        }
        _ => return Err(missing("add", path, "doc is missing path")),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str, operation: &str) -> Result<Value, PatchError> {
    let (parent, last) = parent(target, path, operation)?;
    match parent {
        Value::Object(fields) => fields.remove(&last).ok_or_else(|| missing(operation, path, "doc is missing key")),
        Value::Array(items) => {
            let at = index(&last, items.len(), operation)?;
            Ok(items.remove(at))
        }
        _ => Err(missing(operation, path, "doc is missing path")),
    }
}

fn replace(target: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = parent(target, path, "replace")?;
    let place = match parent {
        Value::Object(fields) => fields.get_mut(&last),
        Value::Array(items) => {
            let at = index(&last, items.len(), "replace")?;
            items.get_mut(at)
        }
        _ => None,
    };
    *place.ok_or_else(|| missing("replace", path, "doc is missing key"))? = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(original: &str, patch: &str, want: &str) {
        let mut target: Value = serde_json::from_str(original).expect("a line of this test");
        let patch = serde_json::from_str(patch).expect("a line of this test");
        let outcome = match json_patch(&mut target, &patch) {
            Ok(()) => target.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(outcome, want);
    }

    #[test]
    fn operations_apply() {
        check(r#"{"a":1}"#, r#"[{"op":"add","path":"/b","value":2}]"#, r#"{"a":1,"b":2}"#);
        check(r#"{"a":[1,2]}"#, r#"[{"op":"add","path":"/a/1","value":9}]"#, r#"{"a":[1,9,2]}"#);
        check(r#"{"a":[1,2]}"#, r#"[{"op":"add","path":"/a/-","value":9}]"#, r#"{"a":[1,2,9]}"#);
        check(r#"{"a":[1,2]}"#, r#"[{"op":"remove","path":"/a/0"}]"#, r#"{"a":[2]}"#);
        check(r#"{"a":{"b/c":1,"d~e":2}}"#, r#"[{"op":"remove","path":"/a/b~1c"}]"#, r#"{"a":{"d~e":2}}"#);
        check(r#"{"a":1}"#, r#"[{"op":"move","from":"/a","path":"/b"}]"#, r#"{"b":1}"#);
        check(r#"{"a":{"x":1}}"#, r#"[{"op":"copy","from":"/a","path":"/b"}]"#, r#"{"a":{"x":1},"b":{"x":1}}"#);
        check(
            r#"{"a":1}"#,
            r#"[{"op":"test","path":"/a","value":1},{"op":"replace","path":"/a","value":2}]"#,
            r#"{"a":2}"#,
        );
        check(r#"{}"#, r#"[{"op":"test","path":"/a","value":null}]"#, r#"{}"#);
    }

    #[test]
    fn what_does_not_apply_changes_nothing() {
        check(r#"{"a":1}"#, r#"[{"op":"test","path":"/a","value":2}]"#, "testing value /a failed: test failed");
        check(
            r#"{"a":1}"#,
            r#"[{"op":"remove","path":"/b"}]"#,
            "remove operation does not apply: doc is missing key: /b: missing value",
        );
        check(
            r#"{"a":[1]}"#,
            r#"[{"op":"replace","path":"/a/3","value":1}]"#,
            "replace operation does not apply: unable to access index 3: invalid index referenced",
        );
        check(r#"{}"#, r#"{"op":"add"}"#, "error decoding patch: a JSON patch is a list of operations");
        check(r#"{}"#, r#"[{"op":"jump","path":"/a"}]"#, "error decoding patch: unexpected kind: jump");
        check(
            r#"{}"#,
            r#"[{"op":"add","path":"/a/b","value":1}]"#,
            "add operation does not apply: doc is missing path: /a/b: missing value",
        );
    }
}
