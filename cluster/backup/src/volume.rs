//! Folders as tar archives in a snapshot, and back.
//!
//! Start at [`pack`] and [`unpack`].
//!
//! Invariants:
//! * owners, modes, times and symbolic links arrive as they are; nothing is written outside the folder;
//! * a file that grows or shrinks while it is read is packed with the length it had when it was opened; one that vanishes is
//!   left out. A program that needs more than that has to be stopped, or asked to write a copy, before.
//!
//! Not here: sockets, pipes and devices, which are left out; hard links, which become files of their own.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use bytes::{Buf, Bytes};

use crate::error::Doing;
use crate::{BackupError, ReadError, Record, RecordReader, RecordWriter};

/// A chunk is about so long.
const CHUNK_BYTES: usize = 256 << 10;

/// Packs what is in `folder`. `file` is what is written to, for errors.
pub fn pack<W: Write>(folder: &Path, file: &Path, records: &mut RecordWriter<W>) -> Result<(), BackupError> {
    let metadata = fs::metadata(folder).doing("look at volume", folder)?;
    if !metadata.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory)).doing("read volume", folder);
    }
    let mut archive = tar::Builder::new(BufWriter::with_capacity(CHUNK_BYTES, Chunks(records)));
    header(&mut archive, Path::new("."), &metadata, io::empty()).doing("write", file)?;
    below(&mut archive, folder, Path::new(""), file)?;
    let buffered = archive.into_inner().doing("write", file)?;
    buffered.into_inner().map_err(io::IntoInnerError::into_error).doing("write", file)?;
    Ok(())
}

type Archive<'a, W> = tar::Builder<BufWriter<Chunks<'a, W>>>;

fn below<W: Write>(archive: &mut Archive<'_, W>, root: &Path, within: &Path, file: &Path) -> Result<(), BackupError> {
    let folder = root.join(within);
    let entries = fs::read_dir(&folder).doing("read volume", &folder)?;
    let mut names = names(entries.map(|entry| entry.map(|entry| entry.file_name()))).doing("read volume", &folder)?;
    names.sort();
    for name in names {
        let inner = within.join(name);
        match fs::symlink_metadata(root.join(&inner)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).doing("read volume", &root.join(&inner)),
            Ok(metadata) => one(archive, root, &inner, &metadata, file)?,
        }
    }
    Ok(())
}

/// All of them: a backup that lacks what the disk did not tell looks whole, and is not.
fn names(entries: impl Iterator<Item = io::Result<OsString>>) -> io::Result<Vec<OsString>> {
    entries.collect()
}

fn one<W: Write>(
    archive: &mut Archive<'_, W>,
    root: &Path,
    inner: &Path,
    metadata: &Metadata,
    file: &Path,
) -> Result<(), BackupError> {
    let (path, kind) = (root.join(inner), metadata.file_type());
    if kind.is_dir() {
        header(archive, inner, metadata, io::empty()).doing("write", file)?;
        return below(archive, root, inner, file);
    }
    if kind.is_symlink() {
        let target = fs::read_link(&path).doing("read volume", &path)?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(metadata);
        header.set_size(0);
        return archive.append_link(&mut header, inner, target).doing("write", file);
    }
    if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
        return Ok(());
    }
    let opened = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.doing("read volume", &path)?,
    };
    let metadata = opened.metadata().doing("read volume", &path)?;
    // Filled up, or cut off, to the length that its header says.
    let bytes = opened.chain(io::repeat(0)).take(metadata.len());
    header(archive, inner, &metadata, bytes).doing("pack", &path)
}

fn header<W: Write>(
    archive: &mut Archive<'_, W>,
    inner: &Path,
    metadata: &Metadata,
    bytes: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_metadata(metadata);
    if metadata.is_dir() {
        header.set_size(0);
    }
    archive.append_data(&mut header, inner, bytes)
}

/// Each write is a chunk.
struct Chunks<'a, W>(&'a mut RecordWriter<W>);

impl<W: Write> Write for Chunks<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.chunk(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the chunks that come next, and unpacks them to `folder` if one is given. The answer is the record behind them.
pub fn unpack<R: Read>(records: &mut RecordReader<R>, folder: Option<&Path>) -> Result<Option<Record>, UnpackError> {
    let mut chunks = Incoming { records, rest: Bytes::new(), behind: None, failed: None };
    let unpacked = match folder {
        Some(folder) => write_out(&mut chunks, folder),
        None => Ok(()),
    };
    // What fails to be read makes unpacking fail, but says why only here.
    let drained = io::copy(&mut chunks, &mut io::sink());
    if let Some(error) = chunks.failed {
        return Err(UnpackError::Read(error));
    }
    unpacked.map_err(UnpackError::Write)?;
    drained.map_err(|error| UnpackError::Read(error.into()))?;
    Ok(chunks.behind.flatten())
}

/// Why a volume was not unpacked.
#[derive(Debug)]
pub enum UnpackError {
    /// The backup.
    Read(ReadError),
    /// The folder.
    Write(BackupError),
}

struct Incoming<'a, R> {
    records: &'a mut RecordReader<R>,
    rest: Bytes,
    /// The record behind the last chunk, once it was seen.
    behind: Option<Option<Record>>,
    failed: Option<ReadError>,
}

impl<R: Read> Read for Incoming<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            if self.behind.is_some() || self.failed.is_some() {
                return Ok(0);
            }
            match self.records.next() {
                Ok(Some(Record::Chunk(bytes))) => self.rest = bytes,
                Ok(other) => self.behind = Some(other),
                Err(error) => {
                    self.failed = Some(error);
                    return Err(io::Error::from(io::ErrorKind::InvalidData));
                }
            }
        }
        let length = out.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut out[..length]);
        Ok(length)
    }
}

