//! The Raspberry Pi 3 as QEMU's `raspi3b` plays it: from the kernel to an API that answers, by the board's own card and network.
//!
//! Start at [`a_raspberry_pi_3_boots_until_its_api_answers`]. It is run by name, `cargo test -p boot --test raspi3b`: four
//! emulated processors and a card that is read word by word make it slow.
//!
//! Not here: the boot through U-Boot, which takes minutes to read the kernel; the card's contents (`raspberry_pi.rs`); what the
//! cluster says, whose kubeconfig this board has no port to hand out by.

use boot::Bench;
use image::qemu::Way;

#[test]
fn a_raspberry_pi_3_boots_until_its_api_answers() {
    let mut bench = Bench::new("rpi3-qemu", "raspi3b-test", 16462);
    bench.boot(Way::Direct);
    println!("the API answers after {:.1?}", bench.hears("healthy: 127.0.0.1:6443 answers"));
    // The card is found some seconds after its driver, at times after the ten that services wait for an address.
    bench.hears("eth0 is 10.0.2.15/24 by DHCP");
    let console = bench.console();
    let failed: Vec<&str> =
        console.lines().filter(|line| line.contains("FAILED") && !line.contains("network    FAILED")).collect();
    assert!(console.contains("loaded, others as they are needed") && failed.is_empty(), "{failed:?}\n{console}");
    bench.cut_power();
}
