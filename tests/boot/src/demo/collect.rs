//! The leg `collect`: logs and figures of all boards in one place.
//!
//! Start at [`run`].

use super::fleet::BOARDS;
use super::{Answer, Fleet};

/// A pod's words are in the central store, and stay there when it is gone; every node's figures are there.
pub fn run(fleet: &mut Fleet) -> Answer<String> {
    let user = fleet.user();
    let manifests = image::Tree::ours().top.join("cluster/telemetry/manifests");
    for kind in ["logs", "metrics"] {
        user.must(&format!("apply -f {}", manifests.join(format!("{kind}.yaml")).display()));
        user.in_namespace("kube-system").rolled_out(&format!("daemonset/skerry-{kind}"), 120);
    }
    user.must("delete pod speaks --ignore-not-found");
    user.must("run speaks --image=busybox:1.28 --restart=Never -- echo the last words of a pod");
    user.must_become("--for=jsonpath={.status.phase}=Succeeded pod/speaks", 60);
    let logs = "get --raw /apis/telemetry.skerry.dev/v1/namespaces/default/logs?pod=speaks";
    user.wait_for(logs, "the last words of a pod", user.limit(30));
    user.must("delete pod speaks");
    assert!(user.must(logs).contains("the last words of a pod"), "a pod's log outlives it");
    user.wait("figures of every node", user.limit(30), |user| {
        let (ok, said) = user.kubectl("top nodes --no-headers");
        ok && said.lines().count() == usize::from(BOARDS)
    });
    Ok(format!("kubectl top shows {BOARDS} nodes; a pod's words are there after it is gone"))
}
