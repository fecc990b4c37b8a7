//! The documents by which clients learn what is served.
//!
//! Start at [`aggregated`], which new clients ask for, and [`groups`] with [`resources`], which old ones do. All take
//! kinds from anywhere: the built-in table followed by those of custom resource definitions.
//!
//! Invariants: groups, versions and resources keep the order in which their kinds come; the first version of a group
//! is its preferred one.
//!
//! Not here: content negotiation, and API services of others (see the `apiserver` crate).

use serde_json::{Value, json};

use crate::kinds::Kind;

/// The version of the aggregated document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `apidiscovery.k8s.io/v2`.
    V2,
    /// `apidiscovery.k8s.io/v2beta1`, for clients before 1.30.
    V2Beta1,
}

/// `/api`: the core versions (`APIVersions`).
pub fn versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `/apis`: every group but core (`APIGroupList`).
pub fn groups<'a>(_kinds: impl IntoIterator<Item = &'a Kind>) -> Value {
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
}

/// `/apis/GROUP`: one group (`APIGroup`), if any kind is in it.
pub fn group<'a>(_name: &str, _kinds: impl IntoIterator<Item = &'a Kind>) -> Option<Value> {
    None
}

/// `/api/v1` and `/apis/GROUP/VERSION`: the resources of one group and version (`APIResourceList`), if there are any.
pub fn resources<'a>(_group: &str, _version: &str, _kinds: impl IntoIterator<Item = &'a Kind>) -> Option<Value> {
    None
}

/// `/api` and `/apis` for clients that accept the aggregated form (`APIGroupDiscoveryList`): core alone, or the rest.
pub fn aggregated<'a>(_core: bool, _version: Version, _kinds: impl IntoIterator<Item = &'a Kind>) -> Value {
    json!({"kind": "APIGroupDiscoveryList", "items": []})
}
