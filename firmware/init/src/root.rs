//! The second half of booting, in the verified root: file systems, data, network, watchdog; then the services.
//!
//! Start at [`PHASES`].

use std::convert::Infallible;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::sleep;
use std::time::Duration;

use base::chain;
use nix::mount::{MsFlags, mount};
use settings::Settings;
use slots::Name;
use sys::namespace::set_sysctl;

use crate::card::{self, Offer};
use crate::console::say;
use crate::data::{self, DATA};
use crate::disk::{Disk, read_table};
use crate::facts::{Facts, Service, published, services};
use crate::network::{self, Keeper, Learnt, News};
use crate::phase::{Doing, Error, Phase, run_all};
use crate::power;
use crate::supervise;
use crate::watchdog::{BOOTING_S, GOING_DOWN_S, RUNNING_S, Watchdog};
use crate::{clock, modprobe, once, trial};

const BOARD: &str = "/etc/skerry/board";
const SERVICES: &str = "/etc/skerry/services";
const PUBLISHED: &str = "/etc/skerry/published";
/// A disk that fails now may answer after it was reset.
const DATA_TRIES: usize = 3;
const DATA_PAUSE: Duration = Duration::from_secs(2);
/// A first address usually comes sooner: cables take three seconds to be noticed, and servers a moment to answer.
const ADDRESS_WITHIN: Duration = Duration::from_secs(10);
/// What those programs say that run once.
const ONCE: &str = "/run/skerry/once";
/// What waits to be written is written from here on, whether or not anybody is in a hurry.
const BACKLOG_BYTES: u64 = 8 << 20;
/// Who writes more than this waits for the disk. The kernel's own limit is a fifth of the free memory: minutes of a bad SD card,
/// which the store waits for at every commit, and a person who switches the board off.
const BACKLOG_BYTES_MAX: u64 = 32 << 20;
const RESOLV_CONF: &str = "/run/resolv.conf";
/// What keeps a link calls nothing deep.
const LINK_STACK: usize = 256 << 10;

/// What happens, in order.
pub const PHASES: &[Phase<Machine>] = &[
    Phase { name: "mounts", must: true, run: mounts },
    Phase { name: "cgroups", must: false, run: cgroups },
    Phase { name: "board", must: false, run: board },
    Phase { name: "drivers", must: false, run: drivers },
    Phase { name: "watchdog", must: false, run: watchdog },
    Phase { name: "writeback", must: false, run: |_| keep_backlog_short() },
    Phase { name: "data", must: false, run: open_data },
    Phase { name: "clock", must: false, run: raise_clock },
    Phase { name: "settings", must: false, run: read_settings },
    Phase { name: "slots", must: false, run: slots_told },
    Phase { name: "loopback", must: false, run: |_| network::loopback() },
    Phase { name: "network", must: false, run: network_up },
];

/// What the phases find and the supervisor needs.
#[derive(Default)]
pub struct Machine {
    /// The disk we booted from.
    pub disk: PathBuf,
    /// The slot we booted from.
    pub slot: Name,
    /// Its name on the network.
    pub hostname: String,
    /// Whether the data partition is mounted: nothing runs without.
    pub has_data: bool,
    /// What to keep running.
    pub services: Vec<Service>,
    /// What to hand out, and by which port.
    pub published: Vec<(PathBuf, String)>,
    /// The address that answers when all is well.
    pub healthy: Option<String>,
    /// The watchdog, where there is one.
    pub watchdog: Option<Watchdog>,
    /// What a person said of it.
    pub settings: Settings,
    /// The date of the image, in seconds since 1970: no time is before it.
    pub built: u64,
    /// What its links learn.
    pub learnt: Option<Arc<Learnt>>,
    board: Facts,
}

impl Machine {
    /// A sign of life to the watchdog.
    fn feed(&self) {
        self.watchdog.iter().for_each(Watchdog::feed);
    }

    fn bite_after(&self, seconds: u32) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.bite_after(seconds);
        }
    }
}

