//! ResourceQuota: nothing is written that a namespace has no room for.
//!
//! Start at [`Quotas::admit`].
//!
//! Invariants:
//! * what is used is counted from the store itself, so a status that lags lets nothing through;
//! * of two writes at the same time each sees the other's claim, so both together stay within the quota.
//!
//! Not here: what an object uses (`api::quota`), the quota's status (`controllers`).

use std::sync::{Arc, Mutex, PoisonError};

use api::kinds::Kind;
use api::meta;
use api::quota::{self, Usage};
use serde_json::Value;

use crate::status::resource_of;
use crate::{Api, Failure};

/// What writes under way claim.
#[derive(Default)]
pub(crate) struct Quotas {
    claims: Arc<Mutex<Vec<Claim>>>,
}

#[derive(Clone)]
struct Claim {
    id: u64,
    namespace: String,
    kind: String,
    object: Arc<Value>,
}

/// A claim for a write that has not happened yet: given back when the write is over, however it ends.
#[must_use]
#[derive(Default)]
pub(crate) struct Claimed {
    held: Option<(Arc<Mutex<Vec<Claim>>>, u64)>,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if let Some((claims, id)) = &self.held {
            claims.lock().unwrap_or_else(PoisonError::into_inner).retain(|claim| claim.id != *id);
        }
    }
}

impl Quotas {
    /// Refuses an object that one of its namespace's quotas has no room for; `old` is what it takes the place of.
    pub(crate) fn admit(
        &self,
        api: &Api,
        kind: &Kind,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<Claimed, Failure> {
        let namespace = meta::namespace(object);
        if !kind.namespaced || namespace.is_empty() {
            return Ok(Claimed::default());
        }
        let quotas = api.objects(&format!("resourcequotas/{namespace}/"));
        let (group, plural) = (kind.storage_group.as_ref(), kind.plural.as_ref());
        let counts = |quota: &&Value| quota::kinds(quota).iter().any(|(its, name)| its == group && name == plural);
        let quotas: Vec<&Value> = quotas.iter().filter(counts).collect();
        if quotas.is_empty() {
            return Ok(Claimed::default());
        }
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let there = self::there(api, kind, namespace, &claims);
        for quota in quotas.into_iter().filter(|quota| quota::counted(quota, group, plural, object)) {
            if let Some(why) = verdict(quota, (group, plural), object, old, &there) {
                return Err(Failure::forbidden(resource_of(kind), meta::name(object), &why));
            }
        }
        let id = claims.iter().map(|claim| claim.id).max().unwrap_or(0) + 1;
        let object = Arc::new(object.clone());
        claims.push(Claim { id, namespace: namespace.to_owned(), kind: kind.key_prefix(), object });
        Ok(Claimed { held: Some((self.claims.clone(), id)) })
    }
}

/// What there is of a kind in a namespace, and what is about to be. An object that is both counts once.
fn there(api: &Api, kind: &Kind, namespace: &str, claims: &[Claim]) -> Vec<Arc<Value>> {
    let prefix = kind.key_prefix();
    let stored = api.objects(&format!("{prefix}/{namespace}/")).into_iter().map(Arc::new);
    let mut there: Vec<Arc<Value>> = stored.collect();
    for claim in claims.iter().filter(|claim| claim.namespace == namespace && claim.kind == prefix) {
        if !there.iter().any(|one| meta::uid(one) == meta::uid(&claim.object)) {
            there.push(claim.object.clone());
        }
    }
    there
}

fn verdict(
    quota: &Value,
    (group, plural): (&str, &str),
    object: &Value,
    old: Option<&Value>,
    there: &[Arc<Value>],
) -> Option<String> {
    let (name, hard) = (meta::name(quota), quota::hard(quota));
    if group.is_empty() && plural == "pods" && old.is_none() {
        let silent = quota::unspecified(name, &hard, object);
        if silent.is_some() {
            return silent;
        }
    }
    let mut more = quota::usage(group, plural, object);
    if let Some(old) = old.filter(|old| quota::counted(quota, group, plural, old)) {
        let before = quota::usage(group, plural, old);
        for (resource, amount) in &mut more {
            if let Some(before) = before.get(resource) {
                *amount = amount.minus(*before);
            }
        }
    }
    let mut used = Usage::new();
    for one in there.iter().filter(|one| quota::counted(quota, group, plural, one)) {
        for (resource, amount) in quota::usage(group, plural, one) {
            let sum = used.get(&resource).map_or(amount, |sum| sum.plus(amount));
            used.insert(resource, sum);
        }
    }
    quota::refusal(name, &hard, &used, &more)
}
