//! The UEFI border: what the boot loader asks of the firmware, and all `unsafe` that takes.
//!
//! Start at [`main`]; [`Firmware`] is a machine as the loader wants one, [`disk`] the disk we were loaded from.
//!
//! Invariants:
//! * nothing is called after a kernel was started that did not come back: it owns the machine;
//! * what a kernel is given (its own bytes, its initramfs) is never freed.
//!
//! The firmware itself restarts a machine whose loader hangs for five minutes; the machine's watchdog is opened
//! later, by PID 1.
//!
//! Not here: what is done with it (`loader`). The types are those of `uefi-raw`; its safe sister `uefi` is not used,
//! because part of it is under a licence that what we link must not have.
#![cfg_attr(target_os = "uefi", no_std)]
#![allow(unsafe_code)] // Here and in `sys`, and nowhere else.

mod console;
pub mod disk;
mod initramfs;
mod start;

use core::ffi::c_void;
use core::fmt;
use core::ptr::{self, NonNull};

use loader::Machine;
use uefi_raw::Guid;
use uefi_raw::protocol::file_system::{FileAttribute, FileMode, FileProtocolV1, SimpleFileSystemProtocol};
use uefi_raw::protocol::loaded_image::LoadedImageProtocol;
use uefi_raw::table::boot::{AllocateType, BootServices, MemoryType};
use uefi_raw::table::runtime::ResetType;
pub use uefi_raw::table::system::SystemTable;
pub use uefi_raw::{Handle, Status};

use crate::disk::Disk;

/// The board's part of the kernel's command line, on the partition we were loaded from. Written by the image tool.
const COMMAND_LINE: &str = "cmdline.txt";
const COMMAND_LINE_MAX: usize = 2000;
/// Names of files are short.
const NAME_MAX: usize = 64;
const PAGE: usize = 4096;
/// Whoever stands before the machine reads why nothing boots.
const BEFORE_RESTART_US: usize = 5_000_000;

/// What the firmware refused, and how.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    doing: &'static str,
    status: Status,
}

impl fmt::Display for Failed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "failed to {}: {:?}", self.doing, self.status)
    }
}

impl core::error::Error for Failed {}

/// An error where the firmware reports one.
fn done(status: Status, doing: &'static str) -> Result<(), Failed> {
    if status.is_success() { Ok(()) } else { Err(Failed { doing, status }) }
}

/// The loader: boots a slot, or tells why none can be booted and restarts the machine.
///
/// # Safety
///
/// `image` and `table` are what the firmware called us with.
pub unsafe fn main(image: Handle, table: *const SystemTable) -> Status {
    // SAFETY: the caller's promise; the table and its services stay until a kernel takes over, which does not return
    // here.
    let (table, boot) = unsafe { (&*table, &*(*table).boot_services) };
    let mut firmware = Firmware { image, table, boot, disk: None };
    console::remember(table);
    firmware.run();
    // SAFETY: a boot service, called with a number.
    let _waited = unsafe { (boot.stall)(BEFORE_RESTART_US) };
    restart(table)
}

fn restart(table: &SystemTable) -> ! {
    // SAFETY: the firmware's own table; it takes no data here.
    unsafe { ((*table.runtime_services).reset_system)(ResetType::COLD, Status::SUCCESS, 0, ptr::null()) }
}

/// The machine as its firmware offers it.
pub struct Firmware {
    image: Handle,
    table: &'static SystemTable,
    boot: &'static BootServices,
    disk: Option<Disk>,
}

impl Firmware {
    fn run(&mut self) {
        match disk::of_image(self) {
            Ok(disk) => self.disk = Some(disk),
            Err(error) => return self.say(format_args!("the disk we were loaded from is not found: {error}")),
        }
        let mut text = [0; COMMAND_LINE_MAX];
        let line = self.file(COMMAND_LINE, &mut text).unwrap_or_else(|error| {
            self.say(format_args!("going on without {COMMAND_LINE}: {error}"));
            0
        });
        let line = core::str::from_utf8(&text[..line]).unwrap_or_default().trim();
        loader::run(self, line);
    }

