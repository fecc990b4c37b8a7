//! What a Job's policies say: about a pod that failed, about an index that failed too often, about enough successes.
//!
//! Start at [`judge`], [`failures`] and [`criteria_met`]. All of it is functions of objects.
//!
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy>.

use std::collections::BTreeSet;

use client::Kind;
use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicyRule,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::job::parse_ranges;
use crate::pods::phase;

/// How often the pods of an index failed before this one, as its annotation says.
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// The same of failures that the policy ignores.
pub const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// What follows from the failure of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts against the limit.
    Count,
    /// It does not.
    Ignore,
    /// Its index is not tried again.
    FailIndex,
    /// The Job fails, for this reason.
    FailJob(String),
}

/// What the policy says about a pod that failed: the first rule that fits, or that it counts.
pub fn judge(spec: &JobSpec, pod: &Pod) -> Verdict {
    if phase(pod) != "Failed" {
        return Verdict::Count;
    }
    let rules = spec.pod_failure_policy.as_ref().map(|policy| policy.rules.as_slice()).unwrap_or_default();
    let fitting = rules.iter().enumerate().find_map(|(at, rule)| Some((rule, fits(rule, at, pod)?)));
    match fitting {
        Some((rule, why)) => match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailJob" => Verdict::FailJob(why),
            "FailIndex" if spec.backoff_limit_per_index.is_some() => Verdict::FailIndex,
            _ => Verdict::Count,
        },
        None => Verdict::Count,
    }
}

/// Why a rule fits a pod, if it does, in upstream's words.
fn fits(rule: &PodFailurePolicyRule, at: usize, pod: &Pod) -> Option<String> {
    let (action, place) = (&rule.action, format!("{}/{}", pod.namespace(), pod.name()));
    if let Some(codes) = &rule.on_exit_codes {
        let (container, code) = exit(codes, pod)?;
        let what = format!("Container {container} for pod {place} failed with exit code {code}");
        return Some(format!("{what} matching {action} rule at index {at}"));
    }
    let has = |type_: &str, status: &str| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|each| each.type_ == type_ && each.status == status)
    };
    let patterns = rule.on_pod_conditions.iter().flatten();
    let mut fitting = patterns.filter(|each| has(&each.type_, each.status.as_deref().unwrap_or("True")));
    let pattern = fitting.next()?;
    Some(format!("Pod {place} has condition {} matching {action} rule at index {at}", pattern.type_))
}

/// The first container that ended with a code that is asked for; success is never one.
fn exit(codes: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let asked = |each: &&ContainerStatus| codes.container_name.as_ref().is_none_or(|name| *name == each.name);
    let ended =
        all.filter(asked).filter_map(|each| Some((&each.name, each.state.as_ref()?.terminated.as_ref()?.exit_code)));
    let mut fitting = ended.filter(|(_, code)| *code != 0 && codes.values.contains(code) == (codes.operator == "In"));
    fitting.next().map(|(name, code)| (name.clone(), code))
}

/// How often an index failed, this pod's failure included: those that count, and those that the policy ignores.
pub fn failures(spec: &JobSpec, pod: &Pod) -> (i32, i32) {
    let before = |key: &str| {
        let annotations = pod.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(key)).and_then(|text| text.parse::<i32>().ok()).unwrap_or_default()
    };
    match judge(spec, pod) {
        Verdict::Ignore => (before(FAILURES), before(IGNORED) + 1),
        _ => (before(FAILURES) + 1, before(IGNORED)),
    }
}

/// Whether the failure of this pod is the end of its index.
pub fn ends_index(spec: &JobSpec, pod: &Pod) -> bool {
    let Some(limit) = spec.backoff_limit_per_index else { return false };
    judge(spec, pod) == Verdict::FailIndex || failures(spec, pod).0 > limit
}

/// The first rule of the success policy that these indexes fulfil.
pub fn criteria_met(spec: &JobSpec, completed: &BTreeSet<i32>) -> Option<usize> {
    let rules = spec.success_policy.as_ref().map(|policy| policy.rules.as_slice()).unwrap_or_default();
    rules.iter().position(|rule| is_met(rule, completed))
}

