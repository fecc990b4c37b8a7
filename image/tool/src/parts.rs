//! An image in parts, for systems that put disks together themselves.
//!
//! Start at [`write`]. What lies where is the disk's own [`Layout`]; [`genimage`] says it in genimage's words, which Buildroot
//! uses, so that somebody can add to it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::build::{Image, put};
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
    cut(&mut disk, &image.layout, into)?;
    let path = into.join("genimage.cfg");
    fs::write(&path, genimage(&image.layout)).doing(format_args!("write {}", path.display()))
}

/// Each part whole: a slot says at its very end what is in it, and whoever leaves that out makes a board that takes any older
/// image. What lies between is a hole in the file, too.
fn cut(disk: &mut File, layout: &Layout, into: &Path) -> Result<()> {
    for (part, file) in parts(layout) {
        let Some(file) = file else { continue };
        let path = into.join(file);
        let mut output = File::create(&path).doing(format_args!("write {}", path.display()))?;
        output.set_len(part.sectors * SECTOR).doing(format_args!("write {}", path.display()))?;
        disk.seek(SeekFrom::Start(part.at * SECTOR)).doing("read the disk")?;
        put(&mut output, 0, &mut (&mut *disk).take(part.sectors * SECTOR))?;
    }
    Ok(())
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
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_slot_in_parts_says_what_the_disks_says_of_it() {
        let board = board::read(&Tree::ours().boards(), "qemu-arm64").unwrap();
        let layout = plan(&board, &Artifacts::example()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let mut disk = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        disk.set_len(layout.sectors() * SECTOR).unwrap();
        put(&mut disk, layout.part("slot a").at, &mut &layout.contents.encode()[..]).unwrap();
        crate::bundle::put_head(&board, &layout, &path).unwrap();
        cut(&mut disk, &layout, folder.path()).unwrap();
        let slot = fs::metadata(folder.path().join("slot-a.img")).unwrap();
        assert_eq!(slot.len(), layout.part("slot a").sectors * SECTOR);
        assert!(slot.blocks() * 512 < 4 << 20, "{} blocks: what is empty takes no room", slot.blocks());
        let bytes = fs::read(folder.path().join("slot-a.img")).unwrap();
        assert_eq!(bytes[..slots::sector::BYTES], layout.contents.encode());
        let (head, ..) = bundle::Head::decode(&bytes[bytes.len() - bundle::head::ROOM as usize..]).unwrap();
        assert_eq!((head.board.as_str(), head.security_epoch), ("qemu-arm64", crate::bundle::SECURITY_EPOCH));
        assert!(!folder.path().join("slot-b.img").exists());
    }

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
