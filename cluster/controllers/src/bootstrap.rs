//! What machines that join need: how to find and believe this cluster, and tokens that end when they say so.
//!
//! Start at [`ClusterInfo`] (upstream's bootstrap-signer) and [`Cleaner`] (its token-cleaner).
//!
//! Invariants:
//! * `kube-public/cluster-info` tells the authority of this cluster and has one signature for each token that may sign;
//! * a token whose time is over is deleted; it was refused before that.
//!
//! Not here: who may join (`apiserver`), as whom (`certificates.rs`).

use std::collections::BTreeMap;
use std::time::Duration;

use base::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Collection, DeleteOptions, Entry, Kind, Resource};
use control::{About, Key, Outcome, Reconciler, View, Write, itself};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pki::BootstrapToken;

/// Where tokens lie.
const TOKENS: &str = "kube-system";
const TOKEN_PREFIX: &str = "bootstrap-token-";
const TOKEN_TYPE: &str = "bootstrap.kubernetes.io/token";
/// What everybody may read.
const INFO: (&str, &str) = ("kube-public", "cluster-info");
const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";

/// Publishes how to find and believe this cluster.
pub struct ClusterInfo {
    /// The authority's certificates, in PEM.
    pub ca_pem: String,
    /// The API server.
    pub server: String,
}

/// Deletes tokens whose time is over.
pub struct Cleaner;

impl Reconciler for ClusterInfo {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Namespace::RESOURCE, Secret::RESOURCE, ConfigMap::RESOURCE];
        let writes = &["configmaps.cluster-info"];
        About { name: "bootstrap-signer-controller", reads: READS, writes, everything: false }
    }

    fn keys(&self, _: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        let place = (entry.meta.namespace.as_str(), entry.meta.name.as_str());
        let concerns = match collection.resource.as_str() {
            "secrets" => is_token(entry),
            "namespaces" => entry.meta.name == INFO.0,
            _ => place == INFO,
        };
        concerns.then(|| Key::new(INFO.0, INFO.1)).into_iter().collect()
    }

    fn reconcile(&self, view: &View<'_>, _: &Key, now: Timestamp) -> Outcome {
        let known = view.get::<ConfigMap>(INFO.0, INFO.1);
        let data = Some(self.data(&tokens(view), now));
        match known {
            Some(known) if known.data == data => Outcome::none(),
            Some(known) => Write::update(&ConfigMap { data, ..(*known).clone() }).into(),
            None => {
                let metadata = ObjectMeta {
                    namespace: Some(INFO.0.to_owned()),
                    name: Some(INFO.1.to_owned()),
                    ..ObjectMeta::default()
                };
                Write::create(&ConfigMap { metadata, data, ..ConfigMap::default() }).or_exists().into()
            }
        }
    }
}

impl ClusterInfo {
    fn data(&self, tokens: &[Token], now: Timestamp) -> BTreeMap<String, String> {
        let config = self.kubeconfig();
        let signing = tokens.iter().filter(|token| token.signs && token.ends.is_none_or(|end| end > now));
        let signatures =
            signing.map(|Token { token, .. }| (format!("{SIGNATURE_PREFIX}{}", token.id()), token.sign(&config)));
        let mut data: BTreeMap<String, String> = signatures.collect();
        data.insert("kubeconfig".to_owned(), config);
        data
    }

    /// A kubeconfig that names a cluster and nobody.
    fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: {}\n  name: \"\"\n\
             contexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {{}}\nusers: null\n",
            STANDARD.encode(&self.ca_pem),
            self.server
        )
    }
}

impl Reconciler for Cleaner {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Secret::RESOURCE];
        About { name: "token-cleaner-controller", reads: READS, writes: &["secrets"], everything: false }
    }

    fn keys(&self, _: &View<'_>, _: &Collection, entry: &Entry) -> Vec<Key> {
        if is_token(entry) { itself(entry) } else { Vec::new() }
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        let Some(secret) = view.get::<Secret>(&key.namespace, &key.name) else { return Outcome::none() };
        let Some(end) = token(&secret).and_then(|token| token.ends) else { return Outcome::none() };
        if end > now {
            return Outcome { requeue_after: Some(end.since(now).max(Duration::from_secs(1))), ..Outcome::default() };
        }
        Write::delete(&*secret, DeleteOptions::default()).into()
    }
}

