//! One pod, one decision.
//!
//! Start at [`place`].

use std::collections::BTreeMap;
use std::fmt;

use crate::filter::{Question, Reason};
use crate::score::{scores, taste};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// To this node.
    Node(String),
    /// Nowhere: what each node objects; a node may have several reasons.
    Nowhere(BTreeMap<String, Vec<Reason>>),
    /// Nowhere, whatever the nodes are like: so many there are, and why.
    Refused(usize, String),
}

/// Finds the best node for a pod that has none.
pub fn place(snapshot: &Snapshot, pod: &PodInfo) -> Placement {
    let question = Question::new(pod, snapshot);
    if let Err(why) = &question.needs
        && !snapshot.nodes.is_empty()
    {
        return Placement::Refused(snapshot.nodes.len(), why.clone());
    }
    let mut objections = BTreeMap::new();
    let mut able: Vec<&NodeInfo> = Vec::new();
    for node in snapshot.nodes.values() {
        let reasons = question.check(node);
        if reasons.is_empty() {
            able.push(node);
        } else {
            objections.insert(node.name.clone(), reasons);
        }
    }
    match best(&able, pod, snapshot) {
        Some(node) => Placement::Node(node.name.clone()),
        None => Placement::Nowhere(objections),
    }
}

fn best<'a>(able: &[&'a NodeInfo], pod: &PodInfo, snapshot: &Snapshot) -> Option<&'a NodeInfo> {
    // Most pods of small clusters have one node to go to: scoring one is idle work.
    if let [only] = able {
        return Some(only);
    }
    // Where the victims of a pod were, it goes, if it can.
    let nominated = pod.pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    if let Some(node) = able.iter().find(|node| Some(node.name.as_str()) == nominated) {
        return Some(node);
    }
    let scores = scores(pod, able, snapshot);
    let high = scores.iter().max()?;
    let tied = able.iter().zip(&scores).filter(|(_, score)| *score == high);
    tied.map(|(node, _)| *node).max_by_key(|node| taste(pod, &node.name))
}

/// In upstream's words: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
impl fmt::Display for Placement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Placement::Node(name) => write!(out, "{name}"),
            Placement::Refused(nodes, why) => write!(out, "0/{nodes} nodes are available: {why}."),
            Placement::Nowhere(objections) if objections.is_empty() => {
                write!(out, "no nodes available to schedule pods")
            }
            Placement::Nowhere(objections) => {
                let reasons = objections.values().flatten().map(ToString::to_string);
                write!(out, "{}", available(objections.len(), reasons))
            }
        }
    }
}

