//! The edge: registers the node, keeps its Lease, follows the pods bound to it, and cleans up.
//!
//! Start at [`run`]. One loop follows the list of pods and starts a [`crate::worker`] for each; one tells the runtime's events
//! to them; one keeps the node's Lease and status; one does the housekeeping.
//!
//! Invariants:
//! * nothing is polled: every loop waits for an event, or for its next due time;
//! * an idle node writes its Lease, and its status every [`STATUS_EVERY`].
//!
//! Not here: what is done for one pod (`worker`), the HTTPS API (`server`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Clock, Monotonic, Rng, chain};
use client::{Cache, Client, Door, Kind};
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node as ApiNode, NodeStatus, PersistentVolume, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use runtime::{ContainerState, Runtime, SandboxStatus};
use tokio::sync::{Notify, Semaphore};

use crate::access::Access;
use crate::checkpoint::Checkpoints;
use crate::events::Events;
use crate::make::GRACE_ANNOTATION;
use crate::make::network::Resolver;
use crate::node::{self, Health};
use crate::objects::Objects;
use crate::pod::PodInfo;
use crate::sharing::Sharing;
use crate::tasks::{Owner, Tasks};
use crate::volumes::Leaving;
use crate::worker::{self, Handle, Node, Origin, Update};
use crate::{Live, Options, caretaker, image, logs, server};

/// How often the Lease is renewed: as upstream, a quarter of its life.
pub const LEASE_EVERY: Duration = Duration::from_secs(5);
/// How long the Lease is good: as long as the node controller has patience (upstream: 40 s), so that it takes four lost
/// renewals to be taken for dead. Renewals are kept in memory by the server and cost no write to its disk.
const LEASE_SECONDS: i32 = 20;
/// The annotation of a Lease whose times are NTP's.
pub const CLOCK_KEPT: &str = "skerry.dev/clock-kept-by-ntp";
/// How soon a renewal that failed is tried again.
const LEASE_RETRY: Duration = Duration::from_secs(1);
/// How often the node is looked at.
const STATUS_LOOK: Duration = Duration::from_secs(10);
/// How often the node's status is written although nothing changed; upstream's.
pub const STATUS_EVERY: Duration = Duration::from_secs(300);
/// How often the list of pods is compared although nothing was heard.
const RESYNC: Duration = Duration::from_secs(300);
/// How long the server is waited for before pods are started from memory.
const RECALL_AFTER: Duration = Duration::from_secs(2);
/// Services that change together are remembered together.
const SERVICES_REST: Duration = Duration::from_secs(5);
/// How often logs are measured.
const LOGS_EVERY: Duration = Duration::from_secs(30);
/// And so often while there are some that wait to be read.
const HELD_LOGS_EVERY: Duration = Duration::from_secs(5);
/// How often images are looked through.
const IMAGES_EVERY: Duration = Duration::from_secs(300);
/// Pulls at a time.
const PULLS_MAX: usize = 3;
/// Disk free, in percent, below which unused images go, and up to which; upstream's.
const DISK_FREE_MIN: u64 = 15;
const DISK_FREE_WANTED: u64 = 20;
/// Disk free, in percent, below which the node is under pressure; upstream's.
const DISK_PRESSURE: u64 = 10;
/// The pauses between attempts to register.
const REGISTER_PAUSE: Duration = Duration::from_millis(200);
const REGISTER_PAUSE_MAX: Duration = Duration::from_secs(7);

/// Why the kubelet could not start. What fails later is logged, told in events and tried again.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// A folder it needs cannot be made.
    #[error("failed to make the folder {path}")]
    Folder {
        /// Which.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The HTTPS API cannot listen.
    #[error("failed to listen on {address} for the kubelet's API")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The certificates do not fit.
    #[error("failed to use the kubelet's certificates: {detail}")]
    Tls {
        /// What is wrong.
        detail: String,
    },
}

/// The pods of this node, by uid.
pub type Pods = Arc<Mutex<BTreeMap<String, Handle>>>;

