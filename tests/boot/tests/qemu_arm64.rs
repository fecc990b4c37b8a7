//! The arm64 image in QEMU: to Ready, the documentation's workloads inside it, through a power cut, and all of them again.
//!
//! On the way somebody writes a wrong setting on the boot partition: it is told, and the board boots all the same. In the end a
//! backup of it all makes a blank board the same cluster.
//!
//! Start at [`boots_to_ready_and_survives_a_power_cut`]. It prints what held and how long it took, what boots take beside the
//! bare kernel's, and what our processes hold; `cargo run --release -p boot -- figures` measures these with more patience.

use std::path::Path;

use boot::Bench;
use boot::inside::Inside;
use image::flash::Said;
use image::qemu::Way;
use workloads::{Break, Report, check_again, chosen, run_all};

/// The machine has two processors, and each step of a scenario keeps one of them busy for a while.
const SIDE_BY_SIDE: usize = 6;
/// Twice what is promised: the two boots are one measurement each, and the machine that emulates does other things too.
/// A name for what is on the card, which is damaged at first.
const DAMAGED: &str = "mine.backup";
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
    bench.write_settings(
        "# a person's\r\nhostnam = \"x\"\r\nlink = \"eth0\"\r\nlabels = { room = \"kitchen\" }\r\n\x1a",
    );

    let bare = bench.bare_kernel();
    bench.boot(Way::Direct);
    let second = bench.is_ready();
    let times = second.as_secs_f64() / bare.as_secs_f64();
    println!("second boot: Ready after {second:.1?}, {times:.1} times the bare kernel's {bare:.1?}; the promise is 4");
    let word = user.must("get configmap kept -o jsonpath={.data.word}");
    assert_eq!(word, "kept", "what was acknowledged survives a power cut");
    assert_eq!(user.must("get nodes -l room=kitchen -o name"), "node/skerry\n", "the label of the settings is there");
    let again = check_again(&user, &report, Break::PowerCut, SIDE_BY_SIDE);
    println!("after the power cut:\n{again}");
    assert!(again.holds(), "{again}\n{}", bench.last_lines());
    let memory = Inside::enter(&user).memory();
    println!("memory:\n{}", memory.against(64));
    let wrong = "skerry.toml:2: there is no setting hostnam; hostname is meant, perhaps";
    assert!(bench.console().contains(wrong), "a wrong setting is told on the console\n{}", bench.last_lines());
    let backup = bench.back_up();
    let told = bench.settings_report().expect("a wrong setting is told beside it");
    assert!(told.ends_with(&format!("\r\n{wrong}\r\n")), "{told:?}");
    a_blank_board_becomes_the_cluster_of_a_backup(&mut bench, &backup, &again);
    assert!(times <= TIMES_BARE_MAX, "{times:.1} times the bare kernel's boot is too much");
    assert!(memory.ours() <= MEMORY_MIB_MAX, "our processes hold too much:\n{}", memory.against(64));
}

/// First with a damaged file, which is told and changes nothing; the right one, put in its place, makes every workload run.
fn a_blank_board_becomes_the_cluster_of_a_backup(bench: &mut Bench, backup: &Path, report: &Report) {
    let damaged = backup.with_file_name(DAMAGED);
    let mut bytes = std::fs::read(backup).expect("it can be read");
    let half = bytes.len() / 2;
    bytes[half] ^= 1;
    std::fs::write(&damaged, bytes).expect("it can be written");
    let lines = vec![("restore_volumes", "/".to_owned())];
    bench.become_blank(&Said { restore: Some(damaged), lines, ..Said::default() });
    bench.boot(Way::Direct);
    bench.hears(" services, boot ");
    bench.shut_down();
    let wrong = format!(
        "restore cannot be done, the board starts no cluster and joins none: failed to restore to /data/skerry: /run/boot/{DAMAGED} is damaged"
    );
    assert!(bench.console().contains(&wrong), "a damaged backup is told\n{}", bench.last_lines());
    assert!(!bench.console().contains("server started"), "and nothing takes its place\n{}", bench.last_lines());
    let told = bench.settings_report().expect("it is told beside the settings");
    assert!(told.contains(&wrong), "{told:?}");

    bench.put_on_card(backup, DAMAGED);
    bench.boot(Way::Direct);
    println!("a blank board is Ready {:.1?} after it was switched on", bench.is_ready());
    let restored = check_again(&bench.user(), report, Break::NewBoard, SIDE_BY_SIDE);
    println!("on a blank board:\n{restored}");
    assert!(restored.holds(), "{restored}\n{}", bench.last_lines());
    bench.shut_down();
    assert_eq!(bench.settings_report(), None, "all is well");
    bench.has_volume();
}