fn write_out(chunks: &mut impl Read, folder: &Path) -> Result<(), BackupError> {
    fs::create_dir_all(folder).doing("make", folder)?;
    // Owners are root's to give.
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let mut archive = tar::Archive::new(chunks);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(is_root);
    let mut folders = Vec::new();
    for entry in archive.entries().doing("unpack volume to", folder)? {
        let mut entry = entry.doing("unpack volume to", folder)?;
        if entry.header().entry_type().is_dir() {
            folders.push(entry);
        } else {
            entry.unpack_in(folder).doing("unpack volume to", folder)?;
        }
    }
    // Last, the innermost first: what is put into a folder would change its time, and its mode might forbid it.
    for mut entry in folders.into_iter().rev() {
        let is_itself = entry.path().is_ok_and(|path| path == Path::new("."));
        let unpacked =
            if is_itself { own(folder, entry.header(), is_root) } else { entry.unpack_in(folder).map(|_| ()) };
        unpacked.doing("unpack volume to", folder)?;
    }
    Ok(())
}

/// The owner and mode of the volume itself.
fn own(folder: &Path, header: &tar::Header, is_root: bool) -> io::Result<()> {
    let opened = File::open(folder)?;
    if is_root {
        let (user, group) = (header.uid()? as u32, header.gid()? as u32);
        sys::files::set_owner_of(&opened, Some(user), Some(group)).map_err(io::Error::other)?;
    }
    sys::files::set_mode(&opened, header.mode()? & 0o7777).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn packed(folder: &Path) -> Vec<u8> {
        let mut writer = RecordWriter::new(Vec::new());
        writer.volume("web").expect("memory takes it");
        pack(folder, Path::new("file"), &mut writer).expect("it can be packed");
        writer.end().expect("memory takes it")
    }

    fn unpacked(bytes: &[u8], folder: Option<&Path>) -> Result<Option<Record>, UnpackError> {
        let mut reader = RecordReader::new(bytes);
        assert!(matches!(reader.next(), Ok(Some(Record::Volume { .. }))));
        unpack(&mut reader, folder)
    }

    #[test]
    fn a_folder_arrives_as_it_was() {
        let (from, to) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        fs::create_dir(from.path().join("closed")).expect("made");
        fs::write(from.path().join("closed/file"), vec![7; 3 * CHUNK_BYTES]).expect("made");
        fs::write(from.path().join(".wh.odd"), "x").expect("made");
        symlink("../elsewhere", from.path().join("link")).expect("made");
        fs::set_permissions(from.path().join("closed"), fs::Permissions::from_mode(0o500)).expect("set");
        fs::set_permissions(from.path(), fs::Permissions::from_mode(0o1750)).expect("set");
        let target = to.path().join("web");
        assert!(unpacked(&packed(from.path()), Some(&target)).expect("it can be unpacked").is_none());
        let mode = |path: &str| fs::metadata(target.join(path)).expect("it is there").permissions().mode() & 0o7777;
        assert_eq!((mode("."), mode("closed")), (0o1750, 0o500));
        assert_eq!(fs::read(target.join("closed/file")).expect("it is there"), vec![7; 3 * CHUNK_BYTES]);
        assert_eq!(fs::read(target.join(".wh.odd")).expect("it is there"), b"x");
        assert_eq!(fs::read_link(target.join("link")).expect("it is there"), Path::new("../elsewhere"));
        fs::set_permissions(from.path().join("closed"), fs::Permissions::from_mode(0o700)).expect("set");
        fs::set_permissions(target.join("closed"), fs::Permissions::from_mode(0o700)).expect("set");
    }

    #[test]
    fn a_folder_of_which_the_disk_tells_a_part_is_none() {
        let told = || [Ok(OsString::from("a")), Ok(OsString::from("b"))];
        assert_eq!(names(told().into_iter()).expect("all of them"), ["a", "b"]);
        let broken = told().into_iter().chain([Err(io::Error::from_raw_os_error(5))]);
        let error = names(broken).doing("read volume", Path::new("/data")).expect_err("the rest is not known");
        assert_eq!(error.to_string(), "failed to read volume /data");
    }

    #[test]
    fn a_volume_can_be_passed_over() {
        let from = tempfile::tempdir().expect("a folder");
        fs::write(from.path().join("file"), "x").expect("made");
        let mut writer = RecordWriter::new(Vec::new());
        writer.volume("web").expect("memory takes it");
        pack(from.path(), Path::new("file"), &mut writer).expect("it can be packed");
        writer.volume("logs").expect("memory takes it");
        let bytes = writer.end().expect("memory takes it");
        let next = unpacked(&bytes, None).expect("it can be read");
        assert_eq!(next, Some(Record::Volume { name: "logs".to_owned() }));
    }

    #[test]
    fn a_cut_is_the_backups_fault_not_the_folders() {
        let (from, to) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        fs::write(from.path().join("file"), vec![7; 2 * CHUNK_BYTES]).expect("made");
        let bytes = packed(from.path());
        let error = unpacked(&bytes[..CHUNK_BYTES], Some(to.path()));
        assert!(matches!(error, Err(UnpackError::Read(_))), "{error:?}");
    }

    #[test]
    fn what_is_no_folder_is_named() {
        let error = pack(Path::new("/does/not/exist"), Path::new("file"), &mut RecordWriter::new(Vec::new()));
        assert_eq!(error.expect_err("it is not there").to_string(), "failed to look at volume /does/not/exist");
    }
}
