//! Layers, unpacked as overlayfs wants them.
//!
//! Start at [`unpack`]. A layer says what it adds, and by names that begin with `.wh.` what it takes away; overlayfs says the
//! second with device nodes 0/0 and an attribute.
//!
//! Invariants:
//! * what comes out is counted, what a sparse file has more of than the layer too (`limit.rs`);
//! * nothing is written outside the folder, whatever the names and links in the layer are (`sys::files::Root`);
//! * owners, modes, times, attributes (file capabilities too), hard links and nodes arrive as they are.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sys::files::{self, Node, Root};

use crate::error::{Doing, OciError};
use crate::limit::Metering;
use crate::recipe::Recorder;

/// A layer holds at most so many entries; larger ones are somebody's attack.
const ENTRIES_MAX: u64 = 4_000_000;

/// How overlayfs marks a folder that hides what is below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// Undoes the compression that a layer's first bytes show.
pub(crate) fn decompressed<'a>(reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let start = io::BufRead::fill_buf(&mut reader)?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(reader)?),
        _ => Box::new(reader),
    })
}

/// Unpacks a tar stream into `folder`, and says on the way what of it is where. The answer is the bytes its files hold.
pub(crate) fn unpack(
    stream: impl Read,
    folder: &Path,
    recorder: &Recorder,
    metering: &Metering<'_>,
) -> Result<u64, OciError> {
    let root = Root::open(folder)?;
    let mut bytes = 0;
    let mut folders: Vec<(PathBuf, i64)> = Vec::new();
    let mut archive = tar::Archive::new(stream);
    let mut entries = archive.entries().doing("read a layer")?;
    let (mut number, mut unread) = (0, 0);
    loop {
        metering.headers_begin(unread);
        let Some(entry) = entries.next() else { break };
        metering.headers_end();
        number += 1;
        if number > ENTRIES_MAX {
            return Err(OciError::malformed("a layer", format!("it has more than {ENTRIES_MAX} entries")));
        }
        let mut entry = entry.doing("read a layer")?;
        unread = entry.size();
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&entry.path_bytes()));
        if is_root(&path) {
            continue;
        }
        bytes += one(&root, &path, &mut entry, &mut folders, recorder, metering)?;
    }
    metering.headers_end();
    // Last, as every file in it would set the folder's time anew; the deepest first changes nothing here.
    for (path, seconds) in folders {
        let (parent, name) = root.parent_of(&path)?;
        files::set_modified(&parent, &name, seconds)?;
    }
    Ok(bytes)
}

fn is_root(path: &Path) -> bool {
    path.components().all(|part| !matches!(part, std::path::Component::Normal(_)))
}

fn one<R: Read>(
    root: &Root,
    path: &Path,
    entry: &mut tar::Entry<'_, R>,
    folders: &mut Vec<(PathBuf, i64)>,
    recorder: &Recorder,
    metering: &Metering<'_>,
) -> Result<u64, OciError> {
    let (parent, name) = root.parent_of(path)?;
    if let Some(hidden) = name.to_bytes().strip_prefix(b".wh.") {
        return hide(root, path, &parent, hidden, recorder).map(|()| 0);
    }
    let header = entry.header().clone();
    let malformed = |error: io::Error| OciError::malformed(format!("layer entry {}", path.display()), error);
    let fields = header.as_old();
    let mode = number(&fields.mode, || header.mode().map(u64::from)).map_err(malformed)? as u32 & 0o7777;
    let seconds = number(&fields.mtime, || header.mtime()).map_err(malformed)? as i64;
    let kind = header.entry_type();
    let is_folder = kind.is_dir();
    if files::kind_of(&parent, &name).is_some_and(|found| found != libc::S_IFDIR || !is_folder) {
        files::remove(&parent, &name)?;
        recorder.is_lost();
    }
    let mut length = 0;
    match kind {
        tar::EntryType::Directory => {
            files::make_folder(&parent, &name, 0o755)?;
            folders.push((path.to_owned(), seconds));
        }
        tar::EntryType::Regular | tar::EntryType::Continuous => {
            recorder.content(entry.raw_file_position(), entry.size(), path);
            length = write(&parent, &name, path, entry)?;
        }
        // What a sparse file holds is not what the tar holds of it.
        tar::EntryType::GNUSparse => length = write(&parent, &name, path, &mut metering.tap(&mut *entry))?,
        tar::EntryType::Symlink => files::make_link(&parent, &name, &link_target(entry, path)?)?,
        tar::EntryType::Link => {
            let target = link_target(entry, path)?;
            let (from, source) = root.parent_of(&target)?;
            // A hard link has no owner and mode of its own.
            return Ok(files::make_hard_link(&from, &source, &parent, &name).map(|()| 0)?);
        }
        tar::EntryType::Char | tar::EntryType::Block => {
            let device = |found: io::Result<Option<u32>>| found.map(Option::unwrap_or_default).map_err(malformed);
            let (major, minor) = (device(header.device_major())?, device(header.device_minor())?);
            let is_block = kind == tar::EntryType::Block;
            let node = if is_block { Node::Block(major, minor) } else { Node::Character(major, minor) };
            files::make_node(&parent, &name, node, mode)?;
        }
        tar::EntryType::Fifo => files::make_node(&parent, &name, Node::Pipe, mode)?,
        // Headers about headers; the tar crate has used them already.
        _ => return Ok(0),
    }
    let uid = number(&fields.uid, || header.uid()).map_err(malformed)? as u32;
    let gid = number(&fields.gid, || header.gid()).map_err(malformed)? as u32;
    files::set_owner(&parent, &name, uid, gid)?;
    // After the owner: giving a file away takes its capabilities and set-user-id bit.
    if kind != tar::EntryType::Symlink {
        files::set_mode_at(&parent, &name, mode)?;
    }
    attributes(entry, path, &parent, &name)?;
    if !is_folder {
        files::set_modified(&parent, &name, seconds)?;
    }
    Ok(length)
}

