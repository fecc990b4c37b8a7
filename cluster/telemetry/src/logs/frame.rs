//! Frames: what the store appends to its files, each with its checksums.
//!
//! Start at [`encode`] and [`Reader::next`]. A frame is twenty bytes (mark, two lengths, two checksums), a head and a body;
//! both are zstd. The head can be read and trusted without the body, so a start reads little.
//!
//! Invariant: a frame that was cut anywhere, or of which any byte changed, is not read as a frame.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::wire::{Position, Stream};

const MARK: [u8; 4] = *b"SKL1";
const PRELUDE: usize = 20;
/// A head names streams and positions; this many bytes are thousands of them.
pub(crate) const HEAD_BYTES_MAX: usize = 16 << 20;
/// A body holds what one batch or one block holds.
const BODY_BYTES_MAX: usize = 4 << 20;

/// What the places of a part are, and what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Bytes, a place each.
    Bytes,
    /// Lines, a place each.
    Lines,
    /// Nothing: they are lost.
    Gap,
}

/// A piece of a stream in a frame's body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub stream: Stream,
    pub incarnation: u32,
    pub start: u64,
    pub end: u64,
    pub kind: Kind,
    /// How many bytes of the body are its.
    pub bytes: u32,
    /// The earliest time in it; for a gap, when it was noticed.
    pub first: i64,
    /// The latest.
    pub last: i64,
}

/// What a frame says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The number of the last batch in it.
    pub batch: u64,
    /// When that came.
    pub now: i64,
    /// It ends a group of frames that count together or not at all.
    pub closes: bool,
    /// What the body holds, in order.
    pub parts: Vec<Part>,
    /// Where every stream stood before: in the first frame of a journal.
    pub positions: Vec<(Stream, Position)>,
}

/// Makes a frame.
pub(crate) fn encode(head: &impl Serialize, body: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let plain = postcard::to_allocvec(head).map_err(io::Error::other)?;
    let head = zstd::bulk::compress(&plain, 1)?;
    let body = zstd::bulk::compress(body, level)?;
    let mut out = Vec::with_capacity(PRELUDE + head.len() + body.len());
    out.extend_from_slice(&MARK);
    for number in [head.len() as u32, body.len() as u32] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let sums = [sum(&[&out[..12], &head]), sum(&[&body])];
    for number in sums {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&head);
    out.extend_from_slice(&body);
    Ok(out)
}

fn sum(parts: &[&[u8]]) -> u32 {
    let mut sum = flate2::Crc::new();
    for part in parts {
        sum.update(part);
    }
    sum.sum()
}

/// Where a frame's body lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BodyAt {
    offset: u64,
    bytes: u32,
    sum: u32,
}

impl BodyAt {
    /// Where the frame's body ends.
    pub(crate) fn end(&self) -> u64 {
        self.offset + u64::from(self.bytes)
    }

    /// Reads and checks it.
    pub(crate) fn read(&self, file: &File) -> io::Result<Vec<u8>> {
        let mut packed = vec![0; self.bytes as usize];
        file.read_exact_at(&mut packed, self.offset)?;
        if sum(&[&packed]) != self.sum {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its checksum does not match"));
        }
        zstd::bulk::decompress(&packed, BODY_BYTES_MAX)
    }
}

/// Reads the frames of a file, one after the other.
pub(crate) struct Reader<'a> {
    file: &'a File,
    at: u64,
    size: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a File) -> io::Result<Reader<'a>> {
        Ok(Reader { file, at: 0, size: file.metadata()?.len() })
    }

    /// The frame that begins there comes next.
    pub(crate) fn at_offset(file: &'a File, at: u64) -> io::Result<Reader<'a>> {
        let size = file.metadata()?.len();
        Ok(Reader { file, at: at.min(size), size })
    }

    /// Where the last whole frame ended.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The next frame's head, and where its body is; `None` where no whole frame follows.
    pub(crate) fn next<H: DeserializeOwned>(&mut self) -> io::Result<Option<(H, BodyAt)>> {
        let mut prelude = [0; PRELUDE];
        if self.size - self.at < PRELUDE as u64 {
            return Ok(None);
        }
        self.file.read_exact_at(&mut prelude, self.at)?;
        let number = |at: usize| u32::from_le_bytes([prelude[at], prelude[at + 1], prelude[at + 2], prelude[at + 3]]);
        let (head, bytes) = (number(4) as usize, number(8));
        let body = BodyAt { offset: self.at + (PRELUDE + head) as u64, bytes, sum: number(16) };
        if prelude[..4] != MARK || head > HEAD_BYTES_MAX || bytes as usize > BODY_BYTES_MAX || body.end() > self.size {
            return Ok(None);
        }
        let mut packed = vec![0; head];
        self.file.read_exact_at(&mut packed, self.at + PRELUDE as u64)?;
        if sum(&[&prelude[..12], &packed]) != number(12) {
            return Ok(None);
        }
        let plain = zstd::bulk::decompress(&packed, HEAD_BYTES_MAX)?;
        let Ok(head) = postcard::from_bytes::<H>(&plain) else { return Ok(None) };
        self.at = body.end();
        Ok(Some((head, body)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn frames() -> Vec<u8> {
        let head = |batch| Head {
            batch,
            positions: vec![(Stream { pod: "p".into(), ..Stream::default() }, Position::default())],
            ..Head::default()
        };
        [encode(&head(1), b"one", 1), encode(&head(2), b"two", 1)].map(|frame| frame.expect("a frame")).concat()
    }

    fn read(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        let mut reader = Reader::new(&file).expect("a reader");
        let mut found = Vec::new();
        while let Some((head, body)) = reader.next::<Head>().expect("readable") {
            let Ok(body) = body.read(&file) else { break };
            found.push((head.batch, body));
        }
        found
    }

    #[test]
    fn frames_come_back() {
        assert_eq!(read(&frames()), [(1, b"one".to_vec()), (2, b"two".to_vec())]);
        assert_eq!(read(b""), []);
    }

    #[test]
    fn a_cut_or_a_changed_byte_takes_its_frame_away() {
        let whole = frames();
        let first = encode(
            &Head {
                batch: 1,
                positions: vec![(Stream { pod: "p".into(), ..Stream::default() }, Position::default())],
                ..Head::default()
            },
            b"one",
            1,
        )
        .expect("a frame")
        .len();
        for cut in 0..whole.len() {
            let expected = usize::from(cut >= first);
            assert_eq!(read(&whole[..cut]).len(), expected, "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            let expected = usize::from(at >= first);
            assert_eq!(read(&changed).len(), expected, "changed at {at}");
        }
    }
}
