//! The kernel's log: `/dev/kmsg`, whose records have numbers, brought into the CRI's form.
//!
//! Start at [`Kernel::next`]; [`record`] is the pure part. A place in this stream is a record's number, and the stream is
//! named after the boot, as the numbers begin again with each.
//!
//! Not here: what of it the kernel has overwritten before it was read; it becomes a gap of so many records.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base::Timestamp;

use super::follow::CHUNK_BYTES_MAX;
use super::wire::{Chunk, Content, Position, Stream};

/// So many records at a time.
const RECORDS_MAX: usize = 1000;
/// The kernel gives a record whole or not at all, and none is larger.
const RECORD_BYTES_MAX: usize = 8 << 10;

/// The kernel's log on its way.
pub(crate) struct Kernel {
    file: File,
    stream: Stream,
    at: Position,
    /// A record that was read and does not belong to the chunk before it.
    held: Option<(u64, String)>,
}

/// One record: its number, microseconds since the boot, and text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub number: u64,
    pub micros: u64,
    pub text: &'a str,
}

/// Reads `PRIORITY,NUMBER,MICROSECONDS,FLAGS[,…];TEXT`, with lines of details behind it that are left out.
pub(crate) fn record(text: &str) -> Option<Record<'_>> {
    let (facts, text) = text.split_once(';')?;
    let mut facts = facts.split(',').skip(1);
    let (number, micros) = (facts.next()?.parse().ok()?, facts.next()?.parse().ok()?);
    Some(Record { number, micros, text: text.lines().next().unwrap_or_default() })
}

impl Kernel {
    /// Opens it. `boot` names the stream.
    pub(crate) fn open(path: &Path, node: &str, boot: &str) -> io::Result<Kernel> {
        const NONBLOCK: i32 = 0o4000;
        let file = File::options().read(true).custom_flags(NONBLOCK).open(path)?;
        let stream =
            Stream { node: node.to_owned(), uid: boot.to_owned(), container: "kernel".to_owned(), ..Stream::default() };
        Ok(Kernel { file, stream, at: Position::default(), held: None })
    }

    /// Its stream.
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The store has it up to there. If that is further back than what was read, it must be opened again: the answer is no.
    pub(crate) fn heard(&mut self, position: Position) -> bool {
        let back = position.end < self.at.end;
        self.at = position;
        !back
    }

    /// What to send next, if anything. `booted` is when the machine was started.
    pub(crate) fn next(&mut self, booted: Timestamp) -> io::Result<Option<Chunk>> {
        let (mut bytes, start) = (Vec::new(), self.at.end);
        for _ in 0..RECORDS_MAX {
            if bytes.len() >= CHUNK_BYTES_MAX {
                break;
            }
            let Some((number, line)) = self.record(booted)? else { break };
            if number < self.at.end {
                continue;
            }
            if number > self.at.end {
                self.held = Some((number, line));
                break;
            }
            bytes.extend_from_slice(line.as_bytes());
            self.at.end += 1;
        }
        if bytes.is_empty() {
            let Some(number) = self.held.as_ref().map(|(number, _)| *number) else { return Ok(None) };
            self.at.end = number;
            return Ok(Some(self.chunk(start, Content::Gap)));
        }
        Ok(Some(self.chunk(start, Content::Lines(bytes))))
    }

    fn chunk(&self, start: u64, content: Content) -> Chunk {
        let (incarnation, end) = (self.at.incarnation, self.at.end);
        Chunk { stream: self.stream.clone(), incarnation, start, end, content }
    }

    fn record(&mut self, booted: Timestamp) -> io::Result<Option<(u64, String)>> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        let mut buffer = [0; RECORD_BYTES_MAX];
        loop {
            let read = match self.file.read(&mut buffer) {
                Ok(read) => read,
                // Records were overwritten: the next read goes on with the oldest there is.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            if read == 0 {
                return Ok(None);
            }
            let text = String::from_utf8_lossy(&buffer[..read]);
            if let Some(found) = record(&text) {
                let time = booted.plus(std::time::Duration::from_micros(found.micros));
                return Ok(Some((found.number, format!("{} kernel F {}\n", time.rfc3339_nanos(), found.text))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(u64, u64, &str)>) {
        assert_eq!(record(text).map(|found| (found.number, found.micros, found.text)), expected);
    }

    #[test]
    fn records_are_read() {
        check("6,339,5140900,-;NET: Registered", Some((339, 5_140_900, "NET: Registered")));
        check(
            "30,340,5690716,-,caller=T1;udevd[80]: start\n SUBSYSTEM=acpi\n",
            Some((340, 5_690_716, "udevd[80]: start")),
        );
        check("6,1,2,-;", Some((1, 2, "")));
        check("no record", None);
        check("6,x,2,-;text", None);
    }

    #[test]
    fn numbers_that_are_missing_are_a_gap() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kmsg");
        // A file gives all records in one read; one record is enough to see the gap before it.
        std::fs::write(&path, "6,7,1000000,-;hello").expect("written");
        let mut kernel = Kernel::open(&path, "n", "b").expect("open");
        let chunks: Vec<Chunk> = std::iter::from_fn(|| kernel.next(Timestamp::default()).expect("readable")).collect();
        assert_eq!((chunks[0].start, chunks[0].end, &chunks[0].content), (0, 7, &Content::Gap));
        let line = b"1970-01-01T00:00:01.000000000Z kernel F hello\n".to_vec();
        assert_eq!((chunks[1].start, chunks[1].end, &chunks[1].content), (7, 8, &Content::Lines(line)));
        assert_eq!(chunks.len(), 2);
    }
}
