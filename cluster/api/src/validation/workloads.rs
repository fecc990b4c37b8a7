//! The rules of what makes pods: Deployments and their kin, Jobs, CronJobs, autoscalers, disruption budgets.
//!
//! Start at the pair of functions of a kind; `mod.rs` names them.

use super::pods;
use super::wrong::{IMMUTABLE, Wrong, is_empty_selector, selects};
use crate::cron::Schedule;
use crate::dig;
use crate::field::Path;
use crate::intstr::IntOrString;
use crate::meta;
use serde_json::{Value, json};

const SPEC: Path<'static> = Path::new("spec");
const MISMATCH: &str = "`selector` does not match template `labels`";
/// A CronJob's name leaves room for the minute that its Jobs' names end with.
const CRON_JOB_NAME_MAX: usize = 52;
const JOB_COUNT_MAX: i64 = 100_000;

/// Selector and template of a controller that keeps pods running.
fn selector_and_template(object: &Value, of: &str, wrong: &mut Wrong) {
    let (spec, at) = (dig::get(object, "spec"), SPEC.child("selector"));
    let selector = dig::get(spec, "selector");
    if selector.is_null() {
        wrong.required(&at, "");
    } else {
        wrong.selector(selector, &at);
        if is_empty_selector(selector) {
            wrong.invalid(&at, selector.clone(), format!("empty selector is invalid for {of}"));
        }
    }
    let labels = dig::get(spec, "template.metadata.labels");
    // A missing selector selects nothing, an empty one everything.
    if selector.is_null() || (!is_empty_selector(selector) && !selects(selector, labels)) {
        labels_differ(labels, wrong);
    }
    template_of_service(spec, wrong);
}

fn labels_differ(labels: &Value, wrong: &mut Wrong) {
    let shown = if labels.is_null() { json!({}) } else { labels.clone() };
    wrong.invalid(&Path::new("spec.template.metadata.labels"), shown, MISMATCH);
}

