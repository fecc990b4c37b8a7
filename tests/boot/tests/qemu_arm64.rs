//! The arm64 image in QEMU: to Ready, the documentation's workloads inside it, through a power cut, and all of them again.
//!
//! On the way somebody writes a wrong setting on the boot partition: it is told, and the board boots all the same.
//!
//! Start at [`boots_to_ready_and_survives_a_power_cut`]. It prints what held and how long it took, what boots take beside the
//! bare kernel's, and what our processes hold; `cargo run --release -p boot -- figures` measures these with more patience.

use boot::Bench;
use boot::inside::Inside;
use image::qemu::Way;
use workloads::{Break, check_again, chosen, run_all};

/// The machine has two processors, and each step of a scenario keeps one of them busy for a while.
const SIDE_BY_SIDE: usize = 6;
/// Twice what is promised: the two boots are one measurement each, and the machine that emulates does other things too.
const TIMES_BARE_MAX: f64 = 8.0;
const MEMORY_MIB_MAX: f64 = 64.0;

#[test]
fn boots_to_ready_and_survives_a_power_cut() {
    let mut bench = Bench::new("qemu-arm64", "boot-test", 16443);
    bench.boot(Way::Direct);
    let first = bench.is_ready();
    println!("first boot: Ready after {first:.1?}");
    let user = bench.user();
    let report = run_all(&user, &chosen(), SIDE_BY_SIDE);
    println!("inside the booted image:\n{report}");
    assert!(report.holds(), "{report}\n{}", bench.last_lines());
    user.must("create configmap kept --from-literal=word=kept");
    bench.cut_power();
    bench.write_settings("# a person's\r\nhostnam = \"x\"\r\nlink = \"eth0\"\r\n\x1a");

    let bare = bench.bare_kernel();
    bench.boot(Way::Direct);
    let second = bench.is_ready();
    let times = second.as_secs_f64() / bare.as_secs_f64();
    println!("second boot: Ready after {second:.1?}, {times:.1} times the bare kernel's {bare:.1?}; the promise is 4");
    let word = user.must("get configmap kept -o jsonpath={.data.word}");
    assert_eq!(word, "kept", "what was acknowledged survives a power cut");
    let again = check_again(&user, &report, Break::PowerCut, SIDE_BY_SIDE);
    println!("after the power cut:\n{again}");
    assert!(again.holds(), "{again}\n{}", bench.last_lines());
    let memory = Inside::enter(&user).memory();
    println!("memory:\n{}", memory.against(64));
    let wrong = "skerry.toml:2: there is no setting hostnam; hostname is meant, perhaps";
    assert!(bench.console().contains(wrong), "a wrong setting is told on the console\n{}", bench.last_lines());
    bench.shut_down();
    let report = bench.settings_report().expect("a wrong setting is told beside it");
    assert!(report.ends_with(&format!("\r\n{wrong}\r\n")), "{report:?}");
    assert!(times <= TIMES_BARE_MAX, "{times:.1} times the bare kernel's boot is too much");
    assert!(memory.ours() <= MEMORY_MIB_MAX, "our processes hold too much:\n{}", memory.against(64));
}