/// A number of a header. Some writers leave it blank, which is 0.
fn number(field: &[u8], read: impl Fn() -> io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { read() }
}

/// What overlayfs takes for "not here (any more)".
fn hide(root: &Root, path: &Path, parent: &File, hidden: &[u8], recorder: &Recorder) -> Result<(), OciError> {
    if hidden == b".wh..opq" {
        let folder = path.parent().unwrap_or(Path::new(""));
        if is_root(folder) {
            return Ok(files::set_attribute(root, c".", OPAQUE, b"y")?);
        }
        let (above, name) = root.parent_of(folder)?;
        return Ok(files::set_attribute(&above, &name, OPAQUE, b"y")?);
    }
    // Other names with two prefixes are notes of long-gone storage drivers.
    if hidden.starts_with(b".wh.") || matches!(hidden, b"" | b"." | b"..") {
        return Ok(());
    }
    let name = CString::new(hidden).map_err(|error| OciError::malformed("a whiteout", error))?;
    if files::kind_of(parent, &name).is_some() {
        files::remove(parent, &name)?;
        recorder.is_lost();
    }
    Ok(files::make_node(parent, &name, Node::Character(0, 0), 0)?)
}

fn write(parent: &File, name: &CStr, path: &Path, content: &mut impl Read) -> Result<u64, OciError> {
    let folder = Root::from_fd(parent.try_clone().doing("copy a descriptor")?.into(), path);
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let mut file = folder.open_at(Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())), flags, 0o600)?;
    io::copy(content, &mut file).doing(format!("write {}", path.display()))
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>, path: &Path) -> Result<PathBuf, OciError> {
    let missing = || OciError::malformed(format!("layer entry {}", path.display()), "it is a link to nothing");
    let target = entry.link_name_bytes().ok_or_else(missing)?;
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(&target)))
}

