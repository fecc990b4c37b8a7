//! What lies where on the disk: a value that can be read before anything is written.
//!
//! Start at [`plan`].
//!
//! Invariants:
//! * parts do not overlap, each begins on a border of 1 MiB but the ledger, and inside a slot on one of 4 KiB;
//! * an image that does not fit its slot is refused here, with the numbers.

use std::fmt;

use board::Board;
use slots::table::{Partition, Table};
use slots::{Contents, Extent};

use crate::error::{Result, wrong};

/// A sector's bytes.
pub const SECTOR: u64 = slots::sector::BYTES as u64;
const MIB: u64 = (1 << 20) / SECTOR;
/// In a slot everything begins on a page.
const PAGE: u64 = 4096 / SECTOR;
/// Says to PID 1 which disk is ours.
pub const SIGNATURE: u32 = 0x5ce7_2e01;

const KIND_FAT: u8 = 0x0c;
const KIND_LINUX: u8 = 0x83;
const KIND_DATA: u8 = 0xda;

/// What goes into a slot, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Artifacts {
    /// The kernel, packed or not.
    pub kernel: u64,
    /// The initramfs.
    pub initramfs: u64,
    /// The device tree; 0 for none.
    pub devicetree: u64,
    /// The root.
    pub root: u64,
    /// The hashes over it.
    pub hashes: u64,
}

#[cfg(test)]
impl Artifacts {
    /// Sizes as they are today, roughly.
    pub fn example() -> Artifacts {
        Artifacts { kernel: 44_158_912, initramfs: 3_000_001, devicetree: 0, root: 40_000_000, hashes: 319_488 }
    }
}

/// A part of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// Its first sector.
    pub at: u64,
    /// Its sectors.
    pub sectors: u64,
    /// Its type in the partition table, where it stands there.
    pub kind: Option<u8>,
}

impl Part {
    /// Whether the processor's own firmware looks here.
    pub fn boots(&self) -> bool {
        self.kind == Some(KIND_FAT)
    }
}

/// A whole disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The board it is for.
    pub board: String,
    /// Its parts, in order.
    pub parts: Vec<Part>,
    /// What lies where in a slot.
    pub contents: Contents,
}

/// Decides what lies where.
pub fn plan(board: &Board, artifacts: &Artifacts) -> Result<Layout> {
    let contents = contents(artifacts);
    // The end of a slot says what is in it.
    let head = bundle::head::ROOM / SECTOR;
    let (used, room) = (contents.hashes.at + contents.hashes.sectors + head, board.slot_mib * MIB);
    if used > room {
        return Err(wrong(format_args!(
            "the image for {} takes {} MiB, and its slots hold {} (disk.slot_mib)",
            board.name,
            used.div_ceil(MIB),
            board.slot_mib
        )));
    }
    let mut parts = vec![Part { name: "partition table", at: 0, sectors: 1, kind: None }];
    parts.extend(slots::store::PLACES.map(|at| Part { name: "ledger", at, sectors: 1, kind: None }));
    let mut at = MIB;
    let partitions = [
        ("firmware", KIND_FAT, board.firmware_mib),
        ("slot a", KIND_DATA, board.slot_mib),
        ("slot b", KIND_DATA, board.slot_mib),
        ("data", KIND_LINUX, board.data_mib),
    ];
    for (name, kind, mib) in partitions {
        parts.push(Part { name, at, sectors: mib * MIB, kind: Some(kind) });
        at += mib * MIB;
    }
    Ok(Layout { board: board.name.clone(), parts, contents })
}

fn contents(artifacts: &Artifacts) -> Contents {
    let mut at = PAGE;
    let mut next = |bytes: u64| {
        let extent = Extent { at, sectors: bytes.div_ceil(SECTOR) };
        at += extent.sectors.next_multiple_of(PAGE);
        extent
    };
    Contents {
        kernel: next(artifacts.kernel),
        initramfs: next(artifacts.initramfs),
        initramfs_bytes: artifacts.initramfs,
        devicetree: next(artifacts.devicetree),
        root: next(artifacts.root),
        hashes: next(artifacts.hashes),
    }
}

impl Layout {
    /// The part of that name.
    pub fn part(&self, name: &str) -> &Part {
        self.parts.iter().find(|part| part.name == name).expect("a plan has all its parts")
    }

    /// The length of the disk, in sectors.
    pub fn sectors(&self) -> u64 {
        self.parts.iter().map(|part| part.at + part.sectors).max().unwrap_or(0)
    }

    /// The partition table.
    pub fn table(&self) -> Table {
        let small = |sectors: u64| u32::try_from(sectors).expect("a board's sizes are checked to stay below 2 TiB");
        let partitions = ["firmware", "slot a", "slot b", "data"].map(|name| {
            let part = self.part(name);
            let kind = part.kind.expect("a partition has a type");
            Partition { kind, boot: part.boots(), at: small(part.at), sectors: small(part.sectors) }
        });
        Table { signature: SIGNATURE, partitions }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "disk for {}, {} MiB", self.board, self.sectors() / MIB)?;
        for part in &self.parts {
            writeln!(out, "  {:>9}  {:>9}  {}", part.at, part.sectors, part.name)?;
        }
        writeln!(out, "in a slot")?;
        let extents = [
            ("kernel", self.contents.kernel),
            ("initramfs", self.contents.initramfs),
            ("device tree", self.contents.devicetree),
            ("root", self.contents.root),
            ("hashes", self.contents.hashes),
        ];
        for (name, extent) in extents.into_iter().filter(|(_, extent)| extent.sectors > 0) {
            writeln!(out, "  {:>9}  {:>9}  {name}", extent.at, extent.sectors)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tree;

    fn board() -> Board {
        board::read(&Tree::ours().boards(), "qemu-arm64").unwrap()
    }

    #[test]
    fn the_plan_for_qemu_is_the_golden_one() {
        let layout = plan(&board(), &Artifacts::example()).unwrap();
        let expected = "\
disk for qemu-arm64, 1313 MiB
          0          1  partition table
         16          1  ledger
       1040          1  ledger
       2048      65536  firmware
      67584    1048576  slot a
    1116160    1048576  slot b
    2164736     524288  data
in a slot
          8      86248  kernel
      86256       5860  initramfs
      92120      78125  root
     170248        624  hashes
";
        assert_eq!(layout.to_string(), expected);
    }

    #[test]
    fn parts_do_not_overlap() {
        for name in board::names(&Tree::ours().boards()) {
            let board = board::read(&Tree::ours().boards(), &name).unwrap();
            let layout = plan(&board, &Artifacts::example()).unwrap();
            for pair in layout.parts.windows(2) {
                assert!(pair[0].at + pair[0].sectors <= pair[1].at, "{name}: {pair:?}");
            }
        }
    }

    #[test]
    fn an_image_too_large_for_its_slot_is_refused_with_numbers() {
        let artifacts = Artifacts { root: 600 << 20, ..Artifacts::example() };
        let error = plan(&board(), &artifacts).unwrap_err().to_string();
        assert_eq!(error, "the image for qemu-arm64 takes 647 MiB, and its slots hold 512 (disk.slot_mib)");
    }
}
