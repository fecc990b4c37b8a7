//! The arm64 image in QEMU: to Ready, and through a power cut.
//!
//! Start at [`boots_to_ready_and_survives_a_power_cut`]. Each test prints its times.

use boot::Bench;
use image::qemu::Way;

/// The first line of PID 1: a bare kernel's boot ends here.
const FIRST_LINE: &str = "skerry: kernel ";

#[test]
fn boots_to_ready_and_survives_a_power_cut() {
    let mut bench = Bench::new("qemu-arm64", "boot-test", 16443);
    bench.boot(Way::Direct);
    let (bare, ready) = (bench.hears(FIRST_LINE), bench.is_ready());
    println!("first boot: userspace after {bare:.1?}, Ready after {ready:.1?}");
    bench.kubectl(&["create", "configmap", "kept", "--from-literal=word=kept"]);
    bench.kubectl(&["create", "deployment", "hello", "--image=busybox:1.28", "--", "sleep", "3600"]);
    bench.kubectl(&["wait", "--for=condition=Available", "deployment/hello", "--timeout=60s"]);
    assert_eq!(bench.kubectl(&["exec", "deployment/hello", "--", "echo", "hello"]), "hello\n");
    bench.cut_power();

    bench.boot(Way::Direct);
    let (bare, ready) = (bench.hears(FIRST_LINE), bench.is_ready());
    let times = ready.as_secs_f64() / bare.as_secs_f64();
    println!("second boot: userspace after {bare:.1?}, Ready after {ready:.1?}: {times:.1} times the bare kernel's");
    let word = bench.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.word}"]);
    assert_eq!(word, "kept", "what was acknowledged survives a power cut");
    bench.kubectl(&["wait", "--for=condition=Available", "deployment/hello", "--timeout=60s"]);
    bench.shut_down();
}
