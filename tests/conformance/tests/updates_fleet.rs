//! The DaemonSet of an update over boards that are played: real manifest, controllers, kubectl, pods' program, nodes' role and
//! update service; only the machines are not.
//!
//! Start at [`held_by_on_delete_a_fleet_waits`].

mod played;

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use bundle::Secret;
use bundle::message::State;
use played::Control;
use played::board::{Board, IMAGE_BYTES, IMAGE_BYTES_MAX, bundle};

const MANIFEST: &str = include_str!("../../../cluster/skerry/manifests/update.yaml");
/// What is changed of it: what is mounted nowhere needs no folder, and pods that are ready count at once.
const CHANGED: [(&str, &str); 2] = [("minReadySeconds: 5", "minReadySeconds: 0"), ("skerry.bundle", "1")];
const CONDITION: &str = r#"{.status.conditions[?(@.type=="skerry.dev/UpdateFailed")]['status','reason','message']}"#;
/// A node that is silent for so long is not ready.
const GRACE: &str = "--node-monitor-grace-period=6s";
const ROLLED_OUT: &str = "rollout status daemonset/skerry-update --timeout=100s";

/// So that one may go on while another is dead.
const TWO_AT_A_TIME: &str = r#"{"spec":{"updateStrategy":{"rollingUpdate":{"maxUnavailable":2}},"template":{"metadata":{"annotations":{"skerry.dev/updates-at-a-time":"2"}}}}}"#;

/// A pod that nothing replaces and that has data of its own: it is in the way of a restart.
const BARE: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: bare}
spec: {nodeName: board-1, containers: [{name: c, image: web}], volumes: [{name: data, emptyDir: {}}]}
"#;

struct Fleet {
    boards: Vec<Board>,
    control: Control,
    bundles: PathBuf,
    key: Arc<Secret>,
}

