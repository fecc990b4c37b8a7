//! Whether a pod may be on a node at all: node selectors, required node affinity, taints.
//!
//! Start at [`selects`] and [`tolerates`].
//!
//! Not here: resources and everything that depends on other pods (`scheduler`).

use k8s_openapi::api::core::v1::{Node, PodSpec, Taint, Toleration};

/// Whether the node selector and the required node affinity of a pod allow the node.
pub fn selects(spec: &PodSpec, node: &Node) -> bool {
    let empty = Default::default();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let wanted = spec.node_selector.iter().flatten();
    if !wanted.into_iter().all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| client::node_matches(required, node))
}

/// Whether one of the tolerations is for this taint.
pub fn tolerates<'a>(tolerations: &'a [Toleration], taint: &Taint) -> Option<&'a Toleration> {
    tolerations.iter().find(|each| {
        let effect = each.effect.as_deref().unwrap_or_default();
        let key = each.key.as_deref().unwrap_or_default();
        let value = each.value.as_deref().unwrap_or_default();
        let is_value =
            each.operator.as_deref() == Some("Exists") || value == taint.value.as_deref().unwrap_or_default();
        (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key) && is_value
    })
}

/// The taints of a node.
pub fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}
