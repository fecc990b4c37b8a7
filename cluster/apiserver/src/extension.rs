//! API groups that something else in this process answers, under the same roof: authentication, authorisation, discovery.
//!
//! Start at [`Extension`]. Upstream calls this aggregation and speaks HTTP to another server; what we serve ourselves needs
//! no socket in between. [`kind`] makes the rows that discovery shows.
//!
//! Invariant: an extension is asked only what the user may do.

use std::sync::Arc;

use api::custom;
use api::kinds::{Kind, Verbs};
use base::exposition::Exposition;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use serde_json::{Value, json};

use crate::path::Info;
use crate::query::Query;
use crate::{Failure, Response};

/// Finds a file by its path, and has it in the form that a request's headers ask for. Who may have it is a question of RBAC, as
/// for every path.
pub type Pages = fn(path: &str, headers: &HeaderMap) -> Option<Response>;

/// Something that answers an API group.
pub trait Extension: Send + Sync {
    /// What there is: all in one group. Objects of these kinds are not in the store.
    fn kinds(&self) -> Vec<Kind>;

    /// Answers a request to the group.
    fn answer(&self, asked: Asked) -> BoxFuture<'static, Result<Response, Failure>>;

    /// Adds what it counts to the server's `/metrics`.
    fn tell(&self, _told: &mut Exposition) {}
}

/// A request that its user may make.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Such as `list`.
    pub verb: &'static str,
    /// Such as `v1beta1`.
    pub version: String,
    /// Empty outside namespaces.
    pub namespace: String,
    /// The plural.
    pub resource: String,
    /// Empty for a collection.
    pub name: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// The query.
    pub query: Vec<(String, String)>,
    /// The body, as it came.
    pub body: Bytes,
}

impl Asked {
    pub(crate) fn of(info: Info, query: &Query, body: Bytes) -> Asked {
        let Info { verb, version, namespace, resource, name, subresource, .. } = info;
        let query = query.all().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Asked { verb, version, namespace, resource, name, subresource, query, body }
    }

    /// The first value of a key of the query; empty if there is none.
    pub fn get(&self, key: &str) -> &str {
        self.query.iter().find(|(its, _)| its == key).map_or("", |(_, value)| value)
    }
}

/// A row for a kind of an extension. `schema` is a structural one, as definitions have it.
pub fn kind(
    api_version: (&str, &str),
    name: &str,
    plural: &str,
    namespaced: bool,
    verbs: Verbs,
    schema: &Value,
) -> Kind {
    let (group, version) = api_version;
    let definition = json!({"spec": {
        "group": group, "scope": if namespaced { "Namespaced" } else { "Cluster" },
        "names": {"kind": name, "plural": plural},
        "versions": [{"name": version, "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
    }});
    // One version gives one kind.
    let (kind, _) = custom::kinds(&definition, 0).remove(0);
    Kind { verbs, ..kind }
}

/// Who answers which group.
pub(crate) struct Extensions(Vec<(String, Arc<dyn Extension>)>);

impl Extensions {
    /// Asks each once what it answers, with its kinds.
    pub(crate) fn new(all: &[Arc<dyn Extension>]) -> (Extensions, Vec<Kind>) {
        let mut groups: Vec<(String, Arc<dyn Extension>)> = Vec::new();
        let mut kinds = Vec::new();
        for extension in all {
            let its = extension.kinds();
            groups.extend(its.first().map(|kind| (kind.group.to_string(), extension.clone())));
            kinds.extend(its);
        }
        (Extensions(groups), kinds)
    }

    /// Lets each add what it counts.
    pub(crate) fn tell(&self, told: &mut Exposition) {
        self.0.iter().for_each(|(_, extension)| extension.tell(told));
    }

    /// Who answers a group, if it is none of ours.
    pub(crate) fn of(&self, group: &str) -> Option<&Arc<dyn Extension>> {
        self.0.iter().find(|(its, _)| its == group).map(|(_, extension)| extension)
    }
}
