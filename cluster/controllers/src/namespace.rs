//! Empties a namespace that is being deleted, and lets it go.
//!
//! Start at [`Namespaces`].
//!
//! Invariants:
//! * the finalizer goes only when the server says that every collection of the namespace is empty;
//! * a namespace that is not being deleted is never touched.

use std::collections::BTreeMap;
use std::time::Duration;

use base::Timestamp;
use client::{Collection, DeleteOptions, Entry, Kind, Resource};
use control::{About, Guard, Key, Outcome, Reconciler, View, Write};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};

use crate::pods::set_condition;

/// Deletes asked for in one pass.
const DELETES_MAX: usize = 500;
/// How soon a namespace is looked at again that the server says is not empty yet, or whose pods take their time.
const AGAIN: Duration = Duration::from_secs(2);
const FINALIZER: &str = "kubernetes";

/// The namespace controller.
pub struct Namespaces;

impl Reconciler for Namespaces {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Namespace::RESOURCE];
        About {
            name: "namespace-controller",
            reads: READS,
            writes: &["namespaces.spec.finalizers", "namespaces.status"],
            everything: true,
        }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        let namespace = match (collection.resource.as_str(), collection.group.as_str()) {
            ("namespaces", "") => &entry.meta.name,
            _ => &entry.meta.namespace,
        };
        let leaving = view.cache(Namespace::RESOURCE).and_then(|cache| cache.entry("", namespace));
        leaving.filter(|found| found.meta.deleting).map(|_| Key::new("", namespace)).into_iter().collect()
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        let Some(namespace) = view.get::<Namespace>("", &key.name).filter(|found| found.deleting()) else {
            return Outcome::none();
        };
        let (mut outcome, mut left, mut held) = (Outcome::none(), BTreeMap::new(), BTreeMap::new());
        for resource in view.resources().iter().filter(|resource| resource.namespaced) {
            for entry in view.entries(resource, Some(&key.name)) {
                *left.entry(resource.to_string()).or_insert(0) += 1;
                for finalizer in &entry.meta.finalizers {
                    *held.entry(finalizer.clone()).or_insert(0) += 1;
                }
                if !entry.meta.deleting && outcome.writes.len() < DELETES_MAX {
                    let options = DeleteOptions { propagation: Some("Background"), ..DeleteOptions::default() };
                    outcome.writes.push(Write::raw_delete(resource, &entry, options));
                }
            }
        }
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        let status = describe(&namespace, &left, &held, now);
        if status != namespace.status {
            outcome.writes.insert(0, Write::status(&Namespace { status, ..(*namespace).clone() }));
            outcome.again(Duration::ZERO);
        } else if left.is_empty() && finalizers.iter().any(|each| each == FINALIZER) {
            outcome.writes.push(finalize(&namespace, view));
        } else if left.is_empty() && finalizers.is_empty() {
            outcome.writes.push(Write::delete(&*namespace, DeleteOptions::default()));
        }
        outcome.again(AGAIN);
        outcome
    }
}

fn finalize(namespace: &Namespace, view: &View<'_>) -> Write {
    let mut done = namespace.clone();
    done.spec.get_or_insert_default().finalizers.get_or_insert_default().retain(|each| each != FINALIZER);
    let mut write = Write { subresource: "finalize", ..Write::update(&done) };
    let namespaced = view.resources().iter().filter(|resource| resource.namespaced);
    write.guards = namespaced.map(|resource| Guard::Empty(resource.within(namespace.name()))).collect();
    write
}

fn describe(
    namespace: &Namespace,
    left: &BTreeMap<String, i32>,
    held: &BTreeMap<String, i32>,
    now: Timestamp,
) -> Option<k8s_openapi::api::core::v1::NamespaceStatus> {
    let mut status = namespace.status.clone().unwrap_or_default();
    status.phase = Some("Terminating".to_owned());
    let mut say = |type_: &str, status_: &str, reason: &str, message: &str| {
        set_condition::<NamespaceCondition>(&mut status.conditions, type_, status_, reason, message, now);
    };
    say("NamespaceDeletionDiscoveryFailure", "False", "ResourcesDiscovered", "All resources successfully discovered");
    say(
        "NamespaceDeletionGroupVersionParsingFailure",
        "False",
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    );
    let done = "All content successfully deleted, may be waiting on finalization";
    say("NamespaceDeletionContentFailure", "False", "ContentDeleted", done);
    if left.is_empty() {
        say("NamespaceContentRemaining", "False", "ContentRemoved", "All content successfully removed");
    } else {
        let each: Vec<String> =
            left.iter().map(|(what, count)| format!("{what} has {count} resource instances")).collect();
        let message = format!("Some resources are remaining: {}", each.join(", "));
        say("NamespaceContentRemaining", "True", "SomeResourcesRemain", &message);
    }
    if held.is_empty() {
        say(
            "NamespaceFinalizersRemaining",
            "False",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        );
    } else {
        let each: Vec<String> =
            held.iter().map(|(what, count)| format!("{what} in {count} resource instances")).collect();
        let message = format!("Some content in the namespace has finalizers remaining: {}", each.join(", "));
        say("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", &message);
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;
    use crate::testing::{World, body, lines};

    fn world(pods: &[&str]) -> World {
        let mut world = World::default();
        world.resources = vec![Namespace::RESOURCE.clone(), Pod::RESOURCE.clone()];
        world.put(
            Namespace::RESOURCE,
            json!({"metadata": {"name": "n", "deletionTimestamp": "2026-11-23T19:59:00Z"}, "spec": {"finalizers": ["kubernetes"]}}),
        );
        world.put(Pod::RESOURCE, json!({"metadata": {"name": "elsewhere", "namespace": "m"}}));
        for pod in pods {
            world.put(Pod::RESOURCE, json!({"metadata": {"name": pod, "namespace": "n"}}));
        }
        world
    }

    #[test]
    fn deletes_the_content_and_says_what_is_left() {
        let outcome = world(&["a"]).reconcile(&Namespaces, "", "n");
        assert_eq!(lines(&outcome), ["update namespaces/status n", "delete pods n/a"]);
        let status = body(&outcome, "update namespaces/status n");
        assert_eq!(
            status["status"]["conditions"][3]["message"],
            "Some resources are remaining: pods has 1 resource instances"
        );
    }

    #[test]
    fn lets_it_go_when_the_server_says_it_is_empty() {
        let mut world = world(&[]);
        let status = body(&world.reconcile(&Namespaces, "", "n"), "update namespaces/status n");
        world.put(Namespace::RESOURCE, status);
        let outcome = world.reconcile(&Namespaces, "", "n");
        assert_eq!(lines(&outcome), ["update namespaces/finalize n"]);
        assert_eq!(outcome.writes[0].guards, [Guard::Empty(Pod::RESOURCE.within("n"))]);
    }
}
