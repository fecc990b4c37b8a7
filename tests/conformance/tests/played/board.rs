//! A board that is played: a disk with two slots, the real update service on it, the real pod of the update, and of a kubelet
//! as much as its Node and pods need.
//!
//! Start at [`Board::switch_on`]. Its image is one of text, its kernel a line here: version `panic` does not come up.
//!
//! Not here: the real boot script, PID 1 and kubelet (`tests/boot`).

use std::fs::{self, File};
use std::io::{Cursor, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use base::Clock;
use bundle::head::{CHUNK_BYTES, ROOM};
use bundle::message::{Reply, Status};
use bundle::{Head, Secret};
use bytes::Bytes;
use client::Client;
use http::Method;
use serde_json::{Value, json};
use slots::table::{Partition, Table};
use slots::{Cause, Move, Name, Slot, sector};
use sys::clock::SystemClock;
use sys::fdpass;
use tokio::runtime::Runtime;
use update::medium::{keep, ledger};
use update::notes::Notes;
use update::run::{self, Service, current};
use update::trial::{Verdict, verdict};
use update::{Device, turn};

use super::{PROGRAM, answer, client, runtime};

const MIB: u64 = 1 << 20;
/// What a slot of these boards holds, and what an image of theirs has.
pub const IMAGE_BYTES_MAX: usize = MIB as usize;
pub const IMAGE_BYTES: usize = 70_000;
const SLOT_BYTES: u64 = ROOM + MIB;
const TURN: Duration = Duration::from_millis(50);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The pods that a board runs; others are only there.
const APP: &str = "skerry-update";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";

/// A bundle's bytes: an image that repeats its version, signed where there is a key.
pub fn bundle(version: &str, image_bytes: usize, security_epoch: u32, key: Option<&Secret>) -> Vec<u8> {
    let about = Head {
        version: version.to_owned(),
        board: "played".to_owned(),
        arch: "arm64".to_owned(),
        security_epoch,
        confirm_within_s: 60,
        image_bytes: 0,
        chunk_bytes: CHUNK_BYTES,
        chunks: Vec::new(),
    };
    let image: Vec<u8> = version.bytes().cycle().take(image_bytes).collect();
    let mut file = Vec::new();
    bundle::write(about, &mut Cursor::new(image), key, &mut file).expect("a bundle");
    file
}

/// What a test sees of a board, and does to it.
pub struct Board {
    /// Its Node's name.
    pub name: String,
    switches: Arc<Switches>,
    thread: Option<JoinHandle<()>>,
}

/// Between a board's thread and the test.
#[derive(Default)]
struct Switches {
    off: AtomicBool,
    ended: AtomicBool,
    keeps_trials_waiting: AtomicBool,
    boots: AtomicU32,
    status: Mutex<Status>,
}

impl Board {
    /// A new board in `folder`, with version 1 in slot a, which takes the bundles that `key` signed out of `bundles`.
    pub fn switch_on(name: &str, folder: &Path, kubeconfig: &Path, bundles: &Path, key: &Arc<Secret>) -> Board {
        fs::create_dir_all(folder).expect("a folder");
        make_disk(&folder.join("disk"), key);
        let listening = fdpass::listen(&folder.join("socket")).expect("a socket");
        super::take_care(kubeconfig, name, folder.join("socket"));
        let switches = Arc::<Switches>::default();
        let machine = Machine {
            name: name.to_owned(),
            folder: folder.to_owned(),
            bundles: bundles.to_owned(),
            switches: switches.clone(),
            service: service(folder, key, Name::A, 0),
            key: key.clone(),
            running: Name::A,
            began: Instant::now(),
            pod: None,
            heartbeat: None,
        };
        let kubeconfig = kubeconfig.to_owned();
        let thread = std::thread::spawn(move || machine.run(&listening, &kubeconfig));
        Board { name: name.to_owned(), switches, thread: Some(thread) }
    }

    /// Pulls the plug, or puts it in again.
    pub fn power(&self, on: bool) {
        self.switches.off.store(!on, Ordering::Relaxed);
    }

    /// A trial is not judged until this is taken back.
    pub fn keeps_trials_waiting(&self, waiting: bool) {
        self.switches.keeps_trials_waiting.store(waiting, Ordering::Relaxed);
    }

    /// How often it has restarted for an update.
    pub fn restarts(&self) -> u32 {
        self.switches.boots.load(Ordering::Relaxed)
    }

    /// What its update service said last.
    pub fn status(&self) -> Status {
        self.switches.status.lock().expect("a status").clone()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.switches.ended.store(true, Ordering::Relaxed);
        // What went wrong in it is on the test's own output.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

fn make_disk(path: &Path, key: &Secret) {
    let sectors = |bytes: u64| u32::try_from(bytes / sector::BYTES as u64).expect("small");
    let mut table = Table { signature: 1, partitions: [Partition::default(); 4] };
    for (partition, at) in table.partitions[1..].iter_mut().zip([MIB, MIB + SLOT_BYTES]) {
        *partition = Partition { kind: 1, boot: false, at: sectors(at), sectors: sectors(SLOT_BYTES) };
    }
    let mut first = [0; sector::BYTES];
    table.write(&mut first);
    let mut disk = File::create(path).expect("a disk");
    disk.set_len(MIB + 2 * SLOT_BYTES).expect("room");
    // What follows the head there is nobody's.
    let head = bundle("1", IMAGE_BYTES, 1, Some(key));
    let written = disk.write_all(&first).and_then(|()| disk.seek(SeekFrom::Start(MIB + SLOT_BYTES - ROOM)));
    written.and_then(|_| disk.write_all(&head)).expect("the disk is written");
}

fn service(folder: &Path, key: &Secret, running: Name, boot: u32) -> Arc<Service> {
    let board = run::Board {
        name: "played".to_owned(),
        arch: "arm64".to_owned(),
        disk: folder.join("disk"),
        running,
        trusted: vec![key.public()],
        healthy: None,
        notes: folder.join("notes"),
        checks: folder.join("checks"),
        boot: boot.to_string(),
    };
    Arc::new(Service::open(board).expect("the update service starts"))
}

/// The pod of the update that runs.
struct Pod {
    uid: String,
    program: Child,
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ended = self.program.kill().and_then(|()| self.program.wait());
    }
}

struct Machine {
    name: String,
    folder: PathBuf,
    bundles: PathBuf,
    switches: Arc<Switches>,
    service: Arc<Service>,
    key: Arc<Secret>,
    running: Name,
    began: Instant,
    pod: Option<Pod>,
    heartbeat: Option<Instant>,
}

impl Machine {
    fn run(mut self, listening: &OwnedFd, kubeconfig: &Path) {
        let runtime = runtime();
        let inside = runtime.enter();
        let client = client(kubeconfig);
        drop(inside);
        while !self.switches.ended.load(Ordering::Relaxed) {
            sleep(TURN);
            if self.switches.off.load(Ordering::Relaxed) {
                self.pod = None;
                continue;
            }
            self.serve(listening);
            self.judge();
            if let Ok(status) = self.service.status() {
                *self.switches.status.lock().expect("a status") = status;
            }
            // The server may be about to end, with the test.
            let _not_answered = self.play_kubelet(&runtime, &client);
        }
    }

    fn serve(&mut self, listening: &OwnedFd) {
        let mut restarts = false;
        answer(listening, |request, file| match request {
            Ok(request) => {
                let (reply, then_restart) = self.service.answer(request, file);
                restarts |= then_restart;
                reply
            }
            Err(told) => Reply::Refused(told),
        });
        if restarts {
            self.restart();
        }
    }

    /// As the boot script does it.
    fn restart(&mut self) {
        self.pod = None;
        let mut device = self.device();
        let mut now = ledger(&mut device).expect("a ledger");
        self.running = now.active;
        if matches!(now.spare, Slot::Trying { .. }) {
            let spare = now.active.other();
            now = now.apply(spare, Move::Boot).expect("it has tries left");
            keep(&mut device, &now).expect("the disk takes it");
            self.running = spare;
        }
        let boot = self.switches.boots.fetch_add(1, Ordering::Relaxed) + 1;
        self.began = Instant::now();
        self.service = service(&self.folder, &self.key, self.running, boot);
        if self.service.status().is_ok_and(|status| status.version == "panic") {
            turn::reject(&mut device, self.running, Cause::Panic).expect("the disk takes it");
            self.running = now.active;
            self.service = service(&self.folder, &self.key, self.running, boot);
        }
    }

    /// As PID 1 does it.
    fn judge(&self) {
        if self.switches.keeps_trials_waiting.load(Ordering::Relaxed) {
            return;
        }
        let mut device = self.device();
        let is_on_trial =
            ledger(&mut device).is_ok_and(|ledger| matches!(ledger.slot(self.running), Slot::Trying { .. }));
        let Some(trial) = Notes::in_folder(&self.folder.join("notes")).trial().filter(|_| is_on_trial) else { return };
        let checks = current(&self.folder.join("checks"));
        if verdict(true, &trial.terms, &checks, self.began.elapsed()) == Verdict::Confirm {
            turn::confirm(&mut device, self.running).expect("the disk takes it");
        }
    }

    fn device(&self) -> Device {
        Device::open(&self.folder.join("disk")).expect("the disk is there")
    }

    /// Says that the node is well, runs its pod of the update and tells whether that is ready, and lets go what is deleted.
    fn play_kubelet(&mut self, runtime: &Runtime, client: &Client) -> Option<()> {
        let call = |method: Method, path: &str, kind: &'static str, body: String| {
            runtime.block_on(client.call(method, path.to_owned(), kind, Bytes::from(body))).ok()
        };
        if self.heartbeat.is_none_or(|last| last.elapsed() > HEARTBEAT) {
            call(Method::PATCH, &format!("/api/v1/nodes/{}/status", self.name), STRATEGIC_PATCH, well().to_string())?;
            self.heartbeat = Some(Instant::now());
        }
        let here = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.name);
        let list: Value = serde_json::from_slice(&call(Method::GET, &here, "", String::new())?).ok()?;
        for pod in list["items"].as_array()? {
            let meta = &pod["metadata"];
            let (namespace, name) = (meta["namespace"].as_str()?, meta["name"].as_str()?);
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
            if !meta["deletionTimestamp"].is_null() {
                self.pod.take_if(|ours| meta["uid"] == ours.uid.as_str());
                call(Method::DELETE, &path, "application/json", r#"{"gracePeriodSeconds":0}"#.to_owned())?;
            } else if meta["labels"]["app"] == APP {
                if self.pod.as_ref().is_none_or(|ours| meta["uid"] != ours.uid.as_str()) {
                    self.pod = Some(self.start(pod)?);
                }
                let ready = fs::read_to_string(self.folder.join("state")).is_ok_and(|text| text == "ready");
                // Others may have said that it is not: of a node that was silent for a while.
                if says_ready(pod) != Some(ready) {
                    call(Method::PATCH, &format!("{path}/status"), STRATEGIC_PATCH, runs(ready).to_string())?;
                }
            }
        }
        Some(())
    }

    /// Starts what the pod's container runs, with this board's files for what would be mounted.
    fn start(&self, pod: &Value) -> Option<Pod> {
        let state = self.folder.join("state");
        let _absent = fs::remove_file(&state);
        let words = pod["spec"]["containers"][0]["args"].as_array()?.iter().filter_map(Value::as_str);
        let words = words.map(|word| word.replace("/bundles", &self.bundles.display().to_string()));
        let mut command = Command::new(PROGRAM);
        command.args(words).arg("--socket").arg(self.folder.join("socket")).arg("--state").arg(state);
        let program = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("the pod starts");
        Some(Pod { uid: pod["metadata"]["uid"].as_str()?.to_owned(), program })
    }
}

/// A Node's status in good health.
fn well() -> Value {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let now = SystemClock.now().rfc3339();
    let capacity = json!({"cpu": "4", "memory": "1Gi", "pods": "110"});
    json!({"status": {
        "capacity": capacity, "allocatable": capacity,
        "nodeInfo": {"bootID": boot.trim(), "architecture": "arm64", "containerRuntimeVersion": "-", "kernelVersion": "-",
            "kubeProxyVersion": "-", "kubeletVersion": "-", "machineID": "-", "operatingSystem": "linux", "osImage": "-",
            "systemUUID": "-"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "Played", "lastHeartbeatTime": now}],
    }})
}

/// What a pod's status says of it, once it says anything.
fn says_ready(pod: &Value) -> Option<bool> {
    let mut conditions = pod["status"]["conditions"].as_array()?.iter();
    let ready = conditions.find(|condition| condition["type"] == "Ready")?;
    (pod["status"]["phase"] == "Running").then(|| ready["status"] == "True")
}

fn runs(ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    let now = SystemClock.now().rfc3339();
    json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}]}})
}
