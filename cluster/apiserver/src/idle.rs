//! Kinds that are served but that nothing acts on yet: whoever writes one is told, instead of waiting for what never comes.
//!
//! Start at [`warning`]. A line goes when its feature comes.
//!
//! Not here: custom resources, whose definitions carry their own warnings.

use api::kinds::Kind;

/// Group, plural, and what does not happen.
const IDLE: &[(&str, &str, &str)] = &[
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies", POLICIES),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings", POLICIES),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", WEBHOOKS),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", POLICIES),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", POLICIES),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", WEBHOOKS),
    ("apiregistration.k8s.io", "apiservices", "requests are not passed on to other API servers"),
    ("autoscaling", "horizontalpodautoscalers", "nothing is scaled by metrics"),
    ("networking.k8s.io", "ingresses", "no ingress controller is built in"),
    ("networking.k8s.io", "networkpolicies", "network policies are not enforced"),
];
const POLICIES: &str = "admission policies are not evaluated";
const WEBHOOKS: &str = "admission webhooks are not called";

/// What the writer of an object of this kind should know, if anything.
pub(crate) fn warning(kind: &Kind, verb: &str) -> Option<String> {
    if !matches!(verb, "create" | "update" | "patch") {
        return None;
    }
    let (.., what) = IDLE.iter().find(|(group, plural, _)| *group == kind.group && *plural == kind.plural)?;
    Some(format!("{} is stored, but in this version of Skerry {what}", kind.kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(group: &str, version: &str, plural: &str, verb: &str, wanted: Option<&str>) {
        let kind = api::kinds::find(group, version, plural).expect("a kind");
        assert_eq!(warning(&kind, verb).as_deref(), wanted);
    }

    #[test]
    fn who_writes_what_nothing_acts_on_is_told() {
        let wanted = "NetworkPolicy is stored, but in this version of Skerry network policies are not enforced";
        check("networking.k8s.io", "v1", "networkpolicies", "create", Some(wanted));
        check("networking.k8s.io", "v1", "networkpolicies", "list", None);
        check("apps", "v1", "deployments", "create", None);
    }

    #[test]
    fn only_kinds_that_are_served_are_named() {
        for (group, plural, _) in IDLE {
            let served = ["v1", "v2"].iter().any(|version| api::kinds::find(group, version, plural).is_some());
            assert!(served, "{group} {plural}");
        }
    }
}
