//! The partition table in a disk's first sector: four primary partitions and a signature.
//!
//! Start at [`Table`].
//!
//! Not here: cylinders and heads, which nothing that boots a board still reads; they are filled with their largest values.

use crate::sector::{BYTES, Sector};

const FIRST_ENTRY: usize = 446;
const ENTRY_BYTES: usize = 16;

/// A disk's partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// The number that tells this disk from others.
    pub signature: u32,
    /// The partitions, the unused ones with no sectors.
    pub partitions: [Partition; 4],
}

/// One partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// What is in it, by the old convention: 0x0c FAT, 0x83 Linux, 0xda raw data.
    pub kind: u8,
    /// Whether a boot loader looks here.
    pub boot: bool,
    /// Its first sector.
    pub at: u32,
    /// Its sectors.
    pub sectors: u32,
}

impl Table {
    /// The table in a first sector, where there is one.
    pub fn decode(sector: &Sector) -> Option<Table> {
        if sector[BYTES - 2..] != [0x55, 0xaa] {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], sector[at + 3]]);
        let partitions = core::array::from_fn(|index| {
            let at = FIRST_ENTRY + index * ENTRY_BYTES;
            Partition { boot: sector[at] == 0x80, kind: sector[at + 4], at: word(at + 8), sectors: word(at + 12) }
        });
        Some(Table { signature: word(440), partitions })
    }

    /// Writes the table into a first sector and leaves the code in front of it alone.
    pub fn write(&self, sector: &mut Sector) {
        sector[440..444].copy_from_slice(&self.signature.to_le_bytes());
        for (index, partition) in self.partitions.iter().enumerate() {
            let at = FIRST_ENTRY + index * ENTRY_BYTES;
            let entry = &mut sector[at..at + ENTRY_BYTES];
            entry.fill(0);
            if partition.sectors == 0 {
                continue;
            }
            entry[0] = if partition.boot { 0x80 } else { 0 };
            entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
            entry[4] = partition.kind;
            entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
            entry[8..12].copy_from_slice(&partition.at.to_le_bytes());
            entry[12..16].copy_from_slice(&partition.sectors.to_le_bytes());
        }
        sector[BYTES - 2..].copy_from_slice(&[0x55, 0xaa]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_survives_the_round_and_leaves_the_code_alone() {
        let mut table = Table { signature: 0x5ce7_7a11, partitions: [Partition::default(); 4] };
        table.partitions[0] = Partition { kind: 0x0c, boot: true, at: 2048, sectors: 65536 };
        table.partitions[3] = Partition { kind: 0x83, boot: false, at: 900_000, sectors: u32::MAX };
        let mut sector = [0xee; BYTES];
        table.write(&mut sector);
        assert_eq!(Table::decode(&sector), Some(table));
        assert!(sector[..440].iter().all(|byte| *byte == 0xee));
    }

    #[test]
    fn a_sector_without_the_mark_is_no_table() {
        assert_eq!(Table::decode(&[0; BYTES]), None);
    }
}