/// Attributes come in pax headers, under the name that Schily's tar gave them.
fn attributes<R: Read>(entry: &mut tar::Entry<'_, R>, path: &Path, parent: &File, name: &CStr) -> Result<(), OciError> {
    let Some(extensions) = entry.pax_extensions().doing(format!("read the headers of {}", path.display()))? else {
        return Ok(());
    };
    for extension in extensions {
        let extension = extension.doing(format!("read the headers of {}", path.display()))?;
        let key = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."));
        // overlayfs's own words are ours to say, never the layer's.
        let Some(key) = key.filter(|key| !key.starts_with("trusted.overlay.")) else { continue };
        files::set_attribute(parent, name, key, extension.value_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use super::*;
    use crate::limit::{Limit, Meter};
    use crate::recipe::Retold;

    /// A layer, from lines of `kind name [link or content]`.
    fn layer(lines: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for line in lines {
            let mut words = line.splitn(3, ' ');
            let (kind, name, rest) =
                (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next().unwrap_or(""));
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o4755);
            header.set_uid(7);
            header.set_gid(8);
            header.set_mtime(1_000_000);
            let mut content: &[u8] = b"";
            match kind {
                "dir" => header.set_entry_type(tar::EntryType::Directory),
                "link" => header.set_entry_type(tar::EntryType::Symlink),
                "hard" => header.set_entry_type(tar::EntryType::Link),
                "null" => {
                    header.set_entry_type(tar::EntryType::Char);
                    header.set_device_major(1).expect("fits");
                    header.set_device_minor(3).expect("fits");
                }
                "cap" => {
                    let value = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
                    let extensions = [("SCHILY.xattr.security.capability", &value[..])];
                    builder.append_pax_extensions(extensions).expect("written");
                }
                _ => content = rest.as_bytes(),
            }
            header.set_size(content.len() as u64);
            // Written by hand: the builder refuses the names that an attacker would choose.
            header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
            if matches!(kind, "link" | "hard") {
                header.as_gnu_mut().expect("gnu").linkname[..rest.len()].copy_from_slice(rest.as_bytes());
            }
            header.set_cksum();
            builder.append(&header, content).expect("written");
        }
        builder.into_inner().expect("finished")
    }

    fn unpacked(lines: &[&str]) -> (tempfile::TempDir, Result<u64, OciError>) {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("fs")).expect("made");
        let layer = layer(lines);
        let path = folder.path().join("recipe");
        let recorder = Recorder::create(&path).expect("a recipe");
        let mut tap = recorder.tap(&layer[..]);
        let (limit, target) = (Limit::none(), folder.path().join("fs"));
        let answer = unpack(&mut tap, &target, &recorder, &Metering::new(Meter::new(&limit, &target)));
        std::io::copy(&mut tap, &mut std::io::sink()).expect("read on");
        drop(tap);
        if !recorder.finish().expect("written") || answer.is_err() {
            fs::remove_file(path).expect("removed");
        }
        (folder, answer)
    }

    /// The layer as it is handed on.
    fn retold(lines: &[&str]) -> Option<Vec<u8>> {
        let (folder, answer) = unpacked(lines);
        answer.expect("unpacked");
        let mut retold = Retold::open(folder.path()).expect("readable")?;
        let mut bytes = Vec::new();
        retold.read_to_end(&mut bytes).expect("all of it");
        assert_eq!(retold.length(), bytes.len() as u64);
        Some(bytes)
    }

    #[test]
    fn a_layer_is_handed_on_byte_for_byte() {
        let lines =
            ["dir d", "file d/a hello", "hard d/b d/a", "link l d", "file l/c through", "null n", "cap c x", "file e"];
        assert_eq!(retold(&lines), Some(layer(&lines)));
        assert_eq!(
            retold(&["file d/.wh.a", "file d/.wh..wh..opq"]),
            Some(layer(&["file d/.wh.a", "file d/.wh..wh..opq"]))
        );
    }

    #[test]
    fn what_a_layer_took_from_itself_cannot_be_handed_on() {
        assert_eq!(retold(&["file a x", "file a y"]), None);
        assert_eq!(retold(&["file a x", "file .wh.a"]), None);
    }

    #[test]
    fn a_file_that_was_changed_is_not_handed_on() {
        let (folder, _) = unpacked(&["file a hello"]);
        fs::write(folder.path().join("fs/a"), "longer than it was").expect("written");
        let mut retold = Retold::open(folder.path()).expect("readable").expect("a recipe");
        let error = retold.read_to_end(&mut Vec::new()).expect_err("it is another");
        assert_eq!(error.to_string(), "a in a layer is not what was unpacked");
    }

    #[test]
    fn everything_arrives_as_it_is() {
        let (folder, answer) =
            unpacked(&["dir d", "file d/a hello", "hard d/b d/a", "link d/l ../x", "null n", "cap c x"]);
        assert_eq!(answer.expect("unpacked"), 5, "bytes in files");
        let root = folder.path().join("fs");
        let found = fs::metadata(root.join("d/a")).expect("there");
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777, found.mtime()), (7, 8, 0o4755, 1_000_000));
        assert_eq!(found.ino(), fs::metadata(root.join("d/b")).expect("there").ino());
        assert_eq!(fs::read_link(root.join("d/l")).expect("a link"), Path::new("../x"));
        assert_eq!(fs::metadata(root.join("d")).expect("there").mtime(), 1_000_000);
        assert!(fs::metadata(root.join("n")).expect("there").file_type().is_char_device());
        assert_eq!(files::attribute(&root.join("c"), "security.capability").expect("kept").len(), 20);
    }

    #[test]
    fn what_is_hidden_is_said_as_overlayfs_says_it() {
        let (folder, answer) = unpacked(&["dir d", "file d/.wh..wh..opq", "file d/.wh.gone"]);
        answer.expect("unpacked");
        let root = folder.path().join("fs");
        assert_eq!(files::attribute(&root.join("d"), OPAQUE).as_deref(), Some(&b"y"[..]));
        let gone = fs::metadata(root.join("d/gone")).expect("a whiteout");
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    }

    #[test]
    fn nothing_leaves_the_folder() {
        let lines = ["file ../out x", "file /abs x", "link way ../..", "file way/out x", "hard h ../../etc/passwd"];
        for count in 1..=lines.len() {
            let (folder, _) = unpacked(&lines[..count]);
            let beside: Vec<_> = fs::read_dir(folder.path()).expect("listed").flatten().collect();
            assert!(
                beside.iter().all(|entry| ["fs", "recipe"].iter().any(|name| entry.file_name() == *name)),
                "{beside:?}"
            );
        }
        let (_folder, answer) = unpacked(&["hard h ../../etc/passwd"]);
        assert!(answer.is_err(), "there is no etc/passwd inside");
    }

    #[test]
    fn a_later_entry_replaces_an_earlier_one() {
        let (folder, answer) = unpacked(&["file a x", "dir a", "file a/b y", "file c 1", "file c 22"]);
        answer.expect("unpacked");
        assert_eq!(fs::read_to_string(folder.path().join("fs/c")).expect("there"), "22");
        assert!(folder.path().join("fs/a/b").exists());
    }
}
