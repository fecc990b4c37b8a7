//! The leg `collect`: logs and figures of all boards in one place.
//!
//! Start at [`run`].

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use image::up::kubectl;
use workloads::User;

use super::fleet::BOARDS;
use super::{Answer, Fleet};
use crate::figures::does_nothing;

/// What the pod that looks has others write has been written by then.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// So long each board is watched.
const WATCHED: Duration = Duration::from_secs(120);
/// The promise for a board of an idle cluster, a minute: waits for the disk, and KiB written to it.
const IDLE_MAX: (f64, f64) = (10.0, 100.0);

/// What the page's first views ask for, and what the answers hold.
const PAGE: [(&str, &str); 5] = [
    ("/dashboard/", "dashboard.js"),
    ("/dashboard/dashboard.js", "sessionStorage"),
    ("/api/v1/nodes?limit=500", "skerry-3"),
    ("/apis/telemetry.skerry.dev/v1/namespaces/default/logs?pod=speaks", "the last words of a pod"),
    ("/apis/telemetry.skerry.dev/v1/series?name=node_cpu_usage_seconds_total", "skerry-3"),
];

/// A pod's words are in the central store, and stay there when it is gone; every node's figures are there.
pub fn run(fleet: &mut Fleet) -> Answer<String> {
    let user = fleet.user();
    deploy(&user, "logs");
    deploy(&user, "metrics");
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
    page(fleet)?;
    let (server, agent) = (idles(fleet, 1)?, idles(fleet, BOARDS)?);
    Ok(format!(
        "kubectl top shows {BOARDS} nodes; a pod's words are there after it is gone; the page shows both to its account; \
         idle, with all that, the server's board has {server} a minute, an agent's {agent}"
    ))
}

/// What a board of this cluster, in which nobody asks for anything, does to its disk.
fn idles(fleet: &Fleet, number: u8) -> Answer<String> {
    let inside = fleet.look_into(number);
    sleep(SETTLES_WITHIN);
    let (syncs, written) = does_nothing(&inside, WATCHED);
    inside.leave();
    let minutes = WATCHED.as_secs_f64() / 60.0;
    let (syncs, kib) = (syncs as f64 / minutes, written * 1024.0 / minutes);
    let told = format!("{syncs:.1} fsyncs and {kib:.0} KiB written");
    let (syncs_max, kib_max) = IDLE_MAX;
    if syncs <= syncs_max && kib <= kib_max {
        return Ok(told);
    }
    Err(format!("{} has {told} a minute, and {syncs_max} and {kib_max} KiB are promised", fleet.node(number)))
}

/// The web page on the server's board, to somebody who has nothing but the token of its account.
fn page(fleet: &Fleet) -> Answer<()> {
    let user = fleet.user();
    let manifest = image::Tree::ours().top.join("cluster/dashboard/manifests/viewer.yaml");
    user.must(&format!("apply -f {}", manifest.display()));
    let token = user.must("-n kube-system create token skerry-dashboard --duration=10m");
    let server = format!("--server=https://127.0.0.1:{}", fleet.api_port());
    let token = format!("--token={}", token.trim());
    for (path, held) in PAGE {
        let words = [&server, &token, "--insecure-skip-tls-verify", "get", "--raw", path];
        let answer = kubectl(Path::new("/dev/null"), &words).map_err(|error| error.to_string())?;
        if !answer.contains(held) {
            return Err(format!("{path} does not answer {held:?} but {answer}"));
        }
    }
    Ok(())
}

/// Puts a collector on every board: of `logs` or of `metrics`.
pub(super) fn deploy(user: &User, kind: &str) {
    let manifests = image::Tree::ours().top.join("cluster/telemetry/manifests");
    user.must(&format!("apply -f {}", manifests.join(format!("{kind}.yaml")).display()));
    user.in_namespace("kube-system").rolled_out(&format!("daemonset/skerry-{kind}"), 120);
}
