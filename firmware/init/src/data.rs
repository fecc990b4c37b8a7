//! The data partition: grown to the end of the disk, mounted, and its file system grown after it.
//!
//! Start at [`open`]. Everything can be repeated, so a power cut between any two steps costs nothing.
//!
//! Invariants:
//! * what cannot be grown is mounted as large as it is;
//! * what is on it is never given up for a new file system: where it cannot be mounted, we say why and leave it as it is;
//! * the last of it is for what runs the machine: a pod that fills it does not keep the cluster from writing.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use base::chain;
use nix::mount::{MsFlags, mount};
use slots::sector::BYTES;
use slots::table::Table;

use crate::disk::Disk;
use crate::phase::{Doing, Error};

/// Where it is mounted.
pub const DATA: &str = "/data";
const PARTITION: usize = 4;
/// Damage makes it read-only, before it spreads. What `mke2fs -m` reserved is for processes with the capability of it: a
/// pod's root has not, and would have it by being root if that user were not another one, which nobody is.
const OPTIONS: &str = "errors=remount-ro,resuid=4294967294";
const SUPERBLOCK_AT: usize = 1024;
const SUPERBLOCK_BYTES: usize = 1024;
const MAGIC_AT: usize = 56;
const MAGIC: [u8; 2] = [0x53, 0xef];
/// Growing by less is not worth a write to the partition table.
const WORTH_SECTORS: u64 = 16 << 11;
/// Partitions end on such a border, so that no flash block is shared.
const ALIGN_SECTORS: u64 = 1 << 11;

/// Grows and mounts it; tells its size. Only mounting must work: services run in less room too.
pub fn open(disk: &Disk) -> Result<String, Error> {
    let device = disk.partition(PARTITION);
    let grown = grow_partition(disk);
    fs::create_dir_all(DATA)
        .or_else(|error| if Path::new(DATA).exists() { Ok(()) } else { Err(error) })
        .doing("make /data")?;
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NOSUID;
    mount(Some(&device), DATA, Some("ext4"), flags, Some(OPTIONS)).doing(format_args!(
        "mount the data partition {} ({})",
        device.display(),
        why_unfit(&device)
    ))?;
    let blocks = grow_file_system(&device);
    Ok(told(&device, grown, blocks))
}

/// What is told of the mounted partition: whether it has `grown`, and the blocks of its file system.
fn told(device: &Path, grown: Result<bool, Error>, blocks: Result<u64, Error>) -> String {
    let size = match blocks {
        Ok(blocks) => format!("holds {} MiB", blocks / 256),
        Err(error) => format!("keeps its size: {}", chain(&error)),
    };
    let grown = match grown {
        Ok(true) => ", grown".to_owned(),
        Ok(false) => String::new(),
        Err(error) => format!(", not grown: {}", chain(&error)),
    };
    format!("{} {size}{grown}", device.display())
}

/// What makes the file system of `device` unfit to be mounted, as far as its first block tells.
fn why_unfit(device: &Path) -> String {
    let mut block = [0; SUPERBLOCK_AT + SUPERBLOCK_BYTES];
    match File::open(device).and_then(|mut file| file.read_exact(&mut block)) {
        Err(error) => format!("it cannot be read: {error}"),
        Ok(()) => judge(&block[SUPERBLOCK_AT..]).to_owned(),
    }
}

/// The same of a superblock's bytes.
fn judge(superblock: &[u8]) -> &'static str {
    let (summed, sum) = superblock.split_at(SUPERBLOCK_BYTES - 4);
    if summed.iter().all(|byte| *byte == 0) {
        "its superblock is empty: it was wiped or never written"
    } else if summed[MAGIC_AT..MAGIC_AT + 2] != MAGIC {
        "its superblock is overwritten: there is no ext4 at this place"
    } else if crc32c(summed).to_le_bytes() != sum {
        "its superblock is damaged: it does not match its checksum"
    } else {
        "its superblock is whole: the damage lies further in"
    }
}

/// The CRC-32C as ext4 uses it, without the last inversion. Bit by bit: it runs over a kilobyte, and only where things broke.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 })
    })
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
    fn the_checksum_is_that_of_the_standard() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    /// What is said of a superblock as `mke2fs` makes it (magic, content, checksum) after `damage`.
    fn check_damage(damage: impl FnOnce(&mut [u8]), expected: &str) {
        let mut superblock = vec![7; SUPERBLOCK_BYTES];
        superblock[MAGIC_AT..MAGIC_AT + 2].copy_from_slice(&MAGIC);
        let sum = crc32c(&superblock[..SUPERBLOCK_BYTES - 4]).to_le_bytes();
        superblock[SUPERBLOCK_BYTES - 4..].copy_from_slice(&sum);
        damage(&mut superblock);
        assert!(judge(&superblock).starts_with(expected), "{}", judge(&superblock));
    }

    #[test]
    fn a_damaged_superblock_is_told_from_damage_elsewhere() {
        check_damage(|_| {}, "its superblock is whole");
        check_damage(|bytes| bytes[200] ^= 1, "its superblock is damaged");
        check_damage(|bytes| bytes[MAGIC_AT] = 0, "its superblock is overwritten");
        check_damage(|bytes| bytes.fill(0), "its superblock is empty");
    }

    #[test]
    fn a_partition_that_is_not_there_is_named() {
        assert_eq!(why_unfit(Path::new("/nowhere")), "it cannot be read: No such file or directory (os error 2)");
    }

    #[test]
    fn what_does_not_grow_is_used_as_large_as_it_is() {
        let device = Path::new("/dev/x4");
        let no = |what: &str| Error::Wrong(what.to_owned());
        assert_eq!(told(device, Ok(false), Ok(512)), "/dev/x4 holds 2 MiB");
        assert_eq!(told(device, Ok(true), Ok(512)), "/dev/x4 holds 2 MiB, grown");
        assert_eq!(told(device, Ok(true), Err(no("no room"))), "/dev/x4 keeps its size: no room, grown");
        assert_eq!(told(device, Err(no("no table")), Ok(512)), "/dev/x4 holds 2 MiB, not grown: no table");
    }

    #[test]
    fn a_disk_that_is_full_or_smaller_changes_nothing() {
        check(164 << 11, None);
        check(170 << 11, None);
        check(10 << 11, None);
    }
}
