//! The arm64 image in QEMU: to Ready, through a power cut, and back from a bad slot.
//!
//! Start at [`boots_to_ready_and_survives_a_power_cut`]. Each test prints its times.

use boot::Bench;
use image::qemu::Way;
use slots::{Ledger, Move, Name, sector};

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

#[test]
fn a_slot_that_fails_is_left_for_the_one_that_worked() {
    let mut bench = Bench::new("qemu-arm64", "slot-test", 16444);
    bench.copy_slot();
    let trial =
        Ledger::new().apply(Name::B, Move::Stage).and_then(|ledger| ledger.apply(Name::B, Move::Try { tries: 1 }));
    let trial = trial.expect("a staged slot can be tried");
    bench.change_sector(slots::store::PLACES[1], |bytes| *bytes = sector::encode(&trial));
    // One wrong byte in the root: the hash tree must notice.
    bench.change_sector(bench.start_of("slot b") + bench.root_in_slot(), |bytes| bytes[0] ^= 1);
    bench.boot(Way::Loader);
    bench.hears("slot b on trial");
    bench.hears("cannot boot");
    bench.hears("used up its tries, returning to a");
    let back = bench.hears("server started");
    println!("back in the good slot after {back:.1?}");
}
