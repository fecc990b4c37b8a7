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
use crate::layout::{Layout, SECTOR, SIGNATURE};

/// A part: its name in the layout, its file, the partition's type where it is one.
const PARTS: [(&str, &str, Option<&str>); 4] = [
    ("ledger", "ledger.img", None),
    ("firmware", "firmware.fat", Some("0xC")),
    ("slot a", "slot-a.img", Some("0xDA")),
    ("data", "data.ext4", Some("0x83")),
];
/// The second slot is empty until the first update.
const SPARE: (&str, &str) = ("slot b", "0xDA");

/// Writes the parts of `image` and `genimage.cfg` into a folder.
pub fn write(image: &Image, into: &Path) -> Result<()> {
    folder(into)?;
    let mut disk = File::open(&image.disk).doing(format_args!("open {}", image.disk.display()))?;
    for (name, file, _) in PARTS {
        let part = image.layout.part(name);
        let path = into.join(file);
        let mut output = File::create(&path).doing(format_args!("write {}", path.display()))?;
        disk.seek(SeekFrom::Start(part.at * SECTOR)).doing("read the disk")?;
        let sectors = if name == "slot a" { used(&image.layout) } else { part.sectors };
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
    let mut add = |name: &str, lines: &[String]| {
        let lines: String = lines.iter().map(|line| format!("\t\t{line}\n")).collect();
        text.push_str(&format!("\tpartition {} {{\n{lines}\t}}\n", name.replace(' ', "-")));
    };
    let place = |name: &str| {
        let part = layout.part(name);
        [format!("offset = {}", part.at * SECTOR), format!("size = {}", part.sectors * SECTOR)]
    };
    for (name, file, kind) in PARTS {
        let mut lines = vec![format!("image = \"{file}\"")];
        match kind {
            None => lines.push("in-partition-table = false".to_owned()),
            Some(kind) => lines.push(format!("partition-type = {kind}")),
        }
        if name == "firmware" {
            lines.push("bootable = true".to_owned());
        }
        lines.extend(place(name));
        if name == "data" {
            let lines: Vec<String> =
                [format!("partition-type = {}", SPARE.1)].into_iter().chain(place(SPARE.0)).collect();
            add(SPARE.0, &lines);
        }
        add(name, &lines);
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