/// A template whose pods run until somebody ends them.
fn template_of_service(spec: &Value, wrong: &mut Wrong) {
    pods::template(dig::get(spec, "template"), &SPEC.child("template"), wrong);
    let at = Path::new("spec.template.spec");
    let policy = dig::text(spec, "template.spec.restartPolicy");
    if !matches!(policy, "" | "Always") {
        wrong.not_supported(&at.child("restartPolicy"), policy, &["Always"]);
    }
    if dig::has(spec, "template.spec.activeDeadlineSeconds") {
        wrong.forbidden(&at.child("activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicaSet is not Supported");
    }
}

fn not_negative(spec: &Value, fields: &[&str], wrong: &mut Wrong) {
    fields.iter().for_each(|field| wrong.not_negative(spec, field, &SPEC));
}

fn is_none(value: &Value) -> bool {
    IntOrString::of(value).and_then(|it| it.scaled(100, true)) == Some(0)
}

pub(super) fn deployment(object: &Value, wrong: &mut Wrong) {
    let spec = dig::get(object, "spec");
    selector_and_template(object, "deployment", wrong);
    not_negative(spec, &["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"], wrong);
    if let Some(deadline) = dig::int(spec, "progressDeadlineSeconds")
        && deadline <= dig::int(spec, "minReadySeconds").unwrap_or(0)
    {
        wrong.invalid(&SPEC.child("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
    }
    let (strategy, at) = (dig::get(spec, "strategy"), SPEC.child("strategy"));
    let rolling = dig::get(strategy, "rollingUpdate");
    let at_rolling = at.child("rollingUpdate");
    match dig::text(strategy, "type") {
        "Recreate" if !rolling.is_null() => {
            wrong.forbidden(&at_rolling, "may not be specified when strategy `type` is 'Recreate'");
        }
        "RollingUpdate" if rolling.is_null() => {
            wrong.required(&at_rolling, "this should be defaulted and never be nil");
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (dig::get(rolling, "maxUnavailable"), dig::get(rolling, "maxSurge"));
            let at_unavailable = at_rolling.child("maxUnavailable");
            wrong.count_or_percent(unavailable, true, &at_unavailable);
            wrong.count_or_percent(surge, false, &at_rolling.child("maxSurge"));
            if is_none(unavailable) && is_none(surge) {
                wrong.invalid(&at_unavailable, unavailable.clone(), "may not be 0 when `maxSurge` is 0");
            }
        }
        _ => wrong.one_of(strategy, "type", &["Recreate", "RollingUpdate"], &at),
    }
}

pub(super) fn replica_set(object: &Value, wrong: &mut Wrong) {
    selector_and_template(object, "deployment", wrong);
    not_negative(dig::get(object, "spec"), &["replicas", "minReadySeconds"], wrong);
}

/// Deployments and ReplicaSets keep their selector for life.
pub(super) fn selector_fixed(new: &Value, old: &Value, wrong: &mut Wrong) {
    wrong.fixed(dig::get(new, "spec"), dig::get(old, "spec"), "selector", &SPEC);
}

pub(super) fn replication_controller(object: &Value, wrong: &mut Wrong) {
    let spec = dig::get(object, "spec");
    not_negative(spec, &["replicas", "minReadySeconds"], wrong);
    let selector = dig::map(spec, "selector");
    if selector.is_empty() {
        wrong.required(&SPEC.child("selector"), "");
    }
    if !dig::has(spec, "template") {
        wrong.required(&SPEC.child("template"), "");
        return;
    }
    let labels = dig::map(spec, "template.metadata.labels");
    if !selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
        labels_differ(dig::get(spec, "template.metadata.labels"), wrong);
    }
    template_of_service(spec, wrong);
}

pub(super) fn daemon_set(object: &Value, wrong: &mut Wrong) {
    let spec = dig::get(object, "spec");
    selector_and_template(object, "daemonset", wrong);
    not_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], wrong);
    let (strategy, at) = (dig::get(spec, "updateStrategy"), SPEC.child("updateStrategy"));
    wrong.one_of(strategy, "type", &["RollingUpdate", "OnDelete"], &at);
    if dig::text(strategy, "type") != "RollingUpdate" {
        return;
    }
    let at = at.child("rollingUpdate");
    let rolling = dig::get(strategy, "rollingUpdate");
    if rolling.is_null() {
        return wrong.required(&at, "");
    }
    let (unavailable, surge) = (dig::get(rolling, "maxUnavailable"), dig::get(rolling, "maxSurge"));
    wrong.count_or_percent(unavailable, true, &at.child("maxUnavailable"));
    wrong.count_or_percent(surge, true, &at.child("maxSurge"));
    let has = |value: &Value| !value.is_null() && !is_none(value);
    match (has(unavailable), has(surge)) {
        (true, true) => {
            wrong.invalid(&at.child("maxSurge"), surge.clone(), "may not be set when maxUnavailable is non-zero");
        }
        (false, false) => wrong.required(&at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

/// The set as its pods will be: a claim template is a volume of that name.
fn with_claims(object: &Value) -> Value {
    let mut whole = object.clone();
    let mut volumes = dig::list(object, "spec.template.spec.volumes").to_vec();
    for template in dig::list(object, "spec.volumeClaimTemplates") {
        let name = dig::get(template, "metadata.name");
        if !volumes.iter().any(|volume| volume["name"] == *name) {
            volumes.push(json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
        }
    }
    if !volumes.is_empty() {
        dig::put(&mut whole, "spec.template.spec.volumes", volumes.into());
    }
    whole
}

pub(super) fn stateful_set(object: &Value, wrong: &mut Wrong) {
    let spec = dig::get(object, "spec");
    selector_and_template(&with_claims(object), "statefulset", wrong);
    not_negative(spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"], wrong);
    match dig::text(spec, "podManagementPolicy") {
        "" => wrong.required(&SPEC.child("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        other => wrong.invalid(&SPEC.child("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'"),
    }
    let (strategy, at) = (dig::get(spec, "updateStrategy"), SPEC.child("updateStrategy"));
    let rolling = dig::get(strategy, "rollingUpdate");
    match dig::text(strategy, "type") {
        "" => wrong.required(&at, ""),
        "OnDelete" if !rolling.is_null() => {
            let rule = "only allowed for updateStrategy 'RollingUpdate'";
            wrong.invalid(&at.child("rollingUpdate"), rolling.clone(), rule);
        }
        "RollingUpdate" => {
            let at = at.child("rollingUpdate");
            wrong.not_negative(rolling, "partition", &at);
            wrong.count_or_percent(dig::get(rolling, "maxUnavailable"), true, &at.child("maxUnavailable"));
        }
        "OnDelete" => {}
        other => wrong.invalid(&at, other, "must be 'RollingUpdate' or 'OnDelete'"),
    }
    let retention = dig::get(spec, "persistentVolumeClaimRetentionPolicy");
    let at = SPEC.child("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        wrong.one_of_if_set(retention, field, &["Retain", "Delete"], &at);
    }
}

pub(super) fn stateful_set_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    let mut sides = [dig::get(new, "spec").clone(), dig::get(old, "spec").clone()];
    let open = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    for side in &mut sides {
        open.iter().for_each(|field| drop(dig::remove(side, field)));
    }
    if !dig::same(&sides[0], &sides[1]) {
        wrong.forbidden(
            &SPEC,
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

pub(super) fn job(object: &Value, wrong: &mut Wrong) {
    let spec = dig::get(object, "spec");
    let selector = dig::get(spec, "selector");
    if selector.is_null() {
        wrong.required(&SPEC.child("selector"), "");
    } else {
        wrong.selector(selector, &SPEC.child("selector"));
        let labels = dig::get(spec, "template.metadata.labels");
        if !selects(selector, labels) {
            labels_differ(labels, wrong);
        }
    }
    job_spec(spec, &SPEC, wrong);
}

fn job_spec(spec: &Value, at: &Path, wrong: &mut Wrong) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        wrong.not_negative(spec, field, at);
    }
    wrong.one_of_if_set(spec, "completionMode", &["Indexed", "NonIndexed"], at);
    if dig::text(spec, "completionMode") == "Indexed" {
        if !dig::has(spec, "completions") {
            wrong.required(&at.child("completions"), "when completion mode is Indexed");
        }
        if let Some(parallelism) = dig::int(spec, "parallelism").filter(|it| *it > JOB_COUNT_MAX) {
            let rule = format!("must be less than or equal to {JOB_COUNT_MAX} when completion mode is Indexed");
            wrong.invalid(&at.child("parallelism"), parallelism, rule);
        }
    } else if dig::has(spec, "backoffLimitPerIndex") {
        let value = dig::get(spec, "backoffLimitPerIndex").clone();
        wrong.invalid(&at.child("backoffLimitPerIndex"), value, "requires indexed completion mode");
    }
    wrong.one_of_if_set(spec, "podReplacementPolicy", &["Failed", "TerminatingOrFailed"], at);
    let at_template = at.child("template");
    pods::template(dig::get(spec, "template"), &at_template, wrong);
    let policy = dig::text(spec, "template.spec.restartPolicy");
    let at_policy = at_template.child("spec");
    let at_policy = at_policy.child("restartPolicy");
    match policy {
        "OnFailure" | "Never" => {}
        "" => wrong.required(&at_policy, "valid values: \"OnFailure\", \"Never\""),
        other => wrong.not_supported(&at_policy, other, &["OnFailure", "Never"]),
    }
    if dig::has(spec, "podFailurePolicy") && policy == "OnFailure" {
        let rule = "only \"Never\" is supported when podFailurePolicy is specified";
        wrong.invalid(&at_policy, policy, rule);
    }
}

pub(super) fn job_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    let (new_spec, old_spec) = (dig::get(new, "spec"), dig::get(old, "spec"));
    for field in
        ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "successPolicy", "managedBy"]
    {
        wrong.fixed(new_spec, old_spec, field, &SPEC);
    }
    let elastic = dig::text(new_spec, "completionMode") == "Indexed"
        && dig::int(new_spec, "completions") == dig::int(new_spec, "parallelism");
    if !elastic {
        wrong.fixed(new_spec, old_spec, "completions", &SPEC);
    }
    // While a Job is suspended and has not begun, a queue may still say where its pods go.
    let open = dig::flag(old_spec, "suspend") && !dig::has(old, "status.startTime");
    let mut sides = [dig::get(new_spec, "template").clone(), dig::get(old_spec, "template").clone()];
    if open {
        for side in &mut sides {
            for field in [
                "metadata.labels",
                "metadata.annotations",
                "spec.nodeSelector",
                "spec.affinity",
                "spec.tolerations",
                "spec.schedulingGates",
            ] {
                dig::remove(side, field);
            }
        }
    }
    if !dig::same(&sides[0], &sides[1]) {
        wrong.invalid(&SPEC.child("template"), dig::get(new_spec, "template").clone(), IMMUTABLE);
    }
}

pub(super) fn cron_job(object: &Value, wrong: &mut Wrong) {
    let spec = dig::get(object, "spec");
    let name = meta::name(object);
    if name.len() > CRON_JOB_NAME_MAX {
        let rule = format!("must be no more than {CRON_JOB_NAME_MAX} characters");
        wrong.invalid(&Path::new("metadata.name"), name, rule);
    }
    let (schedule, at) = (dig::text(spec, "schedule"), SPEC.child("schedule"));
    if schedule.is_empty() {
        wrong.required(&at, "");
    } else if schedule.contains("TZ") {
        wrong.invalid(&at, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    } else if let Err(rule) = Schedule::parse(schedule) {
        wrong.invalid(&at, schedule, rule);
    }
    time_zone(spec, wrong);
    not_negative(spec, &["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"], wrong);
    wrong.one_of(spec, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], &SPEC);
    let at = Path::new("spec.jobTemplate.spec");
    let job = dig::get(spec, "jobTemplate.spec");
    job_spec(job, &at, wrong);
    if dig::has(job, "selector") {
        let rule = "`selector` will be auto-generated";
        wrong.invalid(&at.child("selector"), dig::get(job, "selector").clone(), rule);
    }
    if dig::flag(job, "manualSelector") {
        wrong.not_supported(&at.child("manualSelector"), true, &["nil", "false"]);
    }
}

fn time_zone(spec: &Value, wrong: &mut Wrong) {
    let Some(zone) = dig::get(spec, "timeZone").as_str() else { return };
    let at = SPEC.child("timeZone");
    if zone.is_empty() {
        wrong.invalid(&at, zone, "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("local") {
        wrong.invalid(
            &at,
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    } else if jiff::tz::TimeZone::get(zone).is_err() {
        wrong.invalid(&at, zone, format!("unknown time zone {zone}"));
    }
}

pub(super) fn autoscaler(object: &Value, wrong: &mut Wrong) {
    let spec = dig::get(object, "spec");
    let (low, high) = (dig::int(spec, "minReplicas"), dig::int(spec, "maxReplicas").unwrap_or(0));
    if let Some(low) = low.filter(|low| *low < 1) {
        wrong.invalid(&SPEC.child("minReplicas"), low, "must be greater than or equal to 1");
    }
    if high < 1 {
        wrong.invalid(&SPEC.child("maxReplicas"), high, "must be greater than 0");
    }
    if low.is_some_and(|low| high < low) {
        wrong.invalid(&SPEC.child("maxReplicas"), high, "must be greater than or equal to `minReplicas`");
    }
    let at = SPEC.child("scaleTargetRef");
    for field in ["kind", "name"] {
        wrong.name(dig::get(spec, "scaleTargetRef"), field, |word| crate::names::path_segment(word, false), &at);
    }
}

pub(super) fn disruption_budget(object: &Value, wrong: &mut Wrong) {
    let spec = dig::get(object, "spec");
    if dig::has(spec, "minAvailable") && dig::has(spec, "maxUnavailable") {
        wrong.invalid(&SPEC, spec.clone(), "minAvailable and maxUnavailable cannot be both set");
    }
    for field in ["minAvailable", "maxUnavailable"] {
        wrong.count_or_percent(dig::get(spec, field), true, &SPEC.child(field));
    }
    wrong.selector(dig::get(spec, "selector"), &SPEC.child("selector"));
    wrong.one_of_if_set(spec, "unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"], &SPEC);
}

pub(super) fn pod_template(object: &Value, wrong: &mut Wrong) {
    pods::template(dig::get(object, "template"), &Path::new("template"), wrong);
}

pub(super) fn revision(object: &Value, wrong: &mut Wrong) {
    if !dig::has(object, "data") {
        wrong.required(&Path::new("data"), "data is mandatory");
    }
    wrong.not_negative(object, "revision", &Path::ROOT);
}

pub(super) fn revision_update(new: &Value, old: &Value, wrong: &mut Wrong) {
    wrong.fixed(new, old, "data", &Path::ROOT);
}
