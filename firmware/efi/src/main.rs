//! The boot loader of machines with UEFI: the firmware starts it from the first partition, where it lies as
//! `EFI/BOOT/BOOTX64.EFI`; what it does is `loader`'s [`run`](loader::run).
//!
//! Built for anything but UEFI it only says where it runs, so that the workspace's checks see it.
#![cfg_attr(target_os = "uefi", no_std, no_main)]
#![allow(unsafe_code)]

/// The firmware's way in.
///
/// # Safety
///
/// The firmware calls it, with our image and its own table.
#[cfg(target_os = "uefi")]
#[unsafe(no_mangle)]
unsafe extern "efiapi" fn efi_main(image: efi::Handle, table: *const efi::SystemTable) -> efi::Status {
    // SAFETY: both are what the firmware gave us.
    unsafe { efi::main(image, table) }
}

#[cfg(not(target_os = "uefi"))]
fn main() -> std::process::ExitCode {
    eprintln!("skerry-loader is started by UEFI firmware, and runs nowhere else");
    std::process::ExitCode::FAILURE
}