    /// What a handle offers under `guid`.
    fn protocol<T>(&self, handle: Handle, guid: &Guid, doing: &'static str) -> Result<NonNull<T>, Failed> {
        let mut found: *mut c_void = ptr::null_mut();
        // SAFETY: both pointers are to variables of ours that outlive the call.
        done(unsafe { (self.boot.handle_protocol)(handle, guid, &mut found) }, doing)?;
        NonNull::new(found.cast()).ok_or(Failed { doing, status: Status::NOT_FOUND })
    }

    /// What the firmware knows of a loaded image.
    fn loaded(&self, image: Handle) -> Result<NonNull<LoadedImageProtocol>, Failed> {
        self.protocol(image, &LoadedImageProtocol::GUID, "ask about a loaded image")
    }

    /// The device that we were loaded from: a partition.
    fn device(&self) -> Result<Handle, Failed> {
        // SAFETY: the firmware keeps what it knows of us as long as we run.
        Ok(unsafe { self.loaded(self.image)?.as_ref() }.device_handle)
    }

    /// Reads a file of the partition that we were loaded from; gives back its length, cut where there is no room for
    /// more.
    fn file(&self, name: &str, into: &mut [u8]) -> Result<usize, Failed> {
        let files = self.protocol::<SimpleFileSystemProtocol>(
            self.device()?,
            &SimpleFileSystemProtocol::GUID,
            "ask for the files of our partition",
        )?;
        let mut wide = [0; NAME_MAX];
        // The last one stays NUL.
        wide[..NAME_MAX - 1].iter_mut().zip(name.encode_utf16()).for_each(|(to, from)| *to = from);
        let (mut root, mut file): (*mut FileProtocolV1, *mut FileProtocolV1) = (ptr::null_mut(), ptr::null_mut());
        let mut length = into.len();
        // SAFETY: the protocol's own functions, called with what it gave out; every other pointer is to a variable of
        // ours, and the length says how many bytes there is room for.
        unsafe {
            done(((*files.as_ptr()).open_volume)(files.as_ptr(), &mut root), "open our partition")?;
            let opened = ((*root).open)(root, &mut file, wide.as_ptr(), FileMode::READ, FileAttribute::empty());
            let read = done(opened, "open it").and_then(|()| {
                let read = ((*file).read)(file, &mut length, into.as_mut_ptr().cast());
                let _closed = ((*file).close)(file);
                done(read, "read it")
            });
            let _closed = ((*root).close)(root);
            read?;
        }
        Ok(length.min(into.len()))
    }
}

impl Machine for Firmware {
    type Disk = Disk;
    type Failed = Failed;

    fn disk(&mut self) -> &mut Disk {
        self.disk.as_mut().expect("the loader runs only once the disk is found")
    }

    fn say(&mut self, what: fmt::Arguments<'_>) {
        console::say(self.table, what);
    }

    fn room(&mut self, bytes: usize) -> Option<&'static mut [u8]> {
        let mut at = 0;
        let pages = bytes.div_ceil(PAGE);
        // SAFETY: the address is written into a variable of ours.
        let status =
            unsafe { (self.boot.allocate_pages)(AllocateType::ANY_PAGES, MemoryType::LOADER_DATA, pages, &mut at) };
        let start = usize::try_from(at).ok().filter(|start| status.is_success() && *start != 0)?;
        let start = start as *mut u8;
        // SAFETY: so many pages from there on are ours alone from now on, and are never given back.
        Some(unsafe {
            ptr::write_bytes(start, 0, bytes);
            core::slice::from_raw_parts_mut(start, bytes)
        })
    }

    fn start(&mut self, kernel: &'static [u8], initramfs: &'static [u8], command_line: &str) -> Failed {
        start::kernel(self, kernel, initramfs, command_line)
    }
}

#[cfg(target_os = "uefi")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::last_words(info)
}
