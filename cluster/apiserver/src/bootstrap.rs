//! What every cluster has from the start.
//!
//! Start at [`run`]. What exists is left as it is, apart from the API server's own Service endpoints, which follow its
//! address.

use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::future::try_join_all;

use api::kinds::{find_kind, split_api_version};
use api::{dig, meta};
use serde_json::{Value, json};

use crate::managed::Hand;
use crate::user::MASTERS;
use crate::write::{Author, Change};
use crate::{Api, Failure, User, policy};

/// The namespaces every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Writes what is missing.
pub(crate) async fn run(api: &Arc<Api>) -> Result<(), Failure> {
    let user = own_user();
    let namespaces =
        NAMESPACES.map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    let is_new = api.store.get("namespaces/default").is_none();
    let mut first = namespaces.to_vec();
    // Once: whoever wants no default class, or another, takes it away for good.
    first.extend(is_new.then(default_class));
    together(api, first, &user).await?;
    together(api, objects(api), &user).await?;
    endpoints(api, &user).await
}

/// Writes where this server is found now.
pub(crate) async fn moved(api: &Arc<Api>) -> Result<(), Failure> {
    endpoints(api, &own_user()).await
}

fn own_user() -> User {
    User::new("system:apiserver", [MASTERS])
}

/// All at once, so that the store commits them together: a first start must not wait for the disk a hundred times.
async fn together(api: &Arc<Api>, objects: Vec<Value>, user: &User) -> Result<(), Failure> {
    try_join_all(objects.into_iter().map(|object| ensure(api, object, user))).await.map(drop)
}

fn objects(api: &Api) -> Vec<Value> {
    let mut objects = Vec::new();
    for namespace in NAMESPACES {
        // The controllers do this for every namespace; pods must not wait for them after a first start.
        objects.push(json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace},
        }));
        objects.push(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": "kube-root-ca.crt", "namespace": namespace,
                "annotations": {"kubernetes.io/description": "The CA bundle by which pods recognise the API server."},
            },
            "data": {"ca.crt": api.settings.ca_pem},
        }));
    }
    for (name, value) in [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)] {
        objects.push(json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
            "description": "For what the cluster cannot do without.",
        }));
    }
    objects.push(service(api));
    objects.extend(policy::objects());
    objects
}

/// The class of claims that name none: a directory of the node on which their first pod runs.
fn default_class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "skerry.dev/local", "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
    })
}

/// The Service by which pods reach this server: the first address of the service network.
fn service(api: &Api) -> Value {
    let (network, _) = api.settings.service_cidr;
    let address = Ipv4Addr::from(u32::from(network) + 1).to_string();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": address, "type": "ClusterIP",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": api.settings.advertise.1}],
        },
    })
}

async fn endpoints(api: &Arc<Api>, user: &User) -> Result<(), Failure> {
    let (address, port) = api.advertise();
    let (address, port) = (address.to_string(), json!([{"name": "https", "port": port, "protocol": "TCP"}]));
    let metadata = json!({"name": "kubernetes", "namespace": "default"});
    let mut slice_metadata = metadata.clone();
    slice_metadata["labels"] = json!({"kubernetes.io/service-name": "kubernetes"});
    let wanted = [
        json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": metadata,
            "subsets": [{"addresses": [{"ip": address}], "ports": port}],
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": slice_metadata,
            "addressType": "IPv4", "endpoints": [{"addresses": [address], "conditions": {"ready": true}}], "ports": port,
        }),
    ];
    for object in wanted {
        ensure(api, object.clone(), user).await?;
        let (group, version) = split_api_version(dig::text(&object, "apiVersion"));
        let kind = find_kind(group, version, dig::text(&object, "kind")).ok_or_else(Failure::no_such_path)?;
        let change = Change {
            kind: kind.into(),
            namespace: "default",
            name: "kubernetes",
            subresource: None,
            user,
            dry_run: false,
        };
        let hand = Hand::own(api, kind);
        api.replace(&change, &mut |old| {
            let mut new = old.clone();
            for field in ["subsets", "endpoints", "ports"] {
                dig::put(&mut new, field, dig::get(&object, field).clone());
            }
            hand.wrote(Some(old), &mut new);
            Ok(new)
        })
        .await?;
    }
    Ok(())
}

async fn ensure(api: &Arc<Api>, object: Value, user: &User) -> Result<(), Failure> {
    let (group, version) = split_api_version(dig::text(&object, "apiVersion"));
    let kind = find_kind(group, version, dig::text(&object, "kind")).ok_or_else(Failure::no_such_path)?;
    let namespace = meta::namespace(&object).to_owned();
    if api.store.get(&kind.key(&namespace, meta::name(&object))).is_some() {
        return Ok(());
    }
    let hand = Hand::own(api, kind);
    let author = Author { user, hand: Some(&hand), dry_run: false };
    match api.create_object(&kind.into(), &namespace, object, &author).await {
        Err(failure) if failure.reason != "AlreadyExists" => Err(failure),
        _ => Ok(()),
    }
}
