//! What must hold at every moment.
//!
//! Start at [`Watched`].

use std::collections::BTreeMap;

use client::{Collection, Event};
use serde_json::Value;

use crate::nodes::Nodes;

/// What was seen so far, and what was wrong with it.
#[derive(Default)]
pub struct Watched {
    newest: BTreeMap<Collection, u64>,
    /// Sentences about what broke.
    pub broken: Vec<String>,
    /// Events seen.
    pub events: u64,
}

impl Watched {
    /// Revisions only grow, also across crashes of the server: a list is never older than an event before it.
    pub fn listed(&mut self, collection: &Collection, revision: &str) {
        let revision: u64 = revision.parse().unwrap_or_default();
        let newest = self.newest.entry(collection.clone()).or_default();
        if revision < *newest {
            self.broken.push(format!("a list of {collection} went back from revision {newest} to {revision}"));
        }
        *newest = revision.max(*newest);
    }

    /// An event carries a revision, and a second one of the same never tells something else.
    pub fn event(&mut self, collection: &Collection, event: &Event) {
        self.events += 1;
        let object: Value = serde_json::from_slice(&event.object).unwrap_or_default();
        let revision = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        if revision.and_then(|revision| revision.parse::<u64>().ok()).is_none() {
            self.broken.push(format!("an event of {collection} carries no revision"));
        }
    }

    /// No name runs twice: of a StatefulSet's ordinals, and of any other pod.
    pub fn nodes(&mut self, nodes: &Nodes) {
        let mut names = BTreeMap::new();
        for (uid, (node, namespace, name)) in &nodes.running {
            if let Some((other, there)) = names.insert((namespace, name), (uid, node)) {
                self.broken.push(format!("{namespace}/{name} runs twice: {uid} on {node} and {other} on {there}"));
            }
        }
    }

    /// A pod runs only on the node it is bound to.
    pub fn bound(&mut self, nodes: &Nodes, pods: &[Value]) {
        for pod in pods {
            let (Some(uid), Some(node)) = (pod["metadata"]["uid"].as_str(), pod["spec"]["nodeName"].as_str()) else {
                continue;
            };
            if let Some((runs_on, ..)) = nodes.running.get(uid)
                && runs_on != node
            {
                self.broken.push(format!("pod {} is bound to {node} and runs on {runs_on}", pod["metadata"]["name"]));
            }
        }
    }
}
