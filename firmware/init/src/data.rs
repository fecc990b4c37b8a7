//! The data partition: grown to the end of the disk, mounted, and its file system grown after it.
//!
//! Start at [`open`]. Everything can be repeated, so a power cut between any two steps costs nothing.
//!
//! Invariant: what is on it is never given up for a new file system: where it cannot be mounted, we say so and try again.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use slots::sector::BYTES;
use slots::table::Table;

use crate::disk::Disk;
use crate::phase::{Doing, Error};

/// Where it is mounted.
pub const DATA: &str = "/data";
const PARTITION: usize = 4;
/// Growing by less is not worth a write to the partition table.
const WORTH_SECTORS: u64 = 16 << 11;
/// Partitions end on such a border, so that no flash block is shared.
const ALIGN_SECTORS: u64 = 1 << 11;

/// Grows and mounts it; tells its size.
pub fn open(disk: &Disk) -> Result<String, Error> {
    let device = disk.partition(PARTITION);
    let grown = grow_partition(disk)?;
    fs::create_dir_all(DATA)
        .or_else(|error| if Path::new(DATA).exists() { Ok(()) } else { Err(error) })
        .doing("make /data")?;
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NOSUID;
    mount(Some(&device), DATA, Some("ext4"), flags, None::<&str>)
        .doing(format_args!("mount the data partition {}", device.display()))?;
    let blocks = grow_file_system(&device)?;
    Ok(format!("{} holds {} MiB{}", device.display(), blocks / 256, if grown { ", grown" } else { "" }))
}

/// Mounts it for reading only: the last resort of a partition that cannot be written.
pub fn open_read_only(disk: &Disk) -> Result<String, Error> {
    let device = disk.partition(PARTITION);
    mount(Some(&device), DATA, Some("ext4"), MsFlags::MS_RDONLY | MsFlags::MS_NOSUID, Some("noload"))
        .doing(format_args!("mount the data partition {} for reading", device.display()))?;
    Ok(format!("{} is READ-ONLY: nothing that happens now is kept", device.display()))
}

fn grow_partition(disk: &Disk) -> Result<bool, Error> {
    let name = disk.device.display();
    let mut file = File::options().read(true).write(true).open(&disk.device).doing(format_args!("open {name}"))?;
    let sectors = sys::disk::bytes(&file).doing(format_args!("ask the size of {name}"))? / BYTES as u64;
    let mut sector = [0; BYTES];
    file.read_exact(&mut sector).doing(format_args!("read the partition table of {name}"))?;
    let Some(table) = Table::decode(&sector) else { return Ok(false) };
    let Some(larger) = grown(&table, sectors) else { return Ok(false) };
    larger.write(&mut sector);
    file.seek(SeekFrom::Start(0)).doing(format_args!("write the partition table of {name}"))?;
    file.write_all(&sector)
        .and_then(|()| file.sync_all())
        .doing(format_args!("write the partition table of {name}"))?;
    let data = larger.partitions[PARTITION - 1];
    let (start, length) = (u64::from(data.at) * BYTES as u64, u64::from(data.sectors) * BYTES as u64);
    sys::disk::grow_partition(&file, PARTITION as i32, start, length)
        .doing(format_args!("tell the kernel of the larger partition of {name}"))?;
    Ok(true)
}

/// The table with its last partition reaching to the end of a disk of `sectors`; nothing where that is not worth it.
fn grown(table: &Table, sectors: u64) -> Option<Table> {
    let data = table.partitions[PARTITION - 1];
    let end = (sectors / ALIGN_SECTORS * ALIGN_SECTORS).min(u64::from(u32::MAX));
    let wanted = end.checked_sub(data.at.into())?;
    if data.sectors == 0 || wanted < u64::from(data.sectors) + WORTH_SECTORS {
        return None;
    }
    let mut larger = *table;
    larger.partitions[PARTITION - 1].sectors = u32::try_from(wanted).ok()?;
    Some(larger)
}

/// Grows the mounted file system to its partition; gives back its blocks of 4096 bytes.
fn grow_file_system(device: &Path) -> Result<u64, Error> {
    let file = File::open(device).doing(format_args!("open {}", device.display()))?;
    let room = sys::disk::bytes(&file).doing(format_args!("ask the size of {}", device.display()))? / 4096;
    let mut count = [0; 4];
    // The number of blocks, in the superblock 1024 bytes in.
    file.read_exact_at(&mut count, 1024 + 4).doing(format_args!("read the superblock of {}", device.display()))?;
    let present = u64::from(u32::from_le_bytes(count));
    if room <= present {
        return Ok(present);
    }
    let inside = File::open(DATA).doing("open /data")?;
    sys::disk::grow_ext4(&inside, room).doing(format_args!("grow the file system of {}", device.display()))?;
    Ok(room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use slots::table::Partition;

    fn check(sectors: u64, expected: Option<u32>) {
        let mut table = Table { signature: 1, partitions: [Partition::default(); 4] };
        table.partitions[3] = Partition { kind: 0x83, boot: false, at: 100 << 11, sectors: 64 << 11 };
        assert_eq!(grown(&table, sectors).map(|table| table.partitions[3].sectors >> 11), expected);
    }

    #[test]
    fn the_last_partition_grows_to_the_end_of_the_disk() {
        check(1000 << 11, Some(900));
        check((1000 << 11) + 5, Some(900));
    }

    #[test]
    fn a_disk_that_is_full_or_smaller_changes_nothing() {
        check(164 << 11, None);
        check(170 << 11, None);
        check(10 << 11, None);
    }
}
