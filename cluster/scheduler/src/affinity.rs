//! Selectors: of nodes by their labels and fields, of pods by theirs and their namespaces'.
//!
//! Start at [`node_matches`] and [`Term`].
//!
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>.

use std::collections::BTreeMap;

use client::Selector;
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, Taint, Toleration};

use crate::snapshot::{NodeInfo, Snapshot};

/// Whether a node is one that the pod's `nodeSelector` and required node affinity allow.
pub(crate) fn node_matches(pod: &Pod, node: &NodeInfo) -> bool {
    pod.spec.as_ref().is_none_or(|spec| client::node_suits(spec, &node.node))
}

/// How many pods, or how much weight, each topology domain has.
pub(crate) type Domains = BTreeMap<String, i64>;

/// An affinity term, read once for many pods.
pub(crate) struct Term<'a> {
    /// The label that makes a domain.
    pub(crate) key: &'a str,
    namespaces: &'a [String],
    /// Without namespaces and a selector of them, the owner's own counts.
    own: Option<&'a str>,
    by_label: Option<Selector>,
    /// A term without selector speaks of no pods.
    selector: Option<Selector>,
    same: Vec<(&'a String, &'a String)>,
    differs: Vec<(&'a String, &'a String)>,
}

impl<'a> Term<'a> {
    /// Reads a term, written in `owner`.
    pub(crate) fn new(term: &'a PodAffinityTerm, owner: &'a Pod) -> Term<'a> {
        let labels = |keys: &'a Option<Vec<String>>| {
            let own = owner.metadata.labels.as_ref();
            keys.iter().flatten().filter_map(|key| Some((key, own?.get(key)?))).collect()
        };
        let namespaces = term.namespaces.as_deref().unwrap_or_default();
        let is_own = namespaces.is_empty() && term.namespace_selector.is_none();
        Term {
            key: &term.topology_key,
            namespaces,
            own: owner.metadata.namespace.as_deref().filter(|_| is_own),
            by_label: term.namespace_selector.as_ref().map(Selector::of),
            selector: term.label_selector.as_ref().map(Selector::of),
            same: labels(&term.match_label_keys),
            differs: labels(&term.mismatch_label_keys),
        }
    }

    /// Whether it speaks of this pod.
    pub(crate) fn matches(&self, candidate: &Pod, snapshot: &Snapshot) -> bool {
        let none = BTreeMap::new();
        let labels = candidate.metadata.labels.as_ref().unwrap_or(&none);
        self.selector.as_ref().is_some_and(|selector| selector.matches(labels))
            && self.same.iter().all(|(key, value)| labels.get(*key) == Some(*value))
            && self.differs.iter().all(|(key, value)| labels.get(*key) != Some(*value))
            && self.covers(candidate.metadata.namespace.as_deref().unwrap_or_default(), snapshot)
    }

    fn covers(&self, namespace: &str, snapshot: &Snapshot) -> bool {
        let none = BTreeMap::new();
        let labels = || snapshot.namespaces.get(namespace).unwrap_or(&none);
        self.own == Some(namespace)
            || self.namespaces.iter().any(|each| each == namespace)
            || self.by_label.as_ref().is_some_and(|selector| selector.matches(labels()))
    }

    /// How many pods that it speaks of each domain has.
    pub(crate) fn domains(&self, snapshot: &Snapshot) -> Domains {
        let mut domains = Domains::new();
        for (node, pod) in snapshot.pods() {
            if let Some(domain) = node.label(self.key)
                && self.matches(&pod.pod, snapshot)
            {
                *domains.entry(domain.to_owned()).or_default() += 1;
            }
        }
        domains
    }
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

/// Preferred terms of a pod with their weights; those of anti-affinity weigh against.
pub(crate) fn preferences(pod: &Pod) -> Vec<(&PodAffinityTerm, i64)> {
    let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return Vec::new() };
    let wanted =
        affinity.pod_affinity.iter().flat_map(|each| &each.preferred_during_scheduling_ignored_during_execution);
    let unwanted =
        affinity.pod_anti_affinity.iter().flat_map(|each| &each.preferred_during_scheduling_ignored_during_execution);
    let wanted = wanted.flatten().map(|term| (&term.pod_affinity_term, i64::from(term.weight)));
    wanted.chain(unwanted.flatten().map(|term| (&term.pod_affinity_term, -i64::from(term.weight)))).collect()
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
                !empty(&each.key)
                    && each.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
            }
            _ => false,
        };
        effect && key && value
    })
}
