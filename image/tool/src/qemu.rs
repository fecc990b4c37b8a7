//! QEMU: its command line for a board, and the machine while it runs.
//!
//! Start at [`command_line`], a value; [`Machine`] starts and ends one.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use board::{Board, Loader, Wiring};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::build::Image;
use crate::error::{Doing, Result, wrong};
use crate::host;
use crate::shell::{run, tool};

/// An orderly end takes so long at most; after that it is a power cut.
const ENDS_WITHIN: Duration = Duration::from_secs(25);
/// Of the names QEMU's ports have in the machine.
const KUBECONFIG_PORT: &str = "skerry.kubeconfig";
const ORDERS_PORT: &str = "skerry.orders";

/// How a machine is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By its boot loader, from the disk alone, as a board does.
    Loader,
    /// The kernel of the slot directly: a few seconds faster.
    Direct,
}

/// The files of a machine.
#[derive(Clone, Debug)]
pub struct Files {
    /// Its disk.
    pub disk: PathBuf,
    /// What its console said.
    pub console: PathBuf,
    /// What it handed out.
    pub kubeconfig: PathBuf,
    /// Where it takes orders.
    pub orders: PathBuf,
    /// The number of its process.
    pub pid: PathBuf,
}

impl Files {
    /// The files of a machine that lives in `folder`.
    pub fn in_folder(folder: &Path) -> Files {
        let at = |name: &str| folder.join(name);
        Files {
            disk: at("disk.img"),
            console: at("console.log"),
            kubeconfig: at("handed-out"),
            orders: at("orders.sock"),
            pid: at("qemu.pid"),
        }
    }
}

/// What a machine is connected to, beside the world by QEMU's own network.
#[derive(Clone, Debug, Default)]
pub struct Wires {
    /// The port of this machine that leads to the API in it.
    pub api_port: Option<u16>,
    /// A cable between machines, as a second network card.
    pub lan: Option<Lan>,
    /// Where every write and every flush of its disk is recorded, in the form of the kernel's dm-log-writes.
    pub record: Option<PathBuf>,
    /// Its disk takes no writes, as cards do at their end.
    pub worn_out: bool,
}

impl Wires {
    /// A machine alone.
    pub fn alone(api_port: u16) -> Wires {
        Wires { api_port: Some(api_port), ..Wires::default() }
    }

    fn first_card(&self) -> String {
        let forward = self.api_port.map(|port| format!(",hostfwd=tcp:127.0.0.1:{port}-:6443"));
        format!("-netdev user,id=net{}", forward.unwrap_or_default())
    }
}

/// A cable between machines: what one sends, all others with the same number hear. It stays on this machine's loopback.
#[derive(Clone, Copy, Debug)]
pub struct Lan {
    /// The cable's number, a port that nobody else uses.
    pub number: u16,
    /// The machine's own number on it.
    pub station: u8,
}

/// The command line, its first word the program.
pub fn command_line(board: &Board, image: &Image, files: &Files, wires: &Wires, way: Way) -> Result<Vec<String>> {
    let qemu = board.qemu.as_ref().ok_or_else(|| wrong(format_args!("QEMU does not play the board {}", board.name)))?;
    let mut words = vec![host::qemu(board.architecture).0.to_owned()];
    let mut add = |line: &str| words.extend(line.split(' ').map(str::to_owned));
    add(&format!("-machine {} -cpu {} -smp {} -m {}", qemu.machine, qemu.cpu, qemu.cpus, qemu.memory_mib));
    add("-accel tcg,thread=multi -display none -monitor none");
    if qemu.wiring == Wiring::Virtio {
        add(&format!("-nodefaults -serial file:{}", files.console.display()));
        add(&disk(&files.disk, wires));
        add("-device virtio-blk-pci,drive=disk");
        add(&format!("{} -device virtio-net-pci,netdev=net,romfile=", wires.first_card()));
        if let Some(Lan { number, station }) = wires.lan {
            add(&format!("-netdev socket,id=lan,mcast=230.0.0.77:{number},localaddr=127.0.0.1"));
            add(&format!("-device virtio-net-pci,netdev=lan,mac=52:54:00:5e:77:{station:02x},romfile="));
        }
        add("-device virtio-serial-pci");
        add(&format!("-chardev file,id=kubeconfig,path={}", files.kubeconfig.display()));
        add(&format!("-device virtserialport,chardev=kubeconfig,name={KUBECONFIG_PORT}"));
        add(&format!("-chardev socket,id=orders,path={},server=on,wait=off", files.orders.display()));
        add(&format!("-device virtserialport,chardev=orders,name={ORDERS_PORT}"));
    } else {
        // The console is the second serial port.
        add(&format!("-serial null -serial file:{}", files.console.display()));
        add(&format!("-drive file={},if=sd,format=raw", files.disk.display()));
        add(&format!("{} -device usb-net,netdev=net", wires.first_card()));
    }
    words.extend(qemu.devices.iter().cloned());
    match way {
        Way::Loader => {
            let loader = image.loader.as_ref().ok_or_else(|| wrong("the image was made without what QEMU starts"))?;
            let loader = loader.display();
            words.extend(match (&board.loader, qemu.wiring) {
                // Flash that forgets: a firmware without any keeps what it remembers on our first partition.
                (Loader::Uefi, _) => ["-drive".to_owned(), format!("if=pflash,format=raw,snapshot=on,file={loader}")],
                (Loader::UBoot { .. }, Wiring::Virtio) => ["-bios".to_owned(), loader.to_string()],
                // A board's own firmware starts U-Boot as a kernel, and QEMU has none of that.
                (Loader::UBoot { .. }, Wiring::Onboard) => ["-kernel".to_owned(), loader.to_string()],
            });
            // Where the Pi's own firmware hands U-Boot the device tree: without one it says nothing at all.
            words.extend(devicetree(image));
        }
        Way::Direct => {
            words.extend(["-kernel".to_owned(), image.kernel.display().to_string()]);
            words.extend(["-initrd".to_owned(), image.initramfs.display().to_string()]);
            words.extend(devicetree(image));
            words.extend(["-append".to_owned(), format!("{} skerry.slot=a", board.command_line)]);
        }
    }
    Ok(words)
}

