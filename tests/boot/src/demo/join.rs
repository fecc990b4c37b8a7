//! The leg `join`: what three boards are together, once they have joined.
//!
//! Start at [`run`].

use std::thread::sleep;
use std::time::Duration;

use settings::Settings;

use super::fleet::BOARDS;
use super::neighbours::{AT, Neighbours, now};
use super::{Answer, Fleet};

const ROLLED_OUT_WITHIN: &str = "--timeout=180s";
/// Routes and rules follow what the API says; emulated, not at once.
const REACHED_WITHIN: Duration = Duration::from_secs(60);
const NODE_PORT: u16 = 30077;
/// The promise for an agent's board, in MiB: what agent, keeper and PID 1 hold together.
const AGENT_MIB_MAX: f64 = 20.0;
const SETTLES_WITHIN: Duration = Duration::from_secs(30);
/// A clock is set back by so many seconds, as if the board had been off.
const BEHIND: i64 = 600;

/// A server of the time is ahead of this machine by so many seconds, and a board is so near to it in the end.
const AHEAD: u64 = 60;
const NEAR: u64 = 10;
/// A registry that nobody but its mirror answers for, and an image of it.
const REGISTRY: &str = "registry.example";
const IMAGE: &str = "registry.example/demo/none:1";
const ASKED_FOR: &str = "/v2/demo/none/manifests/1";

/// What these pods are in.
pub(super) const NAMESPACE: &str = "demo-join";

/// A pod on each node tells its node's name, and is asked through a Service.
pub(super) const WEB: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: demo-join}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web, namespace: demo-join}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: busybox:1.28
        command: ["sh", "-c", "mkdir /web && echo $NODE >/web/index.html && exec httpd -f -p 8080 -h /web"]
        env:
        - name: NODE
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo-join}
spec:
  type: NodePort
  selector: {app: web}
  ports:
  - {port: 80, targetPort: 8080, nodePort: 30077}
"#;

/// Nodes, a pod on each, the Service from each by every node's port and by name.
pub fn run(fleet: &mut Fleet) -> Answer<String> {
    fleet.apply(WEB)?;
    fleet.kubectl(&["rollout", "status", "-n", NAMESPACE, "daemonset/web", ROLLED_OUT_WITHIN])?;
    let asked = all_ways_answer(fleet)?;
    fleet.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=120s"])?;
    let held = agent_memory(fleet);
    if held > AGENT_MIB_MAX {
        return Err(format!("an idle agent holds {held:.1} MiB"));
    }
    let server = is_right_again(fleet, 1, || Ok(()))?;
    fleet.lend_hands()?;
    // An agent asks when it starts, and then seldom.
    let agent = is_right_again(fleet, BOARDS, || fleet.kill(BOARDS, "agent"))?;
    fleet.take_hands()?;
    settings_count(fleet)?;
    Ok(format!(
        "{BOARDS} nodes Ready, a pod on each; {asked} ways by NodePort and {BOARDS} by the Service's name answer; an idle \
         agent holds {held:.1} MiB; {BEHIND} s behind, a server has its agents' time {server:.0?} later, an agent its server's \
         {agent:.0?} later; a board takes NTP and a mirror from its settings"
    ))
}

/// Somebody writes into the settings of a board whom it is to ask for the time and for images.
fn settings_count(fleet: &Fleet) -> Answer<()> {
    let neighbours = Neighbours::settle(AHEAD)?;
    let usual = fleet.settings(BOARDS);
    let said = Settings {
        ntp: vec![AT.to_owned()],
        mirrors: [(REGISTRY.to_owned(), vec![neighbours.mirror()])].into(),
        ..usual.clone()
    };
    restarts_with(fleet, &said)?;
    let inside = fleet.look_into(BOARDS);
    let is_told = |_: &Fleet| u64::try_from(inside.clock()).is_ok_and(|time| time.abs_diff(now() + AHEAD) <= NEAR);
    fleet.waits_for("a board's clock to be as NTP says", REACHED_WITHIN, is_told)?;
    inside.leave();
    let on_it = format!(r#"--overrides={{"apiVersion":"v1","spec":{{"nodeName":"{}"}}}}"#, fleet.node(BOARDS));
    fleet.kubectl(&["run", "mirrored", "--image", IMAGE, "--restart=Never", &on_it])?;
    let is_asked = |_: &Fleet| neighbours.was_asked(ASKED_FOR);
    fleet.waits_for("the mirror to be asked for the image", REACHED_WITHIN, is_asked)?;
    fleet.kubectl(&["delete", "pod", "mirrored"])?;
    restarts_with(fleet, &usual)
}

fn restarts_with(fleet: &Fleet, said: &Settings) -> Answer<()> {
    fleet.shut_down(BOARDS)?;
    fleet.write_settings(BOARDS, &settings::file(said))?;
    fleet.is_ready().map(drop)
}

/// Asks from each board by every board's node port, and by name; by how many ports.
pub(super) fn all_ways_answer(fleet: &Fleet) -> Answer<usize> {
    let mut asked = 0;
    for from in 1..=BOARDS {
        for to in 1..=BOARDS {
            answers(fleet, from, &format!("{}:{NODE_PORT}", fleet.address(to)))?;
            asked += 1;
        }
        answers(fleet, from, "web.demo-join.svc.cluster.local")?;
    }
    Ok(asked)
}

/// Nobody tells these boards the time: a server that was off learns it from agents that went on, an agent from its server.
/// Sets a board's clock back, does what is `then` to be done, and waits.
fn is_right_again(fleet: &Fleet, number: u8, then: impl FnOnce() -> Answer<()>) -> Answer<Duration> {
    let inside = fleet.look_into(number);
    let before = inside.set_clock_back(BEHIND);
    then()?;
    let what = format!("the clock of {} to be right", fleet.node(number));
    let took = fleet.waits_for(&what, REACHED_WITHIN, |_| inside.clock() >= before);
    inside.leave();
    took
}

/// The proportional set size of our processes on an agent's board, in MiB.
fn agent_memory(fleet: &Fleet) -> f64 {
    sleep(SETTLES_WITHIN);
    let inside = fleet.look_into(BOARDS);
    let memory = inside.memory();
    eprint!("{}", memory.against(AGENT_MIB_MAX as u32));
    inside.leave();
    memory.in_processes()
}

/// Whether one of the pods answers at an address, asked from a pod on a board.
fn answers(fleet: &Fleet, from: u8, address: &str) -> Answer<()> {
    let ask = format!("wget -q -T 5 -O - http://{address}/");
    let what = format!("an answer from {address} on {}", fleet.node(from));
    let heard =
        |fleet: &Fleet| fleet.inside(NAMESPACE, "web", from, &ask).is_ok_and(|said| said.starts_with("skerry-"));
    fleet.waits_for(&what, REACHED_WITHIN, heard).map(drop)
}
