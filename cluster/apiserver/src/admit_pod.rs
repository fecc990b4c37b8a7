//! What pods get from their surroundings: an account and its token, a priority, tolerations, limits.
//!
//! Start at [`create`].
//!
//! Not here: which node (the scheduler), which runtime's overhead (RuntimeClass has none in this version).

use api::kinds::Kind;
use api::quantity::Quantity;
use api::{dig, meta};
use serde_json::{Map, Value, json};

use crate::status::resource_of;
use crate::{Api, Failure};

const TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A token lives a little over an hour, and the kubelet renews it before.
const TOKEN_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";
const CONTAINERS: [&str; 2] = ["spec.initContainers", "spec.containers"];

/// Admits a new pod.
pub(crate) fn create(api: &Api, kind: &Kind, pod: &mut Value) -> Result<(), Failure> {
    service_account(api, kind, pod)?;
    priority(api, kind, pod)?;
    let settings = &api.settings;
    default_toleration_seconds(pod, settings.not_ready_toleration_seconds, settings.unreachable_toleration_seconds);
    limit_ranger(api, kind, pod)
}

/// What was added once stays, also when a client sends back what it wrote first.
pub(crate) fn update(pod: &mut Value, old: &Value) {
    for field in ["spec.priority", "spec.preemptionPolicy", "spec.serviceAccountName", "spec.serviceAccount"] {
        if !dig::has(pod, field) && dig::has(old, field) {
            dig::put(pod, field, dig::get(old, field).clone());
        }
    }
}

/// ServiceAccount: every pod runs as an account of its namespace, and its containers find that account's token.
fn service_account(api: &Api, kind: &Kind, pod: &mut Value) -> Result<(), Failure> {
    if meta::annotation(pod, MIRROR).is_some() {
        return Ok(());
    }
    let name = match (dig::text(pod, "spec.serviceAccountName"), dig::text(pod, "spec.serviceAccount")) {
        ("", "") => "default",
        ("", old) => old,
        (name, _) => name,
    };
    let name = name.to_owned();
    let namespace = meta::namespace(pod).to_owned();
    let Some(account) = api.object(&format!("serviceaccounts/{namespace}/{name}")) else {
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        return Err(Failure::forbidden(resource_of(kind), meta::name(pod), &why));
    };
    dig::put(pod, "spec.serviceAccountName", name.as_str().into());
    dig::put(pod, "spec.serviceAccount", name.into());
    let mounts = match (
        pod["spec"]["automountServiceAccountToken"].as_bool(),
        account["automountServiceAccountToken"].as_bool(),
    ) {
        (Some(own), _) => own,
        (None, of_account) => of_account.unwrap_or(true),
    };
    if mounts {
        mount_token(api, pod);
    }
    if dig::list(pod, "spec.imagePullSecrets").is_empty() && !dig::list(&account, "imagePullSecrets").is_empty() {
        dig::put(pod, "spec.imagePullSecrets", account["imagePullSecrets"].clone());
    }
    Ok(())
}

fn mount_token(api: &Api, pod: &mut Value) {
    let has_mount =
        |container: &Value| dig::list(container, "volumeMounts").iter().any(|mount| mount["mountPath"] == TOKEN_FOLDER);
    let missing = CONTAINERS.iter().any(|list| dig::list(pod, list).iter().any(|container| !has_mount(container)));
    if !missing {
        return;
    }
    let ours = dig::list(pod, "spec.volumes")
        .iter()
        .find(|volume| dig::text(volume, "name").starts_with("kube-api-access-") && dig::has(volume, "projected"));
    let name = match ours {
        Some(volume) => dig::text(volume, "name").to_owned(),
        None => {
            let name = format!("kube-api-access-{}", api.rng().suffix(5));
            push(pod, "spec.volumes", token_volume(&name));
            name
        }
    };
    for list in CONTAINERS {
        for container in dig::items_mut(pod, list).iter_mut().filter(|container| !has_mount(container)) {
            push(container, "volumeMounts", json!({"name": name, "readOnly": true, "mountPath": TOKEN_FOLDER}));
        }
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

fn push(object: &mut Value, path: &str, item: Value) {
    let mut items = dig::list(object, path).to_vec();
    items.push(item);
    dig::put(object, path, items.into());
}

/// Priority: the class' number, which the scheduler goes by.
fn priority(api: &Api, kind: &Kind, pod: &mut Value) -> Result<(), Failure> {
    const PREFIX: &str = "priorityclasses.scheduling.k8s.io/";
    let class = match dig::text(pod, "spec.priorityClassName") {
        "" => api.objects(PREFIX).into_iter().find(|class| dig::flag(class, "globalDefault")),
        name => match api.object(&format!("{PREFIX}{name}")) {
            Some(class) => Some(class),
            None => {
                let why = format!("no PriorityClass with name {name} was found");
                return Err(Failure::forbidden(resource_of(kind), meta::name(pod), &why));
            }
        },
    };
    let value = class.as_ref().and_then(|class| dig::int(class, "value")).unwrap_or(0);
    if let Some(given) = dig::int(pod, "spec.priority").filter(|given| *given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        );
        return Err(Failure::forbidden(resource_of(kind), meta::name(pod), &why));
    }
    dig::put(pod, "spec.priority", value.into());
    let class_name = class.as_ref().map(meta::name).unwrap_or_default().to_owned();
    if !class_name.is_empty() {
        dig::put(pod, "spec.priorityClassName", class_name.into());
    }
    if !dig::has(pod, "spec.preemptionPolicy") {
        let policy = class.as_ref().map(|class| dig::text(class, "preemptionPolicy")).unwrap_or_default();
        let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
        dig::put(pod, "spec.preemptionPolicy", policy.into());
    }
    Ok(())
}

/// DefaultTolerationSeconds: a pod that says nothing outlives its node's trouble by so many seconds.
fn default_toleration_seconds(pod: &mut Value, not_ready: i64, unreachable: i64) {
    for (key, seconds) in [("node.kubernetes.io/not-ready", not_ready), ("node.kubernetes.io/unreachable", unreachable)]
    {
        let tolerated = dig::list(pod, "spec.tolerations").iter().any(|toleration| {
            let (its, effect) = (dig::text(toleration, "key"), dig::text(toleration, "effect"));
            (its == key || its.is_empty()) && matches!(effect, "" | "NoExecute")
        });
        if !tolerated {
            let toleration = json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
            });
            push(pod, "spec.tolerations", toleration);
        }
    }
}

