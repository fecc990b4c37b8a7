//! What an object uses of its namespace's quotas, and what a quota says to that.
//!
//! Start at [`usage`] and [`refusal`]; [`counted`] says which objects a quota counts.
//!
//! Invariants:
//! * amounts are compared as amounts, never as text;
//! * a pod that has ended uses nothing but its place among the objects (`count/pods`).
//!
//! Not here: adding up a namespace (`apiserver` at admission, `controllers` for the status).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::dig;
use crate::quantity::{Format, Quantity};

/// Amounts by the names that quotas use.
pub type Usage = BTreeMap<String, Quantity>;

/// Core resources that quotas count by their plain name.
const PLAIN: [&str; 7] =
    ["configmaps", "persistentvolumeclaims", "pods", "replicationcontrollers", "resourcequotas", "secrets", "services"];
/// Resources whose requests have a short name too.
const SHORT: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// What an object of that group and plural uses.
pub fn usage(group: &str, plural: &str, object: &Value) -> Usage {
    let mut used = Usage::new();
    let qualified = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    used.insert(format!("count/{qualified}"), one());
    match (group, plural) {
        ("", "pods") if is_over(object) => {}
        ("", "pods") => pod(object, &mut used),
        ("", "services") => service(object, &mut used),
        ("", "persistentvolumeclaims") => claim(object, &mut used),
        _ => {}
    }
    if group.is_empty() && PLAIN.contains(&plural) && !(plural == "pods" && is_over(object)) {
        used.insert(plural.to_owned(), one());
    }
    used
}

fn one() -> Quantity {
    Quantity::whole(1, Format::DecimalSi)
}

fn is_over(pod: &Value) -> bool {
    matches!(dig::text(pod, "status.phase"), "Succeeded" | "Failed")
}

fn add(used: &mut Usage, name: &str, amount: Quantity) {
    let sum = used.get(name).map_or(amount, |sum| sum.plus(amount));
    used.insert(name.to_owned(), sum);
}

fn amounts(map: &Map<String, Value>) -> impl Iterator<Item = (&str, Quantity)> {
    map.iter().filter_map(|(name, value)| Some((name.as_str(), Quantity::from_json(value).ok()?)))
}

fn pod(pod: &Value, used: &mut Usage) {
    for (side, prefix) in [("requests", "requests."), ("limits", "limits.")] {
        for (name, amount) in of_pod(pod, side) {
            add(used, &format!("{prefix}{name}"), amount);
            if side == "requests" && (SHORT.contains(&name.as_str()) || name.starts_with("hugepages-")) {
                add(used, &name, amount);
            }
        }
    }
}

/// What all containers of a pod ask for together: those that run at the same time, or the largest of those before.
fn of_pod(pod: &Value, side: &str) -> Usage {
    let path = format!("resources.{side}");
    let (mut running, mut largest) = (Usage::new(), Usage::new());
    for container in dig::list(pod, "spec.containers") {
        amounts(dig::map(container, &path)).for_each(|(name, amount)| add(&mut running, name, amount));
    }
    for container in dig::list(pod, "spec.initContainers") {
        for (name, amount) in amounts(dig::map(container, &path)) {
            if container["restartPolicy"] == "Always" {
                add(&mut running, name, amount);
            } else if largest.get(name).is_none_or(|largest| amount > *largest) {
                largest.insert(name.to_owned(), amount);
            }
        }
    }
    for (name, amount) in largest {
        if running.get(&name).is_none_or(|sum| amount > *sum) {
            running.insert(name, amount);
        }
    }
    // What is said for the pod as a whole counts instead.
    for (name, amount) in amounts(dig::map(pod, &format!("spec.resources.{side}"))) {
        running.insert(name.to_owned(), amount);
    }
    amounts(dig::map(pod, "spec.overhead")).for_each(|(name, amount)| add(&mut running, name, amount));
    running
}

fn service(service: &Value, used: &mut Usage) {
    let ports = dig::list(service, "spec.ports").len() as i64;
    let takes_ports = dig::get(service, "spec.allocateLoadBalancerNodePorts") != &json!(false);
    match dig::text(service, "spec.type") {
        "NodePort" => drop(used.insert("services.nodeports".to_owned(), Quantity::whole(ports, Format::DecimalSi))),
        "LoadBalancer" => {
            used.insert("services.loadbalancers".to_owned(), one());
            let ports = if takes_ports { ports } else { 0 };
            used.insert("services.nodeports".to_owned(), Quantity::whole(ports, Format::DecimalSi));
        }
        _ => {}
    }
}

