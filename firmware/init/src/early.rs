//! The first half of booting, in the initramfs: modules, the disk, the slot, a verified root, and into it.
//!
//! Start at [`PHASES`].
//!
//! What the initramfs says about its root (`/slot`) was made with it, and the kernel command line chooses the slot only: who
//! can vouch for kernel and initramfs vouches for the root.

use std::convert::Infallible;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use slots::{Cause, Name};
use sys::mapper::{self, Verity};

use crate::console;
use crate::disk::{self, Disk};
use crate::facts::{Facts, of_command_line};
use crate::phase::{Doing, Error, Phase, run_all};
use crate::trial;
use crate::watchdog::{EARLY_S, Watchdog};

/// Says what the root is and where it lies; only the initramfs has it.
const SLOT_FILE: &str = "/slot";
const NEW_ROOT: &str = "/root";
/// The initramfs' modules, named so that their order is the order to load them in.
const MODULES: &str = "/modules";
/// The rest of booting, in the root.
const NEXT: &str = "/sbin/skerry-init";
/// Of the first partition of a slot.
const FIRST_SLOT: usize = 2;

/// What happens, in order.
pub const PHASES: &[Phase<Early>] = &[
    Phase { name: "kernel", must: true, run: mounts },
    Phase { name: "modules", must: true, run: load_modules },
    Phase { name: "slot", must: true, run: find_slot },
    Phase { name: "verity", must: true, run: open_verity },
    Phase { name: "root", must: true, run: mount_root },
];

/// What the phases hand on.
#[derive(Default)]
pub struct Early {
    facts: Facts,
    disk: Option<Disk>,
    device: Option<PathBuf>,
    slot: Option<Name>,
    root: Option<PathBuf>,
    watchdog: Option<Watchdog>,
}

/// Whether we are in the initramfs.
pub fn is_initramfs() -> bool {
    Path::new(SLOT_FILE).exists()
}

/// Boots as far as the root and becomes the program there.
pub fn run() -> Result<Infallible, Error> {
    let mut early = Early::default();
    run_all(PHASES, &mut early, |early| early.watchdog.iter().for_each(Watchdog::feed))?;
    enter(&early)
}

fn mounts(early: &mut Early) -> Result<String, Error> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(target).doing(format_args!("make {target}"))?;
        mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>).doing(format_args!("mount {target}"))?;
    }
    console::hush_kernel();
    early.facts = Facts::read(Path::new(SLOT_FILE))?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").doing("read the kernel's version")?;
    Ok(format!("Linux {} on {}", release.trim(), early.facts.must("board")?))
}

/// Drivers are what hangs most easily: the watchdog is opened as soon as its own is in.
fn load_modules(early: &mut Early) -> Result<String, Error> {
    let entries = fs::read_dir(MODULES).doing(format_args!("list {MODULES}"))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in &files {
        sys::modules::load(file).doing(format_args!("load the module {}", file.display()))?;
        open_watchdog(early);
    }
    let watchdog = if early.watchdog.is_some() { "watchdog open" } else { "no watchdog" };
    Ok(format!("{} loaded, {watchdog}", files.len()))
}

fn open_watchdog(early: &mut Early) {
    if early.watchdog.is_some() || early.facts.get("watchdog") != Some("open") {
        return;
    }
    match Watchdog::open(EARLY_S) {
        Ok(watchdog) => early.watchdog = watchdog,
        Err(error) => console::say(format_args!("going on without watchdog: {}", base::chain(&error))),
    }
}

fn find_slot(early: &mut Early) -> Result<String, Error> {
    let line = fs::read_to_string("/proc/cmdline").doing("read the kernel's command line")?;
    let letter = of_command_line(&line, "skerry.slot").unwrap_or("a");
    let slot = Name::from_letter(letter).ok_or_else(|| {
        Error::Wrong(format!("the kernel's command line asks for slot {letter:?}; there are a and b"))
    })?;
    let signature = early.facts.must("disk")?;
    let number = u32::from_str_radix(signature, 16)
        .map_err(|_| Error::Wrong(format!("{SLOT_FILE}: disk is {signature:?}, which is no hexadecimal number")))?;
    let disk = disk::find(number)?;
    let device = disk.partition(FIRST_SLOT + usize::from(slot == Name::B));
    let told = format!("{letter} on {}", device.display());
    // A trial of which nothing more is heard from here on ended in PID 1.
    if let Err(error) = trial::note(&disk.device, slot, Cause::InitCrash) {
        console::say(format_args!("the ledger is not told that we came so far: {}", base::chain(&error)));
    }
    (early.disk, early.device, early.slot) = (Some(disk), Some(device), Some(slot));
    Ok(told)
}

fn open_verity(early: &mut Early) -> Result<String, Error> {
    let device = early.device.as_deref().ok_or_else(|| Error::Wrong("no slot was found".into()))?;
    let facts = &early.facts;
    let (root_at, root_sectors) = (facts.number("root_at")?, facts.number("root_sectors")?);
    let data = mapper::linear("slot-root", device, root_at, root_sectors)?;
    let root_hash = facts.must("root_hash")?;
    let tree = Verity {
        data: &data,
        hashes: device,
        blocks: root_sectors / 8,
        hash_block: facts.number("hash_at")? / 8,
        root_hash,
        salt: facts.get("salt").unwrap_or_default(),
    };
    early.root = Some(mapper::verity("root", &tree)?);
    Ok(format!("{} MiB vouched for by {}", root_sectors / 2048, &root_hash[..root_hash.len().min(16)]))
}

fn mount_root(early: &mut Early) -> Result<String, Error> {
    let device = early.root.as_deref().ok_or_else(|| Error::Wrong("no root was verified".into()))?;
    fs::create_dir_all(NEW_ROOT).doing(format_args!("make {NEW_ROOT}"))?;
    mount(Some(device), NEW_ROOT, Some("squashfs"), MsFlags::MS_RDONLY, None::<&str>)
        .doing(format_args!("mount {} as the root", device.display()))?;
    Ok("mounted read-only".to_owned())
}

/// Frees the initramfs' memory, makes the new root the root, and starts the program there in our place.
fn enter(early: &Early) -> Result<Infallible, Error> {
    for target in ["/proc", "/sys", "/dev"] {
        let into = format!("{NEW_ROOT}{target}");
        mount(Some(target), into.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .doing(format_args!("move {target} into the root"))?;
    }
    let _kept = fs::remove_dir_all(MODULES);
    let _kept = fs::remove_file("/init");
    std::env::set_current_dir(NEW_ROOT).doing("enter the root")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).doing("make the root the root")?;
    nix::unistd::chroot(".").doing("make the root the root")?;
    std::env::set_current_dir("/").doing("enter the root")?;
    let disk = early.disk.as_ref().map(|disk| disk.device.as_path()).unwrap_or(Path::new(""));
    let watchdog = early.watchdog.as_ref().map(Watchdog::hand_on).transpose()?;
    let failed = Command::new(NEXT)
        .arg(format!("disk={}", disk.display()))
        .arg(format!("slot={}", early.slot.unwrap_or(Name::A).letter()))
        .args(watchdog.map(|number| format!("watchdog={number}")))
        .exec();
    Err(Error::Io { doing: format!("start {NEXT}"), source: failed })
}
