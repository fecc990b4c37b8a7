//! Deleting: at once, gracefully, or after others had their say.
//!
//! Start at [`Api::delete_object`].
//!
//! Invariants:
//! * an object with finalizers, a pod on a node and a namespace only begin to go; they are gone when the last reason to
//!   wait is;
//! * a pod's grace period only ever gets shorter.

use std::sync::Arc;
use std::time::Duration;

use api::kinds::{Kind, KindRef};
use api::{check, dig, meta};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use http::StatusCode;
use serde_json::{Value, json};
use store::{Delete, Durability, Precondition, Put, StoreError, Write};

use crate::body;
use crate::read::Window;
use crate::server::{Ask, decoded, success};
use crate::status::resource_of;
use crate::{Api, Failure, Response, encode, render};

/// A deletion that meets a newer version is tried again so often.
const RETRIES_MAX: usize = 16;
/// So many deletions of one collection are under way at once.
const TOGETHER_MAX: usize = 100;
/// A pod that does not say how long it may take has this long, as upstream defaults it.
const GRACE_SECONDS: i64 = 30;
/// Waits for dependents to go first.
const FOREGROUND: &str = "foregroundDeletion";
/// Waits for dependents to be set free.
const ORPHAN: &str = "orphan";
/// Kinds whose deletion is answered with the object instead of a `Status`.
const ANSWERED_WITH_OBJECT: [&str; 7] = [
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
    "persistentvolumes",
    "persistentvolumeclaims",
];

/// How to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub grace_seconds: Option<i64>,
    pub uid: String,
    pub resource_version: String,
    /// `Orphan`, `Background` or `Foreground`; empty for the default.
    pub propagation: String,
    pub dry_run: bool,
}

/// What became of a deletion.
pub(crate) enum Gone {
    /// The object is no more; this is how it last was.
    Now(Bytes),
    /// It begins to go.
    Later(Bytes),
}

impl Options {
    /// Reads the body and the query; the body counts where both speak.
    pub(crate) fn of(ask: &Ask) -> Result<Options, Failure> {
        let mut sent = Value::Null;
        if !ask.body.is_empty() {
            let (value, _) = body::tree(ask.content_type(), &ask.body)?;
            sent = value;
            if let Some(ty) = api::schema::find_ref("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions") {
                let report = check::structure_as(&ty, &mut sent, check::Mode::Whole);
                if let Some(fault) = report.errors.first() {
                    return Err(Failure::bad_request(fault.message.clone()));
                }
            }
        }
        Options::read(&sent, ask)
    }

    fn read(sent: &Value, ask: &Ask) -> Result<Options, Failure> {
        let grace = match dig::int(sent, "gracePeriodSeconds") {
            None => ask.query.number("gracePeriodSeconds")?.map(|seconds| seconds as i64),
            given => given,
        };
        let orphans = match sent.get("orphanDependents").and_then(Value::as_bool) {
            None if ask.query.has("orphanDependents") => Some(ask.query.flag("orphanDependents")),
            given => given,
        };
        let mut propagation = dig::text(sent, "propagationPolicy").to_owned();
        if propagation.is_empty() {
            propagation = ask.query.get("propagationPolicy").to_owned();
        }
        match (propagation.as_str(), orphans) {
            ("" | "Orphan" | "Background" | "Foreground", None) => {}
            ("", Some(orphans)) => propagation = if orphans { "Orphan" } else { "Background" }.to_owned(),
            (_, Some(_)) => {
                return Err(Failure::unprocessable("orphanDependents and deletionPropagation cannot be both set"));
            }
            (other, None) => {
                return Err(Failure::unprocessable(format!(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: supported \
                     values: \"Background\", \"Foreground\", \"Orphan\""
                )));
            }
        }
        Ok(Options {
            grace_seconds: grace.map(|seconds| if seconds < 0 { 1 } else { seconds }),
            uid: dig::text(sent, "preconditions.uid").to_owned(),
            resource_version: dig::text(sent, "preconditions.resourceVersion").to_owned(),
            propagation,
            dry_run: ask.query.dry_run()? || dig::texts(sent, "dryRun").contains(&"All"),
        })
    }
}

impl Api {
    pub(crate) async fn delete(self: &Arc<Self>, ask: &Ask) -> Result<Response, Failure> {
        let options = Options::of(ask)?;
        let gone = self.delete_object(&ask.kind, &ask.info.namespace, &ask.info.name, &options).await?;
        let (object, is_answer) = match gone {
            Gone::Later(object) => (object, true),
            Gone::Now(object) => (object, ANSWERED_WITH_OBJECT.contains(&ask.kind.plural.as_ref())),
        };
        if is_answer {
            return render::object(&ask.form(), StatusCode::OK, &object, self.now());
        }
        let tree: Value = serde_json::from_slice(&object).unwrap_or_default();
        let mut details = json!({"name": meta::name(&tree), "kind": ask.kind.plural, "uid": meta::uid(&tree)});
        if !ask.kind.group.is_empty() {
            details["group"] = ask.kind.group.as_ref().into();
        }
        render::tree(ask.wanted.format, StatusCode::OK, &success(StatusCode::OK, details))
    }

