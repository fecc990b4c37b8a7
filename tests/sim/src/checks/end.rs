//! What must hold when everything has been quiet for a while.
//!
//! Start at [`settled`].

use std::collections::{BTreeMap, BTreeSet};

use client::{Kind, Resource};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ReplicationController, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::Value;

use crate::nodes::{Nodes, list};
use crate::server::Server;

/// A cluster that should have settled.
struct Cluster {
    kinds: BTreeMap<String, Vec<Value>>,
    broken: Vec<String>,
}

/// What is wrong with it.
pub fn settled(server: &Server, nodes: &Nodes) -> Vec<String> {
    let kinds: [&Resource; 15] = [
        Deployment::RESOURCE,
        ReplicaSet::RESOURCE,
        ReplicationController::RESOURCE,
        StatefulSet::RESOURCE,
        DaemonSet::RESOURCE,
        Job::RESOURCE,
        CronJob::RESOURCE,
        Pod::RESOURCE,
        ControllerRevision::RESOURCE,
        Service::RESOURCE,
        EndpointSlice::RESOURCE,
        PodDisruptionBudget::RESOURCE,
        ConfigMap::RESOURCE,
        Namespace::RESOURCE,
        Node::RESOURCE,
    ];
    let read = |kind: &&Resource| (kind.plural.to_string(), list(server, kind).unwrap_or_default());
    let mut cluster = Cluster { kinds: kinds.iter().map(read).collect(), broken: Vec::new() };
    cluster.orphans();
    cluster.namespaces();
    cluster.sets();
    cluster.daemons();
    cluster.pods_run(nodes);
    cluster.jobs(nodes);
    cluster.endpoints();
    cluster.budgets();
    cluster.broken
}

impl Cluster {
    fn all(&self, plural: &str) -> Vec<Value> {
        self.kinds.get(plural).cloned().unwrap_or_default()
    }

    fn say(&mut self, sentence: String) {
        self.broken.push(sentence);
    }

    /// No orphan outlives its owner, and nothing hangs half deleted.
    fn orphans(&mut self) {
        let all: Vec<Value> = self.kinds.values().flatten().cloned().collect();
        let uids: BTreeSet<&str> = all.iter().filter_map(|each| each["metadata"]["uid"].as_str()).collect();
        for each in &all {
            for owner in each["metadata"]["ownerReferences"].as_array().into_iter().flatten() {
                if !uids.contains(owner["uid"].as_str().unwrap_or_default()) {
                    self.say(format!("{} outlives its owner {} {}", name(each), owner["kind"], owner["name"]));
                }
            }
            if !each["metadata"]["deletionTimestamp"].is_null() {
                let finalizers = &each["metadata"]["finalizers"];
                self.say(format!("{} is still being deleted, finalizers {finalizers}", name(each)));
            }
        }
    }

    /// Nothing outlives its namespace.
    fn namespaces(&mut self) {
        let there = self.all("namespaces");
        let there: BTreeSet<&str> = there.iter().filter_map(|each| each["metadata"]["name"].as_str()).collect();
        for each in self.kinds.values().flatten().cloned().collect::<Vec<_>>() {
            if let Some(namespace) = each["metadata"]["namespace"].as_str()
                && !there.contains(namespace)
            {
                self.say(format!("{} outlives its namespace", name(&each)));
            }
        }
    }

    /// The pods that this object manages, by what they say themselves.
    fn pods_of(&self, owner: &Value) -> Vec<&Value> {
        let uid = &owner["metadata"]["uid"];
        let owned = |pod: &&Value| {
            let owners = pod["metadata"]["ownerReferences"].as_array();
            owners.into_iter().flatten().any(|each| each["uid"] == *uid)
        };
        self.kinds["pods"].iter().filter(owned).collect()
    }

    /// Sets have the pods they ask for, no more (also in the end of a surge) and no fewer, and all of them ready unless one
    /// found no place.
    fn sets(&mut self) {
        for plural in ["replicasets", "replicationcontrollers", "statefulsets"] {
            for set in self.all(plural) {
                let wanted = number(&set, "/spec/replicas");
                let count = self.pods_of(&set).into_iter().filter(|pod| !has_ended(pod)).count() as i64;
                let waits = self.pods_of(&set).into_iter().any(waits);
                // One after the other: nobody comes after one that has no place.
                if count != wanted && !(waits && plural == "statefulsets") {
                    self.say(format!("{} has {count} pods, not {wanted}", name(&set)));
                }
                if !waits {
                    self.counts(&set, &["replicas", "readyReplicas", "availableReplicas"], wanted);
                }
            }
        }
        for deployment in self.all("deployments") {
            let uid = &deployment["metadata"]["uid"];
            let sets = self.all("replicasets");
            let own = sets.iter().filter(|set| set.pointer("/metadata/ownerReferences/0/uid") == Some(uid));
            let own: Vec<&Value> = own.collect();
            if !own.iter().any(|set| self.pods_of(set).into_iter().any(waits)) {
                let fields = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
                self.counts(&deployment, &fields, number(&deployment, "/spec/replicas"));
            }
        }
        for set in self.all("statefulsets") {
            if !self.pods_of(&set).into_iter().any(waits) {
                self.counts(&set, &["updatedReplicas"], number(&set, "/spec/replicas"));
            }
        }
    }

