//! Evictions: a pod is deleted if its disruption budget allows it.
//!
//! Start at [`evict`].
//!
//! Invariants:
//! * an eviction that is allowed is counted in the budget's status before the pod is touched, in one write against the version
//!   that was read: two evictions never share one permission;
//! * a pod that is not ready costs the budget nothing; that it did not become ready meanwhile is checked when it is deleted;
//! * a dry run asks all questions and changes nothing.
//!
//! Not here: how many evictions a budget allows (`controllers`).

use std::sync::Arc;

use api::kinds::find;
use api::selector::LabelSelector;
use api::{dig, meta};
use http::StatusCode;
use serde_json::{Value, json};

use crate::delete::Options;
use crate::server::{Ask, decoded, success};
use crate::status::{Named, resource_of};
use crate::write::Change;
use crate::{Api, Failure, Response, render};

/// Permissions that were given and not seen used; more mean that nobody looks after the budget (upstream's limit).
const DISRUPTED_PODS_MAX: usize = 2000;
/// When a client should ask again while a budget is not counted yet.
const RETRY_SECONDS: u32 = 10;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// An eviction that meets a newer version of its pod is tried again so often.
const RETRIES_MAX: usize = 16;

/// Answers `POST pods/NAME/eviction`.
pub(crate) async fn evict(api: &Arc<Api>, ask: &Ask) -> Result<Response, Failure> {
    let sent = crate::body::tree(ask.content_type(), &ask.body)?.0;
    let options = options(ask, &sent)?;
    for _ in 0..RETRIES_MAX {
        if attempt(api, ask, options.clone()).await? {
            let done = success(StatusCode::CREATED, Value::Null);
            return render::tree(ask.wanted.format, StatusCode::CREATED, &done);
        }
    }
    Err(Failure::modified(resource_of(&ask.kind), &ask.info.name))
}

/// Whether it was done; if not, the pod changed while its budget was asked.
async fn attempt(api: &Arc<Api>, ask: &Ask, mut options: Options) -> Result<bool, Failure> {
    let pod = decoded(&api.entry(&ask.kind, &ask.info.namespace, &ask.info.name)?);
    let budget = if ignores_budgets(&pod) { None } else { budget_of(api, &pod)? };
    let is_strict = match &budget {
        Some(budget) if is_free(budget, &pod) => true,
        Some(budget) => {
            spend(api, ask, meta::name(budget), options.dry_run).await?;
            false
        }
        // What is about to start must not become ready unseen.
        None => dig::text(&pod, "status.phase") == "Pending" && !meta::is_terminating(&pod),
    };
    let is_own_version = is_strict && options.resource_version.is_empty();
    if is_own_version {
        options.resource_version = meta::resource_version(&pod).to_owned();
    }
    match (delete(api, ask, options).await, &budget) {
        (Err(failure), Some(budget)) if failure.code == 409 && is_own_version => Err(unsettled(meta::name(budget))),
        (Err(failure), None) if failure.code == 409 && is_own_version => Ok(false),
        (done, _) => done.map(|()| true),
    }
}