fn claim(claim: &Value, used: &mut Usage) {
    let class = dig::text(claim, "spec.storageClassName");
    let storage = Quantity::from_json(dig::get(claim, "spec.resources.requests.storage")).ok();
    let names = |resource: &str| [resource.to_owned(), format!("{class}.storageclass.storage.k8s.io/{resource}")];
    let [_, of_class] = names("persistentvolumeclaims");
    if !class.is_empty() {
        used.insert(of_class, one());
    }
    for name in names("requests.storage").iter().take(if class.is_empty() { 1 } else { 2 }) {
        used.extend(storage.map(|storage| (name.clone(), storage)));
    }
}

/// The quota counts such objects, and its scopes take in this one.
pub fn counted(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let scopes = dig::texts(quota, "spec.scopes").into_iter().map(|scope| in_scope(scope, "Exists", &[], object));
    let selected = dig::list(quota, "spec.scopeSelector.matchExpressions").iter().map(|one| {
        in_scope(dig::text(one, "scopeName"), dig::text(one, "operator"), &dig::texts(one, "values"), object)
    });
    let mut all = scopes.chain(selected).peekable();
    let is_pod = group.is_empty() && plural == "pods";
    all.peek().is_none() || (is_pod && all.all(|fits| fits))
}

fn in_scope(scope: &str, operator: &str, values: &[&str], pod: &Value) -> bool {
    let ends = dig::has(pod, "spec.activeDeadlineSeconds");
    // Asked for nothing, promised nothing: what makes a pod best effort.
    let best_effort = of_pod(pod, "requests").is_empty() && of_pod(pod, "limits").is_empty();
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => {
            let class = dig::text(pod, "spec.priorityClassName");
            match operator {
                "In" => values.contains(&class),
                "NotIn" => !values.contains(&class),
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
            let terms = dig::get(pod, &format!("spec.affinity.{kind}")).to_string();
            terms.contains("\"namespaces\":[\"") || terms.contains("\"namespaceSelector\":{")
        }),
        _ => false,
    }
}

/// The limits of a quota.
pub fn hard(quota: &Value) -> Usage {
    amounts(dig::map(quota, "spec.hard")).map(|(name, amount)| (name.to_owned(), amount)).collect()
}

/// The group and plural of all that a quota counts.
pub fn kinds(quota: &Value) -> BTreeSet<(String, String)> {
    let of = |name: &str| -> (String, String) {
        let core = |plural: &str| (String::new(), plural.to_owned());
        if let Some(counted) = name.strip_prefix("count/") {
            let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
            return (group.to_owned(), plural.to_owned());
        }
        match name {
            plain if PLAIN.contains(&plain) => core(plain),
            name if name.starts_with("services.") => core("services"),
            name if name.ends_with("requests.storage") || name.contains(".storageclass.storage.k8s.io/") => {
                core("persistentvolumeclaims")
            }
            _ => core("pods"),
        }
    };
    dig::map(quota, "spec.hard").keys().map(|name| of(name)).collect()
}

/// Why `more` does not fit beside what is `used`, if so.
pub fn refusal(name: &str, hard: &Usage, used: &Usage, more: &Usage) -> Option<String> {
    let zero = Quantity::whole(0, Format::DecimalSi);
    let after = |resource: &str, more: Quantity| used.get(resource).map_or(more, |used| used.plus(more));
    let over: Vec<&str> = more
        .iter()
        .filter(|(resource, more)| {
            **more > zero && hard.get(*resource).is_some_and(|hard| after(resource, **more) > *hard)
        })
        .map(|(resource, _)| resource.as_str())
        .collect();
    let told = |amounts: &Usage| -> String {
        let one = |resource: &&str| format!("{resource}={}", amounts.get(*resource).copied().unwrap_or(zero));
        over.iter().map(one).collect::<Vec<_>>().join(",")
    };
    (!over.is_empty()).then(|| {
        format!("exceeded quota: {name}, requested: {}, used: {}, limited: {}", told(more), told(used), told(hard))
    })
}

