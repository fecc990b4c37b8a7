//! Keeps the numbered pods of a StatefulSet, their names and their volumes.
//!
//! Start at [`StatefulSets`].
//!
//! Invariants:
//! * a name never belongs to two pods: a pod is made only when its predecessor of that name is gone from the API;
//! * with OrderedReady one thing happens at a time, in order: up by number, down and updates from the highest;
//! * claims are made before their pod and are never deleted here: whose they are says when the garbage collector does;
//! * a pod whose node is merely unreachable is not replaced: it is still there.
//!
//! Not here: history (`revisions.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::Timestamp;
use client::{Collection, DeleteOptions, Entry, Kind, Resource, Selector};
use control::{About, Announce, Key, Note, Outcome, Reconciler, Regarding, View, Write};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::deployment::portion;
use crate::pods::{claim, controller_reference, from_template, is_available, is_ready, phase, some};
use crate::replicaset::keys_of_set;
use crate::revisions::{History, REVISION_LABEL};

/// The controller of StatefulSets.
pub struct StatefulSets;

impl Reconciler for StatefulSets {
    fn about(&self) -> About {
        const READS: &[&Resource] =
            &[StatefulSet::RESOURCE, Pod::RESOURCE, PersistentVolumeClaim::RESOURCE, ControllerRevision::RESOURCE];
        About {
            name: "statefulset-controller",
            reads: READS,
            writes: &["pods", "persistentvolumeclaims", "controllerrevisions.apps", "statefulsets.apps.status"],
            everything: false,
        }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        match collection.resource.as_str() {
            "persistentvolumeclaims" => {
                let sets = view.list::<StatefulSet>(Some(&entry.meta.namespace));
                let of = sets.iter().filter(|set| entry.meta.name.contains(&format!("-{}-", set.name())));
                of.map(|set| Key::new(set.namespace(), set.name())).collect()
            }
            _ => keys_of_set::<StatefulSet>(view, collection, entry, |set| {
                set.spec.as_ref().map(|spec| Selector::of(&spec.selector)).unwrap_or_else(Selector::nothing)
            }),
        }
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        let Some(set) = view.get::<StatefulSet>(&key.namespace, &key.name) else { return Outcome::none() };
        let Some(spec) = set.spec.clone().filter(|spec| !Selector::of(&spec.selector).is_empty()) else {
            return Outcome::none();
        };
        let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or_default();
        let history = History::of(view, &*set, &spec.template, labels, collisions);
        if let Some(write) = history.write.clone().filter(|_| !set.deleting()) {
            return write.into();
        }
        let claimed = claim::<StatefulSet, Pod>(view, &*set, &Selector::of(&spec.selector));
        let mut writes = claimed.writes;
        // Pods of other names are nobody of ours; adopting one would only orphan it again.
        writes.retain(|write| ordinal(set.name(), &write.name).is_some());
        let status = set.status.clone().unwrap_or_default();
        let current = Some(status.current_revision.clone().unwrap_or_default())
            .filter(|name| history.known.iter().any(|known| known.name() == name));
        let mut turn = Turn {
            current: current.unwrap_or_else(|| history.name.clone()),
            set: &set,
            view,
            spec,
            history,
            pods: BTreeMap::new(),
            now,
            outcome: Outcome { writes, ..Outcome::default() },
        };
        for pod in claimed.own {
            if let Some(ordinal) = ordinal(set.name(), pod.name()) {
                turn.pods.insert(ordinal, pod);
            }
        }
        turn.decide()
    }
}

/// The number in a pod's name.
fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    digits.parse().ok().filter(|number: &i32| number.to_string() == digits)
}

struct Turn<'a> {
    set: &'a StatefulSet,
    view: &'a View<'a>,
    spec: StatefulSetSpec,
    history: History,
    /// The revision that pods below the partition have.
    current: String,
    pods: BTreeMap<i32, Arc<Pod>>,
    now: Timestamp,
    outcome: Outcome,
}

