//! The environment of a container: literals, references, Services.
//!
//! Start at [`environment`].
//!
//! Invariants:
//! * later sources win: Services, then `envFrom`, then `env`;
//! * a missing object is an error that names it, unless the reference is optional.
//!
//! Not here: fetching ConfigMaps and Secrets (`objects`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Service};

use super::fields::{self, FieldFacts};
use super::{ConfigError, Source};

/// What environments are made of besides the pod.
pub struct EnvFacts<'a> {
    /// ConfigMaps and Secrets.
    pub source: &'a dyn Source,
    /// Services of the pod's namespace, and `default/kubernetes`.
    pub services: &'a [std::sync::Arc<Service>],
    /// What fields refer to.
    pub fields: FieldFacts<'a>,
    /// A file of a volume, for `fileKeyRef`; nothing if it is not there.
    pub volume_file: &'a dyn Fn(&str, &str) -> Result<Option<String>, String>,
}

/// A container's environment, in order.
pub fn environment(container: &Container, facts: &EnvFacts<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut all: Vec<(String, String)> = Vec::new();
    for (name, value) in service_variables(facts) {
        put(&mut all, name, value);
    }
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let values = if let Some(reference) = &from.config_map_ref {
            let found = facts.source.config_map(&reference.name);
            let missing = || ConfigError::ConfigMapMissing(reference.name.clone());
            optional(found, reference.optional, missing)?.map(|object| object.data.clone().unwrap_or_default())
        } else if let Some(reference) = &from.secret_ref {
            let missing = || ConfigError::SecretMissing(reference.name.clone());
            let found = optional(facts.source.secret(&reference.name), reference.optional, missing)?;
            found.map(|object| {
                let data = object.data.iter().flatten();
                data.map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned())).collect()
            })
        } else {
            None
        };
        for (key, value) in values.unwrap_or_default() {
            put(&mut all, format!("{prefix}{key}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(variable, &all, facts)? {
            put(&mut all, variable.name.clone(), value);
        }
    }
    Ok(all)
}

fn put(all: &mut Vec<(String, String)>, name: String, value: String) {
    match all.iter_mut().find(|(known, _)| *known == name) {
        Some(entry) => entry.1 = value,
        None => all.push((name, value)),
    }
}

fn optional<T>(
    found: Option<T>,
    optional: Option<bool>,
    missing: impl FnOnce() -> ConfigError,
) -> Result<Option<T>, ConfigError> {
    match found {
        Some(found) => Ok(Some(found)),
        None if optional == Some(true) => Ok(None),
        None => Err(missing()),
    }
}

fn value_of(
    variable: &EnvVar,
    so_far: &[(String, String)],
    facts: &EnvFacts<'_>,
) -> Result<Option<String>, ConfigError> {
    if let Some(value) = variable.value.as_deref().filter(|value| !value.is_empty()) {
        return Ok(Some(expand(value, &|name| lookup(so_far, name))));
    }
    match &variable.value_from {
        Some(from) => referenced(from, facts),
        None => Ok(Some(String::new())),
    }
}

fn lookup(so_far: &[(String, String)], name: &str) -> Option<String> {
    so_far.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

fn referenced(from: &EnvVarSource, facts: &EnvFacts<'_>) -> Result<Option<String>, ConfigError> {
    let namespace = &facts.fields.pod.namespace;
    if let Some(reference) = &from.field_ref {
        return fields::field(&reference.field_path, &facts.fields).map(Some);
    }
    if let Some(reference) = &from.resource_field_ref {
        return fields::resource(reference, &facts.fields).map(Some);
    }
    if let Some(reference) = &from.config_map_key_ref {
        let missing = || ConfigError::ConfigMapMissing(reference.name.clone());
        let Some(object) = optional(facts.source.config_map(&reference.name), reference.optional, missing)? else {
            return Ok(None);
        };
        let value = object.data.as_ref().and_then(|data| data.get(&reference.key)).cloned();
        let missing = || ConfigError::KeyMissing {
            key: reference.key.clone(),
            object: format!("ConfigMap {namespace}/{}", reference.name),
        };
        return optional(value, reference.optional, missing);
    }
    if let Some(reference) = &from.secret_key_ref {
        let missing = || ConfigError::SecretMissing(reference.name.clone());
        let Some(object) = optional(facts.source.secret(&reference.name), reference.optional, missing)? else {
            return Ok(None);
        };
        let bytes = object.data.as_ref().and_then(|data| data.get(&reference.key));
        let value = bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
        let missing = || ConfigError::KeyMissing {
            key: reference.key.clone(),
            object: format!("Secret {namespace}/{}", reference.name),
        };
        return optional(value, reference.optional, missing);
    }
    if let Some(reference) = &from.file_key_ref {
        let content = (facts.volume_file)(&reference.volume_name, &reference.path).map_err(|detail| {
            ConfigError::File { path: reference.path.clone(), volume: reference.volume_name.clone(), detail }
        })?;
        let value = content.and_then(|content| key_of_file(&content, &reference.key));
        let missing = || ConfigError::KeyMissing {
            key: reference.key.clone(),
            object: format!("file {} of volume {}", reference.path, reference.volume_name),
        };
        return optional(value, reference.optional, missing);
    }
    Ok(Some(String::new()))
}

/// The value of `KEY='value'` or `KEY=value` in a file of variables.
fn key_of_file(content: &str, key: &str) -> Option<String> {
    content.lines().find_map(|line| {
        let (name, value) = line.trim().split_once('=')?;
        let value = value.trim();
        (name.trim() == key)
            .then(|| value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).unwrap_or(value).to_owned())
    })
}