/// Runs this node until the future is dropped; pods live on, and the next call adopts them.
pub async fn run(
    options: Options,
    door: Arc<dyn Door>,
    runtime: Arc<dyn Runtime>,
    clock: Arc<dyn Clock>,
    mut rng: Rng,
) -> Result<(), KubeletError> {
    for path in [&options.data_dir, &options.data_dir.join("pods"), &options.log_dir] {
        std::fs::create_dir_all(path).map_err(|source| KubeletError::Folder { path: path.clone(), source })?;
    }
    let listener = server::bind(&options).await?;
    let tasks = Tasks::default();
    let _owner = Owner(tasks.clone());
    let client = Client::new(door.clone());
    let (events, writer) = Events::new(client.clone(), clock.clone(), rng.fork(), &options.node_name);
    tasks.spawn(writer);
    let checkpoints = remembered(&options).await.map(Arc::new);
    let services = open::<Service>(&tasks, &door, "");
    let resolver = Resolver::parse(&std::fs::read_to_string(&options.resolv_conf).unwrap_or_default());
    let node = Arc::new(Node {
        allocatable_milli: node::allocatable_milli(&options),
        objects: Objects::new(client.clone()),
        pulls: Semaphore::new(PULLS_MAX),
        sharing: Sharing::new(options.images.clone(), clock.clone()),
        access: Access::default(),
        leaving: Leaving::default(),
        options,
        client,
        runtime,
        clock,
        services,
        events,
        resolver,
        tasks: tasks.clone(),
        checkpoints,
    });
    let pods: Pods = Arc::default();
    if let Some(listener) = listener {
        tasks.spawn(server::serve(listener, node.clone(), pods.clone()));
    }
    let images_changed = Arc::new(Notify::new());
    tasks.spawn(keep_node(node.clone(), images_changed.clone()));
    let orphans = Arc::new(Notify::new());
    tasks.spawn(tell_changes(node.clone(), pods.clone(), orphans.clone()));
    tasks.spawn(keep_services(node.clone()));
    tasks.spawn(keep_logs(node.clone()));
    tasks.spawn(keep_images(node.clone(), images_changed));
    tasks.spawn(caretaker::run(node.clone(), open::<PersistentVolume>(&tasks, &door, "")));
    follow_pods(&node, &pods, &door, &orphans).await;
    Ok(())
}

/// A cache of all objects of a kind, or of those a field selector chooses, filled while the kubelet runs.
fn open<T: Kind>(tasks: &Tasks, door: &Arc<dyn Door>, field_selector: &str) -> Arc<Cache> {
    let mut collection = T::RESOURCE.all();
    collection.field_selector = field_selector.to_owned();
    let cache = Arc::new(Cache::new(collection));
    tasks.spawn(client::run::fill(door.clone(), Arc::downgrade(&cache)));
    cache
}

/// What the node remembers; a node whose memory cannot be opened runs without.
async fn remembered(options: &Options) -> Option<Checkpoints> {
    let (folder, key) = (options.checkpoints.clone()?, options.checkpoint_key.clone());
    let opened = tokio::task::spawn_blocking(move || Checkpoints::open(&folder, key)).await.ok()?;
    opened.inspect_err(|error| tracing::error!(error = %chain(error), "this node will not remember its pods")).ok()
}

/// Where the server is not heard in time, lets the caches hold what is remembered.
async fn recall(node: &Node, pods: &Cache) {
    let Some(checkpoints) = &node.checkpoints else { return };
    if tokio::time::timeout(RECALL_AFTER, pods.wait_synced()).await.is_ok() {
        return;
    }
    let services: Vec<bytes::Bytes> = checkpoints.services().iter().map(|service| service.to_string().into()).collect();
    let recalled = checkpoints.recalled();
    tracing::warn!(
        pods = recalled.len(),
        "the API server is not heard; pods are started from what this node remembers"
    );
    node.services.remember(&services);
    let objects: Vec<_> = recalled.iter().filter_map(|known| serde_json::to_vec(&known.pod).ok()).collect();
    pods.remember(&objects.into_iter().map(bytes::Bytes::from).collect::<Vec<_>>());
}

/// Forgets the pods that went while this node did not hear of it.
async fn forget_others(node: &Node, cache: &Cache) {
    let Some(checkpoints) = node.checkpoints.clone() else { return };
    let listed = cache.entries(None).iter().map(|entry| entry.meta.uid.clone()).collect();
    let retained = tokio::task::spawn_blocking(move || checkpoints.retain(&listed)).await;
    if let Ok(Err(error)) = retained {
        tracing::warn!(error = %chain(&error), "a pod that is gone is still remembered");
    }
}