fn options(ask: &Ask, sent: &Value) -> Result<Options, Failure> {
    let name = dig::text(sent, "metadata.name");
    if !name.is_empty() && name != ask.info.name {
        return Err(Failure::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = &sent["deleteOptions"];
    if let Some(value) = dig::list(options, "dryRun").iter().find(|value| **value != "All") {
        let why = format!("dryRun: Unsupported value: []string{{{value}}}: supported values: \"All\"");
        return Err(Failure::unprocessable(why));
    }
    Ok(Options {
        grace_seconds: dig::int(options, "gracePeriodSeconds").map(|seconds| if seconds < 0 { 1 } else { seconds }),
        uid: dig::text(options, "preconditions.uid").to_owned(),
        resource_version: dig::text(options, "preconditions.resourceVersion").to_owned(),
        propagation: dig::text(options, "propagationPolicy").to_owned(),
        dry_run: ask.query.dry_run()? || !dig::list(options, "dryRun").is_empty(),
    })
}

/// What is over, has not begun or is going already disturbs nobody.
fn ignores_budgets(pod: &Value) -> bool {
    matches!(dig::text(pod, "status.phase"), "Succeeded" | "Failed" | "Pending") || meta::is_terminating(pod)
}

/// The one budget that speaks of the pod. An empty selector selects every pod of the namespace.
fn budget_of(api: &Api, pod: &Value) -> Result<Option<Value>, Failure> {
    let kind = find("policy", "v1", "poddisruptionbudgets").ok_or_else(Failure::no_such_path)?;
    let mut budgets: Vec<Value> = api.objects(&format!("{}/{}/", kind.key_prefix(), meta::namespace(pod)));
    budgets.retain(|budget| {
        let selector = &budget["spec"]["selector"];
        let parsed = LabelSelector::from_object(selector);
        !selector.is_null() && parsed.is_ok_and(|selector| selector.matches(meta::labels(pod)))
    });
    match budgets.len() {
        0 | 1 => Ok(budgets.pop()),
        // The reason is missing upstream too.
        _ => Err(Failure::misfit(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
                .to_owned(),
        )),
    }
}

/// Whether the budget lets a pod that is not ready go without a permission.
fn is_free(budget: &Value, pod: &Value) -> bool {
    let ready =
        dig::list(pod, "status.conditions").iter().any(|each| each["type"] == "Ready" && each["status"] == "True");
    let figure = |path: &str| dig::int(budget, path).unwrap_or(0);
    let (healthy, wanted) = (figure("status.currentHealthy"), figure("status.desiredHealthy"));
    let always = dig::text(budget, "spec.unhealthyPodEvictionPolicy") == "AlwaysAllow";
    !ready && (always || healthy >= wanted && wanted > 0)
}

/// Takes one permission from the budget.
async fn spend(api: &Arc<Api>, ask: &Ask, budget: &str, dry_run: bool) -> Result<(), Failure> {
    let kind = find("policy", "v1", "poddisruptionbudgets").ok_or_else(Failure::no_such_path)?;
    let now = api.now().rfc3339();
    let change = Change {
        kind: kind.into(),
        namespace: &ask.info.namespace,
        name: budget,
        subresource: Some("status"),
        user: &ask.user,
        dry_run,
    };
    let mut spend = |old: &Value| {
        may_spend(old)?;
        let mut new = old.clone();
        let allowed = dig::int(old, "status.disruptionsAllowed").unwrap_or(0) - 1;
        dig::put(&mut new, "status.disruptionsAllowed", allowed.into());
        dig::map_mut(&mut new, "status.disruptedPods").insert(ask.info.name.clone(), now.as_str().into());
        if allowed == 0 {
            for each in dig::items_mut(&mut new, "status.conditions") {
                if each["type"] == "DisruptionAllowed" && each["status"] == "True" {
                    each["status"] = "False".into();
                    each["reason"] = "InsufficientPods".into();
                    each["lastTransitionTime"] = now.as_str().into();
                }
            }
        }
        Ok(new)
    };
    api.replace(&change, &mut spend).await.map(drop)
}

fn may_spend(budget: &Value) -> Result<(), Failure> {
    let (name, figure) = (meta::name(budget), |path: &str| dig::int(budget, path).unwrap_or(0));
    let what = Named { group: "policy", resource: "poddisruptionbudget" };
    if figure("status.observedGeneration") < figure("metadata.generation") {
        return Err(unsettled(name));
    }
    if dig::map(budget, "status.disruptedPods").len() > DISRUPTED_PODS_MAX {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Failure::forbidden(what, name, why));
    }
    match figure("status.disruptionsAllowed") {
        ..0 => Err(Failure::forbidden(what, name, "pdb disruptions allowed is negative")),
        0 => Err(Failure::too_many_requests(REFUSED, 0).cause("DisruptionBudget", &why_not(budget))),
        1.. => Ok(()),
    }
}

fn why_not(budget: &Value) -> String {
    let (name, figure) = (meta::name(budget), |path: &str| dig::int(budget, path).unwrap_or(0));
    let failed = dig::list(budget, "status.conditions").iter().find(|each| each["reason"] == "SyncFailed");
    match failed {
        Some(condition) => {
            let why = dig::text(condition, "message");
            format!("The disruption budget {name} does not currently allow evicting pods because it failed sync: {why}")
        }
        None => format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            figure("status.desiredHealthy"),
            figure("status.currentHealthy")
        ),
    }
}

/// The budget's figures are not of this moment.
fn unsettled(budget: &str) -> Failure {
    let why = format!("The disruption budget {budget} is still being processed by the server.");
    Failure::too_many_requests(REFUSED, RETRY_SECONDS).cause("DisruptionBudget", &why)
}

/// Says on the pod why it goes, and lets it go.
async fn delete(api: &Arc<Api>, ask: &Ask, mut options: Options) -> Result<(), Failure> {
    let (namespace, name) = (ask.info.namespace.as_str(), ask.info.name.as_str());
    if !options.dry_run {
        let written = mark(api, ask, &options).await?;
        if !options.resource_version.is_empty() {
            options.resource_version = meta::resource_version(&written).to_owned();
        }
    }
    api.delete_object(&ask.kind, namespace, name, &options).await.map(drop)
}

async fn mark(api: &Arc<Api>, ask: &Ask, options: &Options) -> Result<Value, Failure> {
    let (now, name) = (api.now().rfc3339(), ask.info.name.as_str());
    let change = Change {
        kind: ask.kind.clone(),
        namespace: &ask.info.namespace,
        name,
        subresource: Some("status"),
        user: &ask.user,
        dry_run: false,
    };
    let mut marked = |old: &Value| {
        let pairs = [
            ("UID", &options.uid, meta::uid(old)),
            ("ResourceVersion", &options.resource_version, meta::resource_version(old)),
        ];
        for (what, wanted, is) in pairs {
            if !wanted.is_empty() && wanted != is {
                let why =
                    format!("the {what} in the precondition ({wanted}) does not match the {what} in record ({is})");
                return Err(Failure::conflict(resource_of(&ask.kind), name, &why));
            }
        }
        let mut new = old.clone();
        let mut conditions = dig::list(old, "status.conditions").to_vec();
        conditions.retain(|each| each["type"] != "DisruptionTarget");
        conditions.push(json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": now,
        }));
        dig::put(&mut new, "status.conditions", conditions.into());
        Ok(new)
    };
    let written = api.replace(&change, &mut marked).await?;
    serde_json::from_slice(&written).map_err(Failure::internal)
}
