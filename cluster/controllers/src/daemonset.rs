//! Keeps one pod of a DaemonSet on every node that should have one.
//!
//! Start at [`DaemonSets`].
//!
//! Invariants:
//! * a node never gets a second pod, except within `maxSurge` during an update;
//! * a rolling update never makes more than `maxUnavailable` nodes lack an available pod; nodes that lack one anyway go
//!   first;
//! * with OnDelete nothing is replaced until somebody deletes it;
//! * a rollout that stands still because nodes are not ready says so in an Event of its own (upstream is silent).
//!
//! Not here: history (`revisions.rs`), binding (the scheduler, by the node affinity set here).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::Timestamp;
use client::{Collection, DeleteOptions, Entry, Kind, Resource, Selector};
use control::{About, Announce, Key, Note, Outcome, Reconciler, Regarding, View, Write};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::deployment::portion;
use crate::placement::{taints, tolerates};
use crate::pods::{
    claim, from_template, is_active, is_available, is_ready, moment_of, name_prefix, node_name, phase, some,
};
use crate::replicaset::keys_of_set;
use crate::revisions::{History, REVISION_LABEL};

/// Pods created in one pass.
const BURST_PODS_MAX: usize = 250;

/// The controller of DaemonSets.
pub struct DaemonSets;

impl Reconciler for DaemonSets {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[DaemonSet::RESOURCE, Pod::RESOURCE, Node::RESOURCE, ControllerRevision::RESOURCE];
        About {
            name: "daemonset-controller",
            reads: READS,
            writes: &["pods", "controllerrevisions.apps", "daemonsets.apps.status"],
            everything: false,
        }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        match collection.resource.as_str() {
            "nodes" => view.list::<DaemonSet>(None).iter().map(|set| Key::new(set.namespace(), set.name())).collect(),
            _ => keys_of_set::<DaemonSet>(view, collection, entry, |set| {
                set.spec.as_ref().map(|spec| Selector::of(&spec.selector)).unwrap_or_else(Selector::nothing)
            }),
        }
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        let Some(set) = view.get::<DaemonSet>(&key.namespace, &key.name) else { return Outcome::none() };
        let Some(spec) = set.spec.clone().filter(|spec| !Selector::of(&spec.selector).is_empty()) else {
            return Outcome::none();
        };
        let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or_default();
        let history = History::of(view, &*set, &spec.template, labels, collisions);
        if let Some(write) = history.write.clone().filter(|_| !set.deleting()) {
            return write.into();
        }
        let claimed = claim::<DaemonSet, Pod>(view, &*set, &Selector::of(&spec.selector));
        let outcome = Outcome { writes: claimed.writes, ..Outcome::default() };
        let nodes = view.list::<Node>(None);
        Turn { set: &set, spec, history, nodes, pods: BTreeMap::new(), now, outcome }.decide(claimed.own)
    }
}

struct Turn<'a> {
    set: &'a DaemonSet,
    spec: DaemonSetSpec,
    history: History,
    nodes: Vec<Arc<Node>>,
    /// By node, oldest first.
    pods: BTreeMap<String, Vec<Arc<Pod>>>,
    now: Timestamp,
    outcome: Outcome,
}

