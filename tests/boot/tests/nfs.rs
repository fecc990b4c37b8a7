//! NFS against a real server: pods of one board share its export, by versions 4.1 and 3, by hand and by a class.
//!
//! Start at [`pods_share_an_export`]. It is run by name, `cargo test -p boot --test nfs`, as root: it fetches the server.

use std::fs;

use boot::Bench;
use boot::nfs::{EXPORT, Server};
use image::qemu::Way;
use workloads::User;

const MANIFEST: &str = include_str!("../nfs.yaml");

#[test]
fn pods_share_an_export() {
    let mut bench = Bench::new("qemu-arm64", "nfs-test", 16452);
    let server = Server::start("nfs-test");
    bench.boot(Way::Direct);
    println!("Ready after {:.1?}", bench.is_ready());
    let user = bench.user();
    apply(&bench, &user, &MANIFEST.replace("SERVER", &server.address()));
    user.must_become("--for=condition=Ready pod/writer pod/reader pod/version-3 pod/made pod/looks", 30);
    an_export_is_shared(&user, &server);
    one_that_is_not_there_is_named(&user, &server);
    bench.shut_down();
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

fn failed_mounts(pod: &str) -> String {
    format!("get events --field-selector=involvedObject.name={pod},reason=FailedMount")
}
