//! The node's part of an update against a real API server, with an update service that only plays its part.
//!
//! Start at [`a_node_is_emptied_switched_and_opened_again`]. The Node and its pods are objects without a machine: what is
//! evicted is seen to go by the test, which then plays the kubelet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bundle::Digest;
use bundle::message::{Drain, Failed, Reply, Request, State, Status, Wanted, decode, encode};
use client::{Client, Kubeconfig};
use k8s_openapi::api::core::v1::Node;
use skerry::update::node::{Updates, run};
use sys::clock::SystemClock;
use sys::fdpass;
use tokio::sync::watch;
use workloads::User;

const WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const CONDITION: &str = r#"{.status.conditions[?(@.type=="skerry.dev/UpdateFailed")]['status','reason','message']}"#;

/// Whether the node is cordoned, and for which bundle.
const OURS: &str = r"{.spec.unschedulable}{.metadata.annotations.skerry\.dev/cordoned-for-update}";

const NODE: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: board}
spec: {unschedulable: OPEN}
"#;

const PODS: &str = r#"
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      # No machine tells that a pod has ended.
      terminationGracePeriodSeconds: 0
      nodeSelector: {nobody: has-this}
      containers: [{name: c, image: web}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
---
apiVersion: v1
kind: Pod
metadata: {name: bare}
spec: {nodeName: board, terminationGracePeriodSeconds: 0, containers: [{name: c, image: web}]}
"#;

/// What the update service is made to say, and what it was asked.
#[derive(Default)]
struct Played {
    status: Status,
    activated: Option<Digest>,
    reported: usize,
}

struct World {
    folder: tempfile::TempDir,
    server: Child,
    user: User,
    service: Arc<Mutex<Played>>,
}

#[test]
fn a_node_is_emptied_switched_and_opened_again() {
    let world = World::new(false);
    let digest = Digest::of(b"2");
    world.make_pods();
    world.says(wanted(digest, Drain::default(), State::Staged));
    world.shows("False DrainBlocked", "default/bare has no controller");
    assert_eq!(world.node(OURS), format!("true{digest}"));
    assert_eq!(world.pods(), "bare web", "nothing is evicted while something is in the way");
    world.says(wanted(digest, Drain { bare_pods: true, ..Drain::default() }, State::Staged));
    world.shows("False Draining", "budget");
    assert_eq!(world.pods(), "web", "the budget keeps the last one");
    assert_eq!(world.activated(), None);
    world.must("delete pdb web");
    world.until("the switch", |world| world.activated() == Some(digest));
    assert!(world.service.lock().unwrap().reported > 0, "what works is reported before the switch");
    world.says(wanted(digest, Drain::default(), State::Trial));
    world.shows("False Trial", "version 2 is on trial");
    assert_eq!(world.node("{.spec.unschedulable}"), "true");
    world.says(Status { digest: Some(digest), version: "2".into(), confirmed: true, ..Status::default() });
    world.shows("False Confirmed", "version 2 runs");
    world.until("an open node", |world| world.node(OURS).is_empty());
    let events = world.must("get events --field-selector involvedObject.name=board -o jsonpath={.items[*].reason}");
    for reason in ["UpdateDrainBlocked", "UpdateDraining", "UpdateRestarting", "UpdateTrial", "UpdateConfirmed"] {
        assert!(events.contains(reason), "{reason} in {events}");
    }
}

#[test]
fn a_failure_is_shown_and_somebody_elses_cordon_stays() {
    let world = World::new(true);
    let digest = Digest::of(b"2");
    world.says(wanted(digest, Drain::default(), State::Trial));
    world.shows("False Trial", "on trial");
    let failed = Failed { digest, version: "2".into(), cause: "panic".into(), told: "the kernel panicked".into() };
    world.says(Status { confirmed: true, version: "1".into(), failed: Some(failed), ..Status::default() });
    world.shows("True KernelPanic", "version 2 was given up: the kernel panicked; version 1 runs");
    assert_eq!(world.node("{.spec.unschedulable}"), "true");
    let warned = world.must("get events --field-selector type=Warning -o jsonpath={.items[*].reason}");
    assert_eq!(warned, "UpdateKernelPanic");
}

#[test]
fn a_board_waits_its_turn_while_another_is_away() {
    let world = World::new(false);
    let digest = Digest::of(b"2");
    world.apply(&NODE.replace("OPEN", "false").replace("board", "other"));
    world.says(wanted(digest, Drain::default(), State::Staged));
    world.shows("False Queued", "while others are away: other");
    assert_eq!(world.node(OURS), "", "it takes pods until it is its turn");
    world.user.kubectl_words(&[
        "patch",
        "node",
        "other",
        "--subresource=status",
        "-p",
        r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#,
    ]);
    world.until("the switch", |world| world.activated() == Some(digest));
    assert_eq!(world.node(OURS), format!("true{digest}"));
}

impl World {
    fn new(cordoned: bool) -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let mut command = Command::new(env!("CARGO_BIN_EXE_skerry-under-test"));
        command.args(["server", "--no-node", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let server = command.stdin(Stdio::null()).stderr(log).spawn().expect("the server starts");
        let kubeconfig = data.join("admin.kubeconfig");
        let user = User::new(&[], &kubeconfig, 1);
        let world = World { folder, server, user, service: Arc::default() };
        world.until("a server", |world| kubeconfig.exists() && world.user.kubectl("get --raw /readyz").0);
        world.until("the default account", |world| world.user.kubectl("get serviceaccount default").0);
        world.apply(&NODE.replace("OPEN", if cordoned { "true" } else { "false" }));
        let socket = world.folder.path().join("socket");
        world.says(Status { confirmed: true, ..Status::default() });
        play(&socket, &world.service);
        take_care(&kubeconfig, socket);
        world
    }

    /// One pod of a set and one of nobody on the board, and another of the set elsewhere that is not ready.
    fn make_pods(&self) {
        self.apply(PODS);
        self.until("two pods of the set", |world| world.must("get pods -l app=web -o name").lines().count() == 2);
        let names = self.must("get pods -l app=web -o jsonpath={.items[*].metadata.name}");
        let web = names.split(' ').next().expect("a pod").to_owned();
        let binding = format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Binding\",\"metadata\":{{\"name\":\"{web}\"}},\"target\":{{\"kind\":\"Node\",\"name\":\"board\"}}}}"
        );
        let file = self.written("binding.json", &binding);
        let (ok, said) = self
            .user
            .kubectl(&format!("create --raw /api/v1/namespaces/default/pods/{web}/binding -f {}", file.display()));
        assert!(ok, "{said}");
        self.user.kubectl_words(&[
            "patch",
            "pod",
            &web,
            "--subresource=status",
            "-p",
            r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#,
        ]);
        self.until("a budget that counts", |world| {
            world.must("get pdb web -o jsonpath={.status.currentHealthy}") == "1"
        });
    }

    fn says(&self, status: Status) {
        self.service.lock().unwrap().status = status;
    }

    fn activated(&self) -> Option<Digest> {
        self.service.lock().unwrap().activated
    }

    /// Waits for the Node's condition.
    fn shows(&self, begins: &str, contains: &str) {
        self.until(begins, |world| {
            let said = world.node(CONDITION);
            said.starts_with(begins) && said.contains(contains)
        });
    }

    fn node(&self, path: &str) -> String {
        let (ok, said) = self.user.kubectl_words(&["get", "node", "board", "-o", &format!("jsonpath={path}")]);
        assert!(ok, "{said}");
        said
    }

    /// The pods on the board, by what they are.
    fn pods(&self) -> String {
        let names = self.must("get pods --field-selector spec.nodeName=board -o jsonpath={.items[*].metadata.name}");
        let names: Vec<&str> = names.split(' ').map(|name| name.split('-').next().unwrap_or_default()).collect();
        names.join(" ")
    }

    fn must(&self, words: &str) -> String {
        let (ok, said) = self.user.kubectl(words);
        assert!(ok, "{words}: {said}");
        said
    }

    fn written(&self, name: &str, text: &str) -> PathBuf {
        let file = self.folder.path().join(name);
        fs::write(&file, text).expect("a file");
        file
    }

    fn apply(&self, text: &str) {
        let file = self.written("objects.yaml", text);
        self.must(&format!("apply -f {}", file.display()));
    }

    fn until(&self, what: &str, holds: impl Fn(&World) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            let shown = || self.user.kubectl("get node board -o yaml").1;
            assert!(begun.elapsed() < WITHIN, "no {what} within {WITHIN:?}\n{}", shown());
            sleep(LOOK_EVERY);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ended = self.server.kill().and_then(|()| self.server.wait());
    }
}

fn wanted(digest: Digest, drain: Drain, state: State) -> Status {
    let wanted = Wanted { digest, version: "2".into(), drain, state };
    Status { confirmed: true, version: "1".into(), wanted: Some(wanted), ..Status::default() }
}

/// Answers at the socket as the update service does.
fn play(socket: &Path, played: &Arc<Mutex<Played>>) {
    let listening = fdpass::listen(socket).expect("a socket");
    let played = played.clone();
    std::thread::spawn(move || {
        loop {
            let Ok(Some(caller)) = fdpass::accept(&listening) else {
                sleep(LOOK_EVERY);
                continue;
            };
            let mut buffer = vec![0; 16 << 10];
            let length = loop {
                match fdpass::receive(&caller, &mut buffer) {
                    Ok(Some((length, _))) => break length,
                    Ok(None) => break 0,
                    Err(_) => sleep(LOOK_EVERY / 10),
                }
            };
            let mut played = played.lock().unwrap();
            let reply = match decode(&buffer[..length]) {
                Ok(Request::Status) => Reply::Status(played.status.clone()),
                Ok(Request::Report(_)) => {
                    played.reported += 1;
                    Reply::Done
                }
                Ok(Request::Activate { digest }) => {
                    played.activated = Some(digest);
                    Reply::Done
                }
                other => Reply::Refused(format!("{other:?}")),
            };
            let _caller_gone = fdpass::send(&caller, &encode(&reply), &[]);
        }
    });
}

/// The node's role, in a thread of its own.
fn take_care(kubeconfig: &Path, socket: PathBuf) {
    let config = Kubeconfig::read(kubeconfig).expect("a kubeconfig");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let door = client::https::open(&config).expect("a way to the server");
        let _inside = runtime.enter();
        let nodes = client::run::caches(door.clone()).of::<Node>();
        let client = Client::new(door);
        let leaving = watch::channel(false).0;
        let updates =
            Updates { node: "board".to_owned(), client, nodes, clock: Arc::new(SystemClock), socket, leaving };
        match runtime.block_on(run(updates)) {}
    });
}
