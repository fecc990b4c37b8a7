//! Writes into each ResourceQuota how much of it is used.
//!
//! Start at [`Quotas`].
//!
//! Invariant: the status says what the caches hold; admission counts for itself and never reads it.

use base::Timestamp;
use bytes::Bytes;
use client::{Collection, Entry, Kind, Resource};
use control::{About, Key, Outcome, Reconciler, Verb, View, Write};
use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::{Map, Value, json};

use api::quota::{self, Usage};

/// The controller of quotas.
pub struct Quotas;

impl Reconciler for Quotas {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[ResourceQuota::RESOURCE];
        About { name: "resourcequota-controller", reads: READS, writes: &["resourcequotas.status"], everything: true }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        let counts = |quota: &Entry| {
            *collection == ResourceQuota::RESOURCE.all()
                || quota::kinds(&decoded(quota))
                    .iter()
                    .any(|(group, plural)| *group == collection.group && *plural == collection.resource)
        };
        let quotas = view.entries(ResourceQuota::RESOURCE, Some(&entry.meta.namespace));
        let ours = quotas.iter().filter(|quota| counts(quota));
        ours.map(|quota| Key::new(&quota.meta.namespace, &quota.meta.name)).collect()
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Outcome {
        let cache = view.cache(ResourceQuota::RESOURCE);
        let Some(entry) = cache.and_then(|cache| cache.entry(&key.namespace, &key.name)) else {
            return Outcome::none();
        };
        let mut quota = decoded(&entry);
        let hard = quota::hard(&quota);
        let used = used(view, &quota, &key.namespace);
        let used: Map<String, Value> = hard.keys().map(|name| (name.clone(), shown(&used, name))).collect();
        let status = json!({"hard": quota["spec"]["hard"], "used": used});
        if quota["status"] == status {
            return Outcome::none();
        }
        quota["status"] = status;
        Write::raw(Verb::Update, ResourceQuota::RESOURCE, &entry, "status", Bytes::from(quota.to_string())).into()
    }
}

fn shown(used: &Usage, name: &str) -> Value {
    used.get(name).map_or_else(|| "0".into(), |amount| amount.to_string().into())
}

fn decoded(entry: &Entry) -> Value {
    serde_json::from_slice(&entry.object).unwrap_or_default()
}

/// The sum over everything the quota counts.
fn used(view: &View<'_>, quota: &Value, namespace: &str) -> Usage {
    let mut sum = Usage::new();
    for (group, plural) in quota::kinds(quota) {
        let resource = view.resources().iter().find(|one| one.group == group && one.plural == plural);
        for entry in resource.into_iter().flat_map(|resource| view.entries(resource, Some(namespace))) {
            let object = decoded(&entry);
            if !quota::counted(quota, &group, &plural, &object) {
                continue;
            }
            for (name, amount) in quota::usage(&group, &plural, &object) {
                let total = sum.get(&name).map_or(amount, |total| total.plus(amount));
                sum.insert(name, total);
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::testing::{World, body, lines};

    const STATUS: &str = "update resourcequotas/status n/q";

    #[test]
    fn the_status_says_what_is_used() {
        let mut world = World::default();
        world.resources = vec![Pod::RESOURCE.clone()];
        world.put(ResourceQuota::RESOURCE, json!({"metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": {"pods": "5", "cpu": "2", "secrets": "1"}}}));
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]});
        world.put(Pod::RESOURCE, json!({"metadata": {"name": "a", "namespace": "n"}, "spec": spec}));
        world.put(Pod::RESOURCE, json!({"metadata": {"name": "b", "namespace": "n"}, "spec": spec}));
        world.put(Pod::RESOURCE, json!({"metadata": {"name": "c", "namespace": "m"}, "spec": spec}));
        let outcome = world.reconcile(&Quotas, "n", "q");
        assert_eq!(lines(&outcome), [STATUS]);
        let written = body(&outcome, STATUS);
        assert_eq!(written["status"]["used"], json!({"pods": "2", "cpu": "1", "secrets": "0"}));
        world.put(ResourceQuota::RESOURCE, written);
        assert_eq!(lines(&world.reconcile(&Quotas, "n", "q")), [""; 0]);
    }
}
