//! What a kernel alone takes to its first program: the measure of our own boots.
//!
//! Start at [`boot`]: the same kernel on the same machine with a busybox initramfs, whose /init prints a line and powers off.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use board::Board;
use image::build::Image;
use image::cpio::Archive;
use image::preload;
use image::qemu::{Files, Machine};

/// Emulated, on two busy cores.
const WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LINE: &str = "bare kernel: the first program runs";
const INIT: &str = "#!/busybox sh\n/busybox echo 'bare kernel: the first program runs'\n/busybox poweroff -f\n";

/// Boots it once in `folder`; the time from switching on to the first program's line. `images` is an archive with a busybox.
pub fn boot(board: &Board, image: &Image, images: &Path, folder: &Path) -> Duration {
    fs::create_dir_all(folder).expect("a folder for the bare kernel");
    let initramfs = folder.join("initramfs");
    fs::write(&initramfs, initramfs_of(board, images)).expect("the initramfs is written");
    let files = Files::in_folder(folder);
    // A machine is known by its disk.
    fs::write(&files.disk, [0; 512]).expect("a disk");
    let begun = Instant::now();
    let machine = Machine::start(&files, &words(board, image, &files, &initramfs)).expect("QEMU starts");
    let said = || fs::read(&files.console).is_ok_and(|said| String::from_utf8_lossy(&said).contains(LINE));
    while !said() {
        assert!(begun.elapsed() < WITHIN, "the bare kernel said nothing within {WITHIN:?}");
        std::thread::sleep(LOOK_EVERY);
    }
    let took = begun.elapsed();
    let _ended_by_itself = machine.cut_power();
    took
}

fn initramfs_of(board: &Board, images: &Path) -> Vec<u8> {
    let images = preload::read(images, board.architecture.name()).expect("the test images can be read");
    let busybox = preload::file(&images, "usr/bin/busybox").expect("a test image has busybox");
    let mut archive = Archive::default();
    archive.folder("dev");
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("busybox", 0o755, &busybox);
    archive.file("init", 0o755, INIT.as_bytes());
    archive.finish()
}

fn words(board: &Board, image: &Image, files: &Files, initramfs: &Path) -> Vec<String> {
    let qemu = board.qemu.as_ref().expect("QEMU plays the board");
    let machine = format!(
        "-machine {} -cpu {} -smp {} -m {} -accel tcg,thread=multi -display none -monitor none -nodefaults -no-reboot",
        qemu.machine, qemu.cpu, qemu.cpus, qemu.memory_mib
    );
    let mut words = vec![image::host::qemu(board.architecture).0.to_owned()];
    words.extend(machine.split(' ').map(str::to_owned));
    words.extend(["-serial".to_owned(), format!("file:{}", files.console.display())]);
    words.extend(["-drive".to_owned(), format!("file={},if=none,id=disk,format=raw", files.disk.display())]);
    words.extend(["-kernel".to_owned(), image.kernel.display().to_string()]);
    words.extend(["-initrd".to_owned(), initramfs.display().to_string()]);
    words.extend(["-append".to_owned(), board.command_line.clone()]);
    words
}
