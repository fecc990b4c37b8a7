//! The first sector of a slot: what lies where in it.
//!
//! Start at [`Contents`]. The boot script imports the sector as it does the ledger's and reads kernel, initramfs and device
//! tree by the numbers in it; everything counts sectors from the slot's start.

use crate::sector::{self, Sector, hex};

/// A run of sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The first, from the slot's start.
    pub at: u64,
    /// How many.
    pub sectors: u64,
}

/// What lies where in a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The kernel.
    pub kernel: Extent,
    /// The initramfs.
    pub initramfs: Extent,
    /// Its length in bytes, which the kernel wants to know.
    pub initramfs_bytes: u64,
    /// The device tree; no sectors where the machine brings its own.
    pub devicetree: Extent,
    /// The root file system.
    pub root: Extent,
    /// The hashes over it.
    pub hashes: Extent,
}

impl Contents {
    /// The sector.
    pub fn encode(&self) -> Sector {
        let numbers = self.numbers().map(|(name, number)| (name, hex(number)));
        let mut pairs = [("", ""); NAMES.len()];
        for (pair, (name, text)) in pairs.iter_mut().zip(&numbers) {
            *pair = (name, text.as_str());
        }
        sector::from_pairs(&pairs).expect("eleven short strings fit a sector")
    }

    /// What a sector says; nothing where it is not the first sector of a whole slot.
    pub fn decode(bytes: &Sector) -> Option<Contents> {
        let pairs = sector::pairs(bytes)?;
        let number = |name: &str| {
            let value = pairs.iter().find(|(given, _)| *given == name).map(|(_, value)| *value)?;
            u64::from_str_radix(value, 16).ok()
        };
        let extent = |at, count| Some(Extent { at: number(at)?, sectors: number(count)? });
        Some(Contents {
            kernel: extent(NAMES[0], NAMES[1])?,
            initramfs: extent(NAMES[2], NAMES[3])?,
            initramfs_bytes: number(NAMES[4])?,
            devicetree: extent(NAMES[5], NAMES[6])?,
            root: extent(NAMES[7], NAMES[8])?,
            hashes: extent(NAMES[9], NAMES[10])?,
        })
    }

    fn numbers(&self) -> [(&'static str, u64); NAMES.len()] {
        let values = [
            self.kernel.at,
            self.kernel.sectors,
            self.initramfs.at,
            self.initramfs.sectors,
            self.initramfs_bytes,
            self.devicetree.at,
            self.devicetree.sectors,
            self.root.at,
            self.root.sectors,
            self.hashes.at,
            self.hashes.sectors,
        ];
        core::array::from_fn(|index| (NAMES[index], values[index]))
    }
}

/// The names in the sector, in the order of the fields; the boot script uses them as variables.
pub const NAMES: [&str; 11] = [
    "kernel_at",
    "kernel_n",
    "initrd_at",
    "initrd_n",
    "initrd_bytes",
    "dtb_at",
    "dtb_n",
    "root_at",
    "root_n",
    "hash_at",
    "hash_n",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sector_says_what_was_said() {
        let contents = Contents {
            kernel: Extent { at: 8, sectors: 90000 },
            initramfs: Extent { at: 90008, sectors: 8000 },
            initramfs_bytes: 4_000_001,
            devicetree: Extent::default(),
            root: Extent { at: 98008, sectors: 64000 },
            hashes: Extent { at: 162008, sectors: 512 },
        };
        assert_eq!(Contents::decode(&contents.encode()), Some(contents));
    }

    #[test]
    fn a_ledger_is_not_a_slot() {
        assert_eq!(Contents::decode(&sector::encode(&crate::Ledger::new())), None);
    }
}