/// LimitRanger: a namespace's defaults for containers, and its bounds.
fn limit_ranger(api: &Api, kind: &Kind, pod: &mut Value) -> Result<(), Failure> {
    let ranges = api.objects(&format!("limitranges/{}/", meta::namespace(pod)));
    let limits: Vec<&Value> = ranges
        .iter()
        .flat_map(|range| dig::list(range, "spec.limits"))
        .filter(|limit| limit["type"] == "Container")
        .collect();
    for list in CONTAINERS {
        for container in dig::items_mut(pod, list) {
            for limit in &limits {
                fill(container, "resources.limits", dig::map(limit, "default"));
                fill(container, "resources.requests", dig::map(limit, "defaultRequest"));
            }
        }
    }
    let mut wrong = Vec::new();
    for container in CONTAINERS.iter().flat_map(|list| dig::list(pod, list)) {
        limits.iter().for_each(|limit| out_of_bounds(container, limit, &mut wrong));
    }
    match wrong.len() {
        0 => Ok(()),
        1 => Err(Failure::forbidden(resource_of(kind), meta::name(pod), &wrong[0])),
        _ => Err(Failure::forbidden(resource_of(kind), meta::name(pod), &format!("[{}]", wrong.join(", ")))),
    }
}

fn fill(container: &mut Value, path: &str, defaults: &Map<String, Value>) {
    for (resource, amount) in defaults {
        let amounts = dig::map_mut(container, path);
        amounts.entry(resource.clone()).or_insert_with(|| amount.clone());
    }
}

fn out_of_bounds(container: &Value, limit: &Value, wrong: &mut Vec<String>) {
    let amount =
        |of: &str, resource: &str| dig::map(container, of).get(resource).and_then(Value::as_str).map(str::to_owned);
    let parse = |text: &str| Quantity::parse(text).ok();
    for (resource, min) in dig::map(limit, "min") {
        let min = min.as_str().unwrap_or_default();
        match amount("resources.requests", resource) {
            None => wrong.push(format!("minimum {resource} usage per Container is {min}.  No request is specified")),
            Some(given) if parse(&given) < parse(min) => {
                wrong.push(format!("minimum {resource} usage per Container is {min}, but request is {given}"));
            }
            Some(_) => {}
        }
    }
    for (resource, max) in dig::map(limit, "max") {
        let max = max.as_str().unwrap_or_default();
        match amount("resources.limits", resource) {
            None => wrong.push(format!("maximum {resource} usage per Container is {max}.  No limit is specified")),
            Some(given) if parse(&given) > parse(max) => {
                wrong.push(format!("maximum {resource} usage per Container is {max}, but limit is {given}"));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_says_nothing_tolerates_trouble_for_a_while() {
        let mut pod = json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]}});
        default_toleration_seconds(&mut pod, 20, 30);
        default_toleration_seconds(&mut pod, 40, 50);
        let said = |one| (dig::text(one, "key"), dig::int(one, "tolerationSeconds"));
        let all: Vec<_> = dig::list(&pod, "spec.tolerations").iter().map(said).collect();
        assert_eq!(all, [("node.kubernetes.io/not-ready", None), ("node.kubernetes.io/unreachable", Some(30))]);
    }

    #[track_caller]
    fn bounded(requests: Value, wanted: &str) {
        let container = json!({"resources": {"requests": requests.clone(), "limits": requests}});
        let limit = json!({"min": {"cpu": "100m"}, "max": {"cpu": "1"}});
        let mut wrong = Vec::new();
        out_of_bounds(&container, &limit, &mut wrong);
        assert_eq!(wrong.join(";"), wanted);
    }

    #[test]
    fn limits_are_amounts_not_texts() {
        bounded(json!({"cpu": "1000m"}), "");
        bounded(json!({"cpu": "50m"}), "minimum cpu usage per Container is 100m, but request is 50m");
        bounded(json!({"cpu": "2"}), "maximum cpu usage per Container is 1, but limit is 2");
    }
}
