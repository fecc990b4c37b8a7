//! Topology spread: how many pods of a kind each domain has.
//!
//! Start at [`Spread::read`].
//!
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>.

use std::collections::BTreeMap;

use client::Selector;
use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use crate::affinity::{Domains, node_matches};
use crate::filter::{Reason, tolerations, untolerated};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// One constraint with what it counts.
pub(crate) struct Spread<'a> {
    constraint: &'a TopologySpreadConstraint,
    /// Pods that the constraint counts in each domain that the pod could be in.
    counts: Domains,
    /// The count of the emptiest domain.
    least: i64,
    /// 1 if the pod itself is counted.
    own: i64,
}

impl<'a> Spread<'a> {
    /// Reads the constraints of a pod that say `when_unsatisfiable`.
    pub(crate) fn read(pod: &'a PodInfo, snapshot: &Snapshot, when_unsatisfiable: &str) -> Vec<Spread<'a>> {
        let all = pod.pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_deref());
        let these = all.unwrap_or_default().iter().filter(|each| each.when_unsatisfiable == when_unsatisfiable);
        these.map(|constraint| Spread::new(constraint, pod, snapshot)).collect()
    }

    fn new(constraint: &'a TopologySpreadConstraint, pod: &PodInfo, snapshot: &Snapshot) -> Spread<'a> {
        let honour_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
        let honour_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
        let selector = constraint.label_selector.as_ref().map(Selector::of);
        let mut counts = Domains::new();
        for node in snapshot.nodes.values() {
            let Some(domain) = node.label(&constraint.topology_key) else { continue };
            let excluded = (honour_affinity && !node_matches(&pod.pod, node))
                || (honour_taints && untolerated(tolerations(pod), node).is_some());
            if !excluded {
                let counted = node.pods.iter().filter(|other| selects(constraint, selector.as_ref(), pod, other));
                *counts.entry(domain.to_owned()).or_default() += counted.count() as i64;
            }
        }
        let enough_domains = constraint.min_domains.is_none_or(|least| counts.len() as i64 >= i64::from(least));
        let least = counts.values().min().copied().filter(|_| enough_domains).unwrap_or_default();
        let own = i64::from(selects(constraint, selector.as_ref(), pod, pod));
        Spread { constraint, counts, least, own }
    }

    /// Why the pod cannot be on this node, if it cannot.
    pub(crate) fn objection(&self, node: &NodeInfo) -> Option<Reason> {
        let Some(domain) = node.label(&self.constraint.topology_key) else { return Some(Reason::SpreadLabel) };
        let here = self.counts.get(domain).copied().unwrap_or_default() + self.own;
        (here - self.least > i64::from(self.constraint.max_skew)).then_some(Reason::Spread)
    }

    /// How many pods that it counts are in the node's domain; none if the node is in no domain.
    pub(crate) fn count(&self, node: &NodeInfo) -> Option<i64> {
        let domain = node.label(&self.constraint.topology_key)?;
        Some(self.counts.get(domain).copied().unwrap_or_default())
    }
}

fn selects(
    constraint: &TopologySpreadConstraint,
    selector: Option<&Selector>,
    owner: &PodInfo,
    candidate: &PodInfo,
) -> bool {
    let none = BTreeMap::new();
    let labels = candidate.pod.metadata.labels.as_ref().unwrap_or(&none);
    let own = owner.pod.metadata.labels.as_ref().unwrap_or(&none);
    let mut keys = constraint.match_label_keys.iter().flatten();
    candidate.pod.metadata.namespace == owner.pod.metadata.namespace
        && candidate.pod.metadata.deletion_timestamp.is_none()
        && selector.is_some_and(|selector| selector.matches(labels))
        && keys.all(|key| own.get(key).is_none_or(|value| labels.get(key) == Some(value)))
}
