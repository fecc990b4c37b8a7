//! A container's log on the disk: which bytes of its stream each file holds.
//!
//! Start at [`read`], or at [`own`] for a log of the node's own; [`pieces`] is the pure part. The kubelet renames a log that has grown (`0.log` becomes
//! `0.log.STAMP-START`) and removes the oldest; START is the place of the file's first byte in the stream.
//!
//! Invariants:
//! * the pieces of a run are in order, and a place has one meaning however often the files were renamed;
//! * a folder that changes while it is read is read again, never half.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base::log_file;

use super::follow::ReadAt;

/// A folder that changes more often while it is read is looked at the next time.
const TRIES: usize = 3;

/// A file, and what of the stream is in it.
#[derive(Debug)]
pub(crate) struct Piece<F = File> {
    /// The place of its first byte.
    pub start: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// Tells files of one place apart.
    pub inode: u64,
    /// The file.
    pub file: F,
}

impl<F> Piece<F> {
    /// The place behind its last byte.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes
    }
}

/// The logs of a container: the pieces of each run, the oldest first.
pub(crate) type Runs<F = File> = BTreeMap<String, Vec<Piece<F>>>;

/// Opens what is in a container's folder; `None` if it does not stand still.
pub(crate) fn read(folder: &Path) -> io::Result<Option<Runs>> {
    for _ in 0..TRIES {
        let before = names(folder)?;
        let Some(found) = open(folder, &before)? else { continue };
        if names(folder)? == before {
            return Ok(Some(pieces(found)));
        }
    }
    Ok(None)
}

/// A file of a log of the node's own.
#[derive(Debug)]
pub(crate) struct Own {
    /// The file, from its beginning.
    pub piece: Piece<After>,
    /// Whether it says where in the log it begins.
    pub says_start: bool,
}

/// A file without its first line.
#[derive(Debug)]
pub(crate) struct After {
    file: File,
    skip: u64,
}

impl ReadAt for After {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        ReadAt::read_at(&self.file, into, offset + self.skip)
    }
}

/// Opens the files of a log of the node's own, the older first: `PATH.1` and `PATH`. `None` if they do not stand still.
pub(crate) fn own(path: &Path) -> io::Result<Option<Vec<Own>>> {
    let mut before = path.to_owned().into_os_string();
    before.push(".1");
    let paths = [PathBuf::from(before), path.to_owned()];
    let inodes = || paths.each_ref().map(|path| fs::metadata(path).map(|about| about.ino()).ok());
    for _ in 0..TRIES {
        let there = inodes();
        let opened = paths.each_ref().map(|path| one(path));
        if inodes() != there {
            continue;
        }
        let mut found = Vec::new();
        for file in opened {
            found.extend(file?);
        }
        return Ok(Some(found));
    }
    Ok(None)
}

fn one(path: &Path) -> io::Result<Option<Own>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let about = file.metadata()?;
    let mut begin = [0; log_file::FIRST_LINE_BYTES_MAX];
    let read = ReadAt::read_at(&file, &mut begin, 0)?;
    let said = log_file::bytes_before(&begin[..read]);
    let (start, skip) = said.map_or((0, 0), |(start, line)| (start, line as u64));
    let piece = Piece { start, bytes: about.len() - skip, inode: about.ino(), file: After { file, skip } };
    Ok(Some(Own { piece, says_start: said.is_some() }))
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string());
    }
    names.retain(|name| run_of(name).is_some());
    names.sort();
    Ok(names)
}

fn open(folder: &Path, names: &[String]) -> io::Result<Option<Vec<Named>>> {
    let mut found = Vec::new();
    for name in names {
        let file = match File::open(folder.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let about = file.metadata()?;
        found.push(Named { name: name.clone(), bytes: about.len(), inode: about.ino(), file });
    }
    Ok(Some(found))
}

/// A file as it lies in the folder.
pub(crate) struct Named<F = File> {
    pub name: String,
    pub bytes: u64,
    pub inode: u64,
    pub file: F,
}

/// Orders the files of a folder, which are sorted by name.
pub(crate) fn pieces<F>(found: Vec<Named<F>>) -> Runs<F> {
    let mut runs: Runs<F> = BTreeMap::new();
    let (live, rotated): (Vec<_>, Vec<_>) = found.into_iter().partition(|file| file.name.ends_with(".log"));
    for file in rotated.into_iter().chain(live) {
        let Some((run, start)) = run_of(&file.name) else { continue };
        let pieces = runs.entry(run.to_owned()).or_default();
        let after_last = pieces.last().map_or(0, Piece::end);
        let start = start.unwrap_or(after_last);
        pieces.push(Piece { start, bytes: file.bytes, inode: file.inode, file: file.file });
    }
    runs
}

/// The run that a file belongs to, and its start if its name says it.
fn run_of(name: &str) -> Option<(&str, Option<u64>)> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (run, rest) = name.split_once(".log")?;
    if !digits(run) {
        return None;
    }
    if rest.is_empty() {
        return Some((run, None));
    }
    let stamp = rest.strip_prefix('.')?;
    match stamp.split_once('-') {
        None => digits(stamp).then_some((run, None)),
        Some((stamp, start)) => (digits(stamp) && digits(start)).then(|| (run, start.parse().ok())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name:bytes …` becomes `run:start+bytes …`.
    fn check(files: &str, expected: &str) {
        let mut found: Vec<Named<()>> = files
            .split_whitespace()
            .filter_map(|file| {
                let (name, bytes) = file.split_once(':')?;
                run_of(name)?;
                Some(Named { name: name.to_owned(), bytes: bytes.parse().expect("a number"), inode: 0, file: () })
            })
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let runs = pieces(found);
        let told: Vec<String> = runs
            .iter()
            .flat_map(|(run, pieces)| pieces.iter().map(move |piece| format!("{run}:{}+{}", piece.start, piece.bytes)))
            .collect();
        assert_eq!(told.join(" "), expected);
    }

    #[test]
    fn files_of_a_log_are_put_in_order() {
        check("0.log:7", "0:0+7");
        check("0.log:7 0.log.2026-0:100", "0:0+100 0:100+7");
        check("0.log:7 0.log.2027-100:50 0.log.2026-0:100", "0:0+100 0:100+50 0:150+7");
    }

    #[test]
    fn a_name_says_where_a_file_begins_when_older_ones_are_gone() {
        check("0.log:7 0.log.2027-100:50", "0:100+50 0:150+7");
    }

    #[test]
    fn the_live_file_may_be_missing_for_a_moment() {
        check("0.log.2026-0:100", "0:0+100");
    }

    #[test]
    fn names_without_a_start_are_counted_from_the_oldest() {
        check("0.log:7 0.log.2026:100 0.log.2027:50", "0:0+100 0:100+50 0:150+7");
    }

    #[test]
    fn runs_are_apart_and_other_files_are_none() {
        check("1.log:7 0.log:3 10.log:1", "0:0+3 1:0+7 10:0+1");
        check("0.log.2026-0.gz:5 0.log.tmp:5 x.log:1 log:1 0.logs:1", "");
    }
}
