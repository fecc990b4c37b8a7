//! An image in parts, for systems that put disks together themselves.
//!
//! Start at [`write`]. What lies where is the disk's own [`Layout`]; [`genimage`] says it in genimage's words, which Buildroot
//! uses, so that somebody can add to it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::build::Image;
use crate::error::{Doing, Result};
use crate::host::folder;
use crate::layout::{Layout, Part, SECTOR, SIGNATURE};

/// The parts that a disk is put together of, and their files. The second slot is empty until the first update; of the two places
/// of the ledger the first is written.
const FILES: [(&str, Option<&str>); 5] = [
    ("ledger", Some("ledger.img")),
    ("firmware", Some("firmware.fat")),
    ("slot a", Some("slot-a.img")),
    ("slot b", None),
    ("data", Some("data.ext4")),
];

/// The parts of a disk, in order, each with its file where it has one.
pub fn parts(layout: &Layout) -> impl Iterator<Item = (&Part, Option<&'static str>)> {
    FILES.into_iter().map(|(name, file)| (layout.part(name), file))
}

/// Writes the parts of `image` and `genimage.cfg` into a folder.
pub fn write(image: &Image, into: &Path) -> Result<()> {
    folder(into)?;
    let mut disk = File::open(&image.disk).doing(format_args!("open {}", image.disk.display()))?;
    for (part, file) in parts(&image.layout) {
        let Some(file) = file else { continue };
        let path = into.join(file);
        let mut output = File::create(&path).doing(format_args!("write {}", path.display()))?;
        disk.seek(SeekFrom::Start(part.at * SECTOR)).doing("read the disk")?;
        let sectors = if part.name == "slot a" { used(&image.layout) } else { part.sectors };
        std::io::copy(&mut (&mut disk).take(sectors * SECTOR), &mut output)
            .doing(format_args!("write {}", path.display()))?;
    }
    let path = into.join("genimage.cfg");
    fs::write(&path, genimage(&image.layout)).doing(format_args!("write {}", path.display()))
}

/// So many sectors of a slot hold something.
fn used(layout: &Layout) -> u64 {
    layout.contents.hashes.at + layout.contents.hashes.sectors
}

/// The disk in genimage's words.
pub fn genimage(layout: &Layout) -> String {
    let mut text = format!(
        "# {}: what lies where, as the assembler decides it.\nimage disk.img {{\n\thdimage {{\n\t\tpartition-table-type = \"mbr\"\n\
         \t\tdisk-signature = 0x{SIGNATURE:08x}\n\t}}\n",
        layout.board
    );
    for (part, file) in parts(layout) {
        let mut lines: Vec<String> = file.map(|file| format!("image = \"{file}\"")).into_iter().collect();
        lines.push(match part.kind {
            None => "in-partition-table = false".to_owned(),
            Some(kind) => format!("partition-type = {kind:#X}"),
        });
        if part.boots() {
            lines.push("bootable = true".to_owned());
        }
        lines.push(format!("offset = {}", part.at * SECTOR));
        lines.push(format!("size = {}", part.sectors * SECTOR));
        let lines: String = lines.iter().map(|line| format!("\t\t{line}\n")).collect();
        text.push_str(&format!("\tpartition {} {{\n{lines}\t}}\n", part.name.replace(' ', "-")));
    }
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tree;
    use crate::layout::{Artifacts, plan};

    #[test]
    fn genimage_is_told_the_layout() {
        let board = board::read(&Tree::ours().boards(), "qemu-arm64").unwrap();
        let text = genimage(&plan(&board, &Artifacts::example()).unwrap());
        let places: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '}'])).collect();
        let expected = "\
image disk.img {
hdimage {
partition-table-type = \"mbr\"
disk-signature = 0x5ce72e01
partition ledger {
image = \"ledger.img\"
in-partition-table = false
offset = 8192
size = 512
partition firmware {
image = \"firmware.fat\"
partition-type = 0xC
bootable = true
offset = 1048576
size = 33554432
partition slot-a {
image = \"slot-a.img\"
partition-type = 0xDA
offset = 34603008
size = 536870912
partition slot-b {
partition-type = 0xDA
offset = 571473920
size = 536870912
partition data {
image = \"data.ext4\"
partition-type = 0x83
offset = 1108344832
size = 268435456";
        assert_eq!(places.join("\n"), expected);
    }
}
