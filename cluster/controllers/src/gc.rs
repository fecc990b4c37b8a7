//! Deletes what nobody owns any more, and sees deletions of owners through: background, foreground, orphan.
//!
//! Start at [`Collector`]. A key is the uid of one object; its owners and dependents are found in the metadata of everything.
//!
//! Invariants:
//! * an object is deleted only when the server itself says that each of its owners is absent, or while the last ones
//!   wait for it in a foreground deletion: a cache that lags costs time, never an object;
//! * references to kinds the server does not know are left alone;
//! * a deletion by the collector is bound to the uid it was decided for.
//!
//! Not here: what an owner means to its controller (`pods.rs` adopts and releases).

use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use bytes::Bytes;
use client::{Cache, Collection, DeleteOptions, Entry, Owner, Resource};
use control::{About, Guard, Key, Outcome, Reconciler, Verb, View, Write};
use serde_json::json;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// How soon an object is looked at again whose owner the caches miss: long enough for them to catch up.
const AGAIN: Duration = Duration::from_secs(5);
/// Dependents handled in one pass.
const DEPENDENTS_MAX: usize = 200;

/// The garbage collector.
pub struct Collector;

/// One object, somewhere.
type Found = (Resource, Arc<Entry>);

impl Reconciler for Collector {
    fn about(&self) -> About {
        About {
            name: "garbage-collector-controller",
            reads: &[],
            writes: &["*.metadata.ownerReferences"],
            everything: true,
        }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        let here = view.cache_of(collection).and_then(|cache| cache.by_uid(&entry.meta.uid));
        let uid = |uid: &str| Key::new("", uid);
        let those_owned =
            || dependents(view, &entry.meta.uid).into_iter().map(|(_, dependent)| uid(&dependent.meta.uid));
        let Some(here) = here else {
            let waiting = entry.meta.owners.iter().filter(|owner| owner.block_owner_deletion);
            return those_owned().chain(waiting.map(|owner| uid(&owner.uid))).collect();
        };
        // An owner that waits for its dependents to be free of it hears of each that is, even one that is leaving.
        let is_owner = |owner: &Owner| here.meta.owners.iter().any(|each| each.uid == owner.uid);
        let freed_of = entry.meta.owners.iter().filter(|owner| !is_owner(owner)).map(|owner| uid(&owner.uid));
        let itself = (here.meta.deleting || !here.meta.owners.is_empty()).then(|| uid(&entry.meta.uid));
        let dependents = here.meta.deleting.then(those_owned);
        freed_of.chain(dependents.into_iter().flatten()).chain(itself).collect()
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Outcome {
        let Some((resource, entry)) = find(view, &key.name) else { return Outcome::none() };
        let has = |finalizer: &str| entry.meta.finalizers.iter().any(|each| each == finalizer);
        if entry.meta.deleting {
            return match () {
                () if has(ORPHAN) => orphan(view, &resource, &entry),
                () if has(FOREGROUND) => foreground(view, &resource, &entry),
                () => Outcome::none(),
            };
        }
        judge(view, &resource, &entry)
    }
}

/// Takes the owner out of its dependents, then lets it go.
fn orphan(view: &View<'_>, resource: &Resource, owner: &Entry) -> Outcome {
    let mut outcome = Outcome::none();
    for (kind, dependent) in dependents(view, &owner.meta.uid).into_iter().take(DEPENDENTS_MAX) {
        outcome.writes.push(without_owners(&kind, &dependent, |each| each.uid == owner.meta.uid));
    }
    if outcome.writes.is_empty() {
        outcome.writes.push(without_finalizer(resource, owner, ORPHAN));
    }
    outcome
}

/// Lets the owner go when nothing that blocks it is left; its dependents see by themselves that they must go.
fn foreground(view: &View<'_>, resource: &Resource, owner: &Entry) -> Outcome {
    let blocks = |dependent: &Entry| {
        dependent.meta.owners.iter().any(|each| each.uid == owner.meta.uid && each.block_owner_deletion)
    };
    match dependents(view, &owner.meta.uid).iter().any(|(_, dependent)| blocks(dependent)) {
        true => Outcome::none(),
        false => without_finalizer(resource, owner, FOREGROUND).into(),
    }
}

/// Decides about an object by its owners.
fn judge(view: &View<'_>, resource: &Resource, entry: &Entry) -> Outcome {
    let (mut solid, mut waiting, mut gone, mut guards) = (0, Vec::new(), Vec::new(), Vec::new());
    for owner in &entry.meta.owners {
        let Some(kind) = resolve(view, owner) else {
            // A kind that is not served (yet): nothing can be said about its objects.
            solid += 1;
            continue;
        };
        let namespace = if kind.namespaced { entry.meta.namespace.as_str() } else { "" };
        let Some(cache) = view.cache(kind) else { return Outcome::none() };
        match cache.entry(namespace, &owner.name).filter(|found| found.meta.uid == owner.uid) {
            Some(found) if found.meta.deleting && found.meta.finalizers.iter().any(|each| each == FOREGROUND) => {
                waiting.push(owner.uid.clone());
            }
            Some(_) => solid += 1,
            None => {
                gone.push(owner.uid.clone());
                guards.push(Guard::Absent {
                    resource: kind.clone(),
                    namespace: namespace.to_owned(),
                    name: owner.name.clone(),
                    uid: owner.uid.clone(),
                });
            }
        }
    }
    if waiting.is_empty() && gone.is_empty() {
        return Outcome::none();
    }
    let mut write = if solid > 0 {
        without_owners(resource, entry, |owner| waiting.contains(&owner.uid) || gone.contains(&owner.uid))
    } else {
        let has = |finalizer: &str| entry.meta.finalizers.iter().any(|each| each == finalizer);
        let propagation = match () {
            () if has(ORPHAN) => "Orphan",
            () if has(FOREGROUND) || (!waiting.is_empty() && !dependents(view, &entry.meta.uid).is_empty()) => {
                "Foreground"
            }
            () => "Background",
        };
        Write::raw_delete(resource, entry, DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() })
    };
    write.guards = guards;
    Outcome { writes: vec![write], requeue_after: Some(AGAIN), ..Outcome::default() }
}

