//! NFS against a real server: pods of one board share its export, by versions 4.1 and 3, by hand and by a class; the server
//! dies, which holds up nobody but who needs it, and returns, and has everything once.
//!
//! Start at [`pods_share_an_export`]. It is run by name, `cargo test -p boot --test nfs`, as root: it fetches the server.

use std::fs;
use std::time::{Duration, Instant};

use boot::Bench;
use boot::nfs::{EXPORT, Server, numbers};
use image::qemu::Way;
use workloads::User;

const MANIFEST: &str = include_str!("../nfs.yaml");
/// A pod's grace here is a second. Its server is asked once more, and once to take what was written; all of it on an emulated board.
const GONE_WITHIN: Duration = Duration::from_secs(60);

/// One more pod, by an export of its own writing; the server dies before it comes.
const LATE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: late
    image: busybox:1.28
    command: [sleep, '1000000']
    volumeMounts: [{name: nfs, mountPath: /mnt}]
  volumes:
  - name: nfs
    nfs: {server: SERVER, path: /srv}
";

#[test]
fn pods_share_an_export() {
    let mut bench = Bench::new("qemu-arm64", "nfs-test", 16452);
    let mut server = Server::start("nfs-test");
    bench.boot(Way::Direct);
    println!("Ready after {:.1?}", bench.is_ready());
    let user = bench.user();
    apply(&bench, &user, &MANIFEST.replace("SERVER", &server.address()));
    user.must_become("--for=condition=Ready pod/writer pod/reader pod/version-3 pod/made pod/looks pod/holds", 30);
    an_export_is_shared(&user, &server);
    one_that_is_not_there_is_named(&user, &server);
    server.kill();
    apply(&bench, &user, &LATE.replace("SERVER", &server.address()));
    a_dead_server_holds_up_only_who_needs_it(&user, &server);
    server.restart();
    one_that_returns_has_everything(&user, &server);
    server.kill();
    bench.begin_anew();
    bench.restart();
    println!("down {:.1?} after it was asked, with its server dead", bench.hears("reboot: Restarting system"));
}

fn apply(bench: &Bench, user: &User, yaml: &str) {
    let file = bench.files().disk.with_file_name("nfs.yaml");
    fs::write(&file, yaml).expect("the manifest is written");
    user.must(&format!("apply -f {}", file.display()));
}

fn an_export_is_shared(user: &User, server: &Server) {
    user.must("exec reader -- sh -c 'echo hello >/mnt/greeting'");
    for pod in ["writer", "version-3", "looks"] {
        assert_eq!(user.must(&format!("exec {pod} -- cat /mnt/greeting")).trim(), "hello");
    }
    assert_eq!(fs::read_to_string(server.file("greeting")).expect("the server has it").trim(), "hello");
    let mount = |pod: &str| user.must(&format!("exec {pod} -- grep ' /mnt ' /proc/mounts"));
    let third = mount("version-3");
    assert!(["vers=3", "timeo=50", "noatime"].iter().all(|option| third.contains(option)), "{third}");
    assert!(mount("reader").contains("vers=4.1"), "{}", mount("reader"));
    user.refused("exec looks -- touch /mnt/greeting", "Read-only file system");
    let volume = user.must("get pvc made -o jsonpath={.spec.volumeName}");
    let kept =
        fs::read_to_string(server.file(&format!("default-made-{volume}/word"))).expect("a directory for the claim");
    assert_eq!(kept.trim(), "kept");
}

fn one_that_is_not_there_is_named(user: &User, server: &Server) {
    let told = format!("mount failed: {}:{EXPORT}/none: the server has no such export or directory", server.address());
    user.wait_for(&failed_mounts("wrong"), &told, user.limit(20));
    user.must("delete pod wrong");
}

fn a_dead_server_holds_up_only_who_needs_it(user: &User, server: &Server) {
    user.must("run beside --image=busybox:1.28 --restart=Never -- sleep 1000000");
    user.must_become("--for=condition=Ready pod/beside", 20);
    user.must("exec beside -- true");
    for pod in ["reader", "version-3"] {
        let asked = Instant::now();
        user.must(&format!("delete pod {pod} --timeout={}s", GONE_WITHIN.as_secs()));
        println!("{pod} is gone {:.1?} after it was deleted", asked.elapsed());
    }
    let given_up = format!("the NFS server of {}:{EXPORT} does not answer, and what was not written", server.address());
    user.wait_for(&unkillable("version-3"), &given_up, user.limit(10));
    user.must("delete pod holds --wait=false");
    user.wait_for(&unkillable("holds"), "pods that stay on this node use the same file system", user.limit(10));
    let told = format!("mount failed: {}:{EXPORT}: no answer within 20 s", server.address());
    user.wait_for(&failed_mounts("late"), &told, user.limit(20));
    user.must_become("--for=condition=Ready pod/writer pod/made pod/looks", 5);
}

fn one_that_returns_has_everything(user: &User, server: &Server) {
    let written = || numbers(&server.file("numbers")).expect("each once and in order");
    let so_far = written();
    user.must_become("--for=delete pod/holds", 20);
    user.must_become("--for=condition=Ready pod/late", 20);
    user.wait("the writer to go on", user.limit(30), |_| written() > so_far + 10);
    println!("{} numbers, {so_far} of them when the server returned", written());
}

fn unkillable(pod: &str) -> String {
    format!("get events --field-selector=involvedObject.name={pod},reason=FailedKillPod")
}

fn failed_mounts(pod: &str) -> String {
    format!("get events --field-selector=involvedObject.name={pod},reason=FailedMount")
}