impl Turn<'_> {
    fn decide(mut self, own: Vec<Arc<Pod>>) -> Outcome {
        let used: BTreeSet<String> =
            own.iter().filter_map(|pod| pod.metadata.labels.as_ref()?.get(REVISION_LABEL).cloned()).collect();
        for pod in own {
            self.pods.entry(target(&pod)).or_default().push(pod);
        }
        for pods in self.pods.values_mut() {
            pods.sort_by_key(|pod| (node_name(pod).is_empty(), moment_of(pod), pod.name().to_owned()));
        }
        let before = self.outcome.writes.len();
        if !self.set.deleting() {
            self.place();
            if self.outcome.writes.len() == before && self.is_rolling() {
                self.roll();
            }
            let limit = self.spec.revision_history_limit.unwrap_or(10);
            self.outcome.writes.extend(self.history.forget(limit, &used));
        }
        let status = self.status();
        if Some(&status) != self.set.status.as_ref() {
            let write = Write::status(&DaemonSet { status: Some(status), ..self.set.clone() });
            self.outcome.writes.insert(0, write);
        }
        self.outcome
    }

    fn is_rolling(&self) -> bool {
        self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    /// maxUnavailable and maxSurge as numbers.
    fn limits(&self, nodes: i32) -> (i32, i32) {
        let rolling =
            self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.clone()).unwrap_or_default();
        let surge = rolling.max_surge.map_or(0, |value| portion(Some(&value), nodes, true));
        let one = IntOrString::Int(1);
        let unavailable = portion(Some(rolling.max_unavailable.as_ref().unwrap_or(&one)), nodes, true);
        (if unavailable == 0 && surge == 0 { 1 } else { unavailable }, surge)
    }

    /// The pod that a node would get.
    fn pod_for(&self, node: &str) -> Pod {
        let mut pod = from_template(&self.spec.template, self.set);
        pod.metadata.generate_name = Some(name_prefix(self.set.name()));
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(REVISION_LABEL.to_owned(), self.history.hash.clone());
        labels.insert("pod-template-generation".to_owned(), self.set.metadata.generation.unwrap_or(1).to_string());
        let spec = pod.spec.get_or_insert_default();
        bind_to(spec, node);
        tolerate_all(spec);
        pod
    }

    /// Whether a node should get a pod, and whether one that is there may stay.
    fn wants(&self, node: &Node) -> (bool, bool) {
        let mut spec = self.spec.template.spec.clone().unwrap_or_default();
        if spec.node_name.as_deref().is_some_and(|name| name != node.name()) || !client::node_suits(&spec, node) {
            return (false, false);
        }
        tolerate_all(&mut spec);
        let tolerations = spec.tolerations.unwrap_or_default();
        let bears = |effects: &[&str]| {
            let hard = taints(node).iter().filter(|taint| effects.contains(&taint.effect.as_str()));
            hard.into_iter().all(|taint| tolerates(&tolerations, taint).is_some())
        };
        (bears(&["NoSchedule", "NoExecute"]), bears(&["NoExecute"]))
    }

    fn alive(&self, node: &str) -> Vec<Arc<Pod>> {
        self.pods.get(node).into_iter().flatten().filter(|pod| !pod.deleting()).cloned().collect()
    }

    /// One pod where there should be one, none elsewhere.
    fn place(&mut self) {
        let names: BTreeSet<String> = self.nodes.iter().map(|node| node.name().to_owned()).collect();
        for node in self.nodes.clone() {
            let (run, stay) = self.wants(&node);
            let all = self.pods.get(node.name()).cloned().unwrap_or_default();
            if !stay {
                for pod in all.iter().filter(|pod| !pod.deleting()) {
                    self.delete(pod);
                }
                continue;
            }
            for pod in all.iter().filter(|pod| matches!(phase(pod), "Failed" | "Succeeded") && !pod.deleting()) {
                let how = if phase(pod) == "Failed" { "FailedDaemonPod" } else { "SucceededDaemonPod" };
                let message = format!(
                    "Found {} daemon pod {}/{} on node {}, will try to kill it",
                    phase(pod).to_lowercase(),
                    pod.namespace(),
                    pod.name(),
                    node.name()
                );
                self.outcome.events.push(Note::warning(&Regarding::object(self.set), how, message));
                self.delete(pod);
            }
            let live: Vec<&Arc<Pod>> = all.iter().filter(|pod| is_active(pod)).collect();
            // A pod that is leaving still holds its node: two of a daemon must not meet.
            if all.is_empty() && run && self.outcome.writes.len() < BURST_PODS_MAX {
                self.create(node.name());
            }
            let (_, surge) = self.limits(1);
            let is_new = |pod: &Pod| self.is_new(pod);
            let spare: Vec<Arc<Pod>> = match live[..] {
                // During a surge the new pod may stand beside the old one.
                [one, other] if surge > 0 && self.is_rolling() && is_new(one) != is_new(other) => Vec::new(),
                _ => live.into_iter().skip(1).cloned().collect(),
            };
            for pod in spare {
                self.delete(&pod);
            }
        }
        // Pods that were meant for a node that is gone.
        for (node, pods) in self.pods.clone() {
            for pod in pods.iter().filter(|pod| !names.contains(&node) && !pod.deleting()) {
                self.delete(pod);
            }
        }
    }

    fn is_new(&self, pod: &Pod) -> bool {
        pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL)) == Some(&self.history.hash)
    }

    fn available(&self, pod: &Pod) -> bool {
        is_available(pod, self.spec.min_ready_seconds.unwrap_or_default(), self.now).is_ok()
    }

    /// Replaces pods of older templates, as many as may be missing.
    fn roll(&mut self) {
        let wanted: Vec<Arc<Node>> = self.nodes.iter().filter(|node| self.wants(node).0).cloned().collect();
        let (unavailable_max, surge_max) = self.limits(wanted.len() as i32);
        let (mut unavailable, mut surging) = (0, 0);
        let (mut free, mut willing) = (Vec::new(), Vec::new());
        let mut gone = Vec::new();
        for node in &wanted {
            let before = unavailable;
            let pods = self.alive(node.name());
            let old = pods.iter().find(|pod| !self.is_new(pod)).cloned();
            let new = pods.iter().find(|pod| self.is_new(pod)).cloned();
            match (old, new) {
                (Some(old), Some(new)) if surge_max > 0 => {
                    surging += 1;
                    if self.available(&new) || !self.available(&old) {
                        free.push(old);
                    }
                }
                (Some(old), None) if self.available(&old) => willing.push((node.name().to_owned(), old)),
                (Some(old), None) if surge_max == 0 => {
                    unavailable += 1;
                    free.push(old);
                }
                (Some(old), None) => willing.push((node.name().to_owned(), old)),
                (_, Some(new)) if self.available(&new) => {}
                _ => unavailable += 1,
            }
            if unavailable > before && !crate::node::is_ready(node) {
                gone.push(format!("{} (NotReady)", node.name()));
            }
        }
        if !gone.is_empty() && !willing.is_empty() && surge_max == 0 && unavailable >= unavailable_max {
            let message = format!(
                "The rollout waits for {unavailable} of {unavailable_max} nodes that may be unavailable: {}",
                gone.join(", ")
            );
            self.outcome.events.push(Note::normal(&Regarding::object(self.set), "RolloutWaits", message));
        }
        for pod in free {
            self.delete(&pod);
        }
        for (node, old) in willing {
            if surge_max > 0 && surging < surge_max {
                surging += 1;
                self.create(&node);
            } else if surge_max == 0 && unavailable < unavailable_max {
                unavailable += 1;
                self.delete(&old);
            }
        }
    }

    fn create(&mut self, node: &str) {
        self.outcome.writes.push(Write::create(&self.pod_for(node)).announce(Announce {
            regarding: Regarding::object(self.set),
            done: ("SuccessfulCreate", "Created pod: {}".into()),
            failed: ("FailedCreate", "Error creating: ".into()),
        }));
    }

    fn delete(&mut self, pod: &Pod) {
        self.outcome.writes.push(Write::delete(pod, DeleteOptions::default()).announce(Announce {
            regarding: Regarding::object(self.set),
            done: ("SuccessfulDelete", format!("Deleted pod: {}", pod.name())),
            failed: ("FailedDelete", "Error deleting: ".into()),
        }));
    }

    fn status(&mut self) -> DaemonSetStatus {
        let known = self.set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: known.collision_count,
            conditions: known.conditions,
            ..DaemonSetStatus::default()
        };
        let (mut available, mut updated) = (0, 0);
        for node in self.nodes.clone() {
            let (run, _) = self.wants(&node);
            let pods: Vec<Arc<Pod>> = self.pods.get(node.name()).cloned().unwrap_or_default();
            if !run {
                status.number_misscheduled += i32::from(!pods.is_empty());
                continue;
            }
            status.desired_number_scheduled += 1;
            status.current_number_scheduled += i32::from(!pods.is_empty());
            let live = pods.iter().filter(|pod| !pod.deleting());
            status.number_ready += i32::from(live.clone().any(|pod| is_ready(pod)));
            available += i32::from(live.clone().any(|pod| self.available(pod)));
            updated += i32::from(live.clone().any(|pod| self.is_new(pod)));
            let waits = live.filter_map(|pod| {
                is_available(pod, self.spec.min_ready_seconds.unwrap_or_default(), self.now).err()?
            });
            if let Some(wait) = waits.min() {
                self.outcome.again(wait);
            }
        }
        status.number_available = some(available);
        status.number_unavailable = some(status.desired_number_scheduled - available);
        status.updated_number_scheduled = some(updated);
        status
    }
}

