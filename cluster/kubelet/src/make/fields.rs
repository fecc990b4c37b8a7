//! What `fieldRef` and `resourceFieldRef` refer to, for the environment and for downward API volumes.
//!
//! Start at [`field`] and [`resource`].

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceFieldSelector;

use super::ConfigError;
use crate::pod::PodInfo;
use crate::quantity;

/// What fields refer to.
#[derive(Clone, Copy)]
pub struct FieldFacts<'a> {
    /// The pod.
    pub pod: &'a PodInfo,
    /// The container whose resources are meant where none is named.
    pub container: &'a str,
    /// The pod's addresses; with the host's network, the host's.
    pub pod_ips: &'a [String],
    /// The node's addresses.
    pub host_ips: &'a [String],
    /// The node's name.
    pub node_name: &'a str,
    /// What the node can give, in thousandths, for limits that are not set.
    pub allocatable_milli: &'a BTreeMap<String, i128>,
}

/// The value of a field such as `metadata.labels['app']`.
pub fn field(path: &str, facts: &FieldFacts<'_>) -> Result<String, ConfigError> {
    let (pod, metadata) = (facts.pod, &facts.pod.pod.metadata);
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return Err(ConfigError::Field(path.to_owned())),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => pod.name.clone(),
        "metadata.namespace" => pod.namespace.clone(),
        "metadata.uid" => pod.uid.clone(),
        "metadata.labels" => lines(&metadata.labels),
        "metadata.annotations" => lines(&metadata.annotations),
        "spec.nodeName" => facts.node_name.to_owned(),
        "spec.serviceAccountName" => pod.spec().service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(facts.host_ips),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => first(facts.pod_ips),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(ConfigError::Field(path.to_owned())),
    })
}

/// `metadata.labels['app']` as map and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

fn lines(map: &Option<BTreeMap<String, String>>) -> String {
    let line = |(key, value): (&String, &String)| format!("{key}={}", quoted(value));
    map.iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

/// A text in double quotes with Go's escapes.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            letter if letter.is_control() => out.push_str(&format!("\\x{:02x}", letter as u32)),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// The value of a resource such as `limits.cpu`, in units of the divisor, rounded up.
pub fn resource(selector: &ResourceFieldSelector, facts: &FieldFacts<'_>) -> Result<String, ConfigError> {
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(facts.container);
    let member = facts.pod.member(name).ok_or_else(|| ConfigError::Container(name.to_owned()))?;
    let resources = member.container.resources.clone().unwrap_or_default();
    let (kind, what) =
        selector.resource.split_once('.').ok_or_else(|| ConfigError::Field(selector.resource.clone()))?;
    let map = match kind {
        "limits" => resources.limits,
        "requests" => resources.requests,
        _ => return Err(ConfigError::Field(selector.resource.clone())),
    };
    let set = map.as_ref().and_then(|map| map.get(what)).and_then(quantity::milli).filter(|milli| *milli > 0);
    let value = match (set, kind) {
        (Some(milli), _) => milli,
        // A container without a limit is limited by the node.
        (None, "limits") => facts.allocatable_milli.get(what).copied().unwrap_or(0),
        (None, _) => 0,
    };
    Ok(quantity::divided(value, selector.divisor.as_ref()).to_string())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fields, pod_with};
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_found_by_path() {
        let mut pod = pod_with(json!({}));
        pod.pod.metadata.labels = Some(BTreeMap::from([("app".into(), "w\"eb".into()), ("b".into(), "2".into())]));
        let facts = fields(&pod);
        for (path, wanted) in [
            ("metadata.name", "web"),
            ("metadata.labels['app']", "w\"eb"),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "app=\"w\\\"eb\"\nb=\"2\""),
            ("status.podIP", "10.42.0.5"),
            ("status.podIPs", "10.42.0.5,fd00::5"),
            ("spec.nodeName", "node-1"),
        ] {
            assert_eq!(field(path, &facts).expect(path), wanted, "{path}");
        }
        assert_eq!(
            field("spec.nosuch", &facts).map_err(|error| error.to_string()),
            Err("unsupported fieldPath: spec.nosuch".to_owned())
        );
    }

    #[test]
    fn resources_are_divided_and_limits_fall_back_to_the_node() {
        let pod = pod_with(json!({"resources": {"limits": {"cpu": "250m"}, "requests": {"memory": "64Mi"}}}));
        let facts = fields(&pod);
        for (resource_name, divisor, wanted) in [
            ("limits.cpu", None, "1"),
            ("limits.cpu", Some("1m"), "250"),
            ("requests.memory", Some("1Mi"), "64"),
            ("limits.memory", Some("1Gi"), "4"),
            ("requests.cpu", None, "0"),
        ] {
            let mut selector = json!({"resource": resource_name});
            if let Some(divisor) = divisor {
                selector["divisor"] = divisor.into();
            }
            let selector = serde_json::from_value(selector).expect("a selector");
            assert_eq!(resource(&selector, &facts).expect(resource_name), wanted, "{resource_name}");
        }
    }
}
