//! The initramfs as a kernel asks for it: a file without a name, offered by a device with Linux' own path.
//!
//! Start at [`Offer::make`]. The kernel's side is `drivers/firmware/efi/libstub/efi-stub-helper.c` (since 5.8).

use core::ffi::c_void;
use core::ptr;

use uefi_raw::protocol::device_path::DevicePathProtocol;
use uefi_raw::protocol::media::LoadFile2Protocol;
use uefi_raw::table::boot::{BootServices, InterfaceType};
use uefi_raw::{Boolean, Handle, Status};

use crate::{Failed, done};

/// A vendor's medium with Linux' number for the initramfs, 5568e427-68fc-4f3d-ac74-ca555231cc68, and the end of the
/// path.
static PATH: [u8; 24] = [
    0x04, 0x03, 20, 0, 0x27, 0xe4, 0x68, 0x55, 0xfc, 0x68, 0x3d, 0x4f, 0xac, 0x74, 0xca, 0x55, 0x52, 0x31, 0xcc,
    0x68, //
    0x7f, 0xff, 4, 0,
];

/// An initramfs on offer. The protocol comes first: its address is ours.
#[repr(C)]
pub struct Offer {
    protocol: LoadFile2Protocol,
    bytes: &'static [u8],
    handle: Handle,
}

impl Offer {
    /// Nothing on offer yet.
    pub fn of(bytes: &'static [u8]) -> Offer {
        Offer { protocol: LoadFile2Protocol { load_file }, bytes, handle: ptr::null_mut() }
    }

    /// Offers it until it is withdrawn; it must not move meanwhile, which a pinned place sees to.
    pub fn make(&mut self, boot: &BootServices) -> Result<(), Failed> {
        let native = InterfaceType::NATIVE_INTERFACE;
        let file: *const c_void = ptr::from_ref(&self.protocol).cast();
        // SAFETY: path and protocol stay where they are as long as they are offered: one is static, and `start` keeps
        // the other on its stack and withdraws it before it returns.
        unsafe {
            let path = PATH.as_ptr().cast();
            let offered = (boot.install_protocol_interface)(&mut self.handle, &DevicePathProtocol::GUID, native, path);
            done(offered, "offer a device with the initramfs")?;
            let offered = (boot.install_protocol_interface)(&mut self.handle, &LoadFile2Protocol::GUID, native, file);
            done(offered, "offer the initramfs")
        }
    }

    /// Withdraws it.
    pub fn withdraw(&mut self, boot: &BootServices) {
        let file: *const c_void = ptr::from_ref(&self.protocol).cast();
        // SAFETY: what was offered under this handle; what was not is refused.
        unsafe {
            let _never_offered = (boot.uninstall_protocol_interface)(self.handle, &LoadFile2Protocol::GUID, file);
            let path = PATH.as_ptr().cast();
            let _never_offered = (boot.uninstall_protocol_interface)(self.handle, &DevicePathProtocol::GUID, path);
        }
    }
}

/// Hands the initramfs out. Asked without room for it, it says how much that takes.
unsafe extern "efiapi" fn load_file(
    this: *mut LoadFile2Protocol,
    _path: *const DevicePathProtocol,
    to_boot: Boolean,
    size: *mut usize,
    buffer: *mut c_void,
) -> Status {
    if to_boot.into() {
        return Status::UNSUPPORTED;
    }
    if this.is_null() || size.is_null() {
        return Status::INVALID_PARAMETER;
    }
    // SAFETY: the protocol is the first field of an `Offer`, whoever asks found it there; size and buffer are the
    // asker's.
    unsafe {
        let bytes = (*this.cast::<Offer>()).bytes;
        let room = core::mem::replace(&mut *size, bytes.len());
        if buffer.is_null() || room < bytes.len() {
            return Status::BUFFER_TOO_SMALL;
        }
        ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast(), bytes.len());
    }
    Status::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a kernel that has room for `room` bytes is answered for five, and what it has then.
    fn check(room: usize, expected: Status, has: &[u8]) {
        let mut offer = Offer::of(b"hello");
        let mut buffer = vec![0; room];
        let at = if room == 0 { ptr::null_mut() } else { buffer.as_mut_ptr().cast() };
        let mut size = room;
        // SAFETY: the offer stays here, and the buffer has as much room as is said.
        let status = unsafe { load_file(ptr::from_mut(&mut offer).cast(), ptr::null(), Boolean::FALSE, &mut size, at) };
        assert_eq!((status, size), (expected, 5));
        assert_eq!(&buffer[..has.len()], has);
    }

    #[test]
    fn a_kernel_is_told_the_size_and_then_given_the_bytes() {
        check(0, Status::BUFFER_TOO_SMALL, b"");
        check(4, Status::BUFFER_TOO_SMALL, &[0; 4]);
        check(5, Status::SUCCESS, b"hello");
        check(9, Status::SUCCESS, b"hello\0\0\0\0");
    }
}
