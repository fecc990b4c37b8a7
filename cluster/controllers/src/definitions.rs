//! Gives custom resource definitions their names, and ends their objects before they go.
//!
//! Start at [`Definitions`].
//!
//! Invariants:
//! * a name that two definitions of a group want goes to the one that has it; the other waits, and gets it when it is free;
//! * a definition goes only when the server says that none of its objects is left.
//!
//! Not here: serving the objects (`apiserver`), what names clash (`api::custom`).

use std::time::Duration;

use base::Timestamp;
use bytes::Bytes;
use client::{Collection, DeleteOptions, Entry, Resource};
use control::{About, Guard, Key, Outcome, Reconciler, Verb, View, Write};
use serde_json::{Value, json};

/// Where definitions live.
const RESOURCE: &Resource =
    &Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false);
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Deletes asked for in one pass.
const DELETES_MAX: usize = 500;
/// How soon a definition is looked at again whose objects take their time.
const AGAIN: Duration = Duration::from_secs(1);

/// The controller of custom resource definitions.
pub struct Definitions;

impl Reconciler for Definitions {
    fn about(&self) -> About {
        About {
            name: "customresourcedefinition-controller",
            reads: &[RESOURCE],
            writes: &["customresourcedefinitions.status", "customresourcedefinitions.metadata.finalizers"],
            everything: true,
        }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, _: &Entry) -> Vec<Key> {
        if *collection == RESOURCE.all() {
            // A name that became free may be what another one waits for.
            return view.entries(RESOURCE, None).iter().map(|each| Key::new("", &each.meta.name)).collect();
        }
        let name = format!("{}.{}", collection.resource, collection.group);
        let ending = view.cache(RESOURCE).and_then(|cache| cache.entry("", &name)).filter(|found| found.meta.deleting);
        ending.map(|_| Key::new("", &name)).into_iter().collect()
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        let Some(entry) = view.cache(RESOURCE).and_then(|cache| cache.entry("", &key.name)) else {
            return Outcome::none();
        };
        let definition = decoded(&entry);
        if entry.meta.deleting {
            return end(view, &entry, definition, now);
        }
        let all: Vec<Value> = view.entries(RESOURCE, None).iter().map(|each| decoded(each)).collect();
        let status = api::custom::names(&definition, &all, now);
        match status == definition["status"] {
            true => Outcome::none(),
            false => with_status(&entry, definition, status).into(),
        }
    }
}

fn decoded(entry: &Entry) -> Value {
    serde_json::from_slice(&entry.object).unwrap_or_default()
}

/// Deletes the definition's objects, then lets it go.
fn end(view: &View<'_>, entry: &Entry, definition: Value, now: Timestamp) -> Outcome {
    if !entry.meta.finalizers.iter().any(|each| each == CLEANUP) {
        return Outcome::none();
    }
    let text = |path: &str| api::dig::text(&definition, path).to_owned();
    let (group, plural) = (text("spec.group"), text("spec.names.plural"));
    let served = view.resources().iter().find(|resource| resource.group == group && resource.plural == plural);
    let mut status = definition["status"].clone();
    let (is, reason, message) = match (api::custom::is_established(&definition), served) {
        (false, _) => ("False", "NeverEstablished", "resource was never established"),
        (true, _) => ("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress"),
    };
    api::custom::set_condition(&mut status, "Terminating", is, reason, message, now);
    let mut outcome = Outcome::none();
    if status != definition["status"] {
        outcome.writes.push(with_status(entry, definition, status));
        outcome.again(Duration::ZERO);
        return outcome;
    }
    if let Some(resource) = served {
        for object in view.entries(resource, None).iter().filter(|object| !object.meta.deleting).take(DELETES_MAX) {
            outcome.writes.push(Write::raw_delete(resource, object, DeleteOptions::default()));
        }
    }
    if outcome.writes.is_empty() {
        outcome.writes.push(let_go(entry, &definition, &group, &plural));
    }
    outcome.again(AGAIN);
    outcome
}

