//! The images for the Raspberry Pi: what lies on the card, and that it fits together. Nothing boots here.
//!
//! Start at [`the_card_of_a_raspberry_pi_3`]. The file systems are read by other programs than those that made them, and the
//! hash tree is checked by `veritysetup`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use boot::{board_and_binaries, turn};
use image::Tree;
use image::build::{Image, build};
use image::shell::{run, tool};
use slots::{Contents, Extent, Ledger, sector, table::Table};

const SECTOR: u64 = sector::BYTES as u64;
/// A device tree begins so, a script for U-Boot so, a packed kernel so.
const TREE: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];
const SCRIPT: [u8; 4] = [0x27, 0x05, 0x19, 0x56];
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Where an arm64 kernel says that it is one.
const KERNEL_MAGIC: std::ops::Range<usize> = 56..60;
/// And how much memory it takes, from the 2 MiB border that U-Boot moves it to.
const KERNEL_SIZE: std::ops::Range<usize> = 16..24;
const KERNEL_AT: u64 = 2 << 20;
/// The memory of the smallest board, less what graphics takes, and room for an initramfs.
const SMALLEST_BOARD: u64 = (512 - 128) << 20;

#[test]
fn the_card_of_a_raspberry_pi_3() {
    let _turn = turn();
    let firmware = ["bootcode.bin", "start_cd.elf", "fixup_cd.dat"];
    check("rpi3", &firmware, "bcm2837-rpi-3-b.dtb", "raspberrypi,3-model-b", "open");
}

#[test]
fn the_card_of_a_raspberry_pi_4() {
    let _turn = turn();
    check("rpi4", &["start4cd.elf", "fixup4cd.dat"], "bcm2711-rpi-4-b.dtb", "raspberrypi,4-model-b", "open");
}

/// Its own firmware is not on the card but in the board.
#[test]
fn the_card_of_a_raspberry_pi_5() {
    let _turn = turn();
    check("rpi5", &[], "bcm2712-rpi-5-b.dtb", "raspberrypi,5-model-b", "open");
}

#[test]
fn the_card_of_a_raspberry_pi_zero_2_w() {
    let _turn = turn();
    let firmware = ["bootcode.bin", "start_cd.elf", "fixup_cd.dat"];
    check("rpi-zero2w", &firmware, "bcm2837-rpi-zero-2-w.dtb", "raspberrypi,model-zero-2-w", "open");
}

/// As a Raspberry Pi 3, but for the watchdog that its emulation cannot play. And what is made twice is made alike.
#[test]
fn the_card_of_an_emulated_raspberry_pi_3() {
    let _turn = turn();
    let firmware = ["bootcode.bin", "start_cd.elf", "fixup_cd.dat"];
    let card = check("rpi3-qemu", &firmware, "bcm2837-rpi-3-b.dtb", "raspberrypi,3-model-b", "closed");
    let first = image::packages::sha256(&card.disk).unwrap();
    fs::remove_file(card.disk.with_file_name("inputs")).unwrap();
    let tree = Tree::ours();
    let (board, binaries) = board_and_binaries(&tree, "rpi3-qemu");
    let second = build(&tree, &board, &binaries, None).unwrap();
    assert!(!second.reused);
    assert_eq!(first, image::packages::sha256(&second.disk).unwrap(), "the same inputs give the same disk");
}

/// Builds the image for `board` and checks that its card holds `firmware` and the device tree of `model`.
fn check(board: &str, firmware: &[&str], devicetree: &str, model: &str, watchdog: &str) -> Image {
    let tree = Tree::ours();
    let (board, binaries) = board_and_binaries(&tree, board);
    let image = build(&tree, &board, &binaries, None).expect("the image builds");
    check_start(&image);
    check_firmware(&image, firmware, devicetree, model);
    check_slot(&image, model, watchdog);
    image
}

/// The partition table as the Pi reads it, and the ledger of a new disk.
fn check_start(image: &Image) {
    let table = Table::decode(&bytes(image, 0, 1).try_into().unwrap()).expect("a partition table");
    let first = table.partitions[0];
    assert_eq!((first.kind, first.boot, u64::from(first.at)), (0x0c, true, image.layout.part("firmware").at));
    assert!(table.partitions.iter().all(|partition| partition.sectors > 0), "{table:?}");
    let ledger = bytes(image, slots::store::PLACES[0], 1);
    assert_eq!(sector::decode(&ledger.try_into().unwrap()), Some(Ledger::new()));
}

