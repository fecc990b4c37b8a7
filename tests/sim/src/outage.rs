//! A cluster in which everything goes well but for the nodes, which do what a script says.
//!
//! Start at [`Outage::start`]; `tests/outages.rs` has the scripts. A round is a second.
//!
//! Not here: faults of the server, the wire and the components (`life.rs`).

use std::sync::Arc;
use std::time::Duration;

use base::{Clock, ManualClock, Rng, Timestamp};
use client::{Kind, Resource};
use http::Method;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::checks::Watched;
use crate::dispatcher::Dispatcher;
use crate::manager::Manager;
use crate::nodes::{Nodes, call, list};
use crate::server::Server;

/// How often a node reports, in rounds; as the kubelet does.
const REPORT_EVERY: u64 = 5;
/// A cluster without trouble does anything within so many rounds.
const LIMIT: u64 = 60;

/// How long the cluster waits for nodes.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until a silent node is missed.
    pub grace: Duration,
    /// Until its pods are given up after that.
    pub toleration_seconds: i64,
}

impl Patience {
    /// What `skerry server` has where nobody says otherwise.
    pub const OURS: Patience =
        Patience { grace: controllers::NODE_MONITOR_GRACE_PERIOD, toleration_seconds: apiserver::TOLERATION_SECONDS };
}

/// A pod, as much of it as scripts ask about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Its node, or `""`.
    pub node: String,
    /// Its identity.
    pub uid: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it is asked to leave.
    pub leaving: bool,
}

/// A cluster under a script.
pub struct Outage {
    rng: Rng,
    clock: Arc<ManualClock>,
    server: Server,
    nodes: Nodes,
    manager: Manager,
    dispatcher: Dispatcher,
    watched: Watched,
    /// Rounds passed.
    round: u64,
}

