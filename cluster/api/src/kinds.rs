//! The table of kinds: what is served, under which names, with which verbs.
//!
//! Start at [`KINDS`]; [`find`] answers a request's path, [`find_kind`] a body's `apiVersion` and `kind`. A custom
//! resource definition makes more [`Kind`]s at run time. Routes, discovery, OpenAPI and storage keys read these rows.
//!
//! Invariants:
//! * group, version and plural name one row; so do group, version and kind;
//! * the rows of a group stand together, the preferred version first, in the order that discovery prints;
//! * a kind in several versions has one storage version, and all of them share one key prefix.
//!
//! Not here: the fields of a kind's objects (`schema.rs`).

mod table;

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use crate::custom::Own;
use crate::schema::{Text, Type, TypeRef, find_ref};

/// A kind as it is served in one version.
#[derive(Clone, Debug)]
pub struct Kind {
    /// The API group; empty for core.
    pub group: Text,
    /// The version, such as `v1`.
    pub version: Text,
    /// The kind, such as `Deployment`.
    pub kind: Text,
    /// The resource's name in paths, such as `deployments`.
    pub plural: Text,
    /// The singular name, such as `deployment`.
    pub singular: Text,
    /// The kind of a list, such as `DeploymentList`; empty for kinds that are never listed.
    pub list_kind: Text,
    /// Short names for the command line.
    pub short_names: Vec<Text>,
    /// Groups of resources such as `all`.
    pub categories: Vec<Text>,
    /// Objects live in a namespace.
    pub namespaced: bool,
    /// What can be done with objects.
    pub verbs: Verbs,
    /// What lies below an object, sorted by name.
    pub subresources: Vec<Subresource>,
    /// The group in which objects are stored; another one only for `events.k8s.io`, whose objects are core Events.
    pub storage_group: Text,
    /// The version in which objects are stored.
    pub storage_version: Text,
    /// What an object looks like.
    pub ty: TypeRef,
    /// What a definition adds; nothing for built-in kinds.
    pub own: Option<Arc<Own>>,
}

/// A kind from anywhere: a row of the table, or one that a definition made and may take away again.
#[derive(Clone, Debug)]
pub enum KindRef {
    /// A row of the table.
    BuiltIn(&'static Kind),
    /// A definition's.
    Own(Arc<Kind>),
}

impl Deref for KindRef {
    type Target = Kind;

    fn deref(&self) -> &Kind {
        match self {
            KindRef::BuiltIn(kind) => kind,
            KindRef::Own(kind) => kind,
        }
    }
}

impl From<&'static Kind> for KindRef {
    fn from(kind: &'static Kind) -> KindRef {
        KindRef::BuiltIn(kind)
    }
}

impl From<Kind> for KindRef {
    fn from(kind: Kind) -> KindRef {
        KindRef::Own(Arc::new(kind))
    }
}

/// Something that lies below an object, such as `status` or `exec`.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// The name in paths.
    pub name: Text,
    /// The group of the kind it speaks.
    pub group: Text,
    /// The version of the kind it speaks.
    pub version: Text,
    /// The kind it speaks.
    pub kind: Text,
    /// What can be done with it.
    pub verbs: Verbs,
}

/// A set of verbs.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Verbs(u16);

/// Every verb, in the order that discovery prints.
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Verbs {
    /// Nothing can be done.
    pub const NONE: Verbs = Verbs(0);
    /// Everything can be done.
    pub const ALL: Verbs = Verbs(0xff);
    /// `create`.
    pub const CREATE: Verbs = Verbs(1);
    /// `delete`.
    pub const DELETE: Verbs = Verbs(1 << 1);
    /// `deletecollection`.
    pub const DELETE_COLLECTION: Verbs = Verbs(1 << 2);
    /// `get`.
    pub const GET: Verbs = Verbs(1 << 3);
    /// `list`.
    pub const LIST: Verbs = Verbs(1 << 4);
    /// `patch`.
    pub const PATCH: Verbs = Verbs(1 << 5);
    /// `update`.
    pub const UPDATE: Verbs = Verbs(1 << 6);
    /// `watch`.
    pub const WATCH: Verbs = Verbs(1 << 7);

    /// Both sets together.
    pub const fn and(self, other: Verbs) -> Verbs {
        Verbs(self.0 | other.0)
    }

    /// This set without the other.
    pub const fn without(self, other: Verbs) -> Verbs {
        Verbs(self.0 & !other.0)
    }

    /// Every verb of the other set is in this one.
    pub const fn has(self, other: Verbs) -> bool {
        self.0 & other.0 == other.0
    }

    /// The verb of that name is in the set.
    pub fn allows(self, verb: &str) -> bool {
        self.names().any(|name| name == verb)
    }

    /// The verbs' names, in the order that discovery prints.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        VERBS.iter().enumerate().filter(move |(bit, _)| self.0 & (1 << bit) != 0).map(|(_, name)| *name)
    }
}

impl fmt::Debug for Verbs {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.names()).finish()
    }
}

/// Every built-in kind.
pub static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(table::build);

/// The built-in kind behind a path.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.plural == plural && kind.version == version && kind.group == group)
}

/// The built-in kind of a body.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|row| row.kind == kind && row.version == version && row.group == group)
}