fn resolve<'a>(view: &'a View<'_>, owner: &Owner) -> Option<&'a Resource> {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    view.resources().iter().find(|resource| resource.group == group && resource.kind == owner.kind.as_str())
}

fn find(view: &View<'_>, uid: &str) -> Option<Found> {
    let found = |cache: Arc<Cache>| {
        let entry = cache.by_uid(uid)?;
        Some((view.resource(cache.collection())?.clone(), entry))
    };
    view.caches().find_map(found)
}

/// Asked for whatever is deleted, and nearly always there are none: only where there are, it is asked of which resource.
fn dependents(view: &View<'_>, uid: &str) -> Vec<Found> {
    let mut found = Vec::new();
    for cache in view.caches() {
        let owned = cache.owned_entries(uid);
        if !owned.is_empty()
            && let Some(resource) = view.resource(cache.collection())
        {
            found.extend(owned.into_iter().map(|entry| (resource.clone(), entry)));
        }
    }
    found
}

/// Bound to the version seen: somebody else may be adding an owner just now.
fn without_owners(resource: &Resource, entry: &Entry, drop: impl Fn(&Owner) -> bool) -> Write {
    let keep = entry.meta.owners.iter().filter(|owner| !drop(owner)).map(|owner| {
        let mut kept =
            json!({"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid});
        if owner.controller {
            kept["controller"] = true.into();
        }
        if owner.block_owner_deletion {
            kept["blockOwnerDeletion"] = true.into();
        }
        kept
    });
    patch(resource, entry, "ownerReferences", keep.collect())
}

fn without_finalizer(resource: &Resource, entry: &Entry, finalizer: &str) -> Write {
    let keep = entry.meta.finalizers.iter().filter(|each| *each != finalizer).map(|each| each.as_str().into());
    patch(resource, entry, "finalizers", keep.collect())
}

fn patch(resource: &Resource, entry: &Entry, field: &str, value: Vec<serde_json::Value>) -> Write {
    let version = entry.meta.revision.to_string();
    let body = json!({"metadata": {field: value, "uid": entry.meta.uid, "resourceVersion": version}});
    Write::raw(Verb::Patch(client::typed::MERGE_PATCH), resource, entry, "", Bytes::from(body.to_string()))
}

#[cfg(test)]
mod tests {
    use client::Kind;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::testing::{World, lines};

    /// Owners and pods: `set`, `set-F` (leaving, foreground), `set-O` (leaving, orphan); `pod<set` names owners by commas.
    #[track_caller]
    fn check(sets: &str, pod: &str, key: &str, wanted: &[&str], guards: usize) {
        let mut world = World::default();
        world.resources = vec![Pod::RESOURCE.clone(), ReplicaSet::RESOURCE.clone()];
        for set in sets.split_whitespace() {
            let (name, mark) = set.split_once('-').unwrap_or((set, ""));
            let mut object = json!({"metadata": {"name": name, "namespace": "n", "finalizers": []}});
            if !mark.is_empty() {
                object["metadata"]["deletionTimestamp"] = "2026-11-23T19:59:00Z".into();
                object["metadata"]["finalizers"] = json!([if mark == "F" { FOREGROUND } else { ORPHAN }]);
            }
            world.put(ReplicaSet::RESOURCE, object);
        }
        // The caches exist even when nothing is in them.
        world.put(ReplicaSet::RESOURCE, json!({"metadata": {"name": "other", "namespace": "n"}}));
        world.put(Pod::RESOURCE, json!({"metadata": {"name": "other", "namespace": "n", "uid": "uid-otherpod"}}));
        if let Some((name, owners)) = pod.split_once('<') {
            let owners: Vec<_> = owners
                .split(',')
                .map(|owner| {
                    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": owner, "uid": format!("uid-{owner}"), "blockOwnerDeletion": true})
                })
                .collect();
            world.put(Pod::RESOURCE, json!({"metadata": {"name": name, "namespace": "n", "ownerReferences": owners}}));
        }
        let outcome = world.reconcile(&Collector, "", key);
        assert_eq!(lines(&outcome), wanted);
        assert_eq!(outcome.writes.iter().map(|write| write.guards.len()).sum::<usize>(), guards);
    }

    #[test]
    fn leaves_what_is_owned() {
        check("set", "p<set", "uid-p", &[], 0);
    }
    #[test]
    fn deletes_what_lost_its_owner_after_asking_the_server() {
        check("", "p<set", "uid-p", &["delete pods n/p"], 1);
    }
    #[test]
    fn forgets_an_absent_owner_beside_a_living_one() {
        check("set", "p<set,lost", "uid-p", &["patch pods n/p"], 1);
    }
    #[test]
    fn deletes_what_a_foreground_deletion_waits_for() {
        check("set-F", "p<set", "uid-p", &["delete pods n/p"], 0);
    }
    #[test]
    fn a_foreground_deletion_waits_for_its_dependents() {
        check("set-F", "p<set", "uid-set", &[], 0);
        check("set-F", "", "uid-set", &["patch replicasets.apps n/set"], 0);
    }
    #[test]
    fn orphaning_frees_the_dependents_first() {
        check("set-O", "p<set", "uid-set", &["patch pods n/p"], 0);
        check("set-O", "", "uid-set", &["patch replicasets.apps n/set"], 0);
    }
    #[test]
    fn an_owner_hears_of_a_dependent_that_became_free_of_it() {
        let mut world = World::default();
        let owned = |by: &[&str], leaving: bool| {
            let owner = |by: &&str| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": by, "uid": by});
            let owners: Vec<_> = by.iter().map(owner).collect();
            let since = leaving.then_some("2026-11-23T19:59:00Z");
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "p", "ownerReferences": owners, "deletionTimestamp": since}})
        };
        world.put(Pod::RESOURCE, owned(&["a", "b"], false));
        let before = world.caches.open(&Pod::RESOURCE.all()).entry("n", "p").expect("the pod");
        let mut keys = |now: &[&str], leaving: bool| {
            world.put(Pod::RESOURCE, owned(now, leaving));
            let keys = Collector.keys(&View::new(&world.caches), &Pod::RESOURCE.all(), &before);
            keys.into_iter().map(|key| key.name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(keys(&["a", "b"], false), "p");
        assert_eq!(keys(&["b"], false), "a p");
        assert_eq!(keys(&[], false), "a b");
        assert_eq!(keys(&["b"], true), "a p");
        assert_eq!(keys(&[], true), "a b p");
    }
}