struct Token {
    token: BootstrapToken,
    signs: bool,
    ends: Option<Timestamp>,
}

fn is_token(entry: &Entry) -> bool {
    entry.meta.namespace == TOKENS && entry.meta.name.starts_with(TOKEN_PREFIX)
}

fn tokens(view: &View<'_>) -> Vec<Token> {
    view.list::<Secret>(Some(TOKENS)).iter().filter_map(|secret| token(secret)).collect()
}

/// The token that a Secret holds; none for what is no token, or is named after another one.
fn token(secret: &Secret) -> Option<Token> {
    let field = |name: &str| {
        let bytes = secret.data.as_ref()?.get(name)?;
        String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
    };
    let token: BootstrapToken = format!("{}.{}", field("token-id")?, field("token-secret")?).parse().ok()?;
    let is_one =
        secret.type_.as_deref() == Some(TOKEN_TYPE) && secret.name() == format!("{TOKEN_PREFIX}{}", token.id());
    // A time that cannot be read has passed.
    let ends = field("expiration").map(|end| end.parse().unwrap_or(Timestamp::from_seconds(0)));
    let signs = field("usage-bootstrap-signing").as_deref() == Some("true") && !secret.deleting();
    is_one.then_some(Token { token, signs, ends })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{World, body, lines};

    fn info() -> ClusterInfo {
        ClusterInfo { ca_pem: "ca".into(), server: "https://10.0.0.1:6443".into() }
    }

    fn secret(id: &str, ends: &str, signs: &str) -> Value {
        let encode = |text: &str| STANDARD.encode(text);
        json!({
            "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"}, "type": TOKEN_TYPE,
            "data": {"token-id": encode(id), "token-secret": encode("0123456789abcdef"), "expiration": encode(ends),
                "usage-bootstrap-signing": encode(signs)},
        })
    }

    #[test]
    fn everybody_learns_of_the_cluster_and_tokens_sign_it() {
        let mut world = World::default();
        world.put(Secret::RESOURCE, secret("aaaaaa", "", "true"));
        world.put(Secret::RESOURCE, secret("bbbbbb", "2026-11-23T20:00:00Z", "true"));
        world.put(Secret::RESOURCE, secret("cccccc", "", "false"));
        let outcome = world.reconcile(&info(), INFO.0, INFO.1);
        let made = body(&outcome, "create configmaps kube-public/cluster-info");
        let data = made["data"].as_object().expect("a map");
        assert_eq!(data.keys().collect::<Vec<_>>(), ["jws-kubeconfig-aaaaaa", "kubeconfig"]);
        let token: BootstrapToken = "aaaaaa.0123456789abcdef".parse().expect("a token");
        let config = data["kubeconfig"].as_str().expect("text");
        assert!(token.signed(config, data["jws-kubeconfig-aaaaaa"].as_str().expect("text")));
        world.put(ConfigMap::RESOURCE, made);
        assert!(lines(&world.reconcile(&info(), INFO.0, INFO.1)).is_empty(), "nothing more is to be done");
        world.put(Secret::RESOURCE, secret("dddddd", "", "true"));
        assert_eq!(lines(&world.reconcile(&info(), INFO.0, INFO.1)), ["update configmaps kube-public/cluster-info"]);
    }

    #[test]
    fn tokens_end() {
        let mut world = World::default();
        world.put(Secret::RESOURCE, secret("aaaaaa", "2026-11-23T20:00:09Z", "true"));
        world.put(Secret::RESOURCE, secret("bbbbbb", "2026-11-23T20:00:00Z", "true"));
        world.put(Secret::RESOURCE, secret("cccccc", "", "true"));
        let of = |id: &str| world.reconcile(&Cleaner, "kube-system", &format!("bootstrap-token-{id}"));
        assert_eq!((lines(&of("aaaaaa")).len(), of("aaaaaa").requeue_after), (0, Some(Duration::from_secs(9))));
        assert_eq!(lines(&of("bbbbbb")), ["delete secrets kube-system/bootstrap-token-bbbbbb"]);
        assert!(lines(&of("cccccc")).is_empty() && of("cccccc").requeue_after.is_none());
    }
}