    pub(crate) async fn delete_collection(self: &Arc<Self>, ask: &Ask) -> Result<Response, Failure> {
        let options = Options::of(ask)?;
        let mut listed = self.page(&ask.selection()?, &Window::default())?;
        // Together, so that the store commits them together.
        let deletions = listed.entries.iter().map(|entry| async {
            let mut steps = entry.key.rsplit('/');
            let name = steps.next().unwrap_or_default();
            let namespace = if ask.kind.namespaced { steps.next().unwrap_or_default() } else { "" };
            match self.delete_object(&ask.kind, namespace, name, &options).await {
                // Somebody else was quicker: it is gone, which is what was asked for.
                Err(failure) if failure.code != 404 => Err(failure),
                _ => Ok(()),
            }
        });
        let all = stream::iter(deletions).map(Ok::<_, Failure>);
        all.try_for_each_concurrent(TOGETHER_MAX, |deletion| deletion).await?;
        listed.metadata = json!({"resourceVersion": self.store.revision().to_string()});
        render::list(&ask.form(), &listed, self.now())
    }

    /// Deletes an object, or begins to.
    pub(crate) async fn delete_object(
        self: &Arc<Self>,
        kind: &KindRef,
        namespace: &str,
        name: &str,
        options: &Options,
    ) -> Result<Gone, Failure> {
        let kind = &self.kinds.storage(kind);
        for _ in 0..RETRIES_MAX {
            let entry = self.entry(kind, namespace, name)?;
            let old = decoded(&entry);
            hold(kind, &old, name, options)?;
            let mut new = old.clone();
            begin(kind, &mut new, options, self.now());
            let gone = goes_now(kind, &new);
            if options.dry_run {
                return Ok(if gone { Gone::Now(entry.value) } else { Gone::Later(entry.value) });
            }
            if !gone && new == old {
                return Ok(Gone::Later(entry.value));
            }
            let (value, stamp_at) = encode::stored(&new);
            let (key, precondition) = (entry.key.to_string(), Precondition::At(entry.revision));
            let write = match gone {
                true => Write::Delete(Delete { key, precondition, tombstone: Some((value, Some(stamp_at))) }),
                false => Write::Put(Put {
                    key,
                    value,
                    stamp_at: Some(stamp_at),
                    precondition,
                    durability: Durability::Durable,
                }),
            };
            match self.store.write(write).await {
                Ok(written) if gone => {
                    self.allocator.release(kind, &old);
                    self.written(kind);
                    return Ok(Gone::Now(written.value));
                }
                Ok(written) => {
                    self.written(kind);
                    return Ok(Gone::Later(written.value));
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(Failure::store(&error)),
            }
        }
        Err(Failure::modified(resource_of(kind), name))
    }
}

/// A deletion may say which object and which version it means.
fn hold(kind: &Kind, old: &Value, name: &str, options: &Options) -> Result<(), Failure> {
    let pairs = [
        ("UID", options.uid.as_str(), meta::uid(old)),
        ("ResourceVersion", options.resource_version.as_str(), meta::resource_version(old)),
    ];
    for (what, wanted, is) in pairs {
        if !wanted.is_empty() && wanted != is {
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}");
            return Err(Failure::conflict(resource_of(kind), name, &why));
        }
    }
    if kind.plural == "namespaces" && matches!(name, "default" | "kube-system" | "kube-public") {
        return Err(Failure::forbidden(resource_of(kind), name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// Marks an object as going: its grace, the finalizers that the propagation policy asks for, a namespace's phase.
fn begin(kind: &Kind, object: &mut Value, options: &Options, now: base::Timestamp) {
    let grace = grace(kind, object, options);
    propagate(object, &options.propagation);
    let was_going = meta::is_terminating(object);
    let metadata = meta::metadata_mut(object);
    let left = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64);
    let shorter = left.is_none_or(|left| grace < left);
    if !was_going || shorter {
        let end = now.plus(Duration::from_secs(grace.max(0) as u64));
        metadata.insert("deletionTimestamp".to_owned(), end.rfc3339().into());
        metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    }
    if !was_going && let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|at| *at > 0) {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
    match kind.plural.as_ref() {
        "namespaces" => dig::put(object, "status.phase", "Terminating".into()),
        "customresourcedefinitions" if !was_going => end_definition(object, now),
        _ => {}
    }
}

/// A definition goes when its objects are gone; from now on nothing new is made of it.
fn end_definition(object: &mut Value, now: base::Timestamp) {
    const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
    let mut finalizers: Vec<Value> = dig::list(object, "metadata.finalizers").to_vec();
    if !finalizers.contains(&CLEANUP.into()) {
        finalizers.push(CLEANUP.into());
    }
    dig::put(object, "metadata.finalizers", finalizers.into());
    let words = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    let mut status = object["status"].take();
    api::custom::set_condition(&mut status, "Terminating", "True", "InstanceDeletionPending", words, now);
    object["status"] = status;
}

/// How many seconds an object has to go: only pods that run somewhere have any.
fn grace(kind: &Kind, object: &Value, options: &Options) -> i64 {
    let ends_at_once = kind.plural != "pods"
        || dig::text(object, "spec.nodeName").is_empty()
        || matches!(dig::text(object, "status.phase"), "Succeeded" | "Failed");
    if ends_at_once {
        return 0;
    }
    let own = dig::int(object, "spec.terminationGracePeriodSeconds").unwrap_or(GRACE_SECONDS);
    options.grace_seconds.unwrap_or(own)
}

fn propagate(object: &mut Value, policy: &str) {
    let (add, drop): (Option<&str>, &[&str]) = match policy {
        "Orphan" => (Some(ORPHAN), &[FOREGROUND]),
        "Foreground" => (Some(FOREGROUND), &[ORPHAN]),
        "Background" => (None, &[ORPHAN, FOREGROUND]),
        // Nothing said: what the object says already counts.
        _ => return,
    };
    let mut finalizers: Vec<String> = meta::finalizers(object).into_iter().map(str::to_owned).collect();
    finalizers.retain(|finalizer| !drop.contains(&finalizer.as_str()));
    if let Some(add) = add
        && !finalizers.iter().any(|finalizer| finalizer == add)
    {
        finalizers.push(add.to_owned());
    }
    let finalizers = if finalizers.is_empty() { Value::Null } else { finalizers.into() };
    dig::put(object, "metadata.finalizers", finalizers);
}

/// Nothing holds the object back any more.
pub(crate) fn goes_now(kind: &Kind, object: &Value) -> bool {
    meta::is_terminating(object)
        && meta::finalizers(object).is_empty()
        && dig::int(object, "metadata.deletionGracePeriodSeconds").unwrap_or(0) == 0
        && (kind.plural != "namespaces" || dig::list(object, "spec.finalizers").is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: base::Timestamp = base::Timestamp::from_seconds(1_000);

    #[track_caller]
    fn check(plural: &str, mut object: Value, options: Options, gone: bool, grace: i64, finalizers: &[&str]) {
        let kind = api::kinds::find("", "v1", plural).expect("a kind");
        begin(kind, &mut object, &options, NOW);
        assert_eq!(goes_now(kind, &object), gone, "{object}");
        assert_eq!(dig::int(&object, "metadata.deletionGracePeriodSeconds"), Some(grace));
        assert_eq!(meta::finalizers(&object), finalizers);
    }

    fn pod(node: &str, phase: &str) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}, "status": {"phase": phase}})
    }

