//! Trials of a slot, and what the data partition may do to a machine: through its boot loader, as a board boots.
//!
//! Start at [`slots_are_tried_and_data_is_never_given_up`]: one machine, because each boot of an emulated one takes time.

use boot::{Bench, board};
use image::qemu::Way;
use slots::{Cause, Name, Slot};

/// Modules of the initramfs are loaded in the order of their names.
const LAST_MODULE: &str = "modules/zz-never-comes";
const PIPE: u32 = 0o010_644;
/// Of what is written while the disk is full: too much for what the store's file happens to have room for.
const LARGE_BYTES: usize = 900 << 10;
/// Of the data partition, in sectors: the superblock, and as much as is compared.
const SUPERBLOCK_AT: u64 = 2;
const COMPARED: u64 = 16 << 11;

#[test]
fn slots_are_tried_and_data_is_never_given_up() {
    let mut bench = Bench::new(&board(), "slot-test", 16444);
    bench.shrink_disk();
    a_trial_that_cannot_be_counted_is_not_booted(&mut bench);
    a_root_with_a_wrong_byte_is_left(&mut bench);
    a_boot_that_hangs_is_bitten(&mut bench);
    a_slot_that_works_is_confirmed(&mut bench);
    a_full_disk_keeps_nobody_from_writing_to_the_cluster(&mut bench);
    a_damaged_data_partition_is_named_and_left_alone(&mut bench);
}

fn a_trial_that_cannot_be_counted_is_not_booted(bench: &mut Bench) {
    bench.try_copy(&[], 1);
    bench.boot_worn_out(Way::Loader);
    bench.hears("the ledger cannot be written, so nothing is tried and slot a is booted");
    bench.hears("booting slot a");
    bench.cut_power();
    assert_eq!(bench.ledger().spare, Slot::Trying { tries_left: 1 });
}

fn a_root_with_a_wrong_byte_is_left(bench: &mut Bench) {
    bench.try_copy(&[], 1);
    let root = bench.start_of("slot b") + bench.root_in_slot();
    let mut bytes = bench.read(root, 1);
    bytes[0] ^= 1;
    bench.write(root, &bytes);
    bench.boot(Way::Loader);
    bench.hears("slot b on trial");
    bench.hears("cannot boot");
    bench.hears("used up its tries, returning to a");
    println!("back from a root that fails after {:.1?}", bench.hears("server started"));
    bench.cut_power();
}

/// Opening a named pipe that nobody writes to waits for ever: PID 1 hangs as with a driver that does.
fn a_boot_that_hangs_is_bitten(bench: &mut Bench) {
    bench.try_copy(&archive_of_pipe(LAST_MODULE), 1);
    bench.boot(Way::Loader);
    bench.hears("slot b on trial");
    bench.hears("Linux 6.12");
    println!("a boot that hangs is bitten after {:.1?}", bench.hears("used up its tries, returning to a"));
    assert!(!bench.console().contains("cannot boot"), "it was the watchdog");
    bench.cut_power();
}

fn a_slot_that_works_is_confirmed(bench: &mut Bench) {
    bench.try_copy(&[], 1);
    bench.boot(Way::Loader);
    bench.hears("slot b on trial");
    println!("a slot that works is confirmed after {:.1?}", bench.hears("slot b is confirmed"));
    bench.restart();
    bench.hears_times("booting slot b", 2);
    bench.hears("healthy: ");
    assert_eq!(bench.console().matches("on trial").count(), 1, "b is what boots from now on");
}

/// A pod takes all it can get; the cluster's own reserve is not among that.
fn a_full_disk_keeps_nobody_from_writing_to_the_cluster(bench: &mut Bench) {
    bench.is_ready();
    let fill = "n=64; while [ $n -gt 0 ]; do fallocate -l ${n}M /$n || n=$((n / 2)); n=$((n - 1)); done; \
                dd if=/dev/zero of=/rest bs=4k; sync; echo full; sleep 3600";
    bench.kubectl(&["run", "filler", "--image=busybox:1.28", "--", "sh", "-c", fill]);
    bench.kubectl(&["wait", "--for=condition=Ready", "pod/filler", "--timeout=60s"]);
    bench.waits_for("full", || bench.kubectl(&["logs", "filler"]).contains("full"));
    let said = bench.kubectl(&["logs", "filler"]);
    assert!(said.contains("No space left on device"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large");
    std::fs::write(&large, "x".repeat(LARGE_BYTES)).unwrap();
    for name in ["one", "two", "three", "four"] {
        bench.kubectl(&["create", "configmap", name, &format!("--from-file={}", large.display())]);
    }
    bench.kubectl(&["delete", "pod", "filler", "--grace-period=1"]);
    bench.kubectl(&["create", "configmap", "again", "--from-literal=when=later"]);
    bench.shut_down();
    let ledger = bench.ledger();
    assert_eq!((ledger.active, ledger.spare, ledger.cause), (Name::B, Slot::Good, Cause::Confirmed));
}

fn a_damaged_data_partition_is_named_and_left_alone(bench: &mut Bench) {
    let data = bench.start_of("data");
    let mut superblock = bench.read(data + SUPERBLOCK_AT, 2);
    superblock[200] ^= 1;
    bench.write(data + SUPERBLOCK_AT, &superblock);
    let before = bench.read(data, COMPARED);
    bench.boot(Way::Loader);
    let told = bench.hears("no service is started, because the data partition cannot be used");
    println!("a damaged data partition is told of after {told:.1?}");
    let console = bench.console();
    assert!(console.contains("failed to mount the data partition /dev/vda4 (its superblock is damaged"), "{console}");
    bench.shut_down();
    assert!(bench.read(data, COMPARED) == before, "nothing was written to what could not be understood");
}

/// An archive as the kernel reads one after another, of one named pipe.
fn archive_of_pipe(path: &str) -> Vec<u8> {
    let entry = |path: &str, mode: u32| {
        let fields = [0, mode, 0, 0, 1, 0, 0, 0, 0, 0, 0, path.len() as u32 + 1, 0];
        let header: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        let mut bytes = format!("070701{header}{path}\0").into_bytes();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    [entry(path, PIPE), entry("TRAILER!!!", 0)].concat()
}