fn with_status(entry: &Entry, definition: Value, status: Value) -> Write {
    let mut new = definition;
    new["status"] = status;
    Write::raw(Verb::Update, RESOURCE, entry, "status", Bytes::from(new.to_string()))
}

fn let_go(entry: &Entry, definition: &Value, group: &str, plural: &str) -> Write {
    let keep: Vec<&String> = entry.meta.finalizers.iter().filter(|each| *each != CLEANUP).collect();
    let version = entry.meta.revision.to_string();
    let body = json!({"metadata": {"finalizers": keep, "uid": entry.meta.uid, "resourceVersion": version}});
    let patch = Verb::Patch(client::typed::MERGE_PATCH);
    let mut write = Write::raw(patch, RESOURCE, entry, "", Bytes::from(body.to_string()));
    // Any served version shows all objects.
    let versions = api::dig::list(definition, "spec.versions").iter();
    let served = versions.filter(|version| api::dig::flag(version, "served"));
    write.guards = served
        .take(1)
        .map(|version| Guard::Empty(Collection::all(group, api::dig::text(version, "name"), plural)))
        .collect();
    write
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, body, lines};

    const CRONTABS: Resource = Resource::new("g.io", "v1", "crontabs", "CronTab", true);

    fn definition(name: &str, kind: &str) -> Value {
        let names =
            json!({"plural": name, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")});
        json!({
            "metadata": {"name": format!("{name}.g.io"), "finalizers": []},
            "spec": {"group": "g.io", "names": names, "versions": [{"name": "v1", "served": true, "storage": true}]},
        })
    }

    fn ending(established: &str) -> Value {
        let mut ending = definition("crontabs", "CronTab");
        ending["metadata"]["deletionTimestamp"] = "2026-11-23T19:59:00Z".into();
        ending["metadata"]["finalizers"] = json!([CLEANUP]);
        ending["status"] = json!({"conditions": [{"type": "Established", "status": established}]});
        ending
    }

    /// Puts the status that a pass wrote where the next pass finds it.
    fn pass(world: &mut World, key: &str) -> Vec<String> {
        let outcome = world.reconcile(&Definitions, "", key);
        let lines = lines(&outcome);
        if lines.first().is_some_and(|line| line.starts_with("update")) {
            let mut written = body(&outcome, &lines[0]);
            written["metadata"]["uid"] = Value::Null;
            world.put(RESOURCE, written);
        }
        lines
    }

    #[test]
    fn names_are_accepted_once() {
        let mut world = World::default();
        world.put(RESOURCE, definition("crontabs", "CronTab"));
        assert_eq!(
            pass(&mut world, "crontabs.g.io"),
            ["update customresourcedefinitions.apiextensions.k8s.io/status crontabs.g.io"]
        );
        assert_eq!(pass(&mut world, "crontabs.g.io"), [""; 0]);
    }

    #[test]
    fn a_definition_ends_its_objects_and_goes() {
        let mut world = World::default();
        world.resources = vec![CRONTABS.clone()];
        world.put(RESOURCE, ending("True"));
        world.put(&CRONTABS, json!({"metadata": {"name": "a", "namespace": "n"}}));
        let status = "update customresourcedefinitions.apiextensions.k8s.io/status crontabs.g.io";
        assert_eq!(pass(&mut world, "crontabs.g.io"), [status]);
        assert_eq!(pass(&mut world, "crontabs.g.io"), ["delete crontabs.g.io n/a"]);
        let mut world = World::default();
        world.resources = vec![CRONTABS.clone()];
        world.put(RESOURCE, ending("True"));
        pass(&mut world, "crontabs.g.io");
        let outcome = world.reconcile(&Definitions, "", "crontabs.g.io");
        assert_eq!(lines(&outcome), ["patch customresourcedefinitions.apiextensions.k8s.io crontabs.g.io"]);
        assert_eq!(outcome.writes[0].guards, [Guard::Empty(CRONTABS.all())]);
    }
}
