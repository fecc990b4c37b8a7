//! The DNS role: answers on this node's address among its pods, and tells the cluster so.
//!
//! Start at [`run`]. Pods ask the Service `kube-system/kube-dns`, an ordinary one; its endpoints are the nodes, and its
//! traffic stays on the node, so that DNS works as long as the node does.

use std::net::Ipv4Addr;
use std::sync::Arc;

use base::chain;
use bytes::Bytes;
use client::{Caches, Client, ClientError};
use http::Method;
use serde_json::{Value, json};

/// What the role needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node's name.
    pub node: String,
    /// This node's address among its pods.
    pub gateway: Ipv4Addr,
    /// The Service's address.
    pub cluster_dns: Ipv4Addr,
    /// Such as `cluster.local`.
    pub domain: String,
    /// Where the node's own servers are named.
    pub resolv_conf: std::path::PathBuf,
}

/// Announces and serves, until it fails to listen.
pub async fn run(options: Options, client: Client, caches: Arc<Caches>) -> Result<(), dns::DnsError> {
    for (path, object) in objects(&options) {
        if let Err(error) = ensure(&client, path, &object).await {
            tracing::warn!(path, error = %chain(&error), "failed to announce cluster DNS");
        }
    }
    let own = [options.gateway, options.cluster_dns];
    let upstreams = dns::Upstreams::of_file(&options.resolv_conf, &own);
    let listen = vec![(options.gateway, 53).into()];
    dns::run(dns::Options { listen, domain: options.domain, upstreams }, caches).await
}

/// Sees that an object is there as it should be. Asked for first and created after: a Service that is there already
/// would be refused for its address, not for its name.
async fn ensure(client: &Client, path: &str, object: &Value) -> Result<(), ClientError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let body = Bytes::from(object.to_string());
    let merge = "application/merge-patch+json";
    match client.call(Method::PATCH, format!("{path}/{name}"), merge, body.clone()).await {
        Err(error) if error.not_found() => {
            client.call(Method::POST, path.to_owned(), "application/json", body).await.map(drop)
        }
        other => other.map(drop),
    }
}

fn objects(options: &Options) -> [(&'static str, Value); 2] {
    let labels =
        json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {
            "clusterIP": options.cluster_dns, "clusterIPs": [options.cluster_dns], "type": "ClusterIP",
            "internalTrafficPolicy": "Local",
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("kube-dns-{}", options.node), "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns",
                       "endpointslice.kubernetes.io/managed-by": "dns.skerry.dev"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}],
        "endpoints": [{"addresses": [options.gateway], "nodeName": options.node,
                       "conditions": {"ready": true, "serving": true, "terminating": false}}],
    });
    [
        ("/api/v1/namespaces/kube-system/services", service),
        ("/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices", slice),
    ]
}
