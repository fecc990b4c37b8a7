//! Which objects a list, a watch or a deletion is about.
//!
//! Start at [`Selection::of`].
//!
//! Invariant: a selection is decided from an entry's key and notes; no object is decoded for it, but where a definition
//! has selectable fields of its own and they are asked for.

use api::dig;
use api::kinds::Kind;
use api::selector::{FieldSelector, LabelSelector};
use serde_json::Value;
use store::Entry;

use crate::server::decoded;
use crate::{Failure, notes};

/// Which objects.
#[derive(Clone)]
pub(crate) struct Selection {
    /// Keys begin so.
    pub prefix: String,
    /// Only this key.
    pub exact: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
    /// Fields that a definition lets its objects be selected by are asked for; only the objects themselves know them.
    reads_objects: bool,
}

impl Selection {
    /// The objects of a kind, in a namespace (or all), of one name (or all), that the selectors select.
    pub(crate) fn of(
        kind: &Kind,
        namespace: &str,
        name: &str,
        labels: &str,
        fields: &str,
    ) -> Result<Selection, Failure> {
        let labels = LabelSelector::parse(labels).map_err(|error| Failure::bad_request(error.0))?;
        let fields = FieldSelector::parse(fields).map_err(|error| Failure::bad_request(error.0))?;
        check_fields(kind, &fields)?;
        let is_own = |field: &str| !matches!(field, "metadata.name" | "metadata.namespace");
        let reads_objects = kind.own.is_some() && fields.terms().iter().any(|term| is_own(&term.field));
        let prefix = match (kind.namespaced, namespace) {
            (true, "") | (false, _) => format!("{}/", kind.key_prefix()),
            (true, namespace) => format!("{}/{namespace}/", kind.key_prefix()),
        };
        let wanted = if name.is_empty() { fields.required("metadata.name").unwrap_or_default() } else { name };
        let exact = match (wanted, kind.namespaced && namespace.is_empty()) {
            ("", _) | (_, true) => None,
            (name, false) => Some(kind.key(namespace, name)),
        };
        Ok(Selection { prefix, exact, labels, fields, reads_objects })
    }

    /// Every object of the prefix is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.exact.is_none() && self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether this version of an object is selected.
    pub(crate) fn selects(&self, entry: &Entry) -> bool {
        if let Some(exact) = &self.exact
            && **exact != *entry.key
        {
            return false;
        }
        if self.reads_objects {
            return self.selects_object(entry);
        }
        (self.labels.is_everything() && self.fields.is_everything())
            || notes::of(entry).selected(&entry.key, &self.labels, &self.fields)
    }

    fn selects_object(&self, entry: &Entry) -> bool {
        let object = decoded(entry);
        let text = |field: &str| match dig::get(&object, field) {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        self.labels.matches(api::meta::labels(&object)) && self.fields.matches_with(|field| text(field).into())
    }
}

fn check_fields(kind: &Kind, fields: &FieldSelector) -> Result<(), Failure> {
    let own: Vec<&str> = kind.own.iter().flat_map(|own| &own.selectable).map(String::as_str).collect();
    let known = if kind.own.is_some() { &own[..] } else { notes::selectable(&kind.key_prefix()) };
    let unknown = fields.terms().iter().map(|term| term.field.as_str()).find(|field| {
        !known.contains(field) && *field != "metadata.name" && !(*field == "metadata.namespace" && kind.namespaced)
    });
    match unknown {
        None => Ok(()),
        // The client says itself which kind and selectors it asked for.
        Some(field) => Err(Failure::bad_request(match known {
            [] => format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
            _ => format!("field label not supported: {field}"),
        })),
    }
}