    /// Each eligible node has exactly one pod of a DaemonSet; every node is eligible here.
    fn daemons(&mut self) {
        for set in self.all("daemonsets") {
            let nodes = self.all("nodes").len() as i64;
            let pods = self.pods_of(&set);
            let some_wait = pods.iter().any(|pod| waits(pod));
            let places: BTreeSet<&str> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
            if !some_wait && (places.len() as i64 != nodes || pods.len() as i64 != nodes) {
                let sentence = format!("{} has {} pods on {} of {nodes} nodes", name(&set), pods.len(), places.len());
                self.say(sentence);
            }
            if !some_wait {
                self.counts(&set, &["desiredNumberScheduled", "currentNumberScheduled", "numberReady"], nodes);
                if set["spec"]["updateStrategy"]["type"] == "RollingUpdate" {
                    self.counts(&set, &["updatedNumberScheduled"], nodes);
                }
            }
        }
    }

    fn counts(&mut self, set: &Value, fields: &[&str], wanted: i64) {
        for field in fields {
            let is = number(set, &format!("/status/{field}"));
            if is != wanted {
                self.say(format!("{} has {field} {is}, not {wanted}", name(set)));
            }
        }
    }

    /// What the API says runs, runs; what runs, the API knows.
    fn pods_run(&mut self, nodes: &Nodes) {
        let running = nodes.running();
        let pods = self.all("pods");
        for pod in &pods {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
            let says_so = pod["status"]["phase"] == "Running";
            // A container that is down between two starts is no lie.
            if says_so && is_ready(pod) && !running.contains_key(uid) {
                self.say(format!("{} is ready and does not run", name(pod)));
            }
            if pod["spec"]["nodeName"].is_null() && !waits(pod) {
                self.say(format!("{} has no node, and nobody says why", name(pod)));
            }
        }
        for (uid, (node, namespace, pod)) in running {
            if !pods.iter().any(|each| each["metadata"]["uid"] == *uid) {
                self.say(format!("{namespace}/{pod} runs on {node}, and the API does not know it"));
            }
        }
    }

    /// A Job counts exactly what succeeded, and ends.
    fn jobs(&mut self, nodes: &Nodes) {
        for job in self.all("jobs") {
            let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ended = |type_: &str| conditions.iter().any(|each| each["type"] == type_ && each["status"] == "True");
            if !ended("Complete") && !ended("Failed") && !self.pods_of(&job).into_iter().any(waits) {
                self.say(format!("{} has not ended: {}", name(&job), job["status"]));
            }
            let (counted, wanted) = (number(&job, "/status/succeeded"), number(&job, "/spec/completions"));
            if ended("Complete") && counted != wanted {
                self.say(format!("{} is complete with {counted} of {wanted}", name(&job)));
            }
            let key = name(&job).split_once(' ').map(|(_, key)| key.to_owned()).unwrap_or_default();
            let really = nodes.succeeded.values().filter(|each| **each == key).count() as i64;
            if counted > really {
                self.say(format!("{} counts {counted} successes, there were {really}", name(&job)));
            }
        }
    }

    /// The endpoints of a Service that are ready are its ready pods.
    fn endpoints(&mut self) {
        for service in self.all("services") {
            let Some(selector) = service["spec"]["selector"].as_object() else { continue };
            let namespace = &service["metadata"]["namespace"];
            let pods = self.all("pods");
            let selected = pods.iter().filter(|pod| {
                pod["metadata"]["namespace"] == *namespace
                    && selector.iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value)
            });
            let wanted: BTreeSet<&str> =
                selected.filter(|pod| is_ready(pod)).filter_map(|pod| pod["status"]["podIP"].as_str()).collect();
            let slices = self.all("endpointslices");
            let own = slices.iter().filter(|slice| {
                slice["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
                    && slice["metadata"]["namespace"] == *namespace
            });
            let endpoints = own.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
            let ready = endpoints.filter(|each| each["conditions"]["ready"] == true);
            let found: BTreeSet<&str> = ready.filter_map(|each| each["addresses"][0].as_str()).collect();
            if found != wanted {
                self.say(format!("{} has endpoints {found:?}, its ready pods are {wanted:?}", name(&service)));
            }
        }
    }

    /// A budget counts its healthy pods, and allows what is above its limit.
    fn budgets(&mut self) {
        for budget in self.all("poddisruptionbudgets") {
            let label = budget.pointer("/spec/selector/matchLabels/app").cloned().unwrap_or_default();
            let namespace = &budget["metadata"]["namespace"];
            let pods = self.all("pods");
            let healthy = pods.iter().filter(|pod| {
                pod["metadata"]["labels"]["app"] == label && pod["metadata"]["namespace"] == *namespace && is_ready(pod)
            });
            let healthy = healthy.count() as i64;
            self.counts(&budget, &["currentHealthy"], healthy);
            let expected = number(&budget, "/status/expectedPods");
            let allowed = (healthy - number(&budget, "/status/desiredHealthy")).max(0);
            self.counts(&budget, &["disruptionsAllowed"], if expected > 0 { allowed } else { 0 });
        }
    }
}

fn has_ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn condition<'a>(pod: &'a Value, type_: &str) -> Option<&'a Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|each| each["type"] == type_)
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True") && !has_ended(pod)
}

/// Whether the scheduler told why there is no place for a pod.
fn waits(pod: &Value) -> bool {
    pod["spec"]["nodeName"].is_null()
        && condition(pod, "PodScheduled").is_some_and(|each| {
            each["reason"] == "Unschedulable"
                && each["message"].as_str().is_some_and(|words| words.contains("nodes are available"))
        })
}

fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

fn name(object: &Value) -> String {
    let word = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{} {}/{}", object["kind"].as_str().unwrap_or("object"), word("namespace"), word("name"))
}
