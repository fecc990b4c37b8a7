//! Starting a kernel that is a program of UEFI, as Linux is on 64-bit ARM and x86.
//!
//! Start at [`kernel`].

use core::ptr;

use uefi_raw::{Boolean, Handle, Status};

use crate::initramfs::Offer;
use crate::{Failed, Firmware, done};

/// A kernel's command line, with the NUL at its end.
const LETTERS_MAX: usize = 2049;

/// Starts it; comes back with the reason where that fails.
pub fn kernel(firmware: &Firmware, kernel: &[u8], initramfs: &'static [u8], command_line: &str) -> Failed {
    let image = match load(firmware, kernel) {
        Ok(image) => image,
        Err(failed) => return failed,
    };
    let mut offer = Offer::of(initramfs);
    let failed = match offer.make(firmware.boot) {
        Ok(()) => enter(firmware, image, command_line),
        Err(failed) => failed,
    };
    offer.withdraw(firmware.boot);
    // SAFETY: an image that we loaded; one that ended is gone already, which is answered and changes nothing.
    let _gone_already = unsafe { (firmware.boot.unload_image)(image) };
    failed
}

fn load(firmware: &Firmware, kernel: &[u8]) -> Result<Handle, Failed> {
    let mut image = ptr::null_mut();
    // SAFETY: the bytes are there for the time of the call; the firmware copies what it takes.
    let status = unsafe {
        let (start, length) = (kernel.as_ptr(), kernel.len());
        (firmware.boot.load_image)(Boolean::FALSE, firmware.image, ptr::null(), start, length, &mut image)
    };
    done(status, "load the kernel")?;
    Ok(image)
}

fn enter(firmware: &Firmware, image: Handle, command_line: &str) -> Failed {
    let mut letters = [0u16; LETTERS_MAX];
    // The last one stays NUL.
    let count = letters[..LETTERS_MAX - 1].iter_mut().zip(command_line.encode_utf16()).fold(0, |count, (to, from)| {
        *to = from;
        count + 1
    });
    let bytes = u32::try_from((count + 1) * size_of::<u16>()).unwrap_or(0);
    let loaded = match firmware.loaded(image) {
        Ok(loaded) => loaded,
        Err(failed) => return failed,
    };
    // SAFETY: the image was loaded and does not run yet. Its options lie on our stack, which is there as long as it
    // runs: we wait for it below, and what a kernel needs of them it has copied before it takes the machine over.
    let status = unsafe {
        (*loaded.as_ptr()).load_options = letters.as_ptr().cast();
        (*loaded.as_ptr()).load_options_size = bytes;
        (firmware.boot.start_image)(image, ptr::null_mut(), ptr::null_mut())
    };
    match done(status, "start the kernel") {
        Ok(()) => Failed { doing: "keep the kernel running, it came back", status: Status::ABORTED },
        Err(failed) => failed,
    }
}
