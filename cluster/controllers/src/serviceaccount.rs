//! What every namespace has: a ServiceAccount named `default`, and the cluster's certificate authority in a ConfigMap.
//!
//! Start at [`DefaultAccounts`] and [`RootCa`].

use base::Timestamp;
use client::{Collection, Entry, Kind, Resource};
use control::{About, Key, Outcome, Reconciler, View, Write};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

const CONFIG_MAP: &str = "kube-root-ca.crt";
const CONFIG_KEY: &str = "ca.crt";
const ABOUT_CA: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

/// Makes the `default` ServiceAccounts.
pub struct DefaultAccounts;

/// Publishes the certificate authority.
pub struct RootCa {
    /// Its certificates, in PEM.
    pub pem: String,
}

impl Reconciler for DefaultAccounts {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Namespace::RESOURCE, ServiceAccount::RESOURCE];
        About { name: "service-account-controller", reads: READS, writes: &["serviceaccounts"], everything: false }
    }

    fn keys(&self, _: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        namespace_of(collection, entry, "default")
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Outcome {
        if !stays(view, &key.name) || view.get::<ServiceAccount>(&key.name, "default").is_some() {
            return Outcome::none();
        }
        let account = ServiceAccount { metadata: named(&key.name, "default"), ..ServiceAccount::default() };
        Write::create(&account).or_exists().into()
    }
}

impl Reconciler for RootCa {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Namespace::RESOURCE, ConfigMap::RESOURCE];
        About { name: "root-ca-certificate-publisher", reads: READS, writes: &["configmaps"], everything: false }
    }

    fn keys(&self, _: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        namespace_of(collection, entry, CONFIG_MAP)
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Outcome {
        if !stays(view, &key.name) {
            return Outcome::none();
        }
        let data = Some([(CONFIG_KEY.to_owned(), self.pem.clone())].into());
        let mut metadata = named(&key.name, CONFIG_MAP);
        metadata.annotations = Some([(ABOUT_CA.0.to_owned(), ABOUT_CA.1.to_owned())].into());
        match view.get::<ConfigMap>(&key.name, CONFIG_MAP) {
            None => Write::create(&ConfigMap { metadata, data, ..ConfigMap::default() }).or_exists().into(),
            Some(known) if known.data != data => Write::update(&ConfigMap { data, ..(*known).clone() }).into(),
            Some(_) => Outcome::none(),
        }
    }
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn namespace_of(collection: &Collection, entry: &Entry, name: &str) -> Vec<Key> {
    match collection.resource.as_str() {
        "namespaces" => vec![Key::new("", &entry.meta.name)],
        _ if entry.meta.name == name => vec![Key::new("", &entry.meta.namespace)],
        _ => Vec::new(),
    }
}

fn stays(view: &View<'_>, namespace: &str) -> bool {
    view.get::<Namespace>("", namespace).is_some_and(|found| !found.deleting())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{World, lines};

    #[test]
    fn a_new_namespace_gets_both() {
        let mut world = World::default();
        world.put(Namespace::RESOURCE, json!({"metadata": {"name": "n"}}));
        assert_eq!(lines(&world.reconcile(&DefaultAccounts, "", "n")), ["create serviceaccounts n/default"]);
        let publisher = RootCa { pem: "new".into() };
        assert_eq!(lines(&world.reconcile(&publisher, "", "n")), ["create configmaps n/kube-root-ca.crt"]);
        world.put(
            ConfigMap::RESOURCE,
            json!({"metadata": {"name": CONFIG_MAP, "namespace": "n"}, "data": {"ca.crt": "old"}}),
        );
        assert_eq!(lines(&world.reconcile(&publisher, "", "n")), ["update configmaps n/kube-root-ca.crt"]);
    }

    #[test]
    fn a_namespace_that_leaves_gets_nothing() {
        let mut world = World::default();
        world.put(Namespace::RESOURCE, json!({"metadata": {"name": "n", "deletionTimestamp": "2026-11-23T19:59:00Z"}}));
        assert!(lines(&world.reconcile(&DefaultAccounts, "", "n")).is_empty());
    }
}
