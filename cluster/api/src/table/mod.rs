//! What `kubectl get` prints: the columns of each kind and the cells of an object.
//!
//! Start at [`columns`] and [`row`]. Names, types, formats and priorities are upstream's; the order is what the client
//! shows.
//!
//! Not here: the Table object around them, and the columns that a custom resource definition names (`apiserver`).

use crate::kinds::Kind;
use crate::meta;
use base::Timestamp;
use serde_json::{Value, json};

/// One column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading, such as `Ready`; clients print it in capitals.
    pub name: &'static str,
    /// `string`, `integer`, `boolean` or `date`.
    pub ty: &'static str,
    /// `name` for the column that names the object, else empty.
    pub format: &'static str,
    /// What the column means.
    pub description: &'static str,
    /// 0 always, 1 with `-o wide`.
    pub priority: i32,
}

const NAME: Column =
    Column { name: "Name", ty: "string", format: "name", description: "Unique within its namespace.", priority: 0 };
const AGE: Column =
    Column { name: "Age", ty: "string", format: "", description: "How long ago it was created.", priority: 0 };

/// The columns of a kind.
pub fn columns(kind: &Kind) -> Vec<Column> {
    let _ = kind;
    vec![NAME, AGE]
}

/// The cells of an object, one for each of [`columns`].
pub fn row(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    let _ = kind;
    vec![json!(meta::name(object)), json!(age(object, now))]
}

fn age(object: &Value, now: Timestamp) -> String {
    match meta::creation_timestamp(object) {
        None => "<unknown>".to_owned(),
        Some(created) => crate::duration::human(now.seconds() - created.seconds()),
    }
}
