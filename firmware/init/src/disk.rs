//! The disk we booted from: found by the signature in its first sector, whatever the kernel calls it.
//!
//! Start at [`find`].

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use slots::table::Table;

use crate::phase::Error;

/// SD cards and USB take seconds to appear; a disk that is not there by then does not come.
const APPEARS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The disk, and what its partition table says.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Its device.
    pub device: PathBuf,
    /// Its partitions.
    pub table: Table,
}

impl Disk {
    /// The device of partition `number`: `vda` has `vda2`, `mmcblk0` has `mmcblk0p2`.
    pub fn partition(&self, number: usize) -> PathBuf {
        let name = self.device.to_string_lossy();
        let between = if name.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
        PathBuf::from(format!("{name}{between}{number}"))
    }
}

/// Waits for the disk with this signature, and for its partitions.
pub fn find(signature: u32) -> Result<Disk, Error> {
    let began = Instant::now();
    loop {
        if let Some(disk) = whole_disks().into_iter().find_map(|device| look(&device, signature))
            && disk.partition(4).exists()
        {
            return Ok(disk);
        }
        if began.elapsed() > APPEARS_WITHIN {
            let seen: Vec<String> = whole_disks().iter().map(|path| path.display().to_string()).collect();
            let seen = if seen.is_empty() { "none at all".to_owned() } else { seen.join(", ") };
            return Err(Error::Wrong(format!(
                "found no disk with signature {signature:08x} within {} s; disks seen: {seen}",
                APPEARS_WITHIN.as_secs()
            )));
        }
        sleep(LOOK_EVERY);
    }
}

fn look(device: &Path, signature: u32) -> Option<Disk> {
    let table = read_table(device).ok()??;
    (table.signature == signature).then(|| Disk { device: device.to_owned(), table })
}

/// The partition table of a disk, where it has one that we understand.
pub fn read_table(device: &Path) -> io::Result<Option<Table>> {
    let mut sector = [0; slots::sector::BYTES];
    File::open(device)?.read_exact(&mut sector)?;
    Ok(Table::decode(&sector))
}

fn whole_disks() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut disks: Vec<PathBuf> = names
        .filter(|name| !["loop", "ram", "zram", "dm-", "mtd"].iter().any(|other| name.starts_with(other)))
        .map(|name| Path::new("/dev").join(name))
        .collect();
    disks.sort();
    disks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_as_the_kernel_names_it() {
        let table = Table { signature: 1, partitions: [slots::table::Partition::default(); 4] };
        let disk = |device: &str| Disk { device: device.into(), table };
        assert_eq!(disk("/dev/vda").partition(2), Path::new("/dev/vda2"));
        assert_eq!(disk("/dev/mmcblk0").partition(4), Path::new("/dev/mmcblk0p4"));
    }
}