/// The built-in type of any body or answer: objects, lists, and what travels beside them (`Status`, `DeleteOptions`,
/// `Scale`, `Eviction`, `TokenRequest`, `WatchEvent`).
pub fn type_of(api_version: &str, kind: &str) -> Option<TypeRef> {
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
    let (group, version) = split_api_version(api_version);
    let in_version = || KINDS.iter().filter(|row| row.version == version && row.group == group);
    if let Some(row) = in_version().find(|row| row.kind == kind) {
        return Some(row.ty.clone());
    }
    if let Some(row) = in_version().find(|row| !row.list_kind.is_empty() && row.list_kind == kind) {
        return find_ref(&format!("{}List", row.ty.name));
    }
    match (api_version, kind) {
        ("autoscaling/v1", "Scale") => find_ref("io.k8s.api.autoscaling.v1.Scale"),
        ("policy/v1", "Eviction") => find_ref("io.k8s.api.policy.v1.Eviction"),
        ("authentication.k8s.io/v1", "TokenRequest") => find_ref("io.k8s.api.authentication.v1.TokenRequest"),
        // Options may name the group they are meant for.
        (_, "DeleteOptions") | ("v1" | "meta.k8s.io/v1", _) => find_ref(&format!("{META}{kind}")),
        _ => None,
    }
}

/// Splits an `apiVersion` into group and version: `apps/v1`, or `v1` for core.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// Joins group and version into an `apiVersion`.
pub fn join_api_version(group: &str, version: &str) -> String {
    match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    }
}

impl Kind {
    /// What an object looks like.
    pub fn schema(&self) -> &Type {
        &self.ty
    }

    /// The `apiVersion` of an object.
    pub fn api_version(&self) -> String {
        join_api_version(&self.group, &self.version)
    }

    /// Resource and group as one name: `pods`, `deployments.apps`.
    pub fn qualified_plural(&self) -> String {
        match self.group.as_ref() {
            "" => self.plural.to_string(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// What the keys of stored objects begin with: `pods`, `deployments.apps`.
    pub fn key_prefix(&self) -> String {
        match self.storage_group.as_ref() {
            "" => self.plural.to_string(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// The key of an object in the store; the namespace is left out for kinds without one.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        match self.namespaced {
            true => format!("{}/{namespace}/{name}", self.key_prefix()),
            false => format!("{}/{name}", self.key_prefix()),
        }
    }

    /// Bytes of that revision can be served as they are stored: same version, same schema.
    pub fn serves_stored(&self, revision: u64) -> bool {
        self.is_storage_version() && self.own.as_ref().is_none_or(|own| revision > own.since)
    }

    /// Objects are stored; the others exist only while a request lasts (`TokenReview`, `Binding`).
    pub fn is_stored(&self) -> bool {
        self.verbs.has(Verbs::GET.and(Verbs::DELETE))
    }

    /// This row is the version in which objects are stored.
    pub fn is_storage_version(&self) -> bool {
        self.is_stored() && self.group == self.storage_group && self.version == self.storage_version
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// The kind has a `status` of its own, which ordinary writes leave alone.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_by_path_and_by_kind() {
        let by_path = find("apps", "v1", "deployments").expect("apps/v1 deployments is in the table");
        let by_kind = find_kind("apps", "v1", "Deployment").expect("apps/v1 Deployment is in the table");
        assert!(std::ptr::eq(by_path, by_kind));
        assert_eq!(by_path.key("web", "front"), "deployments.apps/web/front");
        assert!(find("apps", "v2", "deployments").is_none());
    }

    #[test]
    fn core_has_no_group_in_its_keys() {
        let pods = find("", "v1", "pods").expect("pods are in the table");
        assert_eq!((pods.key("a", "b").as_str(), pods.api_version().as_str()), ("pods/a/b", "v1"));
        let nodes = find("", "v1", "nodes").expect("nodes are in the table");
        assert_eq!(nodes.key("", "n1"), "nodes/n1");
    }

    #[test]
    fn events_of_both_groups_are_one_thing() {
        let keys: Vec<String> = ["", "events.k8s.io"]
            .iter()
            .map(|group| find(group, "v1", "events").expect("both event groups are in the table").key_prefix())
            .collect();
        assert_eq!(keys, ["events", "events"]);
    }

    #[test]
    fn rows_are_unique_and_groups_stand_together() {
        let mut paths: Vec<_> = KINDS.iter().map(|kind| (&kind.group, &kind.version, &kind.plural)).collect();
        let mut groups: Vec<_> = KINDS.iter().map(|kind| &kind.group).collect();
        groups.dedup();
        let together = groups.len();
        groups.sort();
        groups.dedup();
        assert_eq!(groups.len(), together);
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), KINDS.len());
    }

    #[test]
    fn every_storage_version_is_served() {
        for kind in KINDS.iter().filter(|kind| kind.is_stored()) {
            let stored = find(&kind.storage_group, &kind.storage_version, &kind.plural);
            assert!(stored.is_some_and(Kind::is_storage_version), "{} has no storage version", kind.qualified_plural());
        }
    }

    #[test]
    fn types_are_found_for_everything_that_travels() {
        for (api_version, kind) in [
            ("v1", "Pod"),
            ("apps/v1", "DeploymentList"),
            ("v1", "Status"),
            ("policy/v1", "DeleteOptions"),
            ("autoscaling/v1", "Scale"),
            ("policy/v1", "Eviction"),
        ] {
            assert!(type_of(api_version, kind).is_some_and(|ty| ty.name.ends_with(kind)), "no type for {kind}");
        }
        assert!(type_of("v1", "Nothing").is_none() && type_of("apps/v1", "Status").is_none());
    }

    #[test]
    fn verbs_print_in_discovery_order() {
        let verbs: Vec<&str> = Verbs::UPDATE.and(Verbs::GET).and(Verbs::PATCH).names().collect();
        assert_eq!(verbs, ["get", "patch", "update"]);
        assert!(Verbs::ALL.allows("watch") && !Verbs::NONE.allows("get"));
    }
}
