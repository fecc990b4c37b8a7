//! Which objects a list, a watch or a deletion is about.
//!
//! Start at [`Selection::of`].
//!
//! Invariant: a selection is decided from an entry's key and notes; no object is decoded for it.

use api::kinds::Kind;
use api::selector::{FieldSelector, LabelSelector};
use store::Entry;

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
        let prefix = match (kind.namespaced, namespace) {
            (true, "") | (false, _) => format!("{}/", kind.key_prefix()),
            (true, namespace) => format!("{}/{namespace}/", kind.key_prefix()),
        };
        let wanted = if name.is_empty() { fields.required("metadata.name").unwrap_or_default() } else { name };
        let exact = match (wanted, kind.namespaced && namespace.is_empty()) {
            ("", _) | (_, true) => None,
            (name, false) => Some(kind.key(namespace, name)),
        };
        Ok(Selection { prefix, exact, labels, fields })
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
        (self.labels.is_everything() && self.fields.is_everything())
            || notes::of(entry).selected(&entry.key, &self.labels, &self.fields)
    }
}

fn check_fields(kind: &Kind, fields: &FieldSelector) -> Result<(), Failure> {
    let known = notes::selectable(&kind.key_prefix());
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
