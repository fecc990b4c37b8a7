//! Whether the taints of a node let a pod be there.
//!
//! Start at [`tolerates`].
//!
//! Not here: selectors of nodes (`client`), resources and everything that depends on other pods (`scheduler`).

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

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
