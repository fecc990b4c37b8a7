//! The columns that a definition asks `kubectl get` to print, and the cells of an object.
//!
//! Start at [`cells`].
//!
//! Invariant: an object has one cell a column; what the object does not have, or has in another type, is `null`.

use base::Timestamp;
use serde_json::{Value, json};

use super::Path;
use crate::dig;
use crate::table::{Column, since};

/// A column and where its values are.
#[derive(Clone, Debug)]
pub struct Printed {
    name: String,
    ty: String,
    format: String,
    description: String,
    priority: i32,
    path: Path,
}

impl Printed {
    /// The column.
    pub fn column(&self) -> Column<'_> {
        let Printed { name, ty, format, description, priority, .. } = self;
        Column { name, ty, format, description, priority: *priority }
    }
}

/// The definition's columns of one version, behind the name. A definition that names none has the age.
pub(super) fn columns(version: &Value) -> Vec<Printed> {
    let given = dig::list(version, "additionalPrinterColumns");
    if given.is_empty() {
        let age = json!({
            "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": "CreationTimestamp is a timestamp representing the server time when this object was created. \
                It is not guaranteed to be set in happens-before order across separate operations. Clients may not set \
                this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null \
                for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
        });
        return vec![column(&age)];
    }
    given.iter().map(column).collect()
}

fn column(given: &Value) -> Printed {
    let text = |field: &str| dig::text(given, field).to_owned();
    let path = text("jsonPath");
    let described = text("description");
    let description = match described.is_empty() {
        true => format!("Custom resource definition column (in JSONPath format): {path}"),
        false => described,
    };
    let priority = dig::int(given, "priority").unwrap_or(0) as i32;
    // A path that cannot be read leads nowhere: validation refuses such definitions.
    let at = Path::parse(&path).unwrap_or_default();
    Printed { name: text("name"), ty: text("type"), format: text("format"), description, priority, path: at }
}

/// The cells of an object behind its name.
pub fn cells(columns: &[Printed], object: &Value, now: Timestamp) -> Vec<Value> {
    columns.iter().map(|one| one.path.first(object).map_or(Value::Null, |value| cell(&one.ty, value, now))).collect()
}

fn cell(ty: &str, value: &Value, now: Timestamp) -> Value {
    match (ty, value) {
        (_, Value::Null) => Value::Null,
        ("string", Value::String(_)) => value.clone(),
        ("string", other) => Value::String(other.to_string()),
        ("integer", Value::Number(number)) => {
            number.as_i64().or_else(|| number.as_f64().map(|number| number as i64)).map_or(Value::Null, Value::from)
        }
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<jiff::Timestamp>() {
            Ok(_) => since(&json!({"at": text}), "at", now).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ty: &str, value: Value, want: Value) {
        let version = json!({"additionalPrinterColumns": [{"name": "C", "type": ty, "jsonPath": ".spec.value"}]});
        let object = json!({"spec": {"value": value}});
        assert_eq!(cells(&columns(&version), &object, Timestamp::from_seconds(1000)), [want]);
    }

    #[test]
    fn cells_have_the_columns_type() {
        check("string", json!("a"), json!("a"));
        check("string", json!([1, "b"]), json!("[1,\"b\"]"));
        check("integer", json!(3), json!(3));
        check("integer", json!(3.9), json!(3));
        check("integer", json!("3"), Value::Null);
        check("boolean", json!(true), json!(true));
        check("date", json!("1970-01-01T00:15:00Z"), json!("100s"));
        check("date", json!("yesterday"), json!("<invalid>"));
        check("string", Value::Null, Value::Null);
    }

    #[test]
    fn a_definition_without_columns_shows_the_age() {
        let shown = columns(&json!({}));
        assert_eq!(shown[0].column().name, "Age");
        let object = json!({"metadata": {"creationTimestamp": "1970-01-01T00:15:00Z"}});
        assert_eq!(cells(&shown, &object, Timestamp::from_seconds(1000)), ["100s"]);
    }
}
