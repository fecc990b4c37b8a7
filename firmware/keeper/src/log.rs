//! Log lines in the CRI's format: `2026-11-23T20:00:00.000000000Z stdout F text`.
//!
//! Start at [`Lines::feed`], which is pure: bytes in, text for the file out. [`LogFile`] is the file.
//!
//! Invariants:
//! * a line longer than [`LINE_BYTES_MAX`] becomes several with tag `P` and a last one with tag `F`;
//! * what the last line lacks a newline still reaches the file, at the end of the stream.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base::Timestamp;

use crate::spool::LogEnd;

/// The longest part of a line; what readers of this format expect.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 10;

/// One stream's way into the log.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: &'static str,
    begun: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: &'static str) -> Lines {
        Lines { stream, begun: Vec::new() }
    }

    /// Takes bytes the process wrote, and appends to `out` what of them can be written now.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - self.begun.len();
            let newline = bytes.iter().take(room + 1).position(|byte| *byte == b'\n');
            match newline {
                Some(at) => {
                    self.write(b'F', &bytes[..at], now, out);
                    bytes = &bytes[at + 1..];
                }
                None if bytes.len() > room => {
                    self.write(b'P', &bytes[..room], now, out);
                    bytes = &bytes[room..];
                }
                None => {
                    self.begun.extend_from_slice(bytes);
                    return;
                }
            }
        }
    }

    /// How many bytes of a line wait for its end.
    pub(crate) fn begun(&self) -> usize {
        self.begun.len()
    }

    /// The stream has ended.
    pub(crate) fn finish(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if !self.begun.is_empty() {
            self.write(b'F', &[], now, out);
        }
    }

    fn write(&mut self, tag: u8, rest: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        out.extend_from_slice(now.rfc3339_nanos().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.stream.as_bytes());
        out.extend_from_slice(&[b' ', tag, b' ']);
        out.extend_from_slice(&self.begun);
        out.extend_from_slice(rest);
        out.push(b'\n');
        self.begun.clear();
        // A long line is rare, and its memory would stay with the process for ever.
        self.begun.shrink_to(256);
    }
}

/// A log file that may vanish, be renamed, or find the disk full: the process goes on in any case.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    end: LogEnd,
}

impl LogFile {
    pub(crate) fn open(path: &Path) -> io::Result<LogFile> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let end = end_of(&file)?;
        Ok(LogFile { path: path.to_owned(), file, end })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where it ends.
    pub(crate) fn end(&self) -> LogEnd {
        self.end
    }

    /// Goes on in a new file at the same path.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        *self = LogFile::open(&self.path)?;
        Ok(())
    }

    /// Takes back what lies behind `end`, if that was in this file: it comes again.
    pub(crate) fn cut_to(&mut self, end: LogEnd) {
        if end.inode == self.end.inode && end.bytes < self.end.bytes {
            self.cut(end.bytes);
        }
    }

    /// Appends all of it or nothing. On a full disk the lines are lost: waiting for room would stop the process.
    pub(crate) fn append(&mut self, text: &[u8]) {
        let before = end_of(&self.file).unwrap_or(self.end);
        if self.file.write_all(text).is_err() {
            return self.cut(before.bytes);
        }
        self.end = LogEnd { bytes: before.bytes + text.len() as u64, ..before };
    }

    fn cut(&mut self, bytes: u64) {
        let _ = self.file.set_len(bytes);
        self.end = end_of(&self.file).unwrap_or(self.end);
    }
}

fn end_of(file: &File) -> io::Result<LogEnd> {
    let about = file.metadata()?;
    Ok(LogEnd { inode: about.ino(), bytes: about.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(0);
    const AT: &str = "1970-01-01T00:00:00.000000000Z stdout";

    fn check(parts: &[&str], expected: &[(&str, usize, &str)]) {
        let (mut lines, mut out) = (Lines::new("stdout"), Vec::new());
        for part in parts {
            lines.feed(part.as_bytes(), NOW, &mut out);
        }
        lines.finish(NOW, &mut out);
        let text = String::from_utf8(out).expect("text");
        let found: Vec<(&str, usize, &str)> = text
            .lines()
            .map(|line| line.strip_prefix(AT).expect("a stamp"))
            .map(|rest| (&rest[1..2], rest.len() - 3, &rest[3..rest.len().min(8)]))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn lines_are_whole_whatever_the_reads() {
        check(&["a\nb", "c\n", "\n"], &[("F", 1, "a"), ("F", 2, "bc"), ("F", 0, "")]);
    }

    #[test]
    fn a_last_line_without_newline_is_written() {
        check(&["a\nrest"], &[("F", 1, "a"), ("F", 4, "rest")]);
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        let long = "x".repeat(LINE_BYTES_MAX);
        check(&[&long, "\n"], &[("F", LINE_BYTES_MAX, "xxxxx")]);
        check(&[&long, "y\n"], &[("P", LINE_BYTES_MAX, "xxxxx"), ("F", 1, "y")]);
        check(
            &[&format!("{long}{long}z\n")],
            &[("P", LINE_BYTES_MAX, "xxxxx"), ("P", LINE_BYTES_MAX, "xxxxx"), ("F", 1, "z")],
        );
    }

    #[test]
    fn only_what_was_written_since_is_taken_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = LogFile::open(&folder.path().join("log")).expect("a log");
        log.append(b"one\n");
        let end = log.end();
        log.append(b"two\n");
        log.cut_to(LogEnd { inode: end.inode + 1, ..end });
        assert_eq!(log.end().bytes, 8);
        log.cut_to(end);
        log.cut_to(LogEnd { bytes: 99, ..end });
        log.append(b"three\n");
        assert_eq!(std::fs::read_to_string(log.path()).expect("read"), "one\nthree\n");
    }

    #[test]
    fn a_full_disk_leaves_whole_lines() {
        let mut log = LogFile::open(Path::new("/dev/full")).expect("a log");
        log.append(b"lost\n");
        assert_eq!(log.end().bytes, 0);
    }
}
