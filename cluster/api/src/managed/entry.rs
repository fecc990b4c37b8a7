//! One entry of `metadata.managedFields`: a manager and its fields.
//!
//! Start at [`read`] and [`written`].

use std::cmp::Ordering;

use serde_json::{Map, Value};

use crate::dig;
use crate::fieldset::Set;

/// How a manager came by its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By any other write.
    Update,
}

impl Operation {
    fn read(word: &str) -> Option<Operation> {
        match word {
            "Apply" => Some(Operation::Apply),
            "Update" => Some(Operation::Update),
            _ => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// A manager and its fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Who manages the fields.
    pub manager: String,
    /// How they came by them.
    pub operation: Operation,
    /// The version in which the fields are named.
    pub api_version: String,
    /// Through what they wrote; empty for the object itself.
    pub subresource: String,
    /// When they last wrote.
    pub time: Option<String>,
    /// What they manage.
    pub fields: Set,
}

/// What tells entries apart.
pub(super) type Identity<'a> = (&'a str, Operation, &'a str, &'a str);

impl Entry {
    /// Whoever applies is one manager in all versions.
    pub(super) fn identity(&self) -> Identity<'_> {
        let version = if self.operation == Operation::Apply { "" } else { self.api_version.as_str() };
        (&self.manager, self.operation, version, &self.subresource)
    }

    /// The entry is that manager's.
    pub(super) fn is_of(&self, manager: &str, operation: Operation, version: &str, sub: Option<&str>) -> bool {
        let manager = if manager.is_empty() { "unknown" } else { manager };
        let version = if operation == Operation::Apply { "" } else { version };
        self.identity() == (manager, operation, version, sub.unwrap_or_default())
    }

    /// The manager as conflicts name it: `"kubectl" using apps/v1`.
    pub(super) fn words(&self) -> String {
        let mut words = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            words.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            words.push_str(&format!(" using {}", self.api_version));
        }
        words
    }

    fn order(&self, other: &Entry) -> Ordering {
        let key = |entry: &'_ Entry| (entry.operation, entry.time.clone().unwrap_or_default());
        key(self).cmp(&key(other)).then_with(|| {
            let key = |entry: &'_ Entry| [entry.manager.clone(), entry.api_version.clone(), entry.subresource.clone()];
            key(self).cmp(&key(other))
        })
    }
}

/// The entries of an object; `trusted` if this program wrote them itself. `None` if one of them is no entry.
pub(super) fn read(entries: Value, trusted: bool) -> Option<Vec<Entry>> {
    let Value::Array(entries) = entries else { return Some(Vec::new()) };
    let mut read: Vec<Entry> = Vec::with_capacity(entries.len());
    for entry in entries {
        let entry = read_one(entry, trusted)?;
        match read.iter_mut().find(|other| other.identity() == entry.identity()) {
            Some(other) => *other = entry,
            None => read.push(entry),
        }
    }
    Some(read)
}

fn read_one(mut entry: Value, trusted: bool) -> Option<Entry> {
    let fields = entry.get_mut("fieldsV1").map(Value::take).unwrap_or_default();
    let text = |name: &str| dig::text(&entry, name).to_owned();
    if text("apiVersion").is_empty() || text("fieldsType") != "FieldsV1" {
        return None;
    }
    Some(Entry {
        manager: text("manager"),
        operation: Operation::read(&text("operation"))?,
        api_version: text("apiVersion"),
        subresource: text("subresource"),
        time: Some(text("time")).filter(|time| !time.is_empty()),
        fields: if trusted { Set::trusted(fields) } else { Set::read(fields)? },
    })
}

/// The entries as an object keeps them, or null if there are none.
pub(super) fn written(mut entries: Vec<Entry>) -> Value {
    entries.sort_by(Entry::order);
    let entries: Vec<Value> = entries.into_iter().map(written_one).collect();
    if entries.is_empty() { Value::Null } else { Value::Array(entries) }
}

fn written_one(entry: Entry) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("apiVersion", entry.api_version.into());
    put("fieldsType", "FieldsV1".into());
    put("fieldsV1", entry.fields.into_json());
    put("manager", entry.manager.into());
    put("operation", entry.operation.word().into());
    if !entry.subresource.is_empty() {
        put("subresource", entry.subresource.into());
    }
    if let Some(time) = entry.time {
        put("time", time.into());
    }
    Value::Object(fields)
}