/// Boots the rest of the way and keeps the services running, for ever.
pub fn run() -> Result<Infallible, Error> {
    supervise::block_signals();
    let mut machine = Machine::default();
    for word in std::env::args().skip(1) {
        match word.split_once('=') {
            Some(("disk", disk)) => machine.disk = disk.into(),
            Some(("slot", slot)) => machine.slot = Name::from_letter(slot).unwrap_or_default(),
            Some(("watchdog", number)) => machine.watchdog = Watchdog::handed_on(number),
            _ => {}
        }
    }
    machine.bite_after(BOOTING_S);
    run_all(PHASES, &mut machine, Machine::feed)?;
    loop {
        match supervise::run(&machine) {
            Ok(how) => {
                machine.bite_after(GOING_DOWN_S);
                power::go(how, &|| machine.feed());
            }
            Err(error) => say(format_args!("supervising failed and begins anew: {}", chain(&error))),
        }
        sleep(Duration::from_secs(1));
    }
}

fn mounts(_: &mut Machine) -> Result<String, Error> {
    let none = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let wanted: &[(&str, &str, MsFlags, &str)] = &[
        ("devpts", "/dev/pts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "mode=620,ptmxmode=666,gid=5"),
        ("tmpfs", "/dev/shm", none, "mode=1777"),
        ("mqueue", "/dev/mqueue", none, ""),
        ("tmpfs", "/run", plain, "mode=755,size=64m"),
        ("tmpfs", "/tmp", plain, "mode=1777,size=64m"),
        ("cgroup2", "/sys/fs/cgroup", none, "nsdelegate"),
        ("securityfs", "/sys/kernel/security", none, ""),
        ("bpf", "/sys/fs/bpf", none, "mode=700"),
    ];
    for (kind, target, flags, options) in wanted {
        // Folders below /dev are made; the others are in the root or of the kernel.
        let _there_already = fs::create_dir(target);
        let options = (!options.is_empty()).then_some(*options);
        let made = mount(Some(*kind), *target, Some(*kind), *flags, options);
        if let Err(errno) = made {
            say(format_args!("{target} stays unmounted: {errno}"));
        }
    }
    for (link, target) in
        [("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "fd/0"), ("/dev/stdout", "fd/1"), ("/dev/stderr", "fd/2")]
    {
        let _there_already = std::os::unix::fs::symlink(target, link);
    }
    // What is mounted later in a pod's volume must be seen by the pods that ask for it.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
        .doing("share the root's mounts")?;
    Ok(format!("{} file systems", wanted.len()))
}

fn cgroups(_: &mut Machine) -> Result<String, Error> {
    let top = Path::new("/sys/fs/cgroup");
    let offered = fs::read_to_string(top.join("cgroup.controllers")).doing("read the controllers there are")?;
    let mut enabled = Vec::new();
    for controller in offered.split_whitespace() {
        if fs::write(top.join("cgroup.subtree_control"), format!("+{controller}")).is_ok() {
            enabled.push(controller);
        }
    }
    Ok(enabled.join(" "))
}

fn board(machine: &mut Machine) -> Result<String, Error> {
    machine.board = Facts::read(Path::new(BOARD))?;
    machine.published = published(&text(PUBLISHED)?);
    Ok(machine.board.must("name")?.to_owned())
}

/// The text of a file; one that is not there is empty.
fn text(path: &str) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.doing(format_args!("read {path}")),
    }
}

/// What a person wants of this board: read once the data partition is there, which keeps the last good settings.
fn read_settings(machine: &mut Machine) -> Result<String, Error> {
    let offered = text(SERVICES)?;
    let once = |service: &Service| run_once(machine, service);
    let (settings, problems) = card::read(&disk(machine)?, &Offer { services: &offered, once: &once });
    for problem in &problems {
        say(format_args!("{problem}"));
    }
    card::hand_out(&settings)?;
    let machine_id = fs::read_to_string("/run/machine-id").unwrap_or_default();
    machine.hostname = card::hostname(&settings, machine.board.get("hostname").unwrap_or("skerry"), &machine_id);
    nix::unistd::sethostname(&machine.hostname).doing(format_args!("set the host name {}", machine.hostname))?;
    let role = settings.role.word();
    machine.services = services(&offered, role, &card::values(&settings))?;
    machine.services.retain(|service| service.once.is_none());
    machine.healthy = machine.board.get(&format!("healthy_{role}")).map(str::to_owned);
    machine.settings = settings;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").doing("read this boot's number")?;
    let count = machine.services.len();
    Ok(format!("{} is {role}, {count} services, boot {}", machine.hostname, boot.trim()))
}

/// Without a data partition, nothing is prepared for services that will not start.
fn run_once(machine: &Machine, service: &Service) -> Result<(), String> {
    if !machine.has_data {
        return Ok(());
    }
    let said = once::run(service, Path::new(ONCE), &|| machine.feed())?;
    said.lines().for_each(|line| say(format_args!("{}: {line}", service.name)));
    Ok(())
}

fn disk(machine: &Machine) -> Result<Disk, Error> {
    let name = machine.disk.display().to_string();
    let table = read_table(&machine.disk).doing(format_args!("read the partition table of {name}"))?;
    let table = table.ok_or_else(|| Error::Wrong(format!("{name} has no partition table")))?;
    Ok(Disk { device: machine.disk.clone(), table })
}

fn drivers(machine: &mut Machine) -> Result<String, Error> {
    let names: Vec<&str> = machine.board.get("modules").unwrap_or_default().split_whitespace().collect();
    let _by_itself = fs::write("/proc/sys/kernel/modprobe", modprobe::PROGRAM);
    Ok(format!("{} loaded, others as they are needed", modprobe::load_all(&names)?))
}

fn watchdog(machine: &mut Machine) -> Result<String, Error> {
    if machine.board.get("watchdog") == Some("closed") {
        return Ok("left closed, as the board says".to_owned());
    }
    let since = if machine.watchdog.is_some() { "the initramfs" } else { "now" };
    if machine.watchdog.is_none() {
        machine.watchdog = Watchdog::open(BOOTING_S)?;
    }
    Ok(match &machine.watchdog {
        Some(_) => format!("open since {since}, bites after {BOOTING_S} s here and {RUNNING_S} s later"),
        None => "there is none".to_owned(),
    })
}

/// Bounds what waits to be written: the same for all boards, since faster disks lose little by being kept busy early.
fn keep_backlog_short() -> Result<String, Error> {
    set_sysctl("vm.dirty_bytes", &BACKLOG_BYTES_MAX.to_string())?;
    set_sysctl("vm.dirty_background_bytes", &BACKLOG_BYTES.to_string())?;
    Ok(format!("{} MiB wait for a disk at most", BACKLOG_BYTES_MAX >> 20))
}

fn open_data(machine: &mut Machine) -> Result<String, Error> {
    let told = mount_data(&disk(machine)?)?;
    machine.has_data = true;
    for folder in ["/data/init", "/data/log", "/data/var"] {
        let _read_only = fs::create_dir_all(folder);
    }
    mount(Some("/data/var"), "/var", None::<&str>, MsFlags::MS_BIND, None::<&str>).doing("mount /data/var on /var")?;
    for folder in ["/var/log", "/var/lib", "/var/tmp", "/var/run"] {
        let _read_only = fs::create_dir_all(folder);
    }
    machine_id()?;
    Ok(told)
}

fn mount_data(disk: &Disk) -> Result<String, Error> {
    let mut failed = String::new();
    for left in (0..DATA_TRIES).rev() {
        match data::open(disk) {
            Ok(told) => return Ok(told),
            Err(error) => failed = chain(&error).to_string(),
        }
        if left > 0 {
            say(format_args!("{failed}; trying again"));
            sleep(DATA_PAUSE);
        }
    }
    Err(Error::Wrong(failed))
}

/// The machine's own number, made once; programs look for it in /etc, which links here.
fn machine_id() -> Result<(), Error> {
    let kept = Path::new(DATA).join("init/machine-id");
    if !kept.exists() {
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").doing("ask the kernel for a random number")?;
        sys::files::write_atomically(&kept, format!("{}\n", uuid.trim().replace('-', "")).as_bytes(), 0o444)?;
    }
    fs::copy(&kept, "/run/machine-id").doing("copy the machine's number")?;
    Ok(())
}

/// Leaves for the update service what we booted from, and notes of a trial before this start what only this start can know.
fn slots_told(machine: &mut Machine) -> Result<String, Error> {
    let (disk, slot) = (machine.disk.clone(), machine.slot);
    fs::create_dir_all("/run/skerry").doing("make /run/skerry")?;
    let healthy = machine.healthy.iter().map(|address| format!("healthy {address}\n"));
    let facts = format!("disk {}\nslot {}\n{}", disk.display(), slot.letter(), healthy.collect::<String>());
    fs::write(crate::updates::BOOTED, facts).doing(format_args!("write {}", crate::updates::BOOTED))?;
    let bitten = machine.watchdog.as_ref().is_some_and(Watchdog::has_bitten);
    let noted = bitten && trial::bitten(&disk, slot).map_err(|error| Error::Wrong(chain(&error).to_string()))?;
    let after = match (bitten, noted) {
        (true, true) => ", after a trial that the watchdog ended",
        (true, false) => ", after the watchdog restarted the machine",
        _ => "",
    };
    Ok(format!("{} on {}{after}", slot.letter(), disk.display()))
}

fn raise_clock(machine: &mut Machine) -> Result<String, Error> {
    machine.built = machine.board.number("built")?;
    clock::raise(machine.built)
}

/// Starts what keeps the links, and gives one a moment to get an address: most services like to have one.
fn network_up(machine: &mut Machine) -> Result<String, Error> {
    let plans = network::plans(&machine.settings);
    let awaited = network::awaited(&plans);
    let learnt = Learnt::new(RESOLV_CONF.into(), plans.len());
    machine.learnt = Some(Arc::clone(&learnt));
    let (tell, heard) = mpsc::channel();
    for (index, plan) in plans.into_iter().enumerate() {
        let keeper = Keeper { plan, index, hostname: machine.hostname.clone(), learnt: Arc::clone(&learnt) };
        let tell = tell.clone();
        let thread = std::thread::Builder::new().name(format!("link-{index}")).stack_size(LINK_STACK);
        thread.spawn(move || keep_link(&keeper, index == awaited, &tell)).doing("start what keeps a link")?;
    }
    heard.recv_timeout(ADDRESS_WITHIN).map_err(|_| {
        let waited = ADDRESS_WITHIN.as_secs();
        Error::Wrong(format!(
            "no address within {waited} s; it is asked on for. Is there a cable, and somebody who gives one?"
        ))
    })
}

/// Says what happens to a link; its first address is what the phase waits for where it `is_awaited`.
fn keep_link(keeper: &Keeper, mut is_awaited: bool, tell: &mpsc::Sender<String>) {
    loop {
        let ended = catch_unwind(AssertUnwindSafe(|| {
            keeper.run(
                || true,
                |news| match news {
                    News::Address { link, net, by } => {
                        let what = format!("{link} is {net} {by}");
                        // Nobody waits any more where it comes late.
                        if !(std::mem::take(&mut is_awaited) && tell.send(what.clone()).is_ok()) {
                            say(format_args!("{what}"));
                        }
                    }
                    News::Note(what) => say(format_args!("{what}")),
                },
            );
        }));
        say(format_args!("keeping a link ended ({}) and begins anew", if ended.is_ok() { "?" } else { "a bug" }));
        sleep(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_to_be_written_is_bounded_before_anything_is() {
        let place = |name: &str| PHASES.iter().position(|phase| phase.name == name).expect("there is such a phase");
        assert!(place("mounts") < place("writeback") && place("writeback") < place("data"));
    }
}
