//! Disks: how large they are, a partition that grows, an ext4 that grows while mounted, a watchdog kept quiet.
//!
//! Start at [`bytes`], [`grow_partition`] and [`grow_ext4`]. All three can be repeated.
//!
//! Not here: which partition grows by how much (`init`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
const BLKPG: libc::c_ulong = 0x1269;
const BLKPG_RESIZE_PARTITION: i32 = 3;
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;
const WDIOC_SETTIMEOUT: libc::c_ulong = 0xc004_5706;
const WDIOC_GETBOOTSTATUS: libc::c_ulong = 0x8004_5702;
const WDIOF_CARDRESET: i32 = 0x20;

/// The kernel's `struct blkpg_partition`.
#[repr(C)]
struct Partition {
    start: i64,
    length: i64,
    number: i32,
    names: [u8; 128],
}

/// The kernel's `struct blkpg_ioctl_arg`.
#[repr(C)]
struct PartitionRequest {
    operation: i32,
    flags: i32,
    data_bytes: i32,
    data: *mut Partition,
}

/// The size of a block device.
pub fn bytes(device: &File) -> io::Result<u64> {
    let mut size = 0u64;
    // SAFETY: the kernel writes eight bytes, to `size`, which outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64 as _, &raw mut size) })?;
    Ok(size)
}

/// Tells the kernel that partition `number` of `disk` now holds `length` bytes from `start` on. It may be in use.
pub fn grow_partition(disk: &File, number: i32, start: u64, length: u64) -> io::Result<()> {
    let mut partition = Partition { start: start as i64, length: length as i64, number, names: [0; 128] };
    let data_bytes = size_of::<Partition>() as i32;
    let request =
        PartitionRequest { operation: BLKPG_RESIZE_PARTITION, flags: 0, data_bytes, data: &raw mut partition };
    // SAFETY: `request` and the partition it points to are laid out as the kernel's structures and outlive the call.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG as _, &raw const request) })
}

/// Grows the mounted ext4 that `inside` lies on to `blocks` of its own block size.
pub fn grow_ext4(inside: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads eight bytes, from `blocks`, which outlives the call.
    check(unsafe { libc::ioctl(inside.as_raw_fd(), EXT4_IOC_RESIZE_FS as _, &raw const blocks) })
}

/// Asks a watchdog to bite after `seconds` without a sign of life; gives back what it made of that.
pub fn watchdog_timeout(watchdog: &File, seconds: u32) -> io::Result<u32> {
    let mut timeout = seconds as i32;
    // SAFETY: the kernel reads and writes four bytes, at `timeout`, which outlives the call.
    check(unsafe { libc::ioctl(watchdog.as_raw_fd(), WDIOC_SETTIMEOUT as _, &raw mut timeout) })?;
    Ok(timeout as u32)
}

/// Whether a watchdog restarted the machine; not every chip remembers.
pub fn watchdog_has_bitten(watchdog: &File) -> io::Result<bool> {
    let mut status = 0i32;
    // SAFETY: the kernel writes four bytes, to `status`, which outlives the call.
    check(unsafe { libc::ioctl(watchdog.as_raw_fd(), WDIOC_GETBOOTSTATUS as _, &raw mut status) })?;
    Ok(status & WDIOF_CARDRESET != 0)
}

fn check(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_is_not_a_disk() {
        let file = File::open("/proc/self/exe").unwrap();
        assert_eq!(bytes(&file).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(watchdog_has_bitten(&file).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(watchdog_timeout(&file, 10).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