/// The first partition: what the Pi's own firmware looks for by name, and what it is told to start.
fn check_firmware(image: &Image, firmware: &[&str], devicetree: &str, model: &str) {
    let inside = format!("{}@@{}", image.disk.display(), image.layout.part("firmware").at * SECTOR);
    let listed = run(tool("mdir").args(["-b", "-i", &inside, "::"])).unwrap();
    let names: BTreeSet<&str> = listed.lines().map(|line| line.trim_start_matches("::/")).collect();
    let ours = ["boot.cmd", "boot.scr", "config.txt", "skerry.toml", "u-boot.bin", devicetree];
    assert_eq!(names, firmware.iter().copied().chain(ours).collect());
    let folder = tempfile::tempdir().unwrap();
    run(tool("mcopy").args(["-i", &inside, "::*"]).arg(folder.path())).unwrap();
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let config = String::from_utf8(read("config.txt")).unwrap();
    // 16 MiB for graphics is what the cut-down firmware (`_cd`, `4cd`) is for; the kernel's own names of device trees.
    for line in ["arm_64bit=1", "kernel=u-boot.bin", "gpu_mem=16", "upstream_kernel=1", "enable_uart=1"] {
        assert!(config.lines().any(|each| each == line), "{line} is not in config.txt:\n{config}");
    }
    for elf in firmware.iter().filter(|name| name.ends_with(".elf")) {
        assert_eq!(read(elf)[..4], *b"\x7fELF");
    }
    assert!(read(devicetree).starts_with(&TREE) && holds(&read(devicetree), model), "{devicetree} is for {model}");
    let script = read("boot.scr");
    assert!(script.starts_with(&SCRIPT) && holds(&script, &String::from_utf8(read("boot.cmd")).unwrap()));
    assert!(holds(&read("u-boot.bin"), "U-Boot 20"));
}

/// The first slot: kernel, initramfs, device tree, and a root that the initramfs vouches for.
fn check_slot(image: &Image, model: &str, watchdog: &str) {
    let slot = image.layout.part("slot a").at;
    let contents = Contents::decode(&bytes(image, slot, 1).try_into().unwrap()).expect("slot a is whole");
    assert!(Contents::decode(&bytes(image, image.layout.part("slot b").at, 1).try_into().unwrap()).is_none());
    let read = |extent: Extent| bytes(image, slot + extent.at, extent.sectors);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let kernel = read(contents.kernel);
    assert_eq!(kernel[..2], GZIP);
    check_memory(image, &unpacked(&file("kernel.gz", &kernel)));
    let devicetree = read(contents.devicetree);
    assert!(devicetree.starts_with(&TREE) && holds(&devicetree, model));
    let initramfs = String::from_utf8_lossy(&read(contents.initramfs)).into_owned();
    let fact = |name: &str| initramfs.rsplit_once(&format!("\n{name} ")).unwrap().1.lines().next().unwrap().to_owned();
    assert_eq!(fact("watchdog"), watchdog);
    assert_eq!(fact("root_at").parse(), Ok(contents.root.at));
    let (root, hashes) = (file("root", &read(contents.root)), file("hashes", &read(contents.hashes)));
    run(tool("veritysetup")
        .args(["verify", "--no-superblock", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096"])
        .arg(format!("--salt={}", fact("salt")))
        .args([&root, &hashes])
        .arg(fact("root_hash").trim()))
    .expect("the initramfs vouches for the root");
    let listed = run(tool("unsquashfs").arg("-l").arg(&root)).unwrap();
    for name in ["sbin/skerry-init", "bin/skerry", "etc/skerry/services", "etc/skerry/board"] {
        assert!(listed.contains(name), "{name} is not in the root");
    }
    let told = run(tool("unsquashfs").arg("-cat").args([&root, Path::new("etc/skerry/board")])).unwrap();
    let loaded = told.lines().find_map(|line| line.strip_prefix("modules ")).expect("what is loaded at each boot");
    for module in ["bcm2835_thermal", "bcm2711_thermal"] {
        assert!(listed.contains(&format!("/{module}.ko")) && loaded.contains(module), "{module} is not in {loaded}");
    }
}

/// U-Boot reads each part where no other comes to lie: the kernel at the beginning of memory grows when it is unpacked.
fn check_memory(image: &Image, kernel: &[u8]) {
    assert_eq!(kernel[KERNEL_MAGIC], *b"ARM\x64");
    let size = u64::from_le_bytes(kernel[KERNEL_SIZE].try_into().unwrap());
    let script = fs::read_to_string(image.disk.with_file_name("firmware.files").join("boot.cmd")).unwrap();
    let address = |name: &str| {
        let (_, after) =
            script.split_once(&format!("setenv {name} 0x")).unwrap_or_else(|| panic!("no {name} in {script}"));
        u64::from_str_radix(after.split([';', '\n']).next().unwrap(), 16).unwrap()
    };
    let (unpacked_at, room) = (address("kernel_comp_addr_r"), address("kernel_comp_size"));
    let (devicetree, initramfs) = (address("fdt_addr_r"), address("ramdisk_addr_r"));
    assert!(KERNEL_AT + size <= unpacked_at, "a kernel of {size} bytes reaches what it is unpacked to");
    assert!(kernel.len() as u64 <= room && unpacked_at + room <= devicetree, "it is unpacked over the device tree");
    assert!(devicetree + (1 << 20) <= initramfs && initramfs < SMALLEST_BOARD);
}

/// What the disk holds, `sectors` from sector `at` on.
fn bytes(image: &Image, at: u64, sectors: u64) -> Vec<u8> {
    let mut disk = File::open(&image.disk).unwrap();
    let mut bytes = vec![0; usize::try_from(sectors * SECTOR).unwrap()];
    disk.seek(SeekFrom::Start(at * SECTOR)).and_then(|_| disk.read_exact(&mut bytes)).unwrap();
    bytes
}

/// What a packed file holds. What follows it up to the end of a sector is no matter, to U-Boot neither.
fn unpacked(file: &Path) -> Vec<u8> {
    tool("gzip").args(["-dcq"]).arg(file).output().unwrap().stdout
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