/// The node a pod is on, or is meant for.
fn target(pod: &Pod) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    if let Some(name) = spec.node_name.filter(|name| !name.is_empty()) {
        return name;
    }
    let affinity = spec.affinity.and_then(|affinity| affinity.node_affinity);
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution);
    let terms = required.map(|required| required.node_selector_terms).unwrap_or_default();
    let mut fields = terms.into_iter().flat_map(|term| term.match_fields.unwrap_or_default());
    fields.find(|each| each.key == "metadata.name").and_then(|each| each.values?.into_iter().next()).unwrap_or_default()
}

fn bind_to(spec: &mut PodSpec, node: &str) {
    let here = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let affinity = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    // The node was chosen by the template's own terms; what is left to say is its name.
    let term = NodeSelectorTerm { match_fields: Some(vec![here]), match_expressions: None };
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}

fn tolerate_all(spec: &mut PodSpec) {
    const ALWAYS: &[(&str, &str)] = &[
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    let network = [("node.kubernetes.io/network-unavailable", "NoSchedule")];
    let network = network.iter().filter(|_| spec.host_network == Some(true));
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in ALWAYS.iter().chain(network) {
        let toleration = Toleration {
            key: Some((*key).to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some((*effect).to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::World;

    /// Nodes: `a`, `a#` tainted, `a~` not selected, `a?` silent. Pods: `node[marks]`: `o` of the old template, `!` unready,
    /// `-` leaving.
    fn reconciled(update: serde_json::Value, nodes: &str, pods: &str) -> Outcome {
        let mut world = World::default();
        let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "updateStrategy": update,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [], "nodeSelector": {"role": "work"}}}});
        world.put(
            DaemonSet::RESOURCE,
            json!({"metadata": {"name": "agent", "namespace": "n", "uid": "s", "generation": 1}, "spec": spec}),
        );
        for node in nodes.split_whitespace() {
            let (name, marks) = node.split_at(1);
            let taints = if marks.contains('#') { json!([{"key": "k", "effect": "NoSchedule"}]) } else { json!([]) };
            let role = if marks.contains('~') { "rest" } else { "work" };
            world.put(
                Node::RESOURCE,
                json!({"metadata": {"name": name, "labels": {"role": role}}, "spec": {"taints": taints},
                    "status": {"conditions": [{"type": "Ready", "status": if marks.contains('?') { "Unknown" } else { "True" }}]}}),
            );
        }
        let first = world.reconcile(&DaemonSets, "n", "agent");
        assert_eq!(first.writes.len(), 1, "the first pass records the template");
        let revision: serde_json::Value = serde_json::from_slice(&first.writes[0].body).expect("JSON");
        let hash = revision["metadata"]["labels"][REVISION_LABEL].as_str().expect("a hash").to_owned();
        world.put(ControllerRevision::RESOURCE, revision);
        for (index, pod) in pods.split_whitespace().enumerate() {
            let (node, marks) = pod.split_at(1);
            let has = |mark| marks.contains(mark);
            let mut object = json!({"metadata": {"name": format!("{node}{index}"), "namespace": "n",
                "labels": {"app": "web", REVISION_LABEL: if has('o') { "old" } else { &hash }},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "s", "controller": true}]},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if has('!') { "False" } else { "True" }}]}});
            if has('-') {
                object["metadata"]["deletionTimestamp"] = "2026-11-23T19:59:00Z".into();
            }
            world.put(Pod::RESOURCE, object);
        }
        world.reconcile(&DaemonSets, "n", "agent")
    }

    #[track_caller]
    fn check(update: serde_json::Value, nodes: &str, pods: &str, wanted: &str) {
        let outcome = reconciled(update, nodes, pods);
        let told = outcome.writes.iter().filter(|write| write.subresource.is_empty()).map(|write| {
            if write.to_string().starts_with("create") {
                format!("+{}", target(&Pod::decode(&write.body).expect("a pod")))
            } else {
                format!("-{}", write.name)
            }
        });
        assert_eq!(told.collect::<Vec<_>>().join(" "), wanted);
    }

    #[test]
    fn every_node_that_should_have_one_gets_one() {
        check(json!({}), "a b# c~ d", "a", "+d");
    }
    #[test]
    fn a_node_that_should_have_none_loses_it() {
        check(json!({}), "a c~", "a c", "-c1");
    }
    #[test]
    fn a_node_has_one_pod_only() {
        check(json!({}), "a", "a a", "-a1");
        check(json!({}), "a", "a-", "");
    }
    #[test]
    fn rolls_one_node_after_another() {
        check(json!({}), "a b c", "ao bo co", "-a0");
        check(json!({}), "a b c", "a! bo co", "");
        check(json!({"rollingUpdate": {"maxUnavailable": 2}}), "a b c", "ao bo co", "-a0 -b1");
    }
    #[test]
    fn replaces_what_is_broken_anyway_first() {
        check(json!({}), "a b", "ao bo!", "-b1");
    }
    #[track_caller]
    fn check_told(update: serde_json::Value, nodes: &str, pods: &str, wanted: &str) {
        let told: Vec<String> = reconciled(update, nodes, pods).events.into_iter().map(|note| note.message).collect();
        assert_eq!(told.join("; "), wanted);
    }
    #[test]
    fn a_silent_node_that_holds_a_rollout_is_named() {
        let told = "The rollout waits for 1 of 1 nodes that may be unavailable: c (NotReady)";
        check_told(json!({}), "a b c?", "ao bo c-o", told);
        check_told(json!({}), "a b c?", "ao bo c!", told);
        check_told(json!({}), "a b c", "ao bo c!", "");
        check_told(json!({}), "a b c?", "a b c!", "");
        check_told(json!({"rollingUpdate": {"maxUnavailable": 2}}), "a b c?", "ao bo c!", "");
        check_told(json!({"type": "OnDelete"}), "a b c?", "ao bo c!", "");
    }
    #[test]
    fn on_delete_waits_for_somebody() {
        check(json!({"type": "OnDelete"}), "a b", "ao b", "");
    }
    #[test]
    fn a_surge_starts_the_new_pod_first() {
        let surge = || json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
        check(surge(), "a b", "ao bo", "+a");
        check(surge(), "a b", "ao bo a!", "");
        check(surge(), "a b", "ao bo a", "-a0");
    }
}
