//! The documents by which clients learn what is served.
//!
//! Start at [`aggregated`], which new clients ask for, and [`groups`] with [`resources`], which old ones do. All take
//! kinds from anywhere: the built-in table followed by those of custom resource definitions.
//!
//! Invariants: groups, versions and resources keep the order in which their kinds first come; the first version of a
//! group is its preferred one.
//!
//! Not here: content negotiation, and API services of others (see the `apiserver` crate).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::kinds::{Kind, Subresource, Verbs};
use crate::schema::Text;

/// The version of the aggregated document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `apidiscovery.k8s.io/v2`.
    V2,
    /// `apidiscovery.k8s.io/v2beta1`, for clients before 1.30.
    V2Beta1,
}

impl Version {
    /// The content type under which clients ask for the document and get it.
    pub fn content_type(self) -> &'static str {
        match self {
            Version::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Version::V2Beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Version::V2 => "apidiscovery.k8s.io/v2",
            Version::V2Beta1 => "apidiscovery.k8s.io/v2beta1",
        }
    }
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
pub fn groups<'a>(kinds: impl IntoIterator<Item = &'a Kind>) -> Value {
    let groups: Vec<Value> = by_group(kinds).iter().filter(|group| !group.name.is_empty()).map(group_entry).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`: one group (`APIGroup`), if any kind is in it.
pub fn group<'a>(name: &str, kinds: impl IntoIterator<Item = &'a Kind>) -> Option<Value> {
    let groups = by_group(kinds.into_iter().filter(|kind| kind.group == name));
    let mut entry = group_entry(groups.first()?);
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Some(entry)
}

/// `/api/v1` and `/apis/GROUP/VERSION`: the resources of one group and version (`APIResourceList`), if there are any.
pub fn resources<'a>(group: &str, version: &str, kinds: impl IntoIterator<Item = &'a Kind>) -> Option<Value> {
    let kinds: Vec<&Kind> = kinds.into_iter().filter(|kind| kind.group == group && kind.version == version).collect();
    let list = |resources: Vec<Value>| {
        let group_version = crate::kinds::join_api_version(group, version);
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
    };
    let resources: Vec<Value> = kinds.iter().flat_map(|kind| resource_entries(kind)).collect();
    (!kinds.is_empty()).then(|| list(resources))
}

/// `/api` and `/apis` for clients that accept the aggregated form (`APIGroupDiscoveryList`): core alone, or the rest.
pub fn aggregated<'a>(core: bool, version: Version, kinds: impl IntoIterator<Item = &'a Kind>) -> Value {
    let items: Vec<Value> =
        by_group(kinds.into_iter().filter(|kind| kind.group.is_empty() == core)).iter().map(aggregated_group).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": version.api_version(), "metadata": {}, "items": items})
}

/// The text by which clients see that a resource's storage version changed: a digest of group, version and kind.
pub fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let digest = Sha256::digest(format!("{group}/{version}/{kind}"));
    STANDARD.encode(&digest[..8])
}

struct Group<'a> {
    name: &'a str,
    versions: Vec<(&'a str, Vec<&'a Kind>)>,
}

fn by_group<'a>(kinds: impl IntoIterator<Item = &'a Kind>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for kind in kinds {
        let (name, version) = (kind.group.as_ref(), kind.version.as_ref());
        let at = groups.iter().position(|group| group.name == name).unwrap_or(groups.len());
        if at == groups.len() {
            groups.push(Group { name, versions: Vec::new() });
        }
        let versions = &mut groups[at].versions;
        match versions.iter_mut().find(|(found, _)| *found == version) {
            Some((_, kinds)) => kinds.push(kind),
            None => versions.push((version, vec![kind])),
        }
    }
    groups
}

fn group_entry(group: &Group<'_>) -> Value {
    let entry = |version: &str| json!({"groupVersion": format!("{}/{version}", group.name), "version": version});
    let versions: Vec<Value> = group.versions.iter().map(|(version, _)| entry(version)).collect();
    json!({"name": group.name, "preferredVersion": versions[0], "versions": versions})
}

fn resource_entries(kind: &Kind) -> Vec<Value> {
    let mut main = Map::new();
    main.insert("name".to_owned(), kind.plural.as_ref().into());
    main.insert("singularName".to_owned(), kind.singular.as_ref().into());
    main.insert("namespaced".to_owned(), kind.namespaced.into());
    main.insert("kind".to_owned(), kind.kind.as_ref().into());
    main.insert("verbs".to_owned(), verbs(kind.verbs));
    put_names(&mut main, "shortNames", &kind.short_names);
    put_names(&mut main, "categories", &kind.categories);
    if kind.is_stored() {
        let hash = storage_version_hash(&kind.storage_group, &kind.storage_version, &kind.kind);
        main.insert("storageVersionHash".to_owned(), hash.into());
    }
    let mut entries = vec![Value::Object(main)];
    entries.extend(kind.subresources.iter().map(|sub| subresource_entry(kind, sub)));
    entries
}

fn subresource_entry(kind: &Kind, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", kind.plural, sub.name),
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": sub.kind,
        "verbs": verbs(sub.verbs),
    });
    if (&sub.group, &sub.version) != (&kind.group, &kind.version) {
        entry["group"] = sub.group.as_ref().into();
        entry["version"] = sub.version.as_ref().into();
    }
    entry
}

fn aggregated_group(group: &Group<'_>) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|(version, kinds)| {
            let resources: Vec<Value> = kinds.iter().map(|kind| aggregated_resource(kind)).collect();
            json!({"version": version, "freshness": "Current", "resources": resources})
        })
        .collect();
    let metadata = match group.name {
        "" => json!({}),
        name => json!({"name": name}),
    };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let mut entry = Map::new();
    entry.insert("resource".to_owned(), kind.plural.as_ref().into());
    entry.insert("responseKind".to_owned(), response_kind(&kind.group, &kind.version, &kind.kind));
    entry.insert("scope".to_owned(), if kind.namespaced { "Namespaced" } else { "Cluster" }.into());
    entry.insert("singularResource".to_owned(), kind.singular.as_ref().into());
    entry.insert("verbs".to_owned(), verbs(kind.verbs));
    put_names(&mut entry, "shortNames", &kind.short_names);
    put_names(&mut entry, "categories", &kind.categories);
    if !kind.subresources.is_empty() {
        let one = |sub: &Subresource| {
            json!({
                "subresource": sub.name,
                "responseKind": response_kind(&sub.group, &sub.version, &sub.kind),
                "verbs": verbs(sub.verbs),
            })
        };
        entry.insert("subresources".to_owned(), kind.subresources.iter().map(one).collect());
    }
    Value::Object(entry)
}

fn response_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn verbs(verbs: Verbs) -> Value {
    verbs.names().collect()
}

fn put_names(entry: &mut Map<String, Value>, key: &str, names: &[Text]) {
    if !names.is_empty() {
        entry.insert(key.to_owned(), names.iter().map(AsRef::as_ref).collect::<Vec<&str>>().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::KINDS;

    fn entry(group: &str, version: &str, name: &str) -> Value {
        let list = resources(group, version, KINDS.iter()).expect("the group is served");
        list["resources"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry["name"] == name)
            .cloned()
            .unwrap_or_default()
    }

    #[test]
    fn resources_say_what_kubectl_prints() {
        let want = json!({
            "name": "deployments", "singularName": "deployment", "namespaced": true, "kind": "Deployment",
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            "shortNames": ["deploy"], "categories": ["all"], "storageVersionHash": "8aSe+NMegvE=",
        });
        assert_eq!(entry("apps", "v1", "deployments"), want);
        assert_eq!(entry("", "v1", "pods")["storageVersionHash"], "xPOwRZ+Yhw8=");
    }

    #[test]
    fn subresources_name_a_group_only_if_it_is_another() {
        let scale = entry("apps", "v1", "deployments/scale");
        assert_eq!((scale["group"].as_str(), scale["kind"].as_str()), (Some("autoscaling"), Some("Scale")));
        assert_eq!(entry("apps", "v1", "deployments/status").get("group"), None);
        assert_eq!(entry("", "v1", "pods/log")["verbs"], json!(["get"]));
    }

    #[test]
    fn both_versions_of_a_kind_share_a_storage_hash() {
        let hash = |version| entry("autoscaling", version, "horizontalpodautoscalers")["storageVersionHash"].clone();
        assert_eq!(hash("v1"), hash("v2"));
    }

    #[test]
    fn groups_prefer_their_first_version_and_leave_core_out() {
        let list = groups(KINDS.iter());
        let groups = list["groups"].as_array().expect("a list of groups");
        assert!(groups.iter().all(|group| group["name"] != ""));
        let autoscaling = group("autoscaling", KINDS.iter()).expect("autoscaling is served");
        assert_eq!(autoscaling["preferredVersion"]["groupVersion"], "autoscaling/v2");
        assert_eq!(autoscaling["versions"].as_array().map(Vec::len), Some(2));
        assert!(group("nothing", KINDS.iter()).is_none() && resources("apps", "v9", KINDS.iter()).is_none());
    }

    #[test]
    fn the_aggregated_form_holds_the_same_resources() {
        for core in [true, false] {
            let list = aggregated(core, Version::V2, KINDS.iter());
            for group in list["items"].as_array().into_iter().flatten() {
                let name = group["metadata"]["name"].as_str().unwrap_or_default();
                assert_eq!(name.is_empty(), core);
                for version in group["versions"].as_array().into_iter().flatten() {
                    let legacy = resources(name, version["version"].as_str().unwrap_or_default(), KINDS.iter());
                    let mains = |list: &Value, key: &str| -> Vec<String> {
                        let names = list["resources"].as_array().into_iter().flatten();
                        names
                            .filter_map(|one| one[key].as_str())
                            .filter(|name| !name.contains('/'))
                            .map(str::to_owned)
                            .collect()
                    };
                    assert_eq!(mains(version, "resource"), mains(&legacy.unwrap_or_default(), "name"));
                }
            }
        }
    }
}
