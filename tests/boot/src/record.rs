//! What a machine wrote to its disk, in order, and where it asked for what it wrote to be kept.
//!
//! Start at [`Record::open`]. QEMU keeps the record (`Wires::record` of `image`) in the form of the kernel's dm-log-writes
//! (<https://docs.kernel.org/admin-guide/device-mapper/log-writes.html>): a sector that says how many entries there are, then of
//! each entry a sector of four numbers and what was written.
//!
//! Not here: what must hold after a power cut (`cuts`).

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
/// Bits of an entry's third number.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One thing a machine did to its disk.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It wrote these bytes, from this one on; `kept` says that they outlive a power cut at once.
    Write {
        /// In bytes from the disk's start.
        at: u64,
        /// What.
        bytes: Vec<u8>,
        /// Whether it was flushed with the writing.
        kept: bool,
    },
    /// What it wrote before outlives a power cut from here on.
    Flush,
    /// It needs something no more, which may then be there or not.
    Discard,
}

/// A record, read from its start.
pub struct Record<R> {
    from: R,
    left: u64,
    sector: usize,
}

impl Record<BufReader<File>> {
    /// The record in a file.
    pub fn open(path: &Path) -> io::Result<Self> {
        Record::read(BufReader::new(File::open(path)?))
    }
}

impl<R: Read> Record<R> {
    fn read(mut from: R) -> io::Result<Self> {
        let [magic, version, left, sector] = numbers(&mut from)?;
        // The fourth is half as long as the others.
        let sector = (sector & u64::from(u32::MAX)) as usize;
        if (magic, version) != (MAGIC, VERSION) || sector < 32 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no record of writes"));
        }
        from.read_exact(&mut vec![0; sector - 32])?;
        Ok(Record { from, left, sector })
    }

    fn step(&mut self) -> io::Result<Step> {
        let [at, count, flags, _] = numbers(&mut self.from)?;
        self.from.read_exact(&mut vec![0; self.sector - 32])?;
        if flags & DISCARD != 0 {
            return Ok(Step::Discard);
        }
        if count == 0 {
            return Ok(Step::Flush);
        }
        let mut bytes = vec![0; count as usize * self.sector];
        self.from.read_exact(&mut bytes)?;
        Ok(Step::Write { at: at * self.sector as u64, bytes, kept: flags & (FUA | FLUSH) != 0 })
    }
}

impl<R: Read> Iterator for Record<R> {
    type Item = io::Result<Step>;

    fn next(&mut self) -> Option<io::Result<Step>> {
        self.left = self.left.checked_sub(1)?;
        Some(self.step())
    }
}

/// Four numbers of eight bytes, little end first.
fn numbers(from: &mut impl Read) -> io::Result<[u64; 4]> {
    let mut bytes = [0; 32];
    from.read_exact(&mut bytes)?;
    Ok(std::array::from_fn(|index| {
        u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes"))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(numbers: [u64; 4]) -> Vec<u8> {
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.resize(512, 0);
        bytes
    }

    #[test]
    fn a_record_is_read_in_order() {
        let head = sector([MAGIC, VERSION, 4, 512]);
        let entries = [sector([7, 2, 0, 0]), vec![9; 1024], sector([0, 0, FLUSH, 0]), sector([3, 8, DISCARD, 0])];
        let last = [sector([1, 1, FUA, 0]), vec![5; 512], sector([2, 1, 0, 0])];
        let bytes = [&head[..], &entries.concat(), &last.concat()].concat();
        let steps: Vec<Step> = Record::read(&bytes[..]).unwrap().map(Result::unwrap).collect();
        let expected = [
            Step::Write { at: 7 * 512, bytes: vec![9; 1024], kept: false },
            Step::Flush,
            Step::Discard,
            Step::Write { at: 512, bytes: vec![5; 512], kept: true },
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        assert!(Record::read(&[0; 512][..]).is_err());
        let cut = sector([MAGIC, VERSION, 1, 512]);
        assert!(Record::read(&cut[..]).unwrap().next().unwrap().is_err());
    }
}