/// Counts what the nodes say, in the order of the words, as upstream does.
pub(crate) fn available(nodes: usize, reasons: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    reasons.for_each(|reason| *counts.entry(reason).or_default() += 1);
    let mut words: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    words.sort();
    format!("0/{nodes} nodes are available: {}.", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn node(name: &str, more: Value) -> Arc<Node> {
        let mut object = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}},
        });
        merge(&mut object, more);
        Arc::new(serde_json::from_value(object).expect("a node"))
    }

    fn pod(name: &str, spec: Value) -> Arc<Pod> {
        let mut object = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": name}},
            "spec": {"containers": [{"name": "c"}]},
        });
        merge(&mut object["spec"], spec);
        Arc::new(serde_json::from_value(object).expect("a pod"))
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    #[track_caller]
    fn check(nodes: &[Arc<Node>], bound: &[Arc<Pod>], spec: Value, expected: &str) {
        let snapshot = Snapshot::new(nodes, bound, &[]);
        assert_eq!(place(&snapshot, &PodInfo::new(pod("new", spec))).to_string(), expected);
    }

    fn cpu(amount: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]})
    }

    fn on(name: &str, node: &str, spec: Value) -> Arc<Pod> {
        let mut spec = spec;
        spec["nodeName"] = node.into();
        pod(name, spec)
    }

    #[test]
    fn no_nodes_no_place() {
        check(&[], &[], json!({}), "no nodes available to schedule pods");
    }

    #[test]
    fn prefers_the_emptier_node() {
        check(&[node("a", json!({})), node("b", json!({}))], &[on("x", "a", cpu("1"))], cpu("500m"), "b");
    }

    #[test]
    fn counts_what_is_taken() {
        let full = "0/1 nodes are available: 1 Insufficient cpu.";
        check(&[node("a", json!({}))], &[on("x", "a", cpu("1500m"))], cpu("600m"), full);
        check(&[node("a", json!({}))], &[on("x", "a", cpu("1500m"))], cpu("500m"), "a");
    }

    #[test]
    fn a_node_takes_so_many_pods() {
        let bound: Vec<_> = ["x", "y", "z"].iter().map(|name| on(name, "a", json!({}))).collect();
        check(&[node("a", json!({}))], &bound, json!({}), "0/1 nodes are available: 1 Too many pods.");
    }

    #[test]
    fn ended_pods_count_no_more() {
        let mut done = (*on("x", "a", cpu("2"))).clone();
        done.status = serde_json::from_value(json!({"phase": "Succeeded"})).expect("a status");
        check(&[node("a", json!({}))], &[Arc::new(done)], cpu("2"), "a");
    }

    #[test]
    fn a_cordoned_node_is_left_out() {
        let cordoned = node("a", json!({"spec": {"unschedulable": true}}));
        check(&[cordoned], &[], json!({}), "0/1 nodes are available: 1 node(s) were unschedulable.");
    }

    #[test]
    fn a_taint_wants_its_toleration() {
        let tainted =
            || node("a", json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}}));
        let refused = "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: yes}.";
        check(&[tainted()], &[], json!({}), refused);
        check(&[tainted()], &[], json!({"tolerations": [{"key": "gpu", "value": "no"}]}), refused);
        check(&[tainted()], &[], json!({"tolerations": [{"key": "gpu", "operator": "Exists"}]}), "a");
        check(&[tainted()], &[], json!({"tolerations": [{"operator": "Exists"}]}), "a");
    }

    #[test]
    fn a_soft_taint_is_avoided_if_possible() {
        let soft = json!({"spec": {"taints": [{"key": "old", "effect": "PreferNoSchedule"}]}});
        check(&[node("a", soft.clone()), node("b", json!({}))], &[on("x", "b", cpu("100m"))], json!({}), "b");
        check(&[node("a", soft)], &[], json!({}), "a");
    }

    #[test]
    fn labels_select_nodes() {
        let nodes = [node("a", json!({})), node("b", json!({"metadata": {"labels": {"disk": "ssd", "slots": "4"}}}))];
        check(&nodes, &[], json!({"nodeSelector": {"disk": "ssd"}}), "b");
        let term = |operator: &str, values: Value| {
            let each = json!({"key": "slots", "operator": operator, "values": values});
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [each]}]}}}})
        };
        check(&nodes, &[], term("Gt", json!(["3"])), "b");
        check(&nodes, &[], term("DoesNotExist", Value::Null), "a");
        let none = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
        check(&nodes, &[], term("Gt", json!(["4"])), none);
    }

    #[test]
    fn host_ports_are_taken_once() {
        let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
        let taken = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
        check(&[node("a", json!({}))], &[on("x", "a", port.clone())], port, taken);
    }

    fn affinity(kind: &str, app: &str) -> Value {
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "kubernetes.io/hostname"}]}}})
    }

    #[test]
    fn pods_keep_together_or_apart() {
        let nodes = [node("a", json!({})), node("b", json!({}))];
        check(&nodes, &[on("x", "b", json!({}))], affinity("podAffinity", "x"), "b");
        check(&nodes, &[on("x", "b", json!({}))], affinity("podAntiAffinity", "x"), "a");
        check(&nodes, &[on("x", "b", affinity("podAntiAffinity", "new"))], json!({}), "a");
        let nowhere = "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.";
        check(&nodes, &[], affinity("podAffinity", "x"), nowhere);
    }

    #[test]
    fn the_first_of_a_group_may_go_anywhere() {
        check(&[node("a", json!({}))], &[], affinity("podAffinity", "new"), "a");
    }

    #[test]
    fn preferred_neighbours_draw_and_repel() {
        let nodes = [node("a", json!({})), node("b", json!({}))];
        let prefer = |kind: &str| {
            json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm":
                {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}}]}}})
        };
        check(&nodes, &[on("x", "a", json!({}))], prefer("podAffinity"), "a");
        check(&nodes, &[on("x", "b", json!({}))], prefer("podAffinity"), "b");
        check(&nodes, &[on("x", "a", json!({}))], prefer("podAntiAffinity"), "b");
        check(&nodes, &[on("x", "b", json!({}))], prefer("podAntiAffinity"), "a");
    }

    #[test]
    fn preferred_nodes_win() {
        let nodes = [node("a", json!({})), node("b", json!({"metadata": {"labels": {"disk": "ssd"}}}))];
        let term = json!({"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}});
        let spec = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}});
        check(&nodes, &[], spec, "b");
    }

    #[test]
    fn soft_spread_goes_where_fewer_are() {
        let nodes = [node("a", json!({})), node("b", json!({})), node("c", json!({}))];
        let spec = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"tier": "web"}}}]});
        let bound = ["a", "c"].map(|node| {
            let mut pod = (*on(&format!("x{node}"), node, json!({}))).clone();
            pod.metadata.labels = Some([("tier".to_owned(), "web".to_owned())].into());
            Arc::new(pod)
        });
        check(&nodes, &bound, spec, "b");
    }

    #[test]
    fn goes_where_its_large_image_is() {
        let images = json!({"status": {"images": [{"names": ["big:latest"], "sizeBytes": 2_000_000_000}]}});
        let spec = json!({"containers": [{"name": "c", "image": "big"}]});
        check(&[node("a", json!({})), node("b", images.clone())], &[], spec.clone(), "b");
        check(&[node("a", images), node("b", json!({}))], &[], spec, "a");
    }

    #[test]
    fn balances_processor_and_memory() {
        let ask = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "1Mi"}}}]});
        let memory =
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1m", "memory": "512Mi"}}}]});
        check(&[node("a", json!({})), node("b", json!({}))], &[on("x", "a", cpu("1")), on("y", "b", memory)], ask, "b");
    }

    #[test]
    fn a_nominated_node_is_taken_if_it_can_be() {
        let mut info = (*pod("new", json!({}))).clone();
        info.status = serde_json::from_value(json!({"nominatedNodeName": "a"})).expect("a status");
        let snapshot = Snapshot::new(&[node("a", json!({})), node("b", json!({}))], &[on("x", "a", cpu("1"))], &[]);
        assert_eq!(place(&snapshot, &PodInfo::new(Arc::new(info))).to_string(), "a");
    }

    #[test]
    fn hard_spread_keeps_the_skew() {
        let nodes = [node("a", json!({})), node("b", json!({"spec": {"unschedulable": true}}))];
        let spec = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "new"}}}]});
        let mut twin = (*on("x", "a", json!({}))).clone();
        twin.metadata.labels = Some([("app".to_owned(), "new".to_owned())].into());
        let both = "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, \
                    1 node(s) were unschedulable.";
        check(&nodes, &[Arc::new(twin)], spec.clone(), both);
        check(&nodes, &[], spec, "a");
    }
}
