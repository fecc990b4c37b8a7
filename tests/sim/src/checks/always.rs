//! What must hold at every moment.
//!
//! Start at [`Watched::look`].

use std::collections::{BTreeMap, BTreeSet};

use client::{Collection, Event};
use serde_json::Value;

use crate::nodes::{NODE_MILLI_CPU, NODE_PODS, Nodes};

/// What was seen so far, and what was wrong with it.
#[derive(Default)]
pub struct Watched {
    newest: BTreeMap<Collection, u64>,
    /// Of which object each revision is, and a checksum of what it says.
    revisions: BTreeMap<u64, (String, u64)>,
    /// Where each pod was first seen bound.
    bound: BTreeMap<String, String>,
    /// The Job of each schedule time of a CronJob.
    runs: BTreeMap<(String, String), String>,
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

    /// An event carries a revision, which is never used for anything else.
    pub fn event(&mut self, collection: &Collection, event: &Event) {
        self.events += 1;
        let object: Value = serde_json::from_slice(&event.object).unwrap_or_default();
        let revision = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        let Some(revision) = revision.and_then(|revision| revision.parse::<u64>().ok()) else {
            return self.broken.push(format!("an event of {collection} carries no revision"));
        };
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        // Bookmarks are of no object.
        if !uid.is_empty() {
            let says = (format!("{} {uid}", object["kind"]), base::fnv1a(event.object.iter().copied()));
            let known = self.revisions.entry(revision).or_insert_with(|| says.clone());
            if *known != says {
                self.broken
                    .push(format!("revision {revision} is of {} and of {}, or says two things", known.0, says.0));
            }
        }
    }

    /// Looks at what the API shows and what really runs.
    pub fn look(&mut self, nodes: &Nodes, pods: &[Value], jobs: &[Value]) {
        let running = nodes.running();
        self.no_name_runs_twice(&running);
        for pod in pods {
            self.stays_where_it_is_bound(pod, &running);
        }
        self.fits(pods);
        self.keeps_apart(pods);
        self.runs_once(jobs);
    }

    /// The calendar was set back: what was to run after `now` may well run again.
    pub fn set_back(&mut self, now: &str) {
        self.runs.retain(|(_, due), _| due.as_str() < now);
    }

    /// Of a StatefulSet's ordinals, and of any other pod.
    fn no_name_runs_twice(&mut self, running: &BTreeMap<String, (String, String, String)>) {
        let mut names = BTreeMap::new();
        for (uid, (node, namespace, name)) in running {
            if let Some((other, there)) = names.insert((namespace, name), (uid, node)) {
                self.broken.push(format!("{namespace}/{name} runs twice: {uid} on {node} and {other} on {there}"));
            }
        }
    }

    /// A pod runs only on the node it is bound to, and is never bound to another.
    fn stays_where_it_is_bound(&mut self, pod: &Value, running: &BTreeMap<String, (String, String, String)>) {
        let name = &pod["metadata"]["name"];
        let (Some(uid), node) = (pod["metadata"]["uid"].as_str(), pod["spec"]["nodeName"].as_str()) else { return };
        match (node, self.bound.get(uid)) {
            (Some(node), None) => drop(self.bound.insert(uid.to_owned(), node.to_owned())),
            (now, Some(before)) if now != Some(before) => {
                self.broken.push(format!("pod {name} was bound to {before} and is now bound to {now:?}"));
            }
            _ => {}
        }
        if let Some((runs_on, ..)) = running.get(uid)
            && node != Some(runs_on)
        {
            self.broken.push(format!("pod {name} is bound to {node:?} and runs on {runs_on}"));
        }
    }

    /// What the pods of a node ask for together fits it.
    fn fits(&mut self, pods: &[Value]) {
        let mut sums: BTreeMap<&str, (i64, usize)> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| !has_ended(pod)) {
            let Some(node) = pod["spec"]["nodeName"].as_str() else { continue };
            let sum = sums.entry(node).or_default();
            *sum = (sum.0 + milli_cpu(pod), sum.1 + 1);
        }
        for (node, (cpu, count)) in sums {
            if cpu > NODE_MILLI_CPU || count > NODE_PODS {
                self.broken.push(format!("{node} has {count} pods that ask for {cpu}m"));
            }
        }
    }

    /// Pods that must not share a node do not.
    fn keeps_apart(&mut self, pods: &[Value]) {
        let mut seen = BTreeSet::new();
        for pod in pods.iter().filter(|pod| !has_ended(pod)) {
            let label = pod["metadata"]["labels"]["apart"].as_str();
            let (Some(label), Some(node)) = (label, pod["spec"]["nodeName"].as_str()) else { continue };
            let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
            if !seen.insert((namespace, label, node)) {
                self.broken.push(format!("two pods of {namespace}/{label} that keep apart are on {node}"));
            }
        }
    }

    /// A CronJob runs once for each time of its schedule.
    fn runs_once(&mut self, jobs: &[Value]) {
        for job in jobs {
            let due = job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"].as_str();
            let owner = job.pointer("/metadata/ownerReferences/0/uid").and_then(Value::as_str);
            let (Some(due), Some(owner), Some(uid)) = (due, owner, job["metadata"]["uid"].as_str()) else { continue };
            let known = self.runs.entry((owner.to_owned(), due.to_owned())).or_insert_with(|| uid.to_owned());
            if known != uid {
                self.broken.push(format!("{} ran twice for {due}", job["metadata"]["name"]));
            }
        }
    }
}

fn has_ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn milli_cpu(pod: &Value) -> i64 {
    let asked = pod.pointer("/spec/containers/0/resources/requests/cpu").and_then(Value::as_str);
    asked.and_then(|asked| asked.strip_suffix('m')).and_then(|asked| asked.parse().ok()).unwrap_or_default()
}
