//! Selectors: of nodes by their labels and fields, of pods by theirs and their namespaces'.
//!
//! Start at [`node_matches`] and [`term_matches`].
//!
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>.

use std::collections::BTreeMap;

use client::Selector;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, PodAffinityTerm, Taint, Toleration};

use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// Whether a node is one that the pod's `nodeSelector` and required node affinity allow.
pub(crate) fn node_matches(pod: &Pod, node: &NodeInfo) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let labels = node.labels();
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| node_term_matches(term, node)))
}

/// Whether a node matches all of a term. A term that asks for nothing matches nothing.
pub(crate) fn node_term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let labels = node.labels();
    let name = node.node.metadata.name.as_deref();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|each| requirement_holds(each, labels.get(&each.key).map(String::as_str)))
        && fields.iter().all(|each| each.key == "metadata.name" && requirement_holds(each, name))
}

fn requirement_holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|each| each == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = values.first().and_then(|text| number(text));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Whether `candidate` is a pod that `term`, written in `owner`, speaks of.
pub(crate) fn term_matches(term: &PodAffinityTerm, owner: &Pod, candidate: &Pod, snapshot: &Snapshot) -> bool {
    let namespace = candidate.metadata.namespace.as_deref().unwrap_or_default();
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let by_label = term.namespace_selector.as_ref().is_some_and(|selector| {
        let none = BTreeMap::new();
        Selector::of(selector).matches(snapshot.namespaces.get(namespace).unwrap_or(&none))
    });
    let own = listed.is_empty()
        && term.namespace_selector.is_none()
        && owner.metadata.namespace == candidate.metadata.namespace;
    let here = own || by_label || listed.iter().any(|each| each == namespace);
    here && pod_selector_matches(term, owner, candidate)
}

fn pod_selector_matches(term: &PodAffinityTerm, owner: &Pod, candidate: &Pod) -> bool {
    let none = BTreeMap::new();
    let labels = candidate.metadata.labels.as_ref().unwrap_or(&none);
    let own = owner.metadata.labels.as_ref().unwrap_or(&none);
    let same = |key: &String| own.get(key).is_none_or(|value| labels.get(key) == Some(value));
    let differs = |key: &String| own.get(key).is_none_or(|value| labels.get(key) != Some(value));
    // A term without selector speaks of no pods.
    term.label_selector.as_ref().is_some_and(|selector| Selector::of(selector).matches(labels))
        && term.match_label_keys.iter().flatten().all(same)
        && term.mismatch_label_keys.iter().flatten().all(differs)
}

/// Required affinity terms of a pod.
pub(crate) fn required_affinity(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let terms = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    terms.and_then(|terms| terms.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

/// Required anti-affinity terms of a pod.
pub(crate) fn required_anti_affinity(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let terms = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    terms.and_then(|terms| terms.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

/// How many pods that `term` speaks of are in the same topology domain as `node`.
pub(crate) fn neighbours(term: &PodAffinityTerm, owner: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> usize {
    let Some(domain) = node.label(&term.topology_key) else { return 0 };
    let inside = snapshot.pods().filter(|(other, _)| other.label(&term.topology_key) == Some(domain));
    inside.filter(|(_, pod)| term_matches(term, &owner.pod, &pod.pod, snapshot)).count()
}

/// Whether one of the tolerations takes the taint.
pub(crate) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|each| {
        let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
        let effect = empty(&each.effect) || each.effect.as_deref() == Some(&taint.effect);
        let key = empty(&each.key) || each.key.as_deref() == Some(&taint.key);
        let value = match each.operator.as_deref().unwrap_or("Equal") {
            "Exists" => true,
            "Equal" | "" => {
                !empty(&each.key) && each.value.clone().unwrap_or_default() == taint.value.clone().unwrap_or_default()
            }
            _ => false,
        };
        effect && key && value
    })
}