/// Which amounts a quota limits and a pod's containers do not say, if any.
pub fn unspecified(name: &str, hard: &Usage, pod: &Value) -> Option<String> {
    let limited = hard.keys().filter_map(|key| {
        let (side, resource) = match key.split_once('.') {
            Some((side @ ("requests" | "limits"), resource)) => (side, resource),
            _ => ("requests", key.as_str()),
        };
        (["cpu", "memory"].contains(&resource)).then_some((key, side, resource))
    });
    let whole = |side: &str, resource: &str| dig::map(pod, &format!("spec.resources.{side}")).contains_key(resource);
    let missing: Vec<String> = limited
        .filter(|(_, side, resource)| !whole(side, resource))
        .filter_map(|(key, side, resource)| {
            let lists = ["spec.containers", "spec.initContainers"];
            let silent = |one: &&Value| !dig::map(one, &format!("resources.{side}")).contains_key(resource);
            let silent = lists.iter().flat_map(|list| dig::list(pod, list)).filter(silent);
            let mut names: Vec<&str> = silent.map(|one| dig::text(one, "name")).collect();
            names.sort_unstable();
            (!names.is_empty()).then(|| format!("{key} for: {}", names.join(",")))
        })
        .collect();
    (!missing.is_empty()).then(|| format!("failed quota: {name}: must specify {}", missing.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(requests: Value) -> Value {
        json!({"spec": {"containers": [{"name": "a", "resources": {"requests": requests}}, {"name": "b", "resources": {"requests": {"cpu": "1"}}}]}})
    }

    #[track_caller]
    fn check(plural: &str, object: Value, want: &str) {
        let used: Vec<String> =
            usage("", plural, &object).iter().map(|(name, amount)| format!("{name}={amount}")).collect();
        assert_eq!(used.join(" "), want);
    }

    #[test]
    fn objects_use_what_they_ask_for() {
        check("pods", pod(json!({"cpu": "500m"})), "count/pods=1 cpu=1500m pods=1 requests.cpu=1500m");
        let mut over = pod(json!({"cpu": "500m"}));
        over["status"] = json!({"phase": "Failed"});
        check("pods", over, "count/pods=1");
        let mut early = pod(json!({}));
        early["spec"]["initContainers"] = json!([{"name": "i", "resources": {"requests": {"cpu": "3"}}}]);
        check("pods", early, "count/pods=1 cpu=3 pods=1 requests.cpu=3");
        check(
            "services",
            json!({"spec": {"type": "NodePort", "ports": [{}, {}]}}),
            "count/services=1 services=1 services.nodeports=2",
        );
        check("configmaps", json!({}), "configmaps=1 count/configmaps=1");
        let claim = json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
        check(
            "persistentvolumeclaims",
            claim,
            "count/persistentvolumeclaims=1 fast.storageclass.storage.k8s.io/persistentvolumeclaims=1 \
            fast.storageclass.storage.k8s.io/requests.storage=1Gi persistentvolumeclaims=1 requests.storage=1Gi",
        );
    }

    fn quota(hard: Value) -> Value {
        json!({"spec": {"hard": hard}})
    }

    #[test]
    fn a_quota_refuses_in_upstreams_words() {
        let hard = hard(&quota(json!({"cpu": "2", "pods": "10"})));
        let used = usage("", "pods", &pod(json!({"cpu": "500m"})));
        assert_eq!(
            refusal("q", &hard, &used, &usage("", "pods", &pod(json!({})))).as_deref(),
            Some("exceeded quota: q, requested: cpu=1, used: cpu=1500m, limited: cpu=2")
        );
        assert_eq!(refusal("q", &hard, &Usage::new(), &used), None);
        let silent = json!({"spec": {"containers": [{"name": "c"}]}});
        assert_eq!(unspecified("q", &hard, &silent).as_deref(), Some("failed quota: q: must specify cpu for: c"));
        assert_eq!(unspecified("q", &hard, &pod(json!({"cpu": "1"}))), None);
    }

    #[test]
    fn scopes_choose_pods() {
        let scoped = |scope: &str| json!({"spec": {"scopes": [scope]}});
        let silent = json!({"spec": {"containers": [{"name": "c"}]}});
        assert!(
            counted(&scoped("BestEffort"), "", "pods", &silent)
                && !counted(&scoped("NotBestEffort"), "", "pods", &silent)
        );
        assert!(
            !counted(&scoped("Terminating"), "", "pods", &silent)
                && !counted(&scoped("BestEffort"), "", "services", &silent)
        );
        assert!(counted(&quota(json!({})), "", "services", &json!({})));
    }

    #[test]
    fn a_quota_names_what_it_counts() {
        let kinds = kinds(&quota(
            json!({"cpu": 1, "count/deployments.apps": 1, "services.nodeports": 1, "requests.storage": 1}),
        ));
        let names: Vec<String> = kinds.iter().map(|(group, plural)| format!("{plural}/{group}")).collect();
        assert_eq!(names, ["persistentvolumeclaims/", "pods/", "services/", "deployments/apps"]);
    }
}