    fn within(seconds: i64) -> Options {
        Options { grace_seconds: Some(seconds), ..Options::default() }
    }

    #[test]
    fn a_running_pod_goes_gracefully() {
        check("pods", pod("one", "Running"), Options::default(), false, 30, &[]);
        check("pods", pod("one", "Running"), within(5), false, 5, &[]);
        check("pods", pod("one", "Running"), within(0), true, 0, &[]);
    }
    #[test]
    fn a_pod_without_a_node_or_a_life_goes_at_once() {
        check("pods", pod("", "Pending"), Options::default(), true, 0, &[]);
        check("pods", pod("one", "Succeeded"), Options::default(), true, 0, &[]);
    }
    #[test]
    fn grace_only_gets_shorter() {
        let mut going = pod("one", "Running");
        begin(api::kinds::find("", "v1", "pods").expect("a kind"), &mut going, &within(10), NOW);
        check("pods", going.clone(), within(20), false, 10, &[]);
        check("pods", going, within(3), false, 3, &[]);
    }
    #[test]
    fn finalizers_are_waited_for() {
        let held = json!({"metadata": {"finalizers": ["example.com/a"]}});
        check("configmaps", held, Options::default(), false, 0, &["example.com/a"]);
        let policy = |policy: &str| Options { propagation: policy.into(), ..Options::default() };
        check("configmaps", json!({}), policy("Foreground"), false, 0, &["foregroundDeletion"]);
        check("configmaps", json!({}), policy("Orphan"), false, 0, &["orphan"]);
        let changed = json!({"metadata": {"finalizers": ["orphan"]}});
        check("configmaps", changed, policy("Background"), true, 0, &[]);
    }
    #[test]
    fn a_definition_waits_for_its_objects() {
        let kind = api::kinds::find("apiextensions.k8s.io", "v1", "customresourcedefinitions").expect("a kind");
        let mut definition = json!({"metadata": {"name": "a.b.c"}});
        begin(kind, &mut definition, &Options::default(), NOW);
        assert!(!goes_now(kind, &definition));
        assert_eq!(meta::finalizers(&definition), ["customresourcecleanup.apiextensions.k8s.io"]);
        assert_eq!(definition["status"]["conditions"][0]["reason"], "InstanceDeletionPending");
    }
    #[test]
    fn a_namespace_waits_for_its_content() {
        check("namespaces", json!({"spec": {"finalizers": ["kubernetes"]}}), Options::default(), false, 0, &[]);
        check("namespaces", json!({"spec": {}}), Options::default(), true, 0, &[]);
    }
}
