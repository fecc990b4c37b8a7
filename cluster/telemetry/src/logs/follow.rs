//! Follows one stream through its files: what to send next.
//!
//! Start at [`Follower::next`]. It is told what files there are, and answers with the next chunk; [`Follower::heard`] is told
//! where the store's stream ends.
//!
//! Invariants:
//! * a chunk begins where the last one ended, and holds whole lines;
//! * bytes that are gone are passed over once, in one gap, however many files they were in;
//! * nothing is sent behind a place that does not look as the store remembers it.

use std::io;

use super::cri;
use super::files::Piece;
use super::wire::{Chunk, Content, Position, Stream, check};

/// So much of a file is read at a time.
pub(crate) const CHUNK_BYTES_MAX: usize = 256 << 10;
/// The longest line the keeper writes is 16 KiB and its stamp; what is longer is none of its lines.
const LINE_BYTES_MAX: usize = 64 << 10;
/// A log that is shorter than it was may be one that is written again (its keeper was killed), for so many looks.
const LOOKS_MAX: u32 = 10;

/// Reads a file at a place of its own; files in tests are bytes.
pub(crate) trait ReadAt {
    /// Reads as much as there is, at most `into.len()`.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for std::fs::File {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match std::os::unix::fs::FileExt::read_at(self, &mut into[done..], offset + done as u64)? {
                0 => break,
                read => done += read,
            }
        }
        Ok(done)
    }
}

/// A stream on its way.
#[derive(Debug)]
pub(crate) struct Follower {
    stream: Stream,
    at: Position,
    /// Whether the place looks as the store remembers it.
    trusted: bool,
    /// Start and inode of each piece at the last look.
    pieces: Vec<(u64, u64)>,
    /// How often it was shorter than it should be.
    short: u32,
}

impl Follower {
    /// A stream that the store has up to `at`, or that it does not know.
    pub(crate) fn new(stream: Stream, at: Option<Position>) -> Follower {
        Follower { stream, at: at.unwrap_or_default(), trusted: at.is_none(), pieces: Vec::new(), short: 0 }
    }

    /// Whether there was a file at the last look.
    pub(crate) fn was_there(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Up to where the store has it, once it has answered to what [`Follower::next`] gave last.
    pub(crate) fn stored(&self) -> u64 {
        self.at.end
    }

    /// What to send next, if anything.
    pub(crate) fn next<F: ReadAt>(&mut self, pieces: &[Piece<F>]) -> io::Result<Option<Chunk>> {
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(None) };
        self.look(pieces);
        if last.end() < self.at.end {
            self.short += 1;
            if self.short < LOOKS_MAX {
                return Ok(None);
            }
            self.start_over();
        }
        self.short = 0;
        if !self.trusted && !self.looks_right(pieces)? {
            self.start_over();
        }
        self.trusted = true;
        if self.at.end < first.start {
            return Ok(Some(self.gap(first.start)));
        }
        self.read(pieces)
    }

    /// The store's stream ends there now. If that is not where we thought, it goes on from there.
    pub(crate) fn heard(&mut self, position: Position) {
        let same = (position.incarnation, position.end) == (self.at.incarnation, self.at.end);
        self.trusted &= same;
        self.at = position;
    }

    /// Another file in the place of one that was seen: the log may be another one.
    fn look<F>(&mut self, pieces: &[Piece<F>]) {
        let seen = std::mem::take(&mut self.pieces);
        self.pieces = pieces.iter().map(|piece| (piece.start, piece.inode)).collect();
        let other = |(start, inode): &(u64, u64)| seen.iter().any(|(its, was)| its == start && was != inode);
        self.trusted &= !self.pieces.iter().any(other);
    }

    fn start_over(&mut self) {
        self.at = Position { incarnation: self.at.incarnation + 1, end: 0, check: 0 };
        self.trusted = true;
    }

    /// Whether the line before the place is the one that the store has.
    fn looks_right<F: ReadAt>(&self, pieces: &[Piece<F>]) -> io::Result<bool> {
        let end = self.at.end;
        let Some(piece) = pieces.iter().find(|piece| piece.start < end && end <= piece.end()) else { return Ok(true) };
        if self.at.check == 0 {
            return Ok(true);
        }
        let begin = piece.start.max(end.saturating_sub(LINE_BYTES_MAX as u64));
        let mut bytes = vec![0; (end - begin) as usize];
        let read = piece.file.read_at(&mut bytes, begin - piece.start)?;
        Ok(read == bytes.len() && check(cri::last_line(&bytes)) == self.at.check)
    }

    fn gap(&mut self, end: u64) -> Chunk {
        let start = self.at.end;
        self.at = Position { end, check: 0, ..self.at };
        self.chunk(start, Content::Gap)
    }

    fn chunk(&self, start: u64, content: Content) -> Chunk {
        let (incarnation, end) = (self.at.incarnation, self.at.end);
        Chunk { stream: self.stream.clone(), incarnation, start, end, content }
    }

