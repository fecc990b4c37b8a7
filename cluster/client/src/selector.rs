//! Selectors, as objects carry them: of objects by labels, of nodes by labels and name.
//!
//! Start at [`Selector`] and [`node_suits`].
//!
//! Not here: selectors in the form of a query parameter (the server reads those).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// The labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Which labels are wanted. Empty selects everything; see [`Selector::nothing`] for the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    terms: Vec<Term>,
    nothing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Is(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl Selector {
    /// Selects all objects.
    pub fn everything() -> Selector {
        Selector::default()
    }

    /// Selects no object: what an absent selector means in most kinds, and what one with an unknown operator means.
    pub fn nothing() -> Selector {
        Selector { terms: Vec::new(), nothing: true }
    }

    /// Wants exactly these labels, as Services and ReplicationControllers write it.
    pub fn labels(labels: &Labels) -> Selector {
        let terms = labels.iter().map(|(key, value)| Term::Is(key.clone(), value.clone())).collect();
        Selector { terms, nothing: false }
    }

    /// The selector of a Deployment, a Job and their like; an empty one selects everything.
    pub fn of(selector: &LabelSelector) -> Selector {
        let mut all = Selector::labels(&selector.match_labels.clone().unwrap_or_default());
        for wanted in selector.match_expressions.iter().flatten() {
            let (key, values) = (wanted.key.clone(), wanted.values.clone().unwrap_or_default());
            all.terms.push(match wanted.operator.as_str() {
                "In" => Term::In(key, values),
                "NotIn" => Term::NotIn(key, values),
                "Exists" => Term::Exists(key),
                "DoesNotExist" => Term::Absent(key),
                _ => return Selector::nothing(),
            });
        }
        all
    }

    /// Whether it wants nothing in particular, and so selects everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty() && !self.nothing
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        !self.nothing
            && self.terms.iter().all(|term| match term {
                Term::Is(key, value) => labels.get(key) == Some(value),
                Term::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
                Term::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
                Term::Exists(key) => labels.contains_key(key),
                Term::Absent(key) => !labels.contains_key(key),
            })
    }
}

/// Whether a node is one that a pod's `nodeSelector` and required node affinity allow.
pub fn node_suits(spec: &PodSpec, node: &Node) -> bool {
    let label = |key: &String| node.metadata.labels.as_ref()?.get(key);
    let is_selected = spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    is_selected && required.is_none_or(|required| node_matches(required, node))
}

/// Whether a node matches one of a selector's terms.
pub fn node_matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| node_term_matches(term, node))
}

/// Whether a node matches all of a term. A term that asks for nothing matches nothing.
pub fn node_term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let name = node.metadata.name.as_deref();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|each| requirement_holds(each, label(&each.key)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(selector: &str, labels: &str, selects: bool) {
        let selector: LabelSelector = serde_json::from_str(selector).expect("a selector");
        let labels =
            labels.split(' ').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
        assert_eq!(Selector::of(&selector).matches(&labels), selects);
    }

    #[test]
    fn empty_selects_everything() {
        check("{}", "a=1", true);
    }
    #[test]
    fn labels_must_all_match() {
        check(r#"{"matchLabels":{"a":"1","b":"2"}}"#, "a=1 b=2 c=3", true);
        check(r#"{"matchLabels":{"a":"1","b":"2"}}"#, "a=1", false);
    }
    #[test]
    fn expressions_mean_what_they_say() {
        check(r#"{"matchExpressions":[{"key":"a","operator":"In","values":["1","2"]}]}"#, "a=2", true);
        check(r#"{"matchExpressions":[{"key":"a","operator":"In","values":["1","2"]}]}"#, "b=2", false);
        check(r#"{"matchExpressions":[{"key":"a","operator":"NotIn","values":["1"]}]}"#, "b=2", true);
        check(r#"{"matchExpressions":[{"key":"a","operator":"NotIn","values":["1"]}]}"#, "a=1", false);
        check(r#"{"matchExpressions":[{"key":"a","operator":"Exists"}]}"#, "a=1", true);
        check(r#"{"matchExpressions":[{"key":"a","operator":"DoesNotExist"}]}"#, "a=1", false);
    }
    #[test]
    fn nodes_are_selected_by_labels_and_name() {
        let node = r#"{"metadata":{"name":"n","labels":{"a":"1","cores":"4"}}}"#;
        let node: Node = serde_json::from_str(node).expect("a node");
        for (terms, wanted) in [
            ("", false),
            ("{}", false),
            (r#"{"matchExpressions":[{"key":"a","operator":"In","values":["1"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"a","operator":"In","values":["2"]}]}"#, false),
            (r#"{},{"matchExpressions":[{"key":"b","operator":"DoesNotExist"}]}"#, true),
            (r#"{"matchExpressions":[{"key":"cores","operator":"Gt","values":["3"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"cores","operator":"Lt","values":["4"]}]}"#, false),
            (r#"{"matchFields":[{"key":"metadata.name","operator":"In","values":["n"]}]}"#, true),
            (r#"{"matchFields":[{"key":"metadata.uid","operator":"Exists"}]}"#, false),
            (r#"{"matchExpressions":[{"key":"a","operator":"Near"}]}"#, false),
        ] {
            let selector: NodeSelector =
                serde_json::from_str(&format!(r#"{{"nodeSelectorTerms":[{terms}]}}"#)).expect("a selector");
            assert_eq!(node_matches(&selector, &node), wanted, "{terms}");
        }
    }

    #[test]
    fn an_unknown_operator_selects_nothing() {
        check(r#"{"matchExpressions":[{"key":"a","operator":"Near"}]}"#, "a=1", false);
    }
}
