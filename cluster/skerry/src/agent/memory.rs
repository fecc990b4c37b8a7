//! What an agent remembers of Services and of who is behind them, so that names are answered before, or without, a server:
//! a pod that was started after a power cut and resolves nothing is of little use.
//!
//! Start at [`role`].
//!
//! Invariants:
//! * the server's word is waited for a moment first, so that a restart beside a living server goes back to nothing old;
//! * what is written holds what Services are made of and nothing else: versions alone write nothing, and
//!   nothing is written more often than every [`EVERY`] (memory cards wear out).
//!
//! Not here: pods (`kubelet`), the ways to other nodes (`podnet`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::chain;
use bytes::Bytes;
use client::{Cache, Caches};
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

/// So long the server's own word is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two writes.
const EVERY: Duration = Duration::from_secs(30);
/// What is kept of an object, and of its metadata.
const FIELDS: [&str; 7] = ["apiVersion", "kind", "spec", "status", "addressType", "endpoints", "ports"];
const METADATA: [&str; 4] = ["name", "namespace", "uid", "labels"];

/// Remembers for ever.
pub(super) fn role(data: &Path, caches: &Caches) -> BoxFuture<'static, ()> {
    let folder = data.join("node");
    let services = keep(folder.join("services.json"), caches.of::<Service>());
    let slices = keep(folder.join("endpointslices.json"), caches.of::<EndpointSlice>());
    futures::future::join(services, slices).map(drop).boxed()
}

async fn keep(path: PathBuf, cache: Arc<Cache>) {
    let mut written = std::fs::read(&path).unwrap_or_default(); // None is none yet.
    if tokio::time::timeout(PATIENCE, cache.wait_synced()).await.is_err() {
        cache.remember(&objects(&written));
    }
    let mut changed = cache.changed();
    loop {
        changed.borrow_and_update();
        let now = text(cache.entries(None).iter().map(|entry| &entry.object));
        if cache.is_heard() && now != written {
            match sys::files::write_atomically(&path, &now, 0o600) {
                Ok(()) => written = now,
                Err(error) => tracing::warn!("failed to remember the Services: {}", chain(&error)),
            }
        }
        tokio::time::sleep(EVERY).await;
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// The objects of a file, a line each; a line that is none is passed over by whoever reads it.
fn objects(text: &[u8]) -> Vec<Bytes> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(Bytes::copy_from_slice).collect()
}

fn text<'a>(objects: impl Iterator<Item = &'a Bytes>) -> Vec<u8> {
    let mut text = Vec::new();
    for object in objects.filter_map(|object| serde_json::from_slice::<Value>(object).ok()) {
        text.extend(what_matters(&object).to_string().into_bytes());
        text.push(b'\n');
    }
    text
}

fn what_matters(object: &Value) -> Value {
    let mut kept = some(object, &FIELDS);
    kept["metadata"] = some(&object["metadata"], &METADATA);
    kept
}

fn some(of: &Value, names: &[&str]) -> Value {
    names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), of.get(name)?.clone())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Kind;
    use serde_json::json;

    fn slice(version: &str, address: &str) -> Bytes {
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web-1", "namespace": "default", "resourceVersion": version, "managedFields": []},
            "endpoints": [{"addresses": [address]}],
        });
        Bytes::from(object.to_string())
    }

    #[test]
    fn only_what_services_are_made_of_is_written() {
        assert_eq!(text([&slice("7", "10.42.0.2")].into_iter()), text([&slice("8", "10.42.0.2")].into_iter()));
        assert!(text([&slice("7", "10.42.0.2")].into_iter()) != text([&slice("7", "10.42.0.3")].into_iter()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_server_the_old_word_holds() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("slices.json");
        std::fs::write(&path, text([&slice("7", "10.42.0.2")].into_iter())).expect("written");
        let cache = Arc::new(Cache::new(EndpointSlice::RESOURCE.all()));
        let kept = tokio::spawn(keep(path, cache.clone()));
        cache.wait_synced().await;
        let known = cache.get::<EndpointSlice>("default", "web-1").expect("it is remembered");
        assert_eq!(known.endpoints.as_ref().expect("endpoints")[0].addresses, ["10.42.0.2"]);
        assert!(!cache.is_heard());
        kept.abort();
    }
}