#[test]
fn held_by_on_delete_a_fleet_waits() {
    let fleet = Fleet::of(3);
    fleet.boards.iter().for_each(|board| board.keeps_trials_waiting(true));
    fleet.wants("2");
    fleet.until("a trial", || fleet.boards.iter().any(|board| fleet.shows(board, "False Trial", "version 2")));
    fleet.must(r#"patch daemonset skerry-update -p {"spec":{"updateStrategy":{"type":"OnDelete"}}}"#);
    fleet.boards.iter().for_each(|board| board.keeps_trials_waiting(false));
    fleet.until("one board that goes on to its end", || fleet.updated() == 1 && fleet.available() == 3);
    let next = fleet.boards.iter().find(|board| board.restarts() == 0).expect("the others wait");
    fleet.must(&format!("delete pod {}", fleet.pod_on(next)));
    fleet.until("the board whose pod was deleted", || fleet.updated() == 2 && fleet.available() == 3);
    assert_eq!(fleet.restarts(), [0, 1, 1], "no other one has begun");
    fleet.must(r#"patch daemonset skerry-update -p {"spec":{"updateStrategy":{"type":"RollingUpdate"}}}"#);
    fleet.must(ROLLED_OUT);
    assert_eq!(fleet.restarts(), [1, 1, 1]);
}

#[test]
fn a_pod_that_is_deleted_midway_disturbs_nothing() {
    let fleet = Fleet::of(1);
    let board = &fleet.boards[0];
    fleet.apply(BARE);
    fleet.wants("2");
    fleet.until("a pod in the way", || fleet.shows(board, "False DrainBlocked", "kube-system/bare has no controller"));
    let wanted = board.status().wanted.expect("it is wanted");
    fleet.replaces_pod_on(board);
    assert_eq!(board.status().wanted, Some(wanted), "the same bundle, staged as before");
    fleet.wants_with("2", &["--evict-bare-pods"]);
    fleet.until("its data in the way", || fleet.shows(board, "False DrainBlocked", "bare has an emptyDir volume"));
    fleet.must("get pod bare");
    board.keeps_trials_waiting(true);
    fleet.wants_with("2", &["--evict-bare-pods", "--evict-empty-dir"]);
    fleet.until("a trial", || board.status().wanted.is_some_and(|wanted| wanted.state == State::Trial));
    fleet.refused("get pod bare", "NotFound");
    fleet.replaces_pod_on(board);
    board.keeps_trials_waiting(false);
    fleet.must(ROLLED_OUT);
    fleet.until("an end", || fleet.shows(board, "False Confirmed", "version 2 ("));
    assert_eq!(fleet.restarts(), [1]);
}

#[test]
fn a_dead_board_uses_up_max_unavailable() {
    let fleet = Fleet::watched(3, &[GRACE]);
    let dead = &fleet.boards[2];
    dead.power(false);
    fleet.until("a silent node", || fleet.node(&dead.name, ready()) == "Unknown");
    fleet.wants("2");
    let told = "1 of 1 nodes that may be unavailable: board-3 (NotReady)";
    fleet.until("an event that says so", || {
        fleet.must("get events --field-selector reason=RolloutWaits -o jsonpath={.items[*].message}").contains(told)
    });
    assert_eq!((fleet.restarts(), fleet.updated()), (vec![0, 0, 0], 0));
    fleet.must(&format!("patch daemonset skerry-update -p {TWO_AT_A_TIME}"));
    fleet.until("the living ones", || fleet.updated() == 2 && fleet.available() == 2);
    dead.power(true);
    fleet.must(ROLLED_OUT);
    assert_eq!(fleet.restarts(), [1, 1, 1]);
}

#[test]
fn a_failed_update_that_is_undone_is_no_failure_any_more() {
    let fleet = Fleet::of(2);
    fleet.wants("panic");
    let told = "was given up and is not tried again: the kernel panicked or never reached PID 1; version 1 (";
    let failed = |board: &&Board| fleet.shows(board, "True KernelPanic", told);
    fleet.until("a board that has failed", || fleet.boards.iter().any(|board| failed(&board)));
    fleet.refused(&ROLLED_OUT.replace("100s", "4s"), "timed out");
    assert_eq!(fleet.restarts(), [0, 1], "the rollout stops");
    let board = fleet.boards.iter().find(failed).expect("it still says so");
    fleet.must("rollout undo daemonset/skerry-update");
    fleet.must(ROLLED_OUT);
    fleet.until("no failure", || fleet.shows(board, "False Confirmed", "version 1 ("));
    assert_eq!(fleet.restarts(), [0, 1], "there was nothing to do");
}

#[test]
fn what_is_refused_is_said_on_the_node() {
    let fleet = Fleet::of(1);
    let board = &fleet.boards[0];
    let good = bundle("2", IMAGE_BYTES, 1, Some(&fleet.key));
    let mut flipped = good.clone();
    *flipped.last_mut().expect("bytes") ^= 1;
    let stranger = Secret::generate().expect("a key");
    let refused = [
        ("unsigned", bundle("2", IMAGE_BYTES, 1, None), "a bundle (", "is refused: the bundle is unsigned"),
        (
            "stranger",
            bundle("2", IMAGE_BYTES, 1, Some(&stranger)),
            "a bundle (",
            "is refused: the bundle is wrongly signed",
        ),
        ("short", good[..good.len() - 1].to_vec(), "a bundle (", "is refused: the bundle is truncated"),
        ("flipped", flipped, "version 2 (", "is refused: the bundle is damaged: part 2 of 2"),
        ("old", bundle("0", IMAGE_BYTES, 0, Some(&fleet.key)), "version 0 (", "is refused: the bundle is a downgrade"),
        (
            "large",
            bundle("3", IMAGE_BYTES_MAX + 1, 1, Some(&fleet.key)),
            "version 3 (",
            "is refused: the bundle is oversized",
        ),
    ];
    for (name, bytes, what, why) in &refused {
        fs::write(fleet.bundles.join(name), bytes).expect("a file");
        fleet.wants(name);
        fleet.until(name, || fleet.shows(board, &format!("True Refused {what}"), why));
    }
    let events = fleet.told_of_nodes();
    for (name, _, _, why) in &refused {
        assert!(events.contains(why), "{name} in {events}");
    }
    fleet.wants("1");
    fleet.must(ROLLED_OUT);
    fleet.until("no failure", || fleet.shows(board, "False Confirmed", "version 1 ("));
    assert_eq!((fleet.restarts(), board.status().slot.as_str()), (vec![0], "a"));
}

impl Fleet {
    /// So many boards that run version 1, by a rollout of it.
    fn of(boards: usize) -> Fleet {
        Fleet::watched(boards, &[])
    }

    /// The same, by a server with these words.
    fn watched(boards: usize, words: &[&str]) -> Fleet {
        let control = Control::start(words, "kube-system");
        let key = Arc::new(Secret::generate().expect("a key"));
        let bundles = control.folder().join("bundles");
        fs::create_dir(&bundles).expect("a folder");
        for version in ["1", "2", "panic"] {
            fs::write(bundles.join(version), bundle(version, IMAGE_BYTES, 1, Some(&key))).expect("a file");
        }
        let boards = (1..=boards).map(|number| {
            let name = format!("board-{number}");
            control.apply(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n"));
            Board::switch_on(&name, &control.folder().join(&name), &control.kubeconfig(), &bundles, &key)
        });
        let fleet = Fleet { boards: boards.collect(), control, bundles, key };
        let text = CHANGED.iter().fold(MANIFEST.to_owned(), |text, (words, ours)| {
            assert!(text.contains(words), "{words} in the manifest");
            text.replace(words, ours)
        });
        fleet.apply(&text);
        fleet.must(ROLLED_OUT);
        fleet
    }

    /// The same DaemonSet with another bundle.
    fn wants(&self, bundle: &str) {
        self.wants_with(bundle, &[]);
    }

    /// The same with these further words.
    fn wants_with(&self, bundle: &str, words: &[&str]) {
        let path = "/spec/template/spec/containers/0/args";
        let bundle = format!("--bundle=/bundles/{bundle}");
        let words = [&["update-agent", &bundle], words].concat().join("\",\"");
        let patch = format!(r#"[{{"op":"replace","path":"{path}","value":["{words}"]}}]"#);
        let (ok, said) = self.kubectl_words(&["patch", "daemonset", "skerry-update", "--type=json", "-p", &patch]);
        assert!(ok, "{said}");
    }

    fn shows(&self, board: &Board, begins: &str, contains: &str) -> bool {
        let said = self.node(&board.name, CONDITION);
        said.starts_with(begins) && said.contains(contains)
    }

    fn told_of_nodes(&self) -> String {
        let words =
            "get events --namespace=default --field-selector reason=UpdateRefused -o jsonpath={.items[*].message}";
        self.must(words)
    }

    fn restarts(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.boards.iter().map(Board::restarts).collect();
        all.sort_unstable();
        all
    }

    /// Pods of the newest template.
    fn updated(&self) -> u32 {
        self.number("updatedNumberScheduled")
    }

    fn available(&self) -> u32 {
        self.number("numberAvailable")
    }

    /// A number of the DaemonSet's status, once that is about what is wanted now.
    fn number(&self, name: &str) -> u32 {
        let path = format!("{{.metadata.generation}} {{.status.observedGeneration}} 0{{.status.{name}}}");
        let (_, said) = self.kubectl_words(&["get", "daemonset", "skerry-update", "-o", &format!("jsonpath={path}")]);
        let words: Vec<&str> = said.split(' ').collect();
        let is_current = words.len() == 3 && words[0] == words[1];
        words.last().filter(|_| is_current).and_then(|word| word.parse().ok()).unwrap_or_default()
    }

    fn pod_on(&self, board: &Board) -> String {
        let at = format!("get pods -l app=skerry-update --field-selector spec.nodeName={} -o name", board.name);
        self.must(&at).trim().trim_start_matches("pod/").to_owned()
    }

    /// Deletes a board's pod, and waits until another one has asked and says that it is not ready.
    fn replaces_pod_on(&self, board: &Board) {
        let before = self.pod_on(board);
        self.must(&format!("delete pod {before}"));
        self.until("another pod", || {
            let pod = self.pod_on(board);
            let phase = || self.kubectl(&format!("get pod {pod} -o jsonpath={{.status.phase}}"));
            !pod.is_empty() && pod != before && phase() == (true, "Running".to_owned())
        });
    }
}

fn ready() -> &'static str {
    r#"{.status.conditions[?(@.type=="Ready")].status}"#
}

impl Deref for Fleet {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}