fn is_met(rule: &SuccessPolicyRule, completed: &BTreeSet<i32>) -> bool {
    let Some(indexes) = rule.succeeded_indexes.as_deref().map(parse_ranges) else {
        return rule.succeeded_count.is_some_and(|count| completed.len() as i64 >= i64::from(count));
    };
    let succeeded = indexes.intersection(completed).count();
    succeeded >= rule.succeeded_count.map_or(indexes.len(), |count| count.max(0) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(more: Value) -> JobSpec {
        let mut all = json!({"template": {"spec": {"containers": [{"name": "main"}]}}});
        all.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        serde_json::from_value(all).expect("a spec")
    }

    fn pod(exit_code: i32, condition: &str, failures: i32) -> Pod {
        let status = json!({"phase": "Failed", "conditions": [{"type": condition, "status": "True"}], "containerStatuses": [
            {"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": exit_code}}}]});
        let annotations = json!({FAILURES: failures.to_string()});
        let object = json!({"metadata": {"name": "p", "namespace": "n", "annotations": annotations}, "status": status});
        serde_json::from_value(object).expect("a pod")
    }

    #[track_caller]
    fn check(rules: Value, exit_code: i32, condition: &str, wanted: Verdict) {
        let spec = spec(json!({"podFailurePolicy": {"rules": rules}, "backoffLimitPerIndex": 1}));
        assert_eq!(judge(&spec, &pod(exit_code, condition, 0)), wanted);
    }

    #[test]
    fn codes_are_in_or_not_in_and_success_is_neither() {
        let rule =
            |operator: &str| json!([{"action": "Ignore", "onExitCodes": {"operator": operator, "values": [42]}}]);
        check(rule("In"), 42, "", Verdict::Ignore);
        check(rule("In"), 1, "", Verdict::Count);
        check(rule("NotIn"), 1, "", Verdict::Ignore);
        check(rule("NotIn"), 0, "", Verdict::Count);
    }

    #[test]
    fn a_rule_may_ask_for_one_container() {
        let rule =
            json!([{"action": "Ignore", "onExitCodes": {"containerName": "other", "operator": "In", "values": [42]}}]);
        check(rule, 42, "", Verdict::Count);
    }

    #[test]
    fn conditions_fit_by_type_and_status() {
        let rule = |status: &str| json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": status}]}]);
        check(rule("True"), 1, "DisruptionTarget", Verdict::Ignore);
        check(rule("False"), 1, "DisruptionTarget", Verdict::Count);
        check(rule("True"), 1, "Ready", Verdict::Count);
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_is_named() {
        let rules = json!([{"action": "Count", "onExitCodes": {"operator": "In", "values": [1]}},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [7]}}]);
        check(rules.clone(), 1, "", Verdict::Count);
        let why = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1";
        check(rules.clone(), 42, "", Verdict::FailJob(why.to_owned()));
        check(rules, 7, "", Verdict::FailIndex);
    }

    #[test]
    fn an_index_ends_beyond_its_limit() {
        let spec = spec(json!({"backoffLimitPerIndex": 1}));
        assert!(!ends_index(&spec, &pod(1, "", 0)));
        assert!(ends_index(&spec, &pod(1, "", 1)));
    }

    #[test]
    fn success_is_indexes_or_a_number_or_both() {
        let met = |rule: Value, completed: &[i32]| {
            criteria_met(&spec(json!({"successPolicy": {"rules": [rule]}})), &completed.iter().copied().collect())
        };
        assert_eq!(met(json!({"succeededIndexes": "0,2"}), &[0, 2, 5]), Some(0));
        assert_eq!(met(json!({"succeededIndexes": "0,2"}), &[0, 5]), None);
        assert_eq!(met(json!({"succeededCount": 2}), &[3, 5]), Some(0));
        assert_eq!(met(json!({"succeededIndexes": "0-3", "succeededCount": 2}), &[1, 3, 9]), Some(0));
        assert_eq!(met(json!({"succeededIndexes": "0-3", "succeededCount": 2}), &[1, 9]), None);
    }
}