impl Outage {
    /// So many nodes, and workloads `web` (a Deployment), `db` (a StatefulSet) and `log` (a DaemonSet), each with a pod on
    /// every node, all of them ready.
    pub fn start(count: usize, patience: Patience) -> Outage {
        let mut rng = Rng::new(1);
        let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1_795_464_000)));
        let server = Server::start(&clock, &mut rng, patience.toleration_seconds);
        let mut outage = Outage {
            rng,
            clock,
            server,
            nodes: Nodes::start(count),
            manager: Manager::start(patience.grace),
            dispatcher: Dispatcher::start(),
            watched: Watched::default(),
            round: 0,
        };
        outage.pass(10);
        let replicas = json!({"replicas": count, "podManagementPolicy": "Parallel", "serviceName": "db"});
        outage.make(Deployment::RESOURCE, "web", json!({"replicas": count}));
        outage.make(StatefulSet::RESOURCE, "db", replicas);
        outage.make(DaemonSet::RESOURCE, "log", json!({}));
        for app in ["web", "db", "log"] {
            outage.pass_until(|outage| outage.ready(app).len() == count);
        }
        outage
    }

    /// Makes a Job of so many pods at once.
    pub fn job(&self, name: &str, pods: usize) {
        self.make(Job::RESOURCE, name, json!({"parallelism": pods, "completions": pods}));
    }

    fn job_status(&self, name: &str) -> Value {
        let job = call(&self.server, Method::GET, Job::RESOURCE.path("default", name, ""), None).unwrap_or_default();
        job["status"].clone()
    }

    /// How many pods of a Job have succeeded.
    pub fn succeeded(&self, name: &str) -> i64 {
        self.job_status(name)["succeeded"].as_i64().unwrap_or_default()
    }

    /// Whether a Job is complete.
    pub fn is_complete(&self, name: &str) -> bool {
        let conditions = self.job_status(name)["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|each| each["type"] == "Complete" && each["status"] == "True")
    }

    fn make(&self, kind: &Resource, name: &str, mut spec: Value) {
        let policy = if kind == Job::RESOURCE { "Never" } else { "Always" };
        if kind != Job::RESOURCE {
            spec["selector"] = json!({"matchLabels": {"app": name}});
        }
        let containers = json!([{"name": "c", "image": "busybox"}]);
        spec["template"] =
            json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": containers, "restartPolicy": policy}});
        let object =
            json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": name}, "spec": spec});
        let made = call(&self.server, Method::POST, kind.within("default").path(), Some(object));
        assert!(made.is_some(), "{name} is made");
    }

    /// Lets time pass, a second a round.
    pub fn pass(&mut self, rounds: u64) {
        for _ in 0..rounds {
            self.manager.feeds.feed(&self.server, &mut self.rng, 0, &mut self.watched);
            self.manager.step(&self.server, &self.clock, &mut self.rng, true);
            self.dispatcher.feeds.feed(&self.server, &mut self.rng, 0, &mut self.watched);
            self.dispatcher.step(&self.server, &self.clock, &mut self.rng, true);
            self.nodes.step(&self.server, &self.clock, &mut self.rng, true);
            self.clock.advance(Duration::from_secs(1));
            if self.round.is_multiple_of(REPORT_EVERY) {
                self.nodes.report(&self.server, &self.clock);
            }
            self.server.tick();
            self.round += 1;
        }
    }

    /// Lets time pass until something holds; how many seconds that took.
    pub fn pass_until(&mut self, holds: impl Fn(&Outage) -> bool) -> u64 {
        self.pass_at_most(LIMIT, holds)
    }

    /// The same with more patience.
    pub fn pass_at_most(&mut self, limit: u64, holds: impl Fn(&Outage) -> bool) -> u64 {
        let begun = self.round;
        while !holds(self) {
            assert!(self.round - begun < limit, "waited {limit} s in vain: {:#?}", self.all_pods());
            self.pass(1);
        }
        self.round - begun
    }

    /// The node of this number is not heard for so many seconds; its pods run on.
    pub fn silence(&mut self, number: usize, seconds: u32) {
        self.nodes.silence(number, seconds + 1);
    }

    /// The calendar jumps by so many seconds.
    pub fn jump(&self, seconds: i64) {
        self.clock.jump_to(Timestamp::from_seconds(self.clock.now().seconds() + seconds));
    }

    /// Changes a node.
    pub fn patch_node(&self, number: usize, patch: Value) {
        let path = Node::RESOURCE.path("", &format!("node-{number}"), "");
        assert!(call(&self.server, Method::PATCH, path, Some(patch)).is_some(), "the node is changed");
    }

    /// Deletes a node's object; the node itself is not heard any more.
    pub fn remove_node(&mut self, number: usize) {
        self.nodes.silence(number, u32::MAX);
        let path = Node::RESOURCE.path("", &format!("node-{number}"), "");
        assert!(call(&self.server, Method::DELETE, path, None).is_some(), "the node is deleted");
    }

    /// The taints of a node, as `KEY:EFFECT`.
    pub fn taints(&self, number: usize) -> Vec<String> {
        let path = Node::RESOURCE.path("", &format!("node-{number}"), "");
        let node = call(&self.server, Method::GET, path, None).unwrap_or_default();
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let word = |taint: &Value, field: &str| taint[field].as_str().unwrap_or_default().to_owned();
        let mut all: Vec<String> =
            taints.iter().map(|taint| format!("{}:{}", word(taint, "key"), word(taint, "effect"))).collect();
        all.sort();
        all
    }

    /// The pods of a workload, by name.
    pub fn pods(&self, app: &str) -> Vec<Seen> {
        let mut all = self.all_pods();
        all.retain(|(its, _)| its == app);
        all.into_iter().map(|(_, pod)| pod).collect()
    }

    /// Those that are ready and stay.
    pub fn ready(&self, app: &str) -> Vec<Seen> {
        self.pods(app).into_iter().filter(|pod| pod.ready && !pod.leaving).collect()
    }

    /// Every pod with its workload.
    fn all_pods(&self) -> Vec<(String, Seen)> {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let seen = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let seen = Seen {
                name: word(&pod["metadata"]["name"]),
                node: word(&pod["spec"]["nodeName"]),
                uid: word(&pod["metadata"]["uid"]),
                ready: conditions.iter().any(|each| each["type"] == "Ready" && each["status"] == "True"),
                leaving: !pod["metadata"]["deletionTimestamp"].is_null(),
            };
            (word(&pod["metadata"]["labels"]["app"]), seen)
        };
        list(&self.server, Pod::RESOURCE).unwrap_or_default().iter().map(seen).collect()
    }

    /// The identities of all pods.
    pub fn uids(&self) -> Vec<String> {
        self.all_pods().into_iter().map(|(_, pod)| pod.uid).collect()
    }
}