/// The machine's disk, a device of ours named `disk`. What is recorded is written to the disk as well.
fn disk(disk: &Path, wires: &Wires) -> String {
    let disk = disk.display();
    match &wires.record {
        None => {
            let end = if wires.worn_out { ",readonly=on" } else { "" };
            format!("-drive file={disk},if=none,id=disk,format=raw,cache=writeback{end}")
        }
        Some(record) => format!(
            "-blockdev driver=blklogwrites,node-name=disk,file.driver=file,file.filename={disk},log.driver=file,log.filename={}",
            record.display()
        ),
    }
}

fn devicetree(image: &Image) -> Vec<String> {
    image.devicetree.iter().flat_map(|file| ["-dtb".to_owned(), file.display().to_string()]).collect()
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    files: Files,
    pid: Pid,
}

impl Machine {
    /// The machine that runs with these files, where one does.
    pub fn running(files: &Files) -> Option<Machine> {
        let pid: i32 = fs::read_to_string(&files.pid).ok()?.trim().parse().ok()?;
        // A number may belong to somebody else by now: its command line must name our disk.
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let ours = String::from_utf8_lossy(&words).contains(&*files.disk.to_string_lossy());
        ours.then(|| Machine { files: files.clone(), pid: Pid::from_raw(pid) })
    }

    /// Starts one; it outlives this program.
    pub fn start(files: &Files, words: &[String]) -> Result<Machine> {
        let (program, words) = words.split_first().ok_or_else(|| wrong("no command line for a machine"))?;
        for file in [&files.kubeconfig, &files.console, &files.pid, &files.orders] {
            let _absent = fs::remove_file(file);
        }
        run(tool(program).args(words).arg("-daemonize").arg("-pidfile").arg(&files.pid))?;
        Machine::running(files).ok_or_else(|| wrong("QEMU ended at once"))
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        Machine::running(&self.files).is_some()
    }

    /// Asks it to go down and waits; pulls the plug if it does not.
    pub fn shut_down(self) -> Result<()> {
        // Held until it is off: QEMU keeps what was said for a machine that does not listen yet as long as we stay.
        let asked =
            UnixStream::connect(&self.files.orders).and_then(|mut port| port.write_all(b"off\n").map(|()| port));
        let began = Instant::now();
        while asked.is_ok() && self.is_running() && began.elapsed() < ENDS_WITHIN {
            std::thread::sleep(Duration::from_millis(50));
        }
        if self.is_running() { self.cut_power() } else { Ok(()) }
    }

    /// Pulls the plug.
    pub fn cut_power(self) -> Result<()> {
        kill(self.pid, Signal::SIGKILL)
            .map_err(std::io::Error::from)
            .doing(format_args!("end process {}", self.pid))?;
        while self.is_running() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _absent = fs::remove_file(&self.files.pid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tree;
    use crate::layout::{Artifacts, plan};

    fn words(board: &str, way: Way) -> Vec<String> {
        let board = board::read(&Tree::ours().boards(), board).unwrap();
        let image = Image {
            disk: "disk".into(),
            layout: plan(&board, &Artifacts::example()).unwrap(),
            kernel: "kernel".into(),
            initramfs: "initramfs".into(),
            devicetree: (!board.devicetree.is_empty()).then(|| "tree".into()),
            loader: Some("loader".into()),
            inputs: String::new(),
            reused: false,
        };
        command_line(&board, &image, &Files::in_folder(Path::new("/machine")), &Wires::alone(6443), way).unwrap()
    }

    /// Whether a board's machine is given a device tree by us.
    fn check(board: &str, way: Way, expected: bool) {
        let words = words(board, way);
        assert_eq!(words.windows(2).any(|pair| pair == ["-dtb", "tree"]), expected, "{words:?}");
    }

    #[test]
    fn a_machine_is_played_by_the_qemu_of_its_processor() {
        for (board, program, started_with) in [
            ("qemu-arm64", "qemu-system-aarch64", ["-bios", "loader"]),
            ("qemu-x86_64", "qemu-system-x86_64", ["-drive", "if=pflash,format=raw,snapshot=on,file=loader"]),
            ("rpi3-qemu", "qemu-system-aarch64", ["-kernel", "loader"]),
        ] {
            let words = words(board, Way::Loader);
            assert_eq!(words[0], program);
            assert!(words.windows(2).any(|pair| pair == started_with), "{board}: {words:?}");
        }
    }

    #[test]
    fn a_raspberry_pi_is_given_its_device_tree_either_way() {
        check("rpi3-qemu", Way::Loader, true);
        check("rpi3-qemu", Way::Direct, true);
        check("qemu-arm64", Way::Loader, false);
    }
}
