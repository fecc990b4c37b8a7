//! NFS against a real server: pods of one board share its export, by versions 4.1 and 3, by hand and by a class, as the
//! documentation has it and otherwise; the server dies, and later falls silent, which holds up nobody but who needs it, and
//! returns, and has everything once.
//!
//! Start at [`pods_share_an_export`]. It is run by name, `cargo test -p boot --test nfs`, as root: it fetches the server.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use boot::Bench;
use boot::nfs::{EXPORT, Server, failed_mounts, numbers};
use image::qemu::Way;
use workloads::{User, nfs_is_shared};

const MANIFEST: &str = include_str!("../nfs.yaml");
/// A pod's grace here is a second. Its server is asked once more, and once to take what was written; all of it on an emulated board.
const GONE_WITHIN: Duration = Duration::from_secs(60);

/// A new pod's Event names a server that does not answer within this: a mount has 20 s, and the board is emulated.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

type Does = fn(&mut Server);

/// How a server goes away and returns, with the name of a pod that comes meanwhile. One that is killed refuses connections; one
/// that is silent takes what it is sent, and whoever asks it waits.
const AWAY: [(&str, Does, Does); 2] =
    [("killed", Server::kill, Server::restart), ("silent", |server| server.hang(true), |server| server.hang(false))];

#[test]
fn pods_share_an_export() {
    let mut bench = Bench::new("qemu-arm64", "nfs-test", 16452);
    let mut server = Server::start("nfs-test");
    bench.boot(Way::Direct);
    println!("Ready after {:.1?}", bench.is_ready());
    let user = bench.user();
    nfs_is_shared(&user, &server.address(), EXPORT);
    for (late, goes, returns) in AWAY {
        // Those that were deleted begin anew.
        apply(&bench, &user, &MANIFEST.replace("SERVER", &server.address()));
        user.must_become("--for=condition=Ready pod/writer pod/reader pod/version-3 pod/made pod/looks pod/holds", 30);
        if late == AWAY[0].0 {
            an_export_is_shared(&user, &server);
            one_that_is_not_there_is_named(&bench, &user, &server);
        }
        user.must("delete events --all");
        goes(&mut server);
        apply(&bench, &user, &server.pod(late, EXPORT));
        one_that_is_away_holds_up_only_who_needs_it(&user, &server, late);
        returns(&mut server);
        one_that_returns_has_everything(&user, &server, late);
    }
    what_a_class_made_goes_with_its_claim(&user, &server);
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
    // The one as its volume has it, the other as we have it: the server speaks 4.2, and would answer that with zeros.
    for pod in ["reader", "looks"] {
        assert!(mount(pod).contains("vers=4.1"), "{}", mount(pod));
    }
    user.refused("exec looks -- touch /mnt/greeting", "Read-only file system");
    let kept = fs::read_to_string(made(user, server).join("word")).expect("a directory for the claim");
    assert_eq!(kept.trim(), "kept");
}

/// The directory of the claim `made`.
fn made(user: &User, server: &Server) -> PathBuf {
    let volume = user.must("get pvc made -o jsonpath={.spec.volumeName}");
    server.file(&format!("default-made-{volume}"))
}

fn one_that_is_not_there_is_named(bench: &Bench, user: &User, server: &Server) {
    let none = server.none();
    apply(bench, user, &none.pod);
    user.wait_for(&failed_mounts("wrong"), &none.told, user.limit(20));
    user.must("delete pod wrong");
}

/// `late` came a moment ago.
fn one_that_is_away_holds_up_only_who_needs_it(user: &User, server: &Server, late: &str) {
    let came = Instant::now();
    user.must(&format!("run beside-{late} --image=busybox:1.28 --restart=Never -- sleep 1000000"));
    user.must_become(&format!("--for=condition=Ready pod/beside-{late}"), 20);
    user.must(&format!("exec beside-{late} -- true"));
    let told = format!("mount failed: {}:{EXPORT}: no answer within 20 s", server.address());
    user.wait_for(&failed_mounts(late), &told, TOLD_WITHIN.saturating_sub(came.elapsed()));
    println!("{late}: told {:.1?} after it came", came.elapsed());
    for pod in ["reader", "version-3"] {
        let asked = Instant::now();
        user.must(&format!("delete pod {pod} --timeout={}s", GONE_WITHIN.as_secs()));
        println!("{late}: {pod} is gone {:.1?} after it was deleted", asked.elapsed());
    }
    let given_up = format!("the NFS server of {}:{EXPORT} does not answer, and what was not written", server.address());
    user.wait_for(&unkillable("version-3"), &given_up, user.limit(10));
    user.must("delete pod holds --wait=false");
    user.wait_for(&unkillable("holds"), "pods that stay on this node use the same file system", user.limit(10));
    user.must_become("--for=condition=Ready pod/writer pod/made pod/looks", 5);
}

fn one_that_returns_has_everything(user: &User, server: &Server, late: &str) {
    let written = || numbers(&server.file("numbers")).expect("each once and in order");
    let so_far = written();
    user.must_become("--for=delete pod/holds", 20);
    user.must_become(&format!("--for=condition=Ready pod/{late}"), 20);
    user.wait("the writer to go on", user.limit(30), |_| written() > so_far + 10);
    println!("{late}: {} numbers, {so_far} of them when the server returned", written());
}

fn what_a_class_made_goes_with_its_claim(user: &User, server: &Server) {
    let (directory, volume) = (made(user, server), user.must("get pvc made -o jsonpath={.spec.volumeName}"));
    assert!(directory.is_dir(), "{}", directory.display());
    user.must("delete pod made");
    user.must("delete pvc made");
    user.must_become(&format!("--for=delete pv/{volume}"), 30);
    assert!(!directory.exists(), "{} is still there", directory.display());
}

fn unkillable(pod: &str) -> String {
    format!("get events --field-selector=involvedObject.name={pod},reason=FailedKillPod")
}