impl Turn<'_> {
    fn decide(mut self) -> Outcome {
        if !self.set.deleting() {
            let settled = self.scale();
            if settled && self.is_rolling() {
                self.roll();
            }
            let used = self
                .pods
                .values()
                .filter_map(|pod| revision(pod))
                .chain([self.current.clone()])
                .collect::<BTreeSet<_>>();
            self.outcome.writes.extend(self.history.forget(self.spec.revision_history_limit.unwrap_or(10), &used));
        }
        let status = self.status();
        if Some(&status) != self.set.status.as_ref() {
            let write = Write::status(&StatefulSet { status: Some(status), ..self.set.clone() });
            self.outcome.writes.insert(0, write);
        }
        self.outcome
    }

    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn is_rolling(&self) -> bool {
        self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    fn first(&self) -> i32 {
        self.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or_default()
    }

    /// Past the last number.
    fn end(&self) -> i32 {
        self.first() + self.spec.replicas.unwrap_or(1).max(0)
    }

    fn partition(&self) -> i32 {
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        rolling.and_then(|rolling| rolling.partition).unwrap_or_default()
    }

    fn unavailable_max(&self) -> i32 {
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let limit = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        limit.map_or(1, |limit| portion(Some(limit), self.spec.replicas.unwrap_or(1), true)).max(1)
    }

    /// Running, ready for long enough, and staying.
    fn is_healthy(&self, pod: &Pod) -> bool {
        let ready = is_available(pod, self.spec.min_ready_seconds.unwrap_or_default(), self.now).is_ok();
        phase(pod) == "Running" && ready && !pod.deleting()
    }

    /// Brings the pods to the right numbers; whether nothing is left to do.
    fn scale(&mut self) -> bool {
        let mut settled = true;
        for ordinal in self.first()..self.end() {
            self.own_claims(ordinal, None);
            let done = self.keep(ordinal);
            settled &= done;
            if !done && self.is_ordered() {
                return false;
            }
        }
        let condemned: Vec<Arc<Pod>> = self
            .pods
            .iter()
            .filter(|(ordinal, _)| !(self.first()..self.end()).contains(ordinal))
            .map(|(_, pod)| pod.clone())
            .collect();
        for pod in condemned.into_iter().rev() {
            settled = false;
            // First, so that a crash in between leaves no claim that nobody deletes.
            self.own_claims(ordinal(self.set.name(), pod.name()).unwrap_or_default(), Some(&pod));
            if !pod.deleting() {
                self.delete(&pod);
            }
            if self.is_ordered() {
                return false;
            }
        }
        settled
    }

    /// One number; whether its pod is there and healthy.
    fn keep(&mut self, ordinal: i32) -> bool {
        match self.pods.get(&ordinal).cloned() {
            None => {
                self.create(ordinal);
                false
            }
            Some(pod) if matches!(phase(&pod), "Failed" | "Succeeded") && !pod.deleting() => {
                let message = format!(
                    "StatefulSet {}/{} is recreating {} Pod {}",
                    self.set.namespace(),
                    self.set.name(),
                    phase(&pod).to_lowercase(),
                    pod.name()
                );
                self.outcome.events.push(Note::warning(
                    &Regarding::object(self.set),
                    "RecreatingTerminatedPod",
                    message,
                ));
                self.delete(&pod);
                false
            }
            Some(pod) => {
                if phase(&pod) == "Pending" && !pod.deleting() {
                    // A claim may have gone after its pod was made.
                    self.make_claims(ordinal);
                }
                if let Err(Some(wait)) = is_available(&pod, self.spec.min_ready_seconds.unwrap_or_default(), self.now) {
                    self.outcome.again(wait);
                }
                let healthy = self.is_healthy(&pod);
                // A pod of a bad template that never gets ready would hold everything up; an update may replace it.
                if !healthy
                    && !pod.deleting()
                    && self.is_rolling()
                    && self.is_outdated(ordinal, &pod)
                    && phase(&pod) == "Pending"
                    && self.is_ordered()
                {
                    self.delete(&pod);
                }
                healthy
            }
        }
    }

    fn is_outdated(&self, ordinal: i32, pod: &Pod) -> bool {
        ordinal >= self.first() + self.partition() && revision(pod).as_deref() != Some(self.history.name.as_str())
    }

    /// Replaces pods of older templates from the highest number down to the partition.
    fn roll(&mut self) {
        let mut unavailable = self.pods.values().filter(|pod| !self.is_healthy(pod)).count() as i32;
        let outdated: Vec<Arc<Pod>> = self
            .pods
            .iter()
            .rev()
            .filter(|(ordinal, pod)| self.is_outdated(**ordinal, pod) && !pod.deleting())
            .map(|(_, pod)| pod.clone())
            .collect();
        for pod in outdated {
            if self.is_healthy(&pod) {
                if unavailable >= self.unavailable_max() {
                    return;
                }
                unavailable += 1;
            }
            self.delete(&pod);
        }
    }

    fn create(&mut self, ordinal: i32) {
        let old = self.is_rolling() && ordinal < self.first() + self.partition() && self.current != self.history.name;
        let (revision, template) = match self.history.template(&self.current).filter(|_| old) {
            Some(template) => (self.current.clone(), template),
            None => (self.history.name.clone(), self.spec.template.clone()),
        };
        let name = format!("{}-{ordinal}", self.set.name());
        let mut pod = from_template(&template, self.set);
        pod.metadata.name = Some(name.clone());
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), name.clone());
        labels.insert("apps.kubernetes.io/pod-index".to_owned(), ordinal.to_string());
        labels.insert(REVISION_LABEL.to_owned(), revision);
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(name.clone());
        spec.subdomain = self.spec.service_name.clone().filter(|service| !service.is_empty());
        for template in self.spec.volume_claim_templates.clone().unwrap_or_default() {
            let volume = template.name().to_owned();
            let claim = format!("{volume}-{name}");
            let volumes = spec.volumes.get_or_insert_default();
            volumes.retain(|each| each.name != volume);
            let source = PersistentVolumeClaimVolumeSource { claim_name: claim, read_only: None };
            volumes.push(Volume { name: volume, persistent_volume_claim: Some(source), ..Volume::default() });
        }
        self.make_claims(ordinal);
        let message = format!("create Pod {name} in StatefulSet {} ", self.set.name());
        self.outcome.writes.push(Write::create(&pod).announce(Announce {
            regarding: Regarding::object(self.set),
            done: ("SuccessfulCreate", format!("{message}successful")),
            failed: ("FailedCreate", format!("{message}failed error: ")),
        }));
    }

    /// Makes the claims of a number that are not there.
    fn make_claims(&mut self, ordinal: i32) {
        let pod = format!("{}-{ordinal}", self.set.name());
        for template in self.spec.volume_claim_templates.clone().unwrap_or_default() {
            let claim = format!("{}-{pod}", template.name());
            if self.view.get::<PersistentVolumeClaim>(self.set.namespace(), &claim).is_none() {
                self.outcome.writes.push(self.claim(template, &claim, &pod));
            }
        }
    }

    /// Whose the claims of a number are: the set's, its leaving pod's, or nobody's, as `persistentVolumeClaimRetentionPolicy` says.
    fn claim_owner(&self, leaving: Option<&Pod>) -> Option<OwnerReference> {
        let policy = self.spec.persistent_volume_claim_retention_policy.as_ref();
        let deletes = |when: Option<&String>| when.map(String::as_str) == Some("Delete");
        let when_scaled = deletes(policy.and_then(|policy| policy.when_scaled.as_ref()));
        let when_deleted = deletes(policy.and_then(|policy| policy.when_deleted.as_ref()));
        match leaving {
            Some(pod) if when_scaled => Some(controller_reference(pod)),
            _ => when_deleted.then(|| controller_reference(self.set)),
        }
    }

    /// Brings the owners of a number's claims in line with the policy; owners that others set stay.
    fn own_claims(&mut self, ordinal: i32, leaving: Option<&Pod>) {
        let pod = format!("{}-{ordinal}", self.set.name());
        let wanted = self.claim_owner(leaving);
        let templates = self.spec.volume_claim_templates.iter().flatten();
        let claims = templates.map(|template| format!("{}-{pod}", template.name()));
        let claims: Vec<Arc<PersistentVolumeClaim>> =
            claims.filter_map(|name| self.view.get(self.set.namespace(), &name)).collect();
        for claim in claims.iter().filter(|claim| !claim.deleting()) {
            let before = claim.metadata.owner_references.clone().unwrap_or_default();
            let ours =
                |owner: &OwnerReference| owner.uid == self.set.uid() || (owner.kind == "Pod" && owner.name == pod);
            let mut owners: Vec<OwnerReference> = before.iter().filter(|owner| !ours(owner)).cloned().collect();
            owners.extend(wanted.clone());
            if owners != before {
                let version = claim.metadata.resource_version.clone();
                let patch = serde_json::json!({"metadata": {"ownerReferences": owners, "resourceVersion": version}});
                self.outcome.writes.push(Write::patch(&**claim, "", patch));
            }
        }
    }

    fn claim(&self, template: PersistentVolumeClaim, claim: &str, pod: &str) -> Write {
        let mut made = template;
        made.metadata.owner_references = self.claim_owner(None).map(|owner| vec![owner]);
        made.status = None;
        made.metadata.name = Some(claim.to_owned());
        made.metadata.namespace = self.set.metadata.namespace.clone();
        let labels = made.metadata.labels.get_or_insert_default();
        labels.extend(self.spec.selector.match_labels.clone().unwrap_or_default());
        let message = format!("create Claim {claim} Pod {pod} in StatefulSet {} ", self.set.name());
        Write::create(&made).or_exists().announce(Announce {
            regarding: Regarding::object(self.set),
            done: ("SuccessfulCreate", format!("{message}success")),
            failed: ("FailedCreate", format!("{message}failed error: ")),
        })
    }

    fn delete(&mut self, pod: &Pod) {
        let message = format!("delete Pod {} in StatefulSet {} ", pod.name(), self.set.name());
        self.outcome.writes.push(Write::delete(pod, DeleteOptions::default()).announce(Announce {
            regarding: Regarding::object(self.set),
            done: ("SuccessfulDelete", format!("{message}successful")),
            failed: ("FailedDelete", format!("{message}failed error: ")),
        }));
    }

    fn status(&self) -> StatefulSetStatus {
        let known = self.set.status.clone().unwrap_or_default();
        let live: Vec<&Arc<Pod>> = self.pods.values().collect();
        let count = |test: &dyn Fn(&Pod) -> bool| live.iter().filter(|pod| test(pod)).count() as i32;
        let of = |name: &str| count(&|pod| revision(pod).as_deref() == Some(name) && !pod.deleting());
        let ready = count(&|pod| phase(pod) == "Running" && is_ready(pod));
        let available = count(&|pod| self.is_healthy(pod));
        let replicas = live.len() as i32;
        let updated = of(&self.history.name);
        let mut status = StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas,
            ready_replicas: some(ready),
            available_replicas: Some(available),
            current_replicas: some(of(&self.current)),
            updated_replicas: some(updated),
            current_revision: Some(self.current.clone()),
            update_revision: Some(self.history.name.clone()),
            collision_count: Some(known.collision_count.unwrap_or_default()),
            conditions: known.conditions,
        };
        // The update is through when every pod is of it and ready.
        let wanted = self.spec.replicas.unwrap_or(1);
        if self.is_rolling() && updated == replicas && ready == replicas && replicas == wanted {
            status.current_revision = status.update_revision.clone();
            status.current_replicas = status.updated_replicas;
        }
        status
    }
}

