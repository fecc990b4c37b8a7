//! The ConfigMaps, Secrets and Services pods refer to, and their ServiceAccounts' tokens.
//!
//! Start at [`Objects::follow`]. Each object is followed by a watch of its own, as upstream's kubelet does: the node may read
//! only what its pods name. Objects are followed while a pod holds them.
//!
//! Invariants:
//! * a pod's [`Followed`] tells when any of its objects changed;
//! * tokens are renewed after four fifths of their life; an old one serves until there is a new one.
//!
//! Not here: what becomes of them (`make`, `volumes`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use base::Monotonic;
use client::{Cache, Client, Collection, Kind, Listener};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use tokio::sync::Notify;

use crate::checkpoint::{Checkpoint, Referred};
use crate::make::Source;
use crate::pod::PodInfo;

/// How long a pod waits for the first look at an object before it goes on without.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// A token's life where the pod names none; upstream's hour.
const TOKEN_SECONDS_DEFAULT: i64 = 3600;
/// How soon a token that could not be renewed is asked for again.
const TOKEN_RETRY: Duration = Duration::from_secs(15);
/// How long a new token is waited for where an old one is at hand: a server whose power went does not even refuse.
const TOKEN_WAIT: Duration = Duration::from_secs(5);

/// All objects followed by this node.
pub struct Objects {
    client: Client,
    open: Mutex<BTreeMap<Collection, Weak<Cache>>>,
}

/// The objects of one pod.
pub struct Followed {
    namespace: String,
    caches: BTreeMap<(&'static str, String), Arc<Cache>>,
    _listener: Arc<Listener>,
}

impl Objects {
    /// Follows nothing yet.
    pub fn new(client: Client) -> Objects {
        Objects { client, open: Mutex::default() }
    }

    /// Follows what a pod refers to; `changed` is told of every change. What is `recalled` serves until the server says
    /// something else.
    pub async fn follow(&self, pod: &PodInfo, changed: Arc<Notify>, recalled: Option<&Checkpoint>) -> Followed {
        let listener: Arc<Listener> = Arc::new(move |_, _| changed.notify_one());
        let (config_maps, secrets) = references(pod);
        let mut caches = BTreeMap::new();
        for name in config_maps {
            caches.insert(("configmaps", name.clone()), self.open::<ConfigMap>(&pod.namespace, &name));
        }
        for name in secrets {
            caches.insert(("secrets", name.clone()), self.open::<Secret>(&pod.namespace, &name));
        }
        for ((resource, name), cache) in &caches {
            let known = recalled.iter().flat_map(|checkpoint| &checkpoint.objects);
            let mut known =
                known.filter(|each| each.resource == *resource && each.object["metadata"]["name"] == *name.as_str());
            if let Some(known) = known.next() {
                cache.remember(&[known.object.to_string().into()]);
            }
            // Without a server the pod goes on with what is there; its volumes then say what is missing.
            let _ = tokio::time::timeout(FIRST_LOOK, cache.wait_synced()).await;
            cache.subscribe(&listener);
        }
        Followed { namespace: pod.namespace.clone(), caches, _listener: listener }
    }

    fn open<T: Kind>(&self, namespace: &str, name: &str) -> Arc<Cache> {
        let mut collection = T::RESOURCE.within(namespace);
        collection.field_selector = format!("metadata.name={name}");
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, cache| cache.strong_count() > 0);
        if let Some(cache) = open.get(&collection).and_then(Weak::upgrade) {
            return cache;
        }
        let cache = Arc::new(Cache::new(collection.clone()));
        open.insert(collection, Arc::downgrade(&cache));
        tokio::spawn(client::run::fill(self.client.door().clone(), Arc::downgrade(&cache)));
        cache
    }
}

impl Followed {
    /// Every object there is, to be remembered.
    pub fn objects(&self) -> Vec<Referred> {
        let object = |((resource, name), cache): (&(&'static str, String), &Arc<Cache>)| {
            let entry = cache.entry(&self.namespace, name)?;
            let object = serde_json::from_slice(&entry.object).ok()?;
            Some(Referred { resource: (*resource).to_owned(), object })
        };
        self.caches.iter().filter_map(object).collect()
    }
}

impl Source for Followed {
    fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
        self.caches.get(&("configmaps", name.to_owned()))?.get(&self.namespace, name)
    }
    fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        self.caches.get(&("secrets", name.to_owned()))?.get(&self.namespace, name)
    }
}