/// Remembers the Services, which pods find in their environment.
async fn keep_services(node: Arc<Node>) {
    let Some(checkpoints) = node.checkpoints.clone() else { return };
    let mut changed = node.services.changed();
    loop {
        changed.borrow_and_update();
        if node.services.is_heard() {
            let entries = node.services.entries(None);
            let services = entries.iter().filter_map(|entry| serde_json::from_slice(&entry.object).ok()).collect();
            let checkpoints = checkpoints.clone();
            let kept = tokio::task::spawn_blocking(move || checkpoints.keep_services(services)).await;
            if let Ok(Err(error)) = kept {
                tracing::warn!(error = %chain(&error), "the Services are not remembered in their newest version");
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(SERVICES_REST).await;
    }
}

async fn follow_pods(node: &Arc<Node>, pods: &Pods, door: &Arc<dyn Door>, orphans: &Notify) {
    let cache = open::<Pod>(&node.tasks, door, &format!("spec.nodeName={}", node.options.node_name));
    recall(node, &cache).await;
    let mut changed = cache.changed();
    let mut revisions: BTreeMap<String, u64> = BTreeMap::new();
    let mut was_heard = false;
    loop {
        changed.borrow_and_update();
        if cache.synced() {
            compare(node, pods, &cache, &mut revisions);
        }
        // What is remembered may lack a pod that runs: only the server knows who is nobody's.
        if cache.is_heard() {
            if !std::mem::replace(&mut was_heard, true) {
                forget_others(node, &cache).await;
            }
            adopt_orphans(node, pods, &cache).await;
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = orphans.notified() => {}
            () = tokio::time::sleep(RESYNC) => {}
        }
    }
}

/// Brings the loops of pods in line with the list.
fn compare(node: &Arc<Node>, pods: &Pods, cache: &Cache, revisions: &mut BTreeMap<String, u64>) {
    let mut pods = pods.lock().unwrap_or_else(PoisonError::into_inner);
    pods.retain(|_, handle| !handle.updates.is_closed());
    let origin = if cache.is_heard() { Origin::Api } else { Origin::Memory };
    let mut listed = BTreeSet::new();
    for entry in cache.entries(None) {
        listed.insert(entry.meta.uid.clone());
        let known = pods.contains_key(&entry.meta.uid);
        if known && revisions.get(&entry.meta.uid) == Some(&entry.meta.revision) {
            continue;
        }
        let Some(info) = entry.typed::<Pod>().and_then(|pod| PodInfo::new((*pod).clone())) else {
            tracing::warn!(pod = %entry.meta.name, "a pod cannot be read and is left alone");
            continue;
        };
        revisions.insert(entry.meta.uid.clone(), entry.meta.revision);
        let info = Arc::new(info);
        match pods.get(&entry.meta.uid) {
            Some(handle) => drop(handle.updates.send_replace(Update::Pod(info))),
            None => drop(pods.insert(entry.meta.uid.clone(), worker::start(node, info, origin))),
        }
    }
    revisions.retain(|uid, _| listed.contains(uid));
    for (uid, handle) in pods.iter().filter(|(uid, _)| !listed.contains(*uid)) {
        tracing::debug!(%uid, "the pod is gone from the API");
        if !matches!(*handle.updates.borrow(), Update::Gone) {
            handle.updates.send_replace(Update::Gone);
        }
    }
}

/// Starts a loop for each pod that runs here and that nobody knows, to clean it up.
async fn adopt_orphans(node: &Arc<Node>, pods: &Pods, cache: &Cache) {
    let Ok(sandboxes) = node.runtime.list_sandboxes().await else { return };
    let known: BTreeSet<String> = cache.entries(None).iter().map(|entry| entry.meta.uid.clone()).collect();
    start_orphans(node, pods, &known, &sandboxes);
    remove_old_folders(node, &known).await;
}

fn start_orphans(node: &Arc<Node>, pods: &Pods, known: &BTreeSet<String>, sandboxes: &[SandboxStatus]) {
    let mut pods = pods.lock().unwrap_or_else(PoisonError::into_inner);
    for sandbox in sandboxes {
        let uid = &sandbox.config.uid;
        if known.contains(uid) || pods.contains_key(uid) {
            continue;
        }
        if let Some(info) = orphan(sandbox) {
            tracing::info!(pod = %info.full_name(), "a pod nobody knows is cleaned up");
            pods.insert(uid.clone(), worker::start(node, Arc::new(info), Origin::Nobody));
        }
    }
}

/// Removes folders of pods that are neither listed nor run, left by a kubelet that ended in the middle.
async fn remove_old_folders(node: &Arc<Node>, known: &BTreeSet<String>) {
    let Ok(sandboxes) = node.runtime.list_sandboxes().await else { return };
    let folders = std::fs::read_dir(node.options.data_dir.join("pods")).into_iter().flatten().flatten();
    for folder in folders {
        let uid = folder.file_name().to_string_lossy().into_owned();
        if known.contains(&uid) || sandboxes.iter().any(|sandbox| sandbox.config.uid == uid) {
            continue;
        }
        let (node, path) = (node.clone(), folder.path());
        if !node.leaving.add(&path) {
            // It is being removed.
            continue;
        }
        // A server that does not answer takes its time, and pods are followed meanwhile.
        node.tasks.clone().spawn(async move {
            let (unmounting, old) = (node.clone(), path.clone());
            let removed = tokio::task::spawn_blocking(move || {
                crate::volumes::unmount_all(&old, &unmounting.leaving, &unmounting.options.mount_helper)
                    .and_then(|()| crate::volumes::remove_folder(&old))
            });
            if let Ok(Err(error)) = removed.await {
                tracing::debug!(folder = %path.display(), error = %chain(&error), "an old folder stays for now");
            }
            node.leaving.remove(&path);
        });
    }
}

fn orphan(sandbox: &SandboxStatus) -> Option<PodInfo> {
    let config = &sandbox.config;
    let grace: Option<i64> = config.annotations.get(GRACE_ANNOTATION).and_then(|seconds| seconds.parse().ok());
    let object = serde_json::json!({
        "metadata": {"name": config.name, "namespace": config.namespace, "uid": config.uid},
        "spec": {"containers": [], "terminationGracePeriodSeconds": grace},
    });
    PodInfo::new(serde_json::from_value(object).ok()?)
}

/// Tells pods' loops what the runtime says.
async fn tell_changes(node: Arc<Node>, pods: Pods, orphans: Arc<Notify>) {
    let mut events = node.runtime.events();
    while let Some(event) = events.next().await {
        let pods = pods.lock().unwrap_or_else(PoisonError::into_inner);
        match pods.get(&event.pod_uid).filter(|handle| !handle.updates.is_closed()) {
            Some(handle) => handle.changed.notify_one(),
            None => orphans.notify_one(),
        }
    }
    tracing::warn!("the runtime tells no more events");
}

/// Registers the node, renews its Lease, writes its status when it changed.
async fn keep_node(node: Arc<Node>, images_changed: Arc<Notify>) {
    node.events.node(false, "Starting", "Starting kubelet.".to_owned());
    let mut pause = REGISTER_PAUSE;
    let mut shown = loop {
        match register(&node).await {
            Ok(status) => break status,
            Err(error) => tracing::warn!(error = %chain(&error), "the node is not registered yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(REGISTER_PAUSE_MAX);
    };
    node.events.node(false, "NodeReady", format!("Node {} status is now: NodeReady", node.options.node_name));
    let mut lease: Option<Lease> = None;
    let mut written_at = node.clock.monotonic();
    let mut look_at = written_at;
    let mut missed: u32 = 0;
    let mut addresses = node.options.addresses.clone();
    loop {
        let renewed = renew(&node, &mut lease).await;
        if missed > 0 && renewed.is_ok() {
            // It may be taken for dead by now.
            look_at = node.clock.monotonic();
        }
        missed = if renewed.is_ok() { 0 } else { missed.saturating_add(1) };
        if let (Err(error), true) = (&renewed, missed.is_power_of_two()) {
            tracing::warn!(times = missed, error, "the node's Lease was not renewed");
        }
        // A server that does not take the one will not take the other.
        if renewed.is_ok() && node.clock.monotonic() >= look_at {
            write_status(&node, &mut shown, &mut written_at).await;
            look_at = node.clock.monotonic().plus(STATUS_LOOK);
        }
        tokio::select! {
            () = tokio::time::sleep(if renewed.is_ok() { LEASE_EVERY } else { LEASE_RETRY }) => {}
            () = images_changed.notified() => look_at = node.clock.monotonic(),
            () = change(&mut addresses) => look_at = node.clock.monotonic(),
        }
    }
}

/// Waits until a value changes, for ever if nobody changes it any more.
async fn change<T>(live: &mut Live<T>) {
    if live.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn health(node: &Node) -> (Health, Vec<runtime::ImageStatus>) {
    let trouble =
        node.runtime.list_sandboxes().await.err().map(|error| format!("container runtime is down: {}", chain(&error)));
    let images = node.runtime.list_images().await.unwrap_or_default();
    let disk_pressure = disk(node).is_some_and(|(free, size)| node::is_short(free, size, DISK_PRESSURE));
    (Health { trouble, disk_pressure, shortcomings: node.runtime.shortcomings(), ..Health::default() }, images)
}

/// Free and whole bytes of the file system with the data.
fn disk(node: &Node) -> Option<(u64, u64)> {
    sys::files::space(&node.options.data_dir).ok()
}

async fn register(node: &Node) -> Result<NodeStatus, client::ClientError> {
    let (health, images) = health(node).await;
    let wanted = node::node(&node.options, &images, &health, node.clock.now());
    match node.client.create(&wanted).await {
        Ok(made) => Ok(made.status.unwrap_or_default()),
        Err(error) if error.already_exists() => {
            let there: ApiNode = node.client.get("", &node.options.node_name).await?;
            let (labels, notes) = (&wanted.metadata.labels, &wanted.metadata.annotations);
            let patch = serde_json::json!({"metadata": {"labels": labels, "annotations": notes}});
            let within = |wanted: &Option<BTreeMap<String, String>>, there: &Option<BTreeMap<String, String>>| {
                let has = |(key, value): (&String, &String)| there.as_ref().and_then(|all| all.get(key)) == Some(value);
                wanted.iter().flatten().all(has)
            };
            if !within(labels, &there.metadata.labels) || !within(notes, &there.metadata.annotations) {
                let _: ApiNode =
                    node.client.patch("", &node.options.node_name, "", client::typed::STRATEGIC_PATCH, &patch).await?;
            }
            Ok(there.status.unwrap_or_default())
        }
        Err(error) => Err(error),
    }
}

/// Hears what others made of the node's conditions: the node controller says `Unknown` while a node is silent, and nobody
/// but the node takes that back. A node that was deleted is registered again.
async fn hear(node: &Node, shown: &mut NodeStatus) -> Result<(), client::ClientError> {
    let there = match node.client.get::<ApiNode>("", &node.options.node_name).await {
        Ok(there) => there.status.unwrap_or_default(),
        Err(error) if error.not_found() => register(node).await?,
        Err(error) => return Err(error),
    };
    for theirs in there.conditions.into_iter().flatten() {
        let ours = shown.conditions.iter_mut().flatten().find(|ours| ours.type_ == theirs.type_);
        if let Some(ours) = ours.filter(|ours| ours.status != theirs.status) {
            *ours = theirs;
        }
    }
    Ok(())
}

async fn write_status(node: &Node, shown: &mut NodeStatus, written_at: &mut Monotonic) {
    let now = node.clock.monotonic();
    if let Err(error) = hear(node, shown).await {
        return tracing::warn!(error = %chain(&error), "what the API shows of the node is not known");
    }
    let (health, images) = health(node).await;
    let before = shown.conditions.clone().unwrap_or_default();
    let mut next = node::status(&node.options, &images, &health, &before, node.clock.now());
    let ours: Vec<&str> = next.conditions.iter().flatten().map(|condition| condition.type_.as_str()).collect();
    let others: Vec<_> = before.iter().filter(|condition| !ours.contains(&condition.type_.as_str())).cloned().collect();
    let to_send = next.clone();
    next.conditions.get_or_insert_default().extend(others);
    next.volumes_in_use.clone_from(&shown.volumes_in_use);
    next.volumes_attached.clone_from(&shown.volumes_attached);
    if node::is_same(&next, shown) && now.since(*written_at) < STATUS_EVERY {
        return;
    }
    let mut patch = serde_json::json!({"status": to_send});
    if let Some(list) = patch.pointer_mut("/status/addresses").and_then(|list| list.as_array_mut()) {
        list.insert(0, serde_json::json!({"$patch": "replace"}));
    }
    let name = &node.options.node_name;
    let sent: Result<ApiNode, _> = node.client.patch("", name, "status", client::typed::STRATEGIC_PATCH, &patch).await;
    match sent {
        Ok(_) => {
            *shown = next;
            *written_at = now;
        }
        Err(error) if error.not_found() => match register(node).await {
            Ok(status) => *shown = status,
            Err(error) => tracing::warn!(error = %chain(&error), "the node is not registered again yet"),
        },
        Err(error) => tracing::warn!(error = %chain(&error), "the node's status was not taken"),
    }
}

async fn renew(node: &Node, held: &mut Option<Lease>) -> Result<(), String> {
    const NAMESPACE: &str = "kube-node-lease";
    let name = &node.options.node_name;
    let now = node.clock.now();
    let micros = k8s_openapi::jiff::Timestamp::from_nanosecond(now.0).unwrap_or_default();
    let renew_time = Some(MicroTime(micros));
    let notes = (node.options.clock_is_kept)().then(|| BTreeMap::from([(CLOCK_KEPT.to_owned(), String::new())]));
    if let Some(lease) = held {
        let mut patch = serde_json::json!({"spec": {"renewTime": now.rfc3339_micros()}});
        if notes != lease.metadata.annotations {
            patch["metadata"] = serde_json::json!({"annotations": {CLOCK_KEPT: notes.as_ref().map(|_| "")}});
        }
        let path = Lease::RESOURCE.path(NAMESPACE, name, "");
        let body = bytes::Bytes::from(patch.to_string());
        match node.client.call(http::Method::PATCH, path, client::typed::MERGE_PATCH, body).await {
            Ok(_) => {
                lease.metadata.annotations = notes;
                return Ok(());
            }
            Err(error) if error.not_found() => *held = None,
            Err(error) => return Err(chain(&error).to_string()),
        }
    }
    let owner = match node.client.get::<ApiNode>("", name).await {
        Ok(object) => OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.clone(),
            uid: object.uid().to_owned(),
            ..OwnerReference::default()
        },
        Err(error) => return Err(chain(&error).to_string()),
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(NAMESPACE.to_owned()),
            owner_references: Some(vec![owner]),
            annotations: notes,
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time,
            ..LeaseSpec::default()
        }),
    };
    match node.client.create(&lease).await {
        Ok(_) => *held = Some(lease),
        // It is there from an earlier run: the next renewal finds it, and says what it is to say.
        Err(error) if error.already_exists() => {
            let metadata = ObjectMeta { annotations: Some(BTreeMap::new()), ..lease.metadata };
            *held = Some(Lease { metadata, ..lease });
        }
        Err(error) => return Err(chain(&error).to_string()),
    }
    Ok(())
}

async fn keep_logs(node: Arc<Node>) {
    let mut orphans = logs::Orphans::default();
    loop {
        tokio::time::sleep(if orphans.is_empty() { LOGS_EVERY } else { HELD_LOGS_EVERY }).await;
        // Who does not know which containers there are removes no logs.
        let (Ok(containers), Ok(sandboxes)) =
            (node.runtime.list_containers().await, node.runtime.list_sandboxes().await)
        else {
            continue;
        };
        let folders = sandboxes.into_iter().map(|sandbox| sandbox.config.log_directory);
        let kept = containers.iter().map(|container| container.log_path.clone()).chain(folders).collect();
        let found = logs::all(&node.options.log_dir);
        for path in orphans.overdue(found, &kept, logs::is_read, node.clock.monotonic()) {
            logs::let_go(&path);
        }
        for container in containers {
            if !matches!(container.state, ContainerState::Running { .. }) {
                continue;
            }
            match logs::rotate(&container.log_path, logs::FILE_BYTES_MAX, logs::FILES_MAX, node.clock.now()) {
                Ok(false) => {}
                Ok(true) => {
                    if let Err(error) = node.runtime.reopen_log(container.id).await {
                        tracing::warn!(container = container.name, error = %chain(&error), "the log was not reopened");
                    }
                }
                Err(error) => tracing::warn!(container = container.name, %error, "the log was not rotated"),
            }
        }
    }
}

/// Removes unused images when the disk runs full, and lets the node's status show new ones.
async fn keep_images(node: Arc<Node>, changed: Arc<Notify>) {
    loop {
        tokio::time::sleep(IMAGES_EVERY).await;
        let Some((free, size)) = disk(&node).filter(|(free, size)| node::is_short(*free, *size, DISK_FREE_MIN)) else {
            continue;
        };
        let wanted = (size / 100 * DISK_FREE_WANTED).saturating_sub(free);
        let images = node.runtime.list_images().await.unwrap_or_default();
        let containers = node.runtime.list_containers().await.unwrap_or_default();
        let in_use = containers.into_iter().flat_map(|container| [container.image, container.image_id]).collect();
        for id in image::to_collect(&images, &in_use, wanted) {
            match node.runtime.remove_image(id.clone()).await {
                Ok(()) => tracing::info!(image = id, "an unused image was removed: the disk is nearly full"),
                Err(error) => tracing::warn!(image = id, error = %chain(&error), "an unused image stays"),
            }
        }
        changed.notify_one();
    }
}
