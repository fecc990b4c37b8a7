//! The disk that we were loaded from, as a whole: the firmware gave us a partition of it.
//!
//! Start at [`of_image`]. A disk is ours when its path, as the firmware writes it, is the beginning of our partition's.

use core::ptr::NonNull;

use embedded_io::{ErrorKind, ErrorType, Read, Seek, SeekFrom, Write};
use uefi_raw::protocol::block::BlockIoProtocol;
use uefi_raw::protocol::device_path::DevicePathProtocol;
use uefi_raw::protocol::disk::DiskIoProtocol;
use uefi_raw::{Handle, Status};

use crate::{Failed, Firmware, done};

/// Machines have fewer disks and partitions.
const HANDLES_MAX: usize = 256;
/// `LocateHandle` by what a handle offers.
const BY_PROTOCOL: i32 = 2;
/// The type of a path's last part.
const END: u8 = 0x7f;

/// A whole disk.
#[derive(Debug)]
pub struct Disk {
    bytes: NonNull<DiskIoProtocol>,
    blocks: NonNull<BlockIoProtocol>,
    media: u32,
    length: u64,
    at: u64,
}

/// The disk with the partition that we were loaded from.
pub fn of_image(firmware: &Firmware) -> Result<Disk, Failed> {
    let ours = path(firmware, firmware.device()?)?;
    let mut handles = [core::ptr::null_mut(); HANDLES_MAX];
    let mut size = size_of_val(&handles);
    // SAFETY: the size says how much room there is; both are variables of ours.
    let status = unsafe {
        let at = handles.as_mut_ptr();
        (firmware.boot.locate_handle)(BY_PROTOCOL, &BlockIoProtocol::GUID, core::ptr::null(), &mut size, at)
    };
    done(status, "list the disks")?;
    let found = handles.iter().take(size / size_of::<Handle>()).filter_map(|handle| whole(firmware, *handle));
    let mut ours = found.filter(|(path, _)| !path.is_empty() && ours.starts_with(path));
    let (_, disk) =
        ours.next().ok_or(Failed { doing: "find the disk with our partition", status: Status::NOT_FOUND })?;
    Ok(disk)
}

/// The path and the disk behind a handle, where it is a whole disk.
fn whole(firmware: &Firmware, handle: Handle) -> Option<(&'static [u8], Disk)> {
    let blocks = firmware.protocol::<BlockIoProtocol>(handle, &BlockIoProtocol::GUID, "ask for blocks").ok()?;
    // SAFETY: the firmware keeps a disk's description as long as the disk is there, and nobody takes it away.
    let media = unsafe { &*blocks.as_ref().media };
    if media.logical_partition.into() || !bool::from(media.media_present) {
        return None;
    }
    let bytes = firmware.protocol::<DiskIoProtocol>(handle, &DiskIoProtocol::GUID, "ask for bytes").ok()?;
    let length = media.last_block.saturating_add(1).saturating_mul(media.block_size.into());
    Some((path(firmware, handle).ok()?, Disk { bytes, blocks, media: media.media_id, length, at: 0 }))
}

/// A device's path without its end.
fn path(firmware: &Firmware, handle: Handle) -> Result<&'static [u8], Failed> {
    let doing = "ask for the path of a device";
    let path = firmware.protocol::<DevicePathProtocol>(handle, &DevicePathProtocol::GUID, doing)?;
    let start: *const u8 = path.as_ptr().cast();
    let mut length = 0;
    // SAFETY: a path is parts that begin with type, subtype and their own length, up to one of the type that ends it.
    // The firmware keeps it as long as the device is there.
    unsafe {
        while *start.add(length) != END {
            let part = u16::from_le_bytes([*start.add(length + 2), *start.add(length + 3)]);
            // A part is never shorter than what it begins with.
            length += usize::from(part.max(4));
        }
        Ok(core::slice::from_raw_parts(start, length))
    }
}

impl embedded_io::Error for Failed {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

impl ErrorType for Disk {
    type Error = Failed;
}

impl Disk {
    /// Of so many bytes, those that the disk has from here on.
    fn within(&self, count: usize) -> usize {
        count.min(usize::try_from(self.length.saturating_sub(self.at)).unwrap_or(usize::MAX))
    }

    fn went_on(&mut self, status: Status, count: usize, doing: &'static str) -> Result<usize, Failed> {
        done(status, doing)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Read for Disk {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Failed> {
        let count = self.within(into.len());
        // SAFETY: the protocol of the disk, and memory of ours for so many bytes.
        let status = unsafe {
            let io = self.bytes.as_ptr();
            ((*io).read_disk)(io, self.media, self.at, count, into.as_mut_ptr().cast())
        };
        self.went_on(status, count, "read the disk")
    }
}

impl Write for Disk {
    fn write(&mut self, from: &[u8]) -> Result<usize, Failed> {
        let count = self.within(from.len());
        // SAFETY: the protocol of the disk, and so many bytes of ours.
        let status = unsafe {
            let io = self.bytes.as_ptr();
            ((*io).write_disk)(io, self.media, self.at, count, from.as_ptr().cast())
        };
        self.went_on(status, count, "write the disk")
    }

    fn flush(&mut self) -> Result<(), Failed> {
        // SAFETY: the protocol of the disk.
        done(
            unsafe { ((*self.blocks.as_ptr()).flush_blocks)(self.blocks.as_ptr()) },
            "have the disk keep what was written",
        )
    }
}

impl Seek for Disk {
    fn seek(&mut self, to: SeekFrom) -> Result<u64, Failed> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(Failed { doing: "find a place on the disk", status: Status::INVALID_PARAMETER })?;
        Ok(self.at)
    }
}