/// The names of the ConfigMaps and Secrets a pod refers to.
pub fn references(pod: &PodInfo) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for member in &pod.members {
        for from in member.container.env_from.iter().flatten() {
            config_maps.extend(from.config_map_ref.iter().map(|reference| reference.name.clone()));
            secrets.extend(from.secret_ref.iter().map(|reference| reference.name.clone()));
        }
        for from in member.container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            config_maps.extend(from.config_map_key_ref.iter().map(|reference| reference.name.clone()));
            secrets.extend(from.secret_key_ref.iter().map(|reference| reference.name.clone()));
        }
    }
    for volume in pod.spec().volumes.iter().flatten() {
        config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        for projection in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            config_maps.extend(projection.config_map.iter().map(|source| source.name.clone()));
            secrets.extend(projection.secret.iter().map(|source| source.name.clone()));
        }
    }
    secrets.extend(pod.spec().image_pull_secrets.iter().flatten().map(|reference| reference.name.clone()));
    (config_maps, secrets)
}

/// A token and when to ask for the next.
#[derive(Clone, Debug)]
pub struct Token {
    /// The token.
    pub value: String,
    /// When four fifths of its life are over.
    pub renew_at: Monotonic,
}

/// The tokens of one pod, by volume and path.
pub type Tokens = BTreeMap<(String, String), Token>;

/// Asks for the tokens of a pod's projected volumes that are missing or due. Says when the next is due.
pub async fn renew_tokens(
    client: &Client,
    pod: &PodInfo,
    tokens: &mut Tokens,
    now: Monotonic,
) -> Result<Option<Monotonic>, String> {
    let account = pod.spec().service_account_name.clone().filter(|name| !name.is_empty());
    let account = account.unwrap_or_else(|| "default".to_owned());
    for volume in pod.spec().volumes.iter().flatten() {
        let projections = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for source in projections.filter_map(|projection| projection.service_account_token.as_ref()) {
            let key = (volume.name.clone(), source.path.clone());
            if tokens.get(&key).is_some_and(|token| now < token.renew_at) {
                continue;
            }
            let seconds = source.expiration_seconds.unwrap_or(TOKEN_SECONDS_DEFAULT);
            let asked = request(client, pod, &account, source.audience.as_deref(), seconds);
            let answer = match tokens.contains_key(&key) {
                true => tokio::time::timeout(TOKEN_WAIT, asked).await.unwrap_or_else(|_| Err("no answer".to_owned())),
                false => asked.await,
            };
            match answer {
                Ok(value) => {
                    let renew_at = now.plus(Duration::from_secs(seconds.max(60) as u64 * 4 / 5));
                    tokens.insert(key, Token { value, renew_at });
                }
                // An old token is better than none, as long as it lives.
                Err(error) if tokens.contains_key(&key) => {
                    tracing::debug!(pod = %pod.full_name(), %error, "will ask for a token again");
                }
                Err(error) => return Err(format!("failed to fetch token: {error}")),
            }
        }
    }
    Ok(tokens.values().map(|token| token.renew_at.max(now.plus(TOKEN_RETRY))).min())
}

async fn request(
    client: &Client,
    pod: &PodInfo,
    account: &str,
    audience: Option<&str>,
    seconds: i64,
) -> Result<String, String> {
    let audiences: Vec<&str> = audience.into_iter().filter(|audience| !audience.is_empty()).collect();
    let body = serde_json::json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {},
        "spec": {
            "audiences": audiences,
            "expirationSeconds": seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid},
        },
    });
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", pod.namespace);
    let body = bytes::Bytes::from(body.to_string());
    let reply = client.call(http::Method::POST, path, client::typed::JSON, body).await;
    let reply = reply.map_err(|error| base::chain(&error).to_string())?;
    let reply: serde_json::Value = serde_json::from_slice(&reply).map_err(|error| error.to_string())?;
    let token = reply.pointer("/status/token").and_then(|token| token.as_str());
    token.map(str::to_owned).ok_or_else(|| "the answer holds no token".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_is_found() {
        let pod = crate::pod::tests::pod(serde_json::json!({
            "containers": [{
                "name": "a",
                "envFrom": [{"configMapRef": {"name": "c1"}}, {"secretRef": {"name": "s1"}}],
                "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}},
                ],
            }],
            "volumes": [
                {"name": "1", "configMap": {"name": "c3"}},
                {"name": "2", "secret": {"secretName": "s3"}},
                {"name": "3", "projected": {"sources": [{"configMap": {"name": "c4"}}, {"secret": {"name": "s4"}}]}},
            ],
            "imagePullSecrets": [{"name": "s5"}],
        }));
        let (config_maps, secrets) = references(&pod);
        assert_eq!(config_maps.into_iter().collect::<Vec<_>>(), ["c1", "c2", "c3", "c4"]);
        assert_eq!(secrets.into_iter().collect::<Vec<_>>(), ["s1", "s2", "s3", "s4", "s5"]);
    }
}
