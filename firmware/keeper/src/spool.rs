//! Output on its way from a process to its log: in memory that outlives a keeper that is killed.
//!
//! Start at [`Spool::take`], which moves bytes out of the pipe, and [`Spool::settle`], which says how far the log has them.
//!
//! A keeper may be killed between any two system calls. The kernel moves bytes from pipe to spool in one call, so they are in
//! one of the two; they stay in the spool until the log is known to have them. The next keeper cuts from the log what was
//! written and not settled, and writes it again: no line is lost, none comes twice.
//!
//! Invariants:
//! * [`Head`] is written in one call, after the log;
//! * a file shorter than `taken` was emptied a moment before its head could say so: nothing is pending.
//!
//! Not here: a terminal's output, which no kernel call moves whole: of that, what is read in the very moment of the kill is lost.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// A spool that is empty is cut back once it has grown to this.
const KEPT_BYTES: u64 = 32 << 10;

/// How long the head is; the bytes come after it.
const START: u64 = 24;

/// What is known for certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    /// Up to here the log has the bytes.
    taken: u64,
    log: LogEnd,
}

/// Where a log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogEnd {
    /// Which file it is: a renamed log is another one.
    pub(crate) inode: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    end: u64,
    head: Head,
}

impl Spool {
    pub(crate) fn new() -> io::Result<Spool> {
        let file = sys::files::memory_file("keeper-spool").map_err(io::Error::other)?;
        let mut spool = Spool { file, end: START, head: Head { taken: START, log: LogEnd::default() } };
        spool.settle(0, LogEnd::default())?;
        Ok(spool)
    }

    /// Takes over a spool, with what is in it that the log may not have.
    pub(crate) fn revive(file: File) -> io::Result<(Spool, Vec<u8>)> {
        let mut head = [0; START as usize];
        file.read_exact_at(&mut head, 0)?;
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (taken, log) = (number(0), LogEnd { inode: number(8), bytes: number(16) });
        let length = file.metadata()?.len();
        let taken = if length < taken { START } else { taken };
        let spool = Spool { file, end: length.max(START), head: Head { taken, log } };
        let mut pending = vec![0; (spool.end - taken) as usize];
        spool.file.read_exact_at(&mut pending, taken)?;
        Ok((spool, pending))
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Where the log ended when it was last certain.
    pub(crate) fn log(&self) -> LogEnd {
        self.head.log
    }

    /// Moves what a pipe or terminal has into the spool and into `buffer`; the answer is how much, 0 at its end.
    pub(crate) fn take(&mut self, from: &mut File, terminal: bool, buffer: &mut [u8]) -> io::Result<usize> {
        let length = if terminal {
            let length = from.read(buffer)?;
            self.file.write_all_at(&buffer[..length], self.end)?;
            length
        } else {
            let length = sys::files::move_bytes(from, &self.file, self.end, buffer.len())?;
            self.file.read_exact_at(&mut buffer[..length], self.end)?;
            length
        };
        self.end += length as u64;
        Ok(length)
    }

    /// Says that the log ends at `log` and has all but the last `rest` bytes.
    pub(crate) fn settle(&mut self, rest: usize, log: LogEnd) -> io::Result<()> {
        self.write_head(Head { taken: self.end - rest as u64, log })?;
        if rest == 0 && self.end > KEPT_BYTES {
            self.file.set_len(START)?;
            self.end = START;
            self.write_head(Head { taken: START, log })?;
        }
        Ok(())
    }

    fn write_head(&mut self, head: Head) -> io::Result<()> {
        let numbers = [head.taken, head.log.inode, head.log.bytes];
        self.file.write_all_at(&numbers.map(u64::to_le_bytes).concat(), 0)?;
        self.head = head;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LOG: LogEnd = LogEnd { inode: 7, bytes: 100 };

    fn after(act: impl FnOnce(&mut Spool, &mut dyn FnMut(&mut Spool, &[u8]))) -> (Vec<u8>, LogEnd) {
        let mut spool = Spool::new().expect("a spool");
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let mut reader = File::from(std::os::fd::OwnedFd::from(reader));
        let mut feed = |spool: &mut Spool, bytes: &[u8]| {
            writer.write_all(bytes).expect("written");
            let mut buffer = vec![0; bytes.len()];
            assert_eq!(spool.take(&mut reader, false, &mut buffer).expect("taken"), bytes.len());
            assert_eq!(buffer, bytes);
        };
        act(&mut spool, &mut feed);
        let copy = spool.file.try_clone().expect("a copy");
        let (revived, pending) = Spool::revive(copy).expect("revived");
        (pending, revived.log())
    }

    #[test]
    fn what_is_not_settled_is_found_again() {
        assert_eq!(after(|_, _| ()), (Vec::new(), LogEnd::default()));
        assert_eq!(after(|spool, feed| feed(spool, b"one\n")), (b"one\n".to_vec(), LogEnd::default()));
    }

    #[test]
    fn a_begun_line_stays() {
        let found = after(|spool, feed| {
            feed(spool, b"one\ntw");
            spool.settle(2, LOG).expect("settled");
        });
        assert_eq!(found, (b"tw".to_vec(), LOG));
    }

    #[test]
    fn a_spool_that_has_grown_is_emptied() {
        let found = after(|spool, feed| {
            for _ in 0..9 {
                feed(spool, &[b'x'; 4096]);
            }
            spool.settle(0, LOG).expect("settled");
            assert_eq!(spool.file.metadata().expect("its length").len(), START);
            feed(spool, b"more");
        });
        assert_eq!(found, (b"more".to_vec(), LOG));
    }

    #[test]
    fn a_spool_cut_before_its_head_said_so_is_empty() {
        let found = after(|spool, feed| {
            feed(spool, b"one\n");
            spool.settle(0, LOG).expect("settled");
            spool.file.set_len(START).expect("cut");
        });
        assert_eq!(found, (Vec::new(), LOG));
    }
}
