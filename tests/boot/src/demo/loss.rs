//! The leg `loss`: a board is lost, and what ran there runs elsewhere.
//!
//! Start at [`run`].

use std::time::{Duration, Instant};

use workloads::User;

use super::fleet::BOARDS;
use super::{Answer, Fleet};

/// The promise, with our defaults.
const ELSEWHERE_WITHIN: Duration = Duration::from_secs(60);

/// One pod that may run on either agent.
const MOVES: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: moves}
spec:
  replicas: 1
  selector: {matchLabels: {app: moves}}
  template:
    metadata: {labels: {app: moves}}
    spec:
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
            - matchExpressions: [{key: kubernetes.io/hostname, operator: NotIn, values: [skerry-1]}]
      containers:
      - {name: moves, image: "busybox:1.28", command: [sleep, "1000000"]}
"#;

/// Cuts the power of the agent that has the pod, and waits until the other has it.
pub fn run(fleet: &mut Fleet) -> Answer<String> {
    let user = fleet.user();
    fleet.apply(MOVES)?;
    user.rolled_out("deployment/moves", 60);
    let node = user.must("get pods -l app=moves -o jsonpath={.items[0].spec.nodeName}");
    let board = (2..=BOARDS).find(|board| fleet.node(*board) == node).ok_or("the pod is on no agent")?;
    let cut = Instant::now();
    fleet.cut_power(board)?;
    let runs_elsewhere = |user: &User| {
        let words = "get pods -l app=moves --no-headers -o custom-columns=N:.spec.nodeName,P:.status.phase";
        user.kubectl(words).1.lines().any(|line| line.contains("Running") && !line.starts_with(&node))
    };
    user.wait("its pod elsewhere", 2 * ELSEWHERE_WITHIN, runs_elsewhere);
    let took = cut.elapsed();
    let back = fleet.is_ready()?;
    user.must("delete deployment moves");
    if took > ELSEWHERE_WITHIN {
        return Err(format!("the pod ran elsewhere only after {took:.1?}"));
    }
    Ok(format!("elsewhere {took:.1?} after the cut; the board is Ready {back:.0?} after it is switched on"))
}
