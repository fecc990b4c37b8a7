//! The node's part of an update against a real API server, with an update service that only plays its part.
//!
//! Start at [`a_node_is_emptied_switched_and_opened_again`]. The Node and its pods are objects without a machine: what is
//! evicted is seen to go by the test, which then plays the kubelet.

mod played;

use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use bundle::Digest;
use bundle::message::{Drain, Failed, Reply, Request, State, Status, Wanted};
use played::{Control, answer, take_care};
use sys::fdpass;

const LOOK_EVERY: Duration = Duration::from_millis(20);
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
    control: Control,
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
    world.shows("False Confirmed", &format!("version 2 ({digest}) runs"));
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
    let told = format!("version 2 ({digest}) was given up and is not tried again: the kernel panicked; version 1 runs");
    world.shows("True KernelPanic", &told);
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
    world.kubectl_words(&[
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
        let world = World { control: Control::start(&[], "default"), service: Arc::default() };
        world.apply(&NODE.replace("OPEN", if cordoned { "true" } else { "false" }));
        let socket = world.folder().join("socket");
        world.says(Status { confirmed: true, ..Status::default() });
        play(&socket, &world.service);
        take_care(&world.kubeconfig(), "board", socket);
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
        self.must(&format!("create --raw /api/v1/namespaces/default/pods/{web}/binding -f {}", file.display()));
        self.kubectl_words(&[
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
        self.control.node("board", path)
    }

    /// The pods on the board, by what they are.
    fn pods(&self) -> String {
        let names = self.must("get pods --field-selector spec.nodeName=board -o jsonpath={.items[*].metadata.name}");
        let names: Vec<&str> = names.split(' ').map(|name| name.split('-').next().unwrap_or_default()).collect();
        names.join(" ")
    }

    fn until(&self, what: &str, holds: impl Fn(&World) -> bool) {
        self.control.until(what, || holds(self));
    }
}

impl Deref for World {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
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
            answer(&listening, |request, _| played.lock().unwrap().answer(request));
            sleep(LOOK_EVERY);
        }
    });
}

impl Played {
    fn answer(&mut self, request: Result<Request, String>) -> Reply {
        match request {
            Ok(Request::Status) => Reply::Status(self.status.clone()),
            Ok(Request::Report(_)) => {
                self.reported += 1;
                Reply::Done
            }
            Ok(Request::Activate { digest }) => {
                self.activated = Some(digest);
                Reply::Done
            }
            other => Reply::Refused(format!("{other:?}")),
        }
    }
}