/// Replaces `$(NAME)` by its value; `$$` is one `$`, and what names nothing stays as it is.
pub fn expand(text: &str, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match value(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The variables that tell of Services, as Docker's links did.
fn service_variables(facts: &EnvFacts<'_>) -> BTreeMap<String, String> {
    let pod = facts.fields.pod;
    let links = pod.spec().enable_service_links.unwrap_or(true);
    let mut all = BTreeMap::new();
    // `default/kubernetes` first, so that a Service of that name in the pod's namespace wins.
    let mut services: Vec<&std::sync::Arc<Service>> = facts.services.iter().collect();
    services.sort_by_key(|service| service.metadata.namespace.as_deref() == Some(pod.namespace.as_str()));
    for service in services {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let master = namespace == "default" && name == "kubernetes";
        if master || links && namespace == pod.namespace {
            variables_of(name, service, &mut all);
        }
    }
    all
}

fn variables_of(name: &str, service: &Service, all: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let Some(first) = spec.ports.iter().flatten().next() else { return };
    let prefix = name.to_uppercase().replace('-', "_");
    all.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    all.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let key = format!("{prefix}_SERVICE_PORT_{}", port_name.to_uppercase().replace('-', "_"));
            all.insert(key, port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            all.insert(format!("{prefix}_PORT"), url.clone());
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        all.insert(format!("{link}_PROTO"), protocol.to_lowercase());
        all.insert(format!("{link}_PORT"), port.port.to_string());
        all.insert(format!("{link}_ADDR"), ip.to_owned());
        all.insert(link, url);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Objects, pod_with};
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_expanded_and_dollars_escaped() {
        let value = |name: &str| (name == "A").then(|| "x".to_owned());
        for (text, wanted) in [
            ("$(A)", "x"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$A $", "$A $"),
            ("a$(A)b$(A)", "axbx"),
            ("$(A", "$(A"),
            ("$$$(A)", "$x"),
        ] {
            assert_eq!(expand(text, &value), wanted, "{text}");
        }
    }

    #[track_caller]
    fn check(container: serde_json::Value, wanted: Result<&[(&str, &str)], &str>) {
        let pod = pod_with(container);
        let objects = Objects::from_json(json!({"cm": {"a": "1", "b": "2"}}), json!({"s": {"k": "c2VjcmV0"}}));
        let facts = EnvFacts {
            source: &objects,
            services: &[],
            fields: super::super::tests::fields(&pod),
            volume_file: &|_, path| match path {
                "large" => Err("it is too large".to_owned()),
                _ => Ok(Some("X='y'\n".to_owned())),
            },
        };
        let found = environment(&pod.members[0].container, &facts);
        match (found, wanted) {
            (Ok(found), Ok(wanted)) => {
                let found: Vec<(&str, &str)> = found.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                assert_eq!(found, wanted);
            }
            (Err(error), Err(wanted)) => assert_eq!(error.to_string(), wanted),
            (found, wanted) => panic!("{found:?} instead of {wanted:?}"),
        }
    }

    #[test]
    fn environments_come_from_everywhere() {
        check(
            json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"}]}),
            Ok(&[("A", "1"), ("B", "12")]),
        );
        check(
            json!({"envFrom": [{"prefix": "p_", "configMapRef": {"name": "cm"}}]}),
            Ok(&[("p_a", "1"), ("p_b", "2")]),
        );
        check(
            json!({"envFrom": [{"configMapRef": {"name": "cm"}}], "env": [{"name": "a", "value": "9"}]}),
            Ok(&[("a", "9"), ("b", "2")]),
        );
        let secret = json!({"env": [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]});
        check(secret, Ok(&[("S", "secret")]));
        let field = json!({"env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]});
        check(field, Ok(&[("N", "web")]));
        let file =
            json!({"env": [{"name": "F", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "X"}}}]});
        check(file, Ok(&[("F", "y")]));
        let refused = json!({"volumeName": "v", "path": "large", "key": "X", "optional": true});
        let refused = json!({"env": [{"name": "F", "valueFrom": {"fileKeyRef": refused}}]});
        check(refused, Err("failed to read file large of volume v: it is too large"));
    }

    #[test]
    fn what_is_missing_is_named_unless_optional() {
        let from = |reference| json!({"env": [{"name": "A", "valueFrom": reference}]});
        check(from(json!({"configMapKeyRef": {"name": "no", "key": "k"}})), Err("configmap \"no\" not found"));
        check(from(json!({"secretKeyRef": {"name": "no", "key": "k"}})), Err("secret \"no\" not found"));
        check(
            from(json!({"configMapKeyRef": {"name": "cm", "key": "z"}})),
            Err("couldn't find key z in ConfigMap default/cm"),
        );
        check(from(json!({"configMapKeyRef": {"name": "no", "key": "k", "optional": true}})), Ok(&[]));
        check(from(json!({"secretKeyRef": {"name": "s", "key": "z", "optional": true}})), Ok(&[]));
    }

    #[test]
    fn services_are_told_as_links() {
        let service = json!({
            "metadata": {"name": "my-db", "namespace": "default"},
            "spec": {"clusterIP": "10.43.0.7", "ports": [{"name": "sql", "port": 5432}]},
        });
        let mut all = BTreeMap::new();
        variables_of("my-db", &serde_json::from_value(service).expect("a service"), &mut all);
        let text: Vec<String> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            text,
            [
                "MY_DB_PORT=tcp://10.43.0.7:5432",
                "MY_DB_PORT_5432_TCP=tcp://10.43.0.7:5432",
                "MY_DB_PORT_5432_TCP_ADDR=10.43.0.7",
                "MY_DB_PORT_5432_TCP_PORT=5432",
                "MY_DB_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_SERVICE_HOST=10.43.0.7",
                "MY_DB_SERVICE_PORT=5432",
                "MY_DB_SERVICE_PORT_SQL=5432",
            ]
        );
    }
}