    fn read<F: ReadAt>(&mut self, pieces: &[Piece<F>]) -> io::Result<Option<Chunk>> {
        let start = self.at.end;
        let Some(index) = pieces.iter().position(|piece| piece.start <= start && start < piece.end()) else {
            return Ok(None);
        };
        let piece = &pieces[index];
        let wanted = (piece.end() - start).min(CHUNK_BYTES_MAX as u64);
        let mut bytes = vec![0; wanted as usize];
        let read = piece.file.read_at(&mut bytes, start - piece.start)?;
        bytes.truncate(read);
        let whole = cri::whole(&bytes);
        if whole == 0 {
            // A line that nobody will end: the machine went down in its middle, or it is none of the keeper's.
            let ended = index + 1 < pieces.len() || bytes.len() > LINE_BYTES_MAX;
            return Ok((ended && !bytes.is_empty()).then(|| self.gap(start + bytes.len() as u64)));
        }
        bytes.truncate(whole);
        self.at.end += whole as u64;
        self.at.check = check(cri::last_line(&bytes));
        Ok(Some(self.chunk(start, Content::Bytes(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl ReadAt for &[u8] {
        fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
            let rest = self.get(offset as usize..).unwrap_or_default();
            let read = rest.len().min(into.len());
            into[..read].copy_from_slice(&rest[..read]);
            Ok(read)
        }
    }

    fn pieces(told: &'static [(u64, &'static str)]) -> Vec<Piece<&'static [u8]>> {
        let piece = |(start, text): &(u64, &'static str)| Piece {
            start: *start,
            bytes: text.len() as u64,
            // A file is the same as long as it begins the same.
            inode: text.bytes().take(2).map(u64::from).sum(),
            file: text.as_bytes(),
        };
        told.iter().map(piece).collect()
    }

    /// What is sent until nothing is left: `start-end:text`, `start-end gap`; behind `/n` the incarnation if it is not 0.
    fn sent(follower: &mut Follower, told: &'static [(u64, &'static str)]) -> String {
        let mut out = Vec::new();
        while let Some(chunk) = follower.next(&pieces(told)).expect("readable") {
            let again = if chunk.incarnation > 0 { format!("/{}", chunk.incarnation) } else { String::new() };
            out.push(match chunk.content {
                Content::Bytes(bytes) => {
                    format!(
                        "{}-{}{again}:{}",
                        chunk.start,
                        chunk.end,
                        String::from_utf8_lossy(&bytes).replace('\n', "|")
                    )
                }
                _ => format!("{}-{}{again} gap", chunk.start, chunk.end),
            });
        }
        out.join(" ")
    }

    fn at(end: u64, line: &str) -> Option<Position> {
        Some(Position { incarnation: 0, end, check: check(line.as_bytes()) })
    }

    /// From a position that the store told, over these files.
    fn check_sent(at: Option<Position>, told: &'static [(u64, &'static str)], expected: &str) {
        assert_eq!(sent(&mut Follower::new(Stream::default(), at), told), expected);
    }

    #[test]
    fn whole_lines_are_sent_from_the_begin() {
        check_sent(None, &[(0, "a\nb\nc")], "0-4:a|b|");
        check_sent(None, &[(0, "")], "");
        check_sent(None, &[], "");
    }

    #[test]
    fn rotated_files_are_read_before_the_live_one() {
        check_sent(None, &[(0, "a\n"), (2, "b\n"), (4, "c\n")], "0-2:a| 2-4:b| 4-6:c|");
    }

    #[test]
    fn what_the_store_has_is_not_sent() {
        check_sent(at(2, "a\n"), &[(0, "a\n"), (2, "b\n")], "2-4:b|");
        check_sent(at(4, "b\n"), &[(0, "a\nb\nc\n")], "4-6:c|");
        check_sent(at(6, "c\n"), &[(0, "a\nb\nc\n")], "");
    }

    #[test]
    fn files_that_are_gone_are_one_gap() {
        check_sent(at(2, "a\n"), &[(40, "x\n"), (42, "y\n")], "2-40 gap 40-42:x| 42-44:y|");
        check_sent(None, &[(40, "x\n")], "0-40 gap 40-42:x|");
    }

    #[test]
    fn another_log_of_the_same_name_is_sent_from_its_begin() {
        check_sent(at(4, "b\n"), &[(0, "x\ny\nz\n")], "0-6/1:x|y|z|");
    }

    #[test]
    fn a_line_that_was_cut_off_is_a_gap() {
        check_sent(None, &[(0, "a\nhal"), (5, "b\n")], "0-2:a| 2-5 gap 5-7:b|");
    }

    #[test]
    fn a_log_that_shrinks_is_given_time_to_come_back() {
        let mut follower = Follower::new(Stream::default(), None);
        assert_eq!(sent(&mut follower, &[(0, "a\nb\n")]), "0-4:a|b|");
        for _ in 1..LOOKS_MAX {
            assert_eq!(sent(&mut follower, &[(0, "a\n")]), "");
        }
        assert_eq!(sent(&mut follower, &[(0, "a\nb\nc\n")]), "4-6:c|");
        for _ in 1..LOOKS_MAX {
            assert_eq!(sent(&mut follower, &[(0, "n\n")]), "");
        }
        assert_eq!(sent(&mut follower, &[(0, "n\n")]), "0-2/1:n|");
    }

    #[test]
    fn another_file_in_the_same_place_is_looked_at_closely() {
        let mut follower = Follower::new(Stream::default(), None);
        assert_eq!(sent(&mut follower, &[(0, "a\nb\n")]), "0-4:a|b|");
        assert_eq!(sent(&mut follower, &[(0, "p\nq\nr\n")]), "0-6/1:p|q|r|");
    }

    #[test]
    fn what_the_store_lost_is_sent_again() {
        let mut follower = Follower::new(Stream::default(), None);
        assert_eq!(sent(&mut follower, &[(0, "a\nb\n")]), "0-4:a|b|");
        follower.heard(at(2, "a\n").expect("a position"));
        assert_eq!(sent(&mut follower, &[(0, "a\nb\n")]), "2-4:b|");
    }
}