fn revision(pod: &Pod) -> Option<String> {
    pod.metadata.labels.as_ref()?.get(REVISION_LABEL).cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::World;

    /// A world with the set `db` of that spec and the revision of its template; the revision's name beside it.
    fn set_with(spec: serde_json::Value) -> (World, String) {
        let mut world = World::default();
        world.put(
            StatefulSet::RESOURCE,
            json!({"metadata": {"name": "db", "namespace": "n", "uid": "s", "generation": 1}, "spec": spec}),
        );
        let first = world.reconcile(&StatefulSets, "n", "db");
        let revision: serde_json::Value = serde_json::from_slice(&first.writes[0].body).expect("JSON");
        let name = revision["metadata"]["name"].as_str().expect("a name").to_owned();
        world.put(ControllerRevision::RESOURCE, revision);
        (world, name)
    }

    /// Pods: `number[marks]`: `o` of the old template, `!` unready, `-` leaving, `x` failed.
    #[track_caller]
    fn check(extra: serde_json::Value, pods: &str, wanted: &str) {
        let mut spec = json!({"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}});
        spec.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
        let (mut world, name) = set_with(spec);
        for pod in pods.split_whitespace() {
            let (ordinal, marks) = pod.split_at(1);
            let has = |mark| marks.contains(mark);
            let mut object = json!({"metadata": {"name": format!("db-{ordinal}"), "namespace": "n",
                "labels": {"app": "web", REVISION_LABEL: if has('o') { "db-old" } else { &name }},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "s", "controller": true}]},
                "status": {"phase": if has('x') { "Failed" } else { "Running" },
                    "conditions": [{"type": "Ready", "status": if has('!') { "False" } else { "True" }}]}});
            if has('-') {
                object["metadata"]["deletionTimestamp"] = "2026-11-23T19:59:00Z".into();
            }
            world.put(Pod::RESOURCE, object);
        }
        let outcome = world.reconcile(&StatefulSets, "n", "db");
        let told =
            outcome.writes.iter().filter(|write| write.subresource.is_empty()).map(|write| {
                format!("{}{}", if write.to_string().starts_with("create") { '+' } else { '-' }, write.name)
            });
        assert_eq!(told.collect::<Vec<_>>().join(" ").replace("db-", ""), wanted);
    }

    #[test]
    fn starts_one_after_another() {
        check(json!({}), "", "+0");
        check(json!({}), "0!", "");
        check(json!({}), "0", "+1");
    }
    #[test]
    fn starts_all_at_once_in_parallel() {
        check(json!({"podManagementPolicy": "Parallel"}), "", "+0 +1 +2");
    }
    #[test]
    fn stops_from_the_highest_when_all_below_are_well() {
        check(json!({"replicas": 1}), "0 1 2", "-2");
        check(json!({"replicas": 1}), "0 1 2-", "");
        check(json!({"replicas": 1}), "0! 1 2", "");
    }
    #[test]
    fn waits_until_a_name_is_free() {
        check(json!({}), "0 1- 2", "");
    }
    #[test]
    fn replaces_a_failed_pod() {
        check(json!({}), "0 1x 2", "-1");
    }
    #[test]
    fn updates_from_the_highest_to_the_partition() {
        check(json!({}), "0o 1o 2o", "-2");
        check(json!({}), "0o 1o 2!", "");
        check(json!({}), "0o 1o 2", "-1");
        check(json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}}), "0o 1o 2", "");
        check(json!({"updateStrategy": {"type": "OnDelete"}}), "0o 1o 2o", "");
    }
    #[test]
    fn numbers_may_start_anywhere() {
        check(json!({"ordinals": {"start": 5}, "replicas": 1}), "", "+5");
    }
    /// Whose a claim is after a pass over a set of one pod, of which there are two: by number, `kind/name` of each owner.
    #[track_caller]
    fn check_owners(policy: serde_json::Value, wanted: &[(&str, &str)]) {
        let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "replicas": 1, "serviceName": "db",
            "template": {"metadata": {"labels": {"app": "web"}}}, "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
            "persistentVolumeClaimRetentionPolicy": policy});
        let (mut world, name) = set_with(spec);
        for ordinal in 0..2 {
            let owner =
                json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "s", "controller": true});
            world.put(
                Pod::RESOURCE,
                json!({"metadata": {"name": format!("db-{ordinal}"), "namespace": "n",
                "labels": {"app": "web", REVISION_LABEL: name}, "ownerReferences": [owner]},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
            );
            world.put(
                PersistentVolumeClaim::RESOURCE,
                json!({"metadata": {"name": format!("data-db-{ordinal}"), "namespace": "n"}}),
            );
        }
        let outcome = world.reconcile(&StatefulSets, "n", "db");
        let owned =
            outcome.writes.iter().filter(|write| write.resource.plural == "persistentvolumeclaims").map(|write| {
                let patch: serde_json::Value = serde_json::from_slice(&write.body).expect("JSON");
                let owner = &patch["metadata"]["ownerReferences"][0];
                (write.name.clone(), format!("{}/{}", owner["kind"], owner["name"]).replace('"', ""))
            });
        let wanted: Vec<(String, String)> =
            wanted.iter().map(|(claim, owner)| ((*claim).to_owned(), (*owner).to_owned())).collect();
        assert_eq!(owned.collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn claims_go_with_whom_the_policy_says() {
        check_owners(json!({}), &[]);
        check_owners(json!({"whenScaled": "Delete"}), &[("data-db-1", "Pod/db-1")]);
        let with_set = json!({"whenDeleted": "Delete"});
        check_owners(with_set, &[("data-db-0", "StatefulSet/db"), ("data-db-1", "StatefulSet/db")]);
        let both = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
        check_owners(both, &[("data-db-0", "StatefulSet/db"), ("data-db-1", "Pod/db-1")]);
    }

    #[test]
    fn volumes_come_before_their_pod() {
        check(json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}}]}), "", "+data-0 +0");
    }
}
