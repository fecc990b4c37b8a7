//! What is known of a stored object without decoding it: its labels, and the fields that can be selected by.
//!
//! Start at [`annotate`], given to the store when it is opened; [`of`] reads the notes of an entry.
//!
//! Invariants:
//! * made once a version, shared by every list and watch;
//! * a value that is no object has empty notes.

use std::sync::Arc;

use api::selector::{FieldSelector, LabelSelector, Labels};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use store::{Annex, Annotate, Entry};

/// The notes of one version of one object.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    labels: Vec<(Box<str>, Box<str>)>,
    fields: Vec<(&'static str, Box<str>)>,
}

/// The fields that can be selected by, of each resource that has any beyond `metadata.name` and `metadata.namespace`.
const SELECTABLE: &[(&str, &[&str])] = &[
    (
        "pods",
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
    ),
    (
        "events",
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
    ),
    ("nodes", &["spec.unschedulable"]),
    ("namespaces", &["status.phase"]),
    ("secrets", &["type"]),
    ("services", &["spec.clusterIP", "spec.type"]),
    ("replicationcontrollers", &["status.replicas"]),
    ("replicasets.apps", &["status.replicas"]),
    ("jobs.batch", &["status.successful"]),
    ("certificatesigningrequests.certificates.k8s.io", &["spec.signerName"]),
];

/// The fields of a resource that can be selected by, beyond name and namespace.
pub(crate) fn selectable(key_prefix: &str) -> &'static [&'static str] {
    SELECTABLE.iter().find(|(prefix, _)| *prefix == key_prefix).map_or(&[], |(_, fields)| fields)
}

/// What the store must remember beside each value.
pub fn annotate() -> Annotate {
    Arc::new(|key: &str, value: &Bytes| Arc::new(Notes::make(key, value)) as Annex)
}

/// The notes of an entry.
pub(crate) fn of(entry: &Entry) -> &Notes {
    entry.annex.downcast_ref::<Notes>().expect("the store was opened with annotate()")
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    metadata: HeadMetadata,
}

#[derive(Deserialize, Default)]
struct HeadMetadata {
    #[serde(default)]
    labels: LabelList,
}

#[derive(Default)]
struct LabelList(Vec<(Box<str>, Box<str>)>);

impl<'de> Deserialize<'de> for LabelList {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<LabelList, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = LabelList;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a map of labels")
            }
            fn visit_unit<E>(self) -> Result<LabelList, E> {
                Ok(LabelList::default())
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<LabelList, A::Error> {
                let mut labels = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    labels.push(pair);
                }
                Ok(LabelList(labels))
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

impl Notes {
    fn make(key: &str, value: &Bytes) -> Notes {
        let resource = key.split('/').next().unwrap_or_default();
        let fields = selectable(resource);
        if fields.is_empty() {
            let head: Option<Head> = serde_json::from_slice(value).ok();
            return Notes { labels: head.map(|head| head.metadata.labels.0).unwrap_or_default(), fields: Vec::new() };
        }
        let object: Value = serde_json::from_slice(value).unwrap_or_default();
        let labels = api::meta::labels(&object).iter();
        let labels = labels.filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into()))).collect();
        Notes { labels, fields: fields.iter().map(|field| (*field, field_text(&object, field))).collect() }
    }

    /// Whether both selectors select the object of that key.
    pub(crate) fn selected(&self, key: &str, labels: &LabelSelector, fields: &FieldSelector) -> bool {
        (labels.is_everything() || labels.matches(self))
            && (fields.is_everything() || fields.matches_with(|field| self.field(key, field).into()))
    }

    fn field<'a>(&'a self, key: &'a str, field: &str) -> &'a str {
        let mut steps = key.rsplit('/');
        match field {
            "metadata.name" => steps.next().unwrap_or_default(),
            "metadata.namespace" => {
                let namespace = steps.nth(1).unwrap_or_default();
                // A key of two steps has no namespace, only a resource.
                if steps.next().is_some() { namespace } else { "" }
            }
            field => self.fields.iter().find(|(its, _)| *its == field).map_or("", |(_, value)| value),
        }
    }
}

impl Labels for Notes {
    fn value(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(its, _)| **its == *key).map(|(_, value)| value.as_ref())
    }
}

/// A field as selectors compare it. Zero values read as upstream's conversion functions print them.
fn field_text(object: &Value, field: &str) -> Box<str> {
    match (field, api::dig::get(object, field)) {
        ("source", source) => match source["component"].as_str().unwrap_or_default() {
            "" => api::dig::text(object, "reportingComponent").into(),
            component => component.into(),
        },
        ("status.successful", _) => api::dig::int(object, "status.succeeded").unwrap_or(0).to_string().into(),
        ("status.podIPs", ips) => {
            let ips = ips.as_array().map_or(&[][..], Vec::as_slice);
            ips.iter().filter_map(|ip| ip["ip"].as_str()).collect::<Vec<_>>().join(",").into()
        }
        (_, Value::String(text)) => text.as_str().into(),
        ("spec.unschedulable" | "spec.hostNetwork", Value::Null) => "false".into(),
        ("status.replicas", Value::Null) => "0".into(),
        (_, Value::Null) => "".into(),
        (_, other) => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, object: &str, labels: &str, fields: &str, selected: bool) {
        let notes = Notes::make(key, &Bytes::from(object.to_owned()));
        let labels = LabelSelector::parse(labels).expect("a selector");
        let fields = FieldSelector::parse(fields).expect("a selector");
        assert_eq!(notes.selected(key, &labels, &fields), selected);
    }

    const POD: &str = r#"{"metadata":{"labels":{"app":"web"}},"spec":{"nodeName":"one"},"status":{"phase":"Running"}}"#;

    #[test]
    fn selects_by_label_and_field() {
        check("pods/default/a", POD, "app=web", "spec.nodeName=one", true);
        check("pods/default/a", POD, "app=db", "", false);
        check("pods/default/a", POD, "", "status.phase!=Running", false);
        check("pods/default/a", POD, "", "metadata.name=a,metadata.namespace=default", true);
        check("nodes/one", "{}", "", "metadata.namespace=nodes", false);
        check("nodes/one", "{}", "", "spec.unschedulable=false,metadata.name=one", true);
    }

    #[test]
    fn what_is_no_object_has_no_labels() {
        check("configmaps/a/b", "7", "app=web", "", false);
        check("configmaps/a/b", r#"{"metadata":{"labels":null}}"#, "!app", "", true);
    }
}
