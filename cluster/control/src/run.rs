//! Runs reconcilers with tokio.
//!
//! Start at [`run`]. It ends when its future is dropped; nothing is left behind.
//!
//! Not here: what to do next (`engine.rs`), how a write is made (`apply.rs`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::Clock;
use bytes::Bytes;
use client::{Caches, Client, Collection, Door, Resource};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use http::Method;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::{Done, Engine, Failure, Note, Reconciler, Recorder, Turn, Write, perform};

/// Keys of one reconciler that are worked on at the same time.
const TURNS_MAX: usize = 8;
/// Creates and deletes of one turn that are under way at the same time: they share a commit of the store.
const WRITES_MAX: usize = 32;
/// How often the server is asked which resources it has, apart from when definitions change.
const DISCOVERY: Duration = Duration::from_secs(20);
/// After a change of definitions the question waits so long: they rarely come alone.
const DEFINED: Duration = Duration::from_millis(50);

/// What the tasks share.
#[derive(Clone)]
struct Shared {
    door: Arc<dyn Door>,
    clock: Arc<dyn Clock>,
}

/// Runs all of them until dropped.
pub async fn run(
    reconcilers: Vec<Box<dyn Reconciler>>,
    door: Arc<dyn Door>,
    caches: Arc<Caches>,
    clock: Arc<dyn Clock>,
) {
    let shared = Shared { door, clock };
    let mut tasks = JoinSet::new();
    for reconciler in reconcilers {
        tasks.spawn(run_one(reconciler, caches.clone(), shared.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller ended");
        }
    }
}

async fn run_one(reconciler: Box<dyn Reconciler>, caches: Arc<Caches>, shared: Shared) {
    let about = reconciler.about();
    let recorder = Arc::new(Mutex::new(Recorder::new(about.name)));
    let wake = Arc::new(Notify::new());
    let waker = wake.clone();
    // Held for as long as the controller runs, or nobody would fill it.
    let definitions = about
        .everything
        .then(|| caches.open(&Collection::all("apiextensions.k8s.io", "v1", "customresourcedefinitions")));
    let mut engine = Engine::new(reconciler, caches, move || waker.notify_one());
    let mut working = FuturesUnordered::new();
    let mut discovery = tokio::time::interval(DISCOVERY);
    let mut defined = definitions.as_ref().map(|cache| cache.changed());
    loop {
        while working.len() < TURNS_MAX
            && let Some(turn) = engine.next(shared.clock.now(), shared.clock.monotonic())
        {
            working.push(work(turn, shared.clone(), recorder.clone()));
        }
        let wait = engine.due().map(|due| due.since(shared.clock.monotonic()));
        tokio::select! {
            Some(worked) = working.next() => {
                let at = shared.clock.monotonic();
                for (write, done) in &worked.done {
                    engine.wrote(&worked.turn.key, write, done, at);
                }
                engine.finish(&worked.turn.key, worked.turn.outcome.requeue_after, worked.result, at);
            }
            () = wake.notified() => {}
            () = tokio::time::sleep(wait.unwrap_or(DISCOVERY)), if working.len() < TURNS_MAX => {}
            Some(Ok(())) = changed(&mut defined) => discovery.reset_after(DEFINED),
            _ = discovery.tick(), if about.everything => match resources(&shared.door).await {
                Ok(resources) => engine.set_resources(resources),
                Err(error) => {
                    tracing::warn!(controller = about.name, error = %base::chain(&error), "failed to read what the API server serves");
                    discovery.reset_after(Duration::from_millis(200));
                }
            },
        }
    }
}

/// Done when what is counted there changes; nothing to wait for is no answer.
async fn changed(count: &mut Option<watch::Receiver<u64>>) -> Option<Result<(), watch::error::RecvError>> {
    match count {
        Some(count) => Some(count.changed().await),
        None => None,
    }
}

struct Worked {
    turn: Turn,
    done: Vec<(Write, Done)>,
    result: Result<(), Failure>,
}

async fn work(mut turn: Turn, shared: Shared, recorder: Arc<Mutex<Recorder>>) -> Worked {
    let mut done = Vec::new();
    let mut result = Ok(());
    let mut notes: Vec<Note> = std::mem::take(&mut turn.outcome.events);
    for group in groups(std::mem::take(&mut turn.outcome.writes)) {
        let replies = join_all(group.iter().map(|write| perform(&shared.door, write))).await;
        for (write, reply) in group.into_iter().zip(replies) {
            match reply {
                Ok(reply) => {
                    let told = !reply.held_back && !(write.may_exist && reply.revision == 0);
                    notes.extend(write.announce.as_ref().filter(|_| told).map(|told| told.success(&reply.name)));
                    done.push((write, reply));
                }
                Err(failure) => {
                    notes.extend(write.announce.as_ref().map(|told| told.failure(&failure.message)));
                    result = Err(failure);
                }
            }
        }
        if result.is_err() {
            break;
        }
    }
    if !notes.is_empty() {
        // People can wait; the next turn cannot.
        tokio::spawn(tell(notes, shared, recorder));
    }
    Worked { turn, done, result }
}

async fn tell(notes: Vec<Note>, shared: Shared, recorder: Arc<Mutex<Recorder>>) {
    for note in notes {
        let now = shared.clock.now();
        let write = recorder.lock().unwrap_or_else(PoisonError::into_inner).record(&note, now);
        if let Some(write) = write
            && let Err(error) = perform(&shared.door, &write).await
        {
            tracing::debug!(%error, reason = note.reason, "failed to record an event");
        }
    }
}

/// Neighbouring writes of the same verb to the same resource go together; everything else one after another.
fn groups(writes: Vec<Write>) -> Vec<Vec<Write>> {
    let mut groups: Vec<Vec<Write>> = Vec::new();
    for write in writes {
        match groups.last_mut() {
            Some(group)
                if group.len() < WRITES_MAX
                    && group[0].verb == write.verb
                    && group[0].resource == write.resource
                    && group[0].subresource == write.subresource
                    && group.iter().all(|other| other.name != write.name || write.name.is_empty()) =>
            {
                group.push(write);
            }
            _ => groups.push(vec![write]),
        }
    }
    groups
}

/// Every resource the server has that can be listed, watched and deleted, in its preferred version.
pub async fn resources(door: &Arc<dyn Door>) -> Result<Vec<Resource>, client::ClientError> {
    let client = Client::new(door.clone());
    let get = async |path: String| -> Result<serde_json::Value, client::ClientError> {
        let body = client.call(Method::GET, path, "", Bytes::new()).await?;
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    };
    let mut found = BTreeMap::new();
    let mut versions = vec![(String::new(), "v1".to_owned(), "/api/v1".to_owned())];
    for group in get("/apis".to_owned()).await?["groups"].as_array().into_iter().flatten() {
        let name = group["name"].as_str().unwrap_or_default();
        let preferred = group["preferredVersion"]["version"].as_str();
        let all = group["versions"].as_array().into_iter().flatten().filter_map(|each| each["version"].as_str());
        for version in preferred.into_iter().chain(all.filter(|version| Some(*version) != preferred)) {
            versions.push((name.to_owned(), version.to_owned(), format!("/apis/{name}/{version}")));
        }
    }
    for (group, version, path) in versions {
        let list = match get(path).await {
            Ok(list) => list,
            // One aggregated server that is down must not hide all the others.
            Err(error) if !group.is_empty() => {
                tracing::debug!(group, version, %error, "failed to read what a group serves");
                continue;
            }
            Err(error) => return Err(error),
        };
        for each in list["resources"].as_array().into_iter().flatten() {
            let plural = each["name"].as_str().unwrap_or_default().to_owned();
            let can = |verb: &str| each["verbs"].as_array().is_some_and(|verbs| verbs.iter().any(|its| its == verb));
            if plural.contains('/') || !["list", "watch", "delete"].into_iter().all(can) {
                continue;
            }
            found.entry((group.clone(), plural.clone())).or_insert_with(|| Resource {
                group: group.clone().into(),
                version: version.clone().into(),
                plural: plural.into(),
                kind: each["kind"].as_str().unwrap_or_default().to_owned().into(),
                namespaced: each["namespaced"].as_bool().unwrap_or_default(),
            });
        }
    }
    // Events belong to nobody and are the busiest resource; events.k8s.io shows the same objects again.
    Ok(found.into_values().filter(|resource| resource.plural != "events" || resource.group.is_empty()).collect())
}
