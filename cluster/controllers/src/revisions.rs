//! The history of a pod template, in ControllerRevisions, for DaemonSets and StatefulSets.
//!
//! Start at [`History::of`].
//!
//! Invariants:
//! * a template has one revision; when it comes back (`kubectl rollout undo`) that revision becomes the newest again;
//! * a revision is never deleted while a pod of it is alive.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::{DeleteOptions, Kind, Labels};
use control::{View, Write};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::pods::{controller_reference, hash, prune};

/// The label of a pod that names its revision.
pub const REVISION_LABEL: &str = "controller-revision-hash";

/// What is known of a template's history.
pub struct History {
    /// The name of the present template's revision.
    pub name: String,
    /// Its hash: the end of the name.
    pub hash: String,
    /// Makes it, or makes it the newest.
    pub write: Option<Write>,
    /// All there are, oldest first.
    pub known: Vec<Arc<ControllerRevision>>,
}

impl History {
    /// Looks the present template up. `labels` are the template's: kubectl finds revisions by the owner's selector.
    pub fn of<O: Kind>(
        view: &View<'_>,
        owner: &O,
        template: &PodTemplateSpec,
        labels: Labels,
        collisions: i32,
    ) -> History {
        let mut known = view.owned::<ControllerRevision>(owner.uid());
        known.retain(|revision| !revision.deleting());
        known.sort_by_key(|revision| (revision.revision, revision.name().to_owned()));
        let data = data(template);
        let newest = known.last().map_or(0, |revision| revision.revision);
        if let Some(found) = known.iter().rev().find(|revision| same(revision, &data)).cloned() {
            let write = (found.revision < newest)
                .then(|| Write::update(&ControllerRevision { revision: newest + 1, ..(*found).clone() }));
            let name = found.name().to_owned();
            let hash = name.strip_prefix(&format!("{}-", owner.name())).unwrap_or(&name).to_owned();
            return History { hash, name, write, known };
        }
        let hash = hash(&data.to_string(), collisions);
        let name = format!("{}-{hash}", owner.name());
        let mut labels = labels;
        labels.insert(REVISION_LABEL.to_owned(), hash.clone());
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: owner.metadata().namespace.clone(),
                labels: Some(labels),
                annotations: owner.metadata().annotations.clone(),
                owner_references: Some(vec![controller_reference(owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data)),
            revision: newest + 1,
        };
        History { hash, name, write: Some(Write::create(&revision)), known }
    }

    /// The template of a known revision.
    pub fn template(&self, name: &str) -> Option<PodTemplateSpec> {
        let revision = self.known.iter().find(|revision| revision.name() == name)?;
        let mut template = revision.data.as_ref()?.0["spec"]["template"].clone();
        template.as_object_mut()?.remove("$patch");
        serde_json::from_value(template).ok()
    }

    /// Deletes the oldest revisions nobody uses beyond the limit.
    pub fn forget(&self, limit: i32, used: &BTreeSet<String>) -> Vec<Write> {
        let idle: Vec<_> = self
            .known
            .iter()
            .filter(|revision| {
                let name = revision.name();
                name != self.name && !used.iter().any(|used| used == name || name.ends_with(&format!("-{used}")))
            })
            .collect();
        let surplus = idle.len().saturating_sub(limit.max(0) as usize);
        idle[..surplus].iter().map(|revision| Write::delete(&***revision, DeleteOptions::default())).collect()
    }
}

/// The patch that brings a template back, as `kubectl rollout undo` applies it.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    prune(&mut template);
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

fn same(revision: &ControllerRevision, data: &Value) -> bool {
    let mut known = revision.data.as_ref().map(|data| data.0.clone()).unwrap_or_default();
    prune(&mut known);
    known == *data
}
