//! Label selectors, as objects carry them.
//!
//! Start at [`Selector`].
//!
//! Not here: selectors in the form of a query parameter (the server reads those).

use std::collections::BTreeMap;

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
    fn an_unknown_operator_selects_nothing() {
        check(r#"{"matchExpressions":[{"key":"a","operator":"Near"}]}"#, "a=1", false);
    }
}
