//! The leg `join`: what three boards are together, once they have joined.
//!
//! Start at [`run`].

use std::thread::sleep;
use std::time::Duration;

use super::fleet::BOARDS;
use super::{Answer, Fleet};
use crate::inside::Inside;

const ROLLED_OUT_WITHIN: &str = "--timeout=180s";
/// Routes and rules follow what the API says; emulated, not at once.
const REACHED_WITHIN: Duration = Duration::from_secs(60);
const NODE_PORT: u16 = 30077;
/// The promise for an agent's board, in MiB: what agent, keeper and PID 1 hold together.
const AGENT_MIB_MAX: f64 = 20.0;
const SETTLES_WITHIN: Duration = Duration::from_secs(30);
/// The server's clock is set back by so many seconds, as if the board had been off.
const BEHIND: i64 = 600;

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
    let took = server_follows_agents(fleet)?;
    Ok(format!(
        "{BOARDS} nodes Ready, a pod on each; {asked} ways by NodePort and {BOARDS} by the Service's name answer; an idle \
         agent holds {held:.1} MiB; a server {BEHIND} s behind has its agents' time {took:.0?} later"
    ))
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

/// Nobody tells these boards the time: a server that was off learns it from agents that went on.
fn server_follows_agents(fleet: &Fleet) -> Answer<Duration> {
    let inside = Inside::enter_on(&fleet.user(), &fleet.node(1), fleet.kubeconfig().with_extension("inside.yaml"));
    let before = inside.set_clock_back(BEHIND);
    let took = fleet.waits_for("the server's clock to be right", REACHED_WITHIN, |_| inside.clock() >= before);
    inside.leave();
    took
}

/// The proportional set size of our processes on an agent's board, in MiB.
fn agent_memory(fleet: &Fleet) -> f64 {
    sleep(SETTLES_WITHIN);
    let inside = Inside::enter_on(&fleet.user(), &fleet.node(BOARDS), fleet.kubeconfig().with_extension("inside.yaml"));
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
