//! A write that was acknowledged is never lost.
//!
//! Start at [`Ledger::write`]: it counts in ConfigMaps that nobody else touches, by requests that may be answered late, or never.
//! [`Ledger::check`] reads them back.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use base::Rng;
use bytes::Bytes;
use client::{Call, Kind};
use http::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use crate::nodes::call;
use crate::server::Server;

const NAMES: u64 = 4;
const NAMESPACE: &str = "default";

/// What was acknowledged.
#[derive(Default)]
pub struct Ledger {
    next: u64,
    acknowledged: Rc<RefCell<BTreeMap<String, u64>>>,
}

impl Ledger {
    /// Writes the next number somewhere.
    pub fn write(&mut self, server: &Server, rng: &mut Rng) {
        self.next += 1;
        let (name, number) = (format!("ledger-{}", rng.below(NAMES)), self.next);
        let exists = self.acknowledged.borrow().contains_key(&name);
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"number": number.to_string()}});
        let (method, path, content_type) = match exists {
            true => (Method::PATCH, ConfigMap::RESOURCE.path(NAMESPACE, &name, ""), client::typed::MERGE_PATCH),
            false => (Method::POST, ConfigMap::RESOURCE.within(NAMESPACE).path(), client::typed::JSON),
        };
        let acknowledged = self.acknowledged.clone();
        server.later(Call { method, path, content_type, body: Bytes::from(body.to_string()) }, move |reply| {
            if reply.status.is_success() || reply.status.as_u16() == 409 {
                // A conflict says that an unanswered create happened; of what number, nobody said.
                let number = if reply.status.is_success() { number } else { 0 };
                let mut all = acknowledged.borrow_mut();
                let known = all.entry(name).or_default();
                *known = number.max(*known);
            }
        });
    }

    /// What was lost, in sentences.
    pub fn check(&self, server: &Server) -> Vec<String> {
        let mut lost = Vec::new();
        for (name, number) in &*self.acknowledged.borrow() {
            let found = call(server, Method::GET, ConfigMap::RESOURCE.path(NAMESPACE, name, ""), None);
            if server.is_dark() {
                return Vec::new();
            }
            let there = found.as_ref().and_then(|object| object["data"]["number"].as_str()).map(str::parse::<u64>);
            if !matches!(there, Some(Ok(there)) if there >= *number) {
                let there = found.map_or(Value::Null, |object| object["data"].clone());
                lost.push(format!("{number} was acknowledged in {name}, which holds {there}"));
            }
        }
        lost
    }
}
